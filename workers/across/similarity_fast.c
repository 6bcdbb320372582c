/* SPDX-License-Identifier: MIT */
/* similarity_fast: all heads of one row (b, i) are loaded side by side; those that are sound become
 * halves of distributions (across/kernel.h), and every pair of them is gone through once for both
 * numbers: the logarithm that the divergence needs costs so much that the scalar product comes for
 * free. Long rows are cut, so that the halves of all heads stay in the second cache.
 *
 *     js = ln 2 * sum (p/2 log2 p + q/2 log2 q - m log2 m),  m = p/2 + q/2
 *
 * A row goes through the reference as a whole when some head's soundness is a close call, when a
 * weight is negative by rounding, or when dropout has left sums that do not suit f32. */
#include "workers/across/similarity_internal.h"
#include "workers/across/row.h"
#include "proto/err.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Entries of a row taken at once: 8 KiB for each head. */
#define STRETCH 1024

/* Sums after dropout that f32 can scale by. */
#define SUM_MIN 1e-20
#define SUM_MAX 1e20

struct similarity_pass {
    const struct across_kernels *kernel; /* NULL: all rows go through the reference */
    const struct attention *a;
    struct across_keys keys;
    double *work;                 /* of similarity_row_ref */
    float *weight;                /* [heads][keys]: the s-th sound head's valid weights */
    uint32_t *head;               /* [heads]: which head that is */
    double *scale;                /* [heads]: what its weights are divided by; 0 = all are 0 */
    struct across_halves *halves; /* [heads], of one stretch */
    double *js, *dot;             /* [heads][heads] */
    double *square;               /* [heads] */
    double *js_part, *dot_part;   /* [heads] */
    uint32_t *key;                /* [keys] */
    uint32_t sound;               /* heads */
};

static void similarity_lay(void *data, struct scratch_pieces *m)
{
    struct similarity_pass *p = data;
    uint64_t heads = p->a->heads, keys = p->a->keys;
    p->work = scratch_carve(m, similarity_ref_doubles(p->a->heads, p->a->keys), sizeof *p->work);
    p->js = scratch_carve(m, heads * heads, sizeof *p->js);
    p->dot = scratch_carve(m, heads * heads, sizeof *p->dot);
    p->scale = scratch_carve(m, heads, sizeof *p->scale);
    p->square = scratch_carve(m, heads, sizeof *p->square);
    p->js_part = scratch_carve(m, heads, sizeof *p->js_part);
    p->dot_part = scratch_carve(m, heads, sizeof *p->dot_part);
    p->halves = scratch_carve(m, heads, sizeof *p->halves);
    p->weight = scratch_carve(m, heads * keys, sizeof *p->weight);
    p->head = scratch_carve(m, heads, sizeof *p->head);
    p->key = scratch_carve(m, keys, sizeof *p->key);
    for (uint32_t h = 0; h < heads; h++) {
        float *half = scratch_carve(m, 2 * STRETCH, sizeof *half);
        if (half) {
            p->halves[h] = (struct across_halves){.half = half, .entropy = half + STRETCH};
        }
    }
}

static float *similarity_fast_weight_of(const struct similarity_pass *p, uint32_t s)
{
    return p->weight + (size_t)s * p->a->keys;
}

/* The divisor that similarity_ref uses. Returns whether f32 can. */
static bool similarity_fast_set_scale(struct similarity_pass *p, double sum)
{
    bool divides = p->a->dropout || p->a->learned_sink;
    p->scale[p->sound] = divides ? sum : 1;
    return !divides || sum <= 0 || (sum > SUM_MIN && sum < SUM_MAX);
}

/* Loads the sound heads of the row. Returns whether f32 can tell what they are. */
static bool load_heads(struct similarity_pass *p)
{
    p->sound = 0;
    for (uint32_t h = 0; h < p->a->heads; h++) {
        struct across_judged judged;
        float *weight = similarity_fast_weight_of(p, p->sound);
        across_load(p->kernel, p->a, h, &p->keys, weight);
        enum across_verdict verdict = across_judge(p->kernel, p->a, weight, p->keys.n, &judged);
        if (verdict == ACROSS_UNSOUND) {
            continue;
        }
        if (verdict == ACROSS_UNSURE || judged.min < 0 ||
            !similarity_fast_set_scale(p, judged.sum)) {
            return false;
        }
        p->head[p->sound++] = h;
    }
    return true;
}

static void similarity_fast_add_stretch(const struct similarity_pass *p, uint32_t begin, uint32_t n)
{
    for (uint32_t s = 0; s < p->sound; s++) {
        float factor = p->scale[s] > 0 ? (float)(0.5 / p->scale[s]) : 0;
        p->square[s] +=
            p->kernel->halve(similarity_fast_weight_of(p, s) + begin, factor, n, &p->halves[s]);
    }
    for (uint32_t g = 0; g + 1 < p->sound; g++) {
        uint32_t others = p->sound - g - 1;
        p->kernel->pairs(&p->halves[g], &p->halves[g + 1], others, n, p->js_part, p->dot_part);
        size_t at = (size_t)g * p->a->heads + g + 1;
        for (uint32_t k = 0; k < others; k++) {
            p->js[at + k] += p->js_part[k];
            p->dot[at + k] += p->dot_part[k];
        }
    }
}

static void similarity_fast_add_row(struct similarity_pass *p, struct similarity *into)
{
    size_t cells = (size_t)p->a->heads * p->a->heads;
    memset(p->js, 0, cells * sizeof *p->js);
    memset(p->dot, 0, cells * sizeof *p->dot);
    memset(p->square, 0, p->a->heads * sizeof *p->square);
    for (uint32_t begin = 0; begin < p->keys.n; begin += STRETCH) {
        uint32_t rest = p->keys.n - begin;
        similarity_fast_add_stretch(p, begin, rest < STRETCH ? rest : STRETCH);
    }
    for (uint32_t g = 0; g < p->sound; g++) {
        for (uint32_t h = g; h < p->sound; h++) {
            /* Halves of weights divided by a scale: their products are a quarter of the shares'. */
            size_t at = (size_t)g * p->a->heads + h;
            double scale_g = p->scale[g], scale_h = p->scale[h];
            double dot = g == h ? p->square[g] : p->dot[at];
            double js = g == h ? 0 : fmin(fmax(p->js[at] * M_LN2, 0), M_LN2);
            struct similarity_share share = {.dot = 4 * dot * scale_g * scale_h,
                                             .square_g = 4 * p->square[g] * scale_g * scale_g,
                                             .square_h = 4 * p->square[h] * scale_h * scale_h,
                                             .js = scale_g > 0 && scale_h > 0 ? js : NAN};
            similarity_add(into, p->head[g], p->head[h], &share);
        }
    }
}

static void similarity_fast_add_sample(struct similarity_pass *p, struct similarity *into,
                                       uint32_t b, uint32_t i)
{
    if (!attention_query_valid(p->a, b, i)) {
        return;
    }
    uint32_t n = attention_valid_keys(p->a, b, i, p->key);
    p->keys = (struct across_keys){.b = b, .i = i, .n = n, .key = p->key};
    if (p->kernel && load_heads(p)) {
        similarity_fast_add_row(p, into);
    } else {
        similarity_row_ref(into, p->a, b, i, p->key, n, p->work);
    }
}

int similarity_compute(struct similarity *s, const struct attention *a, uint32_t row_begin,
                       uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    assert(s->heads == a->heads && row_end <= a->queries);
    struct similarity_pass p = {.kernel = across_kernels_of(isa), .a = a};
    int rc = scratch_take_pieces(scratch, similarity_lay, &p);
    for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
        for (uint32_t b = 0; b < a->batch; b++) {
            scratch_pause(scratch);
            similarity_fast_add_sample(&p, s, b, i);
        }
    }
    return rc;
}
