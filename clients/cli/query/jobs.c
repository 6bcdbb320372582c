/* SPDX-License-Identifier: MIT */
/* jobs: one row per run that attnd knows. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>

static int jobs_show_jobs(struct cli *cli, const msgpack_object *result)
{
    if (field_length(result) == 0 || result->type != MSGPACK_OBJECT_ARRAY) {
        fputs("no jobs yet: attach one with attnd.watch(model, job=\"name\")\n", cli->out);
        return CLI_OK;
    }
    struct out_table table; /* what fits 80 columns beside a name of 15; --json has the rest */
    out_begin(&table, "JOB|RUN|STATE|EPOCH|STEP|RANKS|RECEIVED|LOST|DROPPED");
    for (uint32_t i = 0; i < result->via.array.size; i++) {
        const msgpack_object *job = &result->via.array.ptr[i];
        out_run(&table, job);
        out_count(&table, job, "epoch");
        out_count(&table, job, "step");
        out_cell(&table, "%" PRIu64 "/%" PRIu64, field_u64(job, "ranks"), field_u64(job, "world"));
        out_count(&table, job, "received");
        out_count(&table, job, "lost");
        out_cell(&table, "%" PRIu64, field_sum(mpk_find(job, "dropped")));
    }
    out_print(&table, cli->width, false, cli->out);
    return CLI_OK;
}

int cmd_jobs(struct cli *cli)
{
    return cli_show(cli, "jobs", NULL, jobs_show_jobs);
}
