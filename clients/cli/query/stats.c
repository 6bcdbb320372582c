/* SPDX-License-Identifier: MIT */
/* stats: the daemon's counters, and whether every message is accounted for.
 *
 * The identity comes first, the other counters follow as they come: a newer attnd's are shown too.
 */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

static void stats_add_number(struct out_table *table, const char *name, uint64_t number)
{
    out_cell(table, "%s", name);
    out_cell(table, "%" PRIu64, number);
}

/* One row per pair; a map within becomes rows "name.key". */
static void add_pairs(struct out_table *table, const char *prefix, const msgpack_object *map)
{
    for (uint32_t i = 0; map && map->type == MSGPACK_OBJECT_MAP && i < map->via.map.size; i++) {
        const msgpack_object_kv *pair = &map->via.map.ptr[i];
        char name[OUT_CELL_MAX / 2], value[OUT_CELL_MAX / 2];
        field_show(&pair->key, name, sizeof name);
        field_show(&pair->val, value, sizeof value);
        out_cell(table, "%s%s", prefix, name);
        out_cell(table, "%s", value);
    }
}

static bool is_shown_above(const msgpack_object *key)
{
    return mpk_is_str(key, "received") || mpk_is_str(key, "processed") ||
           mpk_is_str(key, "in_flight") || mpk_is_str(key, "dropped");
}

static int show_stats(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    const msgpack_object *dropped = mpk_find(result, "dropped");
    if (result->type != MSGPACK_OBJECT_MAP) {
        return cli_usage(cli, "what answers at %s has no counters", cli->rpc->endpoint);
    }
    out_init(&table, 2);
    out_cell(&table, "COUNTER");
    out_cell(&table, "VALUE");
    stats_add_number(&table, "received", field_u64(result, "received"));
    stats_add_number(&table, "processed", field_u64(result, "processed"));
    stats_add_number(&table, "in_flight", field_u64(result, "in_flight"));
    stats_add_number(&table, "dropped", field_sum(dropped));
    add_pairs(&table, "  ", dropped);
    for (uint32_t i = 0; i < result->via.map.size; i++) {
        const msgpack_object_kv *pair = &result->via.map.ptr[i];
        char name[OUT_CELL_MAX / 2], value[OUT_CELL_MAX / 2];
        if (is_shown_above(&pair->key)) {
            continue;
        }
        field_show(&pair->key, name, sizeof name - 1); /* and a dot */
        if (pair->val.type == MSGPACK_OBJECT_MAP) {
            strcat(name, ".");
            add_pairs(&table, name, &pair->val);
            continue;
        }
        field_show(&pair->val, value, sizeof value);
        out_cell(&table, "%s", name);
        out_cell(&table, "%s", value);
    }
    out_print(&table, cli->width, false, cli->out);
    /* The sentence about received = processed + in_flight + dropped. */
    uint64_t received = field_u64(result, "received"), processed = field_u64(result, "processed");
    uint64_t in_flight = field_u64(result, "in_flight");
    uint64_t balance_dropped = field_sum(mpk_find(result, "dropped"));
    uint64_t accounted = processed + in_flight + balance_dropped;
    fprintf(cli->out,
            "\nreceived = processed + in_flight + dropped: %" PRIu64 " = %" PRIu64 " + %" PRIu64
            " + %" PRIu64,
            received, processed, in_flight, balance_dropped);
    if (received == accounted) {
        fputs(": adds up\n", cli->out);
        return CLI_OK;
    }
    fprintf(cli->out, ": does not add up, %" PRIu64 " %s\n",
            received > accounted ? received - accounted : accounted - received,
            received > accounted ? "unaccounted for" : "too many");
    return CLI_FINDING;
}

int cmd_stats(struct cli *cli)
{
    return cli_show(cli, "stats", show_stats);
}
