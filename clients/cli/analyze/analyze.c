/* SPDX-License-Identifier: MIT */
/* analyze: the engine on files. Everything is read and measured before anything is printed, so that
 * a failure leaves nothing on the output that could be taken for a result. Layers are loaded one at
 * a time: memory holds the largest one, not all of them. */
#include "clients/cli/base/cli.h"

#include "proto/err.h"
#include "clients/cli/analyze/input.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"
#include "workers/base/pool.h"
#include "proto/result.h"
#include "workers/rows/row.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Entries that are not finite are left out. Accurate to about 1e-15 of the largest entry: within a
 * row in two passes, rows merged (Chan, Golub and LeVeque 1983), all in f64. */
static struct moments statistics_measure(const struct attention *a)
{
    struct moments entries = {0};
    double *row = memory_new(a->keys, sizeof *row);
    for (uint32_t b = 0; b < a->batch && a->keys > 0; b++) {
        for (uint32_t h = 0; h < a->heads; h++) {
            /* The finite entries of one map; merged map by map, so that no merge is of very unequal
             * parts for long. */
            struct moments map = {0};
            for (uint32_t i = 0; i < a->queries; i++) {
                uint32_t n = 0;
                attention_load_row(a, b, h, i, row);
                for (uint32_t j = 0; j < a->keys; j++) {
                    row[n] = row[j];
                    n += isfinite(row[n]) != 0;
                }
                row_merge_moments(&map, row, n);
            }
            moments_merge(&entries, &map);
        }
    }
    free(row);
    return entries;
}

/* The fewest digits that are read back as the same number. */
static void statistics_put_number(const char *name, double value, FILE *out)
{
    char text[32] = "null";
    for (int digits = 1; isfinite(value) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    bool whole = isfinite(value) && !strpbrk(text, ".e");
    fprintf(out, "\"%s\": %s%s, ", name, text, whole ? ".0" : "");
}

static void put_stack(const struct inputs *inputs, const struct moments *entries, enum stack stack,
                      FILE *out)
{
    const char *before = "";
    fprintf(out, "  \"%s\": [", stack_name(stack));
    for (size_t i = 0; i < inputs->count; i++) {
        if (inputs->items[i].id.stack != stack) {
            continue;
        }
        fputs(before, out);
        const struct input *input = &inputs->items[i];
        fprintf(out, "\n    {\"layer\": %" PRIu32 ", \"type\": \"%s_attention\", ", input->id.layer,
                site_name(input->id.site));
        statistics_put_number("mean", moments_mean(&entries[i]), out);
        statistics_put_number("std", moments_std(&entries[i]), out);
        statistics_put_number("min", entries[i].n ? entries[i].min : NAN, out);
        statistics_put_number("max", entries[i].n ? entries[i].max : NAN, out);
        fprintf(out, "\"shape\": %s}", ARRAY_SHAPE(input->array[TENSOR_WEIGHTS]));
        before = ",";
    }
    fputs("]", out);
}

/* engine: the jobs of one measure on a pool of its own, which is gone when they are done: a layer
 * takes longer than its threads take to start. */
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
    struct engine_job *jobs = memory_new(count, sizeof *jobs);
    int rc = pool_new(threads, count, &pool);
    for (uint32_t i = 0; i < count; i++) {
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

/* Appends one map of `attnd.analysis/1` to an empty writer. Returns 0 or an error of err.def, or
 * -errno of a thread that could not start. */
static int engine_measure(const struct input *input, const struct options *options,
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

struct analysis {
    struct options options;
    struct inputs inputs;
    struct mpk_writer *results; /* [inputs.count] */
    struct moments *entries;    /* [inputs.count] */
    char error[ARRAY_ERROR_MAX];
};

static int fail_code(struct cli *cli, int code)
{
    return cli_fail(cli, CLI_FINDING, "%s",
                    code < 0 && err_index(code) < 0 ? strerror(-code) : err_text(code));
}

static int analyze_measure(struct cli *cli, struct analysis *analysis)
{
    bool statistics = analysis->options.statistics;
    int code = CLI_OK;
    for (size_t i = 0; i < analysis->inputs.count && code == CLI_OK; i++) {
        struct input *input = &analysis->inputs.items[i];
        if (statistics && input->tier != TIER_ATTENTION) {
            return cli_fail(cli, CLI_USAGE,
                            "--statistics is of attention weights; queries, keys and projections "
                            "have none (--ignore leaves arrays out)");
        }
        int rc = input_load(input, analysis->error);
        if (rc != 0) {
            code = cli_fail(cli, CLI_USAGE, "%s", analysis->error);
        } else if (statistics) {
            analysis->entries[i] = statistics_measure(&input->attention);
        } else {
            rc = engine_measure(input, &analysis->options, &analysis->results[i]);
            code = rc == 0 ? CLI_OK : fail_code(cli, rc);
        }
        input_unload(input);
    }
    return code;
}

static int print_layer(struct cli *cli, struct analysis *analysis, size_t index)
{
    struct mpk_doc doc;
    const msgpack_sbuffer *buffer = &analysis->results[index].buffer;
    bool last = index + 1 == analysis->inputs.count;
    int rc = mpk_parse(buffer->data, buffer->size, &mpk_result_limits, &doc);
    if (rc != 0) {
        return fail_code(cli, rc);
    }
    if (analysis->options.json) {
        char *text = mpk_to_json(doc.root, 0);
        rc = text ? 0 : ERR_MEMORY;
        fprintf(cli->out, "%s%s\n", text ? text : "", last ? "" : ",");
        free(text);
    } else {
        show_layer(doc.root, cli->width, cli->out);
        fputs(last ? "" : "\n", cli->out);
    }
    mpk_doc_clear(&doc);
    return rc == 0 ? CLI_OK : fail_code(cli, rc);
}

int cmd_analyze(struct cli *cli, int argc, char **argv)
{
    struct analysis analysis = {0};
    if (options_parse(argc, argv, &analysis.options, analysis.error) != 0) {
        return cli_fail(cli, CLI_USAGE, "%s", analysis.error);
    }
    if (analysis.options.file_count == 0) {
        options_clear(&analysis.options);
        return cli_usage(cli, "FILE is missing; usage: attnctl analyze FILE... [OPTIONS]");
    }
    struct inputs *inputs = &analysis.inputs;
    int rc = inputs_open(&analysis.options, false, inputs, analysis.error);
    int code = rc == 0 ? CLI_OK : cli_fail(cli, CLI_USAGE, "%s", analysis.error);
    analysis.results = memory_new(inputs->count, sizeof *analysis.results);
    analysis.entries = memory_new(inputs->count, sizeof *analysis.entries);
    for (size_t i = 0; i < inputs->count; i++) {
        mpk_writer_init(&analysis.results[i]);
    }
    spectrum_global_init();
    if (code == CLI_OK) {
        code = analyze_measure(cli, &analysis);
    }
    if (code == CLI_OK && analysis.options.statistics) {
        /* Prints {"encoder": [{"layer", "type", "mean", "std", "min", "max", "shape"}], "decoder":
         * [...]}; entries[i] belongs to inputs->items[i]. A missing number is null. */
        FILE *out = cli->out;
        fputs("{\n", out);
        put_stack(inputs, analysis.entries, STACK_ENCODER, out);
        fputs(",\n", out);
        put_stack(inputs, analysis.entries, STACK_DECODER, out);
        fputs("\n}\n", out);
    } else if (code == CLI_OK) {
        /* One layer per line, between the brackets. */
        if (analysis.options.json) {
            fputs("{\"schema\":\"attnd.analysis/1\",\"layers\":[\n", cli->out);
        }
        for (size_t i = 0; i < analysis.inputs.count && code == CLI_OK; i++) {
            code = print_layer(cli, &analysis, i);
        }
        if (analysis.options.json && code == CLI_OK) {
            fputs("]}\n", cli->out);
        }
        if (code == CLI_OK) {
            const struct measure_plan *plan = &analysis.options.plan;
            size_t skipped = 0;
            for (size_t i = 0; i < inputs->count && plan->group[METRIC_GROUP_SPECTRUM]; i++) {
                const struct attention *a = &inputs->items[i].attention;
                skipped +=
                    inputs->items[i].tier == TIER_ATTENTION &&
                    (a->queries > plan->spectrum_max_size || a->keys > plan->spectrum_max_size);
            }
            if (skipped > 0) {
                fprintf(cli->err,
                        "attnctl: no spectrum of %zu layer%s with more than %" PRIu32
                        " queries or keys (--spectrum-max)\n",
                        skipped, out_plural(skipped), plan->spectrum_max_size);
            }
        }
    }
    for (size_t i = 0; i < inputs->count; i++) {
        mpk_writer_clear(&analysis.results[i]);
    }
    free(analysis.results);
    free(analysis.entries);
    inputs_clear(inputs);
    options_clear(&analysis.options);
    return code;
}
