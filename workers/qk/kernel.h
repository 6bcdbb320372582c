/* SPDX-License-Identifier: MIT */
/* qk_kernel: one tile of logits, rows of queries by columns of keys, folded into the running sums
 * of its rows. One table per instruction set (kernels_of); everything else of tier `qk` is plain C
 * (qk.c, finish.c).
 *
 * The online softmax: with x = slope * logit, the logit in base 2, a row keeps its largest x so far
 * and sums of e = 2^(x - max); when a tile brings a larger one, the sums shrink by 2^(old - new).
 *
 * A row's first key (attention_first_key) is in none of the sums. entropy_sans_first is about the
 * row without it, and cannot be had from sums with it: a sink of 0.9999 leaves four digits of
 * seven. finish.c puts it back. */
#ifndef WORKERS_QK_KERNEL_H
#define WORKERS_QK_KERNEL_H

#include "workers/base/attention.h"
#include "workers/base/isa.h"

#define QK_LANES 16 /* the widest vector */
#define QK_TOP   8  /* the keys that are not tail */

/* Sums kept per lane; added up when the row is finished. */
enum qk_sum {
    QK_Z,              /* e */
    QK_W,              /* e (x - max) */
    QK_SQUARES,        /* (e - shift)^2 */
    QK_DISTANCE,       /* e |p - j| */
    QK_LOCAL,          /* e, |p - j| <= window */
    QK_LOGIT,          /* logit - logit_shift */
    QK_LOGIT_SQUARES,  /* its square */
    QK_COSINE,         /* product / |k_j| */
    QK_COSINE_SQUARES, /* its square */
    QK_VALUE,          /* e |v_j| */
    QK_VALUE_LOG,      /* e |v_j| (x - max + log2 |v_j|) */
    QK_SUMS
};

/* One row's state over the keys seen so far. Logits are products q k, or capped logits where there
 * is a softcap. */
struct qk_row {
    float sum[QK_SUMS][QK_LANES];
    float low[QK_LANES]; /* smallest logit, per lane */
    float cosine_low[QK_LANES], cosine_high[QK_LANES];
    float top[QK_TOP]; /* largest logits, descending; -infinity */
    float max;         /* of x; -infinity while count = 0 */
    float shift, logit_shift;
    float rescale;    /* what the last tile did to the sums: 2^(old max - new max) */
    uint32_t count;   /* keys, without the first */
    uint32_t cosines; /* of them with a cosine */
    float first;      /* product of the first key; near: of p-1, p, p+1; NaN = excluded */
    float near[3];
    float duplicate, induction;              /* e at the earlier occurrences, and behind them */
    uint32_t duplicate_next, induction_next; /* the first occurrence that is not yet in */
    /* what is known before the first tile */
    uint32_t begin, end; /* the valid keys lie in [begin, end), both ends valid */
    bool with_first;     /* key `begin` is the first key; else that is not seen */
    int64_t position;    /* p */
    int64_t first_key;   /* seen or not */
    bool has_holes;      /* some keys between are excluded */
    uint32_t silent;     /* keys with the logit -infinity: holes, but their weight 0 counts */
    bool silent_first;   /* the first key is one of them */
    bool zeros;          /* some keys between may be zero vectors: they have no cosine */
    struct attention_holes holes;
};

/* One tile. The arrays by key are indexed by the key's number, and QK_LANES longer than the keys.
 */
struct qk_tile {
    float *product; /* [rows][stride]: column j - key_begin; QK_LANES columns of slack */
    size_t stride;
    uint32_t rows, key_begin, key_end;
    struct qk_row *row;          /* [rows] */
    float slope;                 /* base 2 logits per logit */
    float scale, cap;            /* cap > 0: logits are cap * tanh(scale * product / cap) */
    bool infinite;               /* a key has an infinity: what is silent may be here */
    uint32_t window;             /* QK_LOCAL */
    const float *inverse_length; /* 1 / |k_j|; 0 for a zero vector */
    const float *value_length;   /* |v_j|, and its log2 (0 for 0); NULL without values */
    const float *value_log;
    const uint32_t *occurrence; /* the next key with the same token, or OCCURRENCE_NONE; NULL = no
                                   tokens */
    bool keep;     /* leave e in place of the products, 0 where excluded and at the first key */
    float *room;   /* QK_ROOM(widest tile) floats */
    uint32_t *key; /* as many as the tile has columns */
};

/* One row's sum |A dL/dA|, as far as it has come. */
struct qk_gradient {
    double sum;   /* of e |dL/dA| without the first key, relative to the row's maximum */
    double unit;  /* what both are to be multiplied by; 0 when no product is finite */
    double first; /* |dL/dA| of the first key */
};

/* Compacted columns of a row with holes, and candidates for the top. */
#define QK_ROOM(columns) (6 * ((size_t)(columns) + 2 * QK_LANES))

/* A row's sums and extremes over all lanes. */
struct qk_totals {
    float sum[QK_SUMS];
    float low, cosine_low, cosine_high;
};

struct qk_kernels {
    void (*fold_tile)(const struct qk_tile *tile);
    /* Afterwards, of a tile that keeps e: adds the products with dL/dA, which lies as they do. */
    void (*fold_gradient)(const struct qk_tile *tile, const float *gradient,
                          struct qk_gradient *row);
    /* A row over its lanes. */
    void (*add_lanes)(const struct qk_row *row, struct qk_totals *ret_totals);
    /* x[n] = 2^x[n], in place; x <= 126. n is a multiple of QK_LANES. */
    void (*exp2)(float *x, size_t n);
    /* n elements of a tensor to f32, rounded; out of range becomes infinite. */
    void (*load)(const void *from, enum dtype dtype, size_t n, float *ret);
    /* The length of a vector; what is not between 2^-40 and 2^40 may be anything not in there. */
    float (*length)(const float *x, size_t n);
};

#endif
