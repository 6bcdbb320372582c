/* SPDX-License-Identifier: MIT */
/* All metrics of the one head that is looked at. */
#include "clients/cli/top/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_detail(const struct model *model, const struct read_place *place)
{
    const struct detail *detail = &model->detail;
    return place->layer == detail->layer && strcmp(place->stack, detail->stack) == 0 &&
           strcmp(place->site, detail->site) == 0;
}

static struct detail_metric *find_detail(struct detail *detail, const char *name)
{
    for (uint32_t i = 0; i < detail->count; i++) {
        if (strcmp(detail->metrics[i].name, name) == 0) {
            return &detail->metrics[i];
        }
    }
    return NULL;
}

static struct detail_metric *add_detail(struct detail *detail, const char *name)
{
    if (detail->count == MODEL_METRICS_MAX) {
        return NULL;
    }
    struct detail_metric *metric = &detail->metrics[detail->count++];
    memset(metric, 0, sizeof *metric);
    snprintf(metric->name, sizeof metric->name, "%s", name);
    metric->now = metric->mean = metric->z = metric->js = metric->change = NAN;
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
    struct detail *detail = &reading->model->detail;
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
    metric->z = field_item(mpk_find(drift, "z"), detail->head);
    metric->js = field_item(mpk_find(drift, "js"), detail->head);
    metric->change = field_item(mpk_find(drift, "change"), detail->head);
}

static void read_detail(struct model *model, const msgpack_object *result, bool summary)
{
    const msgpack_object *maps;
    uint32_t count = read_list(result, &maps), before = model->detail.count;
    for (uint32_t i = 0; i < count; i++) {
        struct detail_reading reading = {model, &maps[i], summary};
        struct read_place place;
        if (!read_is_run(model, &maps[i]) || !read_place(&maps[i], &place) ||
            !is_detail(model, &place)) {
            continue;
        }
        if (!summary) {
            struct detail *detail = &model->detail;
            const msgpack_object *map = &maps[i];
            const msgpack_object *pattern =
                field_column(field_metric(map, "pattern"), detail->head);
            detail->epoch = field_u64(map, "epoch");
            detail->step = field_u64(map, "step");
            detail->rows = field_u64(map, "rows");
            detail->invalid_rows = field_u64(map, "invalid_rows");
            if (pattern && pattern->type == MSGPACK_OBJECT_STR) {
                field_show(pattern, detail->pattern, sizeof detail->pattern);
            }
        }
        field_each_metric(&maps[i], read_detail_metric, &reading);
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
    const msgpack_object *maps;
    uint32_t count = read_list(mpk_find(result, "layers"), &maps);
    char name[FIELD_NAME_MAX];
    struct read_place place;
    field_text(result, "metric", name, sizeof name);
    if (count == 0 || !read_place(&maps[0], &place) || !is_detail(model, &place)) {
        return;
    }
    struct detail_metric *metric = find_detail(&model->detail, name);
    if (!metric) {
        return;
    }
    read_windows(result, &metric->windows);
    uint32_t heads = (uint32_t)field_u64(&maps[0], "heads"), head = model->detail.head;
    for (uint32_t i = 0; i < metric->windows.count; i++) {
        metric->past[i] = read_packed(mpk_find(&maps[0], "values"), metric->windows.count,
                                      head < heads || heads == 0 ? head : heads - 1, i);
    }
}
