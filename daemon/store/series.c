/* SPDX-License-Identifier: MIT */
/* Columns are copied, not compressed: a question about one head reads thousands of them, and
 * inflating would take longer than everything else. Columns that are cheap to restore are left out:
 * those that do not change, count up (units, counts), or repeat the mean (windows of one
 * message). */
#include "daemon/store/series.h"

#include "proto/err.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Damaged rows may claim anything. */
#define BLOB_BYTES_MAX (UINT64_C(1) << 30)

enum { COLUMN_RAW, COLUMN_LINEAR, COLUMN_AS_FIRST };

#define VALUE_BYTES sizeof(uint64_t)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "columns are kept as memory has them");

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
    const uint64_t line[] = {column[0], count > 1 ? column[1] - column[0] : 0};
    bool linear = is_linear(column, count);
    if (!linear && column != first && !memcmp(column, first, count * sizeof *column)) {
        *out = COLUMN_AS_FIRST;
        return out + 1;
    }
    size_t size = linear ? sizeof line : count * sizeof *column;
    *out++ = linear ? COLUMN_LINEAR : COLUMN_RAW;
    memcpy(out, linear ? line : column, size);
    return out + size;
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
    size_t rest = (size_t)(cursor->end - cursor->at), size = count * sizeof *ret_column;
    uint64_t line[2];
    if (kind == COLUMN_RAW && rest >= size) {
        memcpy(ret_column, cursor->at, size);
        cursor->at += size;
        return true;
    }
    if (kind == COLUMN_LINEAR && rest >= sizeof line) {
        memcpy(line, cursor->at, sizeof line);
        for (uint32_t i = 0; i < count; i++) {
            ret_column[i] = line[0] + i * line[1];
        }
        cursor->at += sizeof line;
        return true;
    }
    if (kind == COLUMN_AS_FIRST && ret_column != first) {
        memcpy(ret_column, first, size);
        return true;
    }
    return false;
}

/* Rows of `columns` values of 8 bytes: column c has the value place[c] of each. */

static size_t put_rows(const void *rows, const uint8_t *place, uint32_t columns, uint32_t count,
                       uint8_t *ret_data)
{
    uint64_t column[2][SERIES_WINDOWS_MAX]; /* the first, and one of the others */
    const char *from = rows;
    uint8_t *end = ret_data;
    for (uint32_t c = 0; c < columns; c++) {
        for (uint32_t i = 0; i < count; i++) {
            memcpy(&column[c > 0][i], from + VALUE_BYTES * (i * columns + place[c]), VALUE_BYTES);
        }
        end = store_series_put_column(column[c > 0], count, column[0], end);
    }
    return (size_t)(end - ret_data);
}

/* There are `least` or more of the columns; the others are NaN. */
static int take_rows(const void *data, size_t size, const uint8_t *place, uint32_t least,
                     uint32_t columns, uint32_t count, void *ret_rows)
{
    uint64_t column[SERIES_STAT_COLUMNS][SERIES_WINDOWS_MAX];
    struct series_cursor cursor = {data, (const uint8_t *)data + size};
    const double none = NAN;
    uint32_t taken = 0;
    if (count < 1 || count > SERIES_WINDOWS_MAX) {
        return ERR_STORE_FORMAT;
    }
    for (; taken < columns && (taken < least || cursor.at < cursor.end); taken++) {
        if (!take_column(&cursor, count, column[0], column[taken])) {
            return ERR_STORE_FORMAT;
        }
    }
    if (cursor.at != cursor.end) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t c = 0; c < columns; c++) {
        for (uint32_t i = 0; i < count; i++) {
            memcpy((char *)ret_rows + VALUE_BYTES * (i * columns + place[c]),
                   c < taken ? (const void *)&column[c][i] : &none, VALUE_BYTES);
        }
    }
    return 0;
}

/* The places below are those of the members. */
#define MEMBER_AT(type, member, place)                                                             \
    _Static_assert(offsetof(struct type, member) == (place)*VALUE_BYTES, #member)

static const uint8_t window_place[SERIES_WINDOW_COLUMNS] = {0, 1, 2, 3, 4, 5, 6, 7};
_Static_assert(sizeof(struct series_window) == SERIES_WINDOW_COLUMNS * VALUE_BYTES, "no others");
MEMBER_AT(series_window, first, 0);
MEMBER_AT(series_window, last, 1);
MEMBER_AT(series_window, epoch, 2);
MEMBER_AT(series_window, step, 3);
MEMBER_AT(series_window, time_ns, 4);
MEMBER_AT(series_window, messages, 5);
MEMBER_AT(series_window, lost, 6);
MEMBER_AT(series_window, partial, 7);

size_t series_windows_encode(const struct series_window *windows, uint32_t count, uint8_t *ret_data)
{
    return put_rows(windows, window_place, SERIES_WINDOW_COLUMNS, count, ret_data);
}

int series_windows_decode(const void *data, size_t size, uint32_t count,
                          struct series_window *ret_windows)
{
    return take_rows(data, size, window_place, SERIES_WINDOW_COLUMNS, SERIES_WINDOW_COLUMNS, count,
                     ret_windows);
}

/* p10 came last. */
static const uint8_t stat_place[SERIES_STAT_COLUMNS] = {0, 1, 2, 3, 5, 6, 7, 8, 9, 4};
_Static_assert(sizeof(struct result_stat) == SERIES_STAT_COLUMNS * VALUE_BYTES, "no others");
MEMBER_AT(result_stat, mean, 0);
MEMBER_AT(result_stat, std, 1);
MEMBER_AT(result_stat, min, 2);
MEMBER_AT(result_stat, max, 3);
MEMBER_AT(result_stat, p10, 4);
MEMBER_AT(result_stat, p50, 5);
MEMBER_AT(result_stat, p90, 6);
MEMBER_AT(result_stat, p99, 7);
MEMBER_AT(result_stat, last, 8);
MEMBER_AT(result_stat, count, 9);

size_t series_encode(const struct result_stat *stats, uint32_t count, uint8_t *ret_data)
{
    return put_rows(stats, stat_place, SERIES_STAT_COLUMNS, count, ret_data);
}

int series_decode(const void *data, size_t size, uint32_t count, struct result_stat *ret_stats)
{
    return take_rows(data, size, stat_place, SERIES_P10, SERIES_STAT_COLUMNS, count, ret_stats);
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
