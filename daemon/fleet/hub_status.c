/* SPDX-License-Identifier: MIT */
/* The result of the method `fleet`: proto/PROTOCOL.md, section 4. */
#include "daemon/base/clock.h"
#include "daemon/fleet/hub_internal.h"
#include "proto/err.h"

#include <math.h>

#define WAITING_MAX 8
#define PARTIAL_MAX 16

static void hub_put_text(struct mpk_writer *writer, const char *key, const char *text)
{
    mpk_pair_str(writer, key, *text ? text : NULL);
}

static void hub_put_id(struct mpk_writer *writer, const uint8_t *id)
{
    char digits[LINK_ID_DIGITS + 1];
    link_id_text(id, digits);
    mpk_put_str(writer, digits);
}

/* Others have only sent what says nothing: nobody needs to see to them. */
static bool hub_shows(const struct hub_node *node)
{
    return node->heard_ns || node->memberships > 0;
}

static void hub_put_node(const struct hub *hub, const struct hub_node *node,
                         struct mpk_writer *writer)
{
    bool heard = node->heard_ns && hub_is_heard(hub, node);
    bool gone = node->heard_ns ? node->beat.stopping : node->over;
    bool late = node->heard_ns && clock_since_ns(node->heard_ns, hub->now_ns) >= HUB_GONE_NS;
    bool copied = node->copy_ns && clock_since_ns(node->copy_ns, hub->now_ns) < HUB_GONE_NS;
    const char *trouble = copied ? node->copy : node->beat.trouble;
    const char *state = *node->refused                  ? "refused"
                        : gone                          ? "ended"
                        : !heard                        ? "silent"
                        : *trouble                      ? "trouble"
                        : node->behind > HUB_BEHIND_MAX ? "behind"
                        : late                          ? "late"
                                                        : "ok";
    mpk_put_map(writer, 15);
    mpk_put_str(writer, "id");
    hub_put_id(writer, node->id);
    mpk_pair_str(writer, "name", node->name);
    mpk_pair_str(writer, "host", node->host);
    mpk_pair_str(writer, "version", node->version);
    mpk_pair_f64(writer, "heard_s",
                 node->heard_ns ? (double)clock_since_ns(node->heard_ns, hub->now_ns) / 1e9 : NAN);
    mpk_pair_str(writer, "state", state);
    mpk_pair_u64(writer, "behind", node->behind);
    mpk_pair_u64(writer, "unsent", node->beat.unsent);
    mpk_pair_u64(writer, "unsent_bytes", node->beat.unsent_bytes);
    mpk_pair_u64(writer, "outbox_lost", node->beat.outbox_lost);
    mpk_pair_u64(writer, "lacking", seen_lacking(&node->seen, node->beat.taken) % FLEET_JUMP);
    /* In whole seconds: its sign of life has waited for some of one. */
    mpk_pair_f64(writer, "clock_s",
                 node->heard_ns ? (double)(node->clock_ns / INT64_C(1000000000)) : NAN);
    hub_put_text(writer, "refused", node->refused);
    hub_put_text(writer, "trouble", trouble);
    mpk_pair_u64(writer, "runs", node->run_count);
}

static void hub_put_rule(const struct fleet_rule *rule, struct mpk_writer *writer)
{
    mpk_pair_str(writer, "unit", window_unit_name(rule->unit));
    mpk_pair_u64(writer, "length", rule->length);
    mpk_pair_u64(writer, "every", rule->every);
}

/* The first windows that are not merged yet, and whom they wait for. Returns how many. */
static uint32_t hub_put_waiting(const struct hub *hub, const struct hub_run *run, uint32_t track,
                                uint32_t most, struct mpk_writer *writer)
{
    struct hub_track *of = &run->tracks[track];
    uint32_t count = 0;
    for (uint32_t i = hub_first_open(of); i < of->window_count && count < most; i++) {
        const struct hub_window *window = &of->windows[i];
        if (window->merged) {
            continue;
        }
        count++;
        mpk_put_map(writer, 5);
        hub_put_rule(&of->rule, writer);
        mpk_pair_u64(writer, "last", (window->part + 1) * of->size - 1);
        struct mpk_open waited = mpk_open(writer, "for");
        for (uint32_t m = 0; m < run->member_count; m++) {
            if (hub_waits_for(hub, run, track, window, run->members[m])) {
                mpk_put_str(writer, run->members[m]->node->name);
            }
        }
        mpk_close_array(writer, &waited);
    }
    return count;
}

/* Why nothing of a run is shown. */
static const char *hub_refusal(int code)
{
    switch (code) {
    case 0:
        return "";
    case ERR_JOB_LIMIT:
        return "the hub has as many active jobs as limits.jobs allows";
    case ERR_RUN_LIMIT:
        return "the job has as many active runs as limits.runs of the hub allows";
    case ERR_RANK_LIMIT:
        return "the run has more ranks than limits.ranks of the hub allows";
    default:
        return err_text(code);
    }
}

static void hub_put_run(struct hub *hub, const struct hub_run *run, enum job_state state,
                        struct mpk_writer *writer)
{
    char digits[2 * RUN_BYTES + 1];
    uint32_t world = 0, ranks = 0, left = WAITING_MAX;
    for (uint32_t i = 0; i < run->member_count; i++) {
        const struct hub_member *member = run->members[i];
        world = member->said.world > world ? member->said.world : world;
        ranks += member->rank_count;
    }
    run_hex(run->run, digits);
    mpk_put_map(writer, 11);
    mpk_pair_str(writer, "job", run->job);
    mpk_pair_str(writer, "run", digits);
    mpk_pair_str(writer, "state", job_state_name(state));
    hub_put_text(writer, "refused", hub_refusal(run->refused));
    mpk_pair_u64(writer, "world", world);
    mpk_pair_u64(writer, "ranks", ranks);
    mpk_pair_array(writer, "nodes", run->member_count);
    for (uint32_t i = 0; i < run->member_count; i++) {
        hub_put_id(writer, run->members[i]->node->id);
    }
    struct mpk_open waiting = mpk_open(writer, "waiting");
    for (uint32_t t = 0; t < run->track_count; t++) {
        left -= hub_put_waiting(hub, run, t, left, writer);
    }
    mpk_close_array(writer, &waiting);
    /* The windows that lack nodes: how many there are, and those that were merged last. */
    struct parts *parts = &hub->parts;
    int64_t all = 0;
    sqlite3_stmt *row = NULL;
    if (run->has_partial) {
        all = parts_run(parts, PARTS_COUNT_PARTIAL, SQL(sql_i64(run->row)));
        row = parts_bind(parts, PARTS_EACH_PARTIAL, SQL(sql_i64(run->row), sql_i64(PARTIAL_MAX)));
    }
    mpk_pair_u64(writer, "partial_windows", all < 0 ? 0 : (uint64_t)all);
    struct mpk_open partial = mpk_open(writer, "partial");
    while (row && parts_row(parts, row)) {
        struct fleet_rule rule = parts_rule(row, 0);
        uint64_t units = (column_u64(row, 3) + 1) * config_window_part(rule.length, rule.every);
        mpk_put_map(writer, 7);
        hub_put_rule(&rule, writer);
        mpk_pair_u64(writer, "first", units >= rule.length ? units - rule.length : 0);
        mpk_pair_u64(writer, "last", units - 1);
        mpk_pair_u64(writer, "revision", column_u64(row, 4));
        mpk_put_str(writer, "missing");
        mpk_put_raw(writer, sqlite3_column_blob(row, 5), (size_t)sqlite3_column_bytes(row, 5));
    }
    mpk_close_array(writer, &partial);
    mpk_put_str(writer, "compared");
    hub_ranks_put(run, writer);
}

void hub_status_encode(struct hub *hub, struct mpk_writer *writer)
{
    static const char *const names[HUB_COUNTS] = {[HUB_RECEIVED] = "received",
                                                  [HUB_REPEATED] = "repeated",
                                                  [HUB_POISONED] = "poisoned",
                                                  [HUB_WINDOWS_UNKNOWN] = "windows_unknown",
                                                  [HUB_STEPS_DISAGREE] = "steps_disagree",
                                                  [HUB_GONE] = "gone",
                                                  [HUB_WINDOWS_LOST] = "windows_lost",
                                                  [HUB_MERGED] = "merged",
                                                  [HUB_CORRECTED] = "corrected"};
    char error[LINK_ERROR_MAX];
    uint32_t nodes = 0;
    /* The most windows that each node is behind the first, over the runs that go on. */
    for (struct hub_node *node = hub->nodes; node; node = node->next) {
        node->behind = 0;
        node->over = node->memberships > 0;
    }
    for (const struct hub_run *run = hub->runs; run; run = run->next) {
        for (uint32_t i = 0; i < run->member_count; i++) {
            const struct hub_member *member = run->members[i];
            struct hub_node *node = member->node;
            uint64_t behind = run->ended ? 0 : hub_behind(hub, run, member);
            node->behind = behind > node->behind ? behind : node->behind;
            node->over = node->over && hub_has_ended(member);
        }
    }
    for (const struct hub_node *node = hub->nodes; node; node = node->next) {
        nodes += hub_shows(node);
    }
    link_error(hub->link, error);
    mpk_put_map(writer, 6 + 3 + HUB_COUNTS + 4);
    mpk_pair_str(writer, "role", "hub");
    mpk_pair_str(writer, "name", hub->name);
    mpk_put_str(writer, "id");
    hub_put_id(writer, hub->id);
    mpk_pair_str(writer, "url", link_url(hub->link));
    mpk_pair_bool(writer, "connected", link_connected(hub->link));
    hub_put_text(writer, "error", error);
    mpk_pair_u64(writer, "rows", hub->parts.rows);
    mpk_pair_u64(writer, "bytes", hub->parts.bytes);
    mpk_pair_u64(writer, "waiting", hub->waiting);
    for (int i = 0; i < HUB_COUNTS; i++) {
        mpk_pair_u64(writer, names[i], hub->counts[i]);
    }
    hub_put_text(writer, "unknown", hub->unknown);
    mpk_pair_array(writer, "nodes", nodes);
    for (const struct hub_node *node = hub->nodes; node; node = node->next) {
        if (hub_shows(node)) {
            hub_put_node(hub, node, writer);
        }
    }
    /* The newest first; where they are too many, those that are active before the others. */
    uint32_t active = 0, count = hub->run_count;
    for (const struct hub_run *run = hub->runs; run; run = run->next) {
        active += hub_state_of(hub, run) == JOB_ACTIVE;
    }
    count = count < HUB_RUNS_LISTED ? count : HUB_RUNS_LISTED;
    active = active < count ? active : count;
    uint32_t others = count - active;
    mpk_pair_u64(writer, "runs_more", hub->run_count - count);
    mpk_pair_array(writer, "runs", count);
    for (const struct hub_run *run = hub->runs; run; run = run->next) {
        enum job_state state = hub_state_of(hub, run);
        uint32_t *left = state == JOB_ACTIVE ? &active : &others;
        if (*left > 0) {
            --*left;
            hub_put_run(hub, run, state, writer);
        }
    }
}
