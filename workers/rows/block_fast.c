/* SPDX-License-Identifier: MIT */
/* block_fast: drives the kernels of an instruction set over a block, in the order of the reference:
 * rows i, then samples b, then heads h.
 *
 *     frame    what all heads of (b, i) share: valid keys, position, which numbers exist
 *     pass     one row (b, h, i) by a kernel: lanes of sums into one of sixteen slots; the maps of
 *              (b, i) take the row on the way
 *     drain    sixteen rows reduced, judged, and their values kept (row_batch)
 *     maps     when the last head is in: moments of the sum and max maps; the mean map is the sum
 *              divided by H, and so are its moments
 *     pairs    when the last sample is in: what may be among the best is summed again in f64
 *     pool     sum maps added up as long as they belong to one row of cells, then cut into cells
 *
 * A row with a NaN or an infinity is unsound, has no importance, and its entries are missing in the
 * maps: that is told by the bits (finite.h) wherever a sum is not finite. Whatever else a kernel
 * does not take goes to the reference, one row or one map row at a time: sums that overflow f32,
 * negative weights, row sums so close to the tolerance that f32 cannot tell, importance of weights
 * outside [-1/16, 2]. A row is so counted once, by the one or by the other. */
#include "workers/rows/block_ref.h"
#include "workers/rows/finite.h"
#include "workers/rows/frame.h"
#include "proto/err.h"
#include "workers/rows/occurrence.h"
#include "workers/rows/row_batch.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* A row sum nearer than this to a bound is judged by the reference; f32 sums are right to 4e-6. */
#define SUM_UNCERTAIN 1e-5
/* More than this in a row, after dropout, leaves what f32 sums are right for. */
#define SUM_MOST 4.0
/* Longer rows have importance by the reference: the series of ln(P + 1e-8) is cut after its first
 * term, which is right to 1e-15 T^2. */
#define IMPORTANCE_KEYS_MAX 32768

struct slot {
    const struct frame *frame;
    const unsigned char *row;
    uint32_t h;
};

struct fast {
    struct block *block;
    const struct attention *a;
    const struct row_kernels *kernels;
    bool core, across; /* core metrics; maps, pairs or pool */
    size_t element;    /* bytes */
    uint32_t rows_ahead;
    float sum_least, sum_most;      /* of rows that are surely sound */
    row_kernel *const *row_kernel;  /* by enum row_maps */
    struct frame *frame;            /* the one at work */
    struct frame frames[ROW_BATCH]; /* those of rows in the slots; used in turn */
    struct row_pass *pass;
    struct slot slot[ROW_BATCH];
    struct row_batch batch;
    void *columns; /* of `values` */
    struct row_values values;
    float *maps, *upper; /* map rows of (b, i); bounds of the pairs of i */
    float *missing;      /* [keys + ROW_PAD] samples in which an entry of i is not finite, or its
                            key is padding */
    double *exact;       /* [2 * ROW_PAD] */
    double *pooled;      /* [keys + ROW_PAD] sum maps of one row of cells */
    uint32_t pool_row, pool_rows; /* that row; how many map rows are in it */
    uint32_t *induction, *duplicate;
    bool upper_sound;  /* `upper` holds for every map row of i so far, */
    bool some_missing; /* `missing` too */
    uint32_t shown;    /* samples so far in which i is no padding */
    struct block_work work;
};

/* Memory. */

static void fast_lay(void *data, struct scratch_pieces *m)
{
    struct fast *f = data;
    const struct attention *a = f->a;
    uint64_t padded = (uint64_t)a->keys + ROW_PAD, tokens = a->tokens ? a->keys : 0;
    f->pass = scratch_carve(m, 1, sizeof *f->pass);
    f->columns = scratch_carve(m, row_values_bytes(a->heads), 1);
    f->maps = scratch_carve(m, ROW_MAPS_FLOATS(a->keys), sizeof *f->maps);
    f->upper = scratch_carve(m, padded, sizeof *f->upper);
    f->missing = scratch_carve(m, padded, sizeof *f->missing);
    f->exact = scratch_carve(m, 2 * ROW_PAD, sizeof *f->exact);
    f->pooled = scratch_carve(m, f->block->pool ? padded : 0, sizeof *f->pooled);
    f->induction = scratch_carve(m, tokens, sizeof *f->induction);
    f->duplicate = scratch_carve(m, tokens, sizeof *f->duplicate);
    block_ref_lay(&f->work, m);
}

/* Sets what is the same for all rows. */
static void block_fast_begin(struct fast *f)
{
    const struct attention *a = f->a;
    memset(f->pass, 0, sizeof *f->pass);
    row_values_begin(&f->values, f->columns, a->heads, f->kernels);
    block_ref_begin(&f->work);
    f->frame = f->frames;
    size_t row_bytes = a->keys * f->element;
    f->rows_ahead = row_bytes < ROW_AHEAD ? (uint32_t)(ROW_AHEAD / row_bytes) : 1;
    f->row_kernel = (f->core ? f->kernels->core : f->kernels->rows)[a->dtype];
    f->batch.learned_sink = a->learned_sink;
    float room = (float)(attention_tolerance(a->dtype) - SUM_UNCERTAIN);
    f->sum_least = a->dropout || a->learned_sink ? 0 : 1 - room;
    f->sum_most = a->dropout ? (float)SUM_MOST : 1 + room;
    bool *exists = f->values.exists;
    exists[METRIC_DIAGONAL] = exists[METRIC_PREVIOUS_TOKEN] = exists[METRIC_NEXT_TOKEN] = a->self;
    exists[METRIC_INDUCTION] = exists[METRIC_DUPLICATE_TOKEN] = f->work.previous != NULL;
    exists[METRIC_SINK_DEFICIT] = a->learned_sink;
    exists[METRIC_MAX_LOGIT] = false;
}

/* Frames. */

/* The earlier occurrences of the query's token, and the keys after them, where valid. */
static void set_occurrences(struct fast *f)
{
    struct frame *frame = f->frame;
    struct row_job *job = &frame->job;
    frame->has_occurrences = false;
    job->occurrences[0] = job->occurrences[1] = 0;
    if (!f->work.previous || job->position >= attention_key_count(f->a, frame->b)) {
        return;
    }
    const uint32_t *previous = f->work.previous + (size_t)frame->b * f->a->keys;
    uint32_t j = previous[job->position];
    frame->has_occurrences = j != OCCURRENCE_NONE;
    /* Entries before the row's first key are not looked at, however many there are. */
    for (; j != OCCURRENCE_NONE && (uint64_t)j + 1 >= job->begin; j = previous[j]) {
        if (frame_key_valid(job, (uint64_t)j + 1)) {
            f->induction[job->occurrences[0]++] = j + 1;
        }
        if (frame_key_valid(job, j)) {
            f->duplicate[job->occurrences[1]++] = j;
        }
    }
    job->occurrence[0] = f->induction;
    job->occurrence[1] = f->duplicate;
}

/* The one at work again, unless a slot refers to it. Each of those that slots refer to has a row in
 * them, so that there are never too many. */
static struct frame *next_frame(struct fast *f)
{
    uint32_t used = f->batch.used;
    uint32_t at = (uint32_t)(f->frame - f->frames);
    if (used == 0 || f->slot[used - 1].frame != f->frame) {
        return f->frame;
    }
    return f->frames + (at + 1) % ROW_BATCH;
}

static void set_frame(struct fast *f, uint32_t b, uint32_t i)
{
    const struct attention *a = f->a;
    struct frame *frame = next_frame(f);
    struct row_job *job = &frame->job;
    f->frame = frame;
    frame->b = b;
    frame->i = i;
    *job = (struct row_job){.keys = a->keys, .position = attention_position(a, i), .maps = f->maps};
    job->holes = attention_row_holes(a, b, i);
    frame->counts = !job->holes.none && frame_query_valid(a, job, b, i);
    if (!frame->counts) {
        return;
    }
    attention_key_range(a, b, i, &job->begin, &job->end);
    frame->n = frame_narrow(job);
    if (frame->n == 0) {
        return;
    }
    frame_set_distances(frame, f->block->plan.local_window);
    frame_set_singles(frame, a);
    set_occurrences(f);
}

/* Rows. */

static const unsigned char *block_fast_row_at(const struct fast *f, uint32_t b, uint32_t h,
                                              uint32_t i)
{
    const struct attention *a = f->a;
    size_t row = ((size_t)b * a->heads + h) * a->queries + i;
    return (const unsigned char *)a->weights + row * a->keys * f->element;
}

/* The row to be fetched while (b, h, i) is at work: rows_ahead later, or the last one. */
static const unsigned char *row_ahead(const struct fast *f, uint32_t b, uint32_t h, uint32_t i)
{
    const struct attention *a = f->a;
    for (h += f->rows_ahead; h >= a->heads; h -= a->heads) {
        if (++b == a->batch) {
            b = 0;
            i++;
        }
    }
    return i < a->queries ? block_fast_row_at(f, b, h, i)
                          : block_fast_row_at(f, a->batch - 1, a->heads - 1, a->queries - 1);
}

/* Fills in what the frames know of the rows in the slots. */
static void fill_from_frames(struct fast *f)
{
    struct row_batch *batch = &f->batch;
    for (uint32_t s = 0; s < batch->used; s++) {
        const struct frame *frame = f->slot[s].frame;
        batch->keys[s] = (float)frame->n;
        batch->rest_keys[s] = (float)(frame->n - (frame->job.single[SINGLE_FIRST] != KEY_NONE));
        batch->largest_distance[s] = frame->largest_distance;
    }
    memcpy(batch->first, f->pass->single[SINGLE_FIRST], sizeof batch->first);
}

/* The weights that the passes picked; NaN where they have no meaning. */
static void fill_picked(struct fast *f)
{
    struct row_batch *batch = &f->batch;
    float *const single[SINGLE_COUNT] = {[SINGLE_FIRST] = batch->first_token,
                                         [SINGLE_DIAGONAL] = batch->diagonal,
                                         [SINGLE_PREVIOUS] = batch->previous,
                                         [SINGLE_NEXT] = batch->next};
    for (uint32_t k = 0; k < SINGLE_COUNT; k++) {
        memcpy(single[k], f->pass->single[k], sizeof batch->next);
        for (uint32_t s = 0; s < batch->used; s++) {
            single[k][s] = f->slot[s].frame->has[k] ? single[k][s] : NAN;
        }
    }
    if (!f->work.previous) {
        return;
    }
    for (uint32_t s = 0; s < batch->used; s++) {
        bool has = f->slot[s].frame->has_occurrences;
        batch->induction[s] = has ? f->pass->occurrence[0][s] : NAN;
        batch->duplicate[s] = has ? f->pass->occurrence[1][s] : NAN;
    }
}

/* Whether a row's sum is surely beyond what is sound, and nothing else is the matter with it. */
static bool surely_unsound(const struct fast *f, uint32_t s)
{
    const struct attention *a = f->a;
    double sum = (double)f->batch.rest_sum[s] + (double)f->batch.first[s];
    double beyond = (a->learned_sink ? sum - 1 : fabs(sum - 1)) - attention_tolerance(a->dtype);
    return !a->dropout && !signbit(f->batch.min[s]) && beyond > SUM_UNCERTAIN && sum < SUM_MOST;
}

/* One row that is not ordinary. */
static int judge_row(struct fast *f, uint32_t s)
{
    struct block *block = f->block;
    const struct slot *slot = &f->slot[s];
    double sum = (double)f->batch.rest_sum[s] + (double)f->batch.first[s];
    if (!isfinite(sum) && !finite_row(&slot->frame->job, slot->row, f->a->dtype)) {
        block->invalid_rows++;
        return 0;
    }
    if (!surely_unsound(f, s)) {
        return block_ref_row(block, f->a, &f->work, slot->frame->b, slot->h, slot->frame->i);
    }
    block->row_sum_error = fmax(block->row_sum_error, fabs(sum - 1)); /* NaN gives way */
    block->invalid_rows++;
    return 0;
}

/* Slots whose weights, or all but the first, are 0 as f32, but may not be as the f64 they were sent
 * in. */
static uint32_t rounded_away(const struct fast *f)
{
    uint32_t bits = 0;
    for (uint32_t s = 0; f->core && f->a->dtype == DTYPE_F64 && s < f->batch.used; s++) {
        bool rest = f->batch.rest_keys[s] > 0 || !(f->batch.first[s] > 0);
        bits |= (uint32_t)(rest && !(f->batch.rest_sum[s] > 0)) << s;
    }
    return bits;
}

/* Counts the rows of the batch; those that are uncertain by the reference. */
static int judge_rows(struct fast *f)
{
    struct row_batch *batch = &f->batch;
    float error;
    uint32_t sound =
        f->kernels->ordinary(batch, f->sum_least, f->sum_most, f->core, &error) & ~rounded_away(f);
    if (sound != 0) {
        f->block->row_sum_error = fmax(f->block->row_sum_error, (double)error);
    }
    for (uint32_t s = 0; s < batch->used; s++) {
        bool is_sound = (sound >> s & 1) != 0;
        batch->sound[s] = is_sound ? 1 : 0;
        f->block->rows += is_sound;
        int rc = is_sound ? 0 : judge_row(f, s);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* At rows whose sums one pass could not be sure of. */
static void look_again(struct fast *f, struct row_doubts doubts, const float eighth[ROW_BATCH])
{
    struct row_batch *batch = &f->batch;
    const struct row_kernels *k = f->kernels;
    for (uint32_t bits = doubts.top | doubts.squares; bits != 0; bits &= bits - 1) {
        uint32_t s = (uint32_t)__builtin_ctz(bits);
        if (s >= batch->used || !(batch->sound[s] > 0)) {
            continue;
        }
        const struct slot *slot = &f->slot[s];
        if ((doubts.top >> s & 1) != 0) {
            batch->top[s] = k->top[f->a->dtype](&slot->frame->job, slot->row, eighth[s]);
        }
        if ((doubts.squares >> s & 1) != 0) {
            float mean = (batch->rest_sum[s] + batch->first[s]) / batch->keys[s];
            batch->squares[s] = k->squares[f->a->dtype](&slot->frame->job, slot->row, mean);
        }
    }
}

/* The rows in the slots, through to their values. */
static int block_fast_drain(struct fast *f)
{
    struct row_batch *batch = &f->batch;
    if (batch->used == 0) {
        return 0;
    }
    fill_from_frames(f);
    if (!f->core) {
        f->kernels->reduce_sums(f->pass, batch);
        int rc = judge_rows(f);
        batch->used = 0;
        return rc;
    }
    float eighth[ROW_BATCH];
    struct row_doubts doubts = f->kernels->reduce(f->pass, batch, eighth);
    fill_picked(f);
    int rc = judge_rows(f);
    look_again(f, doubts, eighth);
    return rc == 0 ? row_values_add(&f->values, batch, f->block->head) : rc;
}

/* Importance. With Z = sum e^a = T + z and P = e^a / Z,
 *
 *     -sum P ln(P + 1e-8) = ln Z - (sum a e^a) / Z - T 1e-8 + ...
 *
 * z is about 1, so that f32 sums of e^a - 1 give ln Z = ln T + log1p(z / T) to 1e-7 / T. */
static void block_fast_add_importance(struct fast *f, const unsigned char *row, uint32_t h)
{
    const struct attention *a = f->a;
    const struct frame *frame = f->frame;
    struct importance_sums s;
    if (a->keys > IMPORTANCE_KEYS_MAX || !f->kernels->importance[a->dtype](row, a->keys, &s)) {
        if (finite_entries(row, a->dtype, a->keys)) { /* else it is left out */
            block_ref_importance(f->block, a, &f->work, frame->b, h, frame->i);
        }
        return;
    }
    struct importance_block *share = &f->block->importance[(size_t)frame->b * a->heads + h];
    double t = a->keys;
    share->entropy += log(t) + log1p(s.expm1 / t) - s.a_exp / (t + s.expm1) - t * 1e-8;
    moments_merge(&share->entries, &s.entries);
}

/* Maps and pairs. */

static struct moments divided(struct moments m, double by)
{
    m.mean /= by;
    m.m2 /= by * by;
    m.min /= by;
    m.max /= by;
    return m;
}

static bool moments_finite(const struct moments *m)
{
    return isfinite(m->mean) && isfinite(m->m2);
}

/* Cuts what has been added up into cells. */
static void flush_pool(struct fast *f)
{
    if (f->pool_rows > 0) {
        map_pool_add_sums(f->block->pool, f->pool_row, f->pooled, f->pool_rows);
        f->pool_rows = 0;
    }
}

/* How much can be told by the sum and max maps of (b, i). */
enum maps_worth { MAPS_FINITE, MAPS_TOLD, MAPS_BY_REFERENCE };

/* Moments of the sum and max maps. Where not all is finite, and no finite weights are so large that
 * f32 may have overflowed, the entries that are not were sent so (MAPS_TOLD). */
static enum maps_worth measure_maps(const struct fast *f, struct moments ret_map[2])
{
    const struct attention *a = f->a;
    float most = 0;
    f->kernels->moments(f->maps, a->keys, ret_map);
    if (moments_finite(&ret_map[0]) && moments_finite(&ret_map[1])) {
        return MAPS_FINITE;
    }
    for (uint32_t h = 0; h < a->heads && most <= FLT_MAX; h++) {
        const unsigned char *row = block_fast_row_at(f, f->frame->b, h, f->frame->i);
        most = fmaxf(most, f->kernels->finite_most[a->dtype](row, a->keys));
    }
    f->kernels->moments_finite(f->maps, a->keys, ret_map);
    bool told = most <= FLT_MAX / 4 / (float)a->heads && moments_finite(&ret_map[0]) &&
                moments_finite(&ret_map[1]);
    return told ? MAPS_TOLD : MAPS_BY_REFERENCE;
}

/* Entry j of the sum map. */
static float *sum_at(const struct fast *f, uint32_t j)
{
    uint32_t width = f->kernels->width;
    return f->maps + (size_t)(j / width) * 2 * width + j % width;
}

/* Row i of one sample's map. */
static void add_to_pool(struct fast *f, enum maps_worth worth)
{
    const struct map_pool *pool = f->block->pool;
    const struct frame *frame = f->frame;
    const struct attention_extent *extent = &f->work.extent[frame->b];
    if (worth == MAPS_BY_REFERENCE) {
        block_ref_pool(f->block, f->a, &f->work, frame->b, frame->i);
        return;
    }
    if (worth == MAPS_TOLD) {
        for (uint32_t j = 0; j < f->a->keys; j++) {
            f->work.sum[j] = (double)*sum_at(f, j);
        }
        map_pool_add_row(f->block->pool, frame->i, f->work.sum, extent->key, extent->key_end);
        return;
    }
    uint32_t row = map_pool_cell(frame->i, pool->queries, pool->rows);
    map_pool_hide(f->block->pool, row, extent->key, extent->key_end);
    if (row != f->pool_row) {
        flush_pool(f);
    }
    if (f->pool_rows == 0) {
        memset(f->pooled, 0, ((size_t)f->a->keys + ROW_PAD) * sizeof *f->pooled);
    }
    f->kernels->add_sums(f->pooled, f->maps, f->a->keys);
    f->pool_row = row;
    f->pool_rows++;
}

static void note_missing(struct fast *f)
{
    if (!f->some_missing) {
        memset(f->missing, 0, ((size_t)f->a->keys + ROW_PAD) * sizeof *f->missing);
    }
    f->some_missing = true;
}

/* Entries of the sum map at padding keys become 0, and missing. */
static void hide_keys(struct fast *f, uint32_t begin, uint32_t end)
{
    if (begin < end) {
        note_missing(f);
    }
    for (uint32_t j = begin; j < end; j++) {
        *sum_at(f, j) = 0;
        f->missing[j]++;
    }
}

/* Pairs and pool of (b, i), unless it is padding. */
static void add_shown(struct fast *f, enum maps_worth worth)
{
    const struct attention *a = f->a;
    const struct attention_extent *extent = &f->work.extent[f->frame->b];
    if (!attention_shown(a, extent, f->frame->b, f->frame->i)) {
        return;
    }
    f->shown++;
    f->upper_sound = f->upper_sound && worth != MAPS_BY_REFERENCE;
    hide_keys(f, 0, extent->key);
    hide_keys(f, extent->key_end, a->keys);
    if (f->block->plan.group[METRIC_GROUP_PAIRS] && worth == MAPS_FINITE) {
        f->kernels->add_upper(f->upper, f->maps, a->keys, a->heads);
    } else if (f->block->plan.group[METRIC_GROUP_PAIRS] && worth == MAPS_TOLD) {
        note_missing(f);
        f->kernels->add_upper_finite(f->upper, f->missing, f->maps, a->keys, a->heads);
    }
    if (f->block->pool) {
        add_to_pool(f, worth);
    }
}

static void block_fast_finish_maps(struct fast *f)
{
    struct block *block = f->block;
    const struct attention *a = f->a;
    struct moments map[2];
    enum maps_worth worth = measure_maps(f, map);
    if (block->plan.group[METRIC_GROUP_PAIRS] || block->pool) {
        add_shown(f, worth);
    }
    if (!block->plan.maps) {
        return;
    }
    if (worth == MAPS_BY_REFERENCE) {
        block_ref_maps(block, a, &f->work, f->frame->b, f->frame->i);
        return;
    }
    struct moments mean = divided(map[0], a->heads);
    moments_merge(&block->map[AGGREGATE_SUM], &map[0]);
    moments_merge(&block->map[AGGREGATE_MAX], &map[1]);
    moments_merge(&block->map[AGGREGATE_MEAN], &mean);
}

/* The bound that `upper` must reach for its pair to be one of the best; not above it by
 * rounding. */
static float pair_bound(const struct fast *f)
{
    const struct block *block = f->block;
    if (block->pair_count < block->plan.top_pairs) {
        return f->some_missing ? -FLT_MAX : -INFINITY; /* what is nowhere finite is -infinity */
    }
    double worst = block->pairs[block->pair_count - 1].weight;
    double bound = worst * f->a->heads * f->shown;
    return nextafterf((float)bound, -INFINITY);
}

/* The pairs of query i and of the keys from j, as the reference computes them. */
static void offer_exact(struct fast *f, uint32_t i, uint32_t j)
{
    const struct attention *a = f->a;
    uint32_t left = a->keys - j, n = left < f->kernels->width ? left : f->kernels->width;
    double *sum = f->exact, *total = f->exact + ROW_PAD;
    uint32_t samples[ROW_PAD] = {0};
    memset(total, 0, ROW_PAD * sizeof *total);
    size_t stride = (size_t)a->queries * a->keys * f->element;
    for (uint32_t b = 0; b < a->batch; b++) {
        const struct attention_extent *extent = &f->work.extent[b];
        if (!attention_shown(a, extent, b, i)) {
            continue;
        }
        f->kernels->head_sums[a->dtype](block_fast_row_at(f, b, 0, i) + j * f->element, stride,
                                        a->heads, n, sum);
        for (uint32_t l = 0; l < n; l++) {
            double mean = j + l >= extent->key && j + l < extent->key_end ? sum[l] / a->heads : NAN;
            total[l] += isfinite(mean) ? mean : 0;
            samples[l] += isfinite(mean) != 0;
        }
    }
    for (uint32_t l = 0; l < n; l++) {
        double weight = total[l] / samples[l];
        if (isfinite(weight)) {
            block_offer_pair(f->block, (struct pair){.query = i, .key = j + l, .weight = weight});
        }
    }
}

static void block_fast_offer_pairs(struct fast *f, uint32_t i)
{
    if (f->shown == 0) {
        return;
    }
    if (!f->upper_sound) {
        block_ref_pairs(f->block, f->a, &f->work, i);
        return;
    }
    if (f->some_missing) {
        /* An entry's average is over the samples where it is finite: its bound, over all. */
        float batch = (float)f->shown;
        for (uint32_t j = 0; j < f->a->keys; j++) {
            float samples = batch - f->missing[j], upper = f->upper[j] * (batch / samples);
            f->upper[j] = samples > 0 ? upper + fabsf(upper) * 0x1p-20f : -INFINITY;
        }
    }
    uint32_t keys = f->a->keys, width = f->kernels->width;
    uint32_t j = f->kernels->find(f->upper, 0, keys, pair_bound(f));
    while (j < keys) {
        offer_exact(f, i, j);
        j = f->kernels->find(f->upper, j + width, keys, pair_bound(f));
    }
}

/* Putting it together. */

/* Query i of one sample, all heads. */
static int block_fast_add_sample(struct fast *f, uint32_t b, uint32_t i)
{
    const struct attention *a = f->a;
    set_frame(f, b, i);
    const struct frame *frame = f->frame;
    bool rows = frame->counts && frame->n > 0;
    if (frame->counts && frame->n == 0) {
        f->block->invalid_rows += a->heads;
    }
    enum row_maps maps = f->across ? ROW_MAPS_BEGIN : ROW_MAPS_NONE;
    int rc = 0;
    for (uint32_t h = 0; rc == 0 && h < a->heads; h++) {
        const unsigned char *row = block_fast_row_at(f, b, h, i), *next = row_ahead(f, b, h, i);
        if (rows) {
            /* One row with a valid query and a valid key. */
            uint32_t s = f->batch.used++;
            f->slot[s] = (struct slot){.frame = f->frame, .row = row, .h = h};
            f->row_kernel[maps](&f->frame->job, row, next, f->pass, s);
            rc = f->batch.used == ROW_BATCH ? block_fast_drain(f) : 0;
        } else if (f->across) {
            f->kernels->maps[a->dtype](maps, &frame->job, row, next);
        }
        maps = f->across ? ROW_MAPS_ADD : ROW_MAPS_NONE;
        if (f->block->plan.group[METRIC_GROUP_IMPORTANCE]) {
            block_fast_add_importance(f, row, h);
        }
    }
    if (rc == 0 && f->across) {
        block_fast_finish_maps(f);
    }
    return rc;
}

int block_compute(struct block *block, const struct attention *a, uint32_t row_begin,
                  uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    const struct kernels *kernels = kernels_of(isa);
    if (!kernels || a->dtype >= KERNEL_DTYPES) {
        return block_compute_ref(block, a, row_begin, row_end, scratch);
    }
    assert(block->batch == a->batch && block->heads == a->heads && row_end <= a->queries);
    struct fast f = {.block = block,
                     .a = a,
                     .kernels = kernels->row,
                     .core = block->plan.group[METRIC_GROUP_CORE],
                     .across = block_ref_across(block),
                     .element = dtype_size(a->dtype),
                     .work = {.block = block, .a = a}};
    int rc = scratch_take_pieces(scratch, fast_lay, &f);
    if (rc != 0) {
        return rc;
    }
    block_fast_begin(&f);
    bool pairs = block->plan.group[METRIC_GROUP_PAIRS];
    for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
        f.upper_sound = true;
        f.some_missing = false;
        f.shown = 0;
        if (pairs) {
            memset(f.upper, 0, ((size_t)a->keys + ROW_PAD) * sizeof *f.upper);
        }
        for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
            scratch_pause(scratch);
            rc = block_fast_add_sample(&f, b, i);
        }
        if (rc == 0 && pairs) {
            block_fast_offer_pairs(&f, i);
        }
    }
    flush_pool(&f);
    rc = rc == 0 ? block_fast_drain(&f) : rc;
    return rc == 0 ? row_values_flush(&f.values, block->head) : rc;
}
