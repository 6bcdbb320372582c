/* SPDX-License-Identifier: MIT */
/* show: a layer's attention in the terminal: of files, a recording, or a running attnd. */
#include "clients/cli/base/cli.h"

#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <string.h>

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
    request->naming = &options->naming;
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

/* Choosing ------------------------------------------------------------------------------------ */

static int show_choose(const struct show_options *options, struct view *view,
                       struct show_request *request, char *reterr)
{
    const struct source_layer *layers;
    *request = (struct show_request){
        .head = options->head, .query = options->token, .pairs = options->pairs};
    int code = source_find_layer(view->source, options->layer, &request->layer, reterr);
    if (code != CLI_OK) {
        return code;
    }
    source_layers(view->source, &layers);
    view->layer = &layers[request->layer];
    view->request = request;
    place_layer(view->layer->id, view->name);
    request->sample = options->sample != SAMPLE_FIRST ? options->sample : view->layer->first_sample;
    code = source_check(view->source, request->layer, request->sample,
                        request->head == HEAD_MEAN ? 0 : request->head, reterr);
    if (code == CLI_OK) {
        code = source_trim(view->source, request->layer, request->sample, reterr);
    }
    uint32_t queries = view->layer->queries;
    if (code == CLI_OK && options->token != TOKEN_AUTO && options->token >= queries) {
        snprintf(reterr, SOURCE_ERROR_MAX,
                 queries == 1 ? "--token: %s has no query %" PRIu32 " (valid: 0)"
                              : "--token: %s has no query %" PRIu32 " (valid: 0 to %" PRIu32 ")",
                 view->name, options->token, queries - 1);
        return CLI_USAGE;
    }
    if (code == CLI_OK) {
        code = source_check_labels(view->source, request->layer, reterr);
    }
    if (code == CLI_OK) {
        view_plan(view, &request->picture_rows, &request->picture_columns);
    }
    return code;
}

/* Printing ------------------------------------------------------------------------------------ */

static int fail_missing(struct cli *cli, const struct view *view)
{
    char head[48];
    view_head_text(view, head);
    return cli_fail(cli, CLI_FINDING,
                    "%s, sample %" PRIu32 ", %s: no entry is a number: there is nothing to show",
                    view->name, view->request->sample, head);
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
    code = missing && print_code == CLI_OK ? fail_missing(cli, view) : print_code;
    findings_clear(&found);
    return code;
}

int cmd_show(struct cli *cli, int argc, char **argv)
{
    char error[SOURCE_ERROR_MAX];
    struct show_options options;
    if (show_options_parse(argc, argv, &options, error) != 0) {
        return cli_fail(cli, CLI_USAGE, "%s", error);
    }
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
