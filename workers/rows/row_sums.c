/* SPDX-License-Identifier: MIT */
/* Sixteen rows of a head at a time: read, then judged, scaled and put into a row_batch by a kernel,
 * which makes metrics of them (row_sums_tmpl.h).
 *
 * Two things differ from what a row_batch is elsewhere. A sink beside logits is none of the keys:
 * its share of the weights is taken from the entries alone, so moments of entries are added up
 * here. And rows that the kernel does not find in order are judged again, one by one. */
#include "workers/rows/row_sums_internal.h"

#include "proto/err.h"
#include "workers/rows/row_batch.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The work of one thread. */
struct row_sums_work {
    const struct sent_sums *rows;
    struct block *block;
    const struct row_kernels *kernels;
    struct row_rules rules;
    struct row_values values;
    struct row_batch batch;
    struct row_chunk chunk;
    struct row_scaled scaled;
    struct sums_totals totals; /* of the head */
    bool has_logits, has_cosines, has_lengths, has_deficit;
    double sink; /* of the head; -INFINITY: none */
    unsigned char *memory;
    float *deficit; /* [ROW_SUMS_KEPT + ROW_PAD] sink_deficit of rows */
    uint32_t deficits;
    uint32_t h, b;
    /* ROW_BATCH rows of the chunk. */
    uint32_t from, count;
    enum row_verdict verdict[ROW_BATCH];
    double kept[ROW_BATCH]; /* the share of its weights that a sink leaves */
};

/* Deficits at a time. */
#define ROW_SUMS_KEPT 1024

static void row_sums_lay(void *data, struct scratch_pieces *pieces)
{
    struct row_sums_work *w = data;
    w->memory = scratch_carve(pieces, row_values_bytes(1), 1);
    w->deficit = scratch_carve(pieces, ROW_SUMS_KEPT + ROW_PAD, sizeof *w->deficit);
}

static struct importance_block *row_sums_share(const struct row_sums_work *w)
{
    const struct block *block = w->block;
    return block->importance ? &block->importance[(size_t)w->b * block->heads + w->h] : NULL;
}

/* Judging */

static void row_sums_add_empty(const struct row_sums_work *w, struct importance_block *share)
{
    double keys = w->rows->keys;
    struct moments m = {.n = w->rows->keys};
    share->entropy -= log(1 / keys + 1e-8);
    moments_merge(&share->entries, &m);
}

/* Finds out which rows are sound; those of `good` are. Returns 0 or ERR_ROWS. */
static int row_sums_sort(struct row_sums_work *w, uint32_t good)
{
    struct importance_block *share = row_sums_share(w);
    for (uint32_t s = 0; s < w->count; s++) {
        w->verdict[s] = ROW_SOUND;
        if ((good >> s & 1) != 0) {
            continue;
        }
        struct row_numbers row;
        row_sums_take(w->rows, &w->chunk, w->from + s, &row);
        w->verdict[s] = row_sums_judge(w->rows, &row);
        if (w->verdict[s] == ROW_IMPOSSIBLE) {
            return ERR_ROWS;
        }
        if (share && (w->verdict[s] == ROW_PADDING || w->verdict[s] == ROW_BLIND)) {
            row_sums_add_empty(w, share);
        }
    }
    return 0;
}

/* Whether weights of such a sum are a distribution. */
static bool row_sums_is_whole(const struct sent_sums *rows, double sum)
{
    double most = attention_tolerance(rows->dtype), off = sum - 1;
    return sum <= (double)FLT_MAX &&
           (rows->dropout || (rows->learned_sink ? off <= most : fabs(off) <= most));
}

/* Judges a row of weights by its sum, and finds what a sink has left of them. Such a row counts in
 * the importance whatever its sum is. */
static void row_sums_judge_sum(struct row_sums_work *w, uint32_t s)
{
    const struct row_scaled *scaled = &w->scaled;
    double sum = w->rules.as_sent ? (double)scaled->sum[s]
                                  : exp((double)scaled->top[s]) * (double)scaled->z[s];
    if (isfinite(sum)) {
        w->block->row_sum_error = fmax(w->block->row_sum_error, fabs(sum - 1));
    }
    w->kept[s] = w->rules.as_sent ? 1 : sum;
    w->verdict[s] = row_sums_is_whole(w->rows, sum) ? ROW_SOUND : ROW_OFF;
}

static void row_sums_keep(struct row_sums_work *w, uint32_t s)
{
    const struct row_scaled *scaled = &w->scaled;
    w->kept[s] = 1;
    if (w->rows->of_weights) {
        row_sums_judge_sum(w, s);
    } else if (!(w->sink < INFINITY)) {
        w->verdict[s] = ROW_UNSOUND;
    } else if (w->sink > -INFINITY) {
        w->kept[s] = 1 / (1 + exp(w->sink - (double)scaled->top[s] - (double)scaled->log_z[s]));
    }
    if (!(scaled->z[s] > 0)) {
        w->kept[s] = 0;
    }
}

/* Sums of a head */

static void row_sums_add_importance(const struct row_sums_work *w, struct importance_block *share)
{
    double keys = w->rows->keys, n = 0, sums = 0, squares = 0, entropy = 0;
    for (uint32_t s = 0; s < w->count; s++) {
        if (w->verdict[s] != ROW_SOUND && w->verdict[s] != ROW_OFF) {
            continue;
        }
        double kept = w->kept[s], unit = kept > 0 ? kept * (double)w->scaled.unit[s] : 0;
        double first = kept > 0 ? kept * (double)w->scaled.first[s] : 0;
        double power = unit, grown = expm1(first), tilted = first * exp(first);
        for (int i = 0; i < ROW_SUMS_POWERS && unit > 0; i++, power *= unit) {
            double part = (double)w->chunk.sum[row_sums_power[i]][w->from + s] * power;
            grown += row_sums_grown[i] * part;
            tilted += row_sums_tilted[i] * part;
        }
        entropy += log1p(grown / keys) - tilted / (keys + grown);
        n++;
        sums += kept > 0 ? kept * (double)w->scaled.sum[s] : 0;
        squares += kept > 0 ? kept * kept * (double)w->scaled.square[s] : 0;
    }
    if (n > 0) {
        share->entropy += entropy + n * (log(keys) - 1e-8 * keys);
        n *= keys;
        struct moments m = {
            .n = (uint64_t)n, .mean = sums / n, .m2 = fmax(0, squares - sums * sums / n), .max = 1};
        moments_merge(&share->entries, &m);
    }
}

/* A sink may have taken a share. */
static void row_sums_add_entries(struct row_sums_work *w, uint32_t s)
{
    const struct row_scaled *scaled = &w->scaled;
    struct sums_total *t = &w->totals.entries;
    double kept = w->kept[s], sum = kept > 0 ? kept * (double)scaled->sum[s] : 0;
    float min = kept > 0 ? (float)(kept * (double)scaled->least[s]) : 0;
    float max = kept > 0 ? (float)(kept * (double)scaled->most[s]) : 0;
    t->n += (double)scaled->seen[s];
    t->sum += sum;
    t->squares += kept > 0 ? kept * kept * (double)scaled->square[s] : 0;
    t->min = min < t->min ? min : t->min;
    t->max = max > t->max ? max : t->max;
}

static void row_sums_flush(bool exists, const struct sums_total *t, struct moments *into)
{
    if (exists && t->n > 0) {
        double m2 = t->squares - t->sum * t->sum / t->n;
        struct moments m = {.n = (uint64_t)t->n,
                            .mean = t->sum / t->n,
                            .m2 = m2 > 0 ? m2 : 0,
                            .min = (double)t->min,
                            .max = (double)t->max};
        moments_merge(into, &m);
    }
}

static int row_sums_flush_deficits(struct row_sums_work *w)
{
    int rc = 0;
    if (w->deficits > 0) {
        w->kernels->count(w->deficit, w->deficits, w->values.counts);
        rc = dist_add_counts(&w->block->head[w->h].row[METRIC_SINK_DEFICIT], w->values.counts);
        w->deficits = 0;
    }
    return rc;
}

/* The rows of the batch; one that a sink took all of has nothing but that. Entries of which no sink
 * may have a share are added up by the kernel, too. */
static void row_sums_add_rows(struct row_sums_work *w)
{
    bool is_whole = !w->rows->of_weights && w->sink == -INFINITY;
    struct sums_counted counted = {0};
    for (uint32_t s = 0; s < ROW_BATCH && s < w->count; s++) {
        bool is_sound = w->verdict[s] == ROW_SOUND;
        w->batch.sound[s] = is_sound && w->scaled.z[s] > 0 ? 1 : 0;
        counted.sound |= (uint32_t)is_sound << s;
        counted.valid |= (uint32_t)(w->verdict[s] != ROW_PADDING) << s;
        if (is_sound && !is_whole) {
            row_sums_add_entries(w, s);
        }
        if (is_sound && w->has_deficit) {
            w->deficit[w->deficits++] = (float)(1 - w->kept[s]);
        }
    }
    counted.entries = is_whole ? counted.sound : 0;
    w->kernels->totals(&w->chunk, w->from, &w->scaled, &counted, &w->totals);
}

static int row_sums_add_batch(struct row_sums_work *w, bool core)
{
    struct block *block = w->block;
    struct importance_block *share = row_sums_share(w);
    int rc =
        row_sums_sort(w, w->kernels->sums(&w->rules, &w->chunk, w->from, &w->scaled, &w->batch));
    if (rc != 0) {
        return rc;
    }
    for (uint32_t s = 0; s < w->count; s++) {
        if (w->verdict[s] == ROW_SOUND) {
            row_sums_keep(w, s);
        }
        block->rows += w->verdict[s] == ROW_SOUND;
        block->invalid_rows += w->verdict[s] != ROW_SOUND && w->verdict[s] != ROW_PADDING;
        if (w->verdict[s] == ROW_SOUND && !w->rows->of_weights) {
            block->row_sum_error = 0;
        }
    }
    if (share) {
        row_sums_add_importance(w, share);
    }
    if (!core) {
        return 0;
    }
    row_sums_add_rows(w);
    w->batch.used = w->count;
    rc = row_values_add(&w->values, &w->batch, &block->head[w->h]);
    if (rc == 0 && w->deficits > ROW_SUMS_KEPT - ROW_BATCH) {
        rc = row_sums_flush_deficits(w);
    }
    return rc;
}

static int row_sums_add_head(struct row_sums_work *w, uint32_t begin, uint32_t end,
                             struct scratch *scratch)
{
    const struct sent_sums *rows = w->rows;
    bool core = w->block->plan.group[METRIC_GROUP_CORE];
    struct head_block *head = &w->block->head[w->h];
    int rc = 0;
    w->sink = row_sums_sink(rows, w->h);
    const struct sums_total none = {.min = INFINITY, .max = -INFINITY};
    w->totals = (struct sums_totals){none, none, none, none};
    for (w->b = 0; w->b < rows->batch && rc == 0; w->b++) {
        for (uint32_t i = begin; i < end && rc == 0; i += ROW_CHUNK) {
            uint32_t count = end - i < ROW_CHUNK ? end - i : ROW_CHUNK;
            row_sums_read(rows, w->b, w->h, i, count, &w->chunk);
            for (w->from = 0; w->from < count && rc == 0; w->from += ROW_BATCH) {
                w->count = count - w->from < ROW_BATCH ? count - w->from : ROW_BATCH;
                rc = row_sums_add_batch(w, core);
            }
        }
        scratch_pause(scratch);
    }
    if (rc == 0 && core) {
        row_sums_flush(true, &w->totals.entries, &head->entries);
        row_sums_flush(w->has_logits, &w->totals.logits, &head->logits);
        row_sums_flush(w->has_cosines, &w->totals.cosines, &head->cosine);
        row_sums_flush(w->has_lengths, &w->totals.lengths, &head->q_norm);
        rc = row_values_flush(&w->values, head);
    }
    return rc == 0 ? row_sums_flush_deficits(w) : rc;
}

/* The lengths of a key head, once for all heads that read it. */
static void row_sums_add_key_lengths(struct block *block, const struct sent_sums *rows,
                                     const struct row_kernels *kernels)
{
    uint32_t group = rows->heads / rows->kv_heads;
    for (uint32_t kv = 0; kv < rows->kv_heads; kv++) {
        struct moments lengths = {0};
        for (uint32_t b = 0; b < rows->batch; b++) {
            row_sums_add_keys(rows, b, kv, kernels, &lengths);
        }
        for (uint32_t h = kv * group; h < (kv + 1) * group; h++) {
            moments_merge(&block->head[h].k_norm, &lengths);
        }
    }
}

int row_sums_compute(struct block *block, const struct sent_sums *rows, uint32_t row_begin,
                     uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    if (isa == ISA_SCALAR) {
        return row_sums_compute_ref(block, rows, row_begin, row_end);
    }
    struct row_sums_work w = {.rows = rows,
                              .block = block,
                              .kernels = kernels_or_portable(isa)->row,
                              .has_logits = row_sums_have(rows, METRIC_MEAN_LOGIT),
                              .has_cosines = row_sums_have(rows, METRIC_QK_COSINE),
                              .has_lengths = row_sums_have(rows, METRIC_Q_NORM),
                              .has_deficit = row_sums_have(rows, METRIC_SINK_DEFICIT)};
    w.rules =
        (struct row_rules){.keys = (int32_t)(rows->keys < INT32_MAX ? rows->keys : INT32_MAX - 1),
                           .local_window = (float)rows->local_window,
                           .has_apart = rows->column[ROW_SUM_APART],
                           .has_with_first = rows->column[ROW_SUM_WITH_FIRST],
                           .has_seen = rows->column[ROW_SUM_SEEN],
                           .has_farthest = rows->column[ROW_SUM_FARTHEST],
                           .as_sent = rows->of_weights && !rows->learned_sink};
    int rc = scratch_take_pieces(scratch, row_sums_lay, &w);
    if (rc != 0) {
        return rc;
    }
    row_sums_begin(&w.chunk);
    row_values_begin(&w.values, w.memory, 1, w.kernels);
    w.values.own_entries = true;
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        w.values.exists[m] = m != METRIC_SINK_DEFICIT && row_sums_have(rows, (enum metric)m);
    }
    if (row_begin == 0 && block->plan.group[METRIC_GROUP_CORE]) {
        row_sums_add_key_lengths(block, rows, w.kernels);
    }
    for (w.h = 0; w.h < rows->heads && rc == 0; w.h++) {
        rc = row_sums_add_head(&w, row_begin, row_end, scratch);
    }
    return rc;
}
