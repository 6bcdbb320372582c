/* SPDX-License-Identifier: MIT */
/* stats: the daemon's counters, and whether every message is accounted for.
 *
 * The identity comes first, the other counters as they come: a newer attnd's are shown, too. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

/* Shown first: received = processed + in_flight + dropped. */
static const char *const balance[] = {"received", "processed", "in_flight", "dropped"};
enum { BALANCE = sizeof balance / sizeof balance[0] };

int show_stats(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    const msgpack_object *dropped = mpk_find(result, "dropped");
    if (result->type != MSGPACK_OBJECT_MAP) {
        return cli_usage(cli, "what answers at %s has no counters", cli->rpc->endpoint);
    }
    uint64_t received = mpk_find_u64(result, "received"),
             processed = mpk_find_u64(result, "processed");
    uint64_t in_flight = mpk_find_u64(result, "in_flight"), refused = field_sum(dropped);
    uint64_t accounted = processed + in_flight + refused;
    const uint64_t numbers[] = {received, processed, in_flight, refused};
    out_begin(&table, "COUNTER|VALUE");
    for (int i = 0; i < BALANCE; i++) {
        out_cell(&table, "%s", balance[i]);
        out_cell(&table, "%" PRIu64, numbers[i]);
    }
    out_pairs(&table, "  ", dropped);
    for (uint32_t i = 0; i < result->via.map.size; i++) {
        const msgpack_object_kv *pair = &result->via.map.ptr[i];
        char name[OUT_CELL_MAX / 2], value[OUT_CELL_MAX / 2];
        field_show(&pair->key, name, sizeof name - 1); /* and a dot */
        if (option_word(name, balance, BALANCE) >= 0) {
            continue;
        }
        if (pair->val.type == MSGPACK_OBJECT_MAP) {
            strcat(name, ".");
            out_pairs(&table, name, &pair->val);
            continue;
        }
        field_show(&pair->val, value, sizeof value);
        out_cell(&table, "%s", name);
        out_cell(&table, "%s", value);
    }
    out_print(&table, cli->width, false, cli->out);
    fprintf(cli->out,
            "\nreceived = processed + in_flight + dropped: %" PRIu64 " = %" PRIu64 " + %" PRIu64
            " + %" PRIu64,
            received, processed, in_flight, refused);
    if (received == accounted) {
        fputs(": adds up\n", cli->out);
        return CLI_OK;
    }
    fprintf(cli->out, ": does not add up, %" PRIu64 " %s\n",
            received > accounted ? received - accounted : accounted - received,
            received > accounted ? "unaccounted for" : "too many");
    return CLI_FINDING;
}
