/* SPDX-License-Identifier: MIT */
/* analyze: the engine on files. Everything is read and measured before anything is printed, so that
 * a failure leaves nothing on the output that could be taken for a result. Layers are loaded one at
 * a time: memory holds the largest one, not all of them. */
#include "clients/cli/base/cli.h"

#include "clients/cli/analyze/internal.h"
#include "proto/err.h"
#include "clients/cli/analyze/input.h"
#include "clients/cli/analyze/options.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct analysis {
    struct options options;
    struct inputs inputs;
    struct mpk_writer *results; /* [inputs.count] */
    struct moments *entries;    /* [inputs.count] */
    char error[ARRAY_ERROR_MAX];
};

static int fail_code(struct cli *cli, int code)
{
    if (code == ERR_MEMORY) {
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    return cli_fail(cli, CLI_FINDING, "%s",
                    code < 0 && err_index(code) < 0 ? strerror(-code) : err_text(code));
}

/* Measuring ----------------------------------------------------------------------------------- */

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
            code = cli_fail(cli, input_exit_of(rc), "%s", analysis->error);
        } else {
            rc = statistics ? statistics_measure(&input->attention, &analysis->entries[i])
                            : engine_measure(input, &analysis->options, &analysis->results[i]);
            code = rc == 0 ? CLI_OK : fail_code(cli, rc);
        }
        input_unload(input);
    }
    return code;
}

/* Printing ------------------------------------------------------------------------------------ */

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
    int rc = options_parse(argc, argv, &analysis.options, analysis.error);
    if (rc != 0) {
        return cli_fail(cli, input_exit_of(rc), "%s", analysis.error);
    }
    if (analysis.options.file_count == 0) {
        options_clear(&analysis.options);
        return cli_usage(cli, "FILE is missing; usage: attnctl analyze FILE... [OPTIONS]");
    }
    struct inputs *inputs = &analysis.inputs;
    rc = inputs_open(&analysis.options, false, inputs, analysis.error);
    int code = rc == 0 ? CLI_OK : cli_fail(cli, input_exit_of(rc), "%s", analysis.error);
    analysis.results = calloc(inputs->count + 1, sizeof *analysis.results);
    analysis.entries = calloc(inputs->count + 1, sizeof *analysis.entries);
    if (code == CLI_OK && (!analysis.results || !analysis.entries)) {
        code = fail_code(cli, ERR_MEMORY);
    }
    for (size_t i = 0; i < inputs->count && analysis.results; i++) {
        mpk_writer_init(&analysis.results[i]);
    }
    spectrum_global_init();
    if (code == CLI_OK) {
        code = analyze_measure(cli, &analysis);
    }
    if (code == CLI_OK && analysis.options.statistics) {
        statistics_print(inputs, analysis.entries, cli->out);
    } else if (code == CLI_OK) {
        /* One layer per line, between the brackets. */
        code = CLI_OK;
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
            size_t skipped = 0;
            for (size_t i = 0; i < analysis.inputs.count; i++) {
                skipped += engine_skips_spectrum(&analysis.inputs.items[i], &analysis.options);
            }
            if (skipped > 0) {
                fprintf(cli->err,
                        "attnctl: no spectrum of %zu layer%s with more than %" PRIu32
                        " queries or keys (--spectrum-max)\n",
                        skipped, out_plural(skipped), analysis.options.plan.spectrum_max_size);
            }
        }
    }
    for (size_t i = 0; i < inputs->count && analysis.results; i++) {
        mpk_writer_clear(&analysis.results[i]);
    }
    free(analysis.results);
    free(analysis.entries);
    inputs_clear(inputs);
    options_clear(&analysis.options);
    return code;
}
