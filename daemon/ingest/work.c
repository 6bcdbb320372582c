/* SPDX-License-Identifier: MIT */
/* The path of one message: work_new cuts it, work_submit queues the jobs, each job runs on a
 * worker; the job that brings `remaining` to zero finishes the measure, so that the loop need not,
 * and posts NOTE_DONE; the loop calls work_finish for the numbers. A message whose jobs ran out of
 * memory is dropped as out_of_memory.
 *
 * A training job is a tenant of the pool: jobs share the workers by time, and a large message of
 * one of them is late for its own job only (pool.c).
 *
 * Spectra and row jobs of a training job wait in one queue, first come first served, so that no
 * message waits for ever; but a spectrum under a budget gives way as soon as row jobs of the same
 * training job are waiting (`should_yield`): under load spectra get rarer, and row metrics are late
 * by one head's spectrum at most. Other jobs have a share of their own. Messages of tier weights,
 * which may take seconds, stay in the background. */
#include "daemon/ingest/work.h"

#include "daemon/base/clock.h"
#include "proto/err.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A message whose maps are made of its queries and keys may take this part of ingest.budget. */
#define MAPS_SHARE 4
/* Projection matrices with a larger side get no eigenvalue range, which is slow in LAPACK. */
#define EIGENVALUES_MAX_SIZE 512

struct work_job {
    struct pool_job job; /* first */
    struct work *work;
    uint32_t index;
};

struct work {
    struct message *message;
    struct inbox *done;
    struct measure *measure;
    struct work_job *jobs;
    uint32_t job_count;
    _Atomic uint32_t remaining;
    int code; /* of measure_finish: written by the last job, read by the loop */
};

static bool others_wait(void *data)
{
    return pool_waiting(data) > 0;
}

/* One for each core that this process may use: more would only take them from the threads that
 * receive. */
static uint32_t threads_of(const struct config *config)
{
    if (config->workers_threads) {
        return (uint32_t)config->workers_threads;
    }
    cpu_set_t allowed;
    int known = sched_getaffinity(0, sizeof allowed, &allowed);
    long cores = known == 0 ? CPU_COUNT(&allowed) : sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > 8 ? 8 : (uint32_t)cores;
}

int machine_init(struct machine *machine, const struct config *config)
{
    const char *name = config_isa_name(config->workers_isa);
    machine->threads = threads_of(config);
    return isa_parse(name, strlen(name), &machine->isa);
}

/* The configured settings. */
static struct measure_plan configured(const struct header *header, const struct config *config,
                                      const struct machine *machine)
{
    struct measure_plan plan = {
        .threads = machine->threads,
        .whole = header->heads == header->heads_total,
        .head_pairs = config->metrics_head_pairs,
        .top_pairs = (uint32_t)config->metrics_top_pairs,
        .local_window = (uint32_t)config->metrics_local_window,
        .redundant_js = config->metrics_redundant_js,
        .head_weights = config->metrics_head_weights.number,
        .head_weight_count = config->metrics_head_weights.count,
        .spectrum_max_size = (uint32_t)config->metrics_spectrum_max_size,
        .spectrum_sample = (uint32_t)config->maps_sample,
        .spectrum_effort = (enum spectrum_effort)config->metrics_spectrum_effort,
        .spectrum_budget_ns = config->metrics_spectrum_budget,
        .weights_max_size = (uint32_t)config->metrics_weights_max_size,
        .eigenvalues_max_size = EIGENVALUES_MAX_SIZE,
        .qk_maps_max_size = (uint32_t)config->metrics_qk_maps_max_size,
        .block_entries = config->workers_block_entries,
        .isa = machine->isa,
    };
    plan.group[METRIC_GROUP_CORE] = config->metrics_core;
    plan.group[METRIC_GROUP_IMPORTANCE] = config->metrics_importance;
    plan.group[METRIC_GROUP_PAIRS] = config->metrics_pairs;
    plan.group[METRIC_GROUP_SIMILARITY] = config->metrics_similarity;
    plan.group[METRIC_GROUP_SPECTRUM] = config->metrics_spectrum;
    return plan;
}

/* A large batch of queries and keys is measured without its maps, rather than not at all. */
static struct measure_plan work_plan_of(const struct header *header, const struct config *config,
                                        const struct machine *machine)
{
    struct measure_plan plan = configured(header, config, machine);
    if (header->type == MESSAGE_QK) {
        struct attention shape = message_attention(header, NULL);
        uint64_t cost = measure_cost(&shape, &plan), most = config->ingest_budget / MAPS_SHARE;
        if (cost > most || measure_scratch(&shape, &plan) > most - cost) {
            plan.qk_maps_max_size = 0;
        }
    }
    return plan;
}

/* A part of matrices costs its share of what computing them takes, and of what they are joined in,
 * which are as many bytes as it has; more than there is, when all parts, of entries as large as its
 * own, can never be there at once. */
static uint64_t work_part_cost(const struct header *header, uint64_t all,
                               const struct config *config)
{
    double whole = 0, here = 0, bytes = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        whole += (double)header->matrix[p].out * header->matrix[p].in;
    }
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        const struct tensor *tensor = &header->tensors[i];
        here += (double)tensor->shape[0] * (double)tensor->shape[1];
        bytes += (double)tensor->bytes;
    }
    double together = (double)all + 2 * bytes * whole / here;
    return together > (double)config->ingest_budget
               ? UINT64_MAX / 2
               : (uint64_t)((double)all * here / whole + bytes);
}

uint64_t work_cost(const struct header *header, const struct config *config,
                   const struct machine *machine, uint64_t *ret_scratch)
{
    struct measure_plan plan = work_plan_of(header, config, machine);
    *ret_scratch = 0;
    uint64_t cost = sizeof(struct work) + WORK_JOBS_MAX * sizeof(struct work_job);
    plan.pooled_map = config->history_enabled && config->history_maps; /* of any message */
    plan.head_maps_size = config->maps_enabled ? (uint32_t)config->maps_size : 0;
    if (header->type == MESSAGE_WEIGHTS) {
        struct weights shape = message_weights(header, NULL);
        uint64_t all = measure_weights_cost(&shape);
        return cost + (header->in_parts ? work_part_cost(header, all, config) : all);
    }
    if (header->type == MESSAGE_ROWS) {
        struct sent_sums shape = message_rows(header, NULL);
        struct head_maps brought = message_brought(header);
        uint64_t maps = head_maps_bytes(brought.heads, brought.rows, brought.columns, UINT32_MAX);
        return cost + measure_rows_cost(&shape, &plan) + (brought.heads > 0 ? maps : 0);
    }
    struct attention shape = message_attention(header, NULL);
    *ret_scratch = measure_scratch(&shape, &plan);
    return cost + measure_cost(&shape, &plan);
}

int work_price(struct message *message, const struct config *config, const struct machine *machine)
{
    if (header_is_measured(&message->header)) {
        const struct config *own = config_for_job(config, message->header.job);
        message->cost += work_cost(&message->header, own, machine, &message->scratch);
    }
    bool fits = message->cost <= config->ingest_budget &&
                message->scratch <= config->ingest_budget - message->cost;
    return fits ? 0 : ERR_TOO_LARGE;
}

static int new_measure(struct message *message, const struct measure_plan *plan,
                       struct measure **ret_measure)
{
    if (message->header.type == MESSAGE_WEIGHTS) {
        struct weights weights = message_weights(&message->header, message);
        return measure_new_weights(&weights, plan, ret_measure);
    }
    if (message->header.type == MESSAGE_ROWS) {
        struct sent_sums rows = message_rows(&message->header, message);
        struct head_maps brought = message_brought(&message->header);
        const void *cells = message_cells(message);
        return measure_new_rows(&rows, cells ? &brought : NULL, cells, plan, ret_measure);
    }
    struct attention attention = message_attention(&message->header, message);
    return measure_new(&attention, plan, ret_measure);
}

static void work_run(struct pool_job *pool_job, struct scratch *scratch)
{
    struct work_job *job = (struct work_job *)pool_job;
    struct work *work = job->work;
    struct message *message = work->message;
    if (job->index == 0) { /* the first in the queue, and of matrices the only one */
        message->begun_ns = clock_monotonic_ns();
        if (message_has_matrices(message) && message->joined) {
            message_gather(message);
        }
    }
    measure_run(work->measure, job->index, scratch);
    if (atomic_fetch_sub(&work->remaining, 1) == 1) {
        work->code = measure_finish(work->measure, scratch);
        if (!message_has_matrices(message)) {
            message->head_maps = measure_take_head_maps(work->measure);
            message_label_maps(message);
            if (message->head_maps && message->small_maps_size) {
                message->small_maps = small_maps_new(message->head_maps, message->small_maps_size);
            }
        }
        message->computed_ns = clock_monotonic_ns();
        message->note.kind = NOTE_DONE;
        inbox_post(work->done, NULL, &message->note);
    }
}

static int create_jobs(struct work *work)
{
    work->job_count = measure_jobs(work->measure);
    work->jobs = calloc(work->job_count, sizeof *work->jobs);
    if (!work->jobs) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < work->job_count; i++) {
        enum measure_job kind = measure_job_kind(work->measure, i);
        work->jobs[i] = (struct work_job){
            .job = {.run = work_run,
                    .low_priority = kind != MEASURE_ROWS,
                    .background = kind == MEASURE_WEIGHTS},
            .work = work,
            .index = i,
        };
    }
    atomic_init(&work->remaining, work->job_count);
    return 0;
}

int work_queue_init(struct work_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
    return pool_tenant_new(&queue->tenant);
}

void work_queue_clear(struct work_queue *queue)
{
    pool_tenant_free(&queue->tenant);
}

int work_new(struct message *message, const struct config *config, const struct machine *machine,
             uint32_t spectrum_first, struct work_queue *queue, struct inbox *done)
{
    struct work *work = calloc(1, sizeof *work);
    if (!work) {
        return ERR_MEMORY;
    }
    work->message = message;
    work->done = done;
    struct measure_plan plan = work_plan_of(&message->header, config, machine);
    plan.spectrum_first = spectrum_first;
    if (!message_has_matrices(message)) {
        bool has_head_maps = message->wants_head_maps || message->small_maps_size;
        plan.pooled_map = message->wants_map;
        plan.head_maps_size = has_head_maps ? (uint32_t)config->maps_size : 0;
        plan.head_maps_sample = (uint32_t)config->maps_sample;
    }
    plan.should_yield = others_wait;
    plan.yield_data = queue->tenant;
    int code = new_measure(message, &plan, &work->measure);
    if (!code) {
        code = create_jobs(work);
    }
    if (code) {
        work_free(&work);
        return code;
    }
    message->work = work;
    message->next = NULL;
    *queue->last = message;
    queue->last = &message->next;
    return 0;
}

static int submit_work(struct work *work, struct pool_tenant *tenant, struct pool *pool)
{
    for (uint32_t i = 0; i < work->job_count; i++) {
        work->jobs[i].job.next = i + 1 < work->job_count ? &work->jobs[i + 1].job : NULL;
    }
    return pool_submit(pool, tenant, &work->jobs[0].job, work->job_count);
}

void work_submit(struct work_queue *queue, struct pool *pool)
{
    while (queue->first && submit_work(queue->first->work, queue->tenant, pool) == 0) {
        queue->first = queue->first->next; /* the loop's message still, until NOTE_DONE is read */
    }
    if (!queue->first) {
        queue->last = &queue->first;
    }
}

int work_finish(struct work *work, const struct measured **ret_measured)
{
    if (!work->code) {
        *ret_measured = measure_result(work->measure);
    }
    return work->code;
}

void work_free(struct work **work_p)
{
    struct work *work = *work_p;
    if (!work) {
        return;
    }
    measure_free(&work->measure);
    free(work->jobs);
    free(work);
    *work_p = NULL;
}
