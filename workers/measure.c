/* SPDX-License-Identifier: MIT */
/* measure: cutting a message into jobs, running them, and bringing them together.
 *
 *     rows      struct measure_part: a block, and what other passes over the same rows leave
 *     spectra   struct spectra, shared by all spectrum jobs
 *     weights   one job
 *
 * measure_finish merges the parts in the order of their rows, so that the result does not depend on
 * who ran when. Two things are its own: the map weighted by importance, since the importance is
 * only known then, and for tier qk the map: the weights are made and measured as tier attention
 * (`maps`), without repeating the row metrics. */
#include "workers/measure.h"

#include "proto/err.h"
#include "workers/measure_internal.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The result of a range of rows. */
struct measure_part {
    uint32_t begin, end;
    struct block block;
    struct moments weighted;
    struct similarity similarity; /* heads = 0: off */
    double *gradient;             /* [heads]; NULL = off */
    struct pair *pairs;           /* [heads][top_pairs]; NULL = off */
    uint32_t *pair_count;         /* [heads] */
    struct map_pool pool;         /* count = 0: off */
};

struct measure {
    struct measure_plan plan;
    struct attention attention;
    struct weights weights;   /* tier weights */
    struct sent_sums rows;    /* tier rows */
    struct head_maps brought; /* their maps; heads = 0: none */
    const void *halves;       /* the cells of these */
    enum tier tier;
    double *head_weights; /* [heads] or NULL */
    uint32_t *first;      /* what attention.first is, or NULL; the first job of rows sets it */
    bool has_first;
    pthread_mutex_t first_lock;
    uint32_t parts, spectrum_jobs, jobs;
    struct measure_part *part; /* [parts] */
    struct spectra spectra;    /* when spectrum_jobs: of the map, or of Q K^T */
    struct measure *maps;      /* tier qk: the map measured, where it is made; owned */
    float *map;                /* what it measures */
    bool maps_only; /* this is one of those: the row metrics come from queries and keys */
    struct weights_result weights_result;
    struct head_maps *head_maps; /* owned; NULL = none */
    struct layer_map pooled;     /* values: owned; NULL = none */
    struct measured measured;
    void *numbers; /* storage of measured */
    _Atomic int code;
};

/* Row metrics unless they are known already; what goes across heads needs a map. */
static struct block_plan block_plan(const struct measure *m)
{
    const struct measure_plan *plan = &m->plan;
    struct block_plan block = {.top_pairs = plan->top_pairs, .local_window = plan->local_window};
    block.group[METRIC_GROUP_CORE] = plan->group[METRIC_GROUP_CORE] && !m->maps_only;
    if (m->tier == TIER_ROWS) {
        block.group[METRIC_GROUP_IMPORTANCE] = measure_across(plan, METRIC_GROUP_IMPORTANCE);
    } else if (m->tier == TIER_ATTENTION) {
        block.maps = measure_across(plan, METRIC_GROUP_CORE) && !attention_sampled(&m->attention);
        block.group[METRIC_GROUP_IMPORTANCE] = measure_across(plan, METRIC_GROUP_IMPORTANCE);
        block.group[METRIC_GROUP_PAIRS] = measure_across(plan, METRIC_GROUP_PAIRS);
    } else {
        block.gradient = wants_gradient(&m->attention, plan);
    }
    return block;
}

/* Life */

static int allocate_part(struct measure *m, struct measure_part *p)
{
    uint32_t heads = m->attention.heads;
    const struct measure_plan *plan = &m->plan;
    const struct block_plan block = block_plan(m);
    int rc = block_init(&p->block, &m->attention, &block);
    if (m->tier != TIER_ATTENTION) {
        return rc;
    }
    if (rc == 0 && wants_pooled_map(plan)) {
        rc = map_pool_init(&p->pool, &m->attention, p->begin, p->end);
        p->block.pool = rc == 0 ? &p->pool : NULL;
    }
    if (rc == 0 && measure_across(plan, METRIC_GROUP_SIMILARITY)) {
        rc = similarity_init(&p->similarity, heads);
    }
    if (rc == 0 && wants_gradient(&m->attention, plan)) {
        p->gradient = calloc(heads, sizeof *p->gradient);
        rc = p->gradient ? 0 : ERR_MEMORY;
    }
    if (rc == 0 && wants_head_pairs(plan)) {
        p->pairs = calloc((size_t)heads * plan->top_pairs, sizeof *p->pairs);
        p->pair_count = calloc(heads, sizeof *p->pair_count);
        rc = p->pairs && p->pair_count ? 0 : ERR_MEMORY;
    }
    return rc;
}

static void clear_part(struct measure_part *p)
{
    block_clear(&p->block);
    similarity_clear(&p->similarity);
    free(p->gradient);
    free(p->pairs);
    free(p->pair_count);
    map_pool_clear(&p->pool);
    *p = (struct measure_part){.begin = p->begin, .end = p->end};
}

/* Keeps the weights of heads that the plan lends, where they are wanted. */
static int copy_head_weights(struct measure *m)
{
    struct measure_plan *plan = &m->plan;
    size_t bytes = plan->head_weight_count * sizeof *m->head_weights;
    if (bytes > 0 && wants_weighted(&m->attention, plan)) {
        m->head_weights = malloc(bytes);
        if (!m->head_weights) {
            return ERR_MEMORY;
        }
        memcpy(m->head_weights, plan->head_weights, bytes);
    }
    plan->head_weights = m->head_weights;
    return 0;
}

/* Queries and keys whose map is made too have spectra of both: half of the budget for each. */
static uint64_t spectrum_budget(const struct measure *m)
{
    const struct attention *a = &m->attention;
    bool both = wants_maps_of_qk(a, &m->plan) && a->queries <= m->plan.spectrum_max_size &&
                a->keys <= m->plan.spectrum_max_size;
    uint64_t budget = m->plan.spectrum_budget_ns;
    return both ? budget - budget / 2 : budget;
}

/* Spectra of Q K^T are cheap for the head_dim there is: they have one effort. */
static int qk_spectrum_at(const struct attention *a, uint32_t sample, uint32_t head,
                          enum spectrum_effort effort, enum isa isa, struct scratch *scratch,
                          struct spectrum *ret_spectrum)
{
    (void)effort;
    return qk_spectrum(a, sample, head, isa, scratch, ret_spectrum);
}

static int measure_prepare(struct measure *m)
{
    m->part = calloc(m->parts, sizeof *m->part);
    if (!m->part) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < m->parts; i++) {
        m->part[i].begin = (uint32_t)((uint64_t)m->attention.queries * i / m->parts);
        m->part[i].end = (uint32_t)((uint64_t)m->attention.queries * (i + 1) / m->parts);
    }
    int rc = copy_head_weights(m);
    if (rc == 0 && !m->attention.first && wants_first_keys(&m->attention, &m->plan)) {
        size_t rows = (size_t)m->attention.batch * m->attention.queries;
        m->attention.first = m->first = malloc(rows * sizeof *m->first);
        rc = m->first ? 0 : ERR_MEMORY;
    }
    if (rc == 0 &&
        (wants_spectra(&m->attention, &m->plan) || wants_qk_spectra(&m->attention, &m->plan))) {
        const struct attention *a = &m->attention;
        const struct measure_plan *plan = &m->plan;
        m->spectrum_jobs = (uint32_t)min_u64(a->heads, MEASURE_SPECTRUM_JOBS_MAX);
        struct spectra_plan spectra = {
            .compute = a->weights ? spectrum_compute : qk_spectrum_at,
            .isa = plan->isa,
            .effort = plan->spectrum_effort,
            .sample = (uint32_t)min_u64(plan->spectrum_sample, a->batch - 1),
            .first = plan->spectrum_first % a->heads,
            .budget_ns = spectrum_budget(m),
            .should_yield = plan->should_yield,
            .yield_data = plan->yield_data,
        };
        rc = spectra_init(&m->spectra, a, &spectra);
    }
    m->jobs = m->parts + m->spectrum_jobs;
    return rc;
}

int measure_new(const struct attention *a, const struct measure_plan *plan,
                struct measure **ret_measure)
{
    struct measure *m = calloc(1, sizeof *m);
    if (!m) {
        return ERR_MEMORY;
    }
    m->plan = measure_plan_for(a, plan);
    m->attention = *a;
    m->tier = a->weights ? TIER_ATTENTION : TIER_QK;
    m->parts = measure_parts(a, plan);
    pthread_mutex_init(&m->first_lock, NULL);
    if (measure_prepare(m) < 0) {
        measure_free(&m);
        return ERR_MEMORY;
    }
    *ret_measure = m;
    return 0;
}

int measure_new_rows(const struct sent_sums *rows, const struct head_maps *maps, const void *halves,
                     const struct measure_plan *plan, struct measure **ret_measure)
{
    struct measure *m = calloc(1, sizeof *m);
    if (!m) {
        return ERR_MEMORY;
    }
    m->plan = measure_plan_of_rows(rows, plan);
    m->rows = *rows;
    m->attention = measure_shape_of_rows(rows);
    m->tier = TIER_ROWS;
    m->parts = measure_parts_of_rows(rows, plan);
    if (maps) {
        m->brought = *maps;
        m->halves = halves;
    }
    pthread_mutex_init(&m->first_lock, NULL);
    if (measure_prepare(m) < 0) {
        measure_free(&m);
        return ERR_MEMORY;
    }
    *ret_measure = m;
    return 0;
}

int measure_new_weights(const struct weights *weights, const struct measure_plan *plan,
                        struct measure **ret_measure)
{
    struct measure *m = calloc(1, sizeof *m);
    if (!m) {
        return ERR_MEMORY;
    }
    m->plan = *plan;
    m->weights = *weights;
    m->weights.isa = plan->isa;
    m->weights.without_spectra = !plan->group[METRIC_GROUP_SPECTRUM];
    m->weights.whole_max_size = plan->weights_max_size;
    m->weights.eigenvalue_max_size = plan->eigenvalues_max_size;
    m->tier = TIER_WEIGHTS;
    m->jobs = 1;
    pthread_mutex_init(&m->first_lock, NULL);
    *ret_measure = m;
    return 0;
}

void measure_free(struct measure **measure)
{
    struct measure *m = *measure;
    if (!m) {
        return;
    }
    for (uint32_t i = 0; m->part && i < m->parts; i++) {
        clear_part(&m->part[i]);
    }
    measure_free(&m->maps);
    spectra_clear(&m->spectra);
    weights_result_clear(&m->weights_result);
    free(m->part);
    free(m->head_weights);
    free(m->first);
    pthread_mutex_destroy(&m->first_lock);
    free(m->map);
    head_maps_free(&m->head_maps);
    free((void *)m->pooled.values);
    free(m->numbers);
    free(m);
    *measure = NULL;
}

/* Jobs */

uint64_t measured_invalid_rows(const struct measured *measured, uint32_t head)
{
    if (measured->invalid_rows == 0 || !measured->value[METRIC_ENTROPY]) {
        return 0;
    }
    /* Queries are valid for all heads of a message alike, and each sound row has an entropy, or a
     * learned sink took all of it. */
    const struct dist *row = measured->head[head].row;
    uint64_t rows = (measured->rows + measured->invalid_rows) / measured->heads;
    uint64_t sound = row[METRIC_ENTROPY].moments.n, sinks = row[METRIC_SINK_DEFICIT].moments.n;
    sound = sinks > sound ? sinks : sound;
    return rows > sound ? rows - sound : 0;
}

uint32_t measure_jobs(const struct measure *measure)
{
    return measure->jobs;
}

enum measure_job measure_job_kind(const struct measure *measure, uint32_t job)
{
    if (measure->tier == TIER_WEIGHTS) {
        return MEASURE_WEIGHTS;
    }
    return job < measure->parts ? MEASURE_ROWS : MEASURE_SPECTRA;
}

/* The first keys of all rows, by one of the jobs; others wait. */
static int find_first_keys(struct measure *m, struct scratch *scratch)
{
    int rc = 0;
    pthread_mutex_lock(&m->first_lock);
    if (m->first && !m->has_first) {
        rc = first_key_find(&m->attention, scratch, m->first);
        m->has_first = rc == 0;
    }
    pthread_mutex_unlock(&m->first_lock);
    return rc;
}

static int measure_run_part(struct measure *m, struct measure_part *p, struct scratch *scratch)
{
    int rc = allocate_part(m, p);
    rc = rc == 0 ? find_first_keys(m, scratch) : rc;
    if (rc != 0) {
        return rc;
    }
    const struct attention *a = &m->attention;
    enum isa isa = m->plan.isa;
    if (m->tier == TIER_QK) {
        return qk_compute(&p->block, a, p->begin, p->end, isa, scratch);
    }
    if (m->tier == TIER_ROWS) {
        return row_sums_compute(&p->block, &m->rows, p->begin, p->end, isa, scratch);
    }
    rc = block_compute(&p->block, a, p->begin, p->end, isa, scratch);
    if (rc == 0 && wants_outputs(a, &p->block.plan)) {
        rc = outputs_compute(p->block.head, a, p->begin, p->end, isa, scratch);
    }
    if (rc == 0 && m->head_weights) {
        rc = across_weighted_map(&p->weighted, a, m->head_weights, p->begin, p->end, isa, scratch);
    }
    if (rc == 0 && p->similarity.heads > 0) {
        rc = similarity_compute(&p->similarity, a, p->begin, p->end, isa, scratch);
    }
    if (rc == 0 && p->gradient) {
        rc = across_gradient(p->gradient, a, p->begin, p->end, isa, scratch);
    }
    if (rc == 0 && p->pairs) {
        rc = across_head_pairs(p->pairs, p->pair_count, m->plan.top_pairs, a, p->begin, p->end, isa,
                               scratch);
    }
    return rc;
}

void measure_run(struct measure *measure, uint32_t job, struct scratch *scratch)
{
    int rc;
    if (measure->tier == TIER_WEIGHTS) {
        rc = weights_compute(&measure->weights, scratch, &measure->weights_result);
    } else if (job < measure->parts) {
        rc = measure_run_part(measure, &measure->part[job], scratch);
    } else {
        rc = spectra_run(&measure->spectra, scratch);
    }
    if (rc != 0) {
        atomic_store(&measure->code, rc);
    }
}

/* Bringing it together */

static int merge_part(struct measure *m, struct measure_part *into, const struct measure_part *from)
{
    uint32_t heads = m->attention.heads;
    int rc = block_merge(&into->block, &from->block);
    if (rc != 0) {
        return rc;
    }
    moments_merge(&into->weighted, &from->weighted);
    if (into->similarity.heads > 0) {
        similarity_merge(&into->similarity, &from->similarity);
    }
    for (uint32_t h = 0; into->gradient && h < heads; h++) {
        into->gradient[h] += from->gradient[h];
    }
    if (into->pairs) {
        across_head_pairs_merge(into->pairs, into->pair_count, m->plan.top_pairs, heads,
                                from->pairs, from->pair_count);
    }
    return 0;
}

/* Brings the parts' cells together, and rounds them. */
static int pool_parts(struct measure *m)
{
    const struct attention *a = &m->attention;
    struct map_pool all;
    int rc = map_pool_init(&all, a, 0, a->queries);
    if (rc != 0) {
        return rc;
    }
    for (uint32_t i = 0; i < m->parts; i++) {
        map_pool_merge(&all, &m->part[i].pool);
    }
    uint16_t *values = malloc((size_t)all.rows * all.columns * sizeof *values);
    if (values) {
        map_pool_values(&all, values);
        m->pooled = (struct layer_map){a->queries, a->keys, all.rows, all.columns, values};
    }
    map_pool_clear(&all);
    return values ? 0 : ERR_MEMORY;
}

/* The maps that came beside sums, and their mean over the heads. */
static int measure_take_brought(struct measure *m)
{
    if (m->brought.heads == 0 || (m->plan.head_maps_size == 0 && !m->plan.pooled_map)) {
        return 0;
    }
    int rc = head_maps_given(&m->brought, m->halves, &m->head_maps);
    if (rc == 0 && wants_pooled_map(&m->plan)) {
        const struct head_maps *maps = m->head_maps;
        size_t cells = (size_t)maps->rows * maps->columns;
        uint16_t *values = malloc(cells * sizeof *values);
        for (size_t i = 0; values && i < cells; i++) {
            values[i] = map_pool_half((double)maps->mean[i]);
        }
        m->pooled =
            (struct layer_map){maps->queries, maps->keys, maps->rows, maps->columns, values};
        rc = values ? 0 : ERR_MEMORY;
    }
    return rc;
}

/* The weights that queries and keys stand for, measured for what the row pass did not give. */
static int measure_maps_of_qk(struct measure *m, struct scratch *scratch)
{
    struct attention a = m->attention;
    size_t entries = (size_t)a.batch * a.heads * a.queries * a.keys;
    m->map = malloc(entries * sizeof *m->map);
    if (!m->map || qk_weights(&a, 0, a.queries, m->map, m->plan.isa, scratch) != 0) {
        return ERR_MEMORY;
    }
    a.weights = m->map;
    a.dtype = DTYPE_F32;
    struct measure_plan plan = m->plan;
    plan.spectrum_budget_ns = spectrum_budget(m);
    int rc = measure_new(&a, &plan, &m->maps);
    if (rc != 0) {
        return rc;
    }
    m->maps->maps_only = true;
    for (uint32_t i = 0; i < m->maps->jobs; i++) {
        measure_run(m->maps, i, scratch);
    }
    rc = measure_finish(m->maps, scratch);
    if (rc == 0) {
        measure_numbers_add_maps(&m->measured, measure_result(m->maps));
    }
    return rc;
}

int measure_finish(struct measure *measure, struct scratch *scratch)
{
    struct measure *m = measure;
    int rc = atomic_load(&m->code);
    if (rc != 0) {
        return rc;
    }
    if (m->tier == TIER_WEIGHTS) {
        m->measured = (struct measured){.tier = TIER_WEIGHTS,
                                        .heads = m->weights.heads,
                                        .row_sum_error = NAN,
                                        .sink_rate = NAN,
                                        .weights = &m->weights_result};
        /* Nobody says which of the layer's heads a slice has. */
        return m->plan.whole
                   ? measure_numbers_matrices(&m->weights_result, &m->measured, &m->numbers)
                   : 0;
    }
    if (m->part[0].pool.count > 0) {
        rc = pool_parts(m);
    }
    struct measure_part *all = &m->part[0];
    for (uint32_t i = 1; i < m->parts && rc == 0; i++) {
        rc = merge_part(m, all, &m->part[i]);
        clear_part(&m->part[i]);
    }
    if (rc == 0) {
        struct measure_state state = {
            .attention = &m->attention,
            .plan = &m->plan,
            .rows = m->tier == TIER_ROWS ? &m->rows : NULL,
            .block = &all->block,
            .similarity = all->similarity.heads > 0 ? &all->similarity : NULL,
            .gradient = all->gradient,
            .weighted = m->head_weights && m->tier == TIER_ATTENTION ? &all->weighted : NULL,
            .spectra = m->spectra.head ? &m->spectra : NULL,
            .head_pairs = all->pairs,
            .head_pair_count = all->pair_count,
        };
        rc = measure_numbers(&state, scratch, &m->measured, &m->numbers);
    }
    rc = rc == 0 ? measure_take_brought(m) : rc;
    m->measured.map = m->pooled.values ? &m->pooled : NULL;
    if (rc == 0 && m->plan.head_maps_size > 0 && m->attention.weights) {
        rc = head_maps_new(&m->attention, m->plan.head_maps_sample, m->plan.head_maps_size,
                           m->plan.isa, scratch, &m->head_maps);
    }
    if (rc == 0 && wants_maps_of_qk(&m->attention, &m->plan)) {
        rc = measure_maps_of_qk(m, scratch);
    }
    return rc;
}

struct head_maps *measure_take_head_maps(struct measure *measure)
{
    struct measure *owner = measure->maps ? measure->maps : measure;
    struct head_maps *maps = owner->head_maps;
    owner->head_maps = NULL;
    return maps;
}

const struct measured *measure_result(const struct measure *measure)
{
    return &measure->measured;
}
