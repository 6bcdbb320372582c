/* SPDX-License-Identifier: MIT */
/* plot: figures of attention for papers, drawn by the Python package attnd. Here are the table of
 * options, and the maps: Python is handed the command line, with every name in full, and runs
 * `attnctl __maps FD` with the same line, which reads the source and answers the requests that come
 * from file descriptor FD, a line each, on standard output:
 *
 *     find TEXT                  {"at": 3}: the layer that a text means
 *     map LAYER SAMPLE HEAD      a layer with its tokens and "shape", [maps, rows, columns], then
 *                                the numbers, as f32; HEAD is a number, mean or all
 *
 * It begins with the layers that there are. A failure is {"error": "a sentence", "code": 2}, the
 * exit code. Requests are the package's, and no interface. */
#include "clients/cli/base/cli.h"
#include "clients/cli/plot/plot_options.h"
#include "clients/cli/source/source.h"
#include "proto/err.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Prints a line and forgets it. */
static void answer(struct cli *cli, struct mpk_writer *writer)
{
    cli_print_written(cli, writer, 0, cli->out);
    mpk_writer_clear(writer);
}

static void answer_error(struct cli *cli, int code, const char *sentence)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    mpk_pair_str(&writer, "error", sentence);
    mpk_pair_u64(&writer, "code", (uint64_t)code);
    answer(cli, &writer);
}

/* Fields of a map of LAYER_FIELDS and those of the caller. */
static void put_layer(const struct source_layer *layer, struct mpk_writer *writer)
{
    char name[PLACE_TEXT_MAX];
    place_layer(layer->id, name);
    mpk_pair_str(writer, "name", name);
    mpk_pair_u64(writer, "number", layer->id.layer);
    mpk_pair_u64(writer, "first_sample", layer->first_sample);
    mpk_pair_u64(writer, "heads", layer->heads);
    mpk_pair_u64(writer, "queries", layer->queries);
    mpk_pair_u64(writer, "keys", layer->keys);
    mpk_pair_u64(writer, "rows", layer->rows);
    mpk_pair_u64(writer, "columns", layer->columns);
    mpk_pair_u64(writer, "causal", layer->causal);
    mpk_pair_u64(writer, "q_offset", layer->q_offset);
    mpk_pair_u64(writer, "step", layer->step);
}
enum { LAYER_FIELDS = 11 };

static void answer_layers(struct cli *cli, const struct source *source)
{
    struct mpk_writer writer;
    const struct source_layer *layers;
    size_t count = source_layers(source, &layers);
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    mpk_pair_bool(&writer, "files", source_kind(source) == SOURCE_FILES);
    mpk_pair_array(&writer, "layers", (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        mpk_put_map(&writer, LAYER_FIELDS);
        put_layer(&layers[i], &writer);
    }
    answer(cli, &writer);
}

/* A list of texts, nil where there is none. A pooled cell stands for several tokens: no text is its
 * own. */
static void put_tokens(struct source *source, size_t at, uint32_t sample, bool keys,
                       struct mpk_writer *writer)
{
    const struct source_layer *layers;
    source_layers(source, &layers);
    const struct source_layer *layer = &layers[at];
    uint32_t cells = keys ? layer->columns : layer->rows;
    bool whole = cells == (keys ? layer->keys : layer->queries);
    mpk_pair_array(writer, keys ? "key_tokens" : "query_tokens", whole ? cells : 0);
    for (uint32_t i = 0; whole && i < cells; i++) {
        mpk_put_str(writer, keys ? source_label(source, at, sample, i)
                                 : source_query_label(source, at, sample, i));
    }
}

/* All heads or one. */
static void answer_map(struct cli *cli, struct source *source, size_t at, uint32_t sample,
                       const char *which)
{
    const struct source_layer *layers;
    char error[SOURCE_ERROR_MAX] = "out of memory";
    struct mpk_writer writer;
    source_layers(source, &layers);
    bool all = strcmp(which, "all") == 0, mean = strcmp(which, "mean") == 0;
    uint32_t head = 0, maps = all ? layers[at].heads : 1;
    if (!all && !mean && !option_whole_u32(which, UINT32_MAX, &head)) {
        answer_error(cli, CLI_USAGE, "no such head (valid: a number from 0, mean, all)");
        return;
    }
    int code = source_check(source, at, sample, head, error);
    if (code == CLI_OK) {
        code = source_trim(source, at, sample, error);
    }
    if (code == CLI_OK) {
        code = source_check_labels(source, at, error);
    }
    size_t cells = (size_t)layers[at].rows * layers[at].columns;
    float *values = code == CLI_OK ? calloc(maps * cells, sizeof *values) : NULL;
    if (code == CLI_OK && !values) {
        code = CLI_FINDING;
    }
    if (code == CLI_OK && mean) {
        code = source_mean(source, at, sample, values, error);
    }
    for (uint32_t i = 0; !mean && i < maps && code == CLI_OK; i++) {
        code = source_map(source, at, sample, all ? i : head, values + i * cells, error);
    }
    if (code != CLI_OK) {
        free(values);
        answer_error(cli, code, error);
        return;
    }
    mpk_writer_init(&writer);
    mpk_put_map(&writer, LAYER_FIELDS + 3);
    put_layer(&layers[at], &writer);
    put_tokens(source, at, sample, true, &writer);
    put_tokens(source, at, sample, false, &writer);
    mpk_pair_array(&writer, "shape", 3);
    mpk_put_u64(&writer, maps);
    mpk_put_u64(&writer, layers[at].rows);
    mpk_put_u64(&writer, layers[at].columns);
    answer(cli, &writer);
    fwrite(values, sizeof *values, maps * cells, cli->out);
    free(values);
}

static void answer_find(struct cli *cli, const struct source *source, const char *text)
{
    char error[SOURCE_ERROR_MAX];
    struct mpk_writer writer;
    size_t at;
    int code = source_find_layer(source, text, &at, error);
    if (code != CLI_OK) {
        answer_error(cli, code, error);
        return;
    }
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_u64(&writer, "at", at);
    answer(cli, &writer);
}

static int open_source(struct cli *cli, const struct plot_options *options,
                       struct source **ret_source, char *reterr)
{
    bool file = source_is_file(options->words[0]);
    if (!file && options->word_count > 1) {
        snprintf(reterr, SOURCE_ERROR_MAX, "%.200s: there is no such file (a job stands alone)",
                 options->words[0]);
        return CLI_USAGE;
    }
    struct source_request request = options->source;
    request.cli = cli;
    request.files = file ? options->words : NULL;
    request.file_count = file ? options->word_count : 0;
    request.job = file ? NULL : options->words[0];
    request.run = options->args.run;
    request.naming = &options->naming;
    return source_open(&request, ret_source, reterr);
}

int plot_maps(struct cli *cli, int argc, char **argv)
{
    struct plot_options options;
    char error[PLOT_ERROR_MAX];
    struct source *source = NULL;
    uint32_t fd;
    FILE *requests =
        argc > 0 && option_whole_u32(argv[0], INT32_MAX, &fd) ? fdopen((int)fd, "r") : NULL;
    if (!requests) {
        return cli_usage(cli, PLOT_MAPS_COMMAND " FD KIND SOURCE: for attnctl plot alone");
    }
    if (plot_options_parse(argc, argv, &options, error) != 0) {
        answer_error(cli, CLI_USAGE, error);
        fclose(requests);
        return CLI_OK;
    }
    cli->args = &options.args;
    int code = open_source(cli, &options, &source, error);
    if (code == CLI_OK) {
        char *line = NULL, which[16];
        const struct source_layer *layers;
        size_t at, room = 0, count = source_layers(source, &layers);
        uint32_t sample;
        answer_layers(cli, source);
        while (fflush(cli->out) == 0 && getline(&line, &room, requests) > 0) {
            line[strcspn(line, "\n")] = '\0';
            if (strncmp(line, "find ", 5) == 0) {
                answer_find(cli, source, line + 5);
            } else if (sscanf(line, "map %zu %" SCNu32 " %15s", &at, &sample, which) == 3 &&
                       at < count) {
                answer_map(cli, source, at, sample, which);
            } else {
                answer_error(cli, CLI_USAGE, "no such request");
            }
        }
        free(line);
    } else {
        answer_error(cli, code, error);
    }
    source_free(&source);
    plot_options_clear(&options);
    fclose(requests);
    return CLI_OK;
}

int cmd_plot(struct cli *cli, int argc, char **argv)
{
    struct plot_options options;
    char error[PLOT_ERROR_MAX];
    int rc = plot_options_parse(argc, argv, &options, error), count = 0;
    if (rc != 0) {
        return cli_fail(cli, rc == ERR_MEMORY ? CLI_FINDING : CLI_USAGE, "%s", error);
    }
    size_t size = (size_t)options.whole_count + (size_t)options.word_count + 2;
    const char **line = calloc(size, sizeof *line);
    if (!line) {
        plot_options_clear(&options);
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    line[count++] = options.kind->name;
    for (int i = 0; i < options.whole_count; i++) {
        line[count++] = options.whole[i];
    }
    line[count++] = "--";
    for (int i = 0; i < options.word_count; i++) {
        line[count++] = options.words[i];
    }
    int code = python_start(cli, "plots", count, line);
    free(line);
    plot_options_clear(&options);
    return code;
}
