/* SPDX-License-Identifier: MIT */
/* kernel_check: every instruction set against the scalar reference, on random and hostile cases.
 *
 *     kernel_check [--seed N] [--count N] [--isa NAME]
 *
 * A case is a shape, a dtype, masks, a plan and, head by head, a kind of distribution, some rows of
 * it spoilt. It is computed by the reference in one block, and by each instruction set both in one
 * block and in several that are merged. On failure all parameters are printed, with the seed that
 * makes the same case again; at the end, the largest differences seen. Needs nothing but workers/,
 * so that it is easily built for another machine. */
#include "workers/rows/block.h"
#include "workers/rows/first_key.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASES      400
#define HEADS_MAX  20
#define BATCH_MAX  3
#define ENTRIES    400000 /* of one case at most */
#define BLOCKS_MAX 4

static uint64_t kernel_check_random_bits(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double kernel_check_random_unit(uint64_t *state)
{
    return (double)(kernel_check_random_bits(state) >> 11) * 0x1p-53;
}

static uint32_t kernel_check_random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(kernel_check_random_bits(state) % n);
}

static bool random_chance(uint64_t *state, double p)
{
    return kernel_check_random_unit(state) < p;
}

static double kernel_check_random_normal(uint64_t *state)
{
    double u = kernel_check_random_unit(state) + 0x1p-60, v = kernel_check_random_unit(state);
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

/* Cases. */

enum kind { UNIFORM, SOFT, SHARP, PEAKED, ONE_HOT, SINK, NEIGHBOUR, TINY, TIES, KIND_COUNT };
static const char *const kind_name[KIND_COUNT] = {
    "uniform", "soft", "sharp", "peaked", "one-hot", "sink", "neighbour", "tiny", "ties"};

/* Ways to spoil a row. */
enum spoil {
    SPOIL_NAN,
    SPOIL_INFINITY,
    SPOIL_NEGATIVE,
    SPOIL_ROUNDING, /* slightly negative: still sound */
    SPOIL_ZERO,
    SPOIL_SUM,
    SPOIL_EDGE, /* a sum at the tolerance */
    SPOIL_HUGE,
    SPOIL_COUNT
};
/* Values in the place of an excluded key. */
enum filling { FILL_ZERO, FILL_NAN, FILL_LARGE, FILL_NEGATIVE, FILL_UNIFORM, FILL_COUNT };

struct sample_case {
    uint64_t seed;
    struct attention a;
    struct block_plan plan;
    enum kind kind[HEADS_MAX];
    enum filling filling;
    double spoilt; /* share of the rows */
    unsigned offset;
    unsigned char *weights; /* allocated */
    uint8_t *mask;
    int32_t *documents, *tokens;
    uint32_t *first;
    int32_t q_len[BATCH_MAX], k_len[BATCH_MAX];
};

static void print_case(const struct sample_case *c)
{
    const struct attention *a = &c->a;
    static const char *const name[] = {"f32", "f16", "bf16", "f64"};
    fprintf(stderr,
            "  --seed %" PRIu64 " --count 1\n"
            "  [%u,%u,%u,%u] %s +%u bytes%s q_offset=%u q_stride=%u causal=%d window=%u mask=%d "
            "documents=%d tokens=%d dropout=%d learned_sink=%d filling=%d spoilt=%.2f\n",
            c->seed, a->batch, a->heads, a->queries, a->keys, name[a->dtype], c->offset,
            a->self ? " self" : "", a->q_offset, a->q_stride, a->causal, a->window, a->mask != NULL,
            a->documents != NULL, a->tokens != NULL, a->dropout, a->learned_sink, c->filling,
            c->spoilt);
    fprintf(stderr, "  core=%d importance=%d pairs=%d maps=%d top_pairs=%u local_window=%u",
            c->plan.group[METRIC_GROUP_CORE], c->plan.group[METRIC_GROUP_IMPORTANCE],
            c->plan.group[METRIC_GROUP_PAIRS], c->plan.maps, c->plan.top_pairs,
            c->plan.local_window);
    for (uint32_t b = 0; b < a->batch; b++) {
        fprintf(stderr, " q_len=%d k_len=%d", a->q_len ? a->q_len[b] : -1,
                a->k_len ? a->k_len[b] : -1);
    }
    fprintf(stderr, "\n  heads:");
    for (uint32_t h = 0; h < a->heads; h++) {
        fprintf(stderr, " %s", kind_name[c->kind[h]]);
    }
    fprintf(stderr, "\n");
}

static uint16_t bf16_of(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((isnan(x) ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* To nearest, by scaling to the grid of the exponent. */
static uint16_t f16_of(double x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double m = fabs(x);
    if (isnan(x)) {
        return 0x7e00;
    }
    if (m >= 65520) {
        return (uint16_t)(sign | 0x7c00);
    }
    int e = 0;
    frexp(m, &e);
    e = e - 1 < -14 ? -14 : e - 1;
    uint32_t steps = (uint32_t)nearbyint(ldexp(m, 10 - e));
    return (uint16_t)(sign | ((steps >= 1024 ? (uint32_t)(e + 14) << 10 : 0) + steps));
}

static void kernel_check_put(unsigned char *p, enum dtype dtype, double x)
{
    float f = (float)x;
    uint16_t code = dtype == DTYPE_BF16 ? bf16_of(x) : f16_of(x);
    switch (dtype) {
    case DTYPE_F64:
        memcpy(p, &x, sizeof x);
        return;
    case DTYPE_F32:
        memcpy(p, &f, sizeof f);
        return;
    default:
        memcpy(p, &code, sizeof code);
    }
}

/* Weights of n keys, of which `own` (or n) is the query's. */
static void kernel_check_fill_kind(uint64_t *state, enum kind kind, double *x, uint32_t n,
                                   uint32_t own)
{
    double scale = kind == SOFT ? 1 : kind == SHARP ? 4 : kind == PEAKED ? 25 : 0, sum = 0;
    uint32_t hot = kernel_check_random_below(state, n);
    for (uint32_t k = 0; k < n; k++) {
        x[k] = exp(scale * kernel_check_random_normal(state));
        x[k] = kind == TIES ? 1 + (double)(k % 3 == 0) : x[k];
        x[k] = kind == TINY ? exp(-100 * kernel_check_random_unit(state)) : x[k];
        x[k] = kind == ONE_HOT ? k == hot : x[k];
        x[k] = kind == SINK ? (k == 0 ? 1e5 * kernel_check_random_unit(state) * n : 1) : x[k];
        x[k] = kind == NEIGHBOUR ? exp(-fabs((double)k - own + 1) * 2) : x[k];
        sum += x[k];
    }
    for (uint32_t k = 0; k < n; k++) {
        x[k] = sum > 0 ? x[k] / sum : 1.0 / n;
    }
}

static void spoil(uint64_t *state, const struct attention *a, double *x, uint32_t n)
{
    uint32_t k = kernel_check_random_below(state, n);
    double edge = attention_tolerance(a->dtype) * (random_chance(state, 0.5) ? 1 : -1);
    switch ((enum spoil)kernel_check_random_below(state, SPOIL_COUNT)) {
    case SPOIL_NAN:
        x[k] = NAN;
        return;
    case SPOIL_INFINITY:
        x[k] = random_chance(state, 0.5) ? INFINITY : -INFINITY;
        return;
    case SPOIL_NEGATIVE:
        x[k] = -0.5;
        return;
    case SPOIL_ROUNDING:
        x[k] = -kernel_check_random_unit(state) * 2 * fabs(attention_negative_bound(a->dtype));
        return;
    case SPOIL_ZERO:
        memset(x, 0, n * sizeof *x);
        return;
    case SPOIL_SUM:
        x[k] += 0.5;
        return;
    case SPOIL_EDGE:
        x[k] += edge * (1 + 1e-6 * kernel_check_random_normal(state));
        return;
    default:
        x[k] = a->dtype == DTYPE_F64 ? 1e300 : 3e38;
    }
}

static double filling_of(uint64_t *state, const struct sample_case *c)
{
    switch (c->filling) {
    case FILL_NAN:
        return NAN;
    case FILL_LARGE:
        return 1e4 * kernel_check_random_unit(state);
    case FILL_NEGATIVE:
        return -kernel_check_random_unit(state);
    case FILL_UNIFORM:
        return 1.0 / c->a.keys;
    default:
        return 0;
    }
}

static void kernel_check_drop(uint64_t *state, double *x, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        x[k] = random_chance(state, 0.2) ? 0 : x[k] / 0.8;
    }
}

static void kernel_check_fill_row(uint64_t *state, struct sample_case *c, uint32_t b, uint32_t h,
                                  uint32_t i, uint32_t *key, double *valid, double *row)
{
    const struct attention *a = &c->a;
    uint32_t n = attention_valid_keys(a, b, i, key);
    for (uint32_t j = 0; j < a->keys; j++) {
        row[j] = filling_of(state, c);
    }
    if (n > 0) {
        uint64_t p = attention_position(a, i);
        kernel_check_fill_kind(state, c->kind[h], valid, n, p < n ? (uint32_t)p : n);
        for (uint32_t k = 0; a->learned_sink && k < n; k++) {
            valid[k] *= 0.7;
        }
        if (a->dropout) {
            kernel_check_drop(state, valid, n);
        }
        if (random_chance(state, c->spoilt)) {
            spoil(state, a, valid, n);
        }
    }
    for (uint32_t k = 0; k < n; k++) {
        row[key[k]] = valid[k];
    }
    size_t at = (((size_t)b * a->heads + h) * a->queries + i) * a->keys;
    for (uint32_t j = 0; j < a->keys; j++) {
        kernel_check_put(c->weights + c->offset + (at + j) * dtype_size(a->dtype), a->dtype,
                         row[j]);
    }
}

static void kernel_check_fill_weights(uint64_t *state, struct sample_case *c)
{
    const struct attention *a = &c->a;
    size_t count = (size_t)a->batch * a->heads * a->queries * a->keys;
    c->weights = malloc(count * dtype_size(a->dtype) + c->offset);
    uint32_t *key = malloc(a->keys * sizeof *key);
    double *valid = malloc(a->keys * sizeof *valid), *row = malloc(a->keys * sizeof *row);
    if (!c->weights || !key || !valid || !row) {
        abort();
    }
    for (uint32_t b = 0; b < a->batch; b++) {
        for (uint32_t h = 0; h < a->heads; h++) {
            for (uint32_t i = 0; i < a->queries; i++) {
                kernel_check_fill_row(state, c, b, h, i, key, valid, row);
            }
        }
    }
    c->a.weights = c->weights + c->offset;
    free(key);
    free(valid);
    free(row);
}

static uint32_t random_length(uint64_t *state)
{
    double u = kernel_check_random_unit(state);
    if (u < 0.6) {
        return 1 + kernel_check_random_below(state, 70);
    }
    return u < 0.95 ? 1 + kernel_check_random_below(state, 300)
                    : 1500 + kernel_check_random_below(state, 3500);
}

static void choose_shape(uint64_t *state, struct sample_case *c)
{
    struct attention *a = &c->a;
    a->batch = 1 + kernel_check_random_below(state, BATCH_MAX);
    a->heads = 1 + kernel_check_random_below(state, HEADS_MAX);
    a->keys = random_length(state);
    a->self = random_chance(state, 0.7);
    a->queries = a->self && random_chance(state, 0.8) ? a->keys : random_length(state);
    while ((uint64_t)a->batch * a->heads * a->queries * a->keys > ENTRIES) {
        if (a->batch > 1) {
            a->batch = 1;
        } else if (a->heads > 2) {
            a->heads /= 2;
        } else {
            a->queries = (a->queries + 1) / 2;
        }
    }
    a->q_offset = random_chance(state, 0.2) ? kernel_check_random_below(state, a->keys) : 0;
    a->q_stride = random_chance(state, 0.2) ? 1 + kernel_check_random_below(state, 9) : 1;
    a->dtype = (enum dtype)kernel_check_random_below(state, 4);
}

/* Holes anywhere, or blocks of texts, padded on the left. */
static void fill_mask(uint64_t *state, struct sample_case *c)
{
    const struct attention *a = &c->a;
    bool blocks = random_chance(state, 0.5);
    double open = random_chance(state, 0.5) ? 0.9 : 0.1;
    uint32_t keys = a->keys, padding = kernel_check_random_below(state, keys);
    uint32_t length = 1 + kernel_check_random_below(state, keys);
    for (size_t at = 0; at < (size_t)a->batch * a->queries * keys; at++) {
        uint32_t j = (uint32_t)(at % keys), i = (uint32_t)(at / keys % a->queries);
        bool same = j >= padding && attention_position(a, i) / length == j / length;
        c->mask[at] = blocks ? same : random_chance(state, open);
    }
}

static void set_first_keys(struct sample_case *c)
{
    const struct attention *a = &c->a;
    struct scratch scratch = {0};
    c->first = malloc((size_t)a->batch * a->queries * sizeof *c->first);
    if (!c->first || (first_key_differs(a) && first_key_find(a, &scratch, c->first) != 0)) {
        abort();
    }
    c->a.first = first_key_differs(a) ? c->first : NULL;
    scratch_clear(&scratch);
}

static void choose_masks(uint64_t *state, struct sample_case *c)
{
    struct attention *a = &c->a;
    a->causal = random_chance(state, 0.5);
    a->window = random_chance(state, 0.2) ? 1 + kernel_check_random_below(state, 40) : 0;
    a->dropout = random_chance(state, 0.15);
    a->learned_sink = random_chance(state, 0.15);
    for (uint32_t b = 0; b < a->batch; b++) {
        c->q_len[b] = (int32_t)kernel_check_random_below(state, a->queries + 1);
        c->k_len[b] = (int32_t)kernel_check_random_below(state, a->keys + 1);
    }
    a->q_len = random_chance(state, 0.25) ? c->q_len : NULL;
    a->k_len = random_chance(state, 0.25) ? c->k_len : NULL;
    size_t places = (size_t)a->batch * a->keys;
    c->mask = malloc(places * a->queries);
    c->documents = malloc(places * sizeof *c->documents);
    c->tokens = malloc(places * sizeof *c->tokens);
    if (!c->mask || !c->documents || !c->tokens) {
        abort();
    }
    fill_mask(state, c);
    for (size_t k = 0; k < places; k++) {
        c->documents[k] = (int32_t)(k % a->keys * 3 / a->keys);
        c->tokens[k] = (int32_t)kernel_check_random_below(state, 1 + a->keys / 4);
    }
    a->mask = random_chance(state, 0.25) ? c->mask : NULL;
    a->documents = random_chance(state, 0.15) ? c->documents : NULL;
    a->tokens = random_chance(state, 0.4) ? c->tokens : NULL;
}

static void choose_plan(uint64_t *state, struct sample_case *c)
{
    struct block_plan *plan = &c->plan;
    plan->group[METRIC_GROUP_CORE] = random_chance(state, 0.85);
    plan->group[METRIC_GROUP_IMPORTANCE] = random_chance(state, 0.4);
    plan->group[METRIC_GROUP_PAIRS] = random_chance(state, 0.4);
    plan->maps = random_chance(state, 0.7);
    plan->top_pairs = 1 + kernel_check_random_below(state, 12);
    plan->local_window = kernel_check_random_below(state, 20);
}

static void make_case(struct sample_case *c, uint64_t seed)
{
    uint64_t state = seed;
    *c = (struct sample_case){.seed = seed};
    choose_shape(&state, c);
    choose_masks(&state, c);
    set_first_keys(c);
    choose_plan(&state, c);
    c->filling = (enum filling)kernel_check_random_below(&state, FILL_COUNT);
    c->spoilt = random_chance(&state, 0.3) ? 0.2 : 0;
    c->offset = random_chance(&state, 0.5) ? kernel_check_random_below(&state, 64) : 0;
    for (uint32_t h = 0; h < c->a.heads; h++) {
        c->kind[h] = (enum kind)kernel_check_random_below(&state, KIND_COUNT);
    }
    kernel_check_fill_weights(&state, c);
}

static void free_case(struct sample_case *c)
{
    free(c->weights);
    free(c->mask);
    free(c->documents);
    free(c->first);
    free(c->tokens);
}

/* Comparing. */

enum quantity {
    Q_ENTROPY, /* nats */
    Q_SHARE,   /* of ln n: entropy_normalized, entropy_sans_first */
    Q_KEYS,    /* effective_keys, relative */
    Q_WEIGHT,  /* single weights, sums of weights, relative */
    Q_TAIL,    /* 1 - a sum: absolute */
    Q_ENTRIES, /* moments of valid entries, relative */
    Q_SENT,    /* of entries as sent and of maps, relative to the largest, since signs may cancel */
    Q_IMPORTANCE,
    Q_COUNT
};
static const struct {
    const char *name;
    double relative, absolute;
} tolerance[Q_COUNT] = {
    [Q_ENTROPY] = {"entropy, nats", 0, 2.5e-5},
    [Q_SHARE] = {"entropy / ln n", 0, 3e-5},
    [Q_KEYS] = {"effective keys, relative", 2.5e-5, 1e-37},
    [Q_WEIGHT] = {"sums of weights, relative", 6e-6, 1e-37},
    [Q_TAIL] = {"1 - sums, absolute", 0, 4e-6},
    [Q_ENTRIES] = {"valid entries, relative", 3e-6, 1e-37},
    [Q_SENT] = {"entries as sent, relative to largest", 3e-6, 1e-37},
    [Q_IMPORTANCE] = {"importance, relative to its entropy", 1e-7, 1e-6},
};

/* A share of the largest number in a sum, per unit of tolerance. */
#define ROUNDING 1e-12

static double largest[Q_COUNT]; /* difference over tolerance, of all cases */

struct report {
    const struct sample_case *c;
    const char *isa;
    unsigned failures;
};

static void kernel_check_fail(struct report *r, const char *what, double got, double want)
{
    if (r->failures++ == 0) {
        fprintf(stderr, "%s differs from the reference:\n", r->isa);
        print_case(r->c);
    }
    if (r->failures < 20) {
        fprintf(stderr, "    %s: got %.9g, want %.9g\n", what, got, want);
    }
}

/* `scale`: the largest number that went into it, whose own rounding is no news. */
static void kernel_check_compare(struct report *r, enum quantity q, const char *what, double got,
                                 double want, double scale)
{
    if (isnan(want) && isnan(got)) {
        return;
    }
    if (!isfinite(want) || !isfinite(got)) {
        if (!(got == want)) {
            kernel_check_fail(r, what, got, want);
        }
        return;
    }
    double room = tolerance[q].relative * fabs(want) + tolerance[q].absolute;
    /* After dropout a row may hold more than 1, and its logarithms' errors weigh that much. */
    room = room * (r->c->a.dropout ? 4 : 1) + ROUNDING * scale;
    double off = fabs(got - want) / room;
    largest[q] = fmax(largest[q], off);
    if (!(off <= 1)) {
        kernel_check_fail(r, what, got, want);
    }
}

static void compare_counts(struct report *r, const char *what, uint64_t got, uint64_t want)
{
    if (got != want) {
        kernel_check_fail(r, what, (double)got, (double)want);
    }
}

/* Means, extremes and standard deviation. */
static void compare_moments(struct report *r, enum quantity q, const char *name,
                            const struct moments *got, const struct moments *want)
{
    char what[4][64];
    static const char *const part[] = {"mean", "min", "max", "std"};
    for (size_t k = 0; k < 4; k++) {
        snprintf(what[k], sizeof what[k], "%s.%s", name, part[k]);
    }
    compare_counts(r, name, got->n, want->n);
    if (got->n != want->n || want->n == 0) {
        return;
    }
    double scale = fmax(fabs(want->min), fabs(want->max));
    if (q == Q_SENT) {
        scale = fmax(scale, 1.0 / r->c->a.keys);
        scale += tolerance[q].relative * scale / ROUNDING;
    }
    kernel_check_compare(r, q, what[0], got->mean, want->mean, scale);
    kernel_check_compare(r, q, what[1], got->min, want->min, q == Q_SENT ? scale : 0);
    kernel_check_compare(r, q, what[2], got->max, want->max, q == Q_SENT ? scale : 0);
    if (want->n >= 2 && isfinite(want->m2)) {
        /* A deviation is as exact as the values it is taken from. */
        double values = q == Q_SENT ? 0 : tolerance[q].relative * scale;
        kernel_check_compare(r, q, what[3], moments_std(got), moments_std(want),
                             scale + values / ROUNDING);
    }
}

static enum quantity quantity_of(uint32_t metric)
{
    switch (metric) {
    case METRIC_ENTROPY:
        return Q_ENTROPY;
    case METRIC_ENTROPY_NORMALIZED:
    case METRIC_ENTROPY_SANS_FIRST:
        return Q_SHARE;
    case METRIC_EFFECTIVE_KEYS:
        return Q_KEYS;
    case METRIC_TAIL_MASS:
    case METRIC_SINK_DEFICIT:
        return Q_TAIL;
    default:
        return Q_WEIGHT;
    }
}

static void kernel_check_compare_head(struct report *r, const struct head_block *got,
                                      const struct head_block *want)
{
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        compare_moments(r, quantity_of(m), metric_info[m].name, &got->row[m].moments,
                        &want->row[m].moments);
        uint64_t counted = 0;
        for (uint32_t k = 0; k < got->row[m].hist.used; k++) {
            counted += got->row[m].hist.buckets[k].count;
        }
        compare_counts(r, "histogram", counted, want->row[m].moments.n);
    }
    compare_moments(r, Q_ENTRIES, "entries", &got->entries, &want->entries);
    compare_counts(r, "neighbours", got->neighbour_count, want->neighbour_count);
    kernel_check_compare(r, Q_WEIGHT, "neighbour sum", got->neighbour_sum, want->neighbour_sum, 0);
}

static void compare_importance(struct report *r, const struct importance_block *got,
                               const struct importance_block *want)
{
    double rows = r->c->a.queries;
    kernel_check_compare(r, Q_IMPORTANCE, "importance entropy", got->entropy, want->entropy,
                         rows * tolerance[Q_IMPORTANCE].relative / ROUNDING);
    compare_moments(r, Q_SENT, "importance entries", &got->entries, &want->entries);
}

static void compare_pairs(struct report *r, const struct block *got, const struct block *want)
{
    compare_counts(r, "pairs", got->pair_count, want->pair_count);
    for (uint32_t k = 0; k < got->pair_count && k < want->pair_count; k++) {
        compare_counts(r, "pair query", got->pairs[k].query, want->pairs[k].query);
        compare_counts(r, "pair key", got->pairs[k].key, want->pairs[k].key);
        if (!(got->pairs[k].weight == want->pairs[k].weight)) {
            kernel_check_fail(r, "pair weight", got->pairs[k].weight, want->pairs[k].weight);
        }
    }
}

static void compare_blocks(struct report *r, const struct block *got, const struct block *want)
{
    compare_counts(r, "rows", got->rows, want->rows);
    compare_counts(r, "invalid rows", got->invalid_rows, want->invalid_rows);
    kernel_check_compare(r, Q_TAIL, "row_sum_error",
                         got->row_sum_error > 1 ? 1 : got->row_sum_error,
                         want->row_sum_error > 1 ? 1 : want->row_sum_error, 0);
    for (uint32_t h = 0; h < want->heads; h++) {
        kernel_check_compare_head(r, &got->head[h], &want->head[h]);
    }
    for (size_t k = 0; want->importance && k < (size_t)want->batch * want->heads; k++) {
        compare_importance(r, &got->importance[k], &want->importance[k]);
    }
    static const char *const map_name[BLOCK_MAPS] = {"sum map", "mean map", "max map"};
    for (uint32_t m = 0; m < BLOCK_MAPS; m++) {
        compare_moments(r, Q_SENT, map_name[m], &got->map[m], &want->map[m]);
    }
    compare_pairs(r, got, want);
}

static void kernel_check_must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
}

/* In `blocks` blocks of rows, merged. */
static void kernel_check_compute(struct block *total, const struct sample_case *c, enum isa isa,
                                 uint32_t blocks, struct scratch *scratch)
{
    const struct attention *a = &c->a;
    kernel_check_must(block_init(total, a, &c->plan));
    for (uint32_t k = 0; k < blocks; k++) {
        uint32_t begin = (uint32_t)((uint64_t)a->queries * k / blocks);
        uint32_t end = (uint32_t)((uint64_t)a->queries * (k + 1) / blocks);
        struct block part;
        kernel_check_must(block_init(&part, a, &c->plan));
        kernel_check_must(block_compute(&part, a, begin, end, isa, scratch));
        kernel_check_must(block_merge(total, &part));
        block_clear(&part);
    }
}

/* The values themselves must not depend on the cut. */
static void compare_cut(struct report *r, const struct block *one, const struct block *cut)
{
    for (uint32_t h = 0; h < one->heads; h++) {
        for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
            const struct dist *x = &one->head[h].row[m], *y = &cut->head[h].row[m];
            bool same = x->hist.used == y->hist.used && x->moments.n == y->moments.n;
            same =
                same && (x->hist.used == 0 || memcmp(x->hist.buckets, y->hist.buckets,
                                                     x->hist.used * sizeof *x->hist.buckets) == 0);
            same = same && (x->moments.n == 0 ||
                            (x->moments.min == y->moments.min && x->moments.max == y->moments.max));
            if (!same) {
                kernel_check_fail(r, "histogram by the cut into blocks", m, h);
            }
        }
    }
}

static bool check_case(const struct sample_case *c, int only, struct scratch *scratch)
{
    struct block want;
    unsigned failures = 0;
    kernel_check_must(block_init(&want, &c->a, &c->plan));
    kernel_check_must(block_compute_ref(&want, &c->a, 0, c->a.queries, scratch));
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa) || (only >= 0 && isa != only)) {
            continue;
        }
        struct report r = {.c = c, .isa = isa_name[isa]};
        struct block one, cut;
        kernel_check_compute(&one, c, (enum isa)isa, 1, scratch);
        kernel_check_compute(&cut, c, (enum isa)isa, BLOCKS_MAX, scratch);
        compare_blocks(&r, &one, &want);
        compare_blocks(&r, &cut, &want);
        compare_cut(&r, &one, &cut);
        failures += r.failures;
        block_clear(&one);
        block_clear(&cut);
    }
    block_clear(&want);
    return failures == 0;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, count = CASES;
    int only = -1;
    for (int k = 1; k + 1 < argc; k += 2) {
        enum isa isa;
        if (strcmp(argv[k], "--seed") == 0) {
            seed = strtoull(argv[k + 1], NULL, 10);
        } else if (strcmp(argv[k], "--count") == 0) {
            count = strtoull(argv[k + 1], NULL, 10);
        } else if (strcmp(argv[k], "--isa") == 0 &&
                   isa_parse(argv[k + 1], strlen(argv[k + 1]), &isa) == 0) {
            only = (int)isa;
        } else {
            fprintf(stderr, "usage: kernel_check [--seed N] [--count N] [--isa NAME]\n");
            return 2;
        }
    }
    struct scratch scratch = {0};
    uint64_t bad = 0;
    for (uint64_t k = 0; k < count && bad < 5; k++) {
        struct sample_case c;
        make_case(&c, seed + k);
        bad += !check_case(&c, only, &scratch);
        free_case(&c);
    }
    scratch_clear(&scratch);
    for (int q = 0; q < Q_COUNT; q++) {
        printf("%-36s at most %4.1f %% of the tolerance\n", tolerance[q].name, 100 * largest[q]);
    }
    printf("%" PRIu64 " cases, %" PRIu64 " bad; best here: %s\n", count, bad, isa_name[isa_best()]);
    return bad > 0 ? 1 : 0;
}
