/* SPDX-License-Identifier: MIT */
/* measure: the numbers shown for one sample of a layer, found in one pass over its heads: row sums,
 * one query's weights, a small picture, the largest entries. Numbers are of the map that was asked
 * for, one head's or the mean over the heads. One thread. */
#ifndef CLIENTS_CLI_SHOW_MEASURE_H
#define CLIENTS_CLI_SHOW_MEASURE_H

#include "clients/cli/source/source.h"

#define HEAD_MEAN      UINT32_MAX
#define TOKEN_AUTO     UINT32_MAX
#define TOP_KEYS       3
#define TOP_PAIRS_MOST 100

struct show_request {
    size_t layer;
    uint32_t sample;
    uint32_t head;  /* HEAD_MEAN = of all */
    uint32_t query; /* TOKEN_AUTO = the first; when it attends to one key at most, the last one that
                     * attends to any */
    uint32_t picture_rows, picture_columns; /* at most */
    uint32_t pairs;                         /* at most TOP_PAIRS_MOST */
};

/* Sums over the rows of all heads. A row is sound when its sum is 1 within the layer's
 * tolerance. */
struct row_sums {
    uint64_t rows, sound;
    uint64_t zero;    /* all entries 0 */
    uint64_t missing; /* with an entry that is no number */
    uint64_t other;
    double min, max;                /* of rows without missing entries, and not all 0; NaN = none */
    double deviation;               /* mean of |sum - 1| over the same */
    uint32_t other_head, other_row; /* the first of `other` */
    double other_sum;
};

struct entry {
    uint32_t row, column; /* cells of the source's map */
    float weight;
};

struct findings {
    struct row_sums sums;
    uint64_t finite; /* entries of the map that are numbers */
    uint32_t row;    /* the query's cell */
    bool moved;      /* it is not the first, because that attends to one key at most */
    float *query;    /* [columns] of the map; owned */
    /* [heads][top_count]: the largest of the query's weights in each head, descending; owned */
    struct entry *tops;
    uint32_t top_count; /* TOP_KEYS, or fewer keys */
    uint32_t picture_rows, picture_columns;
    double *picture; /* [picture_rows][picture_columns], NaN = no number in it; owned */
    struct entry pairs[TOP_PAIRS_MOST];
    uint32_t pair_count;
};

/* Sample, head and query were checked. Returns as source_rows; findings_clear is the caller's on
 * CLI_OK. */
int measure_map(struct source *source, const struct show_request *request,
                struct findings *ret_findings, char *reterr);
void findings_clear(struct findings *findings);

/* The `most` largest numbers of weights[columns], descending, the earlier first; returns how many
 * there are. */
uint32_t measure_top(const float *weights, uint32_t columns, uint32_t most,
                     struct entry *ret_entries);

#endif
