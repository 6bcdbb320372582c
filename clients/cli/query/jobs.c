/* SPDX-License-Identifier: MIT */
/* jobs: one row per run that attnd knows. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>

/* Longer names lose their middle; --json has them whole. */
#define JOB_WIDTH 24

/* Columns that fit 80 columns beside a name of 15; --json has the rest. */
static const char *const columns[] = {"JOB",   "RUN",      "STATE", "EPOCH",  "STEP",
                                      "RANKS", "RECEIVED", "LOST",  "DROPPED"};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

static int jobs_show_jobs(struct cli *cli, const msgpack_object *result)
{
    if (field_length(result) == 0 || result->type != MSGPACK_OBJECT_ARRAY) {
        fputs("no jobs yet: attach one with attnd.watch(model, job=\"name\")\n", cli->out);
        return CLI_OK;
    }
    struct out_table table;
    out_init(&table, COLUMNS);
    for (int i = 0; i < COLUMNS; i++) {
        out_cell(&table, "%s", columns[i]);
    }
    for (uint32_t i = 0; i < result->via.array.size; i++) {
        const msgpack_object *job = &result->via.array.ptr[i];
        char text[OUT_CELL_MAX];
        field_text(job, "job", text, sizeof text);
        out_shorten(text, JOB_WIDTH);
        out_cell(&table, "%s", text);
        field_text(job, "run", text, 9); /* 8 of 32 digits tell runs apart */
        out_cell(&table, "%s", text);
        field_text(job, "state", text, sizeof text);
        out_cell(&table, "%s", text);
        out_cell(&table, "%" PRIu64, field_u64(job, "epoch"));
        out_cell(&table, "%" PRIu64, field_u64(job, "step"));
        out_cell(&table, "%" PRIu64 "/%" PRIu64, field_u64(job, "ranks"), field_u64(job, "world"));
        out_cell(&table, "%" PRIu64, field_u64(job, "received"));
        out_cell(&table, "%" PRIu64, field_u64(job, "lost"));
        out_cell(&table, "%" PRIu64, field_sum(mpk_find(job, "dropped")));
    }
    out_print(&table, cli->width, false, cli->out);
    return CLI_OK;
}

int cmd_jobs(struct cli *cli)
{
    return cli_show(cli, "jobs", jobs_show_jobs);
}
