/* SPDX-License-Identifier: MIT */
/* One head: a chart of the chosen metric with marks where alerts began, what fires, and all metrics
 * below. */
#include "clients/cli/top/internal.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define AXIS       9 /* columns of the numbers beside the chart */
#define ALERTS_MAX 3 /* lines of alerts at most */

static bool is_here(const struct detail *detail, const struct alert *alert)
{
    return alert->has_layer && alert->layer == detail->layer &&
           strcmp(alert->stack, detail->stack) == 0 && strcmp(alert->site, detail->site) == 0 &&
           (alert->head < 0 || alert->head == (int64_t)detail->head);
}

/* The chart */

/* The first window that holds the step, or one after it; -1 = it came after all of them. */
static int64_t window_of_step(const struct past *windows, uint64_t step)
{
    for (uint32_t i = 0; i < windows->count; i++) {
        if (windows->step[i] >= step) {
            return i;
        }
    }
    return -1;
}

static void mark_window(struct frame *frame, const struct past *windows, int row, int64_t window,
                        enum style style, const char *mark)
{
    int room = frame->screen->width - AXIS - 3;
    if (window >= 0) {
        screen_put(frame->screen, row,
                   AXIS + 2 + bars_column(windows->count, room, (uint32_t)window), 2, style, mark);
    }
}

/* Returns the rows that it took. */
static int draw_chart(struct frame *frame, const struct detail_metric *metric, int height)
{
    char span[VIEW_SPAN_MAX];
    struct range range = range_of(metric->past, metric->windows.count);
    int room = frame->screen->width - AXIS - 3;
    view_span(&metric->windows, span);
    if (metric->windows.count == 0) {
        screen_print(frame->screen, frame->top + height / 2, AXIS + 2, room, STYLE_FAINT, "%s",
                     frame->model->refusal[0] != '\0' ? frame->model->refusal
                                                      : "no window of it is in the history yet");
        return height + 1;
    }
    bars_chart(frame->screen, frame->top, AXIS + 2, room, height, metric->past,
               metric->windows.count, range);
    char text[VIEW_NUMBER_MAX];
    view_number(range.greatest, text);
    screen_put_right(frame->screen, frame->top, 1, AXIS, STYLE_FAINT, text);
    view_number(range.least, text);
    screen_put_right(frame->screen, frame->top + height - 1, 1, AXIS, STYLE_FAINT, text);
    /* Below the chart: where what it shows changed for good, and where alerts began. */
    int row = frame->top + height;
    const struct model *model = frame->model;
    for (uint32_t i = 0; i < metric->windows.count && !isnan(metric->change); i++) {
        if ((double)metric->windows.last[i] >= metric->change) {
            mark_window(frame, &metric->windows, row, i, STYLE_INFO,
                        frame->screen->unicode ? "▲" : "^");
            break;
        }
    }
    for (uint32_t i = model->alert_count; i > 0; i--) {
        const struct alert *alert = &model->alerts[i - 1];
        if (is_here(&model->detail, alert)) {
            mark_window(frame, &metric->windows, row,
                        window_of_step(&metric->windows, alert->since_step),
                        view_severity_style(alert->severity), view_mark(alert->severity));
        }
    }
    for (char *letter = span; *letter; letter++) {
        *letter = (char)tolower((unsigned char)*letter);
    }
    screen_print(frame->screen, frame->top + height + 1, AXIS + 2, room, STYLE_FAINT,
                 "mean of %s over %s", metric->name, span);
    return height + 2;
}

/* Alerts; returns the rows. */
static int draw_alerts(struct frame *frame, int row, int rows)
{
    int used = 0;
    for (uint32_t i = 0; i < frame->model->alert_count && used < rows; i++) {
        const struct alert *alert = &frame->model->alerts[i];
        if (!is_here(&frame->model->detail, alert)) {
            continue;
        }
        enum style style = alert->firing ? view_severity_style(alert->severity) : STYLE_FAINT;
        screen_put(frame->screen, row + used, 1, 2, style, view_mark(alert->severity));
        screen_print(frame->screen, row + used, 4, frame->screen->width - 5, style,
                     "%s%s since step %" PRIu64 ": %s", alert->rule, alert->firing ? "" : " (over)",
                     alert->since_step, alert->message);
        used++;
    }
    return used;
}

/* Metrics */

enum {
    METRIC_COLUMN,
    NOW_COLUMN,
    MEAN_COLUMN,
    Z_COLUMN,
    JS_COLUMN,
    CHANGE_COLUMN,
    TREND_COLUMN,
    COLUMNS
};

static void draw_metrics(struct frame *frame, int row, int rows)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.metrics;
    int at = 2, width = frame->screen->width;
    struct column columns[COLUMNS];
    columns[METRIC_COLUMN] = view_column(&at, width >= 100 ? 26 : 24, false, "METRIC");
    columns[NOW_COLUMN] = view_column(&at, 8, true, "NOW");
    columns[MEAN_COLUMN] = view_column(&at, 8, true, "WINDOW");
    columns[Z_COLUMN] = view_column(&at, 8, true, "DRIFT z");
    columns[JS_COLUMN] = view_column(&at, width >= 90 ? 7 : 0, true, "JS");
    columns[CHANGE_COLUMN] = view_column(&at, 8, true, "CHANGED");
    columns[TREND_COLUMN] =
        view_column(&at, width - at - 1 < 80 ? width - at - 1 : 80, false, "TREND");
    view_settle(frame, list, model->detail.count, rows - 1);
    view_headings(frame, row, columns, COLUMNS);
    for (uint32_t i = list->top; i < view_list_end(frame, list, model->detail.count); i++) {
        int line = row + 1 + (int)(i - list->top);
        const struct detail_metric *metric = &model->detail.metrics[i];
        view_cell(frame, line, &columns[METRIC_COLUMN], STYLE_PLAIN, "%s", metric->name);
        view_cell_number(frame, line, &columns[NOW_COLUMN], metric->now);
        view_cell_number(frame, line, &columns[MEAN_COLUMN], metric->mean);
        view_cell_z(frame, line, &columns[Z_COLUMN], metric->z);
        view_cell_number(frame, line, &columns[JS_COLUMN], metric->js);
        view_cell(frame, line, &columns[CHANGE_COLUMN], STYLE_PLAIN,
                  isnan(metric->change) ? "-" : "%.0f", metric->change);
        view_cell_trend(frame, line, &columns[TREND_COLUMN], metric->past, metric->windows.count,
                        range_of(metric->past, metric->windows.count));
    }
    view_choose(frame, list, model->detail.count, row + 1);
}

void page_head(struct frame *frame)
{
    struct model *model = frame->model;
    int height = frame->rows / 4 < 10 ? frame->rows / 4 : 10, used = 0;
    if (model->ui.metrics.at >= model->detail.count) {
        model->ui.metrics.at = model->detail.count > 0 ? model->detail.count - 1 : 0;
    }
    const struct detail *detail = &frame->model->detail;
    char place[MODEL_PLACE_MAX];
    model_place(detail->stack, detail->layer, detail->site, detail->head, place);
    int caption_used =
        screen_put(frame->screen, 3, 1, frame->screen->width - 1, STYLE_STRONG, place);
    screen_print(frame->screen, 3, 1 + caption_used, frame->screen->width, STYLE_PLAIN,
                 "%s%s, epoch %" PRIu64 " step %" PRIu64 ", %" PRIu64 " rows, %" PRIu64 " invalid",
                 detail->pattern[0] != '\0' ? ", " : "", detail->pattern, detail->epoch,
                 detail->step, detail->rows, detail->invalid_rows);
    if (model->detail.count == 0) {
        screen_put(frame->screen, frame->top + 1, 2, frame->screen->width, STYLE_FAINT,
                   "asking attnd about this head");
        return;
    }
    if (height >= 2) {
        used = draw_chart(frame, &model->detail.metrics[model->ui.metrics.at], height);
    }
    if (frame->rows - used > 6) {
        used += draw_alerts(frame, frame->top + used, ALERTS_MAX);
    }
    draw_metrics(frame, frame->top + used, frame->rows - used);
}
