/* SPDX-License-Identifier: MIT */
#include "workers/measure_internal.h"

#include "proto/err.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The storage: [METRIC_MATRIX_FIRST][heads] values, [heads][VECTORS_WIDTH] vectors (one after the
 * other, by vector), two [heads][heads] matrices when similarity is on, then redundant pairs, then
 * patterns. */

static size_t doubles_of(uint32_t heads, bool similarity)
{
    size_t n = heads;
    return n * (METRIC_MATRIX_FIRST + VECTORS_WIDTH) + (similarity ? 2 * n * n : 0);
}

size_t measure_numbers_bytes(uint32_t heads, bool similarity)
{
    return doubles_of(heads, similarity) * sizeof(double) +
           (similarity ? REDUNDANT_PAIRS_MAX * sizeof(struct redundant_pair) : 0) +
           heads * sizeof(enum pattern);
}

static bool of_qk(const struct measure_state *s)
{
    return !s->attention->weights;
}

static bool metric_on(const struct measure_state *s, enum metric metric)
{
    if (metric_info[metric].group == METRIC_GROUP_SPECTRUM) {
        return s->spectra && of_qk(s) == (metric >= METRIC_QK_SPECTRAL_NORM);
    }
    if (metric == METRIC_IMPORTANCE_GRADIENT) {
        return s->gradient || s->block->plan.gradient;
    }
    if ((metric == METRIC_WRITE_NORM && !s->attention->qk.wo_r) ||
        (metric == METRIC_RESIDUAL_SHARE && !s->attention->qk.x_norm)) {
        return false;
    }
    return s->block->plan.group[metric_info[metric].group];
}

/* Metrics of one tier have no place among the results of the other; those of values have, where
 * there are values. */
static bool metric_of_tier(const struct measure_state *s, enum metric metric)
{
    bool of_values = metric >= METRIC_OUTPUT_NORM && metric <= METRIC_RESIDUAL_SHARE;
    bool of_logits = metric == METRIC_MAX_LOGIT ||
                     (metric >= METRIC_MAX_ABS_LOGIT && metric < METRIC_OUTPUT_NORM);
    return s->rows ? row_sums_have(s->rows, metric)
                   : of_qk(s) || !(of_logits || (of_values && !s->attention->qk.v));
}

static bool vector_on(const struct measure_state *s, enum vector vector)
{
    return s->spectra && of_qk(s) == (vector == VECTOR_QK_SINGULAR_VALUES);
}

static void measure_numbers_lay_out(const struct measure_state *s, struct measured *m, double *next)
{
    uint32_t heads = m->heads;
    for (int i = 0; i < METRIC_MATRIX_FIRST; i++, next += heads) {
        enum metric metric = (enum metric)i;
        m->value[i] = metric_on(s, metric) && metric_of_tier(s, metric) ? next : NULL;
    }
    for (int i = 0; i < VECTOR_COUNT; i++) {
        m->vector[i] = vector_on(s, (enum vector)i) ? next : NULL;
        next += (size_t)heads * vector_info[i].width;
    }
    if (s->similarity) {
        m->head_similarity = next;
        m->head_js = next + (size_t)heads * heads;
        next += 2 * (size_t)heads * heads;
        m->redundant = (struct redundant_pair *)(void *)next;
        next = (double *)(void *)((struct redundant_pair *)(void *)next + REDUNDANT_PAIRS_MAX);
    }
    m->pattern = s->block->plan.group[METRIC_GROUP_CORE] ? (enum pattern *)(void *)next : NULL;
}

/* Where the numbers of a spectrum go, of the map and of Q K^T. */
static const struct {
    enum metric map, qk;
    size_t offset;
} spectrum_numbers[] = {
    {METRIC_SPECTRAL_NORM, METRIC_QK_SPECTRAL_NORM, offsetof(struct spectrum, spectral_norm)},
    {METRIC_CONDITION_NUMBER, METRIC_QK_CONDITION_NUMBER,
     offsetof(struct spectrum, condition_number)},
    {METRIC_RANK, METRIC_QK_RANK, offsetof(struct spectrum, rank)},
    {METRIC_EFFECTIVE_RANK, METRIC_QK_EFFECTIVE_RANK, offsetof(struct spectrum, effective_rank)},
    {METRIC_EFFECTIVE_RANK_ENTROPY, METRIC_QK_EFFECTIVE_RANK_ENTROPY,
     offsetof(struct spectrum, effective_rank_entropy)},
    {METRIC_STABLE_RANK, METRIC_QK_STABLE_RANK, offsetof(struct spectrum, stable_rank)},
    {METRIC_NUCLEAR_NORM, METRIC_QK_NUCLEAR_NORM, offsetof(struct spectrum, nuclear_norm)},
};

static void add_spectra(const struct measure_state *s, struct measured *m)
{
    if (!s->spectra) {
        return;
    }
    bool qk = of_qk(s);
    for (uint32_t h = 0; h < m->heads; h++) {
        const struct spectrum *spectrum = &s->spectra->head[h];
        for (size_t i = 0; i < sizeof spectrum_numbers / sizeof spectrum_numbers[0]; i++) {
            enum metric metric = qk ? spectrum_numbers[i].qk : spectrum_numbers[i].map;
            m->value[metric][h] = *(const double *)(const void *)((const char *)spectrum +
                                                                  spectrum_numbers[i].offset);
        }
        enum vector singular = qk ? VECTOR_QK_SINGULAR_VALUES : VECTOR_SINGULAR_VALUES;
        memcpy(&m->vector[singular][(size_t)h * SINGULAR_VALUES_MAX], spectrum->singular_values,
               sizeof spectrum->singular_values);
        if (!qk) {
            m->value[METRIC_EIGENVALUE_2][h] = spectrum->eigenvalue_2;
            memcpy(&m->vector[VECTOR_LOW_RANK_ERROR][(size_t)h * LOW_RANK_COUNT],
                   spectrum->low_rank_error, sizeof spectrum->low_rank_error);
        }
    }
    m->has_spectra = true;
    m->spectrum_next = spectra_next(s->spectra);
    m->spectra = atomic_load(&s->spectra->done);
    m->spectra_skipped = m->heads - m->spectra;
}

static void add_gradient(const struct measure_state *s, struct measured *m)
{
    double *value = m->value[METRIC_IMPORTANCE_GRADIENT];
    for (uint32_t h = 0; value && h < m->heads; h++) {
        value[h] = s->gradient ? s->gradient[h] : s->block->head[h].gradient;
    }
    if (value) {
        across_gradient_normalize(value, m->heads);
    }
}

static void add_patterns(const struct measure_state *s, struct measured *m)
{
    m->sink_rate = NAN;
    if (!m->pattern) {
        return;
    }
    for (uint32_t h = 0; h < m->heads; h++) {
        double value[METRIC_COUNT];
        for (int i = 0; i < METRIC_COUNT; i++) {
            value[i] = m->value[i] ? m->value[i][h] : NAN;
        }
        m->pattern[h] = pattern_of(value);
    }
    if (s->plan->whole) { /* a share of the layer's heads */
        m->sink_rate = pattern_sink_rate(m->value[METRIC_FIRST_TOKEN], m->heads);
    }
}

static void add_similarity(const struct measure_state *s, struct measured *m)
{
    if (!s->similarity) {
        return;
    }
    similarity_cosine(s->similarity, m->head_similarity);
    similarity_js(s->similarity, m->head_js);
    struct redundant_pair *redundant = (struct redundant_pair *)m->redundant;
    m->redundant_total =
        similarity_redundant(s->similarity, s->plan->redundant_js, REDUNDANT_PAIRS_MAX, redundant);
    m->redundant_count =
        m->redundant_total < REDUNDANT_PAIRS_MAX ? m->redundant_total : REDUNDANT_PAIRS_MAX;
}

static void measure_numbers_put_map(struct measured *m, enum aggregate aggregate,
                                    const struct moments *map)
{
    block_map_stats(map, m->aggregate[aggregate]);
    m->has_aggregate[aggregate] = true;
}

static int add_aggregates(const struct measure_state *s, struct scratch *scratch,
                          struct measured *m)
{
    for (int i = 0; i < AGGREGATE_COUNT; i++) {
        for (int k = 0; k < MAP_STAT_COUNT; k++) {
            m->aggregate[i][k] = NAN;
        }
    }
    if (s->block->plan.maps) {
        for (int i = 0; i < BLOCK_MAPS; i++) {
            measure_numbers_put_map(m, (enum aggregate)i, &s->block->map[i]);
        }
    }
    if (s->weighted) {
        measure_numbers_put_map(m, AGGREGATE_WEIGHTED, s->weighted);
    }
    if (!m->value[METRIC_IMPORTANCE] || !s->block->plan.maps) {
        return 0;
    }
    struct moments map = {0};
    int rc = across_weighted_map(&map, s->attention, m->value[METRIC_IMPORTANCE], 0,
                                 s->attention->queries, s->plan->isa, scratch);
    measure_numbers_put_map(m, AGGREGATE_IMPORTANCE, &map);
    return rc;
}

static void measure_numbers_add_rows(const struct measure_state *s, struct measured *m)
{
    const struct block *block = s->block;
    m->rows = block->rows;
    m->invalid_rows = block->invalid_rows;
    m->row_sum_error = block->row_sum_error;
    m->head = block->head;
    m->pairs = block->pairs;
    m->pair_count = block->pair_count;
    m->head_pairs = s->head_pairs;
    m->head_pair_count = s->head_pair_count;
    m->head_pair_limit = s->plan->top_pairs;
    m->local_window = s->plan->local_window;
    block_values(block, m->value);
}

int measure_numbers(struct measure_state *state, struct scratch *scratch,
                    struct measured *ret_measured, void **ret_storage)
{
    uint32_t heads = state->attention->heads;
    void *storage = malloc(measure_numbers_bytes(heads, state->similarity != NULL));
    if (!storage) {
        return ERR_MEMORY;
    }
    *ret_storage = storage;
    *ret_measured = (struct measured){.tier = state->rows                 ? TIER_ROWS
                                              : state->attention->weights ? TIER_ATTENTION
                                                                          : TIER_QK,
                                      .heads = heads};
    measure_numbers_lay_out(state, ret_measured, storage);
    measure_numbers_add_rows(state, ret_measured);
    add_gradient(state, ret_measured);
    add_spectra(state, ret_measured);
    add_patterns(state, ret_measured);
    add_similarity(state, ret_measured);
    return add_aggregates(state, scratch, ret_measured);
}

void measure_numbers_add_maps(struct measured *into, const struct measured *maps)
{
    struct measured merged = *maps;
    merged.tier = into->tier;
    merged.rows = into->rows;
    merged.invalid_rows = into->invalid_rows;
    merged.row_sum_error = into->row_sum_error;
    merged.head = into->head;
    merged.pattern = into->pattern;
    merged.sink_rate = into->sink_rate;
    for (int i = 0; i < METRIC_COUNT; i++) {
        merged.value[i] = into->value[i] ? into->value[i] : maps->value[i];
    }
    merged.vector[VECTOR_QK_SINGULAR_VALUES] = into->vector[VECTOR_QK_SINGULAR_VALUES];
    *into = merged;
}

size_t measure_numbers_matrix_bytes(uint32_t heads)
{
    return (size_t)METRIC_MATRIX_COUNT * heads * sizeof(double);
}

int measure_numbers_matrices(const struct weights_result *weights, struct measured *measured,
                             void **ret_storage)
{
    uint32_t heads = weights->heads;
    double *next = malloc(measure_numbers_matrix_bytes(heads));
    if (!next) {
        return ERR_MEMORY;
    }
    *ret_storage = next;
    for (int i = METRIC_MATRIX_FIRST; i < METRIC_COUNT; i++) {
        bool some = false;
        for (uint32_t h = 0; h < heads; h++) {
            next[h] = weights_number(weights, (enum metric)i, h);
            some = some || isfinite(next[h]);
        }
        if (some) {
            measured->value[i] = next;
            next += heads;
        }
    }
    return 0;
}

void measured_numbers(const struct measured *measured, struct layer_numbers *ret_numbers)
{
    *ret_numbers = (struct layer_numbers){
        .heads = measured->heads,
        .pattern = measured->pattern,
        .sink_rate = measured->sink_rate,
        .local_window = measured->local_window,
        .pairs = {.pairs = measured->pairs,
                  .count = measured->pair_count,
                  .head_pairs = measured->head_pairs,
                  .head_count = measured->head_pair_count,
                  .head_limit = measured->head_pair_limit},
        .similarity = {.cosine = measured->head_similarity,
                       .js = measured->head_js,
                       .redundant = measured->redundant,
                       .redundant_count = measured->redundant_count,
                       .redundant_total = measured->redundant_total},
        .weights = measured->weights,
    };
    memcpy(ret_numbers->has_aggregate, measured->has_aggregate, sizeof measured->has_aggregate);
    memcpy(ret_numbers->aggregate, measured->aggregate, sizeof measured->aggregate);
    for (int i = 0; i < METRIC_COUNT; i++) {
        ret_numbers->value[i] = measured->value[i];
    }
    for (int i = 0; i < VECTOR_COUNT; i++) {
        ret_numbers->vector[i] = measured->vector[i];
    }
}
