/* SPDX-License-Identifier: MIT */
/* plot: figures of attention for papers. One kind of figure is one function (plot/kind_*.c), called
 * once, or for every layer and head that is asked for. A figure is finished in memory before its
 * file is touched. */
#include "clients/cli/base/cli.h"

#include "clients/cli/plot/output.h"
#include "clients/cli/plot/plot.h"
#include "clients/cli/plot/progress.h"
#include "clients/cli/plot/receipt.h"

#include "proto/err.h"
#include "workers/linear/spectrum.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static kind_draw *const draw[PLOT_KIND_COUNT] = {
    [PLOT_HEATMAP] = kind_heatmap,       [PLOT_HEADS] = kind_heads,
    [PLOT_LAYERS] = kind_layers,         [PLOT_FLOW] = kind_flow,
    [PLOT_AGGREGATE] = kind_aggregate,   [PLOT_ROLLOUT] = kind_rollout,
    [PLOT_SIMILARITY] = kind_similarity, [PLOT_SPECTRUM] = kind_spectrum,
    [PLOT_TOKENS] = kind_tokens,         [PLOT_ENTROPY] = kind_entropy,
    [PLOT_SERIES] = kind_series,
};

/* One figure ------------------------------------------------------------------------------------
 */

static int save(struct plot *plot, const char *path, const struct bytes *file)
{
    const struct plot_options *options = &plot->options;
    int rc = options->standard ? output_write_standard(file, options->format != CANVAS_SVG)
                               : output_write(path, file);
    if (rc == -ENOTSUP && options->standard)
        return plot_fail(plot, CLI_USAGE, "-o -: %s is not for a terminal: name a file, or a pipe",
                         plot_format_ending(options->format));
    return rc == 0 ? CLI_OK
                   : plot_fail(plot, CLI_FINDING, "cannot write %.500s: %s", path, strerror(-rc));
}

static int make(struct plot *plot, const struct choice *choice, const char *path)
{
    struct bytes file = {NULL, 0};
    int code = draw[plot->options.kind](plot, choice, &file);
    if (code == CLI_OK)
        code = save(plot, path, &file);
    free(file.data);
    if (code != CLI_OK || !plot->options.json)
        return code;
    return receipt_print(plot, choice, path,
                         plot->options.standard ? plot->cli->err : plot->cli->out);
}

/* Many ------------------------------------------------------------------------------------------
 */

/* What {layer} and {head} stand for: a flow is of a number, the others are of one layer. */
static void name_choice(const struct plot *plot, const struct choice *choice,
                        char ret_layer[PLACE_TEXT_MAX], char ret_head[16])
{
    struct layer_id id = plot->layers[choice->layer].id;
    if (plot->options.kind == PLOT_FLOW)
        snprintf(ret_layer, PLACE_TEXT_MAX, "%" PRIu32, id.layer);
    else
        place_layer(id, ret_layer);
    snprintf(ret_head, 16, choice->mean ? "mean" : "%02" PRIu32, choice->head);
}

/* The file of one of many figures. */
static int path_of(struct plot *plot, const struct choice *choice, char *ret_path)
{
    const struct plot_options *options = &plot->options;
    char layer[PLACE_TEXT_MAX], head[16], pattern[OUTPUT_PATH_MAX];
    bool per_head = options->every_head || options->has_head;
    name_choice(plot, choice, layer, head);
    int length = snprintf(pattern, sizeof(pattern), "%s", options->output);
    if (options->folder)
        length = snprintf(pattern, sizeof(pattern), "%s%s-{layer}%s.%s", options->output,
                          plot_kind_name(options->kind), per_head ? "-h{head}" : "",
                          plot_format_ending(options->format));
    if (length >= (int)sizeof(pattern) || output_expand(pattern, layer, head, ret_path) != 0)
        return plot_fail(plot, CLI_USAGE, "the name of the figure is too long");
    return CLI_OK;
}

static int make_named(struct plot *plot, const struct choice *choice)
{
    char path[OUTPUT_PATH_MAX];
    int code = path_of(plot, choice, path);
    if (code != CLI_OK)
        return code;
    int rc = output_make_folders(path);
    if (rc != 0)
        return plot_fail(plot, CLI_FINDING, "cannot make the folder of %.500s: %s", path,
                         strerror(-rc));
    return make(plot, choice, path);
}

static uint32_t heads_of(const struct plot *plot, size_t layer)
{
    return plot->options.every_head ? plot->layers[layer].heads : 1;
}

/* A flow is of three layers with one number: it is drawn for the first of them. */
static bool is_drawn(const struct plot *plot, size_t layer)
{
    if (plot->options.kind != PLOT_FLOW)
        return true;
    for (size_t i = 0; i < layer; i++)
        if (plot->layers[i].id.layer == plot->layers[layer].id.layer)
            return false;
    return true;
}

static uint64_t count_figures(const struct plot *plot)
{
    uint64_t count = 0;
    for (size_t i = 0; i < plot->layer_count; i++)
        count += is_drawn(plot, i) ? heads_of(plot, i) : 0;
    return count;
}

struct batch {
    struct plot *plot;
    struct progress progress;
    uint64_t done, all, empty;
};

/* A map without a number is told, and the others are drawn all the same. */
static int make_next(struct batch *batch, const struct choice *choice)
{
    struct plot *plot = batch->plot;
    int code = make_named(plot, choice);
    if (code != CLI_OK && plot->empty) {
        char layer[PLACE_TEXT_MAX], head[16];
        name_choice(plot, choice, layer, head);
        progress_end(&batch->progress);
        fprintf(plot->cli->err, "attnctl: %s%s, head %s: left out: %s\n",
                plot->options.kind == PLOT_FLOW ? "layer " : "", layer, head, plot->error);
        plot->empty = false;
        batch->empty++;
        code = CLI_OK;
    }
    progress_show(&batch->progress, ++batch->done, batch->all);
    return code;
}

static int make_layer(struct batch *batch, struct choice choice)
{
    uint32_t heads = heads_of(batch->plot, choice.layer);
    int code = CLI_OK;
    for (uint32_t head = 0; head < heads && code == CLI_OK; head++) {
        choice.head = batch->plot->options.every_head ? head : choice.head;
        code = make_next(batch, &choice);
    }
    return code;
}

static int make_many(struct plot *plot, struct choice choice)
{
    bool every_layer = plot->options.every_layer;
    struct batch batch = {.plot = plot,
                          .all = every_layer ? count_figures(plot) : heads_of(plot, choice.layer)};
    size_t end = every_layer ? plot->layer_count : choice.layer + 1;
    int code = CLI_OK;
    progress_begin(&batch.progress, plot->cli->err);
    choice.layer = every_layer ? 0 : choice.layer;
    for (; choice.layer < end && code == CLI_OK; choice.layer++)
        if (is_drawn(plot, choice.layer))
            code = make_layer(&batch, choice);
    progress_end(&batch.progress);
    if (code != CLI_OK || batch.empty == 0)
        return code;
    return plot_fail(plot, CLI_FINDING, "%" PRIu64 " of %" PRIu64 " figures were left out",
                     batch.empty, batch.all);
}

/* Where from ------------------------------------------------------------------------------------
 */

/* A flow and a rollout are of several layers: --layer says which number, and need not say more. */
static int find_layer(struct plot *plot, size_t *ret_layer)
{
    const struct plot_options *options = &plot->options;
    bool several = options->kind == PLOT_FLOW || options->kind == PLOT_ROLLOUT;
    for (size_t i = 0; several && options->layer && i < plot->layer_count; i++)
        if (plot_layer_matches(options->layer, plot->layers[i].id)) {
            *ret_layer = i;
            return CLI_OK;
        }
    return source_find_layer(plot->source, options->layer, ret_layer, plot->error);
}

static int make_from_maps(struct plot *plot)
{
    const struct plot_options *options = &plot->options;
    struct choice choice = {.mean = !options->has_head && !options->every_head,
                            .head = options->head};
    int code = find_layer(plot, &choice.layer);
    if (code != CLI_OK)
        return code;
    if (options->folder || options->pattern)
        return make_many(plot, choice);
    return make(plot, &choice, options->output);
}

static int with_source(struct plot *plot)
{
    struct plot_options *options = &plot->options;
    bool file = source_is_file(options->words[0]);
    if (!file && options->word_count > 1)
        return plot_fail(plot, CLI_USAGE, "%.200s: there is no such file (a job stands alone)",
                         options->words[0]);
    struct source_request request = {
        .cli = plot->cli,
        .files = file ? options->words : NULL,
        .file_count = file ? options->word_count : 0,
        .job = file ? NULL : options->words[0],
        .run = options->args.run,
        .at_step = options->at_step,
        .step = options->step,
        .naming = &options->naming,
        .causal = options->causal,
        .labels = options->labels,
        .tokens = options->tokens,
        .query_labels = options->query_labels,
        .query_tokens = options->query_tokens,
        .together = options->kind == PLOT_FLOW,
    };
    int code = source_open(&request, &plot->source, plot->error);
    if (code != CLI_OK)
        return code;
    plot->layer_count = source_layers(plot->source, &plot->layers);
    code = make_from_maps(plot);
    source_free(&plot->source);
    return code;
}

static int make_past(struct plot *plot)
{
    const struct plot_options *options = &plot->options;
    struct choice choice = {.mean = !options->has_head, .head = options->head};
    if (options->folder || options->pattern)
        return plot_fail(plot, CLI_USAGE, "%s is one figure: give -o FILE.png, .svg or .pdf",
                         plot_kind_name(options->kind));
    if (options->word_count > 1)
        return plot_fail(plot, CLI_USAGE, "%s is of one job or file",
                         plot_kind_name(options->kind));
    return make(plot, &choice, options->output);
}

/* A figure in another font is a figure all the same. */
static void warn_of_font(const struct plot *plot)
{
    char *instead = fonts_instead(plot->fonts), warning[PLOT_ERROR_MAX];
    if (!instead)
        return;
    snprintf(warning, sizeof(warning), "font '%.200s' is not installed: %.200s is used",
             plot->options.font, instead);
    cli_fail(plot->cli, CLI_OK, warning);
    free(instead);
}

static int run(struct plot *plot)
{
    if (fonts_new(plot->options.font, &plot->fonts) != 0)
        return plot_fail_memory(plot);
    warn_of_font(plot);
    spectrum_global_init();
    int code = plot_kind_is_past(plot->options.kind) ? make_past(plot) : with_source(plot);
    fonts_free(&plot->fonts);
    return code;
}

int cmd_plot(struct cli *cli, int argc, char **argv)
{
    struct plot plot = {.cli = cli};
    int rc = plot_options_parse(argc, argv, &plot.options, plot.error);
    if (rc != 0)
        return cli_fail(cli, rc == ERR_MEMORY ? CLI_FINDING : CLI_USAGE, plot.error);
    const struct args *before = cli->args;
    cli->args = &plot.options.args;
    int code = run(&plot);
    cli->args = before;
    plot_options_clear(&plot.options);
    return code == CLI_OK ? CLI_OK : cli_fail(cli, code, plot.error);
}
