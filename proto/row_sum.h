/* SPDX-License-Identifier: MIT */
/* row_sum: the sums over a row that a message of type `rows` may have, and the numbers that say
 * where a row stands. Pure; any thread. */
#ifndef PROTO_ROW_SUM_H
#define PROTO_ROW_SUM_H

#include <stdbool.h>
#include <stddef.h>

#define ROW_SUM(symbol, name, needed, text) ROW_SUM_##symbol,
enum row_sum {
#include "proto/row_sum.def"
    ROW_SUM_COUNT
};
#undef ROW_SUM

/* Columns of the tensor `sums` at most, those without a name included. */
#define ROW_SUMS_MAX 64

/* The first dimension of the tensor `places`. */
enum row_place {
    ROW_PLACE_POSITION,   /* p: where the query stands among the keys */
    ROW_PLACE_POSITIONS,  /* how many positions there are: P of KERNELS.md */
    ROW_PLACE_FIRST,      /* the first key of its document; -1: ROW_SUM_APART tells */
    ROW_PLACE_WITH_FIRST, /* 1: that key is visible, 0: it is not */
    ROW_PLACE_SEEN,       /* visible keys, with that one */
    ROW_PLACE_FARTHEST,   /* the largest |p - j| of these */
    ROW_PLACE_VALID,      /* 0: padding, which is not counted at all */
    ROW_PLACE_OCCURRENCE, /* bits of row_occurrence */
    ROW_PLACE_COUNT
};

enum row_occurrence {
    ROW_OCCURRENCE_EARLIER = 1, /* tokens are known, and the query's token is at an earlier key */
    ROW_OCCURRENCE_SAME = 2,    /* the key apart is one of these */
    ROW_OCCURRENCE_BEHIND = 4,  /* the key apart follows one of these */
    ROW_OCCURRENCE_ALL = 7
};

const char *row_sum_name(enum row_sum sum);
/* Its meaning, in words. */
const char *row_sum_text(enum row_sum sum);
/* Whether a message must have it. */
bool row_sum_needed(enum row_sum sum);
/* ROW_SUM_COUNT: unknown. The name is not NUL-terminated. */
enum row_sum row_sum_parse(const char *name, size_t len);

#endif
