/* SPDX-License-Identifier: MIT */
/* similarity: life, merging and reading out. The sums of a pair are kept in both halves of the
 * square; only `square` differs between them: [g][h] is of head g, over the rows sound in both. */
#include "workers/across/similarity.h"
#include "proto/err.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static size_t similarity_cells(const struct similarity *s)
{
    return (size_t)s->heads * s->heads;
}

uint64_t similarity_bytes(uint32_t heads)
{
    return (uint64_t)heads * heads * (3 * sizeof(double) + sizeof(uint64_t));
}

int similarity_init(struct similarity *s, uint32_t heads)
{
    assert(heads > 0);
    *s = (struct similarity){.heads = heads};
    s->dot = calloc(similarity_cells(s), sizeof *s->dot);
    s->square = calloc(similarity_cells(s), sizeof *s->square);
    s->js = calloc(similarity_cells(s), sizeof *s->js);
    s->rows = calloc(similarity_cells(s), sizeof *s->rows);
    if (!s->dot || !s->square || !s->js || !s->rows) {
        similarity_clear(s);
        return ERR_MEMORY;
    }
    return 0;
}

void similarity_clear(struct similarity *s)
{
    free(s->dot);
    free(s->square);
    free(s->js);
    free(s->rows);
    *s = (struct similarity){0};
}

void similarity_merge(struct similarity *into, const struct similarity *from)
{
    assert(into->heads == from->heads);
    for (size_t i = 0; i < similarity_cells(into); i++) {
        into->dot[i] += from->dot[i];
        into->square[i] += from->square[i];
        into->js[i] += from->js[i];
        into->rows[i] += from->rows[i];
    }
}

static double similarity_cosine_of(const struct similarity *s, uint32_t g, uint32_t h)
{
    double square_g = s->square[(size_t)g * s->heads + h];
    double square_h = s->square[(size_t)h * s->heads + g];
    if (!(square_g > 0 && square_h > 0)) {
        return NAN;
    }
    double cosine = s->dot[(size_t)g * s->heads + h] / (sqrt(square_g) * sqrt(square_h));
    if (!isfinite(cosine)) {
        return NAN;
    }
    return g == h ? 1 : fmin(fmax(cosine, -1), 1);
}

static double similarity_js_of(const struct similarity *s, uint32_t g, uint32_t h)
{
    size_t at = (size_t)g * s->heads + h;
    return s->rows[at] > 0 ? s->js[at] / (double)s->rows[at] : NAN;
}

void similarity_cosine(const struct similarity *s, double *ret)
{
    for (uint32_t g = 0; g < s->heads; g++) {
        for (uint32_t h = 0; h < s->heads; h++) {
            ret[(size_t)g * s->heads + h] = similarity_cosine_of(s, g, h);
        }
    }
}

void similarity_js(const struct similarity *s, double *ret)
{
    for (uint32_t g = 0; g < s->heads; g++) {
        for (uint32_t h = 0; h < s->heads; h++) {
            ret[(size_t)g * s->heads + h] = similarity_js_of(s, g, h);
        }
    }
}

/* Puts a pair in its place among the first `count`; pairs come in the order of g, then h, so that
 * an equal one stays behind. Returns the new count. */
static uint32_t similarity_insert(struct redundant_pair *pairs, uint32_t count, uint32_t max,
                                  struct redundant_pair pair)
{
    uint32_t at = count;
    if (count == max) {
        if (max == 0 || pairs[max - 1].js <= pair.js) {
            return count;
        }
        at--;
    } else {
        count++;
    }
    for (; at > 0 && pairs[at - 1].js > pair.js; at--) {
        pairs[at] = pairs[at - 1];
    }
    pairs[at] = pair;
    return count;
}

uint32_t similarity_redundant(const struct similarity *s, double bound, uint32_t max,
                              struct redundant_pair *ret_pairs)
{
    uint32_t total = 0, count = 0;
    for (uint32_t g = 0; g < s->heads; g++) {
        for (uint32_t h = g + 1; h < s->heads; h++) {
            struct redundant_pair pair = {.g = g, .h = h, .js = similarity_js_of(s, g, h)};
            if (pair.js < bound) {
                count = similarity_insert(ret_pairs, count, max, pair);
                total++;
            }
        }
    }
    return total;
}
