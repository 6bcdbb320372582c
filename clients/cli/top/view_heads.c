/* SPDX-License-Identifier: MIT */
/* The two tables of a job: heads, a row each, and layers with their heads side by side. */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/unknown.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WIDE 100 /* columns from which there is room for more than the most important */

/* A text instead of a table */

static void draw_lines(struct view_frame *frame, const char *const *lines)
{
    for (int i = 0; lines[i]; i++) {
        screen_put(frame->screen, frame->top + 1 + i, 2, frame->screen->width - 2, STYLE_PLAIN,
                   lines[i]);
    }
}

static void draw_nothing(struct view_frame *frame)
{
    const struct model *model = frame->model;
    char first[JOB_NAME_MAX + 96], hint[JOB_NAME_MAX + 64];
    if (!model->health.known) {
        return; /* attnd has not said anything */
    }
    if (!model->job_known) {
        snprintf(first, sizeof first,
                 "attnd knows no job '%s' yet. It is shown here as soon as it comes.", model->job);
        draw_lines(frame,
                   (const char *const[]){first, "", "J lists the jobs that attnd knows.", NULL});
        return;
    }
    if (model->hub) {
        draw_lines(frame, (const char *const[]){"No window of all nodes yet.", "",
                                                "attnctl fleet says for whom it waits.", NULL});
        return;
    }
    snprintf(first, sizeof first, "%s has sent nothing that was measured yet.", model->job);
    snprintf(hint, sizeof hint, "attnctl plan get %s says what holds.", model->job);
    draw_lines(frame, (const char *const[]){
                          first, "It is asked to capture every 50th step by default:", hint, NULL});
}

/* Says, instead of the caption, a name that the job has no numbers of. Returns whether it did. */
static bool draw_wrong_metric(struct view_frame *frame)
{
    const struct model *model = frame->model;
    bool sort = model->sort == SORT_METRIC && !model_has_metric(model, model->sort_metric);
    const char *name = sort ? model->sort_metric : model->metric;
    struct nearest nearest;
    if (model->metric_count == 0 || *name == '\0' || model_has_metric(model, name)) {
        return false;
    }
    nearest_init(&nearest, name);
    for (uint32_t i = 0; i < model->metric_count; i++) {
        nearest_try(&nearest, model->metrics[i]);
    }
    screen_print(frame->screen, frame->top - 1, 1, frame->screen->width - 1, STYLE_WARNING,
                 "no metric '%s' here%s%s%s: %s chooses one", name,
                 nearest.best ? "; did you mean '" : "", nearest.best ? nearest.best : "",
                 nearest.best ? "'?" : "", sort ? "s" : "m");
    return true;
}

/* "entropy_normalized of step 30, 12 of 144 heads, greatest first"; the step where the header has
 * another one, of a newer message without numbers. */
static void view_heads_draw_caption(struct view_frame *frame, uint32_t shown, uint32_t all,
                                    const char *what, const struct layer *chosen)
{
    const struct model *model = frame->model;
    char order[MODEL_SORT_TEXT_MAX], counted[64], step[32] = "";
    if (draw_wrong_metric(frame)) {
        return;
    }
    model_sort_text(model, order);
    if (shown == all) {
        snprintf(counted, sizeof counted, "%" PRIu32 " %s", all, what);
    } else {
        snprintf(counted, sizeof counted, "%" PRIu32 " of %" PRIu32 " %s", shown, all, what);
    }
    if (model->seen_count > 0 && model->seen_step != model->entry.step) {
        snprintf(step, sizeof step, " of step %" PRIu64, model->seen_step);
    }
    int used = screen_put(frame->screen, frame->top - 1, 1, frame->screen->width - 1, STYLE_STRONG,
                          model->metric[0] != '\0' ? model->metric : "no metric");
    used +=
        screen_print(frame->screen, frame->top - 1, 1 + used, frame->screen->width, STYLE_PLAIN,
                     "%s, %s%s, %s", step, counted, model->cut ? " (there are more)" : "", order);
    if (model->ui.filter[0] != '\0' && !model->ui.typing) {
        used += 2 + screen_print(frame->screen, frame->top - 1, 3 + used, frame->screen->width,
                                 STYLE_STRONG, "filter: %s", model->ui.filter);
    }
    view_put_module(frame, used, chosen);
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
        model_place(&layer->place, heads ? (int64_t)layer->head_count - 1 : -1, place);
        int length = (int)strlen(place);
        width = length > width ? length : width;
    }
    return width < 28 ? width : 28;
}

/* Heads */

static void draw_head(struct view_frame *frame, int row, const struct column *column,
                      struct list_row which, struct range range)
{
    const struct layer *layer = &frame->model->layers[which.layer];
    const struct head *head = &layer->heads[which.head];
    char place[MODEL_PLACE_MAX];
    const double *trend;
    model_place(&layer->place, which.head, place);
    enum severity severity = head->severity;
    view_cell(frame, row, column++, view_severity_style(severity), "%s", view_mark(severity));
    view_cell(frame, row, column++, STYLE_PLAIN, "%s", place);
    view_cell_number(frame, row, column++, head->value);
    view_cell_number(frame, row, column++, head->by);
    view_cell_number(frame, row, column++, head->mean);
    view_cell_shift(frame, row, column++, head->shift);
    uint32_t length = model_trend(frame->model, which.layer, which.head, &trend);
    view_cell_trend(frame, row, column++, trend, length, range);
    /* "previous_token" is "previous" where there is little room. */
    const char *suffix = strstr(head->pattern, "_token");
    bool cut = suffix && (int)strlen(head->pattern) > column->width;
    view_cell(frame, row, column++, STYLE_FAINT, "%.*s", cut ? (int)(suffix - head->pattern) : 64,
              head->pattern);
    if (severity != SEVERITY_NONE) {
        view_cell(frame, row, column, view_severity_style(severity), "%s since step %" PRIu64,
                  head->rule, head->since_step);
    }
}

void page_heads(struct view_frame *frame)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.heads;
    char span[VIEW_SPAN_MAX];
    if (model->layer_count == 0) {
        draw_nothing(frame);
        return;
    }
    int width = frame->screen->width;
    bool wide = width >= WIDE;
    bool by = model->sort == SORT_METRIC && strcmp(model->sort_metric, model->metric) != 0;
    struct columns columns = {.at = 1};
    view_trend_heading(model, span);
    view_column(&columns, 2, false, "");
    view_column(&columns, place_width(model, true), false, "HEAD");
    view_column(&columns, 8, true, "NOW");
    view_column(&columns, by ? 8 : 0, true, model->sort_metric);
    view_column(&columns, wide ? 8 : 0, true, "WINDOW");
    view_column(&columns, 8, true, "SHIFT");
    int left = width - columns.at, trend = wide ? left * 2 / 5 : left / 3;
    view_column(&columns, trend < 60 ? trend : 60, false, span);
    view_column(&columns, wide ? 15 : 10, false, "PATTERN");
    view_column(&columns, width - columns.at, false, "ALERT");
    view_settle(frame, list, model->row_count, frame->rows - 1);
    view_heads_draw_caption(frame, model->row_count, model->head_total, "heads",
                            model->row_count ? &model->layers[model->rows[list->at].layer] : NULL);
    view_headings(frame, frame->top, &columns);
    struct range range = range_of_all(model);
    for (uint32_t i = list->top; i < view_list_end(frame, list, model->row_count); i++) {
        draw_head(frame, frame->top + 1 + (int)(i - list->top), columns.list, model->rows[i],
                  range);
    }
    view_choose(frame, list, model->row_count, frame->top + 1);
    if (model->row_count == 0) {
        screen_put(frame->screen, frame->top + 1, 2, frame->screen->width - 2, STYLE_PLAIN,
                   "no head passes the filter; Esc ends it");
    }
}

/* Layers */

static void draw_layer(struct view_frame *frame, int row, const struct column *column,
                       uint32_t index, struct range range)
{
    const struct layer *layer = &frame->model->layers[index];
    struct layer_spread spread = model_spread(layer);
    double trend[MODEL_PAST_MAX], values[256];
    uint32_t count = layer->head_count, shown = count < 256 ? count : 256;
    char place[MODEL_PLACE_MAX];
    model_place(&layer->place, -1, place);
    enum severity severity = layer->severity;
    view_cell(frame, row, column++, view_severity_style(severity), "%s", view_mark(severity));
    view_cell(frame, row, column++, STYLE_PLAIN, "%s", place);
    view_cell_number(frame, row, column++, spread.mean);
    view_cell_number(frame, row, column++, spread.least);
    view_cell_number(frame, row, column++, spread.greatest);
    for (uint32_t i = 0; i < shown; i++) {
        values[i] = layer->heads[(uint64_t)i * count / shown].value;
    }
    /* The heads side by side, on the scale of all layers. */
    bars_line(frame->screen, row, column->at, column->width, values, shown, range,
              (struct bars_color){true, range});
    column++;
    view_cell_shift(frame, row, column++, model_layer_shift(layer));
    uint32_t length = model_layer_trend(frame->model, index, trend);
    view_cell_trend(frame, row, column++, trend, length, range);
    if (layer->firing > 0) {
        view_cell(frame, row, column, view_severity_style(severity), "%" PRIu32 ": %s",
                  layer->firing, layer->rule);
    }
}

void page_layers(struct view_frame *frame)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.layers;
    char span[VIEW_SPAN_MAX];
    if (model->layer_count == 0) {
        draw_nothing(frame);
        return;
    }
    int width = frame->screen->width, heads = 5;
    bool wide = width >= WIDE;
    struct columns columns = {.at = 1};
    for (uint32_t i = 0; i < model->layer_count; i++) {
        int count = (int)model->layers[i].head_count;
        heads = count > heads ? count : heads;
    }
    int room = wide ? width / 3 : width / 5;
    view_trend_heading(model, span);
    view_column(&columns, 2, false, "");
    view_column(&columns, place_width(model, false), false, "LAYER");
    view_column(&columns, 8, true, "MEAN");
    view_column(&columns, wide ? 8 : 0, true, "LEAST");
    view_column(&columns, wide ? 8 : 0, true, "GREATEST");
    view_column(&columns, heads < room ? heads : room, false, "HEADS");
    view_column(&columns, 8, true, "SHIFT");
    int left = width - columns.at, trend = wide ? left / 2 : left * 2 / 5;
    view_column(&columns, trend < 60 ? trend : 60, false, span);
    view_column(&columns, width - columns.at, false, "ALERT");
    view_settle(frame, list, model->layer_row_count, frame->rows - 1);
    view_heads_draw_caption(frame, model->layer_row_count, model->layer_count, "layers",
                            model->layer_row_count ? &model->layers[model->layer_rows[list->at]]
                                                   : NULL);
    view_headings(frame, frame->top, &columns);
    struct range range = range_of_all(model);
    for (uint32_t i = list->top; i < view_list_end(frame, list, model->layer_row_count); i++) {
        draw_layer(frame, frame->top + 1 + (int)(i - list->top), columns.list, model->layer_rows[i],
                   range);
    }
    view_choose(frame, list, model->layer_row_count, frame->top + 1);
}
