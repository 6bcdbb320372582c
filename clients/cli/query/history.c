/* SPDX-License-Identifier: MIT */
/* history: how a metric went from window to window. One head shows every statistic that fits, all
 * heads of a layer show their means. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/series.h"
#include "clients/cli/base/unknown.h"

#include "clients/cli/base/field.h"
#include "proto/header.h"
#include "proto/metric.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Windows in a table, unless --count or --from ask for others. */
#define WINDOWS_DEFAULT 20

static const char *const shown[] = {"mean", "std", "min", "p10", "p50", "p90", "max"};
enum { SHOWN = sizeof shown / sizeof shown[0] };

static double history_error(const struct series *series, const char *metric, uint32_t head,
                            uint32_t window)
{
    return field_standard_error(series->map, metric, series_value(series, "std", head, window),
                                series_value(series, "count", head, window));
}

static bool history_is_plain(const struct series *series)
{
    for (uint32_t head = 0; head < series->heads; head++) {
        for (uint32_t window = 0; window < series->windows; window++) {
            if (!out_is_plain(series_value(series, "mean", head, window))) {
                return false;
            }
        }
    }
    return true;
}

static void history_print_heading(struct cli *cli, const struct series *series)
{
    const char *metric = FIELD_TEXT(series->map, "metric");
    uint64_t length = mpk_find_u64(series->map, "length"),
             every = mpk_find_u64(series->map, "every");
    const msgpack_object *first = field_at(mpk_find(series->map, "heads"), 0);
    fprintf(cli->out, "%s, run %.8s, %s\n%s, ", FIELD_TEXT(series->map, "job"),
            FIELD_TEXT(series->map, "run"),
            series->heads > 1 ? FIELD_LAYER(first) : FIELD_PLACE(first), metric);
    if (series->heads > 1) {
        fputs("means, ", cli->out);
    }
    fprintf(cli->out, "per %" PRIu64 " %s%s", length, FIELD_TEXT(series->map, "unit"),
            out_plural(length));
    if (every != length) {
        fprintf(cli->out, " every %" PRIu64, every);
    }
    putc('\n', cli->out);
    uint64_t rows = mpk_find_u64(series->map, "rows"), of = mpk_find_u64(series->map, "rows_of");
    double count = series_value(series, "count", 0, series->windows - 1);
    if (of > rows && metric_find(metric) < METRIC_ROW_COUNT) {
        fprintf(cli->out,
                "of the rows taken: %" PRIu64 " of about %" PRIu64
                " in the newest window, over all heads; %s: standard error, at most\n",
                rows, of, out_plus_minus());
    } else if (!rows && count > 0 && metric_find(metric) < METRIC_ROW_COUNT) {
        fprintf(cli->out,
                "of %.0f rows of a head in the newest window; it is not known any more whether "
                "these are all\n",
                count);
    }
    putc('\n', cli->out);
}

static int show_series(struct cli *cli, const msgpack_object *result)
{
    struct series series = series_of(result);
    if (cli->args->given & ARGS_JSON) {
        return cli_print_json(cli, result, 2);
    }
    if (cli->args->given & ARGS_CSV) {
        series_print_header(cli->out);
        series_print(&series, false, cli->out);
        if (field_bool(series.map, "more")) {
            fprintf(cli->err,
                    "attnctl: not all windows fit one answer: attnctl export has them all\n");
        }
        return CLI_OK;
    }
    if (series.heads == 0 || series.windows == 0) {
        return cli_usage(cli, "what answers at %s has no history", cli->rpc->endpoint);
    }
    history_print_heading(cli, &series);
    struct out_table table;
    bool plain = history_is_plain(&series);
    const char *metric = FIELD_TEXT(series.map, "metric");
    out_begin(&table, mpk_is_str(mpk_find(series.map, "unit"), "epoch") ? "EPOCH" : "WINDOW");
    out_more(&table, series.heads == 1 ? "STEP|MEAN|STD|MIN|P10|P50|P90|MAX" : "STEP");
    table.columns += series.heads > 1 ? (int)series.heads : 0;
    for (uint32_t head = 0; series.heads > 1 && head < series.heads; head++) {
        out_cell(&table, "h%" PRIu32, head);
    }
    for (uint32_t window = 0; window < series.windows; window++) {
        /* "7", "5-7"; a star behind a partial window. */
        uint64_t first = series_window(&series, "first", window);
        uint64_t last = series_window(&series, "last", window);
        const char *star = series_partial(&series, window) ? "*" : "";
        if (first == last) {
            out_cell(&table, "%" PRIu64 "%s", last, star);
        } else {
            out_cell(&table, "%" PRIu64 "-%" PRIu64 "%s", first, last, star);
        }
        out_cell(&table, "%" PRIu64, series_window(&series, "step", window));
        for (int i = 0; series.heads == 1 && i < SHOWN; i++) {
            out_mean(&table, series_value(&series, shown[i], 0, window),
                     i == 0 ? history_error(&series, metric, 0, window) : NAN, plain);
        }
        for (uint32_t head = 0; series.heads > 1 && head < series.heads; head++) {
            out_mean(&table, series_value(&series, "mean", head, window),
                     history_error(&series, metric, head, window), plain);
        }
    }
    out_print(&table, cli->width, false, cli->out);
    bool partial = false, quantiles = false, more = field_bool(series.map, "more");
    for (uint32_t i = 0; i < series.windows; i++) {
        partial = partial || series_partial(&series, i);
        quantiles =
            quantiles || (series.heads == 1 && isfinite(series_value(&series, "p50", 0, i)));
    }
    if (quantiles || partial || more) {
        putc('\n', cli->out);
    }
    if (quantiles) {
        fputs("P10, P50 and P90 are within 1.1 %, of widely spread values within 9.1 %\n",
              cli->out);
    }
    if (partial) {
        fputs("* partial: the window was cut short, or goes on\n", cli->out);
    }
    if (more) {
        fprintf(cli->out, "there are %s windows: --count, --from and --to choose others\n",
                cli->args->given & ARGS_FROM ? "later" : "earlier");
    }
    return CLI_OK;
}

int cmd_history(struct cli *cli)
{
    const struct args *args = cli->args;
    struct rpc_reply reply;
    struct ask ask;
    bool any, table = !(args->given & (ARGS_JSON | ARGS_CSV | ARGS_FROM));
    ask_past(&ask, args);
    ask_layer(&ask, args);
    ask_text(&ask, "metric", args->metric);
    ask_range(&ask, args);
    ask_limit(&ask, args, table ? WINDOWS_DEFAULT : UINT64_MAX);
    int code = ask_for_any(cli, "history", &ask, &reply, &any);
    if (code == CLI_OK && any) {
        code = show_series(cli, reply.result);
        rpc_reply_clear(&reply);
    } else if (code == CLI_OK) {
        /* attnd says what there is instead; metrics are too many for its sentence. */
        if (args->metric) {
            ask_job(&ask, args);
            code = ask_read(cli, "windows", &ask, unknown_in_run);
        }
        code = code == CLI_OK ? cli_explain(cli, RPC_REFUSED, &reply) : code;
    }
    return code;
}
