/* SPDX-License-Identifier: MIT */
/* show: a layer's attention in the terminal: of files, a recording, or a running attnd. */
#include "clients/cli/base/cli.h"

#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <string.h>

/* show_options: one table drives getopt, the checks and the help. */
#define PAIRS_DEFAULT 10
#define NUMBER_MAX    (UINT32_MAX - 1)

static const char *show_options_set_head(void *to, const char *text)
{
    uint32_t *head = to;
    if (strcmp(text, "mean") == 0) {
        *head = HEAD_MEAN;
        return NULL;
    }
    return option_whole_u32(text, NUMBER_MAX, head) ? NULL : "valid: a number from 0, or mean";
}

static const char *const part_name[PART_COUNT] = {
    [PART_REPORT] = "report", [PART_MAP] = "map",     [PART_TOKEN] = "token",
    [PART_HEADS] = "heads",   [PART_PAIRS] = "pairs",
};

static const char *set_only(void *to, const char *text)
{
    return option_list(text, part_name, PART_COUNT, false, to)
               ? NULL
               : "valid: report, map, token, heads, pairs, with commas between them";
}

static const char *const colors[] = {
    [COLOR_AUTO] = "auto", [COLOR_ALWAYS] = "always", [COLOR_NEVER] = "never"};

static const char *show_options_set_scale(void *to, const char *text)
{
    double *scale = to;
    return option_real(text, -1e30, 1e30, scale) && *scale != 0 ? NULL : "valid: a number but 0";
}

/* clang-format off */
#define TITLE(title) {.text = {title, NULL, NULL, NULL}}
#define PLAIN(name, argument, values, form, member, min, max, says, help) \
    {.text = {name, argument, help, values}, .field = OPTION_FIELD(form, struct show_options, member, min, max), .valid = says}
#define FLAG(name, member, help) PLAIN(name, NULL, NULL, OPTION_FLAG, member, 0, 0, NULL, help)
#define COUNT(name, member, min, max, help) PLAIN(name, "N", NULL, OPTION_COUNT, member, min, max, NULL, help)
#define REAL(name, member, min, max, help) PLAIN(name, "X", NULL, OPTION_REAL, member, min, max, NULL, help)
#define TEXT(name, argument, member, bytes, values, help) \
    PLAIN(name, argument, values, OPTION_TEXT, member, bytes, 0, NULL, help)
#define SET(name, argument, member, setter, values, help) \
    {.text = {name, argument, help, values}, .field = {.offset = offsetof(struct show_options, member)}, .set = setter}

static const struct option_row option_info[] = {
    TEXT("address", "ADDRESS", args.address, 1, "FILE", ""),
    TEXT("endpoint", "ENDPOINT", args.endpoint, 1, NULL, ""),
    SET("timeout", "SECONDS", args.timeout_ms, args_set_timeout, NULL, ""),
    TITLE("selection"),
    TEXT("layer", "LAYER", layer, 1, "LAYER", "decoder.0.self, or an unambiguous part of it: decoder.0, cross, 3 (default: the first)"),
    SET("head", "N|mean", head, show_options_set_head, NULL, "one head, or the mean over all (default)"),
    PLAIN("sample", "N", NULL, OPTION_COUNT, sample, 0, NUMBER_MAX, "valid: a number from 0", "index in the batch (default: the first there is)"),
    PLAIN("token", "N", NULL, OPTION_COUNT, token, 0, NUMBER_MAX, "valid: a query's position, from 0", "the query whose attention is shown (default: the first; when that attends "
        "to one key at most, the last one that attends to any)"),
    SET("step", "N", source, source_set_step, NULL, "recordings: this step, not the newest"),
    SET("run", "RUN", source.run, option_set_run, NULL, "recordings, jobs: by its first digits (default: the newest)"),
    FLAG("padding", source.padding, "recordings: padding too, which maps leave out"),
    TITLE("output"),
    SET("only", "LIST", part, set_only, "report|map|token|heads|pairs,", "any of report, map, token, heads, pairs (default: all)"),
    COUNT("pairs", pairs, 1, TOP_PAIRS_MOST, "number of largest entries (10)"),
    TEXT("tokens", "TEXT", source.tokens, 0, NULL, "the tokens' texts, with blanks between them"),
    TEXT("labels", "FILE", source.labels, 1, "FILE", "the same from a file, one on each line"),
    TEXT("query-tokens", "TEXT", source.query_tokens, 0, NULL, "cross-attention: the queries' tokens; --tokens are the keys'"),
    TEXT("query-labels", "FILE", source.query_labels, 1, "FILE", "the same from a file"),
    FLAG("ascii", ascii, "ASCII only (default: as the locale says)"),
    {.text = {"color", "WHEN", "auto (in a terminal, without NO_COLOR), always, never", "auto|always|never"},
     .field = {.offset = offsetof(struct show_options, color)}, OPTION_WORDS(colors), .valid = "valid: auto, always, never"},
    COUNT("width", width, SCREEN_WIDTH_MIN, 1000, "columns (default: the terminal's, else 80)"),
    FLAG("json", json, "the numbers, as JSON (attnd.show/1)"),
    TITLE("array files: names and missing facts (see attnctl analyze --help)"),
    SET("name", "PAT=TARGET", source.naming, naming_add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET("ignore", "PAT", source.naming, naming_add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET("stack", "STACK", source.naming, naming_set_stack, "encoder|decoder", "stack of names without one (decoder)"),
    FLAG("causal", source.causal, "queries and keys: key j only for queries i >= j"),
    COUNT("window", source.window, 1, INT32_MAX, "queries and keys: only keys j > i - N"),
    SET("scale", "X", source.scale, show_options_set_scale, NULL, "scale of their logits (default 1/sqrt(d))"),
    REAL("softcap", source.softcap, 0, 1e30, "logits are X tanh(logit / X)"),
    TITLE("a running attnd"),
};
/* clang-format on */
const struct option_table show_options = {OPTION_ROWS(option_info), .command = "attnctl show"};

/* The help ------------------------------------------------------------------------------------ */

static const char words[] =
    "\nPrints a summary of its numbers, whether its rows sum to 1, a map in shades or\n"
    "colours, the keys that one token attends to, each head's first keys, and the\n"
    "largest entries.\n\n"
    "FILE is an array file (.npy, .npz, .safetensors) or a recording (attnctl\n"
    "record); JOB is one of attnctl jobs. A word is a file when there is a file of\n"
    "that name, or when it ends in .npy, .npz, .safetensors or .rec, and otherwise a\n"
    "job (./NAME is a file). - is an array file on standard input.\n";

void show_options_print_words(FILE *out)
{
    fputs(words, out);
}

/* The name of one file, or of several. */
#define ORIGIN_MAX 1024

/* Opening ------------------------------------------------------------------------------------- */

static bool is_job(const struct show_options *options)
{
    return options->word_count == 1 && !source_is_file(options->words[0]);
}

/* `asking` is borrowed as long as the source is there, and so are the options. */
static int show_open_source(struct cli *asking, struct show_options *options,
                            struct source **ret_source, char *reterr)
{
    struct source_request *request = &options->source;
    request->cli = asking;
    if (is_job(options)) {
        struct args *args = &options->args;
        asking->args = args;
        args->words[0] = "show";
        args->words[1] = request->job = options->words[0];
        args->word_count = 2;
        if (args_choose_attnd(args, reterr) != 0) {
            return CLI_USAGE;
        }
    } else {
        request->files = options->words;
        request->file_count = options->word_count;
    }
    return source_open(request, ret_source, reterr);
}

static int show_choose(const struct show_options *options, struct view *view,
                       struct show_request *request, char *reterr)
{
    *request = (struct show_request){
        .head = options->head, .query = options->token, .pairs = options->pairs};
    int code = source_find_layer(view->source, options->layer, &request->layer, reterr);
    if (code != CLI_OK) {
        return code;
    }
    view->layer = &view->source->layers[request->layer];
    view->request = request;
    request->sample = options->sample != SAMPLE_FIRST ? options->sample : view->layer->first_sample;
    code = source_choose(view->source, request->layer, request->sample, request->head, reterr);
    uint32_t queries = view->layer->queries;
    if (code == CLI_OK && options->token != TOKEN_AUTO && options->token >= queries) {
        snprintf(reterr, SOURCE_ERROR_MAX,
                 queries == 1 ? "--token: %s has no query %" PRIu32 " (valid: 0)"
                              : "--token: %s has no query %" PRIu32 " (valid: 0 to %" PRIu32 ")",
                 PLACE_LAYER(view->layer->id), options->token, queries - 1);
        return CLI_USAGE;
    }
    if (code == CLI_OK) {
        view_plan(view, &request->picture_rows, &request->picture_columns);
    }
    return code;
}

static int clients_show_show(struct cli *cli, const struct show_options *options, struct view *view)
{
    char error[SOURCE_ERROR_MAX];
    struct show_request request;
    struct findings found;
    int code = show_choose(options, view, &request, error);
    if (code == CLI_OK) {
        code = measure_map(view->source, &request, &found, error);
    }
    if (code != CLI_OK) {
        return cli_fail(cli, code, "%s", error);
    }
    view->found = &found;
    static void (*const parts[PART_COUNT])(const struct view *view) = {
        [PART_REPORT] = view_report, [PART_MAP] = view_map,     [PART_TOKEN] = view_token,
        [PART_HEADS] = view_heads,   [PART_PAIRS] = view_pairs,
    };
    bool missing = view->found->finite == 0, begun = false;
    int print_code = options->json ? view_json(view, cli) : CLI_OK;
    for (int i = 0; i < PART_COUNT; i++) {
        if (options->json || !options->part[i] || (missing && i != PART_REPORT)) {
            continue;
        }
        fputs(begun ? "\n" : "", cli->out);
        begun = true;
        parts[i](view);
    }
    fflush(cli->out);
    if (missing && print_code == CLI_OK) {
        print_code =
            cli_fail(cli, CLI_FINDING,
                     "%s, sample %" PRIu32 ", %s: no entry is a number: there is nothing to show",
                     PLACE_LAYER(view->layer->id), request.sample, VIEW_HEAD(view));
    }
    findings_clear(&found);
    return print_code;
}

int cmd_show(struct cli *cli, int argc, char **argv)
{
    char error[SOURCE_ERROR_MAX];
    struct option_rest rest;
    struct show_options options = {.head = HEAD_MEAN,
                                   .token = TOKEN_AUTO,
                                   .sample = SAMPLE_FIRST,
                                   .pairs = PAIRS_DEFAULT,
                                   .args = {.timeout_ms = ARGS_TIMEOUT_MS},
                                   .source = {.naming = {.stack = STACK_DECODER}},
                                   .part = {true, true, true, true, true}};
    if (option_parse(&show_options, argc, argv, option_take, &options, &rest, error,
                     SHOW_ERROR_MAX) != 0) {
        return cli_fail(cli, CLI_USAGE, "%s", error);
    }
    options.words = rest.words;
    options.word_count = rest.word_count;
    if (options.word_count == 0) {
        return cli_usage(cli,
                         "FILE or JOB is missing; usage: attnctl show FILE... | JOB [OPTIONS]");
    }
    char origin[ORIGIN_MAX];
    struct view view = {.origin = origin};
    struct cli asking = *cli;
    int code = show_open_source(&asking, &options, &view.source, error);
    if (code != CLI_OK) {
        /* A file's name that is misspelt is taken for a job. */
        size_t used = strlen(error);
        if (is_job(&options) && code != CLI_USAGE) {
            snprintf(error + used, SOURCE_ERROR_MAX - used, "; nor is there a file '%.80s'",
                     options.words[0]);
        }
        return cli_fail(cli, code, "%s", error);
    }
    screen_detect(cli->out, options.ascii, options.color, (int)options.width, &view.screen);
    /* The name of the source, fit for the screen. */
    bool utf8 = view.screen.utf8 || options.json;
    size_t size = sizeof origin;
    token_clean(options.words[0], utf8, origin, size);
    size_t origin_used = strlen(origin);
    if (options.word_count > 1) {
        snprintf(origin + origin_used, size - origin_used, " and %d more", options.word_count - 1);
    }
    code = clients_show_show(cli, &options, &view);
    source_free(&view.source);
    return code;
}
