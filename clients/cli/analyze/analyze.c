/* SPDX-License-Identifier: MIT */
/* analyze: the engine on files. Everything is read and measured before anything is printed, so that
 * a failure leaves nothing on the output that could be taken for a result. Layers are loaded one at
 * a time: memory holds the largest one, not all of them. */
#include "clients/cli/base/cli.h"

#include "clients/cli/analyze/internal.h"
#include "proto/err.h"
#include "clients/cli/analyze/input.h"
#include "clients/cli/analyze/layers.h"
#include "clients/cli/analyze/options.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct analysis {
    struct options options;
    struct array_file *files; /* [options.file_count] */
    struct array_list arrays;
    struct layers layers;
    struct inputs inputs;
    struct mpk_writer *results; /* [inputs.count] */
    uint32_t result_count;
    char error[ARRAY_ERROR_MAX];
};

/* Running out of memory may be legitimate here. */
static int analyze_exit_of(int rc)
{
    return rc == ERR_MEMORY ? CLI_FINDING : CLI_USAGE;
}

static int fail_code(struct cli *cli, int code)
{
    if (code == ERR_MEMORY) {
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    return cli_fail(cli, CLI_FINDING,
                    code < 0 && err_index(code) < 0 ? strerror(-code) : err_text(code));
}

/* Files --------------------------------------------------------------------------------------- */

static int open_files(struct cli *cli, struct analysis *analysis)
{
    const struct options *options = &analysis->options;
    analysis->files = calloc((size_t)options->file_count, sizeof *analysis->files);
    if (!analysis->files) {
        return fail_code(cli, ERR_MEMORY);
    }
    for (int i = 0; i < options->file_count; i++) {
        const char *path = options->files[i];
        char error[ARRAY_ERROR_MAX], text[ARRAY_ERROR_MAX];
        int rc = array_file_open(path, &analysis->files[i], &analysis->arrays, error);
        if (rc == 0) {
            continue;
        }
        snprintf(text, sizeof text, "%.300s: %.700s", path, error);
        return cli_fail(cli, analyze_exit_of(rc), text);
    }
    return CLI_OK;
}

static int analyze_prepare(struct cli *cli, struct analysis *analysis)
{
    int code = open_files(cli, analysis);
    if (code != CLI_OK) {
        return code;
    }
    int rc = layers_collect(&analysis->arrays, &analysis->options.naming, &analysis->layers,
                            analysis->error);
    if (rc == 0) {
        rc =
            inputs_check(&analysis->layers, &analysis->options, &analysis->inputs, analysis->error);
    }
    return rc == 0 ? CLI_OK : cli_fail(cli, analyze_exit_of(rc), analysis->error);
}

/* Measuring ----------------------------------------------------------------------------------- */

/* Loads an input, and calls `measure` on it with its number. */
static int with_loaded(struct cli *cli, struct analysis *analysis, size_t index,
                       int (*measure)(struct analysis *analysis, size_t index, void *data),
                       void *data)
{
    struct input *input = &analysis->inputs.items[index];
    int rc = input_load(input, analysis->error);
    int code = rc == 0 ? CLI_OK : cli_fail(cli, analyze_exit_of(rc), analysis->error);
    if (rc == 0 && (rc = measure(analysis, index, data)) != 0) {
        code = fail_code(cli, rc);
    }
    input_unload(input);
    return code;
}

static int measure_statistics(struct analysis *analysis, size_t index, void *data)
{
    struct moments *entries = data;
    return statistics_measure(&analysis->inputs.items[index].attention, &entries[index]);
}

static int run_statistics(struct cli *cli, struct analysis *analysis)
{
    struct inputs *inputs = &analysis->inputs;
    struct moments *entries = calloc(inputs->count, sizeof *entries);
    int code = entries ? CLI_OK : fail_code(cli, ERR_MEMORY);
    for (size_t i = 0; i < inputs->count && code == CLI_OK; i++) {
        code = inputs->items[i].tier == TIER_ATTENTION
                   ? with_loaded(cli, analysis, i, measure_statistics, entries)
                   : cli_fail(
                         cli, CLI_USAGE,
                         "--statistics is of attention weights; queries, keys and projections have "
                         "none (--ignore leaves arrays out)");
    }
    if (code == CLI_OK) {
        statistics_print(inputs, entries, cli->out);
    }
    free(entries);
    return code;
}

static int measure_engine(struct analysis *analysis, size_t index, void *data)
{
    (void)data;
    return engine_measure(&analysis->inputs.items[index], &analysis->options,
                          &analysis->results[index]);
}

static int measure_all(struct cli *cli, struct analysis *analysis)
{
    size_t count = analysis->inputs.count;
    int code = CLI_OK;
    analysis->results = calloc(count, sizeof *analysis->results);
    if (!analysis->results) {
        return fail_code(cli, ERR_MEMORY);
    }
    spectrum_global_init();
    for (size_t i = 0; i < count && code == CLI_OK; i++) {
        mpk_writer_init(&analysis->results[analysis->result_count++]);
        code = with_loaded(cli, analysis, i, measure_engine, NULL);
    }
    return code;
}

/* Printing ------------------------------------------------------------------------------------ */

static int analyze_print_json(struct cli *cli, const msgpack_object *layer, bool last)
{
    char *text = mpk_to_json(layer, 0);
    if (!text) {
        return fail_code(cli, ERR_MEMORY);
    }
    fprintf(cli->out, "%s%s\n", text, last ? "" : ",");
    free(text);
    return CLI_OK;
}

static int print_layer(struct cli *cli, struct analysis *analysis, uint32_t index)
{
    struct mpk_doc doc;
    const msgpack_sbuffer *buffer = &analysis->results[index].buffer;
    bool last = index + 1 == analysis->result_count;
    int code = CLI_OK;
    int rc = mpk_parse(buffer->data, buffer->size, &mpk_result_limits, &doc);
    if (rc != 0) {
        return fail_code(cli, rc);
    }
    if (analysis->options.json) {
        code = analyze_print_json(cli, doc.root, last);
    } else {
        show_layer(doc.root, cli->width, cli->out);
        fputs(last ? "" : "\n", cli->out);
    }
    mpk_doc_clear(&doc);
    return code;
}

/* One layer per line, between the brackets. */
static int analyze_print_all(struct cli *cli, struct analysis *analysis)
{
    int code = CLI_OK;
    if (analysis->options.json) {
        fputs("{\"schema\":\"attnd.analysis/1\",\"layers\":[\n", cli->out);
    }
    for (uint32_t i = 0; i < analysis->result_count && code == CLI_OK; i++) {
        code = print_layer(cli, analysis, i);
    }
    if (analysis->options.json && code == CLI_OK) {
        fputs("]}\n", cli->out);
    }
    return code;
}

static int run_analysis(struct cli *cli, struct analysis *analysis)
{
    int code = measure_all(cli, analysis);
    if (code == CLI_OK) {
        code = analyze_print_all(cli, analysis);
    }
    if (code == CLI_OK) {
        size_t skipped = 0;
        for (size_t i = 0; i < analysis->inputs.count; i++) {
            skipped += engine_skips_spectrum(&analysis->inputs.items[i], &analysis->options);
        }
        if (skipped > 0) {
            fprintf(cli->err,
                    "attnctl: no spectrum of %zu layer%s with more than %" PRIu32
                    " queries or keys (--spectrum-max)\n",
                    skipped, out_plural(skipped), analysis->options.spectrum_max);
        }
    }
    return code;
}

int cmd_analyze(struct cli *cli, int argc, char **argv)
{
    struct analysis analysis = {0};
    int rc = options_parse(argc, argv, &analysis.options, analysis.error);
    if (rc != 0) {
        return cli_fail(cli, analyze_exit_of(rc), analysis.error);
    }
    int code;
    if (analysis.options.file_count == 0) {
        code = cli_usage(cli, "FILE is missing; usage: attnctl analyze FILE... [OPTIONS]");
    } else {
        code = analyze_prepare(cli, &analysis);
        if (code == CLI_OK) {
            code = analysis.options.statistics ? run_statistics(cli, &analysis)
                                               : run_analysis(cli, &analysis);
        }
    }
    for (uint32_t i = 0; i < analysis.result_count; i++) {
        mpk_writer_clear(&analysis.results[i]);
    }
    free(analysis.results);
    inputs_clear(&analysis.inputs);
    layers_clear(&analysis.layers);
    array_list_clear(&analysis.arrays);
    for (int i = 0; analysis.files && i < analysis.options.file_count; i++) {
        array_file_close(&analysis.files[i]);
    }
    free(analysis.files);
    options_clear(&analysis.options);
    return code;
}
