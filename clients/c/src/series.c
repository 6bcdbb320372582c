/* SPDX-License-Identifier: MIT */
/* Numbers come as binaries of little-endian values, which have no alignment in the frame: they are
 * copied. */
#include "clients/c/src/series.h"

#include "proto/tensor.h"
#include <endian.h>
#include <stdlib.h>
#include <string.h>

static const char *const unit_names[] = {"first", "last", "epoch", "step", "time_ns"};
static const char *const statistic_names[] = {"mean", "std", "min", "max",  "p10",
                                              "p50",  "p90", "p99", "last", "count"};
enum {
    UNITS = sizeof unit_names / sizeof unit_names[0],
    STATISTICS = sizeof statistic_names / sizeof statistic_names[0],
};

struct attn_series {
    uint32_t windows, heads;
    bool more;
    uint64_t *unit[UNITS];     /* [windows]; owned */
    double *value[STATISTICS]; /* [heads][windows]; owned */
};

/* Numbers of either type, 8 bytes each, to `to` [count]; false when their number is not `count`. */
static bool series_unpack(const msgpack_object *value, uint32_t count, void *to)
{
    if (!value || value->type != MSGPACK_OBJECT_BIN ||
        value->via.bin.size != (uint64_t)count * sizeof(uint64_t)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, value->via.bin.ptr + sizeof bits * i, sizeof bits);
        bits = le64toh(bits);
        memcpy((char *)to + sizeof bits * i, &bits, sizeof bits);
    }
    return true;
}

/* The packed column of a head; a single head has no list around it. */
static const msgpack_object *head_column(const msgpack_object *column, uint32_t head)
{
    if (column->type != MSGPACK_OBJECT_ARRAY) {
        return head == 0 ? column : NULL;
    }
    return head < column->via.array.size ? &column->via.array.ptr[head] : NULL;
}

static int series_read(const msgpack_object *answer, attn_series *series)
{
    const msgpack_object *windows = mpk_find(answer, "windows"), *heads = mpk_find(answer, "heads");
    const msgpack_object *last = mpk_find(windows, "last"), *more = mpk_find(answer, "more");
    if (!last || last->type != MSGPACK_OBJECT_BIN || !heads ||
        heads->type != MSGPACK_OBJECT_ARRAY || !more || mpk_get_bool(more, &series->more) != 0) {
        return ATTN_E_MESSAGE;
    }
    series->windows = last->via.bin.size / (uint32_t)sizeof(uint64_t);
    series->heads = heads->via.array.size;
    for (int i = 0; i < UNITS; i++) {
        series->unit[i] = malloc((size_t)series->windows * sizeof(uint64_t) + 1);
        if (!series->unit[i]) {
            return ATTN_E_MEMORY;
        }
        if (!series_unpack(mpk_find(windows, unit_names[i]), series->windows, series->unit[i])) {
            return ATTN_E_MESSAGE;
        }
    }
    for (int i = 0; i < STATISTICS; i++) {
        const msgpack_object *column = mpk_find(mpk_find(answer, "values"), statistic_names[i]);
        double *values;
        if (!column) {
            continue;
        }
        values = malloc((size_t)series->heads * series->windows * sizeof *values + 1);
        series->value[i] = values;
        if (!values) {
            return ATTN_E_MEMORY;
        }
        for (uint32_t head = 0; head < series->heads; head++) {
            if (!series_unpack(head_column(column, head), series->windows,
                               values + (size_t)head * series->windows)) {
                return ATTN_E_MESSAGE;
            }
        }
    }
    return 0;
}

int series_new(const msgpack_object *answer, attn_series **ret_series)
{
    attn_series *series = calloc(1, sizeof *series);
    int rc = series ? series_read(answer, series) : ATTN_E_MEMORY;
    if (rc) {
        attn_series_free(&series);
    } else {
        *ret_series = series;
    }
    return rc;
}

void attn_series_free(attn_series **series)
{
    if (!series || !*series) {
        return;
    }
    for (int i = 0; i < UNITS; i++) {
        free((*series)->unit[i]);
    }
    for (int i = 0; i < STATISTICS; i++) {
        free((*series)->value[i]);
    }
    free(*series);
    *series = NULL;
}

uint32_t attn_series_windows(const attn_series *series)
{
    return series->windows;
}

uint32_t attn_series_heads(const attn_series *series)
{
    return series->heads;
}

bool attn_series_more(const attn_series *series)
{
    return series->more;
}

const uint64_t *attn_series_units(const attn_series *series, const char *key)
{
    for (int i = 0; i < UNITS; i++) {
        if (strcmp(key, unit_names[i]) == 0) {
            return series->unit[i];
        }
    }
    return NULL;
}

const double *attn_series_values(const attn_series *series, const char *stat, uint32_t head)
{
    for (int i = 0; i < STATISTICS; i++) {
        if (strcmp(stat, statistic_names[i]) == 0 && series->value[i] && head < series->heads) {
            return series->value[i] + (size_t)head * series->windows;
        }
    }
    return NULL;
}

/* ---- maps ---- */

int map_read(const msgpack_object *answer, attn_mean_map *ret_map)
{
    const msgpack_object *values = mpk_find(answer, "values");
    uint64_t rows = mpk_find_u64(answer, "rows"), columns = mpk_find_u64(answer, "columns");
    if (rows == 0 || rows > ATTN_MAP_SIDE_MAX || columns == 0 || columns > ATTN_MAP_SIDE_MAX ||
        !values || values->type != MSGPACK_OBJECT_BIN ||
        values->via.bin.size != 2 * rows * columns) {
        return ATTN_E_MESSAGE;
    }
    ret_map->rows = (uint32_t)rows;
    ret_map->columns = (uint32_t)columns;
    ret_map->epoch = mpk_find_u64(answer, "epoch");
    ret_map->step = mpk_find_u64(answer, "step");
    for (uint32_t i = 0; i < rows * columns; i++) {
        const unsigned char *at = (const unsigned char *)values->via.bin.ptr + 2 * (size_t)i;
        ret_map->values[i] = tensor_half((uint16_t)(at[0] | at[1] << 8));
    }
    return 0;
}
