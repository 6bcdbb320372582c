/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/system.h"

#include <endian.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FRESH_MS 4500 /* the history has a window a little later: history.commit and more */

/* attnd */

static struct health health_of(const msgpack_object *stats, int64_t now_ms)
{
    const msgpack_object *dropped = mpk_find(stats, "dropped");
    struct health health = {
        .known = true,
        .rate = NAN,
        .received = field_received(stats),
        .lost = mpk_find_u64(stats, "lost"),
        .dropped = field_dropped(stats) + mpk_find_u64(stats, "source_dropped"),
        .summaries = mpk_find_u64(stats, "summaries"),
        .alerts = mpk_find_u64(stats, "alerts"),
        .uptime_s = mpk_number(mpk_find(stats, "uptime_s")),
        .at_ms = now_ms,
    };
    uint64_t most = 0, number;
    for (uint32_t i = 0; i < mpk_pairs(dropped); i++) {
        const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
        if (mpk_get_u64(&pair->val, UINT64_MAX, &number) == 0 && number > most &&
            !mpk_is_str(&pair->key, "repeated")) {
            most = number;
            field_show(&pair->key, health.reason, sizeof health.reason);
        }
    }
    return health;
}

static enum severity severity_of(const msgpack_object *map)
{
    const msgpack_object *value = mpk_find(map, "severity");
    return mpk_is_str(value, "critical")  ? SEVERITY_CRITICAL
           : mpk_is_str(value, "warning") ? SEVERITY_WARNING
                                          : SEVERITY_INFO;
}

static void read_runs(struct model *model, const msgpack_object *jobs)
{
    uint32_t count = mpk_items(jobs) < TOP_RUNS_MAX ? mpk_items(jobs) : TOP_RUNS_MAX;
    struct run_row *rows = memory_new(TOP_RUNS_MAX, sizeof *rows);
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *map = field_at(jobs, i);
        const msgpack_object *firing = mpk_find(map, "firing");
        struct run_row *row = &rows[i];
        field_text(map, "job", row->job, sizeof row->job);
        field_text(map, "run", row->run, sizeof row->run);
        const struct run_row *before = model_row(model, row->job);
        if (before && strcmp(before->run, row->run) == 0) {
            *row = *before; /* what other answers said stays */
        }
        field_text(map, "state", row->state, sizeof row->state);
        if (strcmp(row->state, "no_news") == 0) {
            strcpy(row->state, "no news");
        }
        row->over = field_is_over(map);
        row->epoch = mpk_find_u64(map, "epoch");
        row->step = mpk_find_u64(map, "step");
        row->world = mpk_find_u64(map, "world");
        row->received = field_received(map);
        row->runs = mpk_find_u64(map, "runs");
        row->severity = SEVERITY_NONE;
        row->firing = 0;
        for (uint32_t j = 0; j < mpk_items(firing); j++) {
            enum severity severity = severity_of(field_at(firing, j));
            row->severity = severity > row->severity ? severity : row->severity;
            row->firing += mpk_find_u64(field_at(firing, j), "count");
        }
    }
    struct opened *opened = &model->opened;
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(rows[i].job, opened->job) != 0) {
            continue;
        }
        if (opened->known && strcmp(opened->row.run, rows[i].run) != 0) {
            bool gone = opened->gone;
            model_open(model, rows[i].job, opened->run); /* the job was started again */
            opened->gone = gone;
        }
        model->moved = model->moved || !opened->known || rows[i].step != opened->row.step ||
                       rows[i].received != opened->row.received;
        opened->known = true;
        opened->row = rows[i];
    }
    free(model->rows);
    model->rows = rows;
    model->row_count = count;
    model->left_out = mpk_items(jobs) - count;
}

void read_monitor(struct model *model, const msgpack_object *result, int64_t now_ms)
{
    struct health before = model->health, health = health_of(mpk_find(result, "stats"), now_ms);
    bool again = before.known && health.uptime_s < before.uptime_s;
    if (before.known && !again && now_ms > before.at_ms) {
        health.rate =
            (double)(health.received - before.received) * 1000 / (double)(now_ms - before.at_ms);
    }
    if (!before.known || again || health.summaries != before.summaries ||
        health.alerts != before.alerts) {
        model->fresh_until_ms = now_ms + FRESH_MS;
    }
    model->moved = model->moved || again;
    model->health = health;
    model->refused[0] = '\0';
    /* The nodes of a hub that are late. */
    const msgpack_object *nodes = mpk_find(mpk_find(result, "fleet"), "nodes");
    uint32_t late = 0;
    for (uint32_t i = 0; i < mpk_items(nodes); i++) {
        late += field_node_is_late(field_at(nodes, i));
    }
    model->fleet[0] = '\0';
    if (late > 0) {
        snprintf(model->fleet, sizeof model->fleet, "! %" PRIu32 " node%s late: attnctl fleet",
                 late, late == 1 ? " is" : "s are");
    }
    char chosen[JOB_NAME_MAX + 1];
    model_chosen(model, chosen);
    read_runs(model, mpk_find(result, "jobs"));
    model_arrange(model, chosen);
}

/* Alerts */

static struct top_place read_place(const msgpack_object *map)
{
    struct top_place place = {.head = -1};
    uint64_t layer, head;
    const msgpack_object *of_layer = mpk_find(map, "layer"), *of_head = mpk_find(map, "head");
    if (!of_layer || mpk_get_u64(of_layer, LAYER_MAX, &layer) != 0) {
        return place;
    }
    place.layer = (uint32_t)layer;
    field_text(map, "stack", place.stack, sizeof place.stack);
    field_text(map, "site", place.site, sizeof place.site);
    if (of_head && mpk_get_u64(of_head, UINT32_MAX, &head) == 0) {
        place.head = (int64_t)head;
    }
    return place;
}

static struct alert alert_of(const msgpack_object *map)
{
    struct alert alert = {
        .severity = severity_of(map),
        .place = read_place(map),
        .since_step = field_began(map),
    };
    field_alert_since(map, alert.since);
    field_text(map, "rule", alert.rule, sizeof alert.rule);
    field_text(map, "message", alert.message, sizeof alert.message);
    field_text(map, "advice", alert.advice, sizeof alert.advice);
    return alert;
}

void read_verdict(struct opened *opened, const msgpack_object *result)
{
    const msgpack_object *alerts = mpk_find(result, "alerts"), *step = mpk_find(result, "step"),
                         *checks = mpk_find(result, "checks");
    opened->judged = step && mpk_get_u64(step, UINT64_MAX, &opened->judged_step) == 0;
    opened->checks = mpk_find_u64(checks, "judged");
    opened->unjudged = mpk_items(mpk_find(checks, "unjudged"));
    opened->unmeasured = mpk_items(mpk_find(checks, "unmeasured"));
    opened->more = field_bool(result, "more") || mpk_items(alerts) > TOP_ALERTS_MAX;
    opened->alert_count = 0;
    for (uint32_t i = 0; i < mpk_items(alerts) && i < TOP_ALERTS_MAX; i++) {
        opened->alerts[opened->alert_count++] = alert_of(field_at(alerts, i));
    }
}

void read_row_verdict(struct run_row *row, const msgpack_object *result)
{
    const msgpack_object *alerts = mpk_find(result, "alerts");
    row->known = true;
    row->alert_count = mpk_items(alerts);
    row->worst = row->alert_count > 0 ? alert_of(field_at(alerts, 0)) : (struct alert){0};
    row->checks = mpk_find_u64(mpk_find(result, "checks"), "judged");
    row->unmeasured = mpk_items(mpk_find(mpk_find(result, "checks"), "unmeasured"));
}

/* Lines */

void read_log(struct line *line, const msgpack_object *result)
{
    const msgpack_object *series = mpk_find(result, "series"), *chosen = field_at(series, 0);
    for (uint32_t i = mpk_items(series); i > 0; i--) {
        char name[FIELD_NAME_MAX];
        field_text(field_at(series, i - 1), "name", name, sizeof name);
        chosen = strcasestr(name, "loss") ? field_at(series, i - 1) : chosen;
    }
    const msgpack_object *steps = mpk_find(chosen, "step"), *values = mpk_find(chosen, "value");
    line->count = mpk_items(steps) < LINE_MAX_POINTS ? mpk_items(steps) : LINE_MAX_POINTS;
    for (uint32_t i = 0; i < line->count; i++) {
        const msgpack_object *step = field_at(steps, i);
        line->step[i] = 0;
        mpk_get_u64(step, UINT64_MAX, &line->step[i]);
        line->value[i] = field_item(values, i);
    }
}

static bool is_opened_run(const struct opened *opened, const msgpack_object *map)
{
    char run[2 * RUN_BYTES + 1];
    field_text(map, "run", run, sizeof run);
    return opened->row.run[0] == '\0' || strcmp(run, opened->row.run) == 0;
}

void read_live(struct model *model, const msgpack_object *result)
{
    for (uint32_t i = 0; i < mpk_items(result); i++) {
        const msgpack_object *map = field_at(result, i), *values = field_metric(map, model->metric);
        const struct top_place place = read_place(map);
        uint32_t heads = values && values->type == MSGPACK_OBJECT_ARRAY ? mpk_items(values) : 0;
        struct layer *layer = is_opened_run(&model->opened, map) && place.stack[0]
                                  ? model_layer(model, &place, heads)
                                  : NULL;
        for (uint32_t head = 0; layer && head < layer->heads; head++) {
            double value = field_item(values, head);
            /* With heads spread over ranks a message has only some, and spectra take turns. */
            bool kept = isnan(value) && (model->opened.row.world > 1 ||
                                         mpk_find(mpk_find(map, "spectrum"), model->metric));
            layer->now[head] = kept ? layer->now[head] : value;
        }
        if (layer) {
            field_text(map, "module", layer->module, sizeof layer->module);
        }
    }
}

/* One number of packed values [heads][windows]; NaN when they are shorter. */
static double packed_value(const msgpack_object *values, size_t index)
{
    uint32_t bits;
    float number;
    if (!values || values->type != MSGPACK_OBJECT_BIN || 4 * (index + 1) > values->via.bin.size) {
        return NAN;
    }
    memcpy(&bits, values->via.bin.ptr + 4 * index, sizeof bits);
    bits = le32toh(bits);
    memcpy(&number, &bits, sizeof number);
    return (double)number;
}

void read_grid(struct model *model, const msgpack_object *result)
{
    struct opened *opened = &model->opened;
    const msgpack_object *steps = mpk_find(mpk_find(result, "windows"), "step"),
                         *layers = mpk_find(result, "layers");
    uint32_t count = steps && steps->type == MSGPACK_OBJECT_BIN ? steps->via.bin.size / 8 : 0;
    if (!is_opened_run(opened, result) || count == 0 || count > LINE_MAX_POINTS) {
        return;
    }
    for (uint32_t i = 0; i < opened->layer_count; i++) { /* none has another number of windows */
        free(opened->layers[i].past);
        opened->layers[i].past = NULL;
    }
    opened->windows = count;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = 0;
        memcpy(&number, steps->via.bin.ptr + 8 * (size_t)i, sizeof number);
        opened->window_step[i] = le64toh(number);
    }
    for (uint32_t i = 0; i < mpk_items(layers); i++) {
        const msgpack_object *map = field_at(layers, i);
        uint32_t windows = opened->windows, heads = (uint32_t)mpk_find_u64(map, "heads");
        const struct top_place place = read_place(map);
        struct layer *layer = place.stack[0] ? model_layer(model, &place, heads) : NULL;
        if (!layer) {
            continue;
        }
        double *past = memory_new((size_t)layer->heads * windows, sizeof *past);
        for (size_t j = 0; j < (size_t)layer->heads * windows; j++) {
            past[j] = j / windows < heads ? packed_value(mpk_find(map, "values"), j) : NAN;
        }
        free(layer->past);
        layer->past = past;
        if (layer->module[0] == '\0') {
            field_text(map, "module", layer->module, sizeof layer->module);
        }
    }
}
