/* SPDX-License-Identifier: MIT */
/* view_internal: shared by the parts of view. A page draws the rows from `top` on, `rows` of them.
 */
#ifndef CLIENTS_CLI_TOP_VIEW_INTERNAL_H
#define CLIENTS_CLI_TOP_VIEW_INTERNAL_H

#include "clients/cli/top/view.h"

struct frame {
    struct model *model;
    struct screen *screen;
    int top, rows;
};

void page_jobs(struct frame *frame);
void page_heads(struct frame *frame);
void page_layers(struct frame *frame);
void page_head(struct frame *frame);
void page_alerts(struct frame *frame);

/* On top of a page. */
void view_help(struct frame *frame);
void view_picker(struct frame *frame);

/* A number in at most eight columns: four decimals where they say something; "-" for none. */
#define VIEW_NUMBER_MAX 16
void view_number(double number, char ret_text[VIEW_NUMBER_MAX]);
/* Standard deviations, with their sign; "*" before those that are marked. */
void view_z(double z, char ret_text[VIEW_NUMBER_MAX]);
enum style view_z_style(double z);

/* The mark of an alert: "!!", "!", "i"; and its style. */
const char *view_mark(enum severity severity);
enum style view_severity_style(enum severity severity);

/* The heading of trends: "EPOCHS 1-12". */
#define VIEW_SPAN_MAX 64
void view_span(const struct past *past, char ret_text[VIEW_SPAN_MAX]);
void view_trend_heading(const struct model *model, char ret_text[VIEW_SPAN_MAX]);

/* Settles a list that has `rows` rows and remembers how many that are. */
void view_settle(struct frame *frame, struct list *list, uint32_t count, int rows);

/* A column of a table: where it begins and how wide it is; 0 = it is not shown. */
struct column {
    int at, width;
};
/* Gives the column `width` and moves on to where the next one begins. */
struct column view_column(int *at, int width);

#endif
