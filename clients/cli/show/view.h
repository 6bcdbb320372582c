/* SPDX-License-Identifier: MIT */
/* view: the parts of what attnctl show prints, each a function. One thread. */
#ifndef CLIENTS_CLI_SHOW_VIEW_H
#define CLIENTS_CLI_SHOW_VIEW_H

#include "clients/cli/show/measure.h"
#include "clients/cli/show/screen.h"
#include "clients/cli/show/token.h"

struct view {
    struct screen screen;
    struct source *source;
    const char *origin; /* a file's path, or a job, fit for the screen */
    const struct source_layer *layer;
    char name[PLACE_TEXT_MAX]; /* the layer's */
    const struct show_request *request;
    const struct findings *found;
};

/* Describes the numbers, and whether rows sum to 1. */
void view_report(const struct view *view);
/* The map in shades or colours. view_plan is asked before the map is measured: of how many cells
 * the picture may be. */
void view_plan(const struct view *view, uint32_t *ret_rows, uint32_t *ret_columns);
void view_map(const struct view *view);
/* The keys that the query attends to, as bars. */
void view_token(const struct view *view);
/* The query's first keys in each head. */
void view_heads(const struct view *view);
/* The largest entries of the map. */
void view_pairs(const struct view *view);
/* Everything but the picture, as JSON. Returns an exit code. */
int view_json(const struct view *view, struct cli *cli);

/* The common part ------------------------------------------------------------------------------ */

/* "12", of a pooled cell "12-15". */
#define SPOT_MAX 24
void view_query_spot(const struct view *view, uint32_t row, char ret_text[SPOT_MAX]);
void view_key_spot(const struct view *view, uint32_t column, char ret_text[SPOT_MAX]);
/* The token's text, NULL when there is none or the cell is pooled. */
const char *view_query_label(const struct view *view, uint32_t row);
const char *view_key_label(const struct view *view, uint32_t column);
/* Columns of the widest key's label, at most `most`; 0 without labels. */
int view_label_width(const struct view *view, int most);
/* Prints the label in exactly `width` columns; nothing when that is 0. */
void view_put_label(const struct view *view, const char *label, int width);
/* "head 3", "the mean over 12 heads". */
void view_head_text(const struct view *view, char ret_text[48]);
/* "query 5 'mat'". */
#define QUERY_TEXT_MAX (SPOT_MAX + TOKEN_FIT_BYTES + 16)
void view_query_text(const struct view *view, char ret_text[QUERY_TEXT_MAX]);

#endif
