/* SPDX-License-Identifier: MIT */
/* fleet: this attnd among those of other machines: a node and its outbox; or a hub, its nodes, and
 * because of whom windows are partial. Something that somebody should see to is bad news: exit
 * status 1. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_WIDTH 16
/* The most windows of a run that are in the answer. */
#define WAITING_MOST 8
#define PARTIAL_MOST 16

/* Ranks that are odd in the window that was merged last. */
static const msgpack_object *fleet_odd(const msgpack_object *run)
{
    return mpk_find(mpk_find(run, "compared"), "odd");
}

int judge_fleet(struct cli *cli, const msgpack_object *fleet)
{
    (void)cli;
    const msgpack_object *nodes = mpk_find(fleet, "nodes"), *role = mpk_find(fleet, "role");
    const msgpack_object *runs = mpk_find(fleet, "runs");
    bool well = !role || mpk_is_str(role, "off") || field_bool(fleet, "connected");
    well = well && !*FIELD_TEXT(fleet, "refused") && !*FIELD_TEXT(fleet, "error");
    for (uint32_t i = 0; i < mpk_items(nodes); i++) {
        well = well && !field_node_is_late(&nodes->via.array.ptr[i]);
    }
    for (uint32_t i = 0; i < mpk_items(runs); i++) {
        well = well && !*FIELD_TEXT(field_at(runs, i), "refused") &&
               mpk_items(fleet_odd(field_at(runs, i))) == 0;
    }
    return well ? CLI_OK : CLI_FINDING;
}

static void fleet_show_node(struct cli *cli, const msgpack_object *fleet)
{
    uint64_t waiting = mpk_find_u64(fleet, "unsent");
    const char *refused = FIELD_TEXT(fleet, "refused");
    fprintf(cli->out, "outbox: %" PRIu64 " row%s (%s)", mpk_find_u64(fleet, "rows"),
            out_plural(mpk_find_u64(fleet, "rows")), OUT_SIZE(mpk_find_u64(fleet, "bytes")));
    if (waiting > 0) {
        fprintf(cli->out, ", %" PRIu64 " not sent yet (%s), the oldest for %s", waiting,
                OUT_SIZE(mpk_find_u64(fleet, "unsent_bytes")),
                OUT_DURATION(mpk_number(mpk_find(fleet, "oldest_unsent_s"))));
    }
    fprintf(cli->out,
            "\nsent: %" PRIu64 " row%s, %" PRIu64 " re-sent; lost before that: %" PRIu64 "\n",
            mpk_find_u64(fleet, "sent"), out_plural(mpk_find_u64(fleet, "sent")),
            mpk_find_u64(fleet, "resent"), mpk_find_u64(fleet, "outbox_lost"));
    if (*refused) {
        fprintf(cli->out, "refused by the hub: %s\n", refused);
    }
}

/* A node that was not heard of since the hub began has no name, but its id. */
static const char *fleet_name(const msgpack_object *node, char ret_name[FIELD_TEXT_MAX])
{
    return *field_text(node, "name", ret_name, FIELD_TEXT_MAX)
               ? ret_name
               : field_text(node, "id", ret_name, FIELD_TEXT_MAX);
}

static void fleet_add_node(struct out_table *table, const msgpack_object *node)
{
    char name[FIELD_TEXT_MAX];
    double heard_s = mpk_number(mpk_find(node, "heard_s"));
    double clock_s = mpk_number(mpk_find(node, "clock_s"));
    fleet_name(node, name);
    out_shorten(name, NAME_WIDTH);
    out_cell(table, "%s%s", field_node_is_late(node) ? "! " : "  ", name);
    out_text(table, node, "state", 0);
    out_cell(table, "%s", isnan(heard_s) ? "-" : OUT_DURATION(heard_s));
    out_count(table, node, "behind");
    out_count(table, node, "unsent");
    out_count(table, node, "outbox_lost");
    out_count(table, node, "lacking");
    if (isnan(clock_s)) {
        out_cell(table, "-");
    } else {
        out_cell(table, "%+.1f s", clock_s);
    }
}

/* The nodes that somebody should see to come first, with a mark; then by name. */
static int fleet_order(const void *a, const void *b)
{
    char first[FIELD_TEXT_MAX], second[FIELD_TEXT_MAX];
    int order = field_node_is_late(b) - field_node_is_late(a);
    return order ? order : strverscmp(fleet_name(a, first), fleet_name(b, second));
}

/* One line for windows in a row that have the same rule, and lack the same nodes: those that wait,
 * or the partial ones, which are marked. */
static void fleet_show_windows(struct cli *cli, const msgpack_object *run, bool partial)
{
    const char *whom = partial ? "missing" : "for";
    const msgpack_object *windows = mpk_find(run, partial ? "partial" : "waiting");
    const uint32_t count = mpk_items(windows), most = partial ? PARTIAL_MOST : WAITING_MOST;
    for (uint32_t i = 0, next; i < count; i = next) {
        const msgpack_object *first = field_at(windows, i), *missing = mpk_find(first, whom);
        uint64_t end = mpk_find_u64(first, "last"), other = end,
                 length = mpk_find_u64(first, "length");
        const char *unit = FIELD_TEXT(first, "unit");
        for (next = i + 1; missing && next < count; next++) {
            const msgpack_object *after = field_at(windows, next);
            const msgpack_object *theirs = mpk_find(after, whom), *of = mpk_find(after, "unit");
            if (!theirs || !of || !msgpack_object_equal(*theirs, *missing) ||
                !mpk_is_str(of, unit) || mpk_find_u64(after, "length") != length) {
                break;
            }
            other = mpk_find_u64(after, "last");
        }
        fputs(partial ? "! " : "  ", cli->out);
        if (next == i + 1) {
            fputs("the window that ends", cli->out);
        } else {
            fprintf(cli->out, "%" PRIu32 "%s windows that end", next - i,
                    next == most ? " or more" : "");
        }
        fprintf(cli->out, " at %s %" PRIu64, unit, end < other ? end : other);
        if (end != other) {
            fprintf(cli->out, " to %" PRIu64, end < other ? other : end);
        }
        fputs(!partial ? (next == i + 1 ? " waits for " : " wait for ")
                       : (next == i + 1 ? " is without " : " are without "),
              cli->out);
        /* "node-3 (silent), node-7": texts, or maps of a name and a reason. */
        for (uint32_t j = 0; j < mpk_items(missing); j++) {
            const msgpack_object *one = &missing->via.array.ptr[j];
            const char *reason = FIELD_TEXT(one, "reason");
            char text[FIELD_TEXT_MAX];
            const char *name = one->type == MSGPACK_OBJECT_MAP
                                   ? field_text(one, "name", text, sizeof text)
                                   : field_show(one, text, sizeof text);
            fprintf(cli->out, "%s%s%s%s%s", j ? ", " : "", name, *reason ? " (" : "", reason,
                    *reason ? ")" : "");
        }
        fputs(mpk_items(missing) ? "\n" : "its turn, or for ranks that no node has\n", cli->out);
    }
}

/* "! rank 5 of rank-c is odd in 3 of 4 layers: attnctl ranks gpt-small" */
static void fleet_show_ranks(struct cli *cli, const msgpack_object *run)
{
    const msgpack_object *odd = fleet_odd(run), *compared = mpk_find(run, "compared");
    uint64_t world = mpk_find_u64(run, "world"), ranks = mpk_find_u64(run, "ranks");
    if (ranks < world && !field_is_over(run)) {
        fprintf(cli->out, "! %" PRIu64 " of %" PRIu64 " ranks not heard of yet\n", world - ranks,
                world);
    }
    for (uint32_t i = 0; i < mpk_items(odd); i++) {
        const msgpack_object *one = field_at(odd, i);
        fprintf(cli->out, "! rank %" PRIu64 " of %s is odd in %" PRIu64 " of %" PRIu64 " layers\n",
                mpk_find_u64(one, "rank"), FIELD_TEXT(one, "node"), mpk_find_u64(one, "layers"),
                mpk_find_u64(compared, "layers"));
    }
    if (mpk_find_u64(compared, "count") > mpk_items(odd)) {
        fprintf(cli->out, "! and %" PRIu64 " more\n",
                mpk_find_u64(compared, "count") - mpk_items(odd));
    }
    if (mpk_items(odd) > 0) {
        fprintf(cli->out, "  see: attnctl ranks %s --run %.8s\n", FIELD_TEXT(run, "job"),
                FIELD_TEXT(run, "run"));
    }
}

static void fleet_show_run(struct cli *cli, const msgpack_object *run)
{
    const uint32_t nodes = mpk_items(mpk_find(run, "nodes"));
    const char *refused = FIELD_TEXT(run, "refused");
    fprintf(cli->out,
            "\n%s, run %.8s, %s: %" PRIu64 " of %" PRIu64 " ranks on %" PRIu32 " node%s\n",
            FIELD_TEXT(run, "job"), FIELD_TEXT(run, "run"), FIELD_TEXT(run, "state"),
            mpk_find_u64(run, "ranks"), mpk_find_u64(run, "world"), nodes, out_plural(nodes));
    if (*refused) {
        fprintf(cli->out, "  is not shown: %s\n", refused);
    }
    fleet_show_ranks(cli, run);
    fleet_show_windows(cli, run, false);
    fleet_show_windows(cli, run, true);
}

static void fleet_show_hub(struct cli *cli, const msgpack_object *fleet)
{
    static const struct {
        const char *key, *text;
    } odd[] = {
        {"poisoned", "messages set aside: unreadable, or of runs that there is no room for"},
        {"windows_unknown", "messages of window rules that this hub does not have"},
        {"steps_disagree", "windows whose nodes are in different epochs"},
        {"gone", "rows that their nodes have no more, and that never came"},
        {"windows_lost", "windows whose parts went before they were merged"},
    };
    const msgpack_object *nodes = mpk_find(fleet, "nodes"), *runs = mpk_find(fleet, "runs");
    const char *unknown = FIELD_TEXT(fleet, "unknown");
    fprintf(cli->out,
            "parts: %" PRIu64 " (%s), %" PRIu64 " message%s waiting in the stream\n"
            "windows: %" PRIu64 " merged, %" PRIu64 " corrected\n",
            mpk_find_u64(fleet, "rows"), OUT_SIZE(mpk_find_u64(fleet, "bytes")),
            mpk_find_u64(fleet, "waiting"), out_plural(mpk_find_u64(fleet, "waiting")),
            mpk_find_u64(fleet, "merged"), mpk_find_u64(fleet, "corrected"));
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        if (mpk_find_u64(fleet, odd[i].key) > 0) {
            fprintf(cli->out, "%" PRIu64 " %s\n", mpk_find_u64(fleet, odd[i].key), odd[i].text);
        }
    }
    if (*unknown) {
        text_wrap(unknown, 0, 0, cli->out);
    }
    fputs(mpk_items(nodes) ? "\n" : "no node has been heard of yet\n", cli->out);
    if (mpk_items(nodes)) {
        /* `nodes` is the answer's own, and is put in order. */
        struct out_table table;
        qsort(nodes->via.array.ptr, mpk_items(nodes), sizeof nodes->via.array.ptr[0], fleet_order);
        out_begin(&table, "NODE|STATE|HEARD|BEHIND|UNSENT|LOST|LACKING|CLOCK");
        for (uint32_t i = 0; i < mpk_items(nodes); i++) {
            fleet_add_node(&table, &nodes->via.array.ptr[i]);
        }
        out_print(&table, cli->width, false, cli->out);
        for (uint32_t i = 0; i < mpk_items(nodes); i++) {
            const msgpack_object *node = field_at(nodes, i);
            const char *refused = FIELD_TEXT(node, "refused");
            const char *trouble = FIELD_TEXT(node, "trouble");
            char name[FIELD_TEXT_MAX];
            fleet_name(node, name);
            if (*refused) {
                fprintf(cli->out, "%s is refused: %s\n", name, refused);
            }
            if (*trouble) {
                fprintf(cli->out, "%s is in trouble: %s\n", name, trouble);
            }
        }
    }
    for (uint32_t i = 0; i < mpk_items(runs); i++) {
        fleet_show_run(cli, &runs->via.array.ptr[i]);
    }
    uint64_t more = mpk_find_u64(fleet, "runs_more");
    if (more > 0) {
        fprintf(cli->out, "\nand %" PRIu64 " more run%s\n", more, out_plural(more));
    }
}

int show_fleet(struct cli *cli, const msgpack_object *fleet)
{
    const char *role = FIELD_TEXT(fleet, "role"), *error = FIELD_TEXT(fleet, "error");
    if (!*role || strcmp(role, "off") == 0) {
        text_wrap(
            "this attnd is alone; for one view of many machines set fleet.role to node on each "
            "of them and to hub on one more attnd, and fleet.url to NATS servers for all",
            0, 0, cli->out);
        return CLI_OK;
    }
    fprintf(cli->out, "%s %s, id %s\n", role, FIELD_TEXT(fleet, "name"), FIELD_TEXT(fleet, "id"));
    if (*error) {
        fprintf(cli->out, "%s\n", error);
    } else {
        fprintf(cli->out, "%s: %s\n", FIELD_TEXT(fleet, "url"),
                field_bool(fleet, "connected") ? "connected" : "no connection yet");
    }
    (strcmp(role, "hub") == 0 ? fleet_show_hub : fleet_show_node)(cli, fleet);
    return CLI_OK;
}
