/* SPDX-License-Identifier: MIT */
/* Nothing that nodes send stays for ever. Parts, and the rows `closed` of them, go by age and size,
 * in the order in which they came; with them everything below them of their track, whose floor
 * rises. A run of which nothing was heard for fleet.keep is forgotten, but not its floors: rows of
 * it that come after all, or a training that goes on, are not merged with less than the history
 * has. A node goes when no run needs it; it can send everything again. */
#include "daemon/fleet/hub_internal.h"

#include "daemon/base/log.h"

#include <utlist.h>

#define SECOND    UINT64_C(1000000000)
#define FORGET_NS (10 * SECOND)
/* Rows of one turn. */
#define SLICE 256
/* Settings and logged values that the loop has, and may not have kept. */
#define TOLD_S 600
/* Rows that came in part are asked for again after a day. */
#define PIECES_S 86400
/* Rows `closed`, of all runs. */
#define CLOSED_MAX (INT64_C(1) << 20)
/* Forgotten runs whose floors are known. */
#define FORGOTTEN_MAX INT64_C(10000)
/* Where there is no room for one more run, it is looked for again after this. */
#define FULL_NS SECOND
/* How old what the file says of when a run was heard of may be. */
#define SAVE_S 60

/* Floors */

struct hub_floors {
    struct {
        int64_t run, track, part;
    } of[16];
    uint32_t count;
};

static void hub_put_floors(struct hub *hub, struct hub_floors *floors)
{
    struct parts *parts = &hub->parts;
    for (uint32_t i = 0; i < floors->count; i++) {
        int64_t row = floors->of[i].run, of = floors->of[i].track, floor = floors->of[i].part;
        struct hub_run *run = hub_run_of(hub, row);
        parts_run(parts, PARTS_PUT_FLOOR, SQL(sql_i64(row), sql_i64(of), sql_i64(floor)));
        parts_run(parts, PARTS_DROP_MERGED_BELOW, SQL(sql_i64(row), sql_i64(of), sql_i64(floor)));
        parts_run(parts, PARTS_DROP_CLOSED_BELOW, SQL(sql_i64(row), sql_i64(of), sql_i64(floor)));
        uint32_t lost = 0;
        for (uint32_t t = 0; run && t < run->track_count; t++) {
            if (run->tracks[t].row == of) {
                lost += hub_raise_floor(&run->tracks[t], (uint64_t)floor);
            }
        }
        hub->counts[HUB_WINDOWS_LOST] += lost;
        if (lost) {
            log_event(LOG_WARNING, "fleet_windows_lost", LOG_STR("job", run->job),
                      LOG_NUM("count", lost),
                      LOG_STR("detail", "their parts went before they were merged: fleet.outbox or "
                                        "fleet.keep of this hub is too small"));
        }
    }
    floors->count = 0;
}

/* Parts below `part` go. */
static void hub_add_floor(struct hub *hub, struct hub_floors *floors, int64_t run, int64_t track,
                          int64_t part)
{
    for (uint32_t i = 0; i < floors->count; i++) {
        if (floors->of[i].run == run && floors->of[i].track == track) {
            floors->of[i].part = part > floors->of[i].part ? part : floors->of[i].part;
            return;
        }
    }
    if (floors->count == sizeof floors->of / sizeof floors->of[0]) {
        hub_put_floors(hub, floors);
    }
    floors->of[floors->count].run = run;
    floors->of[floors->count].track = track;
    floors->of[floors->count++].part = part;
}

/* Drops at most SLICE rows that were stored before. Returns how many. */
static uint32_t hub_forget_rows(struct hub *hub, enum parts_statement drop, int64_t before_s)
{
    struct hub_floors floors = {.count = 0};
    uint32_t count = 0;
    sqlite3_stmt *row = parts_bind(&hub->parts, drop, SQL(sql_i64(before_s), sql_i64(SLICE)));
    for (; parts_row(&hub->parts, row); count++) {
        if (drop == PARTS_DROP_OLD_PARTS) {
            uint64_t bytes = column_u64(row, 3);
            hub->parts.rows -= hub->parts.rows > 0;
            hub->parts.bytes -= bytes < hub->parts.bytes ? bytes : hub->parts.bytes;
        }
        hub_add_floor(hub, &floors, sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1),
                      sqlite3_column_int64(row, 2) + 1);
    }
    hub_put_floors(hub, &floors);
    return count;
}

/* When rows of a table have more bytes than `most`, the oldest go. `size`: how many they have at
 * most, as far as is known. */
static void hub_forget_beyond(struct hub *hub, uint64_t *size, uint64_t most,
                              enum parts_statement sum, enum parts_statement drop)
{
    struct parts *parts = &hub->parts;
    sqlite3_stmt *row = *size > most ? parts_bind(parts, sum, NULL) : NULL;
    if (!row || !parts_row(parts, row)) {
        return;
    }
    *size = column_u64(row, 0) * HUB_ROW_BYTES + column_u64(row, 1);
    sqlite3_reset(row);
    for (uint64_t count = 1, gone = 0; *size > most - most / 8 && count > 0; *size -= gone) {
        count = gone = 0;
        for (row = parts_bind(parts, drop, SQL(sql_i64(INT64_MAX), sql_i64(SLICE / 8)));
             parts_row(parts, row); count++) {
            gone += column_u64(row, 0) + HUB_ROW_BYTES;
        }
        gone = gone < *size ? gone : *size;
    }
}

/* Runs */

void hub_forget_run(struct hub *hub, struct hub_run *run)
{
    struct hub_floors floors = {.count = 0};
    if (hub->job.run == run) {
        hub_merge_stop(hub);
    }
    if (log_is_round(hub->forgotten_runs++)) {
        log_event(LOG_INFO, "fleet_run_forgotten", LOG_STR("job", run->job),
                  LOG_NUM("count", hub->forgotten_runs));
    }
    parts_begin(&hub->parts);
    for (uint32_t t = 0; t < run->track_count; t++) {
        const struct hub_track *track = &run->tracks[t];
        uint64_t floor = track->front > track->floor ? track->front : track->floor;
        hub_add_floor(hub, &floors, run->row, track->row, (int64_t)floor);
    }
    hub_put_floors(hub, &floors);
    run->forgotten_s = hub_now_s(hub);
    hub_save_run(hub, run);
    parts_run(&hub->parts, PARTS_DROP_PROGRESS, SQL(sql_i64(run->row)));
    parts_run(&hub->parts, PARTS_DROP_SAID, SQL(sql_i64(run->row)));
    parts_run(&hub->parts, PARTS_DROP_HEADS, SQL(sql_i64(run->row)));
    hub_free_run(hub, run);
}

/* The run that was heard of first goes, of those that are over or have closed nothing. */
bool hub_make_room(struct hub *hub)
{
    uint64_t most = hub->config->limits_jobs * hub->config->limits_runs + HUB_RUNS_MORE;
    struct hub_run *oldest = NULL;
    if (hub->run_count < (most < HUB_RUNS_MAX ? most : HUB_RUNS_MAX)) {
        return true;
    }
    if (hub->now_ns < hub->full_ns) {
        return false;
    }
    for (struct hub_run *run = hub->runs; run; run = run->next) {
        bool over = hub_state_of(hub, run) != JOB_ACTIVE || run->track_count == 0;
        oldest = over && (!oldest || run->heard_s < oldest->heard_s) ? run : oldest;
    }
    if (!oldest) {
        hub->full_ns = hub->now_ns + FULL_NS;
        return false;
    }
    hub_forget_run(hub, oldest);
    return true;
}

/* Nodes */

static void hub_forget_node(struct hub *hub, struct hub_node *node)
{
    parts_begin(&hub->parts);
    parts_run(&hub->parts, PARTS_DROP_NODE, SQL(sql_i64(node->row)));
    parts_run(&hub->parts, PARTS_DROP_PIECES_OF, SQL(sql_i64(node->row)));
    LL_DELETE(hub->nodes, node);
    hub_free_node(node);
}

static bool hub_make_room_for_node(struct hub *hub)
{
    struct hub_node *oldest = NULL;
    uint32_t count = 0;
    for (struct hub_node *node = hub->nodes; node; node = node->next, count++) {
        bool older = !oldest || node->used_s < oldest->used_s;
        oldest = older && node->memberships == 0 ? node : oldest;
    }
    if (count < HUB_NODES_MAX) {
        return true;
    }
    if (!oldest || oldest->used_s + (int64_t)(HUB_GONE_NS / SECOND) > hub_now_s(hub)) {
        return false;
    }
    hub_forget_node(hub, oldest);
    return true;
}

struct hub_node *hub_find_node(struct hub *hub, const uint8_t *id)
{
    struct hub_node *node = hub->nodes;
    while (node && memcmp(node->id, id, sizeof node->id) != 0) {
        node = node->next;
    }
    if (node) {
        return node;
    }
    if (!hub_make_room_for_node(hub)) {
        if (log_is_round(hub->refused_nodes++)) {
            log_event(LOG_WARNING, "fleet_nodes_too_many", LOG_NUM("most", HUB_NODES_MAX),
                      LOG_NUM("count", hub->refused_nodes));
        }
        return NULL;
    }
    parts_begin(&hub->parts);
    int64_t row = parts_run(&hub->parts, PARTS_PUT_NODE, SQL(sql_blob(id, FLEET_ID_BYTES)));
    return row < 0 ? NULL : hub_add_node(hub, row, id);
}

/* All of it */

bool hub_forget(struct hub *hub)
{
    struct parts *parts = &hub->parts;
    const uint64_t outbox = hub->config->fleet_outbox;
    int64_t now_s = hub_now_s(hub), before_s = now_s - (int64_t)(hub->config->fleet_keep / SECOND);
    if (hub->now_ns < hub->forget_ns || hub->job.run) {
        return false;
    }
    parts_begin(parts);
    parts_sum(parts);
    /* Parts, and the rows `closed` of them. */
    bool more = hub_forget_rows(hub, PARTS_DROP_OLD_PARTS, before_s) == SLICE;
    more = hub_forget_rows(hub, PARTS_DROP_OLD_CLOSED, before_s) == SLICE || more;
    while (parts->bytes > hub->config->fleet_outbox && parts->rows > 0 && !parts->code) {
        hub_forget_rows(hub, PARTS_DROP_OLD_PARTS, INT64_MAX);
        more = true;
    }
    int64_t closed = parts_run(parts, PARTS_COUNT_CLOSED, NULL);
    for (; closed > CLOSED_MAX && !parts->code; closed -= SLICE) {
        hub_forget_rows(hub, PARTS_DROP_OLD_CLOSED, INT64_MAX);
    }
    parts_run(parts, PARTS_DROP_OLD_SAID, SQL(sql_i64(now_s - TOLD_S), sql_i64(before_s)));
    parts_run(parts, PARTS_DROP_OLD_PIECES, SQL(sql_i64(now_s - PIECES_S), sql_i64(INT64_MAX)));
    hub_forget_beyond(hub, &hub->piece_bytes, outbox / HUB_PIECES_PART, PARTS_SUM_PIECES,
                      PARTS_DROP_OLD_PIECES);
    hub_forget_beyond(hub, &hub->said_bytes, outbox / HUB_SAID_PART, PARTS_SUM_SAID,
                      PARTS_DROP_FIRST_SAID);
    /* When each was last heard of is written now and then. */
    for (struct hub_run *run = hub->runs, *next; run; run = next) {
        next = run->next;
        if (run->heard_s < before_s) {
            hub_forget_run(hub, run);
        } else if (run->heard_s >= run->saved_s + SAVE_S) {
            hub_save_run(hub, run);
        }
    }
    parts_run(&hub->parts, PARTS_DROP_OLD_RUNS, SQL(sql_i64(FORGOTTEN_MAX)));
    parts_run(&hub->parts, PARTS_DROP_LONE_FLOORS, NULL);
    /* Nodes of no run that were not heard of since. */
    for (struct hub_node *node = hub->nodes, *next; node; node = next) {
        next = node->next;
        if (node->used_s < before_s && node->memberships == 0) {
            hub_forget_node(hub, node);
        }
    }
    parts_run(parts, PARTS_FREE_PAGES, NULL);
    hub->forget_ns = more ? hub->now_ns : hub->now_ns + FORGET_NS;
    return more;
}
