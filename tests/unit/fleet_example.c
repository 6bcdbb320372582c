/* SPDX-License-Identifier: MIT */
#include "tests/unit/fleet_example.h"

#include <math.h>

static void example_put_who(struct mpk_writer *writer, const char *role, const char *name,
                            const char *error)
{
    mpk_pair_str(writer, "role", role);
    mpk_pair_str(writer, "name", name);
    mpk_pair_str(writer, "id", "00112233aabbccdd");
    mpk_pair_str(writer, "url", "nats://rack:4222");
    mpk_pair_bool(writer, "connected", !error);
    mpk_pair_str(writer, "error", error);
}

void fleet_example_off(struct mpk_writer *writer)
{
    mpk_put_map(writer, 1);
    mpk_pair_str(writer, "role", "off");
}

void fleet_example_node(struct mpk_writer *writer)
{
    mpk_put_map(writer, 15);
    example_put_who(writer, "node", "rank-a",
                    "nats://rack:4222 cannot be reached (no server answers); attnd tries again");
    mpk_pair_u64(writer, "rows", 120);
    mpk_pair_u64(writer, "bytes", 25165824);
    mpk_pair_u64(writer, "unsent", 3);
    mpk_pair_u64(writer, "unsent_bytes", 614400);
    mpk_pair_f64(writer, "oldest_unsent_s", 12.5);
    mpk_pair_u64(writer, "outbox_lost", 2);
    mpk_pair_u64(writer, "sent", 4711);
    mpk_pair_u64(writer, "resent", 5);
    mpk_pair_str(writer, "refused", "window.buckets is 8, the hub's first node has 32");
}

struct example_node {
    const char *id, *name, *state, *refused, *trouble;
    double heard_s, clock_s;
    uint64_t behind, unsent, lost, lacking;
};

static void example_put_node(struct mpk_writer *writer, const struct example_node *node)
{
    mpk_put_map(writer, 15);
    mpk_pair_str(writer, "id", node->id);
    mpk_pair_str(writer, "name", node->name);
    mpk_pair_str(writer, "host", "rack");
    mpk_pair_str(writer, "version", "0.2.0");
    mpk_pair_f64(writer, "heard_s", node->heard_s);
    mpk_pair_str(writer, "state", node->state);
    mpk_pair_u64(writer, "behind", node->behind);
    mpk_pair_u64(writer, "unsent", node->unsent);
    mpk_pair_u64(writer, "unsent_bytes", 1024 * node->unsent);
    mpk_pair_u64(writer, "outbox_lost", node->lost);
    mpk_pair_u64(writer, "lacking", node->lacking);
    mpk_pair_f64(writer, "clock_s", node->clock_s);
    mpk_pair_str(writer, "refused", node->refused);
    mpk_pair_str(writer, "trouble", node->trouble);
    mpk_pair_u64(writer, "runs", 1);
}

static void example_put_rule(struct mpk_writer *writer)
{
    mpk_pair_str(writer, "unit", "step");
    mpk_pair_u64(writer, "length", 100);
    mpk_pair_u64(writer, "every", 100);
}

static void example_put_missing(struct mpk_writer *writer, const char *name, const char *reason)
{
    mpk_put_map(writer, 2);
    mpk_pair_str(writer, "name", name);
    mpk_pair_str(writer, "reason", reason);
}

static void example_put_compared(struct mpk_writer *writer)
{
    mpk_put_map(writer, 8);
    example_put_rule(writer);
    mpk_pair_u64(writer, "first", 200);
    mpk_pair_u64(writer, "last", 299);
    mpk_pair_u64(writer, "layers", 4);
    mpk_pair_u64(writer, "count", 18);
    mpk_put_str(writer, "odd");
    mpk_put_array(writer, 1);
    mpk_put_map(writer, 9);
    mpk_pair_u64(writer, "rank", 1);
    mpk_pair_str(writer, "node", "rank-b");
    mpk_pair_u64(writer, "layers", 3);
    mpk_pair_u64(writer, "windows", 2);
    mpk_pair_str(writer, "stack", "decoder");
    mpk_pair_u64(writer, "layer", 2);
    mpk_pair_str(writer, "site", "self");
    mpk_pair_u64(writer, "head", 5);
    mpk_pair_f64(writer, "distance", 8.25);
}

static void example_put_run(struct mpk_writer *writer)
{
    mpk_put_map(writer, 9);
    mpk_pair_str(writer, "job", "gpt-small");
    mpk_pair_str(writer, "run", "abcdef01230000000000000000000000");
    mpk_pair_str(writer, "state", "active");
    mpk_pair_u64(writer, "world", 4);
    mpk_pair_u64(writer, "ranks", 3);
    mpk_put_str(writer, "nodes");
    mpk_put_array(writer, 2);
    mpk_put_str(writer, "0000000000000001");
    mpk_put_str(writer, "0000000000000002");
    mpk_put_str(writer, "waiting");
    mpk_put_array(writer, 1);
    mpk_put_map(writer, 5);
    example_put_rule(writer);
    mpk_pair_u64(writer, "last", 399);
    mpk_put_str(writer, "for");
    mpk_put_array(writer, 1);
    mpk_put_str(writer, "rank-b");
    mpk_put_str(writer, "partial");
    mpk_put_array(writer, 3);
    for (int i = 2; i >= 0; i--) { /* the newest first */
        const uint64_t first = 100 * (uint64_t)i;
        mpk_put_map(writer, 7);
        example_put_rule(writer);
        mpk_pair_u64(writer, "first", first);
        mpk_pair_u64(writer, "last", first + 99);
        mpk_pair_u64(writer, "revision", i == 2);
        mpk_put_str(writer, "missing");
        mpk_put_array(writer, i == 2 ? 2 : 1);
        example_put_missing(writer, "rank-b", "silent");
        if (i == 2) {
            example_put_missing(writer, "rank-c", "refused");
        }
    }
    mpk_put_str(writer, "compared");
    example_put_compared(writer);
}

void fleet_example_hub(struct mpk_writer *writer)
{
    const struct example_node nodes[] = {
        {"0000000000000001", "rank-a", "ok", NULL, NULL, NAN, NAN, 0, 0, 0, 0},
        {"0000000000000002", "rank-b", "silent", NULL, NULL, 95, -3600, 3, 12, 4, 7},
        {"0000000000000003", "rank-c", "refused",
         "window.buckets is 8, the hub's first node has 32", NULL, 1.5, 0.25, 0, 0, 0, 0},
        {"0000000000000004", "rank-d", "trouble", NULL,
         "its history cannot be written: database or disk is full", 1.5, 0, 0, 0, 0, 0},
    };
    mpk_put_map(writer, 22);
    example_put_who(writer, "hub", "head", NULL);
    mpk_pair_u64(writer, "rows", 40960);
    mpk_pair_u64(writer, "bytes", UINT64_C(3650722202));
    mpk_pair_u64(writer, "waiting", 1);
    mpk_pair_u64(writer, "received", 41000);
    mpk_pair_u64(writer, "repeated", 37);
    mpk_pair_u64(writer, "poisoned", 3);
    mpk_pair_u64(writer, "windows_unknown", 0);
    mpk_pair_u64(writer, "steps_disagree", 0);
    mpk_pair_u64(writer, "gone", 0);
    mpk_pair_u64(writer, "windows_lost", 0);
    mpk_pair_u64(writer, "runs_more", 2);
    mpk_pair_u64(writer, "merged", 960);
    mpk_pair_u64(writer, "corrected", 12);
    mpk_pair_str(writer, "unknown", "rank-d has windows of 10 steps every 5, this hub has none");
    mpk_put_str(writer, "nodes");
    mpk_put_array(writer, 4);
    for (int i = 0; i < 4; i++) {
        example_put_node(writer, &nodes[i]);
    }
    mpk_put_str(writer, "runs");
    mpk_put_array(writer, 1);
    example_put_run(writer);
}
