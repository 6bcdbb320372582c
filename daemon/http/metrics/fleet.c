/* SPDX-License-Identifier: MIT */
/* Writes what the method `fleet` answers, on a node and on a hub; nothing where there is no fleet.
 */
#include "daemon/http/metrics/internal.h"

#include "config/access.h"
#include "daemon/base/clock.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A label as long as what is kept of any name, escaped. */
#define FLEET_LABELS_MAX 1024

struct metrics_fleet_number {
    const char *key; /* of the answer; without it the number is not written */
    struct family family;
};

/* A node and a hub have some of them each. */
static const struct metrics_fleet_number fleet_numbers[] = {
    {"unsent",
     {"attnd_fleet_unsent_rows", FAMILY_GAUGE, "Rows of the outbox that no server has taken."}},
    {"unsent_bytes",
     {"attnd_fleet_unsent_bytes", FAMILY_GAUGE, "Bytes of the outbox that no server has taken."}},
    {"oldest_unsent_s",
     {"attnd_fleet_oldest_unsent_seconds", FAMILY_GAUGE,
      "How long the oldest of them has waited."}},
    {"outbox_lost",
     {"attnd_fleet_lost_rows", FAMILY_COUNTER,
      "Rows that fell out of the outbox before a server took them."}},
    {"sent", {"attnd_fleet_sent_rows", FAMILY_COUNTER, "Rows that servers have taken."}},
    {"resent", {"attnd_fleet_resent_rows", FAMILY_COUNTER, "Rows that were sent again."}},
    {"waiting",
     {"attnd_fleet_waiting_messages", FAMILY_GAUGE,
      "Messages in the stream that the hub has not taken."}},
    {"received", {"attnd_fleet_received_messages", FAMILY_COUNTER, "Messages the hub took."}},
    {"repeated",
     {"attnd_fleet_repeated_messages", FAMILY_COUNTER, "Messages that the hub had already."}},
    {"poisoned",
     {"attnd_fleet_poisoned_messages", FAMILY_COUNTER,
      "Messages that could not be read, and were set aside."}},
    {"windows_unknown",
     {"attnd_fleet_unknown_windows", FAMILY_COUNTER,
      "Messages of window rules that the hub does not have."}},
    {"steps_disagree",
     {"attnd_fleet_steps_disagree", FAMILY_COUNTER,
      "Windows whose nodes are in different epochs."}},
    {"gone",
     {"attnd_fleet_gone_rows", FAMILY_COUNTER,
      "Rows that their nodes have no more, and that never came."}},
    {"windows_lost",
     {"attnd_fleet_lost_windows", FAMILY_COUNTER,
      "Windows whose parts went from the hub before they were merged."}},
    {"merged", {"attnd_fleet_merged_windows", FAMILY_COUNTER, "Windows that the hub merged."}},
    {"corrected",
     {"attnd_fleet_corrected_windows", FAMILY_COUNTER,
      "Windows that were merged again, for parts that came late."}},
};

/* One per node of a hub. */
static const struct metrics_fleet_number node_numbers[] = {
    {"behind", {"attnd_fleet_node_behind_windows", FAMILY_GAUGE, "Windows behind the first node."}},
    {"unsent",
     {"attnd_fleet_node_unsent_rows", FAMILY_GAUGE,
      "Rows of the node's outbox that no server has taken."}},
    {"outbox_lost",
     {"attnd_fleet_node_lost_rows", FAMILY_COUNTER,
      "Rows that fell out of the node's outbox before a server took them."}},
    {"lacking",
     {"attnd_fleet_node_lacking_rows", FAMILY_GAUGE,
      "Rows that a server took, and the hub has not."}},
    {"clock_s",
     {"attnd_fleet_node_clock_ahead_seconds", FAMILY_GAUGE,
      "How far the node's clock is ahead of the hub's."}},
};

static const char *const node_states[] = {"ok",     "late",    "behind", "trouble",
                                          "silent", "refused", "ended"};

static void metrics_fleet_put(struct metrics_text *text, const struct metrics_fleet_number *number,
                              const char *labels, const msgpack_object *map)
{
    double value = mpk_number(mpk_find(map, number->key));
    if (!isnan(value)) {
        metrics_real(text, &number->family, labels, value);
    }
}

/* The labels that a node and a hub begin with. */
static void metrics_fleet_who(char labels[FLEET_LABELS_MAX], const msgpack_object *map)
{
    char id[32], name[128];
    mpk_find_text(map, "id", id, sizeof id);
    mpk_find_text(map, "name", name, sizeof name);
    *labels = '\0';
    metrics_label(labels, FLEET_LABELS_MAX, "node", id);
    metrics_label(labels, FLEET_LABELS_MAX, "name", name);
}

static void metrics_fleet_put_nodes(struct metrics_text *text, const msgpack_object *nodes)
{
    static const struct family states = {"attnd_fleet_nodes", FAMILY_GAUGE,
                                         "Nodes that the hub has heard of, by state."},
                               heard = {"attnd_fleet_node_last_heard_timestamp_seconds",
                                        FAMILY_GAUGE, "When the hub last heard of the node."};
    uint32_t count = nodes->via.array.size;
    const msgpack_object *node = nodes->via.array.ptr;
    char labels[FLEET_LABELS_MAX];
    double now_s = (double)(clock_wall_ns() / 1000000) / 1e3;
    metrics_head(text, &states);
    for (size_t s = 0; s < sizeof node_states / sizeof node_states[0]; s++) {
        uint64_t found = 0;
        for (uint32_t i = 0; i < count; i++) {
            const msgpack_object *state = mpk_find(&node[i], "state");
            found += state && mpk_is_str(state, node_states[s]);
        }
        *labels = '\0';
        metrics_label(labels, sizeof labels, "state", node_states[s]);
        metrics_count(text, &states, labels, found);
    }
    metrics_head(text, &heard);
    for (uint32_t i = 0; i < count; i++) {
        double ago_s = mpk_number(mpk_find(&node[i], "heard_s"));
        metrics_fleet_who(labels, &node[i]);
        if (!isnan(ago_s)) {
            metrics_real(text, &heard, labels, now_s - ago_s);
        }
    }
    for (size_t n = 0; n < sizeof node_numbers / sizeof node_numbers[0]; n++) {
        metrics_head(text, &node_numbers[n].family);
        for (uint32_t i = 0; i < count; i++) {
            metrics_fleet_who(labels, &node[i]);
            metrics_fleet_put(text, &node_numbers[n], labels, &node[i]);
        }
    }
}

/* Ended runs are left out: nobody can do anything about them. */
static void metrics_fleet_put_runs(struct metrics_text *text, const struct metrics_view *view,
                                   const msgpack_object *runs)
{
    static const struct family odd = {"attnd_fleet_odd_ranks", FAMILY_GAUGE,
                                      "Ranks that differ from the others of their run."};
    char job[JOB_NAME_MAX + 1], run[40], labels[FLEET_LABELS_MAX];
    metrics_head(text, &odd);
    for (uint32_t i = 0; i < runs->via.array.size; i++) {
        const msgpack_object *one = &runs->via.array.ptr[i];
        const msgpack_object *compared = mpk_find(one, "compared");
        mpk_find_text(one, "job", job, sizeof job);
        mpk_find_text(one, "run", run, sizeof run);
        if (compared && compared->type == MSGPACK_OBJECT_MAP &&
            !mpk_is_str(mpk_find(one, "state"), "ended") && access_jobs_match(view->jobs, job)) {
            *labels = '\0';
            metrics_label(labels, sizeof labels, "job", job);
            metrics_label(labels, sizeof labels, "run", run);
            metrics_count(text, &odd, labels, mpk_find_u64(compared, "count"));
        }
    }
}

void metrics_put_fleet(struct metrics_text *text, const struct metrics_view *view)
{
    static const struct family who = {"attnd_fleet", FAMILY_INFO,
                                      "This attnd among those of other machines."};
    const msgpack_object *fleet = mpk_find(view->monitor, "fleet");
    char role[16], labels[FLEET_LABELS_MAX + 32];
    mpk_find_text(fleet, "role", role, sizeof role);
    if (!*role || strcmp(role, "off") == 0) {
        return;
    }
    metrics_fleet_who(labels, fleet);
    metrics_label(labels, sizeof labels, "role", role);
    metrics_head(text, &who);
    metrics_count(text, &who, labels, 1);
    const msgpack_object *connected = mpk_find(fleet, "connected");
    metrics_one_count(text, "attnd_fleet_connected", FAMILY_GAUGE,
                      "Whether there is a connection to the NATS servers.",
                      connected && connected->type == MSGPACK_OBJECT_BOOLEAN &&
                          connected->via.boolean);
    bool is_node = strcmp(role, "node") == 0;
    metrics_one_count(text, is_node ? "attnd_fleet_outbox_rows" : "attnd_fleet_parts", FAMILY_GAUGE,
                      is_node ? "Rows in the outbox." : "Parts that the hub keeps.",
                      mpk_find_u64(fleet, "rows"));
    metrics_one_count(text, is_node ? "attnd_fleet_outbox_bytes" : "attnd_fleet_parts_bytes",
                      FAMILY_GAUGE, is_node ? "Bytes of the outbox." : "Bytes of these parts.",
                      mpk_find_u64(fleet, "bytes"));
    for (size_t i = 0; i < sizeof fleet_numbers / sizeof fleet_numbers[0]; i++) {
        if (mpk_find(fleet, fleet_numbers[i].key)) {
            metrics_head(text, &fleet_numbers[i].family);
            metrics_fleet_put(text, &fleet_numbers[i], "", fleet);
        }
    }
    const msgpack_object *nodes = mpk_find(fleet, "nodes");
    if (nodes && nodes->type == MSGPACK_OBJECT_ARRAY) {
        metrics_fleet_put_nodes(text, nodes);
    }
    const msgpack_object *runs = mpk_find(fleet, "runs");
    if (runs && runs->type == MSGPACK_OBJECT_ARRAY) {
        metrics_fleet_put_runs(text, view, runs);
    }
}
