/* SPDX-License-Identifier: MIT */
/* Jobs, what needs attention, and what lies on top of a page: keys, and lists to choose from. */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/out.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Jobs */

static void draw_job(struct view_frame *frame, int row, const struct column *column,
                     const struct job_entry *job)
{
    char name[JOB_NAME_MAX + 1];
    const uint64_t numbers[] = {job->epoch, job->step,    0,          job->received,
                                job->lost,  job->dropped, job->firing};
    snprintf(name, sizeof name, "%s", job->job);
    if (column->width >= 4) {
        out_shorten(name, (size_t)column->width);
    }
    view_cell(frame, row, column++, STYLE_PLAIN, "%s", name);
    view_cell(frame, row, column++, STYLE_FAINT, "%.8s", job->run);
    view_cell(frame, row, column++, STYLE_PLAIN, "%s", job->state);
    for (int i = 0; i < 7; i++) {
        view_cell(frame, row, column++, STYLE_PLAIN, i == 2 ? "%" PRIu64 "/%" PRIu64 : "%" PRIu64,
                  i == 2 ? job->ranks : numbers[i], job->world);
    }
}

void page_jobs(struct view_frame *frame)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.jobs;
    struct columns columns = {.at = 2};
    view_settle(frame, list, model->job_count, frame->rows - 1);
    if (model->job_count == 0) {
        if (model->health.known) {
            /* The same words as on the page. */
            static const char *const lines[] = {
                "No job yet. Attach one to a training loop:",
                "",
                "    import attnd",
                "",
                "    with attnd.watch(model, job=\"gpt-small\"):",
                "        train()",
                "",
                "It appears here with its first captured step.",
            };
            for (int i = 0; i < (int)(sizeof lines / sizeof lines[0]) && i < frame->rows; i++) {
                screen_put(frame->screen, frame->top + i, 2, frame->screen->width - 2, STYLE_PLAIN,
                           lines[i]);
            }
        }
        return;
    }
    screen_print(frame->screen, 3, 1, frame->screen->width - 1, STYLE_PLAIN,
                 "%" PRIu32 " job%s, newest run of each%s", model->job_count,
                 out_plural(model->job_count), model->jobs_left_out > 0 ? " (there are more)" : "");
    static const int widths[] = {0, 8, 6, 5, 8, 6, 8, 6, 7, 6};
    static const char *const names[] = {"JOB",   "RUN",      "STATE", "EPOCH",   "STEP",
                                        "RANKS", "RECEIVED", "LOST",  "DROPPED", "ALERTS"};
    int count = sizeof widths / sizeof widths[0], name = frame->screen->width - 3;
    for (int i = 1; i < count; i++) {
        name -= widths[i] + 1;
    }
    for (int i = 0; i < count; i++) {
        int width = name < 40 ? name : 40;
        view_column(&columns, i > 0 ? widths[i] : width, i >= 3, names[i]);
    }
    view_headings(frame, frame->top, &columns);
    for (uint32_t i = list->top; i < view_list_end(frame, list, model->job_count); i++) {
        draw_job(frame, frame->top + 1 + (int)(i - list->top), columns.list, &model->jobs[i]);
    }
    view_choose(frame, list, model->job_count, frame->top + 1);
}

/* Trouble */

/* A sentence, over at most two rows; returns how many. */
static int draw_sentence(struct view_frame *frame, int row, enum style style, const char *text)
{
    size_t width = (size_t)frame->screen->width - 2, cut = strlen(text);
    if (cut > width) {
        cut = width;
        while (cut > width / 2 && text[cut] != ' ') {
            cut--;
        }
    }
    screen_print(frame->screen, row, 1, (int)width, style, "%.*s", (int)cut, text);
    if (text[cut] != '\0') {
        screen_put(frame->screen, row + 1, 1, (int)width, style, text + cut + (text[cut] == ' '));
    }
    return (text[0] != '\0') + (text[cut] != '\0');
}

/* Entries of what needs attention, from `at` up to `end`, below its headings in row `row`. */
static void draw_verdict_rows(struct view_frame *frame, int row, uint32_t at, uint32_t end)
{
    const struct model *model = frame->model;
    bool wide = frame->screen->width >= 100;
    const int widths[] = {2, wide ? 22 : 19, wide ? 24 : 18, 8, 8, 8, wide ? 16 : 0};
    /* Trends are of the metric that is shown. */
    const char *const names[] = {"", "WHERE", "METRIC", "VALUE", "BOUND", "SINCE", model->metric};
    struct columns columns = {.at = 1};
    for (int i = 0; i < (int)(sizeof widths / sizeof widths[0]); i++) {
        view_column(&columns, widths[i], i >= 3 && i <= 5, names[i]);
    }
    view_column(&columns, frame->screen->width - columns.at, false, "RULE");
    view_headings(frame, row++, &columns);
    for (; at < end; at++, row++) {
        const struct alert *one = &model->verdict[at];
        const struct column *column = columns.list;
        enum style style = view_severity_style(one->severity);
        char place[MODEL_PLACE_MAX];
        int64_t layer = one->has_layer ? model_find_layer(model, &one->place) : -1;
        model_place(&one->place, one->head, place);
        view_cell(frame, row, column++, style, "%s", view_mark(one->severity));
        view_cell(frame, row, column++, style, "%s", place);
        view_cell(frame, row, column++, STYLE_PLAIN, "%s", one->metric);
        view_cell_number(frame, row, column++, one->value);
        view_cell_number(frame, row, column++, one->bound);
        view_cell(frame, row, column++, STYLE_PLAIN, "%" PRIu64, one->since_step);
        if (layer >= 0 && one->head < (int64_t)model->layers[layer].head_count) {
            double mean[MODEL_PAST_MAX];
            const double *trend = mean;
            uint32_t count = one->head < 0
                                 ? model_layer_trend(model, (uint32_t)layer, mean)
                                 : model_trend(model, (uint32_t)layer, (uint32_t)one->head, &trend);
            view_cell_trend(frame, row, column, trend, count, range_of(trend, count));
        }
        view_cell(frame, row, column + 1, style, "%s", one->rule);
    }
}

void view_attention(struct view_frame *frame)
{
    const struct model *model = frame->model;
    int room = frame->screen->height / 8, count = (int)model->verdict_count;
    int rows = room < count ? room : count;
    if ((model->ui.page != PAGE_HEADS && model->ui.page != PAGE_LAYERS) || count == 0) {
        return;
    }
    draw_verdict_rows(frame, frame->top - 1, 0, (uint32_t)rows);
    if (room > 1) { /* otherwise there is none for it */
        rows += draw_sentence(frame, frame->top + rows, STYLE_FAINT, model->verdict[0].advice);
    }
    rows++; /* the headings */
    frame->top += rows;
    frame->rows -= rows;
}

void page_verdict(struct view_frame *frame)
{
    struct list *list = &frame->model->ui.verdict;
    uint32_t count = frame->model->verdict_count;
    view_settle(frame, list, count, frame->rows - 7);
    if (count > 0) {
        const struct alert *one = &frame->model->verdict[list->at];
        int row = frame->top + frame->rows - 6;
        draw_verdict_rows(frame, frame->top - 1, list->top, view_list_end(frame, list, count));
        view_choose(frame, list, count, frame->top);
        row += draw_sentence(frame, row, STYLE_PLAIN, one->message);
        row += draw_sentence(frame, row, STYLE_FAINT, one->why);
        draw_sentence(frame, row, STYLE_STRONG, one->advice);
    }
}

/* On top of a page */

/* A framed box in the middle; returns where its inside begins. */
static void draw_box(struct view_frame *frame, int width, int height, const char *title,
                     int *ret_row, int *ret_column)
{
    struct screen *screen = frame->screen;
    bool unicode = screen->unicode;
    int row = (screen->height - height) / 2, column = (screen->width - width) / 2;
    row = row > 0 ? row : 0;
    screen_blank(screen, row, column, width, height);
    for (int x = 0; x < width; x++) {
        screen_put(screen, row, column + x, 1, STYLE_FAINT, unicode ? "─" : "-");
        screen_put(screen, row + height - 1, column + x, 1, STYLE_FAINT, unicode ? "─" : "-");
    }
    static const char *const corners[][3] = {{"+", "|", "+"}, {"┌", "│", "└"}, {"┐", "│", "┘"}};
    for (int y = 0; y < height; y++) {
        int part = y == 0 ? 0 : y < height - 1 ? 1 : 2;
        screen_put(screen, row + y, column, 1, STYLE_FAINT, corners[unicode][part]);
        screen_put(screen, row + y, column + width - 1, 1, STYLE_FAINT, corners[2 * unicode][part]);
    }
    screen_print(screen, row, column + 2, width - 4, STYLE_STRONG, " %s ", title);
    *ret_row = row + 1;
    *ret_column = column + 2;
}

void view_help(struct view_frame *frame)
{
    int row, column, height = key_help_count + 2;
    int width = frame->screen->width < 78 ? frame->screen->width : 78;
    if (height > frame->screen->height - 1) {
        height = frame->screen->height - 1;
    }
    draw_box(frame, width, height, "keys", &row, &column);
    for (int i = 0; i < height - 2; i++) {
        screen_put(frame->screen, row + i, column, 27, STYLE_STRONG, key_help[i].keys);
        screen_put(frame->screen, row + i, column + 28, width - 32, STYLE_PLAIN, key_help[i].text);
    }
}

static const char *picked_text(const struct model *model, uint32_t index)
{
    static const char *const texts[KEYS_SORTS] = {"alerts first, then drift",
                                                  "drift from the baseline",
                                                  "the metric that is shown", "the model's order"};
    bool sort = model->ui.overlay == OVERLAY_SORT;
    if (sort && index < KEYS_SORTS) {
        return texts[index];
    }
    return model->metrics[index - (sort ? KEYS_SORTS : 0)];
}

void view_picker(struct view_frame *frame)
{
    struct model *model = frame->model;
    uint32_t count;
    struct list *list = keys_list(model, &count);
    int row, column, height = (int)count + 2, width = 44;
    if (height > frame->screen->height - 4) {
        height = frame->screen->height - 4;
    }
    draw_box(frame, width, height, model->ui.overlay == OVERLAY_SORT ? "sort by" : "metric", &row,
             &column);
    view_settle(frame, list, count, height - 2);
    for (uint32_t i = 0; i < model->ui.list_rows && list->top + i < count; i++) {
        bool chosen = list->top + i == list->at;
        screen_print(frame->screen, row + (int)i, column, width - 4,
                     chosen ? STYLE_TITLE : STYLE_PLAIN, "%s%-*s", chosen ? "> " : "  ", width - 6,
                     picked_text(model, list->top + i));
    }
}

/* One head */

#define AXIS       9 /* columns of the numbers beside the chart */
#define ALERTS_MAX 3 /* lines of alerts at most */

static bool is_here(const struct head_detail *detail, const struct alert *alert)
{
    return alert->has_layer && model_compare_places(&alert->place, &detail->place) == 0 &&
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

static void mark_window(struct view_frame *frame, const struct past *windows, int row,
                        int64_t window, enum style style, const char *mark)
{
    int room = frame->screen->width - AXIS - 3;
    if (window >= 0) {
        screen_put(frame->screen, row,
                   AXIS + 2 + bars_column(windows->count, room, (uint32_t)window), 2, style, mark);
    }
}

/* Returns the rows that it took. */
static int draw_chart(struct view_frame *frame, const struct detail_metric *metric, int height)
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
    /* Below the chart: where alerts began. */
    int row = frame->top + height;
    const struct model *model = frame->model;
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
static int draw_alerts(struct view_frame *frame, int row, int rows)
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
                     "%s%s since step %" PRIu64 ": %s", alert->rule,
                     !alert->firing  ? " (over)"
                     : alert->at_end ? " (firing at end)"
                                     : "",
                     alert->since_step, alert->message);
        used++;
    }
    return used;
}

/* Metrics */

static void draw_metrics(struct view_frame *frame, int row, int rows)
{
    struct model *model = frame->model;
    struct list *list = &model->ui.metrics;
    int width = frame->screen->width;
    struct columns columns = {.at = 2};
    view_column(&columns, width >= 100 ? 26 : 24, false, "METRIC");
    view_column(&columns, 8, true, "NOW");
    view_column(&columns, 8, true, "WINDOW");
    view_column(&columns, 8, true, "SHIFT");
    view_column(&columns, width >= 90 ? 7 : 0, true, "JS");
    int left = width - columns.at - 1;
    view_column(&columns, left < 80 ? left : 80, false, "TREND");
    view_settle(frame, list, model->detail.count, rows - 1);
    view_headings(frame, row, &columns);
    for (uint32_t i = list->top; i < view_list_end(frame, list, model->detail.count); i++) {
        int line = row + 1 + (int)(i - list->top);
        const struct detail_metric *metric = &model->detail.metrics[i];
        const struct column *column = columns.list;
        view_cell(frame, line, column++, STYLE_PLAIN, "%s", metric->name);
        view_cell_number(frame, line, column++, metric->now);
        view_cell_number(frame, line, column++, metric->mean);
        view_cell_shift(frame, line, column++, metric->shift);
        view_cell_number(frame, line, column++, metric->js);
        view_cell_trend(frame, line, column++, metric->past, metric->windows.count,
                        range_of(metric->past, metric->windows.count));
    }
    view_choose(frame, list, model->detail.count, row + 1);
}

void page_head(struct view_frame *frame)
{
    struct model *model = frame->model;
    int height = frame->rows / 4 < 10 ? frame->rows / 4 : 10, used = 0;
    if (model->ui.metrics.at >= model->detail.count) {
        model->ui.metrics.at = model->detail.count > 0 ? model->detail.count - 1 : 0;
    }
    const struct head_detail *detail = &frame->model->detail;
    char place[MODEL_PLACE_MAX];
    model_place(&detail->place, detail->head, place);
    int caption_used =
        screen_put(frame->screen, 3, 1, frame->screen->width - 1, STYLE_STRONG, place);
    int64_t at = model_find_layer(model, &detail->place);
    caption_used += screen_print(
        frame->screen, 3, 1 + caption_used, frame->screen->width, STYLE_PLAIN,
        "%s%s, epoch %" PRIu64 " step %" PRIu64 ", %" PRIu64 " rows, %" PRIu64 " invalid",
        detail->pattern[0] != '\0' ? ", " : "", detail->pattern, detail->epoch, detail->step,
        detail->rows, detail->invalid_rows);
    view_put_module(frame, caption_used, at < 0 ? NULL : &model->layers[at]);
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
