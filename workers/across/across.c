/* SPDX-License-Identifier: MIT */
/* across: the passes in f32 lanes, and what is left to do once their blocks are merged. Entries and
 * rows out of the ordinary, which f32 cannot handle, go through the reference. */
#include "workers/across/across.h"
#include "workers/across/ref.h"
#include "workers/across/row.h"
#include "proto/err.h"
#include "workers/rows/pairs.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Weighted maps.
 *
 * Every entry counts, so rows do not matter: the rows of a block are one stretch of memory in each
 * head, cut into chunks that fit the first cache. The weights are divided by a power of two that
 * brings the sum of their magnitudes to 1/2 at most; the map's entries are then no larger than the
 * weights' own and stay finite where all of them are. */

/* Larger weights could overflow f64 as well. */
#define WEIGHT_MAX 1e200

struct map_pass {
    const struct across_kernels *kernel;
    enum dtype dtype;
    size_t element_bytes;
    struct scratch *scratch;
    uint32_t heads, most; /* that take part, that there are */
    const unsigned char **source;
    double *weight, *work; /* [most], [2 * ACROSS_CHUNK] */
    float *scaled;         /* [most] weight / scale */
    float *entry;          /* [ACROSS_CHUNK] */
    double scale;          /* NaN: by the reference */
};

static void map_pass_lay(void *data, struct scratch_pieces *m)
{
    struct map_pass *p = data;
    p->source = scratch_carve(m, p->most, sizeof *p->source);
    p->weight = scratch_carve(m, p->most, sizeof *p->weight);
    p->work = scratch_carve(m, 2 * ACROSS_CHUNK, sizeof *p->work);
    p->scaled = scratch_carve(m, p->most, sizeof *p->scaled);
    p->entry = scratch_carve(m, ACROSS_CHUNK, sizeof *p->entry);
}

static void scale_weights(struct map_pass *p)
{
    double total = 0;
    for (uint32_t h = 0; h < p->heads; h++) {
        total += fabs(p->weight[h]);
    }
    int exponent = 0;
    frexp(total, &exponent);
    p->scale = total < WEIGHT_MAX ? ldexp(1, exponent + 1) : NAN;
    for (uint32_t h = 0; h < p->heads; h++) {
        p->scaled[h] = (float)(p->weight[h] / p->scale);
    }
}

/* Returns whether f32 could tell; nothing was added then. */
static bool add_scaled(const struct map_pass *p, struct moments *map, uint32_t n)
{
    if (isnan(p->scale)) {
        return false;
    }
    p->kernel->weigh(p->source, p->scaled, p->heads, p->dtype, n, p->entry);
    struct across_moments m = p->kernel->moments(p->entry, n);
    if (!m.finite && p->dtype != DTYPE_F64) { /* an f64 may be finite and not fit an f32 */
        /* Moves the finite entries to the front; returns how many. */
        uint32_t kept = 0;
        for (uint32_t j = 0; j < n; j++) {
            p->entry[kept] = p->entry[j];
            kept += isfinite(p->entry[kept]) != 0;
        }
        n = kept;
        if (n == 0) {
            return true;
        }
        m = p->kernel->moments(p->entry, n);
    }
    if (!m.finite) {
        return false;
    }
    struct moments found = {.n = n,
                            .mean = m.mean * p->scale,
                            .m2 = m.m2 * p->scale * p->scale,
                            .min = (double)m.min * p->scale,
                            .max = (double)m.max * p->scale};
    moments_merge(map, &found);
    return true;
}

/* `count` entries from where the sources point. */
static void across_add_stretch(const struct map_pass *p, struct moments *map, uint64_t count)
{
    for (uint64_t done = 0; done < count; done += ACROSS_CHUNK) {
        uint64_t rest = count - done;
        uint32_t n = rest < ACROSS_CHUNK ? (uint32_t)rest : ACROSS_CHUNK;
        scratch_pause(p->scratch);
        if (!add_scaled(p, map, n)) {
            across_map_entries_ref(map, p->source, p->weight, p->heads, p->dtype, n, p->work);
        }
        for (uint32_t h = 0; h < p->heads; h++) {
            p->source[h] += n * p->element_bytes;
        }
    }
}

int across_weighted_map(struct moments *map, const struct attention *a, const double *weight,
                        uint32_t row_begin, uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    assert(row_end <= a->queries);
    const struct across_kernels *kernel = across_kernels_of(isa);
    if (!kernel) {
        return across_weighted_map_ref(map, a, weight, row_begin, row_end, scratch);
    }
    struct map_pass p = {.kernel = kernel,
                         .dtype = a->dtype,
                         .element_bytes = dtype_size(a->dtype),
                         .scratch = scratch,
                         .most = a->heads};
    int rc = scratch_take_pieces(scratch, map_pass_lay, &p);
    for (uint32_t b = 0; rc == 0 && row_begin < row_end && b < a->batch; b++) {
        p.heads = across_map_sources(a, weight, b, row_begin, p.source, p.weight);
        if (p.heads > 0) {
            scale_weights(&p);
            across_add_stretch(&p, map, (uint64_t)(row_end - row_begin) * a->keys);
        }
    }
    return rc;
}

/* Gradient. */

/* Products below this may have lost digits to f32's range. */
#define PRODUCTS_MIN 1e-25

struct gradient_pass {
    const struct across_kernels *kernel; /* NULL: by the reference */
    const struct attention *a;
    struct attention grad; /* as weights */
    struct across_keys keys;
    uint32_t *key;         /* [keys] */
    float *weight, *slope; /* [keys] */
    double *work;          /* [3 * keys] */
};

static void gradient_pass_lay(void *data, struct scratch_pieces *m)
{
    struct gradient_pass *p = data;
    p->key = scratch_carve(m, p->a->keys, sizeof *p->key);
    p->weight = scratch_carve(m, p->a->keys, sizeof *p->weight);
    p->slope = scratch_carve(m, p->a->keys, sizeof *p->slope);
    p->work = scratch_carve(m, 3 * (uint64_t)p->a->keys, sizeof *p->work);
}

/* Returns whether f32 could tell. */
static bool across_sum_products(const struct gradient_pass *p, uint32_t h, double *ret_sum)
{
    double sum = 0;
    bool zero = p->grad.dtype != DTYPE_F64; /* an f64 may be 0 in f32 only */
    across_load(p->kernel, &p->grad, h, &p->keys, p->slope);
    for (uint32_t k = 0; k < p->keys.n; k += ACROSS_CHUNK) {
        uint32_t rest = p->keys.n - k, n = rest < ACROSS_CHUNK ? rest : ACROSS_CHUNK;
        struct across_products one = p->kernel->products(p->weight + k, p->slope + k, n);
        if (!one.finite) {
            return false;
        }
        sum += one.sum;
        zero = zero && !(one.largest > 0);
    }
    *ret_sum = sum;
    return zero || sum > PRODUCTS_MIN;
}

static double gradient_row(const struct gradient_pass *p, uint32_t h)
{
    if (p->kernel) {
        struct across_judged judged;
        double sum = 0;
        across_load(p->kernel, p->a, h, &p->keys, p->weight);
        enum across_verdict verdict = across_judge(p->kernel, p->a, p->weight, p->keys.n, &judged);
        if (verdict == ACROSS_UNSOUND) {
            return 0;
        }
        if (verdict == ACROSS_SOUND && across_sum_products(p, h, &sum)) {
            return sum;
        }
    }
    return across_gradient_row_ref(p->a, p->keys.b, h, p->keys.i, p->keys.key, p->keys.n, p->work);
}

static void gradient_sample(struct gradient_pass *p, double *score, uint32_t b, uint32_t i)
{
    if (!attention_query_valid(p->a, b, i)) {
        return;
    }
    uint32_t n = attention_valid_keys(p->a, b, i, p->key);
    p->keys = (struct across_keys){.b = b, .i = i, .n = n, .key = p->key};
    for (uint32_t h = 0; n > 0 && h < p->a->heads; h++) {
        score[h] += gradient_row(p, h);
    }
}

int across_gradient(double *score, const struct attention *a, uint32_t row_begin, uint32_t row_end,
                    enum isa isa, struct scratch *scratch)
{
    assert(a->grad && row_end <= a->queries);
    struct gradient_pass p = {.kernel = across_kernels_of(isa), .a = a, .grad = across_grad(a)};
    int rc = scratch_take_pieces(scratch, gradient_pass_lay, &p);
    for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
        for (uint32_t b = 0; b < a->batch; b++) {
            scratch_pause(scratch);
            gradient_sample(&p, score, b, i);
        }
    }
    return rc;
}

/* Scores are sums of magnitudes: the largest is divided out first, so that no square overflows or
 * vanishes. */
void across_gradient_normalize(double *score, uint32_t heads)
{
    double largest = 0, squares = 0;
    for (uint32_t h = 0; h < heads; h++) {
        largest = score[h] > largest || isnan(score[h]) ? score[h] : largest;
    }
    for (uint32_t h = 0; h < heads; h++) {
        double share = score[h] / largest;
        squares += share * share;
    }
    bool exists = largest > 0 && isfinite(largest) && isfinite(squares);
    for (uint32_t h = 0; h < heads; h++) {
        score[h] = exists ? score[h] / largest / sqrt(squares) : NAN;
    }
}

/* Largest entries of each head.
 *
 * An average over samples is no larger than the largest of them: once a list is full, a row whose
 * largest entry does not pass the list's last one has nothing to offer. The few that do go through
 * the reference. */

/* The largest finite entry of row i in any sample, infinity where f32 cannot tell. */
static float largest_of_row(const struct across_kernels *kernel, const struct attention *a,
                            uint32_t h, uint32_t i)
{
    float max = -INFINITY;
    for (uint32_t b = 0; b < a->batch; b++) {
        size_t row = ((size_t)b * a->heads + h) * a->queries + i;
        const unsigned char *source = a->weights;
        struct across_largest found =
            kernel->largest(source + row * a->keys * dtype_size(a->dtype), a->dtype, a->keys);
        if (!found.finite && a->dtype == DTYPE_F64) {
            return INFINITY;
        }
        max = found.max > max ? found.max : max;
    }
    return max;
}

/* Whether a full list may change. Rounding, of an f64 to f32 or of an average, is allowed for; the
 * rows come in order, so that an equal entry of a later one stays behind. */
static bool may_enter(const struct attention *a, float largest, double last)
{
    double bound = (double)largest;
    if (a->dtype == DTYPE_F64 || a->batch > 1) {
        bound += fabs(bound) * 1e-6 + 1e-40;
    }
    return bound > last;
}

int across_head_pairs(struct pair *pairs, uint32_t *count, uint32_t limit,
                      const struct attention *a, uint32_t row_begin, uint32_t row_end, enum isa isa,
                      struct scratch *scratch)
{
    assert(limit > 0 && row_end <= a->queries);
    const struct across_kernels *kernel = across_kernels_of(isa);
    struct attention_extent *extent =
        scratch_take(scratch, a->batch * sizeof *extent + 3 * (size_t)a->keys * sizeof(double));
    if (!extent) {
        return ERR_MEMORY;
    }
    for (uint32_t b = 0; b < a->batch; b++) {
        extent[b] = attention_extent(a, b);
    }
    double *work = (double *)(void *)(extent + a->batch);
    for (uint32_t h = 0; h < a->heads; h++) {
        struct pair *list = pairs + (size_t)h * limit;
        for (uint32_t i = row_begin; i < row_end; i++) {
            scratch_pause(scratch);
            if (!kernel || count[h] < limit ||
                may_enter(a, largest_of_row(kernel, a, h, i), list[limit - 1].weight)) {
                count[h] = across_head_row_ref(list, count[h], limit, a, extent, h, i, work);
            }
        }
    }
    return 0;
}

void across_head_pairs_merge(struct pair *pairs, uint32_t *count, uint32_t limit, uint32_t heads,
                             const struct pair *from, const uint32_t *from_count)
{
    for (uint32_t h = 0; h < heads; h++) {
        size_t list = (size_t)h * limit;
        for (uint32_t k = 0; k < from_count[h]; k++) {
            count[h] = pairs_offer(pairs + list, count[h], limit, from[list + k]);
        }
    }
}
