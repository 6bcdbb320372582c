/* SPDX-License-Identifier: MIT */
/* runs: the runs that attnd knows (jobs), and those in the history, newest first (runs). */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"

#include "proto/header.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

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

int show_runs(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *runs = mpk_find(result, "runs");
    struct out_table table;
    if (mpk_items(runs) == 0) {
        fputs(cli->args->word_count > 1 ? "" : "the history has no run yet\n", cli->out);
        return CLI_OK;
    }
    out_begin(&table, "JOB|RUN|STATE|FIRST|LAST|EPOCH|STEP");
    for (uint32_t i = 0; i < runs->via.array.size; i++) {
        const msgpack_object *run = &runs->via.array.ptr[i];
        out_run(&table, run);
        add_time(&table, mpk_find_u64(run, "first_ns"));
        add_time(&table, mpk_find_u64(run, "last_ns"));
        out_count(&table, run, "epoch");
        out_count(&table, run, "step");
    }
    out_print(&table, cli->width, false, cli->out);
    if (field_bool(result, "more")) {
        fputs("there are earlier ones: --count shows more\n", cli->out);
    }
    return CLI_OK;
}

int judge_runs(struct cli *cli, const msgpack_object *result)
{
    bool none = cli->args->word_count > 1 && mpk_items(mpk_find(result, "runs")) == 0;
    return none ? cli_fail(cli, CLI_FINDING, "the history has no run of '%.80s' (see attnctl runs)",
                           cli->args->words[1])
                : CLI_OK;
}

static void print_jobs(struct cli *cli, const msgpack_object *result)
{
    struct out_table table; /* what fits 80 columns beside a name of 15; --json has the rest */
    out_begin(&table, "JOB|RUN|STATE|EPOCH|STEP|RANKS|RECEIVED|LOST|DROPPED");
    for (uint32_t i = 0; i < result->via.array.size; i++) {
        const msgpack_object *job = &result->via.array.ptr[i];
        out_run(&table, job);
        out_count(&table, job, "epoch");
        out_count(&table, job, "step");
        out_cell(&table, "%" PRIu64 "/%" PRIu64, mpk_find_u64(job, "ranks"),
                 mpk_find_u64(job, "world"));
        out_cell(&table, "%" PRIu64, field_received(job));
        out_count(&table, job, "lost");
        out_cell(&table, "%" PRIu64, field_dropped(job));
    }
    out_print(&table, cli->width, false, cli->out);
    for (uint32_t i = 0; i < result->via.array.size; i++) {
        const msgpack_object *job = &result->via.array.ptr[i];
        const char *news = OUT_NEWS(job);
        if (*news) {
            fprintf(cli->out, "%s: %s\n", FIELD_TEXT(job, "job"), news);
        }
    }
}

void runs_print_history(struct cli *cli)
{
    struct rpc_reply reply;
    if (rpc_call(cli->rpc, "stats", NULL, &reply) == RPC_OK) {
        const msgpack_object *history = mpk_find(reply.result, "history");
        const char *reason = FIELD_TEXT(history, "reason"),
                   *damaged = FIELD_TEXT(history, "damaged");
        if (*FIELD_TEXT(history, "path") && *reason) {
            fprintf(cli->out, "attnd cannot write its history: %s\n", reason);
        }
        if (*damaged) {
            fprintf(cli->out, "%s\n", damaged);
        }
        rpc_reply_clear(&reply);
    }
}

int show_jobs(struct cli *cli, const msgpack_object *result)
{
    if (mpk_items(result) == 0) {
        fputs("no jobs yet: attach one with attnd.watch(model, job=\"name\")\n", cli->out);
    } else {
        print_jobs(cli, result);
    }
    runs_print_history(cli);
    return CLI_OK;
}
