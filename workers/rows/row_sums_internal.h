/* SPDX-License-Identifier: MIT */
/* Reading and judging the sums of rows, for both ways to finish them. */
#ifndef WORKERS_ROWS_ROW_SUMS_INTERNAL_H
#define WORKERS_ROWS_ROW_SUMS_INTERNAL_H

#include "workers/rows/row_batch.h"
#include "workers/rows/row_sums.h"

/* Rows of a head at a time: of each sum some lines of the cache, since the sums of a layer are a
 * multiple of 4 KiB apart. A multiple of ROW_BATCH. */
#define ROW_CHUNK 128

/* Some rows of a head, read once. A sum that was not sent is 0, or no logit. */
struct row_chunk {
    uint32_t count; /* of ROW_CHUNK */
    float sum[ROW_SUM_COUNT][ROW_CHUNK];
    int32_t place[ROW_PLACE_COUNT][ROW_CHUNK];
};

/* The facts of a message that a kernel needs. */
struct row_rules {
    int32_t keys;
    float local_window;
    bool has_apart, has_with_first, has_seen, has_farthest;
    bool as_sent; /* weights that are not divided by their sum */
};

/* ROW_BATCH rows of a chunk, as weights; before a sink takes its share. */
struct row_scaled {
    float top[ROW_BATCH];                 /* the logit that weights are relative to */
    float z[ROW_BATCH], log_z[ROW_BATCH]; /* their sum in that unit; 1 where nothing is divided */
    float unit[ROW_BATCH];                /* of the sums over the rest */
    float first[ROW_BATCH];               /* the weight of the key apart */
    float seen[ROW_BATCH];                /* keys */
    float sum[ROW_BATCH], square[ROW_BATCH], least[ROW_BATCH], most[ROW_BATCH]; /* of weights */
};

/* Sums over numbers and their squares, in f64: of f32 numbers, below whose rounding the
 * cancellation is. */
struct sums_total {
    double n, sum, squares;
    float min, max;
};

/* All such sums of a head. */
struct sums_totals {
    struct sums_total entries, logits, cosines, lengths;
};

/* The rows of a batch that count, as bits: in `entries` those of which nothing is left to sinks. */
struct sums_counted {
    uint32_t sound, valid, entries;
};

/* Logits further below the largest than this are weights that f64 does not tell from 0. */
#define ROW_SUMS_FALL_LEAST -744.4f

/* One of them. */
struct row_numbers {
    double sum[ROW_SUM_COUNT];
    int32_t place[ROW_PLACE_COUNT];
    double seen, farthest; /* of the head, or of all */
    double apart;          /* the key that stands apart */
    double first;          /* the first key of the document; of one that is not known a key before
                              `apart` */
    bool with_first;       /* that one is visible */
};

/* A row that may not be what it says. */
enum row_verdict {
    ROW_PADDING,    /* is not looked at */
    ROW_SOUND,      /* of weights: as far as its sum is not off */
    ROW_UNSOUND,    /* sees keys, and has no numbers */
    ROW_BLIND,      /* valid, and sees no key */
    ROW_OFF,        /* the sum of its weights is off */
    ROW_IMPOSSIBLE, /* nobody's sums */
};

/* An empty one, which row_sums_read fills again and again. */
void row_sums_begin(struct row_chunk *chunk);
/* Reads `count` rows from row i on of sample b and head h. */
void row_sums_read(const struct sent_sums *rows, uint32_t b, uint32_t h, uint32_t i, uint32_t count,
                   struct row_chunk *chunk);
void row_sums_take(const struct sent_sums *rows, const struct row_chunk *chunk, uint32_t slot,
                   struct row_numbers *ret_row);
enum row_verdict row_sums_judge(const struct sent_sums *rows, const struct row_numbers *row);
/* |k| of the keys of a sample and key head that are no padding: adds those that are finite. Kernels
 * sum them up, if there are any. */
void row_sums_add_keys(const struct sent_sums *rows, uint32_t b, uint32_t kv,
                       const struct row_kernels *kernels, struct moments *into);
/* The logit of a head's sink, -INFINITY without one. After NaN or +INFINITY no row is sound. */
double row_sums_sink(const struct sent_sums *rows, uint32_t h);

/* Between 0 and 1, e^x - 1 and x e^x are within 3e-8 x of polynomials of x, x^2, ... (through
 * Chebyshev points): power sums give both. */
#define ROW_SUMS_POWERS 7
extern const double row_sums_grown[ROW_SUMS_POWERS], row_sums_tilted[ROW_SUMS_POWERS];
/* The sum of the n-th powers, n from 1. */
extern const enum row_sum row_sums_power[ROW_SUMS_POWERS];

#endif
