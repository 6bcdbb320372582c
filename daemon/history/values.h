/* SPDX-License-Identifier: MIT */
/* history_values: the numbers of one metric of one layer in given windows, whether these are in
 * chunks or still in states. Reader thread. */
#ifndef DAEMON_HISTORY_VALUES_H
#define DAEMON_HISTORY_VALUES_H

#include "daemon/store/number.h"
#include "daemon/history/windows.h"

/* Columns of `windows` in an answer. */
enum { WINDOW_COLUMNS = 6 };

struct value_series {
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    const char *metric;
    int number;          /* number.h; -1 = only a newer attnd knows it */
    uint32_t head_first; /* heads in the answer */
    uint32_t heads;
    bool of_layer; /* one value for the layer: `heads` is 1 */
    bool any;      /* there is a value */
    struct window_rows rows;
    uint32_t statistics;       /* asked for */
    int slot[STATISTIC_COUNT]; /* of them: place among those; else -1 */
    double *value;             /* [heads][statistics][rows.count] */
};

/* The statistics that are wanted, as bits. */
void series_choose(struct value_series *series, unsigned statistics);
/* Reads metric, number, heads of series->rows, in which it may skip what it likes of the layer's
 * windows, but keeps their order; of `count` series, which differ in metric and number only and may
 * share the rows. A number that a window lacks is NaN, with a count of 0. Returns 0 or an error. */
int series_read(struct query *query, struct value_series *series, uint32_t count);
/* Over the windows, of a statistic that is wanted. */
double *series_column(struct value_series *series, uint32_t head, int statistic);
/* Frees rows and values. */
void series_clear(struct value_series *series);

/* `windows`: 1 key. Returns 0 or ERR_MEMORY. */
int put_windows(struct query *query, const struct window_rows *rows);

#endif
