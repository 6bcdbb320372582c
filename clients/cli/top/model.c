/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct needs model_needs_all = {
    true, true, true,  true,          true,          true,          true, true,
    0,    0,    false, INT64_MIN / 2, INT64_MIN / 2, INT64_MIN / 2, -1};

/* Arrays that are given at once, of doubles that are not numbers yet. */
const char *const model_sorts[KEYS_SORTS] = {"urgency", "drift", "value", "head"};

static double *new_numbers(size_t count)
{
    double *numbers = malloc((count > 0 ? count : 1) * sizeof *numbers);
    for (size_t i = 0; numbers && i < count; i++) {
        numbers[i] = NAN;
    }
    return numbers;
}

struct model *model_new(void)
{
    struct model *model = calloc(1, sizeof *model);
    if (!model) {
        return NULL;
    }
    model->silent_since_ms = -1;
    model->ui.page = PAGE_JOBS;
    model->needs.config = true;
    model->health.rate = model->health.bytes_rate = NAN;
    return model;
}

static void free_layers(struct model *model)
{
    for (uint32_t i = 0; i < model->layer_count; i++) {
        free(model->layers[i].heads);
        free(model->layers[i].past);
        free(model->layers[i].seen);
    }
    model->layer_count = model->head_total = 0;
    model->cut = false;
    model->row_count = model->layer_row_count = 0;
}

void model_free(struct model **model)
{
    if (!*model) {
        return;
    }
    free_layers(*model);
    free((*model)->layers);
    free((*model)->rows);
    free((*model)->layer_rows);
    free(*model);
    *model = NULL;
}

void model_forget(struct model *model)
{
    free_layers(model);
    model->past = (struct past){0};
    model->seen_count = 0;
    model->seen_step = 0;
    model->alert_count = model->firing_count = model->verdict_count = 0;
    model->judged = model->verdict_cut = false;
    model->checks = 0;
    model->detail.count = 0;
    model->refusal[0] = '\0';
    bool config = model->needs.config;
    model->needs = model_needs_all;
    model->needs.config = config;
}

const struct job_entry *model_find_job(const struct model *model)
{
    for (uint32_t i = 0; i < model->job_count; i++) {
        if (strcmp(model->jobs[i].job, model->job) == 0) {
            return &model->jobs[i];
        }
    }
    return NULL;
}

void model_choose_job(struct model *model, const char *job)
{
    snprintf(model->job, sizeof model->job, "%.*s", JOB_NAME_MAX, job);
    model->run = model->gone = NULL;
    const struct job_entry *entry = model_find_job(model);
    model->job_known = entry != NULL;
    model->entry = entry ? *entry : (struct job_entry){.epoch = 0};
    model->generation++;
    model->metric_count = 0;
    model->ui.heads = model->ui.layers = model->ui.verdict = (struct list){0};
    model->ui.page = *job ? PAGE_HEADS : PAGE_JOBS;
    model_forget(model);
}

bool model_has_metric(const struct model *model, const char *name)
{
    bool has = false;
    for (uint32_t i = 0; i < model->metric_count && !has; i++) {
        has = strcmp(model->metrics[i], name) == 0;
    }
    return has;
}

void model_choose_metric(struct model *model, const char *metric)
{
    if (strcmp(model->metric, metric) == 0) {
        return;
    }
    snprintf(model->metric, sizeof model->metric, "%s", metric);
    for (uint32_t i = 0; i < model->layer_count; i++) {
        struct layer *layer = &model->layers[i];
        for (uint32_t head = 0; head < layer->head_count; head++) {
            struct head *one = &layer->heads[head];
            one->value = one->by = one->mean = one->shift = NAN;
        }
    }
    model_make_past(model, 0);
    model->seen_count = 0;
    model->seen_step = 0;
    model->needs.live = model->needs.grid = true;
    model->needs.summary_next = 0;
}

/* Sorting */

void model_choose_sort(struct model *model, const char *name)
{
    bool reversed = *name == '-';
    name += reversed;
    model->reversed = reversed;
    model->sort = SORT_METRIC;
    for (enum sort sort = SORT_URGENCY; sort < SORT_METRIC; sort++) {
        if (strcmp(name, model_sorts[sort]) == 0) {
            model->sort = sort;
        }
    }
    snprintf(model->sort_metric, sizeof model->sort_metric, "%s",
             model->sort == SORT_METRIC ? name : "");
    model->needs.live = true;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        for (uint32_t head = 0; head < model->layers[i].head_count; head++) {
            model->layers[i].heads[head].by = NAN;
        }
    }
}

void model_sort_text(const struct model *model, char ret_text[MODEL_SORT_TEXT_MAX])
{
    static const char *const texts[][2] = {
        [SORT_URGENCY] = {"alerts first, then drift", "alerts last"},
        [SORT_PLACE] = {"in the model's order", "from the last layer up"},
        [SORT_DRIFT] = {"most drifted first", "least drifted first"},
    };
    if (model->sort == SORT_VALUE || model->sort == SORT_METRIC) {
        snprintf(ret_text, MODEL_SORT_TEXT_MAX, "%s %s first",
                 model->reversed ? "least" : "greatest",
                 model->sort == SORT_VALUE ? model->metric : model->sort_metric);
    } else {
        snprintf(ret_text, MODEL_SORT_TEXT_MAX, "%s", texts[model->sort][model->reversed]);
    }
}

/* Layers */

int model_compare_places(const struct layer_place *a, const struct layer_place *b)
{
    int order = strcmp(b->stack, a->stack);
    order = order ? order : (a->layer > b->layer) - (a->layer < b->layer);
    return order ? order : strcmp(b->site, a->site);
}

/* The first layer that does not come before this one. */
static uint32_t place_of(const struct model *model, const struct layer_place *place)
{
    uint32_t from = 0, to = model->layer_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (model_compare_places(&model->layers[middle].place, place) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

int64_t model_find_layer(const struct model *model, const struct layer_place *place)
{
    uint32_t at = place_of(model, place);
    bool found =
        at < model->layer_count && model_compare_places(&model->layers[at].place, place) == 0;
    return found ? (int64_t)at : -1;
}

static bool model_grow(struct model *model)
{
    uint32_t room = model->layer_room > 0 ? 2 * model->layer_room : 32;
    struct layer *layers = realloc(model->layers, room * sizeof *layers);
    if (layers) {
        model->layers = layers;
    }
    uint32_t *rows = realloc(model->layer_rows, room * sizeof *rows);
    if (rows) {
        model->layer_rows = rows;
    }
    if (layers && rows) {
        model->layer_room = room;
    }
    return layers && rows;
}

/* Room for this many heads in all. */
static bool grow_rows(struct model *model, uint32_t heads)
{
    if (heads <= model->row_room) {
        return true;
    }
    uint32_t room = heads > 2 * model->row_room ? heads : 2 * model->row_room;
    struct list_row *rows = realloc(model->rows, room * sizeof *rows);
    if (!rows) {
        return false;
    }
    model->rows = rows;
    model->row_room = room;
    return true;
}

static bool make_heads(struct layer *layer)
{
    layer->heads = calloc(layer->head_count, sizeof *layer->heads);
    layer->seen = new_numbers((size_t)layer->head_count * MODEL_SEEN_MAX);
    for (uint32_t i = 0; layer->heads && i < layer->head_count; i++) {
        struct head *head = &layer->heads[i];
        head->value = head->by = head->mean = head->shift = NAN;
    }
    if (layer->heads && layer->seen) {
        return true;
    }
    free(layer->heads);
    free(layer->seen);
    return false;
}

struct layer *model_layer(struct model *model, const struct layer_place *place, uint32_t heads)
{
    int64_t at = model_find_layer(model, place);
    if (at >= 0) {
        return &model->layers[at];
    }
    if (heads == 0) {
        return NULL;
    }
    if (model->layer_count >= MODEL_LAYERS_MAX || heads > MODEL_HEADS_MAX - model->head_total) {
        model->cut = true;
        return NULL;
    }
    struct layer layer = {.place = *place, .head_count = heads};
    uint32_t layer_at = place_of(model, place);
    bool room = model->layer_count < model->layer_room || model_grow(model);
    if (!room || !grow_rows(model, model->head_total + heads) || !make_heads(&layer)) {
        model->out_of_memory = true;
        return NULL;
    }
    memmove(&model->layers[layer_at + 1], &model->layers[layer_at],
            (model->layer_count - layer_at) * sizeof *model->layers);
    model->layers[layer_at] = layer;
    /* Rows name layers by their indices, from one arrangement to the next. */
    for (uint32_t i = 0; i < model->row_count; i++) {
        model->rows[i].layer += model->rows[i].layer >= layer_at;
    }
    for (uint32_t i = 0; i < model->layer_row_count; i++) {
        model->layer_rows[i] += model->layer_rows[i] >= layer_at;
    }
    model->layer_count++;
    model->head_total += heads;
    model->needs.grid = model->needs.verdict = true;
    model->needs.summary_next = 0;
    return &model->layers[layer_at];
}

/* Trends */

void model_see(struct model *model)
{
    uint64_t step = 0;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        step = model->layers[i].step > step ? model->layers[i].step : step;
    }
    if (model->seen_count > 0 && step == model->seen_step) {
        return;
    }
    for (uint32_t i = 0; i < model->layer_count; i++) {
        struct layer *layer = &model->layers[i];
        for (uint32_t j = 0; j < layer->head_count; j++) {
            double *seen = layer->seen + (size_t)j * MODEL_SEEN_MAX;
            if (model->seen_count == MODEL_SEEN_MAX) {
                memmove(seen, seen + 1, (MODEL_SEEN_MAX - 1) * sizeof *seen);
            }
            seen[model->seen_count == MODEL_SEEN_MAX ? model->seen_count - 1 : model->seen_count] =
                layer->heads[j].value;
        }
    }
    model->seen_step = step;
    model->seen_count += model->seen_count < MODEL_SEEN_MAX;
}

bool model_make_past(struct model *model, uint32_t windows)
{
    bool made = true;
    model->past.count = windows;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        struct layer *layer = &model->layers[i];
        free(layer->past);
        layer->past = windows > 0 ? new_numbers((size_t)layer->head_count * windows) : NULL;
        made = made && (windows == 0 || layer->past);
    }
    model->out_of_memory = model->out_of_memory || !made;
    return made;
}

bool model_trend_is_seen(const struct model *model)
{
    return model->ui.trend_seen || model->past.count < 2;
}

uint32_t model_trend(const struct model *model, uint32_t index, uint32_t head,
                     const double **ret_values)
{
    const struct layer *layer = &model->layers[index];
    if (model_trend_is_seen(model)) {
        *ret_values = layer->seen + (size_t)head * MODEL_SEEN_MAX;
        return model->seen_count;
    }
    *ret_values = layer->past ? layer->past + (size_t)head * model->past.count : NULL;
    return layer->past ? model->past.count : 0;
}

uint32_t model_layer_trend(const struct model *model, uint32_t index, double *values)
{
    uint32_t length = 0, counts[MODEL_PAST_MAX] = {0};
    memset(values, 0, MODEL_PAST_MAX * sizeof *values);
    for (uint32_t head = 0; head < model->layers[index].head_count; head++) {
        const double *one;
        length = model_trend(model, index, head, &one);
        for (uint32_t i = 0; i < length; i++) {
            values[i] += isfinite(one[i]) ? one[i] : 0;
            counts[i] += isfinite(one[i]) ? 1 : 0;
        }
    }
    for (uint32_t i = 0; i < length; i++) {
        values[i] = counts[i] > 0 ? values[i] / counts[i] : NAN;
    }
    return length;
}

struct layer_spread model_spread(const struct layer *layer)
{
    struct range range = range_none;
    double sum = 0, by = 0;
    uint32_t count = 0, by_count = 0;
    for (uint32_t i = 0; i < layer->head_count; i++) {
        const struct head *head = &layer->heads[i];
        range_add(&range, head->value);
        sum += isfinite(head->value) ? head->value : 0;
        count += isfinite(head->value) ? 1 : 0;
        by += isfinite(head->by) ? head->by : 0;
        by_count += isfinite(head->by) ? 1 : 0;
    }
    by = by_count > 0 ? by / by_count : NAN;
    if (count == 0) {
        return (struct layer_spread){NAN, NAN, NAN, by};
    }
    return (struct layer_spread){sum / count, range.least, range.greatest, by};
}

double model_layer_shift(const struct layer *layer)
{
    double most = NAN;
    for (uint32_t i = 0; i < layer->head_count; i++) {
        if (isnan(most) || fabs(layer->heads[i].shift) > fabs(most)) {
            most = layer->heads[i].shift;
        }
    }
    return most;
}

/* One head */

void model_open_head(struct model *model, uint32_t layer, uint32_t head)
{
    const struct layer *from = &model->layers[layer];
    struct head_detail *detail = &model->detail;
    memset(detail, 0, sizeof *detail);
    detail->place = from->place;
    detail->head = head;
    if (model->ui.page != PAGE_HEAD) {
        model->ui.before = model->ui.page;
    }
    model->ui.page = PAGE_HEAD;
    model->ui.metrics = (struct list){0};
    model->needs.detail = model->needs.detail_window = model->needs.series = true;
    model->needs.series_next = 0;
}

void model_place(const struct layer_place *place, int64_t head, char ret_place[MODEL_PLACE_MAX])
{
    int used = snprintf(ret_place, MODEL_PLACE_MAX, "%.15s.%" PRIu32 ".%.15s", place->stack,
                        place->layer, place->site);
    if (!place->stack[0]) {
        snprintf(ret_place, MODEL_PLACE_MAX, "the run");
    } else if (head >= 0 && used > 0 && used < MODEL_PLACE_MAX) {
        snprintf(ret_place + used, (size_t)(MODEL_PLACE_MAX - used), ".h%" PRId64, head);
    }
}

void list_settle(struct list *list, uint32_t count, uint32_t rows)
{
    if (list->at >= count) {
        list->at = count > 0 ? count - 1 : 0;
    }
    if (list->at < list->top) {
        list->top = list->at;
    }
    if (rows > 0 && list->at >= list->top + rows) {
        list->top = list->at - rows + 1;
    }
    if (list->top + rows > count) {
        list->top = count > rows ? count - rows : 0;
    }
}
