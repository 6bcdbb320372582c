/* SPDX-License-Identifier: MIT */
/* runs: the runs in the history, newest first. */
#include "clients/cli/base/ask.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <time.h>

#define RUNS_MAX  200000
#define JOB_WIDTH 24

/* "2026-11-20 14:02" of the trainer's clock, in UTC. */
static void add_time(struct out_table *table, uint64_t time_ns)
{
    time_t seconds = (time_t)(time_ns / 1000000000);
    struct tm parts;
    char text[32] = "-";
    if (gmtime_r(&seconds, &parts)) {
        strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
    }
    out_cell(table, "%s", text);
}

static int show_runs(struct cli *cli, const msgpack_object *result)
{
    static const char *const names[] = {"JOB", "RUN", "STATE", "FIRST", "LAST", "EPOCH", "STEP"};
    const msgpack_object *runs = mpk_find(result, "runs");
    struct out_table table;
    if (field_length(runs) == 0) {
        fputs("the history has no run yet\n", cli->out);
        return CLI_OK;
    }
    out_init(&table, 7);
    for (int i = 0; i < 7; i++) {
        out_cell(&table, "%s", names[i]);
    }
    for (uint32_t i = 0; i < runs->via.array.size; i++) {
        const msgpack_object *run = &runs->via.array.ptr[i];
        char text[OUT_CELL_MAX];
        field_text(run, "job", text, sizeof text);
        out_shorten(text, JOB_WIDTH);
        out_cell(&table, "%s", text);
        field_text(run, "run", text, 9);
        out_cell(&table, "%s", text);
        field_text(run, "state", text, sizeof text);
        out_cell(&table, "%s", text);
        add_time(&table, field_u64(run, "first_ns"));
        add_time(&table, field_u64(run, "last_ns"));
        out_cell(&table, "%" PRIu64, field_u64(run, "epoch"));
        out_cell(&table, "%" PRIu64, field_u64(run, "step"));
    }
    out_print(&table, cli->width, false, cli->out);
    if (field_bool(result, "more")) {
        fputs("there are earlier ones: --count shows more\n", cli->out);
    }
    return CLI_OK;
}

static int refuse_job(struct cli *cli, const char *job)
{
    fprintf(cli->err, "attnctl: the history has no run of '%.80s' (see attnctl runs)\n", job);
    return CLI_FINDING;
}

int cmd_runs(struct cli *cli)
{
    const struct args *args = cli->args;
    struct rpc_reply reply;
    struct ask ask;
    int code = ask_patiently(cli);
    if (code != CLI_OK) {
        return code;
    }
    ask_init(&ask);
    ask_text(&ask, "job", args->word_count > 1 ? args->words[1] : NULL);
    if (args->count) {
        ask_number(&ask, "limit", args->count < RUNS_MAX ? args->count : RUNS_MAX);
    }
    code = ask_call(cli, "runs", &ask, &reply);
    if (code != CLI_OK) {
        return code;
    }
    bool none = args->word_count > 1 && field_length(mpk_find(reply.result, "runs")) == 0;
    if (args->given & ARGS_JSON) {
        code = cli_print_json(cli, reply.result);
    } else if (!none) {
        code = show_runs(cli, reply.result);
    }
    rpc_reply_clear(&reply);
    return none ? refuse_job(cli, args->words[1]) : code;
}
