/* SPDX-License-Identifier: MIT */
/* The parts that the files of qk/ share. A message takes this way:
 *
 *     work.c          memory, what rows may see, lengths of vectors, which way a row goes
 *     qk.c            tiles: queries and keys by sgemm, folded into rows by kernel_tmpl.c
 *     finish.c        a row's sums to its metrics, sixteen rows at a time
 *     ref.c           the scalar reference, row by row: for the rows that f32 cannot do
 *     weights.c       the same tiles, kept as the map
 *     spectrum.c      the spectrum of Q K^T, from the R factors of Q and K
 *
 * One owner at a time. */
#ifndef WORKERS_QK_INTERNAL_H
#define WORKERS_QK_INTERNAL_H

#include "workers/qk/kernel.h"
#include "workers/qk/qk.h"
#include "workers/rows/row_batch.h"

/* ref.c */

/* Room for one row. */
struct qk_ref {
    struct attention a; /* borrowed, but for learned_sink: a softmax leaves nothing to a sink */
    uint32_t sample, local_window;
    bool core, has_gradient;
    double *query, *vector;                  /* [head_dim], [either] */
    double *output, *written, *gradient;     /* [value_dim] */
    double *logit, *cosine, *weight, *share; /* [keys] */
    uint32_t *key;                           /* [keys] */
    uint32_t *previous; /* [keys] chains of the sample's tokens, then room to sort; NULL without */
};

/* One without memory, and its scratch_lay. */
struct qk_ref qk_ref_of(const struct block *block, const struct attention *a);
void qk_ref_lay(void *ref, struct scratch_pieces *pieces);
/* Makes sample b the current one. */
void qk_ref_sample(struct qk_ref *ref, uint32_t b);
/* Adds row (b, h, i), whose query must be valid. Returns 0 or ERR_MEMORY. */
int qk_ref_row(struct qk_ref *ref, struct block *block, uint32_t h, uint32_t i);

/* The weights of row (b, h, i), whatever its query: ret_weight[keys], 0 at excluded keys, NaN at
 * valid ones when the row is not sound. */
void qk_ref_weights(struct qk_ref *ref, uint32_t h, uint32_t i, float *ret_weight);

/* finish.c */

/* The values that the rows of a head share, and the sums of theirs that are still to be added to
 * it. */
struct qk_finish {
    const struct qk_kernels *kernel;
    const struct attention *a;
    struct head_block *head;
    uint32_t sample, local_window;
    double slope;                               /* base 2 logits per logit */
    const float *inverse_length, *value_length; /* by key; the last NULL = no values */
    /* of the first key of rows that see it: the same key when they are finished together */
    const float *first_value;   /* [value_dim]; NULL = no values */
    const float *first_written; /* [written_dim] R_h of it; NULL = the head has no R_h */
    double written_unit;        /* what that is to be multiplied by */
    const uint32_t *first_same; /* the first key with the same token; NULL = no tokens */
    struct row_batch batch;
    struct row_values values;
    struct row_totals logits, cosines;
};

/* The values of a row besides its sums. */
struct qk_row_extra {
    double inverse_length; /* 1 / |q|; 0 for a zero vector */
    const float *output;   /* [value_dim] A V without the first key, relative to the row's maximum;
                              NULL = none */
    const float *written;  /* [written_dim] R_h of that, in the head's unit; NULL = none */
    double x_norm;         /* |x|; NaN = none */
    const struct qk_gradient *gradient; /* NULL = none */
};

/* Begins a head: what is above `batch` is set. `memory` is of row_values_bytes(1). */
void qk_finish_begin(struct qk_finish *f, enum isa isa, void *memory);
/* Finishes rows[count]; `room` holds QK_FINISH_ROOM(count) floats. Returns 0 or ERR_MEMORY. */
int qk_finish_rows(struct qk_finish *f, const struct qk_row *row, const struct qk_row_extra *extra,
                   uint32_t count, float *room);
#define QK_FINISH_ROOM(count) (2 * QK_LANES * (size_t)(count))
/* Adds all that is left to the head. Returns 0 or ERR_MEMORY. */
int qk_finish_end(struct qk_finish *f);

/* work.c */

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
    uint32_t nan;      /* a NaN in the key */
    uint32_t odd;      /* key or value only the reference can handle */
    uint32_t zero;     /* zero vectors */
    uint32_t infinite; /* an infinity in the key, but no NaN */
    uint32_t lost;     /* a value that is not finite */
};

/* Everything there is to work with. */
struct qk_work {
    const struct qk_kernels *kernel;
    enum isa isa;
    struct block *block;
    const struct attention *a;
    struct scratch *scratch;
    uint32_t row_begin, row_end;
    bool core, values, gradient;
    uint32_t sample, kv, head; /* current */
    /* by row, of the sample */
    struct qk_span *span;
    /* by key, of the key head */
    float *inverse_length, *value_length, *value_log;
    double *key_length;
    struct qk_counts *before; /* [keys + 1] */
    uint8_t *usual;           /* 0: counted as infinite */
    /* by infinite key: the run of alike ones that it is in; by run: its first key */
    uint32_t *infinite_run, *run_key;
    double longest_key; /* of those that are not odd */
    /* of the head: R_h, whose unit is 0 when it is not there */
    float *wo_r;
    /* of the key that was loaded, and R_h of it */
    float *first_value, *first_written;
    double written_unit;
    /* by key, of the sample: chains of equal tokens; NULL without */
    uint32_t *next_same, *previous_same, *first_same, *sort;
    /* tile */
    float *query, *key, *value, *product, *output, *room, *vector;
    float *dout, *gradient_product, *written;
    struct qk_gradient *gradient_row;
    uint32_t *list;
    struct qk_row *row;
    struct qk_row_extra *extra;
    void *columns; /* row_values_bytes */
    struct qk_finish finish;
    struct qk_ref ref;
};

/* A sound row that sees infinite keys has the logit -infinity at each of them. */
enum qk_verdict { QK_SOUND, QK_UNSOUND, QK_REFERENCE };

/* `w` has its attention, its block, rows, groups and instruction set; this gives it memory. Returns
 * 0 or ERR_MEMORY. */
int qk_work_begin(struct qk_work *w, struct scratch *scratch);
void qk_work_begin_sample(struct qk_work *w, uint32_t b);
void qk_work_begin_key_head(struct qk_work *w, uint32_t kv);
void qk_work_begin_head(struct qk_work *w, uint32_t h);

/* Loads the value of a key as the one that is put back, with values only. */
void qk_work_load_first(const struct qk_work *w, uint32_t j);

/* The way that row i goes, whose query is valid and |q| long. The query of a
 * sound one is then at w->query + at * head_dim, as f32. */
enum qk_verdict qk_work_judge(const struct qk_work *w, uint32_t i, uint32_t at,
                              double query_length);
/* Puts dO of row i at w->dout + at * value_dim and begins w->gradient_row[at]. Returns whether f32
 * can do it; otherwise the row is the reference's. */
bool qk_work_load_gradient(struct qk_work *w, uint32_t i, uint32_t at);
/* Whether a value that the row sees is not finite. */
bool qk_work_sees_lost(const struct qk_work *w, uint32_t i);
/* The length of query i of the current head; NaN with a NaN in it. */
double qk_work_query_length(const struct qk_work *w, uint32_t i);
/* Keys or values [begin, end) of the current key head as f32, in place or converted. A value with
 * an element that is not finite is zeros: who sees it has no output, and its products with dO are
 * not finite either; so is one of a key that only the reference can handle. */
const float *qk_work_keys(const struct qk_work *w, uint32_t begin, uint32_t end);
const float *qk_work_values(const struct qk_work *w, uint32_t begin, uint32_t end);

#endif
