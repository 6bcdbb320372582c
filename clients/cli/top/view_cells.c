/* SPDX-License-Identifier: MIT */
/* Parts of pages and lists: numbers as texts, columns, cells. */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Far from the baseline: 30 % of the natural range or more (attnctl summary --drift marks the
 * same). */
#define SHIFT_MARKED 6

/* Texts */

void view_number(double number, char ret_text[VIEW_NUMBER_MAX])
{
    double size = fabs(number);
    if (isnan(number)) {
        snprintf(ret_text, VIEW_NUMBER_MAX, "-");
    } else if (size != 0 && (size < 0.0005 || size >= 99999.5)) {
        snprintf(ret_text, VIEW_NUMBER_MAX, "%.1e", number);
    } else {
        snprintf(ret_text, VIEW_NUMBER_MAX, "%.*f",
                 size < 10     ? 4
                 : size < 100  ? 3
                 : size < 1000 ? 2
                               : 1,
                 number);
    }
}

void view_shift(double shift, char ret_text[VIEW_NUMBER_MAX])
{
    if (isnan(shift)) {
        snprintf(ret_text, VIEW_NUMBER_MAX, "-");
    } else {
        snprintf(ret_text, VIEW_NUMBER_MAX, fabs(shift) < 9999.5 ? "%s%+.1f" : "%s%+.0e",
                 fabs(shift) >= SHIFT_MARKED ? "*" : "", shift);
    }
}

const char *view_mark(enum severity severity)
{
    static const char *const marks[] = {"", "i", "!", "!!"};
    return marks[severity];
}

enum style view_severity_style(enum severity severity)
{
    static const enum style styles[] = {STYLE_PLAIN, STYLE_INFO, STYLE_WARNING, STYLE_CRITICAL};
    return styles[severity];
}

void view_span(const struct past *past, char ret_text[VIEW_SPAN_MAX])
{
    const char *unit = strcmp(past->unit, "epoch") == 0    ? "EPOCH"
                       : strcmp(past->unit, "second") == 0 ? "SECOND"
                                                           : "STEP";
    if (past->count == 0) {
        snprintf(ret_text, VIEW_SPAN_MAX, "TREND");
    } else {
        snprintf(ret_text, VIEW_SPAN_MAX, "%sS %" PRIu64 "-%" PRIu64, unit, past->last[0],
                 past->last[past->count - 1]);
    }
}

void view_trend_heading(const struct model *model, char ret_text[VIEW_SPAN_MAX])
{
    if (model_trend_is_seen(model)) {
        snprintf(ret_text, VIEW_SPAN_MAX, "SEEN SO FAR");
    } else {
        view_span(&model->past, ret_text);
    }
}

void view_column(struct columns *columns, int width, bool right, const char *title)
{
    columns->list[columns->count++] = (struct column){columns->at, width, right, title};
    columns->at += width > 0 ? width + 1 : 0;
}

int view_cell(struct view_frame *frame, int row, const struct column *column, enum style style,
              const char *format, ...)
{
    char text[1024];
    va_list args;
    if (column->width <= 0) {
        return 0;
    }
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return (column->right ? screen_put_right : screen_put)(frame->screen, row, column->at,
                                                           column->width, style, text);
}

void view_headings(struct view_frame *frame, int row, const struct columns *columns)
{
    for (int i = 0; i < columns->count; i++) {
        view_cell(frame, row, &columns->list[i], STYLE_STRONG, "%s", columns->list[i].title);
    }
}

void view_cell_number(struct view_frame *frame, int row, const struct column *column, double number)
{
    char text[VIEW_NUMBER_MAX];
    view_number(number, text);
    view_cell(frame, row, column, STYLE_PLAIN, "%s", text);
}

void view_cell_shift(struct view_frame *frame, int row, const struct column *column, double shift)
{
    char text[VIEW_NUMBER_MAX];
    view_shift(shift, text);
    view_cell(frame, row, column, fabs(shift) >= SHIFT_MARKED ? STYLE_WARNING : STYLE_PLAIN, "%s",
              text);
}

void view_cell_trend(struct view_frame *frame, int row, const struct column *column,
                     const double *values, uint32_t count, struct range range)
{
    bars_line(frame->screen, row, column->at, column->width, values, count, range_of(values, count),
              (struct bars_color){true, range});
}

uint32_t view_list_end(const struct view_frame *frame, const struct list *list, uint32_t count)
{
    uint32_t rows = frame->model->ui.list_rows;
    return count - list->top < rows ? count : list->top + rows;
}

void view_choose(struct view_frame *frame, const struct list *list, uint32_t count, int first)
{
    if (list->at < view_list_end(frame, list, count)) {
        screen_choose_row(frame->screen, first + (int)(list->at - list->top));
    }
}

void view_put_module(struct view_frame *frame, int used, const struct layer *layer)
{
    char module[MODULE_MAX + 1];
    int room = frame->screen->width - used - 4;
    if (!layer || !layer->module[0] || room < 16) {
        return;
    }
    strcpy(module, layer->module);
    out_shorten(module, (size_t)room);
    screen_put_right(frame->screen, frame->top - 1, used + 3, room, STYLE_FAINT, module);
}

void view_settle(struct view_frame *frame, struct list *list, uint32_t count, int rows)
{
    frame->model->ui.list_rows = rows > 0 ? (uint32_t)rows : 0;
    list_settle(list, count, frame->model->ui.list_rows);
}
