/* SPDX-License-Identifier: MIT */
/* store_series: the numbers of many windows as columns of bytes, and back; and deflated blobs.
 * Pure; any thread.
 *
 * A column of `count` 64-bit values, little-endian, doubles by their bits:
 *
 *     u8 COLUMN_RAW       count x u64
 *     u8 COLUMN_LINEAR    u64 first, u64 step: first + i * step, modulo 2^64
 *     u8 COLUMN_AS_FIRST  nothing: the same as the first column
 *
 * chunks.windows: the columns first, last, epoch, step, time_ns, messages, lost, partial.
 * series.data: the columns mean, std, min, max, p50, p90, p99, last, count, p10; files of schema
 * version 1 end before p10, which then does not exist. */
#ifndef DAEMON_STORE_SERIES_H
#define DAEMON_STORE_SERIES_H

#include "proto/result.h"

/* Windows of one chunk, at most. */
#define SERIES_WINDOWS_MAX 64

struct series_window {
    /* in the order of the file's columns */
    uint64_t first, last, epoch, step, time_ns, messages, lost, partial;
};

#define SERIES_WINDOW_COLUMNS 8
#define SERIES_STAT_COLUMNS   10
#define SERIES_P10            9 /* the last column */
/* Room for `count` windows, for `count` windows of one head's metric. */
#define SERIES_WINDOWS_BYTES(count) ((size_t)SERIES_WINDOW_COLUMNS * (1 + 8 * (size_t)(count)))
#define SERIES_STATS_BYTES(count)   ((size_t)SERIES_STAT_COLUMNS * (1 + 8 * (size_t)(count)))

/* 1 <= count <= SERIES_WINDOWS_MAX. Return the bytes written. */
size_t series_windows_encode(const struct series_window *windows, uint32_t count,
                             uint8_t *ret_data);
size_t series_encode(const struct result_stat *stats, uint32_t count, uint8_t *ret_data);
/* Fill ret_x[0..count). Return 0, or ERR_STORE_FORMAT for what is no such chunk, also one whose
 * count is out of range. */
int series_windows_decode(const void *data, size_t size, uint32_t count,
                          struct series_window *ret_windows);
int series_decode(const void *data, size_t size, uint32_t count, struct result_stat *ret_stats);

/* Deflates (zlib, level 1) into ret_data, which has room for `size` bytes. Returns the bytes
 * written, or 0 when the result is not shorter: then the data is kept as it is. */
size_t blob_deflate(const void *data, size_t size, void *ret_data);
/* The other way: data of `size` bytes is what it was when size == bytes, else deflated. Returns 0
 * with *ret_plain, `bytes` bytes, the caller's to free; ERR_STORE_FORMAT when its size is another,
 * or one that nobody has written (data NULL, none, over 1 GiB); or ERR_MEMORY. */
int blob_inflate(const void *data, size_t size, uint64_t bytes, uint8_t **ret_plain);

#endif
