/* SPDX-License-Identifier: MIT */
/* The two tables of a job: heads, a row each, and layers with their heads side by side. */
#include "clients/cli/top/view_internal.h"

#include "clients/cli/base/nearest.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDE 100 /* columns from which there is room for more than the most important */

/* A text instead of a table */

static void draw_lines(struct frame *frame, const char *const *lines)
{
    for (int i = 0; lines[i]; i++) {
        screen_put(frame->screen, frame->top + 1 + i, 2, frame->screen->width - 2, STYLE_PLAIN,
                   lines[i]);
    }
}

static void draw_nothing(struct frame *frame)
{
    const struct model *model = frame->model;
    char first[JOB_NAME_MAX + 96], hint[JOB_NAME_MAX + 64];
    if (!model->job_known) {
        snprintf(first, sizeof first,
                 "attnd knows no job '%s' yet. It is shown here as soon as it comes.", model->job);
        draw_lines(frame,
                   (const char *const[]){first, "", "J lists the jobs that attnd knows.", NULL});
        return;
    }
    snprintf(first, sizeof first, "%s has sent nothing that was measured yet.", model->job);
    snprintf(hint, sizeof hint, "attnctl plan get %s says what holds.", model->job);
    draw_lines(frame, (const char *const[]){
                          first, "It is asked to capture every 50th step by default:", hint, NULL});
}

static bool is_metric(const struct model *model, const char *name)
{
    for (uint32_t i = 0; i < model->metric_count; i++) {
        if (strcmp(model->metrics[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* A name that the job has no numbers of: said instead of the caption. Returns whether there is one.
 */
static bool draw_wrong_metric(struct frame *frame)
{
    const struct model *model = frame->model;
    bool sort = model->sort == SORT_METRIC && !is_metric(model, model->sort_metric);
    const char *name = sort ? model->sort_metric : model->metric;
    struct nearest nearest;
    if (model->metric_count == 0 || *name == '\0' || is_metric(model, name)) {
        return false;
    }
    nearest_init(&nearest, name);
    for (uint32_t i = 0; i < model->metric_count; i++) {
        nearest_try(&nearest, model->metrics[i]);
    }
    screen_print(frame->screen, 3, 1, frame->screen->width - 1, STYLE_WARNING,
                 "no metric '%s' here%s%s%s: %s chooses one", name,
                 nearest.best ? "; did you mean '" : "", nearest.best ? nearest.best : "",
                 nearest.best ? "'?" : "", sort ? "s" : "m");
    return true;
}

/* "entropy_normalized of the newest step, 12 of 144 heads, greatest first" */
static void view_heads_draw_caption(struct frame *frame, uint32_t shown, uint32_t all,
                                    const char *what)
{
    const struct model *model = frame->model;
    char order[MODEL_SORT_TEXT_MAX], counted[64];
    if (draw_wrong_metric(frame)) {
        return;
    }
    model_sort_text(model, order);
    if (shown == all) {
        snprintf(counted, sizeof counted, "%" PRIu32 " %s", all, what);
    } else {
        snprintf(counted, sizeof counted, "%" PRIu32 " of %" PRIu32 " %s", shown, all, what);
    }
    int used = screen_put(frame->screen, 3, 1, frame->screen->width - 1, STYLE_STRONG,
                          model->metric[0] != '\0' ? model->metric : "no metric");
    used += screen_print(frame->screen, 3, 1 + used, frame->screen->width, STYLE_PLAIN,
                         ", %s%s, %s", counted, model->cut ? " (there are more)" : "", order);
    if (model->ui.filter[0] != '\0' && !model->ui.typing) {
        screen_print(frame->screen, 3, 3 + used, frame->screen->width, STYLE_STRONG, "filter: %s",
                     model->ui.filter);
    }
}

static struct range range_of_all(const struct model *model)
{
    struct range range = range_none;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        for (uint32_t head = 0; head < model->layers[i].head_count; head++) {
            range_add(&range, model->layers[i].heads[head].value);
        }
    }
    return range;
}

/* As wide as the longest name, within reason. */
static int place_width(const struct model *model, bool heads)
{
    int width = 5;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        const struct layer *layer = &model->layers[i];
        char place[MODEL_PLACE_MAX];
        model_place(layer->stack, layer->layer, layer->site,
                    heads ? (int64_t)layer->head_count - 1 : -1, place);
        int length = (int)strlen(place);
        width = length > width ? length : width;
    }
    return width < 28 ? width : 28;
}

static void view_heads_put_number(struct frame *frame, int row, struct column column, double number)
{
    char text[VIEW_NUMBER_MAX];
    view_number(number, text);
    screen_put_right(frame->screen, row, column.at, column.width, STYLE_PLAIN, text);
}

static void put_z(struct frame *frame, int row, struct column column, double z)
{
    char text[VIEW_NUMBER_MAX];
    view_z(z, text);
    screen_put_right(frame->screen, row, column.at, column.width, view_z_style(z), text);
}

static void put_heading(struct frame *frame, struct column column, bool right, const char *text)
{
    if (column.width <= 0) {
        return;
    }
    if (right) {
        screen_put_right(frame->screen, frame->top, column.at, column.width, STYLE_STRONG, text);
    } else {
        screen_put(frame->screen, frame->top, column.at, column.width, STYLE_STRONG, text);
    }
}

/* Heads */

struct head_columns {
    struct column mark, place, now, by, mean, z, trend, pattern, alert;
    struct range range; /* of all heads, for colours */
};

static struct head_columns lay_out_heads(const struct frame *frame)
{
    const struct model *model = frame->model;
    struct head_columns columns = {.range = range_of_all(model)};
    int width = frame->screen->width, at = 1;
    bool wide = width >= WIDE;
    bool by = model->sort == SORT_METRIC && strcmp(model->sort_metric, model->metric) != 0;
    columns.mark = view_column(&at, 2);
    columns.place = view_column(&at, place_width(model, true));
    columns.now = view_column(&at, 8);
    columns.by = view_column(&at, by ? 8 : 0);
    columns.mean = view_column(&at, wide ? 8 : 0);
    columns.z = view_column(&at, 8);
    int left = width - at;
    int trend = wide ? left * 2 / 5 : left / 3;
    columns.trend = view_column(&at, trend < 60 ? trend : 60);
    columns.pattern = view_column(&at, wide ? 15 : 10);
    columns.alert = view_column(&at, width - at);
    return columns;
}

static void draw_head_alert(struct frame *frame, int row, const struct head_columns *columns,
                            const struct head *head)
{
    if (head->alert < 0) {
        return;
    }
    const struct alert *alert = &frame->model->alerts[head->alert];
    enum style style = view_severity_style(alert->severity);
    screen_put(frame->screen, row, columns->mark.at, columns->mark.width, style,
               view_mark(alert->severity));
    int used = screen_print(frame->screen, row, columns->alert.at, columns->alert.width, style,
                            head->alert_own ? "%s" : "(%s)", alert->rule);
    if (columns->alert.width - used > 20) {
        screen_print(frame->screen, row, columns->alert.at + used + 1,
                     columns->alert.width - used - 1, STYLE_PLAIN, "since step %" PRIu64 ": %s",
                     alert->since_step, alert->message);
    }
}

void page_heads(struct frame *frame)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.heads;
    if (model->layer_count == 0) {
        draw_nothing(frame);
        return;
    }
    struct head_columns columns = lay_out_heads(frame);
    view_settle(frame, list, model->row_count, frame->rows - 1);
    view_heads_draw_caption(frame, model->row_count, model->head_total, "heads");
    char span[VIEW_SPAN_MAX];
    view_trend_heading(frame->model, span);
    put_heading(frame, columns.place, false, "HEAD");
    put_heading(frame, columns.now, true, "NOW");
    put_heading(frame, columns.by, true, frame->model->sort_metric);
    put_heading(frame, columns.mean, true, "WINDOW");
    put_heading(frame, columns.z, true, "DRIFT z");
    put_heading(frame, columns.trend, false, span);
    put_heading(frame, columns.pattern, false, "PATTERN");
    put_heading(frame, columns.alert, false, "ALERT");
    for (uint32_t i = 0; i < model->ui.list_rows && list->top + i < model->row_count; i++) {
        int row = frame->top + 1 + (int)i;
        struct row which = model->rows[list->top + i];
        const struct layer *layer = &frame->model->layers[which.layer];
        const struct head *head = &layer->heads[which.head];
        char place[MODEL_PLACE_MAX];
        const double *trend;
        model_place(layer->stack, layer->layer, layer->site, which.head, place);
        screen_put(frame->screen, row, columns.place.at, columns.place.width, STYLE_PLAIN, place);
        view_heads_put_number(frame, row, columns.now, head->value);
        if (columns.by.width > 0) {
            view_heads_put_number(frame, row, columns.by, head->by);
        }
        if (columns.mean.width > 0) {
            view_heads_put_number(frame, row, columns.mean, head->mean);
        }
        put_z(frame, row, columns.z, head->z);
        uint32_t length = model_trend(frame->model, which.layer, which.head, &trend);
        bars_line(frame->screen, row, columns.trend.at, columns.trend.width, trend, length,
                  range_of(trend, length), (struct bars_color){true, columns.range});
        /* "previous_token" is "previous" where there is little room. */
        const char *suffix = strstr(head->pattern, "_token");
        int pattern_length = suffix && (int)strlen(head->pattern) > columns.pattern.width
                                 ? (int)(suffix - head->pattern)
                                 : 64;
        screen_print(frame->screen, row, columns.pattern.at, columns.pattern.width, STYLE_FAINT,
                     "%.*s", pattern_length, head->pattern);
        draw_head_alert(frame, row, &columns, head);
        if (list->top + i == list->at) {
            screen_choose_row(frame->screen, row);
        }
    }
    if (model->row_count == 0) {
        screen_put(frame->screen, frame->top + 1, 2, frame->screen->width - 2, STYLE_PLAIN,
                   "no head passes the filter; Esc ends it");
    }
}

/* Layers */

struct layer_columns {
    struct column mark, place, mean, least, greatest, heads, trend, z, alert;
    struct range range;
};

static uint32_t most_heads(const struct model *model)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        most = model->layers[i].head_count > most ? model->layers[i].head_count : most;
    }
    return most;
}

static struct layer_columns lay_out_layers(const struct frame *frame)
{
    struct layer_columns columns = {.range = range_of_all(frame->model)};
    int width = frame->screen->width, at = 1;
    bool wide = width >= WIDE;
    int heads = (int)most_heads(frame->model), room = wide ? width / 3 : width / 5;
    columns.mark = view_column(&at, 2);
    columns.place = view_column(&at, place_width(frame->model, false));
    columns.mean = view_column(&at, 8);
    columns.least = view_column(&at, wide ? 8 : 0);
    columns.greatest = view_column(&at, wide ? 8 : 0);
    columns.heads = view_column(&at, heads < room ? (heads > 5 ? heads : 5) : room);
    columns.z = view_column(&at, 8);
    int left = width - at, trend = wide ? left / 2 : left * 2 / 5;
    columns.trend = view_column(&at, trend < 60 ? trend : 60);
    columns.alert = view_column(&at, width - at);
    return columns;
}

static void draw_layer_alert(struct frame *frame, int row, const struct layer_columns *columns,
                             const struct layer *layer)
{
    if (layer->alert < 0) {
        return;
    }
    const struct alert *alert = &frame->model->alerts[layer->alert];
    enum style style = view_severity_style(alert->severity);
    screen_put(frame->screen, row, columns->mark.at, columns->mark.width, style,
               view_mark(alert->severity));
    screen_print(frame->screen, row, columns->alert.at, columns->alert.width, style,
                 "%" PRIu32 ": %s", layer->alerts, alert->rule);
}

void page_layers(struct frame *frame)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.layers;
    if (model->layer_count == 0) {
        draw_nothing(frame);
        return;
    }
    struct layer_columns columns = lay_out_layers(frame);
    view_settle(frame, list, model->layer_row_count, frame->rows - 1);
    view_heads_draw_caption(frame, model->layer_row_count, model->layer_count, "layers");
    char span[VIEW_SPAN_MAX];
    view_trend_heading(frame->model, span);
    put_heading(frame, columns.place, false, "LAYER");
    put_heading(frame, columns.mean, true, "MEAN");
    put_heading(frame, columns.least, true, "LEAST");
    put_heading(frame, columns.greatest, true, "GREATEST");
    put_heading(frame, columns.heads, false, "HEADS");
    put_heading(frame, columns.z, true, "DRIFT z");
    put_heading(frame, columns.trend, false, span);
    put_heading(frame, columns.alert, false, "ALERTS");
    for (uint32_t i = 0; i < model->ui.list_rows && list->top + i < model->layer_row_count; i++) {
        int row = frame->top + 1 + (int)i;
        uint32_t index = model->layer_rows[list->top + i];
        const struct layer *layer = &frame->model->layers[index];
        struct spread spread = model_spread(layer);
        double trend[MODEL_PAST_MAX];
        char place[MODEL_PLACE_MAX];
        model_place(layer->stack, layer->layer, layer->site, -1, place);
        screen_put(frame->screen, row, columns.place.at, columns.place.width, STYLE_PLAIN, place);
        view_heads_put_number(frame, row, columns.mean, spread.mean);
        if (columns.least.width > 0) {
            view_heads_put_number(frame, row, columns.least, spread.least);
            view_heads_put_number(frame, row, columns.greatest, spread.greatest);
        }
        /* The heads side by side, on the scale of all layers. */
        double values[256];
        uint32_t count = layer->head_count;
        uint32_t shown = count < 256 ? count : 256;
        for (uint32_t j = 0; j < shown; j++) {
            values[j] = layer->heads[(uint64_t)j * count / shown].value;
        }
        bars_line(frame->screen, row, columns.heads.at, columns.heads.width, values, shown,
                  columns.range, (struct bars_color){true, columns.range});
        put_z(frame, row, columns.z, model_layer_z(layer));
        uint32_t length = model_layer_trend(frame->model, index, trend);
        bars_line(frame->screen, row, columns.trend.at, columns.trend.width, trend, length,
                  range_of(trend, length), (struct bars_color){true, columns.range});
        draw_layer_alert(frame, row, &columns, layer);
        if (list->top + i == list->at) {
            screen_choose_row(frame->screen, row);
        }
    }
}
