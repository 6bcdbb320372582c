/* SPDX-License-Identifier: MIT */
#include "daemon/store/internal.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

struct store_batch *batch_new(const struct store_run *run)
{
    size_t size = sizeof(struct store_batch) + strlen(run->job) + 1;
    struct store_batch *batch = calloc(1, size);
    if (!batch) {
        return NULL;
    }
    batch->run = *run;
    batch->run.job = strcpy(batch->job, run->job);
    batch->run.run = memcpy(batch->run_id, run->run, RUN_BYTES);
    batch->last = &batch->first;
    batch->bytes = size;
    batch->records = 1;
    return batch;
}

void batch_free(struct store_batch **batch_p)
{
    struct store_batch *batch = *batch_p;
    if (!batch) {
        return;
    }
    for (struct record *record = batch->first, *next; record; record = next) {
        next = record->next;
        free(record);
    }
    promises_free(&batch->promises);
    free(batch);
    *batch_p = NULL;
}

/* One more record, with room for `bytes`, which the caller fills; NULL when out of memory. */
static struct record *batch_add(struct store_batch *batch, enum record_kind kind, size_t bytes)
{
    struct record *record = malloc(sizeof *record + bytes);
    if (!record) {
        return NULL;
    }
    record->next = NULL;
    record->kind = kind;
    batch->precious = batch->precious || kind == RECORD_WINDOW || kind == RECORD_ALERT ||
                      kind == RECORD_POINT || kind == RECORD_SKETCH || kind == RECORD_OUT;
    batch->records += batch->first != NULL;
    batch->bytes += sizeof *record + bytes;
    *batch->last = record;
    batch->last = &record->next;
    return record;
}

/* Copies to *at, which moves on. Returns the copy. */
static const void *store_batch_put(uint8_t **at, const void *data, size_t size)
{
    void *copy = *at;
    if (size) {
        memcpy(copy, data, size);
    }
    *at += size;
    return copy;
}

static const char *store_batch_put_text(uint8_t **at, const char *text)
{
    return store_batch_put(at, text, strlen(text) + 1);
}

int batch_window(struct store_batch *batch, const struct store_window *window)
{
    size_t bytes = window->state_size + (window->module ? strlen(window->module) + 1 : 0);
    struct record *record = batch_add(batch, RECORD_WINDOW, bytes);
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.window = *window;
    record->of.window.state = store_batch_put(&at, window->state, window->state_size);
    if (window->module) {
        record->of.window.module = store_batch_put_text(&at, window->module);
    }
    return 0;
}

int batch_map(struct store_batch *batch, const struct store_map *map)
{
    const struct store_head_maps *heads = &map->of_heads;
    size_t mean = (size_t)map->rows * map->columns * sizeof *map->values;
    size_t each = (size_t)heads->heads * heads->rows * heads->columns * sizeof *heads->values;
    size_t bytes = mean + each;
    struct record *record = batch_add(batch, RECORD_MAP, bytes);
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.map = *map;
    record->of.map.values = store_batch_put(&at, map->values, mean);
    record->of.map.of_heads.values = store_batch_put(&at, heads->values, each);
    return 0;
}

int batch_alert(struct store_batch *batch, const struct alert_result *alert)
{
    size_t bytes = strlen(alert->rule) + strlen(alert->metric) + strlen(alert->message) + 3;
    struct record *record = batch_add(batch, RECORD_ALERT, bytes);
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.alert = *alert;
    record->of.alert.common.job = NULL;
    record->of.alert.common.run = NULL;
    record->of.alert.rule = store_batch_put_text(&at, alert->rule);
    record->of.alert.metric = store_batch_put_text(&at, alert->metric);
    record->of.alert.message = store_batch_put_text(&at, alert->message);
    return 0;
}

int batch_point(struct store_batch *batch, const struct store_point *point)
{
    size_t bytes = strlen(point->name) + 1;
    struct record *record = batch_add(batch, RECORD_POINT, bytes);
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.point = *point;
    record->of.point.name = store_batch_put_text(&at, point->name);
    return 0;
}

int batch_sketch(struct store_batch *batch, const struct store_sketch *sketch)
{
    struct record *record = batch_add(batch, RECORD_SKETCH, sketch->numbers_size);
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.sketch = *sketch;
    record->of.sketch.numbers = store_batch_put(&at, sketch->numbers, sketch->numbers_size);
    return 0;
}

/* `key` NULL: it has none. */
static int batch_add_kept(struct store_batch *batch, enum record_kind kind, const char *key,
                          const void *value, size_t size)
{
    struct record *record = batch_add(batch, kind, size + (key ? strlen(key) + 1 : 0));
    if (!record) {
        return ERR_MEMORY;
    }
    uint8_t *at = record->bytes;
    record->of.kept =
        (struct record_kept){.value = store_batch_put(&at, value, size), .size = size};
    record->of.kept.key = key ? store_batch_put_text(&at, key) : NULL;
    return 0;
}

int batch_settings(struct store_batch *batch, const void *settings, size_t size)
{
    return batch_add_kept(batch, RECORD_SETTINGS, NULL, settings, size);
}

int batch_failure(struct store_batch *batch, const void *failure, size_t size)
{
    return batch_add_kept(batch, RECORD_FAILURE, NULL, failure, size);
}

int batch_keep(struct store_batch *batch, const char *key, const void *value, size_t size)
{
    return batch_add_kept(batch, RECORD_KEEP, key, value, size);
}

int batch_out(struct store_batch *batch, const void *body, size_t size)
{
    return batch_add_kept(batch, RECORD_OUT, NULL, body, size);
}

int batch_forget(struct store_batch *batch, const char *prefix)
{
    return batch_add_kept(batch, RECORD_FORGET, prefix, NULL, 0);
}

void batch_hold(struct store_batch *batch, bool last)
{
    batch->held = true;
    batch->is_last = last;
    batch->precious = batch->precious || last;
}

struct promises *batch_promises(struct store_batch *batch)
{
    return &batch->promises;
}
