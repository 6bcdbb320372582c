/* SPDX-License-Identifier: MIT */
/* Numbers of layers and heads: of the whole job, for the metric that is shown. */
#include "clients/cli/top/internal.h"

#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

bool read_place(const msgpack_object *map, struct layer_place *ret_place)
{
    uint64_t layer;
    const msgpack_object *value = mpk_find(map, "layer");
    field_text(map, "stack", ret_place->stack, sizeof ret_place->stack);
    field_text(map, "site", ret_place->site, sizeof ret_place->site);
    if (!value || mpk_get_u64(value, LAYER_MAX, &layer) != 0) {
        return false;
    }
    ret_place->layer = (uint32_t)layer;
    return ret_place->stack[0] != '\0' && ret_place->site[0] != '\0';
}

bool read_is_run(const struct model *model, const msgpack_object *map)
{
    char run[2 * RUN_BYTES + 1];
    field_text(map, "run", run, sizeof run);
    return model->entry.run[0] == '\0' || strcmp(run, model->entry.run) == 0;
}

/* Heads: the longest list there is. */

static uint32_t lists_length(const msgpack_object *map)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < mpk_pairs(map); i++) {
        const msgpack_object *value = &map->via.map.ptr[i].val, *last = mpk_find(value, "last");
        value = last ? last : value;
        if (value->type == MSGPACK_OBJECT_ARRAY && value->via.array.size > most) {
            most = value->via.array.size;
        }
    }
    return most;
}

static uint32_t read_layers_heads_of(const msgpack_object *map)
{
    const msgpack_object *weights = mpk_find(map, "weights");
    uint32_t most = lists_length(mpk_find(map, "heads"));
    uint32_t length = lists_length(mpk_find(map, "spectrum"));
    most = length > most ? length : most;
    for (uint32_t i = 0; i < mpk_pairs(weights); i++) {
        length = lists_length(mpk_find(&weights->via.map.ptr[i].val, "heads"));
        most = length > most ? length : most;
    }
    return most;
}

/* Names of metrics */

static void add_metric(void *data, const char *name)
{
    struct model *model = data;
    if (strcmp(name, "pattern") != 0 && model->metric_count < MODEL_METRICS_MAX &&
        !model_has_metric(model, name)) {
        snprintf(model->metrics[model->metric_count++], FIELD_NAME_MAX, "%s", name);
    }
}

/* Layers of one kind have the same names: only those of a list that is looked at, is empty, or
 * lacks the metric that is shown, are read again. */
static void read_names(struct model *model, const msgpack_object *maps, uint32_t count)
{
    if (model_has_metric(model, model->metric) && model->ui.overlay == OVERLAY_NONE) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        field_each_metric(&maps[i], add_metric, model);
    }
}

/* Newest messages */

/* A head's number of what field_metric gave: of a number of the layer every head has the same. */
static double read_column(const msgpack_object *values, uint32_t head)
{
    return mpk_number(
        field_column(values, values && values->type == MSGPACK_OBJECT_ARRAY ? head : 0));
}

static void read_layers_read_head(struct head *head, uint32_t index, const msgpack_object *values,
                                  uint64_t rank, bool in_turns)
{
    double value = read_column(values, index);
    /* Spectra take turns, and a layer whose heads are spread over ranks has only some in each
     * message: what another message did not measure stays. */
    if (!isnan(value) || isnan(head->value) || (!in_turns && head->rank == rank)) {
        head->value = value;
        head->rank = rank;
    }
}

static void read_layers_read_values(struct model *model, struct layer *layer,
                                    const msgpack_object *map)
{
    const msgpack_object *values = field_metric(map, model->metric);
    const msgpack_object *by = field_metric(map, model->sort_metric);
    const msgpack_object *patterns = field_metric(map, "pattern");
    uint64_t rank = mpk_find_u64(map, "rank");
    bool in_turns = mpk_find(mpk_find(map, "spectrum"), model->metric) != NULL;
    layer->step = mpk_find_u64(map, "step");
    for (uint32_t i = 0; i < layer->head_count; i++) {
        struct head *head = &layer->heads[i];
        double number = read_column(by, i);
        if (values) { /* matrices come in messages of their own */
            read_layers_read_head(head, i, values, rank, in_turns);
        }
        head->by = isnan(number) ? head->by : number;
        const msgpack_object *pattern = field_column(patterns, i);
        if (pattern && pattern->type == MSGPACK_OBJECT_STR) {
            field_show(pattern, head->pattern, sizeof head->pattern);
        }
    }
}

/* Reads each map of a list into its layer. */
static void read_each_layer(struct model *model, const msgpack_object *result,
                            void (*read)(struct model *model, struct layer *layer,
                                         const msgpack_object *map))
{
    uint32_t count = mpk_items(result);
    const msgpack_object *maps = count > 0 ? result->via.array.ptr : NULL;
    char chosen[FIELD_NAME_MAX];
    if (model->metric[0] == '\0' && field_choose_metric(maps, count, chosen)) {
        snprintf(model->metric, sizeof model->metric, "%s", chosen);
    }
    read_names(model, maps, count);
    for (uint32_t i = 0; i < count; i++) {
        struct layer_place place;
        struct layer *layer = NULL;
        if (read_is_run(model, &maps[i]) && read_place(&maps[i], &place)) {
            layer = model_layer(model, &place, read_layers_heads_of(&maps[i]));
        }
        if (layer) {
            field_text(&maps[i], "module", layer->module, sizeof layer->module);
            read(model, layer, &maps[i]);
        }
    }
}

void read_live(struct model *model, const msgpack_object *result)
{
    read_each_layer(model, result, read_layers_read_values);
    model_see(model);
}

/* Windows */

static void read_layers_read_window(struct model *model, struct layer *layer,
                                    const msgpack_object *map)
{
    const msgpack_object *values = field_metric(map, model->metric);
    const msgpack_object *newest =
        mpk_find(mpk_find(mpk_find(map, "heads"), model->metric), "last");
    const msgpack_object *drift = mpk_find(mpk_find(map, "drift"), model->metric);
    const msgpack_object *shift = mpk_find(drift, "shift");
    for (uint32_t i = 0; i < layer->head_count; i++) {
        struct head *head = &layer->heads[i];
        head->mean = read_column(values, i);
        head->shift = field_item(shift, i);
        /* Matrices: in no message of attention. Else attnd was started again. */
        if (isnan(head->value) || strchr(model->metric, '.')) {
            head->value = field_item(newest, i);
        }
    }
}

void read_summary(struct model *model, const msgpack_object *result)
{
    read_each_layer(model, result, read_layers_read_window);
}

/* Trends */

static uint64_t packed_u64(const msgpack_object *list, uint32_t index)
{
    uint64_t number = 0;
    if (list && list->type == MSGPACK_OBJECT_BIN && index < list->via.bin.size / 8) {
        memcpy(&number, list->via.bin.ptr + 8 * (size_t)index, sizeof number);
    }
    return le64toh(number);
}

/* Windows of a packed answer, at most MODEL_PAST_MAX. */
static void read_windows(const msgpack_object *result, struct past *ret_past)
{
    const msgpack_object *windows = mpk_find(result, "windows");
    const msgpack_object *last = mpk_find(windows, "last"), *step = mpk_find(windows, "step");
    uint32_t count = last && last->type == MSGPACK_OBJECT_BIN ? last->via.bin.size / 8 : 0;
    ret_past->count = count < MODEL_PAST_MAX ? count : MODEL_PAST_MAX;
    field_text(result, "unit", ret_past->unit, sizeof ret_past->unit);
    for (uint32_t i = 0; i < ret_past->count; i++) {
        ret_past->last[i] = packed_u64(last, i);
        ret_past->step[i] = packed_u64(step, i);
    }
}

/* One number of packed values [heads][windows]; NaN when they are shorter. */
static double read_packed(const msgpack_object *values, uint32_t windows, uint32_t head,
                          uint32_t window)
{
    size_t at = 4 * ((size_t)head * windows + window);
    uint32_t bits;
    float number;
    if (!values || values->type != MSGPACK_OBJECT_BIN || at + 4 > values->via.bin.size) {
        return NAN;
    }
    memcpy(&bits, values->via.bin.ptr + at, sizeof bits);
    bits = le32toh(bits);
    memcpy(&number, &bits, sizeof number);
    return (double)number;
}

void read_grid(struct model *model, const msgpack_object *result)
{
    const msgpack_object *layers = mpk_find(result, "layers");
    char metric[FIELD_NAME_MAX];
    field_text(result, "metric", metric, sizeof metric);
    if (strcmp(metric, model->metric) != 0 || !read_is_run(model, result)) {
        return; /* of what was shown before */
    }
    model->refusal[0] = '\0';
    read_windows(result, &model->past);
    if (!model_make_past(model, model->past.count)) {
        return;
    }
    for (uint32_t i = 0; i < mpk_items(layers); i++) {
        const msgpack_object *map = field_at(layers, i);
        struct layer_place place;
        int64_t at = read_place(map, &place) ? model_find_layer(model, &place) : -1;
        if (at >= 0 && model->past.count > 0) {
            struct layer *layer = &model->layers[at];
            const msgpack_object *values = mpk_find(map, "values");
            uint32_t windows = model->past.count, heads = (uint32_t)mpk_find_u64(map, "heads");
            for (uint32_t head = 0; head < layer->head_count && heads > 0; head++) {
                for (uint32_t j = 0; j < windows; j++) {
                    layer->past[(size_t)head * windows + j] =
                        read_packed(values, windows, head < heads ? head : heads - 1, j);
                }
            }
        }
    }
}

/* One head */

static struct detail_metric *find_detail(struct head_detail *detail, const char *name)
{
    for (uint32_t i = 0; i < detail->count; i++) {
        if (strcmp(detail->metrics[i].name, name) == 0) {
            return &detail->metrics[i];
        }
    }
    return NULL;
}

static struct detail_metric *add_detail(struct head_detail *detail, const char *name)
{
    if (detail->count == MODEL_METRICS_MAX) {
        return NULL;
    }
    struct detail_metric *metric = &detail->metrics[detail->count++];
    memset(metric, 0, sizeof *metric);
    snprintf(metric->name, sizeof metric->name, "%s", name);
    metric->now = metric->mean = metric->shift = metric->js = NAN;
    return metric;
}

struct detail_reading {
    struct model *model;
    const msgpack_object *map;
    bool summary;
};

static void read_detail_metric(void *data, const char *name)
{
    const struct detail_reading *reading = data;
    struct head_detail *detail = &reading->model->detail;
    double value = read_column(field_metric(reading->map, name), detail->head);
    struct detail_metric *metric = find_detail(detail, name);
    if (!metric && !isnan(value)) { /* one that the head never had a number of is not listed */
        metric = add_detail(detail, name);
    }
    if (!metric) {
        return;
    }
    if (!reading->summary) {
        metric->now = isnan(value) ? metric->now : value;
        return;
    }
    const msgpack_object *drift = mpk_find(mpk_find(reading->map, "drift"), name);
    metric->mean = value;
    metric->shift = field_item(mpk_find(drift, "shift"), detail->head);
    metric->js = field_item(mpk_find(drift, "js"), detail->head);
}

static void read_detail(struct model *model, const msgpack_object *result, bool summary)
{
    uint32_t before = model->detail.count;
    for (uint32_t i = 0; i < mpk_items(result); i++) {
        const msgpack_object *map = field_at(result, i);
        struct detail_reading reading = {model, map, summary};
        struct layer_place place;
        if (!read_is_run(model, map) || !read_place(map, &place) ||
            model_compare_places(&place, &model->detail.place) != 0) {
            continue;
        }
        if (!summary) {
            struct head_detail *detail = &model->detail;
            const msgpack_object *pattern =
                field_column(field_metric(map, "pattern"), detail->head);
            detail->epoch = mpk_find_u64(map, "epoch");
            detail->step = mpk_find_u64(map, "step");
            detail->rows = mpk_find_u64(map, "rows");
            detail->invalid_rows = mpk_find_u64(map, "invalid_rows");
            if (pattern && pattern->type == MSGPACK_OBJECT_STR) {
                field_show(pattern, detail->pattern, sizeof detail->pattern);
            }
        }
        field_each_metric(map, read_detail_metric, &reading);
    }
    if (model->detail.count != before) {
        model->needs.series = true;
    }
    if (before == 0) {
        /* A head's page begins with the metric that the table showed. */
        for (uint32_t i = 0; i < model->detail.count; i++) {
            if (strcmp(model->detail.metrics[i].name, model->metric) == 0) {
                model->ui.metrics.at = i;
            }
        }
    }
}

void read_detail_live(struct model *model, const msgpack_object *result)
{
    read_detail(model, result, false);
}

void read_detail_summary(struct model *model, const msgpack_object *result)
{
    read_detail(model, result, true);
}

void read_detail_grid(struct model *model, const msgpack_object *result)
{
    const msgpack_object *map = field_at(mpk_find(result, "layers"), 0);
    char name[FIELD_NAME_MAX];
    struct layer_place place;
    field_text(result, "metric", name, sizeof name);
    if (!map || !read_place(map, &place) ||
        model_compare_places(&place, &model->detail.place) != 0) {
        return;
    }
    struct detail_metric *metric = find_detail(&model->detail, name);
    if (!metric) {
        return;
    }
    read_windows(result, &metric->windows);
    uint32_t heads = (uint32_t)mpk_find_u64(map, "heads"), head = model->detail.head;
    for (uint32_t i = 0; i < metric->windows.count; i++) {
        metric->past[i] = read_packed(mpk_find(map, "values"), metric->windows.count,
                                      head < heads || heads == 0 ? head : heads - 1, i);
    }
}
