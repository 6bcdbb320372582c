/* SPDX-License-Identifier: MIT */
/* row_pass_tmpl: the one pass over a row of weights, a template over simd.h.
 *
 * A row is walked by vectors from its first element, whatever its address and whatever the cut into
 * blocks, so that its sums do not depend on either. Vectors that are not wholly valid (the ends of
 * the valid interval, the first key, holes) and the one that holds the query's own position go
 * through `careful`; all others through two plain loops, left and right of the position.
 *
 * Left of it the distances cost one addition: D += S after S += x counts every weight once per
 * vector that follows, so with the loop ending before vector k1
 *
 *     sum x (p - j) = W sum D + sum_l (p - W k1 - l) S_l          lane l, W lanes.
 *
 * To the right that would cancel, and x is multiplied by its distance.
 *
 * Squares are summed as they are. The moments need them about the mean, which loses the digits that
 * a nearly uniform row has in common; `reduce` names such rows, for a second look at them.
 *
 * The largest weights are kept sorted per lane, SIMD_TOP_LEVELS deep: enough for the 8 largest of a
 * row nearly always, and where a lane may have lost one, `reduce` reports it.
 *
 * Sums are f32 lanes for at most SEGMENT vectors, then folded: an error of at most 4e-6 of a
 * sum. */
#ifndef WORKERS_ROWS_ROW_PASS_TMPL_H
#define WORKERS_ROWS_ROW_PASS_TMPL_H

#include "workers/rows/row_batch.h"
#include "workers/simd/math.h"

#include <float.h>

#define SEGMENT 128u
#define W       ((uint32_t)SIMD_WIDTH)

#ifdef SIMD_CODES
/* The largest and the least weights of bf16 that were met in pairs of vectors, as codes. */
struct code_ranks {
    vi top[SIMD_TOP_LEVELS], min;
};
#endif

struct sums {
    vf sum, plogp, squares, distance, min;
    vf top[SIMD_TOP_LEVELS];
#ifdef SIMD_CODES
    struct code_ranks codes; /* of bf16 with core */
#endif
};

/* The values that are constant along a row; copies, since stores to the maps might change the job
 * for all the compiler knows. */
struct walk {
    const struct row_job *job;
    const unsigned char *row;
    /* The addresses to fetch early, less the place in the row, before and from vector `turn`. */
    const unsigned char *ahead, *ahead_next;
    uint32_t turn;
    float *maps;
    uint32_t keys, first;
};

SIMD_INLINE struct walk walk_of(enum dtype dtype, const struct row_job *job,
                                const unsigned char *row, const unsigned char *next)
{
    size_t bytes = (size_t)job->keys * dtype_size(dtype);
    size_t ahead = bytes < ROW_AHEAD ? bytes : ROW_AHEAD;
    return (struct walk){.job = job,
                         .row = row,
                         .ahead = row + ahead,
                         .ahead_next = next - (bytes - ahead),
                         .turn = (uint32_t)((bytes - ahead) / (W * dtype_size(dtype))),
                         .maps = job->maps,
                         .keys = job->keys,
                         .first = job->single[SINGLE_FIRST]};
}

/* Vector k of the row, which must be whole. */
SIMD_INLINE vf load_whole(enum dtype dtype, const struct walk *w, uint32_t k)
{
    return v_load_as(dtype, w->row + (size_t)k * W * dtype_size(dtype));
}

/* Vector k, zeros past the end of the row. */
SIMD_INLINE vf load_any(enum dtype dtype, const struct walk *w, uint32_t k)
{
    uint32_t left = w->keys - k * W;
    return left >= W ? load_whole(dtype, w, k)
                     : v_load_part_as(dtype, w->row + (size_t)k * W * dtype_size(dtype), left);
}

/* Into the second-level cache: what is fetched into the first occupies one of its few miss buffers
 * for as long as the memory takes, which halves the speed. Every vector of a row has to be fetched,
 * as one miss costs as much as thirty vectors. */
SIMD_INLINE void fetch_ahead(enum dtype dtype, const struct walk *w, uint32_t k)
{
    const unsigned char *ahead = k < w->turn ? w->ahead : w->ahead_next;
    __builtin_prefetch(ahead + (size_t)k * W * dtype_size(dtype), 0, 2);
}

SIMD_INLINE void add_to_maps(enum row_maps maps, const struct walk *w, uint32_t k, vf x)
{
    float *sum = w->maps + (size_t)k * 2 * W, *max = sum + W;
    v_store(sum, maps == ROW_MAPS_BEGIN ? x : v_add(v_load(sum), x));
    v_store(max, maps == ROW_MAPS_BEGIN ? x : v_max(x, v_load(max)));
}

/* The valid keys of [begin, end) among the lanes of vector k, which overlaps it. */
SIMD_INLINE vm valid_lanes(const struct row_job *job, uint32_t begin, uint32_t end, uint32_t k)
{
    uint32_t j = k * W, left = job->keys - j < W ? job->keys - j : W;
    uint32_t from = begin > j ? begin - j : 0;
    uint32_t to = end < j + left ? end - j : left;
    uint32_t bits = to > from ? ((2u << (to - 1)) - 1) & ~((1u << from) - 1) : 0;
    vm m = v_mask_of_bits(bits);
    if (job->holes.mask) {
        m = v_and(m, v_mask_of_bytes(job->holes.mask + j, left));
    }
    if (job->holes.document) {
        m = v_and(m, v_mask_of_equal(job->holes.document + (size_t)j * 4, left, job->holes.own));
    }
    return m;
}

/* p - j of vector k. */
SIMD_INLINE vf behind(const struct row_job *job, uint64_t k)
{
    return v_sub(v_set((float)((int64_t)job->position - (int64_t)(k * W))), v_lane_index());
}

SIMD_INLINE void insert(vf top[SIMD_TOP_LEVELS], vf x)
{
    for (uint32_t l = 0; l + 1 < SIMD_TOP_LEVELS; l++) {
        vf low = v_min_bits(top[l], x);
        top[l] = v_max_bits(top[l], x);
        x = low;
    }
    top[SIMD_TOP_LEVELS - 1] = v_max_bits(top[SIMD_TOP_LEVELS - 1], x);
}

/* Two at a time: the smaller of both only competes with what the larger has pushed down. Returns
 * the smaller. */
SIMD_INLINE vf insert_pair(vf top[SIMD_TOP_LEVELS], vf a, vf b)
{
    vf high = v_max_bits(a, b), low = v_min_bits(a, b);
#if SIMD_TOP_LEVELS == 3
    vf pushed = v_min_bits(top[0], high), second = v_max_bits(top[1], low);
    top[0] = v_max_bits(top[0], high);
    top[1] = v_max_bits(pushed, second);
    top[2] = v_max_bits(top[2], v_min_bits(pushed, second));
#else
    insert(top, high);
    vf x = low;
    for (uint32_t l = 1; l + 1 < SIMD_TOP_LEVELS; l++) {
        vf next = v_min_bits(top[l], x);
        top[l] = v_max_bits(top[l], x);
        x = next;
    }
    top[SIMD_TOP_LEVELS - 1] = v_max_bits(top[SIMD_TOP_LEVELS - 1], x);
#endif
    return low;
}

/* x log2 x, shifted; 0 gives 0, and what is less is in rows that will not count. */
SIMD_INLINE vf add_plogp(vf plogp, vf x)
{
    return v_fma(x, v_log2_shifted(x), plogp);
}

/* Vector k without the row's first key. */
SIMD_INLINE vf without_first(const struct walk *w, uint32_t k, vf x)
{
    return k == w->first / W ? v_select(v_mask_of_bits(~(1u << w->first % W)), x, v_set(0)) : x;
}

/* Vector k under its mask. */
SIMD_INLINE void careful(enum dtype dtype, bool core, enum row_maps maps, const struct walk *w,
                         struct sums *s, uint32_t k)
{
    vf sent = load_any(dtype, w, k), zero = v_set(0);
    fetch_ahead(dtype, w, k);
    if (maps != ROW_MAPS_NONE) {
        add_to_maps(maps, w, k, sent);
    }
    vm valid = valid_lanes(w->job, w->job->begin, w->job->end, k);
    vf x = v_select(valid, sent, zero), rest = without_first(w, k, x);
    s->sum = v_add(s->sum, rest);
    s->min = v_min_bits(s->min, v_select(valid, sent, v_set(INFINITY)));
    if (core) {
        s->plogp = add_plogp(s->plogp, rest);
        s->squares = v_fma(x, x, s->squares);
        s->distance = v_fma(x, v_abs(behind(w->job, k)), s->distance);
        insert(s->top, x);
    }
}

/* A vector k that is wholly valid, of a row without holes, whose first key is key 0. */
SIMD_INLINE void single(enum dtype dtype, bool core, enum row_maps maps, const struct walk *w,
                        struct sums *s, uint32_t k)
{
    vf x = load_whole(dtype, w, k);
    fetch_ahead(dtype, w, k);
    if (maps != ROW_MAPS_NONE) {
        add_to_maps(maps, w, k, x);
    }
    vf rest = k == 0 ? v_select(v_mask_of_bits(~1u), x, v_set(0)) : x;
    s->sum = v_add(s->sum, rest);
    s->min = v_min_bits(s->min, x);
    if (core) {
        s->plogp = add_plogp(s->plogp, rest);
        s->squares = v_fma(x, x, s->squares);
        s->distance = v_fma(x, v_abs(behind(w->job, k)), s->distance);
        insert(s->top, x);
    }
}

/* One vector of a plain loop, except for minimum and largest: `rank` is D of the left one, the
 * distances of the right one. */
SIMD_INLINE void plain(bool core, bool left, struct sums *s, vf *rank, vf x)
{
    s->sum = v_add(s->sum, x);
    if (!core) {
        return;
    }
    s->plogp = add_plogp(s->plogp, x);
    s->squares = v_fma(x, x, s->squares);
    if (left) {
        *rank = v_add(*rank, s->sum);
    } else {
        s->distance = v_fma(x, *rank, s->distance);
        *rank = v_add(*rank, v_set(SIMD_WIDTH));
    }
}

/* A segment's sums, which began at zero, into those of the row; minimum and largest went on. */
SIMD_INLINE void fold(struct sums *total, const struct sums *segment)
{
    struct sums s = *segment;
    s.sum = v_add(total->sum, s.sum);
    s.plogp = v_add(total->plogp, s.plogp);
    s.squares = v_add(total->squares, s.squares);
    s.distance = v_add(total->distance, s.distance);
    *total = s;
}

#ifdef SIMD_CODES
SIMD_INLINE void clear_ranks(struct code_ranks *ranks)
{
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        ranks->top[l] = v_set_i(0);
    }
    ranks->min = v_set_i(0x7f7f7f7f);
}

SIMD_INLINE void rank_codes(struct code_ranks *ranks, vi codes)
{
    ranks->min = v_min_codes(ranks->min, codes);
    for (uint32_t l = 0; l + 1 < SIMD_TOP_LEVELS; l++) {
        vi low = v_min_codes(ranks->top[l], codes);
        ranks->top[l] = v_max_codes(ranks->top[l], codes);
        codes = low;
    }
    ranks->top[SIMD_TOP_LEVELS - 1] = v_max_codes(ranks->top[SIMD_TOP_LEVELS - 1], codes);
}

/* Back among the sums. */
SIMD_INLINE void fold_ranks(struct sums *s, const struct code_ranks *ranks)
{
    s->min = v_min_bits(s->min, v_of_codes(ranks->min, 0));
    s->min = v_min_bits(s->min, v_of_codes(ranks->min, 16));
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        insert_pair(s->top, v_of_codes(ranks->top[l], 0), v_of_codes(ranks->top[l], 16));
    }
}

/* The core sums of as many pairs of bf16 vectors from k on as there are before k1; returns where
 * they end. The segment's sums begin here. */
SIMD_INLINE uint32_t plain_codes(enum row_maps maps, bool left, const struct walk *w,
                                 struct sums *s, vf *ret_rank, uint32_t k, uint32_t k1)
{
    const struct codes_log2 table = v_codes_log2();
    vf log2[2], sum = v_set(0), plogp = v_set(0), rank = *ret_rank;
    for (; k + 1 < k1; k += 2) {
        vi codes = v_load_i((const int32_t *)(const void *)(w->row + (size_t)k * W * 2));
        vf a = v_of_codes(codes, 0), b = v_of_codes(codes, 16);
        fetch_ahead(DTYPE_BF16, w, k);
        if (maps != ROW_MAPS_NONE) {
            add_to_maps(maps, w, k, a);
            add_to_maps(maps, w, k + 1, b);
        }
        v_log2_of_codes(codes, &table, log2);
        plogp = v_fma(b, log2[1], v_fma(a, log2[0], plogp));
        s->squares = v_fma(b, b, v_fma(a, a, s->squares));
        vf sum_a = v_add(sum, a);
        sum = v_add(sum_a, b);
        if (left) {
            rank = v_add(v_add(rank, sum_a), sum);
        } else {
            vf further = v_add(rank, v_set(SIMD_WIDTH));
            s->distance = v_fma(b, further, v_fma(a, rank, s->distance));
            rank = v_add(further, v_set(SIMD_WIDTH));
        }
        rank_codes(&s->codes, codes);
    }
    s->sum = sum;
    s->plogp = v_fma(plogp, v_set(0x1p-16f), v_mul(sum, v_set(-LOG2_CONSTANT)));
    *ret_rank = rank;
    return k;
}
#endif

/* Vectors [k0, k1), all valid, all on one side of the position. */
SIMD_INLINE void plain_segment(enum dtype dtype, bool core, enum row_maps maps, bool left,
                               const struct walk *w, struct sums *total, uint32_t k0, uint32_t k1)
{
    struct sums s = *total;
    s.sum = s.plogp = s.squares = s.distance = v_set(0);
    vf rank = left ? v_set(0) : v_abs(behind(w->job, k0));
    uint32_t k = k0;
#ifdef SIMD_CODES
    if (core && dtype == DTYPE_BF16) {
        k = plain_codes(maps, left, w, &s, &rank, k, k1);
    }
#endif
    for (; k + 1 < k1; k += 2) {
        vf a = load_whole(dtype, w, k), b = load_whole(dtype, w, k + 1);
        fetch_ahead(dtype, w, k);
        if (dtype_size(dtype) * W >= 64) {
            fetch_ahead(dtype, w, k + 1);
        }
        if (maps != ROW_MAPS_NONE) {
            add_to_maps(maps, w, k, a);
            add_to_maps(maps, w, k + 1, b);
        }
        plain(core, left, &s, &rank, a);
        plain(core, left, &s, &rank, b);
        s.min = v_min_bits(s.min, core ? insert_pair(s.top, a, b) : v_min_bits(a, b));
    }
    if (k < k1) {
        vf a = load_whole(dtype, w, k);
        fetch_ahead(dtype, w, k);
        if (maps != ROW_MAPS_NONE) {
            add_to_maps(maps, w, k, a);
        }
        plain(core, left, &s, &rank, a);
        s.min = v_min_bits(s.min, a);
        if (core) {
            insert(s.top, a);
        }
    }
    if (core && left) {
        s.distance = v_fma(rank, v_set(SIMD_WIDTH), v_mul(behind(w->job, k1), s.sum));
    }
    fold(total, &s);
}

SIMD_INLINE uint32_t plain_side(enum dtype dtype, bool core, enum row_maps maps, bool left,
                                const struct walk *w, struct sums *s, uint32_t k, uint32_t end)
{
    while (k < end) {
        uint32_t k1 = end - k > SEGMENT ? k + SEGMENT : end;
        plain_segment(dtype, core, maps, left, w, s, k, k1);
        k = k1;
    }
    return k;
}

/* The valid vectors [k, k_end) of a row without holes. */
SIMD_INLINE void walk_interval(enum dtype dtype, bool core, enum row_maps maps,
                               const struct walk *w, struct sums *s, uint32_t k, uint32_t k_end)
{
    uint32_t whole = w->job->end / W;
    uint64_t own = w->job->position / W;
    if (w->job->begin % W != 0 || whole == 0) {
        careful(dtype, core, maps, w, s, k++);
    } else if (k == 0) {
        single(dtype, core, maps, w, s, k++);
    }
    k = plain_side(dtype, core, maps, true, w, s, k, own < whole ? (uint32_t)own : whole);
    if (k == own && k < whole) {
        single(dtype, core, maps, w, s, k++);
    }
    k = plain_side(dtype, core, maps, false, w, s, k, whole);
    if (k < k_end) {
        careful(dtype, core, maps, w, s, k);
    }
}

/* The same with holes, every vector under its mask. */
SIMD_INLINE void walk_holes(enum dtype dtype, bool core, enum row_maps maps, const struct walk *w,
                            struct sums *total, uint32_t k, uint32_t k_end)
{
    while (k < k_end) {
        uint32_t k1 = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        struct sums s = *total;
        s.sum = s.plogp = s.squares = s.distance = v_set(0);
        for (; k < k1; k++) {
            careful(dtype, core, maps, w, &s, k);
        }
        fold(total, &s);
    }
}

SIMD_INLINE void map_only(enum dtype dtype, enum row_maps maps, const struct walk *w, uint32_t k,
                          uint32_t k_end)
{
    for (; k < k_end; k++) {
        fetch_ahead(dtype, w, k);
        add_to_maps(maps, w, k, load_any(dtype, w, k));
    }
}

SIMD_INLINE float weight_at(enum dtype dtype, const unsigned char *row, uint32_t j)
{
    const unsigned char *p = row + (size_t)j * dtype_size(dtype);
    uint32_t bits = 0;
    float x;
    double wide;
    switch (dtype) {
    case DTYPE_F64:
        memcpy(&wide, p, sizeof wide);
        return (float)wide;
    case DTYPE_F16: {
        float lane[SIMD_WIDTH];
        v_store(lane, v_load_part_as(dtype, p, 1));
        return lane[0];
    }
    case DTYPE_BF16:
        memcpy((unsigned char *)&bits + 2, p, 2);
        memcpy(&x, &bits, sizeof x);
        return x;
    default:
        memcpy(&x, p, sizeof x);
        return x;
    }
}

/* From the first key of local_mass on, whatever vector that is in. */
SIMD_INLINE vf local_lanes(enum dtype dtype, const struct row_job *job, const unsigned char *row)
{
    vf sum = v_set(0);
    for (uint32_t j = job->local_begin; j < job->local_end; j += W) {
        uint32_t n = job->local_end - j < W ? job->local_end - j : W;
        vf x = v_load_part_as(dtype, row + (size_t)j * dtype_size(dtype), n);
        if (job->holes.mask) {
            x = v_select(v_mask_of_bytes(job->holes.mask + j, n), x, v_set(0));
        }
        if (job->holes.document) {
            vm same = v_mask_of_equal(job->holes.document + (size_t)j * 4, n, job->holes.own);
            x = v_select(same, x, v_set(0));
        }
        sum = v_add(sum, x);
    }
    return sum;
}

SIMD_INLINE void pick_weights(enum dtype dtype, const struct row_job *job, const unsigned char *row,
                              struct row_pass *pass, uint32_t slot)
{
    for (uint32_t i = 0; i < SINGLE_COUNT; i++) {
        uint32_t j = job->single[i];
        pass->single[i][slot] = j == KEY_NONE ? 0 : weight_at(dtype, row, j);
    }
    for (uint32_t i = 0; i < 2; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < job->occurrences[i]; k++) {
            sum += (double)weight_at(dtype, row, job->occurrence[i][k]);
        }
        pass->occurrence[i][slot] = (float)sum;
    }
}

SIMD_INLINE void pass_row(enum dtype dtype, bool core, enum row_maps maps,
                          const struct row_job *job, const unsigned char *row,
                          const unsigned char *next, struct row_pass *pass, uint32_t slot)
{
    const struct walk w = walk_of(dtype, job, row, next);
    struct sums s = {.min = v_set(INFINITY)};
    s.sum = s.plogp = s.squares = s.distance = v_set(0);
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        s.top[l] = v_set(0);
    }
#ifdef SIMD_CODES
    if (core && dtype == DTYPE_BF16) {
        clear_ranks(&s.codes);
    }
#endif
    uint32_t k = job->begin / W, k_end = (job->end + W - 1) / W;
    if (maps != ROW_MAPS_NONE) {
        map_only(dtype, maps, &w, 0, k);
    }
    if (job->holes.mask || job->holes.document) {
        walk_holes(dtype, core, maps, &w, &s, k, k_end);
    } else {
        walk_interval(dtype, core, maps, &w, &s, k, k_end);
    }
    if (maps != ROW_MAPS_NONE) {
        map_only(dtype, maps, &w, k_end, (job->keys + W - 1) / W);
    }
#ifdef SIMD_CODES
    if (core && dtype == DTYPE_BF16) {
        fold_ranks(&s, &s.codes);
    }
#endif
    float *lanes = pass->lanes[0] + slot * W;
    const size_t stride = sizeof pass->lanes[0] / sizeof(float);
    v_store(lanes + LANES_SUM * stride, s.sum);
    v_store(lanes + LANES_MIN * stride, s.min);
    pick_weights(dtype, job, row, pass, slot);
    if (!core) {
        return;
    }
    v_store(lanes + LANES_PLOGP * stride, s.plogp);
    v_store(lanes + LANES_SQUARES * stride, s.squares);
    v_store(lanes + LANES_DISTANCE * stride, s.distance);
    v_store(lanes + LANES_LOCAL * stride, local_lanes(dtype, job, row));
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        v_store(lanes + (LANES_TOP + l) * stride, s.top[l]);
    }
}

#define PASS(name, core, maps, dtype)                                                              \
    static void name(const struct row_job *job, const unsigned char *row,                          \
                     const unsigned char *next, struct row_pass *pass, uint32_t slot)              \
    {                                                                                              \
        pass_row(dtype, core, maps, job, row, next, pass, slot);                                   \
    }
#define PASSES(dtype_name, dtype)                                                                  \
    PASS(core_##dtype_name, true, ROW_MAPS_NONE, dtype)                                            \
    PASS(core_begin_##dtype_name, true, ROW_MAPS_BEGIN, dtype)                                     \
    PASS(core_maps_##dtype_name, true, ROW_MAPS_ADD, dtype)                                        \
    PASS(rows_##dtype_name, false, ROW_MAPS_NONE, dtype)                                           \
    PASS(rows_begin_##dtype_name, false, ROW_MAPS_BEGIN, dtype)                                    \
    PASS(rows_maps_##dtype_name, false, ROW_MAPS_ADD, dtype)                                       \
    static void maps_##dtype_name(enum row_maps maps, const struct row_job *job,                   \
                                  const unsigned char *row, const unsigned char *next)             \
    {                                                                                              \
        const struct walk w = walk_of(dtype, job, row, next);                                      \
        map_only(dtype, maps, &w, 0, (job->keys + W - 1) / W);                                     \
    }

PASSES(f32, DTYPE_F32)
PASSES(f16, DTYPE_F16)
PASSES(bf16, DTYPE_BF16)
PASSES(f64, DTYPE_F64)

#endif
