/* SPDX-License-Identifier: MIT */
/* The path of one message: work_new cuts it, work_submit queues the jobs, each job fills its own
 * block or its own heads' spectra; the job that brings `remaining` to zero merges the blocks, so
 * that the loop need not, and posts NOTE_DONE; the loop calls work_finish for the numbers. A job
 * that runs out of memory sets `failed`; the message is then dropped as out_of_memory. */
#include "work.h"

#include "err.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct work_job {
    struct pool_job job; /* first */
    struct work *work;
    uint32_t begin, end; /* rows of a block, heads of a spectrum job */
    struct block block;  /* row jobs */
};

struct work {
    struct message *message;
    struct inbox *done;
    struct attention attention;
    struct block_plan plan;
    uint32_t row_jobs, spectrum_jobs;
    struct work_job *jobs;    /* row jobs first */
    struct spectrum *spectra; /* [heads]; NULL when off */
    double *values;           /* storage of measured.value and .singular_values */
    struct measured measured;
    _Atomic uint32_t remaining;
    _Atomic bool failed;
};

static uint32_t ceil_div(uint64_t a, uint64_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* In the order of the rows, so that the result does not depend on who ran when. */
static void merge_blocks(struct work *work)
{
    struct block *rows = &work->jobs[0].block;
    int code = 0;
    for (uint32_t i = 1; i < work->row_jobs && !code && !atomic_load(&work->failed); i++)
        code = block_merge(rows, &work->jobs[i].block);
    if (code)
        atomic_store(&work->failed, true);
}

static void job_done(struct work_job *job, int code)
{
    struct work *work = job->work;
    struct message *message = work->message;
    if (code)
        atomic_store(&work->failed, true);
    if (atomic_fetch_sub(&work->remaining, 1) == 1) {
        merge_blocks(work);
        message->note.kind = NOTE_DONE;
        inbox_post(work->done, &message->note);
    }
}

static void run_rows(struct pool_job *pool_job, struct scratch *scratch)
{
    struct work_job *job = (struct work_job *)pool_job;
    struct work *work = job->work;
    int code = block_init(&job->block, &work->attention, &work->plan);
    if (!code)
        code = block_compute_ref(&job->block, &work->attention, job->begin, job->end, scratch);
    job_done(job, code);
}

static void run_spectra(struct pool_job *pool_job, struct scratch *scratch)
{
    struct work_job *job = (struct work_job *)pool_job;
    struct work *work = job->work;
    int code = 0;
    for (uint32_t h = job->begin; h < job->end && !code; h++)
        code =
            spectrum_compute_ref(&work->attention, /* sample= */ 0, h, scratch, &work->spectra[h]);
    job_done(job, code);
}

/* Cuts [0, total) into `count` nearly equal ranges for the given jobs. */
static void cut(struct work *work, struct work_job *jobs, uint32_t count, uint32_t total,
                void (*run)(struct pool_job *, struct scratch *))
{
    for (uint32_t i = 0; i < count; i++) {
        jobs[i].work = work;
        jobs[i].job.run = run;
        jobs[i].begin = (uint32_t)((uint64_t)total * i / count);
        jobs[i].end = (uint32_t)((uint64_t)total * (i + 1) / count);
    }
}

/* Each job keeps a few hundred bytes per head and sample: it should have at least so many entries
 * for them. */
#define ENTRIES_PER_HEAD_MIN 256

static uint32_t count_row_jobs(uint64_t batch, uint64_t heads, uint32_t queries, uint64_t keys,
                               const struct config *config)
{
    uint64_t map = queries * keys;
    uint32_t wanted = ceil_div(batch * heads * map, config->workers_block_entries);
    uint32_t sensible = min_u32(ceil_div(map, ENTRIES_PER_HEAD_MIN), queries);
    return min_u32(min_u32(wanted, sensible), WORK_BLOCKS_MAX);
}

static bool spectrum_wanted(uint32_t queries, uint32_t keys, const struct config *config)
{
    return config->metrics_spectrum && queries <= config->metrics_spectrum_max_size &&
           keys <= config->metrics_spectrum_max_size;
}

static struct block_plan plan_of(const struct header *header, const struct config *config)
{
    bool whole = header->heads == header->heads_total;
    struct block_plan plan = {.top_pairs = (uint32_t)config->metrics_top_pairs};
    plan.group[METRIC_GROUP_CORE] = config->metrics_core;
    plan.group[METRIC_GROUP_IMPORTANCE] = config->metrics_importance && whole;
    plan.group[METRIC_GROUP_PAIRS] = config->metrics_pairs && whole;
    plan.group[METRIC_GROUP_SPECTRUM] = config->metrics_spectrum;
    return plan;
}

/* Buckets that the histograms of one head may use in one block, at 8 bytes and up to twice that
 * allocated. */
static uint64_t hist_bytes_max(uint64_t rows)
{
    uint64_t buckets = rows < 5123 ? rows : 5123;
    return METRIC_ROW_COUNT * buckets * 2 * sizeof(struct bucket);
}

uint64_t work_cost(const struct header *header, const struct config *config)
{
    uint64_t batch = header->batch, heads = header->heads;
    uint64_t jobs = count_row_jobs(batch, heads, header->queries, header->keys, config);
    uint64_t rows = batch * ceil_div(header->queries, jobs);
    uint64_t block =
        sizeof(struct work_job) + heads * (sizeof(struct head_block) + hist_bytes_max(rows));
    if (config->metrics_importance && header->heads == header->heads_total)
        block += batch * heads * sizeof(struct importance_block);
    uint64_t values = heads * (METRIC_COUNT + SINGULAR_VALUES_MAX) * sizeof(double);
    return sizeof(struct work) + jobs * block + values + heads * sizeof(struct spectrum) +
           WORK_SPECTRA_MAX * sizeof(struct work_job);
}

static int allocate(struct work *work)
{
    uint32_t heads = work->attention.heads;
    uint32_t jobs = work->row_jobs + work->spectrum_jobs;
    work->jobs = calloc(jobs, sizeof *work->jobs);
    work->values = malloc((size_t)heads * (METRIC_COUNT + SINGULAR_VALUES_MAX) * sizeof(double));
    if (work->spectrum_jobs)
        work->spectra = calloc(heads, sizeof *work->spectra);
    bool ok = work->jobs && work->values && (work->spectra || !work->spectrum_jobs);
    return ok ? 0 : ERR_MEMORY;
}

int work_new(struct message *message, const struct config *config, struct inbox *done)
{
    struct work *work = calloc(1, sizeof *work);
    if (!work)
        return ERR_MEMORY;
    work->message = message;
    work->done = done;
    work->attention = message_attention(message);
    const struct attention *a = &work->attention;
    work->plan = plan_of(&message->header, config);
    work->row_jobs = count_row_jobs(a->batch, a->heads, a->queries, a->keys, config);
    if (spectrum_wanted(a->queries, a->keys, config))
        work->spectrum_jobs = min_u32(work->attention.heads, WORK_SPECTRA_MAX);
    if (allocate(work) != 0) {
        work_free(&work);
        return ERR_MEMORY;
    }
    cut(work, work->jobs, work->row_jobs, work->attention.queries, run_rows);
    cut(work, work->jobs + work->row_jobs, work->spectrum_jobs, work->attention.heads, run_spectra);
    atomic_init(&work->remaining, work->row_jobs + work->spectrum_jobs);
    message->work = work;
    return 0;
}

int work_submit(struct work *work, struct pool *pool)
{
    uint32_t count = work->row_jobs + work->spectrum_jobs;
    for (uint32_t i = 0; i < count; i++)
        work->jobs[i].job.next = i + 1 < count ? &work->jobs[i + 1].job : NULL;
    return pool_submit(pool, &work->jobs[0].job, count);
}

static bool metric_on(const struct work *work, enum metric metric)
{
    enum metric_group group = metric_info[metric].group;
    return group == METRIC_GROUP_SPECTRUM ? work->spectra != NULL : work->plan.group[group];
}

static void lay_out_values(struct work *work)
{
    uint32_t heads = work->attention.heads;
    double *next = work->values;
    for (int m = 0; m < METRIC_COUNT; m++, next += heads)
        work->measured.value[m] = metric_on(work, (enum metric)m) ? next : NULL;
    work->measured.singular_values = work->spectra ? next : NULL;
}

static void spread_spectra(struct work *work)
{
    struct measured *measured = &work->measured;
    for (uint32_t h = 0; work->spectra && h < work->attention.heads; h++) {
        const struct spectrum *spectrum = &work->spectra[h];
        measured->value[METRIC_SPECTRAL_NORM][h] = spectrum->spectral_norm;
        measured->value[METRIC_CONDITION_NUMBER][h] = spectrum->condition_number;
        measured->value[METRIC_RANK][h] = spectrum->rank;
        measured->value[METRIC_EFFECTIVE_RANK][h] = spectrum->effective_rank;
        memcpy(&measured->singular_values[(size_t)h * SINGULAR_VALUES_MAX],
               spectrum->singular_values, sizeof spectrum->singular_values);
    }
}

int work_finish(struct work *work, struct measured *ret_measured)
{
    struct block *rows = &work->jobs[0].block;
    if (atomic_load(&work->failed))
        return ERR_MEMORY;
    lay_out_values(work);
    block_values(rows, work->measured.value);
    block_aggregate(rows, work->measured.aggregate);
    spread_spectra(work);
    work->measured.rows = rows;
    work->measured.has_aggregate = work->plan.group[METRIC_GROUP_CORE] &&
                                   work->message->header.heads == work->message->header.heads_total;
    *ret_measured = work->measured;
    return 0;
}

void work_free(struct work **work_p)
{
    struct work *work = *work_p;
    if (!work)
        return;
    for (uint32_t i = 0; work->jobs && i < work->row_jobs; i++)
        block_clear(&work->jobs[i].block);
    free(work->jobs);
    free(work->spectra);
    free(work->values);
    free(work);
    *work_p = NULL;
}
