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

#include "clients/cli/base/system.h"
#include "clients/cli/source/source.h"
#include "clients/cli/base/unknown.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PLOT_ASKED_MAX 32

/* Strings point into argv. */
struct plot_options {
    const struct option_kind *kind;
    char *const *words; /* [word_count]: the source's */
    int word_count;
    char **whole; /* [whole_count], NULL behind them: every option as "--name=value"; owned */
    int whole_count;

    struct source_request source; /* but where the maps are */
    struct args args; /* of what asks attnd: endpoint, run, metric, window, from, to, ... */
};

/* plot_options: one table drives getopt, the help, and which kinds of figures take which option.
 * Values are judged where they are used: what asks attnd (--endpoint, --run, --metric, ...) by
 * args.c, what says where maps come from here, and all others by Python. */
/* The kinds ----------------------------------------------------------------------------------- */

/* Bits of sets of kinds. */
enum {
    HEATMAP = 1 << 0,
    HEADS = 1 << 1,
    LAYERS = 1 << 2,
    FLOW = 1 << 3,
    AGGREGATE = 1 << 4,
    ROLLOUT = 1 << 5,
    SIMILARITY = 1 << 6,
    SPECTRUM = 1 << 7,
    TOKENS = 1 << 8,
    ENTROPY = 1 << 9,
    SERIES = 1 << 10,
    PAST = ENTROPY | SERIES, /* they do not show maps */
    MAPS = ENTROPY - 1,
    ALL = MAPS | PAST,
    OF_LAYER = MAPS & ~LAYERS & ~ROLLOUT,
    OF_HEAD = HEATMAP | LAYERS | TOKENS,
    PANELS = HEADS | LAYERS | FLOW | AGGREGATE, /* side by side */
    LABELLED = MAPS & ~SIMILARITY & ~SPECTRUM,  /* with an axis of tokens */
};

/* clang-format off */
#define OF_MAPS(kind, name, help, example) \
    {name, "FILE...|JOB -o FILE", help, "attnctl plot " name " " example, kind}
#define OF_PAST(kind, name, help, example) \
    {name, "JOB|FILE -o FILE", help, "attnctl plot " name " " example, kind}

static const struct option_kind kinds[] = {
    OF_MAPS(HEATMAP, "heatmap", "one map: of a head, or the mean of all heads",
            "maps.npz --layer decoder.3.self --head 2 -o head.pdf"),
    OF_MAPS(HEADS, "heads", "all heads of a layer side by side",
            "maps.npz --layer decoder.3.self --causal -o heads.pdf"),
    OF_MAPS(LAYERS, "layers", "one site across the layers",
            "maps.npz --site decoder.cross -o layers.pdf"),
    OF_MAPS(FLOW, "flow", "encoder self, decoder self and cross attention of a layer",
            "gpt-small --layer 1 -o flow.pdf"),
    OF_MAPS(AGGREGATE, "aggregate", "sum, mean, max, weighted, importance of a layer's heads",
            "maps.npz --layer decoder.3.self -o aggregate.pdf"),
    OF_MAPS(ROLLOUT, "rollout", "attention rollout over the layers of a stack",
            "maps.npz --site encoder.self -o rollout.pdf"),
    OF_MAPS(SIMILARITY, "similarity", "how alike the heads of a layer are",
            "maps.npz --layer decoder.3.self --js -o similarity.pdf"),
    OF_MAPS(SPECTRUM, "spectrum", "singular values of a layer's heads",
            "maps.npz --layer decoder.3.self -o spectrum.pdf"),
    OF_MAPS(TOKENS, "tokens", "what one query attends to, as bars",
            "maps.npz --head 2 --query 40 --labels tokens -o bars.pdf"),
    OF_PAST(ENTROPY, "entropy", "a metric of all heads and layers over time, as a map",
            "gpt-small --from 10 -o entropy.pdf"),
    OF_PAST(SERIES, "series", "a metric of a layer over time, with alerts",
            "gpt-small --layer 3 --metric max_logit -o series.pdf"),
};
/* clang-format on */
enum { KINDS = sizeof kinds / sizeof kinds[0] };

const struct option_kind *plot_kind_described(const char *name)
{
    for (int i = 0; i < KINDS; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

/* "heatmap, layers": the names of a set of kinds. */
static void plot_list_kinds(unsigned set, char *ret_list, size_t size)
{
    size_t used = 0;
    *ret_list = '\0';
    for (int i = 0; i < KINDS && used < size; i++) {
        if (set & kinds[i].bit) {
            used += (size_t)snprintf(ret_list + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     kinds[i].name);
        }
    }
}

/* The table ----------------------------------------------------------------------------------- */

struct option_info {
    struct option_row row; /* OPTION_OTHER: it is not for this program */
    unsigned kinds;        /* that take it */
    bool asks;             /* it is args.c's */
};

/* clang-format off */
#define TITLE(title) {{.text = {.name = title}}, ALL, false}
#define DRAW(kinds, name, argument, values, help) {{.text = {name, argument, help, values}}, kinds, false}
#define ASK(kinds, name, argument, values, help) {{.text = {name, argument, help, values}}, kinds, true}
#define FIELD(kinds, name, argument, form, member, setter, values, help) \
    {{.text = {name, argument, help, values}, .set = setter, \
      .field = OPTION_FIELD(form, struct plot_options, member, 0, 0)}, kinds, false}
#define TEXT(kinds, name, argument, member, values, help) \
    FIELD(kinds, name, argument, OPTION_TEXT, source.member, NULL, values, help)
#define SET(name, argument, member, setter, values, help) \
    FIELD(MAPS, name, argument, OPTION_OTHER, member, setter, values, help)
#define SITES "encoder.self|decoder.self|decoder.cross"

static const struct option_info option_info[] = {
    ASK(ALL, "address", "ADDRESS", "FILE", ""),
    ASK(ALL, "endpoint", "ENDPOINT", NULL, ""),
    ASK(ALL, "timeout", "SECONDS", NULL, ""),
    TITLE("where the figure goes"),
    DRAW(ALL, "output", "FILE", "FILE", "or -o: .png, .svg or .pdf; - is standard output; of many figures a "
        "folder, with a / at the end, or a name with {layer} and {head} in it"),
    DRAW(ALL, "format", "FORMAT", "png|svg|pdf", "of figures in a folder (default png), and of -o -"),
    DRAW(OF_LAYER, "every-layer", NULL, NULL, "one figure per layer"),
    DRAW(OF_HEAD, "every-head", NULL, NULL, "one figure per head"),
    DRAW(ALL, "json", NULL, NULL, "a JSON object per figure on standard output: its file, kind, layer and head"),
    TITLE("what is drawn"),
    DRAW(ALL & ~LAYERS, "layer", "LAYER", "LAYER", "decoder.3.self, or as much of it as only one layer "
        "has: decoder.3, cross, 3 (default: the first)"),
    DRAW(OF_HEAD | FLOW | PAST, "head", "N|mean", NULL, "one head, or the mean over all (default)"),
    DRAW(MAPS, "sample", "N", NULL, "of the batch (default: the first there is)"),
    DRAW(TOKENS, "query", "N", NULL, "tokens: whose attention (default: the last with any)"),
    DRAW(LAYERS | ROLLOUT, "site", "SITE", SITES, "layers, rollout: decoder.cross, or as much of "
        "it as only one site has: cross (default: the first layer's)"),
    DRAW(AGGREGATE, "head-weights", "A,B,..", NULL, "aggregate: the weights of the weighted map"),
    DRAW(SIMILARITY, "js", NULL, NULL, "similarity: Jensen-Shannon divergence, not cosine"),
    SET("step", "N", source, source_set_step, NULL, "recordings: this step, not the newest"),
    FIELD(MAPS, "padding", NULL, OPTION_FLAG, source.padding, NULL, NULL, "recordings: padding too, which maps leave out"),
    ASK(ALL, "run", "RUN", NULL, "recordings, jobs: by its first digits (default: the newest)"),
    TEXT(LABELLED, "tokens", "TEXT", tokens, NULL, "the tokens' texts, with blanks between them"),
    TEXT(LABELLED, "labels", "FILE", labels, "FILE", "the same from a file, one on each line"),
    TEXT(LABELLED & ~ROLLOUT, "query-tokens", "TEXT", query_tokens, NULL, "of cross-attention: the queries' "
        "tokens; --tokens are the keys'"),
    TEXT(LABELLED & ~ROLLOUT, "query-labels", "FILE", query_labels, "FILE", "the same from a file"),
    TITLE("entropy and series"),
    ASK(PAST, "metric", "NAME", "METRIC", "what to show (default entropy_normalized)"),
    ASK(PAST, "window", "WINDOW", NULL, "windows such as \"1 epoch\" (default: the primary ones)"),
    ASK(PAST, "from", "N", NULL, "only what ends at this epoch, step or second, or later"),
    ASK(PAST, "to", "N", NULL, "only what ends at this epoch, step or second, or earlier"),
    TITLE("how it looks"),
    DRAW(ALL, "title", "TEXT", NULL, "above the figure; '' = none (default: what it shows)"),
    DRAW(ALL & ~TOKENS, "colormap", "NAME",
        "viridis|cividis|plasma|inferno|magma|hot|cool|gray|gray_r|RdBu|RdBu_r", "viridis, cividis, plasma, inferno, "
        "magma, hot, cool, gray, RdBu (default viridis); "
        "the other way round with _r: gray_r for print, RdBu_r of what may be below 0"),
    DRAW(ALL, "vmin", "X", NULL, "where the colours begin (default: 0, or the least value)"),
    DRAW(ALL, "vmax", "X", NULL, "where they end (default: the largest value, or the 99.5th "
        "percentile when hardly any is near it)"),
    DRAW(ALL, "size", "WxH", NULL, "inches; or the width alone (default: 3.3 or 6.9 wide)"),
    DRAW(ALL, "dpi", "N", NULL, "pixels per inch of a PNG (default 300)"),
    DRAW(PANELS, "columns", "N", NULL, "panels side by side (default: as fits)"),
    DRAW(ALL, "font", "NAME", NULL, "as matplotlib knows it (default sans-serif)"),
    TITLE("what files of arrays do not say"),
    FIELD(MAPS, "causal", NULL, OPTION_FLAG, source.causal, NULL, NULL, "later keys are masked"),
    SET("name", "PAT=TARGET", source.naming, naming_add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET("ignore", "PAT", source.naming, naming_add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET("stack", "STACK", source.naming, naming_set_stack, "encoder|decoder", "of names without one (default decoder)"),
};
/* clang-format on */
enum { ROWS = sizeof option_info / sizeof option_info[0] };
const struct option_table plot_options = {OPTION_ROWS(option_info), .command = "attnctl plot",
                                          .short_form = "ooutput"};

bool plot_options_takes(const struct option_kind *kind, const struct option_text *option)
{
    return ((const struct option_info *)(const void *)option)->kinds & kind->bit;
}

/* The command line ---------------------------------------------------------------------------- */

struct parsing {
    struct plot_options *options;
    char *asked[2 * PLOT_ASKED_MAX + 1]; /* args.c's */
    int asked_count;
    bool given[ROWS];
};

static const char *take(const void *row, char *value, void *data)
{
    const struct option_info *info = row;
    struct parsing *parsing = data;
    struct plot_options *options = parsing->options;
    size_t size = strlen(info->row.text.name) + (value ? strlen(value) : 0) + 4;
    char *whole = options->whole[options->whole_count++] = memory_new(size, 1);
    snprintf(whole, size, "--%s%s%s", info->row.text.name, value ? "=" : "", value ? value : "");
    parsing->given[info - option_info] = true;
    if (info->asks && parsing->asked_count > 2 * PLOT_ASKED_MAX - 1) {
        return "given too often";
    }
    if (info->asks) {
        parsing->asked[parsing->asked_count++] = whole;
    }
    return option_take(&info->row, value, options);
}

/* argv[0] is skipped; its order may change. Returns 0, or -1 with a sentence (SOURCE_ERROR_MAX
 * bytes); plot_options_clear afterwards, on failure too. */
static int plot_options_parse(int argc, char **argv, struct plot_options *options, char *reterr)
{
    static char program[] = "attnctl";
    *options = (struct plot_options){.source = {.naming = {.stack = STACK_DECODER}}};
    options->whole = memory_new((size_t)argc + 1, sizeof *options->whole);
    struct parsing parsing = {.options = options, .asked = {program}, .asked_count = 1};
    struct option_rest rest;
    int rc =
        option_parse(&plot_options, argc, argv, take, &parsing, &rest, reterr, SOURCE_ERROR_MAX);
    if (rc != 0) {
        return rc;
    }
    if (rest.word_count == 0) {
        snprintf(reterr, SOURCE_ERROR_MAX,
                 "draw what? attnctl plot KIND SOURCE -o FILE (see attnctl plot --help)");
        return -1;
    }
    options->words = rest.words + 1;
    options->word_count = rest.word_count - 1;
    const char *name = rest.words[0];
    char list[160];
    options->kind = plot_kind_described(name);
    if (!options->kind) {
        struct nearest nearest;
        nearest_init(&nearest, name);
        for (int i = 0; i < KINDS; i++) {
            nearest_try(&nearest, kinds[i].name);
        }
        plot_list_kinds(ALL, list, sizeof list);
        snprintf(reterr, SOURCE_ERROR_MAX,
                 nearest.best ? "no kind '%.80s': did you mean '%s'?"
                              : "no kind '%.80s' (valid: %s)",
                 name, nearest.best ? nearest.best : list);
        return -1;
    }
    options->source.together = options->kind->bit == FLOW;
    /* An option that has no effect is a mistake, and not to be passed over. */
    for (int row = 0; row < ROWS; row++) {
        if (parsing.given[row] && !(option_info[row].kinds & options->kind->bit)) {
            plot_list_kinds(option_info[row].kinds, list, sizeof list);
            snprintf(reterr, SOURCE_ERROR_MAX, "--%s is not an option of %s (it is of %s)",
                     option_info[row].row.text.name, options->kind->name, list);
            return -1;
        }
    }
    if (args_parse(parsing.asked_count, parsing.asked, &options->args, reterr) != 0) {
        return -1;
    }
    snprintf(reterr, SOURCE_ERROR_MAX, "%s of what? name a file or a job", options->kind->name);
    return options->word_count > 0 ? 0 : -1;
}

static void plot_options_clear(struct plot_options *options)
{
    while (options->whole_count > 0) {
        free(options->whole[--options->whole_count]);
    }
    free(options->whole);
}

/* The help ------------------------------------------------------------------------------------ */

static const char help_sources[] =
    "\nSOURCE: files of maps (.npy, .npz, .safetensors, named as for attnctl\n"
    "analyze), a recording (attnctl record), or a job of a running attnd. For\n"
    "entropy and series: a job, or a file that attnctl export wrote. A word is a file\n"
    "if there is one, or if it ends as such files do; - is standard input, of arrays\n"
    "or an export.\n\nThe work is done by the Python package attnd with matplotlib, by the\n"
    "first that has it of $ATTND_PYTHON, python3 and /usr/bin/python3.\n\nkinds:\n";

static const char help_files[] =
    "\n-o FOLDER/ writes FOLDER/KIND-LAYER.png and FOLDER/KIND-LAYER-hHEAD.png, such\n"
    "as maps/heatmap-decoder.3.self-h07.png; with --format svg they end in .svg. In a\n"
    "name, {layer} becomes decoder.3.self (of flow: 3) and {head} becomes 07. The\n"
    "same input gives the same bytes; the date in a PDF is that of\n"
    "SOURCE_DATE_EPOCH. If an option is given twice, the last one counts.\n"
    "Ctrl-C leaves whole figures behind, and the shell says exit status 130.\n\n"
    "attnctl plot KIND --help shows the options of a kind.\n";

void plot_options_print_kinds(FILE *out)
{
    fputs(help_sources, out);
    for (int i = 0; i < KINDS; i++) {
        fprintf(out, "  %-12s %s\n", kinds[i].name, kinds[i].help);
    }
}

void plot_options_print_files(FILE *out)
{
    fputs(help_files, out);
}

static void answer_error(struct cli *cli, int code, const char *sentence)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    mpk_pair_str(&writer, "error", sentence);
    mpk_pair_u64(&writer, "code", (uint64_t)code);
    cli_print_written(cli, &writer, 0);
}

/* Fields of a map of LAYER_FIELDS and those of the caller. */
static void put_layer(const struct source_layer *layer, struct mpk_writer *writer)
{
    mpk_pair_str(writer, "name", PLACE_LAYER(layer->id));
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
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    mpk_pair_bool(&writer, "files", source->kind == SOURCE_FILES);
    mpk_pair_array(&writer, "layers", (uint32_t)source->layer_count);
    for (size_t i = 0; i < source->layer_count; i++) {
        mpk_put_map(&writer, LAYER_FIELDS);
        put_layer(&source->layers[i], &writer);
    }
    cli_print_written(cli, &writer, 0);
}

/* A list of texts, nil where there is none. A pooled cell stands for several tokens: no text is its
 * own. */
static void put_tokens(struct source *source, size_t at, uint32_t sample, bool keys,
                       struct mpk_writer *writer)
{
    const struct source_layer *layer = &source->layers[at];
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
    const struct source_layer *layer = &source->layers[at];
    char error[SOURCE_ERROR_MAX];
    struct mpk_writer writer;
    bool all = strcmp(which, "all") == 0;
    uint32_t head = HEAD_MEAN, maps = all ? layer->heads : 1;
    if (!all && strcmp(which, "mean") != 0 && !option_whole_u32(which, HEAD_MEAN - 1, &head)) {
        answer_error(cli, CLI_USAGE, "no such head (valid: a number from 0, mean, all)");
        return;
    }
    int code = source_choose(source, at, sample, head, error);
    size_t cells = (size_t)layer->rows * layer->columns;
    float *values = memory_new(maps * cells, sizeof *values);
    for (uint32_t i = 0; i < maps && code == CLI_OK; i++) {
        code = source_map(source, at, sample, all ? i : head, values + i * cells, error);
    }
    if (code != CLI_OK) {
        free(values);
        answer_error(cli, code, error);
        return;
    }
    mpk_writer_init(&writer);
    mpk_put_map(&writer, LAYER_FIELDS + 3);
    put_layer(layer, &writer);
    put_tokens(source, at, sample, true, &writer);
    put_tokens(source, at, sample, false, &writer);
    mpk_pair_array(&writer, "shape", 3);
    mpk_put_u64(&writer, maps);
    mpk_put_u64(&writer, layer->rows);
    mpk_put_u64(&writer, layer->columns);
    cli_print_written(cli, &writer, 0);
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
    cli_print_written(cli, &writer, 0);
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
    cli->args = &options->args;
    request.cli = cli;
    request.files = file ? options->words : NULL;
    request.file_count = file ? options->word_count : 0;
    request.job = file ? NULL : options->words[0];
    request.run = options->args.run;
    return source_open(&request, ret_source, reterr);
}

int plot_maps(struct cli *cli, int argc, char **argv)
{
    struct plot_options options;
    char error[SOURCE_ERROR_MAX];
    struct source *source = NULL;
    uint32_t fd;
    FILE *requests =
        argc > 0 && option_whole_u32(argv[0], INT32_MAX, &fd) ? fdopen((int)fd, "r") : NULL;
    if (!requests) {
        return cli_usage(cli, PLOT_MAPS_COMMAND " FD KIND SOURCE: for attnctl plot alone");
    }
    int code = plot_options_parse(argc, argv, &options, error) == 0
                   ? open_source(cli, &options, &source, error)
                   : CLI_USAGE;
    if (code == CLI_OK) {
        char *line = NULL, which[16];
        size_t at, room = 0;
        uint32_t sample;
        answer_layers(cli, source);
        while (fflush(cli->out) == 0 && getline(&line, &room, requests) > 0) {
            line[strcspn(line, "\n")] = '\0';
            if (strncmp(line, "find ", 5) == 0) {
                answer_find(cli, source, line + 5);
            } else if (sscanf(line, "map %zu %" SCNu32 " %15s", &at, &sample, which) == 3 &&
                       at < source->layer_count) {
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
    char error[SOURCE_ERROR_MAX];
    int count = 0;
    if (plot_options_parse(argc, argv, &options, error) != 0) {
        plot_options_clear(&options);
        return cli_fail(cli, CLI_USAGE, "%s", error);
    }
    size_t size = (size_t)options.whole_count + (size_t)options.word_count + 2;
    const char **line = memory_new(size, sizeof *line);
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
