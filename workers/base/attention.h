/* SPDX-License-Identifier: MIT */
/* attention: one message's attention as the kernels see it, given by its weights or by queries and
 * keys, and the keys that its rows may attend to.
 *
 * Rule 1 of workers/KERNELS.md: the mask comes from here, never from the weights. */
#ifndef WORKERS_BASE_ATTENTION_H
#define WORKERS_BASE_ATTENTION_H

#include "proto/tensor.h"
#include <stdbool.h>
#include <string.h>

/* Queries and keys instead of weights (tier `qk`):
 *     S = scale * Q K^T; with softcap c > 0, S = c tanh(S / c);  A = softmax over the valid keys.
 * Head h reads key head h / (heads / kv_heads). v, wo_r, x_norm and what they need (v_dtype,
 * kv_heads, value_dim, written_dim) may stand beside weights, too. */
struct qk {
    const void *q;      /* [B, H, Tq, head_dim] */
    const void *k;      /* [B, kv_heads, Tk, head_dim] */
    const void *v;      /* [B, kv_heads, Tk, value_dim]; NULL = not sent */
    const void *dout;   /* [B, H, Tq, value_dim] dLoss/d(A V); needs v; NULL = not sent */
    const void *wo_r;   /* [H, written_dim, value_dim] f32: R of the QR of each head's slice of W_o;
                           needs v; NULL = not sent */
    const void *x_norm; /* [B, Tq] f32: |x| of the layer's input; needs wo_r; NULL = not sent */
    enum dtype q_dtype, k_dtype, v_dtype, dout_dtype;
    uint32_t kv_heads, head_dim, value_dim; /* kv_heads divides heads */
    uint32_t written_dim;                   /* at most value_dim */
    double scale, softcap;                  /* softcap 0 = none */
};

/* Borrowed pointers, C-contiguous; the tensors may be unaligned. Query i stands at position
 * q_offset + i * q_stride of the keys' positions. */
struct attention {
    const void
        *weights;     /* [B, H, Tq, Tk], rows sum to 1 within attention_tolerance; NULL = by qk */
    enum dtype dtype; /* of weights: F32, F64, F16 or BF16 */
    struct qk qk;     /* when weights is NULL; its values beside weights, too */
    const void *grad; /* [B, H, Tq, Tk] dLoss/dA; NULL = not sent */
    enum dtype grad_dtype;
    uint32_t batch, heads, queries, keys;
    bool self;            /* self-attention: query i and key i are the same position */
    uint32_t q_offset;    /* position of query 0: i below is a query's position */
    uint32_t q_stride;    /* positions from a query to the next; 0 = 1. Above 1 the queries are a
                             sample of a map's rows */
    bool causal;          /* key j is visible to query i when j <= i */
    uint32_t window;      /* key j is visible when j > i - window; 0 = no bound */
    const int32_t *q_len; /* [B] valid queries, right padding; NULL = all */
    const int32_t *k_len; /* [B] valid keys; NULL = all */
    const uint8_t *mask;  /* [B, Tq, Tk], 1 = may attend; NULL = all */
    const int32_t *documents; /* [B, Tk]: key j is visible when documents[j] == documents[i]; self
                                 only; NULL = all one */
    const int32_t *tokens;    /* [B, Tk] token ids; NULL = not sent */
    const uint32_t *first;    /* [B, Tq] first_key_find; NULL = key 0 */
    bool dropout;             /* after dropout: row sums are not checked */
    bool learned_sink;        /* rows may sum to less than 1 */
};

/* Valid queries and keys of sample b by length alone: q_len and k_len, clamped to the shape. */
uint32_t attention_query_count(const struct attention *a, uint32_t b);
uint32_t attention_key_count(const struct attention *a, uint32_t b);

/* Whether its queries are a sample, and the map is not known. */
static inline bool attention_sampled(const struct attention *a)
{
    return a->q_stride > 1;
}

/* Where query i stands among the keys: q_offset + i * q_stride. */
uint64_t attention_position(const struct attention *a, uint32_t i);
/* The keys [begin, end) of a row by length, causal bound and window; the mask tensor and documents
 * may leave holes in it. Empty: begin == end. */
void attention_key_range(const struct attention *a, uint32_t b, uint32_t i, uint32_t *ret_begin,
                         uint32_t *ret_end);

/* Positions of sample b that are both a key and at or before its last query, or where that could be
 * between the rows of a sample: the neighbours of a query are looked for among these. */
uint64_t attention_position_count(const struct attention *a, uint32_t b);

/* The first key of the document of query i. */
static inline uint32_t attention_first_key(const struct attention *a, uint32_t b, uint32_t i)
{
    return a->first ? a->first[(size_t)b * a->queries + i] : 0;
}

/* The mask and the documents for one row; NULL where there is none. */
struct attention_holes {
    const uint8_t *mask;           /* [keys] */
    const unsigned char *document; /* [keys] i32, at any address */
    int32_t own;                   /* the query's document */
    bool none;                     /* no document of its own: sees nothing */
};

struct attention_holes attention_row_holes(const struct attention *a, uint32_t b, uint32_t i);

static inline int32_t attention_document(const unsigned char *document, uint64_t j)
{
    int32_t id;
    memcpy(&id, document + j * sizeof id, sizeof id);
    return id;
}

/* Whether they leave the row key j. */
static inline bool attention_hole_free(const struct attention_holes *holes, uint32_t j)
{
    return !holes->none && (!holes->mask || holes->mask[j] == 1) &&
           (!holes->document || attention_document(holes->document, j) == holes->own);
}

/* Whether query i of sample b is one (not padding): within q_len, and left a key by the mask tensor
 * and the documents. */
bool attention_query_valid(const struct attention *a, uint32_t b, uint32_t i);

/* Where sample b is no padding: the queries [query, query_end) and the keys [key, key_end). Queries
 * end with q_len, and in self-attention before the position of the first key beyond k_len; invalid
 * ones around the others are left out. Keys end with k_len, and a mask tensor narrows them to those
 * from the first to the last that it leaves to one of these queries. Queries in between that are
 * not valid are padding too. Empty: all is 0. */
struct attention_extent {
    uint32_t query, query_end, key, key_end;
};

struct attention_extent attention_extent(const struct attention *a, uint32_t b);
/* Whether query i of the sample that it is of is no padding. */
bool attention_shown(const struct attention *a, const struct attention_extent *extent, uint32_t b,
                     uint32_t i);

/* Writes the valid keys of a row, ascending, to ret_keys[keys]; returns how many. */
uint32_t attention_valid_keys(const struct attention *a, uint32_t b, uint32_t i,
                              uint32_t *ret_keys);

/* Converts the elements [first, first + n) of a tensor to f64; NaN when it is of integers. */
void attention_load(const void *data, enum dtype dtype, size_t first, uint32_t n, double *ret);

/* |x| of query i; NaN when it was not sent, or is none to divide by. */
double attention_x_norm(const struct attention *a, uint32_t b, uint32_t i);

/* Converts row (b, h, i) to f64, as sent. */
void attention_load_row(const struct attention *a, uint32_t b, uint32_t h, uint32_t i,
                        double *ret_row);

/* Largest |sum - 1| of a sound row: 1e-3 for f32 and f64, 2e-2 for f16 and bf16. */
double attention_tolerance(enum dtype dtype);
/* The most negative weight that still counts as rounding: -1e-6 for f32 and f64, -1e-3 for f16 and
 * bf16. */
double attention_negative_bound(enum dtype dtype);

#endif
