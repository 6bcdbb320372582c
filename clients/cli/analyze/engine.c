/* SPDX-License-Identifier: MIT */
/* engine: the jobs of one measure on a pool of its own, which is gone when they are done: a layer
 * takes longer than its threads take to start. */
#include "clients/cli/analyze/internal.h"

#include "proto/err.h"
#include "workers/base/pool.h"
#include "proto/result.h"

#include <math.h>
#include <stdlib.h>

struct engine_job {
    struct pool_job job; /* first */
    struct measure *measure;
    uint32_t index;
};

static void engine_run(struct pool_job *pool_job, struct scratch *scratch)
{
    struct engine_job *job = (struct engine_job *)pool_job;
    measure_run(job->measure, job->index, scratch);
}

static int engine_run_jobs(struct measure *measure, uint32_t count, uint32_t threads)
{
    struct pool *pool = NULL;
    struct engine_job *jobs = calloc(count, sizeof *jobs);
    int rc = jobs ? pool_new(threads, count, &pool) : ERR_MEMORY;
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        jobs[i] = (struct engine_job){
            .job = {.run = engine_run, .next = i + 1 < count ? &jobs[i + 1].job : NULL},
            .measure = measure,
            .index = i,
        };
    }
    if (rc == 0) {
        rc = pool_submit(pool, NULL, &jobs[0].job, count);
    }
    pool_free(&pool); /* runs them */
    free(jobs);
    return rc;
}

int engine_measure(const struct input *input, const struct options *options,
                   struct mpk_writer *writer)
{
    struct measure *measure = NULL;
    int rc = input->tier == TIER_WEIGHTS
                 ? measure_new_weights(&input->weights, &options->plan, &measure)
                 : measure_new(&input->attention, &options->plan, &measure);
    uint32_t jobs = rc == 0 ? measure_jobs(measure) : 0;
    if (jobs > 0) {
        rc = engine_run_jobs(measure, jobs, options->threads < jobs ? options->threads : jobs);
    }
    if (rc == 0) {
        struct scratch scratch = {0};
        rc = measure_finish(measure, &scratch);
        scratch_clear(&scratch);
    }
    if (rc == 0) {
        const struct measured *measured = measure_result(measure);
        static const enum message_type tier[TIER_COUNT] = {
            [TIER_ATTENTION] = MESSAGE_ATTENTION,
            [TIER_QK] = MESSAGE_QK,
            [TIER_WEIGHTS] = MESSAGE_WEIGHTS,
        };
        const struct attention *a = &input->attention;
        struct analysis_layer layer = {
            .layer = {.id = input->id,
                      .shape = {a->batch, a->heads, a->queries, a->keys},
                      .causal = a->causal,
                      .rows = measured->rows,
                      .invalid_rows = measured->invalid_rows,
                      .row_sum_error = measured->row_sum_error,
                      .tier = tier[input->tier]},
            .stack_known = true,
            .layer_known = true,
            .site_known = true,
        };
        measured_numbers(measured, &layer.numbers);
        analysis_encode_layer(&layer, writer);
    }
    measure_free(&measure);
    return rc != 0 || mpk_writer_ok(writer) ? rc : ERR_MEMORY;
}

bool engine_skips_spectrum(const struct input *input, const struct options *options)
{
    const struct attention *a = &input->attention;
    return input->tier == TIER_ATTENTION && options->plan.group[METRIC_GROUP_SPECTRUM] &&
           (a->queries > options->plan.spectrum_max_size ||
            a->keys > options->plan.spectrum_max_size);
}
