/* SPDX-License-Identifier: MIT */
/* measure_cost: an upper bound within reason of the memory that measuring a message takes. Sizes
 * come from a header: products are taken in f64, which does not wrap. */
#include "workers/measure_internal.h"
#include "workers/base/pool.h"
#include "workers/rows/row_batch.h"
#include <math.h>

/* A part keeps a few KiB per head: it should have at least this number of entries a head. */
#define ENTRIES_PER_HEAD_MIN 256

uint32_t measure_parts(const struct attention *a, const struct measure_plan *plan)
{
    double map = (double)a->queries * a->keys;
    double wanted = ceil(map * a->batch * a->heads / (double)plan->block_entries);
    double sensible = fmin(ceil(map / ENTRIES_PER_HEAD_MIN), a->queries);
    return (uint32_t)fmax(1, fmin(fmin(wanted, sensible), MEASURE_ROW_JOBS_MAX));
}

/* The work on a row's sums, in entries of a row that is measured. */
#define ENTRIES_OF_SUMS 64

uint32_t measure_parts_of_rows(const struct sent_sums *rows, const struct measure_plan *plan)
{
    double all = (double)rows->batch * rows->heads * rows->rows;
    double wanted = ceil(all * ENTRIES_OF_SUMS / (double)plan->block_entries);
    return (uint32_t)fmax(1, fmin(fmin(wanted, rows->rows), MEASURE_ROW_JOBS_MAX));
}

/* Buckets that the histograms of one head may use in one part, at up to twice that allocated. */
static double measure_cost_hist_bytes_max(double rows)
{
    return (double)METRIC_ROW_COUNT * fmin(rows, HIST_KEYS) * 2 * (double)sizeof(struct bucket);
}

/* The memory of weights only. */
static double across_bytes(const struct attention *a, const struct measure_plan *plan)
{
    double heads = a->heads, bytes = 0;
    if (measure_across(plan, METRIC_GROUP_IMPORTANCE)) {
        bytes += a->batch * heads * (double)sizeof(struct importance_block);
    }
    if (measure_across(plan, METRIC_GROUP_SIMILARITY)) {
        bytes += (double)similarity_bytes(a->heads);
    }
    if (wants_head_pairs(plan)) {
        bytes += heads * (plan->top_pairs * (double)sizeof(struct pair) + sizeof(uint32_t));
    }
    return bytes;
}

static double part_bytes(const struct attention *a, const struct measure_plan *plan, double rows)
{
    double bytes =
        a->heads * ((double)sizeof(struct head_block) + measure_cost_hist_bytes_max(rows));
    return bytes + (a->weights ? across_bytes(a, plan) : 0);
}

/* The memory of one thread, at a range of rows: per key, what the kernels and the reference behind
 * them lay out side by side; tiles of products; buffers of row values. */
#define ROW_BYTES_PER_KEY 160
#define TILE_BYTES        (2 << 20)

static double row_scratch(const struct attention *a, const struct measure_plan *plan)
{
    double keys = a->keys, heads = a->heads;
    double bytes = ROW_BYTES_PER_KEY * keys + (double)row_values_bytes(a->heads) + TILE_BYTES +
                   (double)a->batch * sizeof(struct attention_extent);
    if (a->weights && measure_across(plan, METRIC_GROUP_SIMILARITY)) {
        bytes += 16 * heads * keys; /* a row of every head, in f32 or f64 */
    }
    if (a->weights && a->qk.v && plan->group[METRIC_GROUP_CORE]) {
        bytes = fmax(bytes, (double)outputs_scratch(a));
    }
    if (!a->weights) {
        uint32_t rows = a->queries / measure_parts(a, plan) + 1;
        bytes = fmax(bytes, (double)qk_scratch(a, rows, wants_gradient(a, plan)));
    }
    return bytes;
}

/* The memory of one thread: three f64 copies of the matrix that is decomposed. */
static double spectrum_scratch(const struct attention *a, const struct measure_plan *plan)
{
    if (wants_spectra(a, plan)) {
        return 24.0 * a->queries * a->keys;
    }
    return wants_qk_spectra(a, plan) ? 24.0 * ((double)a->queries + a->keys) * a->qk.head_dim : 0;
}

/* The map made of queries and keys, and measured. */
static double measure_cost_map_bytes(const struct attention *a, const struct measure_plan *plan)
{
    struct attention map = *a;
    map.weights = a; /* there is one; not followed */
    double rows = (double)a->batch * a->queries;
    return rows * a->heads * a->keys * sizeof(float) + part_bytes(&map, plan, rows);
}

/* Cells of the parts, and of all. */
static double measure_cost_pooled_bytes(const struct attention *a, const struct measure_plan *plan)
{
    if (!wants_pooled_map(plan) || (!a->weights && !wants_maps_of_qk(a, plan))) {
        return 0;
    }
    uint32_t parts = measure_parts(a, plan), share = a->queries / parts + 1;
    return parts * (double)map_pool_bytes(a->queries, a->keys, share) +
           2 * (double)map_pool_bytes(a->queries, a->keys, a->queries);
}

/* The maps, and the scratch of the thread that makes them. */
static double head_maps_cost(const struct attention *a, const struct measure_plan *plan)
{
    uint32_t size = plan->head_maps_size;
    if (size == 0) {
        return 0;
    }
    return (double)head_maps_bytes(a->heads, a->queries, a->keys, size) +
           (double)head_maps_scratch(a->heads, a->keys, size);
}

static uint64_t saturated(double bytes)
{
    return bytes < 0x1p62 ? (uint64_t)bytes : UINT64_C(1) << 62;
}

/* The measure itself, its jobs. */
#define OWN_BYTES 65536

uint64_t measure_cost(const struct attention *a, const struct measure_plan *wanted)
{
    struct measure_plan of_rows = measure_plan_for(a, wanted), *plan = &of_rows;
    double parts = measure_parts(a, plan), heads = a->heads;
    double rows = a->batch * ceil(a->queries / parts);
    double bytes = OWN_BYTES + parts * part_bytes(a, plan, rows);
    bytes += heads * (double)(sizeof(struct spectrum) + measure_numbers_bytes(1, false));
    if (measure_across(plan, METRIC_GROUP_SIMILARITY)) {
        bytes += heads * heads * 2 * sizeof(double);
    }
    if (wants_maps_of_qk(a, plan)) {
        bytes += measure_cost_map_bytes(a, plan);
    }
    bytes += measure_cost_pooled_bytes(a, plan) + head_maps_cost(a, plan);
    if (wants_first_keys(a, plan)) {
        bytes += (double)a->batch * a->queries * sizeof(uint32_t);
    }
    return saturated(bytes);
}

uint64_t measure_rows_cost(const struct sent_sums *rows, const struct measure_plan *wanted)
{
    struct measure_plan plan = measure_plan_of_rows(rows, wanted);
    double parts = measure_parts_of_rows(rows, &plan), heads = rows->heads, batch = rows->batch;
    double of_part = measure_cost_hist_bytes_max(batch * ceil(rows->rows / parts));
    double bytes = OWN_BYTES + parts * heads * ((double)sizeof(struct head_block) + of_part);
    if (measure_across(&plan, METRIC_GROUP_IMPORTANCE)) {
        bytes += parts * batch * heads * (double)sizeof(struct importance_block);
    }
    return saturated(bytes + heads * (double)measure_numbers_bytes(1, false));
}

uint64_t measure_scratch(const struct attention *a, const struct measure_plan *wanted)
{
    struct measure_plan of_rows = measure_plan_for(a, wanted), *plan = &of_rows;
    double jobs = measure_parts(a, plan) + (double)a->heads;
    double threads = fmin(jobs, fmax(1, plan->threads));
    double most = fmax(row_scratch(a, plan), spectrum_scratch(a, plan));
    return saturated(threads * fmax(0, most - (double)POOL_SCRATCH_KEPT));
}

/* An f64 copy of one matrix at a time, twice more in scratch; the R factors of all. */
uint64_t measure_weights_cost(const struct weights *w)
{
    double largest = 0, factors = 0, d = w->head_dim, heads = w->heads;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct projection_matrix *m = &w->matrix[p];
        double length = p == PROJECTION_O ? m->out : m->in;
        largest = fmax(largest, (double)m->out * m->in);
        factors += heads * d * fmin(d, length);
    }
    double spectra = (3 * heads + 2 * w->kv_heads + 2 * heads) * (double)sizeof(struct spectrum);
    double numbers = (double)measure_numbers_matrix_bytes(w->heads);
    return saturated(OWN_BYTES + spectra + numbers +
                     sizeof(double) *
                         (3 * largest + factors + (double)PROJECTION_COUNT * heads * heads));
}
