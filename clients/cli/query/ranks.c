/* SPDX-License-Identifier: MIT */
/* ranks: the mean entropy of a layer's heads by rank, and which rank is the odd one out: exit
 * status 1 if any is. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <math.h>

#define NODE_WIDTH 24

/* A head of a rank, or the mean over its heads. */
static double ranks_entropy(const struct cli *cli, const msgpack_object *mean)
{
    double sum = 0;
    uint32_t count = 0;
    if (cli->args->given & ARGS_HEAD) {
        return field_item(mean, cli->args->head);
    }
    for (uint32_t h = 0; h < mpk_items(mean); h++) {
        double x = field_item(mean, h);
        sum += isnan(x) ? 0 : x;
        count += isnan(x) ? 0 : 1;
    }
    return sum / count;
}

static int ranks_show(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *ranks = mpk_find(result, "ranks");
    uint32_t odd = mpk_items(mpk_find(result, "odd"));
    uint64_t first = mpk_find_u64(result, "first"), last = mpk_find_u64(result, "last");
    fprintf(cli->out, "%.63s, %s, %s %" PRIu64, FIELD_TEXT(result, "job"), FIELD_LAYER(result),
            FIELD_TEXT(result, "unit"), first);
    fprintf(cli->out, first == last ? ": " : " to %" PRIu64 ": ", last);
    fprintf(cli->out, "mean entropy by rank, %s\n\n", odd > 0 ? "!: the odd ones" : "none is odd");
    struct out_table table;
    out_begin(&table, "RANK|NODE|ENTROPY|DISTANCE|FURTHEST HEAD");
    for (uint32_t i = 0; i < mpk_items(ranks); i++) {
        const msgpack_object *rank = field_at(ranks, i), *mean = mpk_find(rank, "mean");
        out_cell(&table, "%s%" PRIu64, field_bool(rank, "odd") ? "! " : "  ",
                 mpk_find_u64(rank, "rank"));
        out_text(&table, rank, "node", NODE_WIDTH);
        out_value(&table, ranks_entropy(cli, mean), true);
        out_number(&table, mpk_find(rank, "distance"));
        /* The head that is furthest from the median of the ranks. */
        uint32_t head = (uint32_t)mpk_find_u64(rank, "head");
        double median = mpk_number(mpk_find(rank, "median"));
        if (isnan(median)) {
            out_cell(&table, "-");
        } else {
            out_cell(&table, "h%" PRIu32 ": %.4f, others %.4f", head,
                     field_item(mpk_find(rank, "mean"), head), median);
        }
    }
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}

static int ranks_judge(struct cli *cli, const msgpack_object *result)
{
    (void)cli;
    return mpk_items(mpk_find(result, "odd")) > 0 ? CLI_FINDING : CLI_OK;
}

int cmd_ranks(struct cli *cli)
{
    struct ask ask;
    struct args args = *cli->args;
    struct cli chosen = *cli;
    struct rpc_reply fleet = {.result = NULL};
    char stack[FIELD_TEXT_MAX], site[FIELD_TEXT_MAX];
    chosen.args = &args;
    if (!(args.given & (ARGS_LAYER | ARGS_STACK | ARGS_SITE)) &&
        rpc_call(cli->rpc, "fleet", NULL, &fleet) == RPC_OK) {
        /* A hub knows in which layer a rank is furthest from the others. */
        const msgpack_object *run =
            field_run(mpk_find(fleet.result, "runs"), args.words[1], args.run);
        const msgpack_object *odd = field_at(mpk_find(mpk_find(run, "compared"), "odd"), 0);
        if (odd) {
            args.stack = field_text(odd, "stack", stack, sizeof stack);
            args.site = field_text(odd, "site", site, sizeof site);
            args.layer = (uint32_t)mpk_find_u64(odd, "layer");
            args.given |= ARGS_LAYER;
        }
        rpc_reply_clear(&fleet);
    }
    ask_past(&ask, &args);
    ask_layer(&ask, &args);
    ask_text(&ask, "window", args.window);
    return cli_show(&chosen, "ranks", &ask, ranks_show, ranks_judge);
}
