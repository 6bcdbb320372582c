/* SPDX-License-Identifier: MIT */
/* export: all numbers of a run, a row per window, head and metric, as they come: layer by layer,
 * metric by metric, PAGE windows at a time, so that nothing grows with the length of the run. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/series.h"
#include "clients/cli/base/unknown.h"

#include <string.h>

#define PAGE 500

/* One layer and metric. */
struct export_piece {
    const char *job;
    char run[40], stack[16], site[16], metric[FIELD_NAME_MAX];
    uint64_t layer;
};

static int export_piece(struct cli *cli, const struct export_piece *piece)
{
    struct args page = *cli->args;
    page.from = page.given & ARGS_FROM ? page.from : 0;
    page.given |= ARGS_FROM;
    bool more = true;
    while (more) {
        struct rpc_reply reply;
        struct ask ask;
        ask_init(&ask);
        ask_text(&ask, "job", piece->job);
        ask_text(&ask, "run", piece->run);
        ask_text(&ask, "stack", piece->stack);
        ask_number(&ask, "layer", piece->layer);
        ask_text(&ask, "site", piece->site);
        ask_text(&ask, "metric", piece->metric);
        ask_range(&ask, &page);
        ask_number(&ask, "limit", PAGE);
        int code = ask_for_any(cli, "history", &ask, &reply, &more);
        if (code != CLI_OK || !more) {
            return code;
        }
        struct series series = series_of(reply.result);
        series_print(&series, !(cli->args->given & ARGS_CSV), cli->out);
        more = series.windows > 0 && field_bool(reply.result, "more");
        if (more) {
            page.from = series_window(&series, "last", series.windows - 1) + 1;
        }
        rpc_reply_clear(&reply);
        if (ferror(cli->out)) {
            return CLI_OK; /* main says so */
        }
    }
    return CLI_OK;
}

static bool export_is_wanted(const struct args *args, const char *metric)
{
    for (int i = 0; i < args->metric_count; i++) {
        if (strcmp(args->metrics[i], metric) == 0) {
            return true;
        }
    }
    return args->metric_count == 0;
}

static int export_layer(struct cli *cli, const msgpack_object *layer, struct export_piece *piece,
                        uint32_t *pieces)
{
    const msgpack_object *metrics = mpk_find(layer, "metrics");
    int code = CLI_OK;
    field_text(layer, "stack", piece->stack, sizeof piece->stack);
    field_text(layer, "site", piece->site, sizeof piece->site);
    piece->layer = mpk_find_u64(layer, "layer");
    for (uint32_t i = 0; code == CLI_OK && i < mpk_items(metrics); i++) {
        field_show(&metrics->via.array.ptr[i], piece->metric, sizeof piece->metric);
        /* A number of the whole layer has no head. */
        bool fits = !(cli->args->given & ARGS_HEAD) ||
                    (strcmp(piece->metric, "sink_rate") != 0 && !strchr(piece->metric, '.'));
        if (!fits || !export_is_wanted(cli->args, piece->metric)) {
            continue;
        }
        if (++*pieces == 1 && (cli->args->given & ARGS_CSV)) {
            series_print_header(cli->out);
        }
        code = export_piece(cli, piece);
    }
    return code;
}

/* Without a layer attnd says whether there is no window yet, or which layers there are instead. */
static int export_nothing(struct cli *cli)
{
    struct rpc_reply reply;
    struct ask ask;
    bool any;
    ask_past(&ask, cli->args);
    ask_layer(&ask, cli->args);
    int code = ask_for_any(cli, "history", &ask, &reply, &any);
    if (code == CLI_OK && any) {
        rpc_reply_clear(&reply); /* a window has closed meanwhile */
    } else if (code == CLI_OK) {
        code = cli_explain(cli, RPC_REFUSED, &reply);
    }
    return code;
}

static int export_layers(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *layers = mpk_find(result, "layers");
    struct export_piece piece = {.job = cli->args->words[1]};
    uint32_t pieces = 0;
    int code = CLI_OK;
    field_text(result, "run", piece.run, sizeof piece.run);
    for (uint32_t i = 0; code == CLI_OK && i < mpk_items(layers); i++) {
        code = export_layer(cli, &layers->via.array.ptr[i], &piece, &pieces);
    }
    if (code != CLI_OK || pieces > 0) {
        return code;
    }
    if (mpk_items(layers) == 0) {
        return export_nothing(cli);
    }
    if (!cli->args->metric) {
        return cli_usage(cli, "--head: run %.8s of %.80s has only numbers of whole layers here",
                         piece.run, piece.job);
    }
    return unknown_in_run(cli, result) == CLI_USAGE
               ? CLI_USAGE
               : cli_usage(cli, "--metric: '%.80s': not in run %.8s of %.80s", cli->args->metric,
                           piece.run, piece.job);
}

int cmd_export(struct cli *cli)
{
    unsigned formats = cli->args->given & (ARGS_CSV | ARGS_JSON);
    struct ask ask;
    if (formats != ARGS_CSV && formats != ARGS_JSON) {
        return cli_usage(cli, "give --csv or --json (one object per line)");
    }
    ask_past(&ask, cli->args);
    ask_layer(&ask, cli->args);
    return ask_read(cli, "windows", &ask, export_layers);
}
