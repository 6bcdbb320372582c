/* SPDX-License-Identifier: MIT */
/* sums_fixture: attention that was drawn, and the sums over its rows by the plain formulas of
 * proto/row_sum.def, in f64, as a trainer would send them in f32. */
#ifndef TESTS_UNIT_WORKERS_ROWS_SUMS_FIXTURE_H
#define TESTS_UNIT_WORKERS_ROWS_SUMS_FIXTURE_H

#include "tests/unit/unit.h"
#include "workers/rows/row_sums.h"

#define SUMS_BATCH   2
#define SUMS_HEADS   4
#define SUMS_KV      2
#define SUMS_QUERIES 70
#define SUMS_KEYS    70
#define SUMS_DIM     8
#define SUMS_ROWS    (SUMS_BATCH * SUMS_HEADS * SUMS_QUERIES)

/* How a message tells which key stands apart. */
enum apart {
    APART_BY_PLACE,  /* the first key of the document does */
    APART_BY_COLUMN, /* the first key that is visible does; the document's is known */
    APART_ALONE,     /* the same, and nobody knows the document's */
    APART_COUNT
};

struct drawn {
    float q[SUMS_ROWS * SUMS_DIM], k[SUMS_BATCH * SUMS_KV * SUMS_KEYS * SUMS_DIM];
    int32_t documents[SUMS_BATCH * SUMS_KEYS], tokens[SUMS_BATCH * SUMS_KEYS];
    int32_t length[SUMS_BATCH];
    uint8_t mask[SUMS_BATCH * SUMS_QUERIES * SUMS_KEYS];
    uint32_t first[SUMS_BATCH * SUMS_QUERIES];
    double weights[SUMS_ROWS * SUMS_KEYS];
    struct attention a; /* queries and keys */
    /* As it is sent. */
    float sums[ROW_SUM_COUNT * SUMS_ROWS];
    int32_t places[ROW_PLACE_COUNT * SUMS_BATCH * SUMS_QUERIES];
    float key_lengths[SUMS_BATCH * SUMS_KV * SUMS_KEYS], sinks[SUMS_HEADS];
    struct sent_sums rows;
};

/* Random vectors, tokens, masks; no mask is used. */
struct drawn *drawn_new(void);
/* Masks of every kind: the n-th set, of which there are DRAWN_MASKS; finds the first keys. */
#define DRAWN_MASKS 10
void drawn_set_mask(struct drawn *d, unsigned kind);
/* The softmax of the logits; with `sinks` those of the heads take part. Weights of keys that are
 * not visible, and rows that are not valid, are 0. */
void drawn_fill_weights(struct drawn *d, bool sinks);
/* Sums over the logits, all of them. */
void drawn_send(struct drawn *d, enum apart apart);
/* Sums over the weights, of attention `a` that has them as f64. */
void drawn_send_weights(struct drawn *d, const struct attention *a);
/* A column, of all rows. */
float *drawn_sum(struct drawn *d, enum row_sum sum);

#endif
