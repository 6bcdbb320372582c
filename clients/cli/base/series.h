/* SPDX-License-Identifier: MIT */
/* series: an answer of `history` read by head, statistic and window; and as rows for other
 * programs. Pure; borrows the answer. */
#ifndef CLIENTS_CLI_BASE_SERIES_H
#define CLIENTS_CLI_BASE_SERIES_H

#include "proto/mpk.h"

#include <stdio.h>

struct series {
    const msgpack_object *map;
    uint32_t heads, windows;
    bool nested; /* values are lists over heads of lists */
};

/* Missing parts of an answer are shown as missing. */
struct series series_of(const msgpack_object *map);

/* A number of a window: "first", "last", "epoch", "step", "time_ns". */
uint64_t series_window(const struct series *series, const char *key, uint32_t window);
bool series_partial(const struct series *series, uint32_t window);
/* NaN when there is none. */
double series_value(const struct series *series, const char *statistic, uint32_t head,
                    uint32_t window);

/* The names of the columns below. */
void series_print_header(FILE *out);
/* A row per head and window: as comma-separated values, or one JSON object per line. Numbers have
 * all their digits; what does not exist is empty, or null. */
void series_print(const struct series *series, bool json, FILE *out);

#endif
