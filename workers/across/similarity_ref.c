/* SPDX-License-Identifier: MIT */
/* similarity_ref: one small function per formula, in f64, entry after entry; part of the reference
 * library. */
#include "workers/across/similarity_internal.h"
#include "workers/rows/row.h"

#include <math.h>

/* sum g h */
static double similarity_ref_dot(const double *g, const double *h, uint32_t n)
{
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        sum += g[k] * h[k];
    }
    return sum;
}

/* A weight as part of a distribution: below zero by rounding counts as 0. */
static double similarity_ref_share_of(double weight, double scale)
{
    return weight > 0 ? weight / scale : 0;
}

/* p ln(p / m), m = (p + q) / 2; 0 ln 0 = 0. The half of a denormal may be 0, so p is doubled. */
static double similarity_ref_divergence(double p, double q)
{
    return p > 0 ? p * log(2 * p / (p + q)) : 0;
}

/* 1/2 sum g ln(g / m) + 1/2 sum h ln(h / m), m = (g + h) / 2, each head's weights divided by its
 * scale first; 0 .. ln 2. */
static double jensen_shannon(const double *g, double scale_g, const double *h, double scale_h,
                             uint32_t n)
{
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        double p = similarity_ref_share_of(g[k], scale_g),
               q = similarity_ref_share_of(h[k], scale_h);
        sum += similarity_ref_divergence(p, q) / 2 + similarity_ref_divergence(q, p) / 2;
    }
    return fmin(fmax(sum, 0), M_LN2);
}

/* The divisor of the weights before the divergence: their sum after dropout and beside a learned
 * sink, which leave rows that are no distributions; 1 otherwise. NaN when there is no distribution.
 */
static double scale_of(const struct attention *a, const double *weight, uint32_t n)
{
    if (!a->dropout && !a->learned_sink) {
        return 1;
    }
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        sum += weight[k] > 0 ? weight[k] : 0;
    }
    return sum > 0 && isfinite(sum) ? sum : NAN;
}

static void add_ordered(struct similarity *s, uint32_t g, uint32_t h, double square,
                        const struct similarity_share *share)
{
    size_t at = (size_t)g * s->heads + h;
    s->dot[at] += share->dot;
    s->square[at] += square;
    if (!isnan(share->js)) {
        s->js[at] += share->js;
        s->rows[at]++;
    }
}

void similarity_add(struct similarity *s, uint32_t g, uint32_t h,
                    const struct similarity_share *share)
{
    add_ordered(s, g, h, share->square_g, share);
    if (g != h) {
        add_ordered(s, h, g, share->square_h, share);
    }
}

/* The heads of one row (b, i): weights of the valid keys side by side, and what was found of them.
 */
struct panel {
    const struct attention *a;
    uint32_t n;
    double *weight; /* [heads][n] */
    double *scale;  /* [heads] */
    double *sound;  /* [heads] 1 or 0 */
};

size_t similarity_ref_doubles(uint32_t heads, uint32_t keys)
{
    return (size_t)heads * keys + keys + 2 * (size_t)heads;
}

static struct panel carve_panel(const struct attention *a, uint32_t n, double *work)
{
    struct panel p = {.a = a, .n = n, .weight = work + a->keys};
    p.scale = p.weight + (size_t)a->heads * n;
    p.sound = p.scale + a->heads;
    return p;
}

static double *similarity_ref_weight_of(const struct panel *p, uint32_t h)
{
    return p->weight + (size_t)h * p->n;
}

static void similarity_ref_add_pair(struct similarity *s, const struct panel *p, uint32_t g,
                                    uint32_t h)
{
    const double *x = similarity_ref_weight_of(p, g), *y = similarity_ref_weight_of(p, h);
    struct similarity_share share = {
        .dot = similarity_ref_dot(x, y, p->n),
        .square_g = similarity_ref_dot(x, x, p->n),
        .square_h = similarity_ref_dot(y, y, p->n),
        .js = isnan(p->scale[g]) || isnan(p->scale[h])
                  ? NAN
                  : jensen_shannon(x, p->scale[g], y, p->scale[h], p->n),
    };
    similarity_add(s, g, h, &share);
}

void similarity_row_ref(struct similarity *s, const struct attention *a, uint32_t b, uint32_t i,
                        const uint32_t *key, uint32_t n, double *work)
{
    struct panel p = carve_panel(a, n, work);
    for (uint32_t h = 0; h < a->heads; h++) {
        attention_load_row(a, b, h, i, work);
        row_gather(work, key, n, similarity_ref_weight_of(&p, h));
        struct row r = {.position = attention_position(a, i),
                        .n = n,
                        .key = key,
                        .weight = similarity_ref_weight_of(&p, h)};
        p.sound[h] = row_sound(a, &r, row_sum(&r));
        p.scale[h] = scale_of(a, r.weight, n);
        for (uint32_t g = 0; p.sound[h] > 0 && g <= h; g++) {
            if (p.sound[g] > 0) {
                similarity_ref_add_pair(s, &p, g, h);
            }
        }
    }
}
