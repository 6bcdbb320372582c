/* SPDX-License-Identifier: MIT */
/* Columns are copied, not compressed: a question about one head reads thousands of them, and
 * inflating would take longer than everything else. Columns that are cheap to restore are left out:
 * those that do not change, count up (units, counts), or repeat the mean (windows of one
 * message). */
#include "daemon/store/series.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Damaged rows may claim anything. */
#define BLOB_BYTES_MAX (UINT64_C(1) << 30)

enum { COLUMN_RAW, COLUMN_LINEAR, COLUMN_AS_FIRST };

/* Bytes and numbers */

static void store_series_put_u64(uint8_t *out, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)(value >> 8 * i);
    }
}

static uint64_t store_series_get_u64(const uint8_t *in)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value |= (uint64_t)in[i] << 8 * i;
    }
    return value;
}

static uint64_t bits_of(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static double store_series_number_of(uint64_t bits)
{
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* One column */

static bool is_linear(const uint64_t *column, uint32_t count)
{
    uint64_t step = count > 1 ? column[1] - column[0] : 0;
    for (uint32_t i = 1; i < count; i++) {
        if (column[i] - column[i - 1] != step) {
            return false;
        }
    }
    return true;
}

static uint8_t *store_series_put_column(const uint64_t *column, uint32_t count,
                                        const uint64_t *first, uint8_t *out)
{
    if (is_linear(column, count)) {
        *out = COLUMN_LINEAR;
        store_series_put_u64(out + 1, column[0]);
        store_series_put_u64(out + 9, count > 1 ? column[1] - column[0] : 0);
        return out + 17;
    }
    if (column != first && !memcmp(column, first, count * sizeof *column)) {
        *out = COLUMN_AS_FIRST;
        return out + 1;
    }
    *out++ = COLUMN_RAW;
    for (uint32_t i = 0; i < count; i++, out += 8) {
        store_series_put_u64(out, column[i]);
    }
    return out;
}

struct series_cursor {
    const uint8_t *at, *end;
};

/* Returns whether there was one. */
static bool take_column(struct series_cursor *cursor, uint32_t count, const uint64_t *first,
                        uint64_t *ret_column)
{
    if (cursor->at == cursor->end) {
        return false;
    }
    uint8_t kind = *cursor->at++;
    size_t rest = (size_t)(cursor->end - cursor->at);
    if (kind == COLUMN_RAW && rest >= 8 * (size_t)count) {
        for (uint32_t i = 0; i < count; i++) {
            ret_column[i] = store_series_get_u64(cursor->at + 8 * (size_t)i);
        }
        cursor->at += 8 * (size_t)count;
        return true;
    }
    if (kind == COLUMN_LINEAR && rest >= 16) {
        uint64_t start = store_series_get_u64(cursor->at),
                 step = store_series_get_u64(cursor->at + 8);
        for (uint32_t i = 0; i < count; i++) {
            ret_column[i] = start + i * step;
        }
        cursor->at += 16;
        return true;
    }
    if (kind == COLUMN_AS_FIRST && ret_column != first) {
        memcpy(ret_column, first, count * sizeof *ret_column);
        return true;
    }
    return false;
}

/* All of them: column c of `columns` is at columns[c * SERIES_WINDOWS_MAX]. */

static size_t put_columns(const uint64_t *columns, uint32_t how_many, uint32_t count, uint8_t *out)
{
    uint8_t *end = out;
    for (uint32_t c = 0; c < how_many; c++) {
        end =
            store_series_put_column(columns + (size_t)c * SERIES_WINDOWS_MAX, count, columns, end);
    }
    return (size_t)(end - out);
}

/* There are `least` or more of how_many; the others stay as they are. */
static int take_columns(const void *data, size_t size, uint32_t least, uint32_t how_many,
                        uint32_t count, uint64_t *ret_columns)
{
    if (count < 1 || count > SERIES_WINDOWS_MAX) {
        return ERR_STORE_FORMAT;
    }
    struct series_cursor cursor = {data, (const uint8_t *)data + size};
    for (uint32_t c = 0; c < how_many && (c < least || cursor.at < cursor.end); c++) {
        if (!take_column(&cursor, count, ret_columns,
                         ret_columns + (size_t)c * SERIES_WINDOWS_MAX)) {
            return ERR_STORE_FORMAT;
        }
    }
    return cursor.at == cursor.end ? 0 : ERR_STORE_FORMAT;
}

/* Windows */

size_t series_windows_encode(const struct series_window *windows, uint32_t count, uint8_t *ret_data)
{
    uint64_t column[SERIES_WINDOW_COLUMNS][SERIES_WINDOWS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        const struct series_window *w = &windows[i];
        const uint64_t field[SERIES_WINDOW_COLUMNS] = {
            w->first, w->last, w->epoch, w->step, w->time_ns, w->messages, w->lost, w->partial};
        for (uint32_t c = 0; c < SERIES_WINDOW_COLUMNS; c++) {
            column[c][i] = field[c];
        }
    }
    return put_columns(&column[0][0], SERIES_WINDOW_COLUMNS, count, ret_data);
}

int series_windows_decode(const void *data, size_t size, uint32_t count,
                          struct series_window *ret_windows)
{
    uint64_t column[SERIES_WINDOW_COLUMNS][SERIES_WINDOWS_MAX];
    int code = take_columns(data, size, SERIES_WINDOW_COLUMNS, SERIES_WINDOW_COLUMNS, count,
                            &column[0][0]);
    for (uint32_t i = 0; !code && i < count; i++) {
        ret_windows[i] = (struct series_window){
            .first = column[0][i],
            .last = column[1][i],
            .epoch = column[2][i],
            .step = column[3][i],
            .time_ns = column[4][i],
            .messages = column[5][i],
            .lost = column[6][i],
            .partial = column[7][i],
        };
    }
    return code;
}

/* Numbers */

size_t series_encode(const struct result_stat *stats, uint32_t count, uint8_t *ret_data)
{
    uint64_t column[SERIES_STAT_COLUMNS][SERIES_WINDOWS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        const struct result_stat *s = &stats[i];
        const uint64_t field[SERIES_STAT_COLUMNS] = {
            bits_of(s->mean), bits_of(s->std), bits_of(s->min),  bits_of(s->max), bits_of(s->p50),
            bits_of(s->p90),  bits_of(s->p99), bits_of(s->last), s->count,        bits_of(s->p10)};
        for (uint32_t c = 0; c < SERIES_STAT_COLUMNS; c++) {
            column[c][i] = field[c];
        }
    }
    return put_columns(&column[0][0], SERIES_STAT_COLUMNS, count, ret_data);
}

int series_decode(const void *data, size_t size, uint32_t count, struct result_stat *ret_stats)
{
    uint64_t column[SERIES_STAT_COLUMNS][SERIES_WINDOWS_MAX];
    for (uint32_t i = 0; i < SERIES_WINDOWS_MAX; i++) {
        column[SERIES_P10][i] = bits_of(NAN);
    }
    int code = take_columns(data, size, SERIES_P10, SERIES_STAT_COLUMNS, count, &column[0][0]);
    for (uint32_t i = 0; !code && i < count; i++) {
        ret_stats[i] = (struct result_stat){
            .mean = store_series_number_of(column[0][i]),
            .std = store_series_number_of(column[1][i]),
            .min = store_series_number_of(column[2][i]),
            .max = store_series_number_of(column[3][i]),
            .p50 = store_series_number_of(column[4][i]),
            .p90 = store_series_number_of(column[5][i]),
            .p99 = store_series_number_of(column[6][i]),
            .last = store_series_number_of(column[7][i]),
            .count = column[8][i],
            .p10 = store_series_number_of(column[SERIES_P10][i]),
        };
    }
    return code;
}

/* Blobs */

size_t blob_deflate(const void *data, size_t size, void *ret_data)
{
    if (size < 2) {
        return 0;
    }
    uLongf packed = size - 1;
    return compress2(ret_data, &packed, data, size, Z_BEST_SPEED) == Z_OK ? packed : 0;
}

int blob_inflate(const void *data, size_t size, uint64_t bytes, uint8_t **ret_plain)
{
    if (!data || bytes == 0 || bytes > BLOB_BYTES_MAX || size > bytes) {
        return ERR_STORE_FORMAT;
    }
    uint8_t *plain = malloc(bytes);
    uLongf unpacked = bytes;
    int rc = plain ? Z_OK : Z_MEM_ERROR;
    if (plain && size == bytes) {
        memcpy(plain, data, size);
    } else if (plain) {
        rc = uncompress(plain, &unpacked, data, size);
    }
    if (rc == Z_OK && unpacked == bytes) {
        *ret_plain = plain;
        return 0;
    }
    free(plain);
    return rc == Z_MEM_ERROR ? ERR_MEMORY : ERR_STORE_FORMAT;
}
