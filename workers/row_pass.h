/* SPDX-License-Identifier: MIT */
/* row_pass: the one pass over a row of weights, a template over simd_*.h.
 *
 * A row is walked by vectors from its first element, whatever its address and whatever the cut into
 * blocks, so that its sums do not depend on either. Vectors that are not wholly valid (the ends of
 * the valid interval, key 0, holes) and the one that holds the query's own position go through
 * `careful`; all others through two plain loops, left and right of the position.
 *
 * Left of it the distances cost one addition: D += S after S += x counts every weight once per
 * vector that follows, so with the loop ending before vector k1
 *
 *     sum x (p - j) = W sum D + sum_l (p - W k1 - l) S_l          lane l, W lanes.
 *
 * To the right that would cancel, and x is multiplied by its distance.
 *
 * The largest weights are kept sorted per lane, SIMD_TOP_LEVELS deep: enough for the 8 largest of a
 * row nearly always, and where a lane may have lost one, `reduce` says so.
 *
 * Sums are f32 lanes for at most SEGMENT vectors, then folded: an error of about 2e-6 of a sum. */
#ifndef WORKERS_ROW_PASS_H
#define WORKERS_ROW_PASS_H

#include "row_batch.h"
#include "simd_math.h"

#include <float.h>

#define SEGMENT 128u
#define W       ((uint32_t)SIMD_WIDTH)

struct sums {
    vf sum, plogp, squares, distance, min;
    vf top[SIMD_TOP_LEVELS];
};

/* What does not change along a row. */
struct walk {
    const struct row_job *job;
    vf pivot, tiny;
};

SIMD_INLINE uint32_t element_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
}

/* Vector k of the row, which must be whole. */
SIMD_INLINE vf load_whole(enum dtype dtype, const struct row_job *job, uint32_t k)
{
    return v_load_as(dtype, job->row + (size_t)k * W * element_bytes(dtype));
}

/* Vector k, zeros past the end of the row. */
SIMD_INLINE vf load_any(enum dtype dtype, const struct row_job *job, uint32_t k)
{
    uint32_t left = job->keys - k * W;
    return left >= W ? load_whole(dtype, job, k)
                     : v_load_part_as(dtype, job->row + (size_t)k * W * element_bytes(dtype), left);
}

SIMD_INLINE void fetch_next(enum dtype dtype, const struct row_job *job, uint32_t k)
{
    __builtin_prefetch(job->next + (size_t)k * W * element_bytes(dtype), 0, 2);
}

SIMD_INLINE void add_to_maps(const struct row_job *job, uint32_t k, vf x)
{
    float *sum = job->sum + (size_t)k * W, *max = job->max + (size_t)k * W;
    v_store(sum, v_add(v_load(sum), x));
    v_store(max, v_max(x, v_load(max)));
}

/* The valid keys of [begin, end) among the lanes of vector k, which overlaps it. */
SIMD_INLINE vm valid_lanes(const struct row_job *job, uint32_t begin, uint32_t end, uint32_t k)
{
    uint32_t j = k * W, left = job->keys - j < W ? job->keys - j : W;
    uint32_t from = begin > j ? begin - j : 0;
    uint32_t to = end < j + left ? end - j : left;
    uint32_t bits = to > from ? ((2u << (to - 1)) - 1) & ~((1u << from) - 1) : 0;
    vm m = v_mask_of_bits(bits);
    if (job->mask != NULL) {
        m = v_and(m, v_mask_of_bytes(job->mask + j, left));
    }
    if (job->document != NULL) {
        m = v_and(m, v_mask_of_equal(job->document + (size_t)j * 4, left, job->own));
    }
    return m;
}

/* |p - j| of vector k. */
SIMD_INLINE vf distances(const struct row_job *job, uint32_t k)
{
    double ahead = (double)job->position - (double)k * W;
    return v_abs(v_sub(v_set((float)ahead), v_lane_index()));
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

/* x log2 x, shifted; what is 0 (or less, in rows that will not count) gives 0. */
SIMD_INLINE vf add_plogp(const struct walk *w, vf plogp, vf x)
{
    vf positive = v_max_bits(x, w->tiny);
    return v_fma(positive, v_log2_shifted(positive), plogp);
}

SIMD_INLINE vf add_square(const struct walk *w, vf squares, vf x)
{
    vf off = v_sub(x, w->pivot);
    return v_fma(off, off, squares);
}

/* Vector k under its mask. */
SIMD_INLINE void careful(enum dtype dtype, bool core, bool maps, const struct walk *w,
                         struct sums *s, uint32_t k)
{
    const struct row_job *job = w->job;
    vf sent = load_any(dtype, job, k), zero = v_set(0);
    if (maps) {
        add_to_maps(job, k, sent);
    }
    vm valid = valid_lanes(job, job->begin, job->end, k);
    vf x = v_select(valid, sent, zero);
    vf rest = k == 0 ? v_select(v_mask_of_bits(~1u), x, zero) : x;
    s->sum = v_add(s->sum, rest);
    s->min = v_min_bits(s->min, v_select(valid, sent, v_set(INFINITY)));
    if (core) {
        s->plogp = add_plogp(w, s->plogp, rest);
        s->squares = v_select(valid, add_square(w, s->squares, sent), s->squares);
        s->distance = v_fma(x, distances(job, k), s->distance);
        insert(s->top, x);
    }
}

/* The lanes of one plain loop: `rank` is D of the left one, the distances of the right one. */
SIMD_INLINE void plain(bool core, bool left, const struct walk *w, struct sums *s, vf *rank, vf x)
{
    s->sum = v_add(s->sum, x);
    if (!core) {
        return;
    }
    s->plogp = add_plogp(w, s->plogp, x);
    s->squares = add_square(w, s->squares, x);
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

/* Vectors [k0, k1), all valid, all on one side of the position. */
SIMD_INLINE void plain_segment(enum dtype dtype, bool core, bool maps, bool left,
                               const struct walk *w, struct sums *total, uint32_t k0, uint32_t k1)
{
    const struct row_job *job = w->job;
    struct sums s = *total;
    s.sum = s.plogp = s.squares = s.distance = v_set(0);
    vf rank = left ? v_set(0) : distances(job, k0);
    uint32_t k = k0;
    for (; k + 1 < k1; k += 2) {
        vf a = load_whole(dtype, job, k), b = load_whole(dtype, job, k + 1);
        fetch_next(dtype, job, k);
        if (element_bytes(dtype) * W >= 64) {
            fetch_next(dtype, job, k + 1);
        }
        if (maps) {
            add_to_maps(job, k, a);
            add_to_maps(job, k + 1, b);
        }
        plain(core, left, w, &s, &rank, a);
        plain(core, left, w, &s, &rank, b);
        s.min = v_min_bits(s.min, core ? insert_pair(s.top, a, b) : v_min_bits(a, b));
    }
    if (k < k1) {
        vf a = load_whole(dtype, job, k);
        if (maps) {
            add_to_maps(job, k, a);
        }
        plain(core, left, w, &s, &rank, a);
        s.min = v_min_bits(s.min, a);
        if (core) {
            insert(s.top, a);
        }
    }
    if (core && left) {
        double ahead = (double)job->position - (double)k1 * W;
        vf behind = v_sub(v_set((float)ahead), v_lane_index());
        s.distance = v_fma(rank, v_set(SIMD_WIDTH), v_mul(behind, s.sum));
    }
    fold(total, &s);
}

SIMD_INLINE uint32_t plain_side(enum dtype dtype, bool core, bool maps, bool left,
                                const struct walk *w, struct sums *s, uint32_t k, uint32_t end)
{
    while (k < end) {
        uint32_t k1 = end - k > SEGMENT ? k + SEGMENT : end;
        plain_segment(dtype, core, maps, left, w, s, k, k1);
        k = k1;
    }
    return k;
}

/* The valid vectors of a row without holes. */
SIMD_INLINE void walk_interval(enum dtype dtype, bool core, bool maps, const struct walk *w,
                               struct sums *s, uint32_t k, uint32_t k_end)
{
    const struct row_job *job = w->job;
    uint32_t whole = job->end / W;
    uint64_t own = job->position / W;
    if (k == 0 || job->begin % W != 0) {
        careful(dtype, core, maps, w, s, k++);
    }
    k = plain_side(dtype, core, maps, true, w, s, k, own < whole ? (uint32_t)own : whole);
    if (k == own && k < k_end) {
        careful(dtype, core, maps, w, s, k++);
    }
    k = plain_side(dtype, core, maps, false, w, s, k, whole);
    if (k < k_end) {
        careful(dtype, core, maps, w, s, k);
    }
}

/* The same with holes, every vector under its mask. */
SIMD_INLINE void walk_holes(enum dtype dtype, bool core, bool maps, const struct walk *w,
                            struct sums *total, uint32_t k, uint32_t k_end)
{
    while (k < k_end) {
        uint32_t k1 = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        struct sums s = *total;
        s.sum = s.plogp = s.squares = s.distance = v_set(0);
        for (; k < k1; k++) {
            fetch_next(dtype, w->job, k);
            careful(dtype, core, maps, w, &s, k);
        }
        fold(total, &s);
    }
}

SIMD_INLINE void map_only(enum dtype dtype, const struct row_job *job, uint32_t k, uint32_t k_end)
{
    for (; k < k_end; k++) {
        fetch_next(dtype, job, k);
        add_to_maps(job, k, load_any(dtype, job, k));
    }
}

static inline float first_lane(vf x)
{
    float lane[SIMD_WIDTH];
    v_store(lane, x);
    return lane[0];
}

SIMD_INLINE float weight_at(enum dtype dtype, const struct row_job *job, uint32_t j)
{
    return first_lane(v_load_part_as(dtype, job->row + (size_t)j * element_bytes(dtype), 1));
}

SIMD_INLINE vf local_lanes(enum dtype dtype, const struct row_job *job)
{
    vf sum = v_set(0);
    for (uint32_t k = job->local_begin / W; k * W < job->local_end; k++) {
        vm local = valid_lanes(job, job->local_begin, job->local_end, k);
        sum = v_add(sum, v_select(local, load_any(dtype, job, k), v_set(0)));
    }
    return sum;
}

SIMD_INLINE void pick_weights(enum dtype dtype, const struct row_job *job, struct row_pass *pass,
                              uint32_t slot)
{
    for (uint32_t i = 0; i < SINGLE_COUNT; i++) {
        uint32_t j = job->single[i];
        pass->single[i][slot] = j == KEY_NONE ? 0 : weight_at(dtype, job, j);
    }
    for (uint32_t i = 0; i < 2; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < job->occurrences[i]; k++) {
            sum += (double)weight_at(dtype, job, job->occurrence[i][k]);
        }
        pass->occurrence[i][slot] = (float)sum;
    }
}

SIMD_INLINE void pass_row(enum dtype dtype, bool core, bool maps, const struct row_job *job,
                          struct row_pass *pass, uint32_t slot)
{
    struct walk w = {.job = job, .pivot = v_set(job->pivot), .tiny = v_set(FLT_MIN)};
    struct sums s = {.min = v_set(INFINITY)};
    s.sum = s.plogp = s.squares = s.distance = v_set(0);
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        s.top[l] = v_set(0);
    }
    uint32_t k = job->begin / W, k_end = (job->end + W - 1) / W;
    if (maps) {
        map_only(dtype, job, 0, k);
    }
    if (job->mask != NULL || job->document != NULL) {
        walk_holes(dtype, core, maps, &w, &s, k, k_end);
    } else {
        walk_interval(dtype, core, maps, &w, &s, k, k_end);
    }
    if (maps) {
        map_only(dtype, job, k_end, (job->keys + W - 1) / W);
    }
    float *lanes = pass->lanes[0] + slot * W;
    const size_t stride = sizeof pass->lanes[0] / sizeof(float);
    v_store(lanes + LANES_SUM * stride, s.sum);
    v_store(lanes + LANES_MIN * stride, s.min);
    pass->single[SINGLE_FIRST][slot] =
        job->single[SINGLE_FIRST] == KEY_NONE ? 0 : weight_at(dtype, job, 0);
    if (!core) {
        return;
    }
    v_store(lanes + LANES_PLOGP * stride, s.plogp);
    v_store(lanes + LANES_SQUARES * stride, s.squares);
    v_store(lanes + LANES_DISTANCE * stride, s.distance);
    v_store(lanes + LANES_LOCAL * stride, local_lanes(dtype, job));
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        v_store(lanes + (LANES_TOP + l) * stride, s.top[l]);
    }
    pick_weights(dtype, job, pass, slot);
}

#define PASS(kind, core, dtype_name, dtype)                                                        \
    static void kind##_##dtype_name(const struct row_job *job, struct row_pass *pass,              \
                                    uint32_t slot)                                                 \
    {                                                                                              \
        pass_row(dtype, core, false, job, pass, slot);                                             \
    }                                                                                              \
    static void kind##_maps_##dtype_name(const struct row_job *job, struct row_pass *pass,         \
                                         uint32_t slot)                                            \
    {                                                                                              \
        pass_row(dtype, core, true, job, pass, slot);                                              \
    }
#define PASSES(dtype_name, dtype)                                                                  \
    PASS(core, true, dtype_name, dtype)                                                            \
    PASS(rows, false, dtype_name, dtype)                                                           \
    static void maps_##dtype_name(const struct row_job *job)                                       \
    {                                                                                              \
        map_only(dtype, job, 0, (job->keys + W - 1) / W);                                          \
    }

PASSES(f32, DTYPE_F32)
PASSES(f16, DTYPE_F16)
PASSES(bf16, DTYPE_BF16)
PASSES(f64, DTYPE_F64)

#endif
