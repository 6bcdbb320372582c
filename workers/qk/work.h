/* SPDX-License-Identifier: MIT */
/* qk_work: the common part of the ways through tier `qk`: memory, visible keys, the lengths of the
 * vectors, and which rows are ordinary. One owner at a time. */
#ifndef WORKERS_QK_WORK_H
#define WORKERS_QK_WORK_H

#include "workers/qk/qk.h"
#include "workers/qk/finish.h"
#include "workers/qk/kernel.h"
#include "workers/qk/ref.h"

#define QK_TILE_ROWS   128
#define QK_TILE_KEYS   512
#define QK_TILE_STRIDE (QK_TILE_KEYS + 2 * QK_LANES)

/* The keys that a row may see; the same for all heads. */
struct qk_span {
    uint32_t begin, end; /* first valid key, one past the last */
    uint32_t occurrence; /* the first of the query's token that is seen, or whose next key is; the
                            query's own position when none is; OCCURRENCE_NONE without tokens */
    bool valid;          /* the query is */
    bool has_holes;
};

/* How many keys before j are of a kind: a row's number of them is a difference. */
struct qk_counts {
    uint32_t nan;  /* a NaN in the key */
    uint32_t odd;  /* key or value only the reference can handle */
    uint32_t zero; /* zero vectors */
    uint32_t lost; /* a value that is not finite */
};

/* Everything there is to work with. */
struct qk_work {
    const struct qk_kernels *kernel;
    enum isa isa;
    struct block *block;
    const struct attention *a;
    uint32_t row_begin, row_end;
    bool core, values;
    uint32_t sample, kv, head; /* current */
    /* by row, of the sample */
    struct qk_span *span;
    /* by key, of the key head */
    float *inverse_length, *value_length, *value_log;
    double *key_length;
    struct qk_counts *before; /* [keys + 1] */
    double longest_key;       /* of those that are not odd */
    float *first_value;
    /* by key, of the sample: chains of equal tokens; NULL without */
    uint32_t *next_same, *previous_same, *first_same, *sort;
    /* tile */
    float *query, *key, *value, *product, *output, *room, *vector;
    uint32_t *list;
    struct qk_row *row;
    struct qk_row_extra *extra;
    void *columns; /* row_values_bytes */
    struct qk_finish finish;
    struct qk_ref ref;
};

enum qk_verdict { QK_SOUND, QK_UNSOUND, QK_REFERENCE };

/* `w` has its attention, its block, rows, groups and instruction set; this gives it memory. Returns
 * 0 or ERR_MEMORY. */
int qk_work_begin(struct qk_work *w, struct scratch *scratch);
void qk_work_begin_sample(struct qk_work *w, uint32_t b);
void qk_work_begin_key_head(struct qk_work *w, uint32_t kv);

/* The way that row i goes, whose query is valid and |q| long. */
enum qk_verdict qk_work_judge(const struct qk_work *w, uint32_t i, double query_length);
/* The length of query i of the current head; NaN with a NaN in it. */
double qk_work_query_length(const struct qk_work *w, uint32_t i);
/* Converts it to f32 at w->query + at * head_dim. */
void qk_work_load_query(const struct qk_work *w, uint32_t i, uint32_t at);
/* Keys or values [begin, end) of the current key head as f32, in place or converted; values that
 * are not finite as zeros: nobody who sees them has an output. */
const float *qk_work_keys(const struct qk_work *w, uint32_t begin, uint32_t end);
const float *qk_work_values(const struct qk_work *w, uint32_t begin, uint32_t end);

#endif
