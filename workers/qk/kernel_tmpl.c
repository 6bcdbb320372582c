/* SPDX-License-Identifier: MIT */
/* qk/kernel_tmpl: the kernels of qk/kernel.h, written once.
 *
 * Why two passes over a tile's row: the first finds the maximum that the exponentials of the second
 * need; the row is in the first level cache by then. */
#include "workers/qk/kernel.h"
#include "workers/simd/simd.h"

_Static_assert(QK_TOP == 8, "as many as v_insert_top keeps");

/* The first n lanes. */
SIMD_INLINE vm v_lanes(uint32_t n)
{
    return v_mask_of_bits(n < SIMD_WIDTH ? (1u << n) - 1 : (1u << SIMD_WIDTH) - 1);
}

/* 1.5 * 2^23: added to a small number, it leaves that rounded to an integer in the last bits. */
#define ROUNDER 0x1.8p23f

/* a 2^n where n is the last bits of `rounded`. */
SIMD_INLINE vf scale_by_bits(vf a, vf rounded)
{
    return v_from_bits(v_add_i(v_bits(a), v_shift_left(v_bits(rounded), 23)));
}

/* 2^f on [-1/2, 1/2], relative error 1e-7 (a minimax polynomial). */
SIMD_INLINE vf exp2_fraction(vf f)
{
    vf p = v_fma(v_set(0x1.5c08e4p-10f), f, v_set(0x1.3d0c52p-7f));
    p = v_fma(p, f, v_set(0x1.c6b6e4p-5f));
    p = v_fma(p, f, v_set(0x1.ebf918p-3f));
    p = v_fma(p, f, v_set(0x1.62e428p-1f));
    return v_fma(p, f, v_set(0x1.000002p+0f));
}

/* 2^x for x <= 126; below -126: 2^-126, which is nothing in a sum that holds a 1. */
SIMD_INLINE vf exp2_of(vf x)
{
    x = v_max(x, v_set(-126));
    vf n = v_add(x, v_set(ROUNDER)), f = v_sub(x, v_sub(n, v_set(ROUNDER)));
    return scale_by_bits(exp2_fraction(f), n);
}

/* 2^x of finite numbers, for the inner loop. */
SIMD_INLINE vf exp2_finite(vf x)
{
#ifdef SIMD_SCALE
    vf n = v_round(x); /* by instructions that need no clamp */
    return v_scale(exp2_fraction(v_sub(x, n)), n);
#else
    return exp2_of(x);
#endif
}

/* 2^x - 1, without cancellation near 0; -126 <= x <= 126. */
SIMD_INLINE vf exp2_less_one(vf x)
{
    vf n = v_add(x, v_set(ROUNDER)), f = v_sub(x, v_sub(n, v_set(ROUNDER)));
    vf p = v_set(0x1.41d332p-13f);
    p = v_fma(p, f, v_set(0x1.5f4566p-10f));
    p = v_fma(p, f, v_set(0x1.3b2dbcp-7f));
    p = v_fma(p, f, v_set(0x1.c6aed4p-5f));
    p = v_fma(p, f, v_set(0x1.ebfbdap-3f));
    p = v_fma(p, f, v_set(0x1.62e430p-1f));
    vf power = scale_by_bits(v_set(1), n);
    return v_fma(v_mul(p, f), power, v_sub(power, v_set(1)));
}

static void exp2_array(float *x, size_t n)
{
    for (size_t k = 0; k < n; k += SIMD_WIDTH) {
        v_store(x + k, exp2_of(v_load(x + k)));
    }
}

/* One row's part of a tile: n entries side by side, whether they were so in the tile or not. */
struct part {
    float *logit; /* products until they are capped */
    uint32_t n;
    const float *inverse_length, *value_length, *value_log;
    const float *offset; /* j - p of each entry; NULL = offset_begin, + 1, ... */
    float offset_begin;
};

/* Sums over one pass of the logits. */
struct scan {
    vf shift;
    vf sum, squares, low, high;                             /* logits */
    vf cosine_sum, cosine_squares, cosine_low, cosine_high; /* products / |k_j| */
};

SIMD_INLINE void scan_logits_at(struct scan *c, vf s, bool tail, vm in)
{
    vf from = v_sub(s, c->shift);
    from = tail ? v_select(in, from, v_set(0)) : from;
    vf high = v_max(s, c->high), low = v_min(s, c->low);
    c->high = tail ? v_select(in, high, c->high) : high;
    c->low = tail ? v_select(in, low, c->low) : low;
    c->sum = v_add(c->sum, from);
    c->squares = v_fma(from, from, c->squares);
}

SIMD_INLINE void scan_cosines_at(struct scan *c, vf product, vf inverse, bool tail, vm in)
{
    vf cosine = v_mul(product, inverse);
    vf high = v_max(cosine, c->cosine_high), low = v_min(cosine, c->cosine_low);
    c->cosine_high = tail ? v_select(in, high, c->cosine_high) : high;
    c->cosine_low = tail ? v_select(in, low, c->cosine_low) : low;
    cosine = tail ? v_select(in, cosine, v_set(0)) : cosine;
    c->cosine_sum = v_add(c->cosine_sum, cosine);
    c->cosine_squares = v_fma(cosine, cosine, c->cosine_squares);
}

SIMD_INLINE void scan_at(struct scan *c, const float *logit, const float *inverse, bool logits,
                         bool cosines, bool tail, vm in)
{
    vf s = v_load(logit);
    if (logits) {
        scan_logits_at(c, s, tail, in);
    }
    if (cosines) {
        scan_cosines_at(c, s, v_load(inverse), tail, in);
    }
}

/* Handles logits, cosines, or both while they are the same numbers; returns the highest logits. */
SIMD_INLINE vf scan(struct qk_row *row, const struct part *part, bool logits, bool cosines)
{
    struct scan c = {.shift = v_set(row->logit_shift),
                     .sum = v_load(row->sum[QK_LOGIT]),
                     .squares = v_load(row->sum[QK_LOGIT_SQUARES]),
                     .low = v_load(row->low),
                     .high = v_set(-INFINITY),
                     .cosine_sum = v_load(row->sum[QK_COSINE]),
                     .cosine_squares = v_load(row->sum[QK_COSINE_SQUARES]),
                     .cosine_low = v_load(row->cosine_low),
                     .cosine_high = v_load(row->cosine_high)};
    const float *logit = part->logit, *inverse = part->inverse_length;
    uint32_t n = part->n, k = 0;
    for (; k + SIMD_WIDTH <= n; k += SIMD_WIDTH) {
        scan_at(&c, logit + k, inverse + k, logits, cosines, false, v_lanes(SIMD_WIDTH));
    }
    if (k < n) {
        scan_at(&c, logit + k, inverse + k, logits, cosines, true, v_lanes(n - k));
    }
    if (logits) {
        v_store(row->sum[QK_LOGIT], c.sum);
        v_store(row->sum[QK_LOGIT_SQUARES], c.squares);
        v_store(row->low, c.low);
    }
    if (cosines) {
        v_store(row->sum[QK_COSINE], c.cosine_sum);
        v_store(row->sum[QK_COSINE_SQUARES], c.cosine_squares);
        v_store(row->cosine_low, c.cosine_low);
        v_store(row->cosine_high, c.cosine_high);
        row->cosines += n;
    }
    return c.high;
}

/* Cosines where there may be zero vectors, which have none. */
static void scan_cosines_with_zeros(struct qk_row *row, const struct part *part)
{
    for (uint32_t k = 0; k < part->n; k++) {
        if (part->inverse_length[k] > 0) {
            float c = part->logit[k] * part->inverse_length[k];
            row->sum[QK_COSINE][0] += c;
            row->sum[QK_COSINE_SQUARES][0] += c * c;
            row->cosine_low[0] = c < row->cosine_low[0] ? c : row->cosine_low[0];
            row->cosine_high[0] = c > row->cosine_high[0] ? c : row->cosine_high[0];
            row->cosines++;
        }
    }
}

/* cap tanh(scale x / cap), in place, up to SIMD_WIDTH - 1 elements past the end. tanh y is
 * (e^2y - 1) / (e^2y + 1), and 1 for f32 from y = 10 on. */
static void cap_logits(const struct part *part, float scale, float cap)
{
    vf factor = v_set(scale / cap), most = v_set(10), log2e2 = v_set(2 * 0x1.715476p+0f);
    for (uint32_t k = 0; k < part->n; k += SIMD_WIDTH) {
        vf y = v_mul(v_load(part->logit + k), factor);
        y = v_max(v_min(y, most), v_sub(v_set(0), most));
        vf e = exp2_less_one(v_mul(y, log2e2));
        v_store(part->logit + k, v_mul(v_set(cap), v_div(e, v_add(e, v_set(2)))));
    }
}

/* Shrinks what is relative to the old maximum. */
static void raise_maximum(struct qk_row *row, float max)
{
    float lanes[SIMD_WIDTH];
    v_store(lanes, exp2_of(v_set(row->max - max)));
    float shrink = row->count > 0 && row->max - max > -126 ? lanes[0] : 0;
    float down = row->count > 0 ? row->max - max : 0;
    vf factor = v_set(shrink), z = v_load(row->sum[QK_Z]), value = v_load(row->sum[QK_VALUE]);
    vf w = v_fma(v_set(down), z, v_load(row->sum[QK_W]));
    vf value_log = v_fma(v_set(down), value, v_load(row->sum[QK_VALUE_LOG]));
    v_store(row->sum[QK_Z], v_mul(z, factor));
    v_store(row->sum[QK_W], v_mul(w, factor));
    v_store(row->sum[QK_VALUE], v_mul(value, factor));
    v_store(row->sum[QK_VALUE_LOG], v_mul(value_log, factor));
    v_store(row->sum[QK_DISTANCE], v_mul(v_load(row->sum[QK_DISTANCE]), factor));
    v_store(row->sum[QK_LOCAL], v_mul(v_load(row->sum[QK_LOCAL]), factor));
    v_store(row->sum[QK_SQUARES], v_mul(v_mul(v_load(row->sum[QK_SQUARES]), factor), factor));
    row->shift *= shrink;
    row->duplicate *= shrink;
    row->induction *= shrink;
    row->rescale = shrink;
    row->max = max;
}

/* Sums of one row as they are carried through a part, and what is the same for all of it. */
struct carry {
    vf z, w, squares, distance, value, value_log;
    vf slope, minus_max, shift;
    const float *length, *log;
};

/* One vector of entries. The compiler decides everything that is constant at a call. */
SIMD_INLINE void fold_vector(struct carry *c, float *logit, uint32_t k, bool keep, bool values,
                             bool tail, vm in, vf offset)
{
    vf x = v_fma(v_load(logit + k), c->slope, c->minus_max);
    x = tail ? v_select(in, x, v_set(-126)) : x;
    vf e = exp2_finite(x);
    e = tail ? v_select(in, e, v_set(0)) : e;
    vf from = v_sub(e, c->shift);
    from = tail ? v_select(in, from, v_set(0)) : from;
    c->z = v_add(c->z, e);
    c->w = v_fma(x, e, c->w);
    c->squares = v_fma(from, from, c->squares);
    c->distance = v_fma(v_abs(offset), e, c->distance);
    if (values) {
        vf length = v_load(c->length + k), log = v_load(c->log + k);
        vf share = v_mul(e, tail ? v_select(in, length, v_set(0)) : length);
        c->value = v_add(c->value, share);
        log = tail ? v_select(in, log, v_set(0)) : log;
        c->value_log = v_fma(share, v_add(x, log), c->value_log);
    }
    if (keep) {
        v_store(logit + k, e);
    }
}

/* All of it; returns how many candidates for the top there are. */
SIMD_INLINE uint32_t fold_part(struct qk_row *row, const struct part *part, float slope, bool keep,
                               bool values, bool holes, float *candidate)
{
    struct carry c = {.z = v_load(row->sum[QK_Z]),
                      .w = v_load(row->sum[QK_W]),
                      .squares = v_load(row->sum[QK_SQUARES]),
                      .distance = v_load(row->sum[QK_DISTANCE]),
                      .value = v_load(row->sum[QK_VALUE]),
                      .value_log = v_load(row->sum[QK_VALUE_LOG]),
                      .slope = v_set(slope),
                      .minus_max = v_set(-row->max),
                      .shift = v_set(row->shift),
                      .length = part->value_length,
                      .log = part->value_log};
    float *logit = part->logit;
    const float *offsets = part->offset;
    vf bound = v_set(row->top[QK_TOP - 1]), step = v_set(SIMD_WIDTH);
    vf offset = v_add(v_set(part->offset_begin), v_lane_index());
    uint32_t n = part->n, k = 0, candidates = 0;
    for (; k + SIMD_WIDTH <= n; k += SIMD_WIDTH) {
        vf at = holes ? v_load(offsets + k) : offset;
        candidates += v_store_above(candidate + candidates, v_load(logit + k), bound, SIMD_WIDTH);
        fold_vector(&c, logit, k, keep, values, false, v_lanes(SIMD_WIDTH), at);
        offset = v_add(offset, step);
    }
    if (k < n) {
        vm in = v_lanes(n - k);
        vf at = v_select(in, holes ? v_load(offsets + k) : offset, v_set(0));
        candidates += v_store_above(candidate + candidates, v_load(logit + k), bound, n - k);
        fold_vector(&c, logit, k, keep, values, true, in, at);
    }
    v_store(row->sum[QK_Z], c.z);
    v_store(row->sum[QK_W], c.w);
    v_store(row->sum[QK_SQUARES], c.squares);
    v_store(row->sum[QK_DISTANCE], c.distance);
    if (values) {
        v_store(row->sum[QK_VALUE], c.value);
        v_store(row->sum[QK_VALUE_LOG], c.value_log);
    }
    return candidates;
}

/* sum of e over |p - j| <= window. */
static void fold_local(struct qk_row *row, const struct part *part, uint32_t begin, uint32_t end,
                       float slope)
{
    vf sum = v_load(row->sum[QK_LOCAL]);
    for (uint32_t k = begin; k < end; k += SIMD_WIDTH) {
        vm in = v_lanes(end - k < SIMD_WIDTH ? end - k : SIMD_WIDTH);
        vf x = v_fma(v_load(part->logit + k), v_set(slope), v_set(-row->max));
        sum = v_add(sum, v_select(in, exp2_of(v_select(in, x, v_set(-126))), v_set(0)));
    }
    v_store(row->sum[QK_LOCAL], sum);
}

/* The entries [begin, end) of a part with |p - j| <= window: offsets ascend. */
static void local_range(const struct part *part, uint32_t window, uint32_t *ret_begin,
                        uint32_t *ret_end)
{
    double low = -(double)window, high = (double)window;
    if (!part->offset) {
        double begin = fmax(low - (double)part->offset_begin, 0);
        double end = fmin(high - (double)part->offset_begin + 1, part->n);
        *ret_begin = begin < end ? (uint32_t)begin : 0;
        *ret_end = begin < end ? (uint32_t)end : 0;
        return;
    }
    uint32_t begin = 0, end = part->n;
    while (begin < end && (double)part->offset[begin] < low) {
        begin++;
    }
    while (end > begin && (double)part->offset[end - 1] > high) {
        end--;
    }
    *ret_begin = begin;
    *ret_end = end;
}

/* At least 8 entries of the part are not below `eighth`: 8 copies of it may stand for them, and
 * only what is larger has to be looked at. */
static void raise_bound(struct qk_row *row, float eighth)
{
    for (uint32_t k = 0; k < QK_TOP; k++) {
        row->top[k] = row->top[k] > eighth ? row->top[k] : eighth;
    }
}

/* Where the row's valid keys begin and end within the tile, the first key left out. */
static bool clip(const struct qk_tile *tile, const struct qk_row *row, uint32_t *ret_begin,
                 uint32_t *ret_end)
{
    uint32_t begin = row->begin + row->with_first;
    *ret_begin = begin > tile->key_begin ? begin : tile->key_begin;
    *ret_end = row->end < tile->key_end ? row->end : tile->key_end;
    return *ret_begin < *ret_end;
}

/* Gathers the valid entries of a row with holes; ret_key[n] are their numbers. */
static struct part compact(const struct qk_tile *tile, const struct qk_row *row,
                           const float *product, uint32_t begin, uint32_t end, uint32_t *ret_key)
{
    size_t width = (size_t)(tile->key_end - tile->key_begin) + 2 * QK_LANES;
    float *logit = tile->room + width, *inverse = logit + width, *offset = inverse + width;
    float *length = offset + width, *log = length + width;
    struct attention_holes holes = row->holes; /* what is written here is none of its fields */
    uint32_t n = 0;
    for (uint32_t j = begin; j < end; j++) {
        ret_key[n] = j;
        logit[n] = product[j - tile->key_begin];
        inverse[n] = tile->inverse_length[j];
        offset[n] = (float)((int64_t)j - row->position);
        if (tile->value_length) {
            length[n] = tile->value_length[j];
            log[n] = tile->value_log[j];
        }
        n += attention_hole_free(&holes, j);
    }
    return (struct part){.logit = logit,
                         .n = n,
                         .inverse_length = inverse,
                         .value_length = length,
                         .value_log = log,
                         .offset = offset};
}

/* The row's part as it lies in the tile. */
static struct part direct(const struct qk_tile *tile, const struct qk_row *row, float *product,
                          uint32_t begin, uint32_t end)
{
    bool values = tile->value_length != NULL;
    return (struct part){.logit = product + (begin - tile->key_begin),
                         .n = end - begin,
                         .inverse_length = tile->inverse_length + begin,
                         .value_length = values ? tile->value_length + begin : NULL,
                         .value_log = values ? tile->value_log + begin : NULL,
                         .offset_begin = (float)((int64_t)begin - row->position)};
}

/* Products of the first key and of the keys next to the query, before they are overwritten. */
static void capture(const struct qk_tile *tile, struct qk_row *row, const float *product)
{
    uint32_t end = row->end < tile->key_end ? row->end : tile->key_end;
    uint32_t begin = row->begin > tile->key_begin ? row->begin : tile->key_begin;
    if (row->with_first && begin == row->begin && begin < end) {
        row->first = row->silent_first ? -INFINITY : product[begin - tile->key_begin];
    }
    for (int offset = -1; offset <= 1; offset++) {
        int64_t j = row->position + offset;
        if (j >= begin + (begin == row->begin && row->with_first) && j < end &&
            (!row->has_holes || attention_hole_free(&row->holes, (uint32_t)j))) {
            row->near[offset + 1] = product[j - tile->key_begin];
        }
    }
}

SIMD_INLINE uint32_t fold_exponentials(struct qk_row *row, const struct part *part,
                                       const struct qk_tile *tile, float *candidate)
{
    bool values = tile->value_length != NULL;
    if (part->offset) {
        return values ? fold_part(row, part, tile->slope, true, true, true, candidate)
                      : fold_part(row, part, tile->slope, true, false, true, candidate);
    }
    if (values) {
        return fold_part(row, part, tile->slope, true, true, false, candidate);
    }
    return tile->keep ? fold_part(row, part, tile->slope, true, false, false, candidate)
                      : fold_part(row, part, tile->slope, false, false, false, candidate);
}

/* Cosines are of products, the rest is of what the softcap makes of them. */
static vf scan_row(struct qk_row *row, const struct part *part, const struct qk_tile *tile)
{
    bool together = !row->zeros && !(tile->cap > 0);
    if (row->zeros) {
        scan_cosines_with_zeros(row, part);
    } else if (!together) {
        scan(row, part, false, true);
    }
    if (tile->cap > 0) {
        cap_logits(part, tile->scale, tile->cap);
    }
    if (row->count == 0) {
        row->logit_shift = part->logit[part->n / 2];
    }
    return together ? scan(row, part, true, true) : scan(row, part, true, false);
}

static void fold_row(struct qk_row *row, const struct part *part, const struct qk_tile *tile)
{
    float *candidate = tile->room;
    vf high = scan_row(row, part, tile);
    raise_bound(row, v_eighth(high));
    float max = v_most(high) * tile->slope;
    if (max > row->max) {
        raise_maximum(row, max);
    } else {
        row->rescale = 1;
    }
    if (row->count == 0) {
        float mean = row->logit_shift + v_sum(v_load(row->sum[QK_LOGIT])) / (float)part->n;
        float lanes[SIMD_WIDTH];
        v_store(lanes, exp2_of(v_set(mean * tile->slope - row->max)));
        row->shift = lanes[0];
    }
    uint32_t begin, end;
    local_range(part, tile->window, &begin, &end);
    fold_local(row, part, begin, end, tile->slope);
    uint32_t candidates = fold_exponentials(row, part, tile, candidate);
    v_insert_top(row->top, candidate, candidates);
    row->count += part->n;
}

/* Zeroes what is not the row's, so that the tile's row is its e; `begin`, `end` as clipped. */
static void clear_outside(const struct qk_tile *tile, float *product, uint32_t begin, uint32_t end)
{
    uint32_t columns = tile->key_end - tile->key_begin;
    begin -= tile->key_begin;
    end -= tile->key_begin;
    memset(product, 0, begin * sizeof *product);
    memset(product + end, 0, (columns - end) * sizeof *product);
}

/* e of the earlier occurrences that lie in the tile, and of the keys behind them. The first may lie
 * before the tile: the row sees the key behind it only. */
static void fold_occurrences(const struct qk_tile *tile, struct qk_row *row, const float *e)
{
    uint32_t j = row->duplicate_next;
    for (; j < tile->key_end && j < row->position; j = tile->occurrence[j]) {
        row->duplicate += j >= tile->key_begin ? e[j - tile->key_begin] : 0;
    }
    row->duplicate_next = j;
    j = row->induction_next;
    for (; j < tile->key_end - 1 && j < row->position; j = tile->occurrence[j]) {
        row->induction += j + 1 >= tile->key_begin ? e[j + 1 - tile->key_begin] : 0;
    }
    row->induction_next = j;
}

/* A row's tile when it has no key there but maybe the first. */
static void pass_row(const struct qk_tile *tile, struct qk_row *row, float *product)
{
    row->rescale = 1;
    if (tile->keep) {
        memset(product, 0, (tile->key_end - tile->key_begin) * sizeof *product);
    }
}

static void fold_tile_row(const struct qk_tile *tile, struct qk_row *row, float *product)
{
    uint32_t begin, end;
    capture(tile, row, product);
    if (!clip(tile, row, &begin, &end)) {
        pass_row(tile, row, product);
    } else if (!row->has_holes || (row->silent > 0 && !tile->infinite)) {
        struct part part = direct(tile, row, product, begin, end);
        fold_row(row, &part, tile);
        if (tile->keep) {
            clear_outside(tile, product, begin, end);
        }
    } else {
        uint32_t *key = tile->key;
        struct part part = compact(tile, row, product, begin, end, key);
        if (part.n == 0) {
            pass_row(tile, row, product);
            return;
        }
        fold_row(row, &part, tile);
        if (tile->keep) {
            memset(product, 0, (tile->key_end - tile->key_begin) * sizeof *product);
            for (uint32_t k = 0; k < part.n; k++) {
                product[key[k] - tile->key_begin] = part.logit[k];
            }
        }
    }
    if (tile->occurrence) {
        fold_occurrences(tile, row, product);
    }
}

static void fold_tile(const struct qk_tile *tile)
{
    for (uint32_t r = 0; r < tile->rows; r++) {
        fold_tile_row(tile, &tile->row[r], tile->product + r * tile->stride);
    }
}

/* sum |e g| */
static float sum_products(const float *e, const float *g, uint32_t n)
{
    vf sum = v_set(0);
    uint32_t k = 0;
    for (; k + SIMD_WIDTH <= n; k += SIMD_WIDTH) {
        sum = v_fma(v_load(e + k), v_abs(v_load(g + k)), sum);
    }
    if (k < n) {
        sum = v_fma(v_load_part(e + k, n - k), v_abs(v_load_part(g + k, n - k)), sum);
    }
    return v_sum(sum);
}

static void fold_gradient(const struct qk_tile *tile, const float *gradient,
                          struct qk_gradient *row)
{
    for (uint32_t r = 0; r < tile->rows; r++) {
        const float *g = gradient + r * tile->stride, *e = tile->product + r * tile->stride;
        uint32_t begin, end;
        row[r].sum *= (double)tile->row[r].rescale;
        uint32_t first = tile->row[r].begin;
        if (first >= tile->key_begin && first < tile->key_end) {
            row[r].first = (double)fabsf(g[first - tile->key_begin]);
        }
        if (clip(tile, &tile->row[r], &begin, &end)) {
            uint32_t from = begin - tile->key_begin;
            row[r].sum += (double)sum_products(e + from, g + from, end - begin);
        }
    }
}

static void add_lanes(const struct qk_row *row, struct qk_totals *ret_totals)
{
    for (uint32_t s = 0; s < QK_SUMS; s++) {
        ret_totals->sum[s] = v_sum(v_load(row->sum[s]));
    }
    ret_totals->low = -v_most(v_sub(v_set(0), v_load(row->low)));
    ret_totals->cosine_low = -v_most(v_sub(v_set(0), v_load(row->cosine_low)));
    ret_totals->cosine_high = v_most(v_load(row->cosine_high));
}

/* n elements of a tensor as f32. */
static void load_array(const void *from, enum dtype dtype, size_t n, float *ret)
{
    const unsigned char *p = from;
    size_t bytes = dtype_size(dtype), k = 0;
    for (; k + SIMD_WIDTH <= n; k += SIMD_WIDTH) {
        v_store(ret + k, v_load_as(dtype, p + k * bytes));
    }
    if (k < n) {
        uint32_t left = (uint32_t)(n - k);
        v_store_part(ret + k, v_load_part_as(dtype, p + k * bytes, left), left);
    }
}

/* |x|, by f32 squares: 0 or infinite where those under- or overflow. */
static float length_of(const float *x, size_t n)
{
    vf sum = v_set(0);
    size_t k = 0;
    for (; k + SIMD_WIDTH <= n; k += SIMD_WIDTH) {
        sum = v_fma(v_load(x + k), v_load(x + k), sum);
    }
    if (k < n) {
        vf left = v_load_part(x + k, (uint32_t)(n - k));
        sum = v_fma(left, left, sum);
    }
    return sqrtf(v_sum(sum));
}

const struct qk_kernels SIMD_NAME(qk_kernels) = {.fold_tile = fold_tile,
                                                 .fold_gradient = fold_gradient,
                                                 .add_lanes = add_lanes,
                                                 .exp2 = exp2_array,
                                                 .load = load_array,
                                                 .length = length_of};
