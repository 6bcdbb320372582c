/* SPDX-License-Identifier: MIT */
/* The memory of a hub from its file. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/fleet/hub_internal.h"
#include "proto/err.h"

#include <string.h>

/* A hub that ended badly may have recorded what its history has not got: commits of about so long
 * are lost with the power (daemon/store/store.c). */
#define REDO_S 60

static void hub_copy_text(char *to, size_t size, const unsigned char *text)
{
    strncpy(to, text ? (const char *)text : "", size - 1);
    to[size - 1] = '\0';
}

static int hub_load_nodes(struct hub *hub)
{
    int code = 0;
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_EACH_NODE, NULL);
    while (parts_row(&hub->parts, row)) {
        struct hub_node *node;
        if (sqlite3_column_bytes(row, 1) != FLEET_ID_BYTES) {
            continue;
        }
        node = hub_add_node(hub, sqlite3_column_int64(row, 0), sqlite3_column_blob(row, 1));
        if (!node) {
            code = ERR_MEMORY;
            continue;
        }
        if (sqlite3_column_bytes(row, 2) > 0) {
            hub_copy_text(node->name, sizeof node->name, sqlite3_column_text(row, 2));
        }
        hub_copy_text(node->host, sizeof node->host, sqlite3_column_text(row, 3));
        hub_copy_text(node->version, sizeof node->version, sqlite3_column_text(row, 4));
        node->has_instance = node->loaded = sqlite3_column_bytes(row, 5) == FLEET_ID_BYTES;
        if (node->has_instance) {
            memcpy(node->instance, sqlite3_column_blob(row, 5), FLEET_ID_BYTES);
        }
        size_t earlier = (size_t)sqlite3_column_bytes(row, 6);
        earlier = earlier < sizeof node->earlier ? earlier : sizeof node->earlier;
        if (earlier) {
            memcpy(node->earlier, sqlite3_column_blob(row, 6), earlier);
        }
        node->earlier_count = (uint32_t)(earlier / FLEET_ID_BYTES);
        if (sqlite3_column_bytes(row, 7) > 0) {
            seen_load(&node->seen, sqlite3_column_blob(row, 7),
                      (size_t)sqlite3_column_bytes(row, 7));
        }
    }
    return code;
}

static struct hub_node *hub_node_of(struct hub *hub, int64_t row)
{
    struct hub_node *node = hub->nodes;
    while (node && node->row != row) {
        node = node->next;
    }
    return node;
}

/* The track of a row of (run, unit, length, every, part, ...), and its run; NULL when the hub does
 * not know it. */
static struct hub_track *hub_load_track(struct hub *hub, sqlite3_stmt *row,
                                        struct hub_run **ret_run)
{
    struct hub_run *run = hub_run_of(hub, sqlite3_column_int64(row, 0));
    struct fleet_rule rule = parts_rule(row, 1);
    int at = run && hub_knows_rule(hub, run, &rule) ? hub_find_track(hub, run, &rule) : -1;
    *ret_run = run;
    return at < 0 ? NULL : &run->tracks[at];
}

static int hub_load_progress(struct hub *hub)
{
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_EACH_PROGRESS, NULL);
    int code = 0;
    while (parts_row(&hub->parts, row)) {
        struct hub_run *run = hub_run_of(hub, sqlite3_column_int64(row, 0));
        struct hub_node *node = hub_node_of(hub, sqlite3_column_int64(row, 1));
        struct hub_member *member = run && node ? hub_find_member(hub, run, node) : NULL;
        struct mpk_doc doc;
        struct fleet_body body;
        if (!member || mpk_parse(sqlite3_column_blob(row, 3), (size_t)sqlite3_column_bytes(row, 3),
                                 &fleet_limits, &doc) != 0) {
            continue;
        }
        if (fleet_body_decode(doc.root, &body) == 0 && body.kind != FLEET_PART) {
            hub_note_own_window(run, &body);
            int noted = hub_note_progress(hub, member, &body, column_u64(row, 2));
            code = code ? code : noted;
        }
        mpk_doc_clear(&doc);
    }
    return code;
}

/* Rows that were closed, what was merged, and below which parts nothing is. */
static int hub_load_windows(struct hub *hub)
{
    int code = 0;
    struct hub_run *run;
    struct hub_track *track;
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_EACH_CLOSED, NULL);
    while (parts_row(&hub->parts, row)) {
        track = hub_load_track(hub, row, &run);
        struct hub_node *node = hub_node_of(hub, sqlite3_column_int64(row, 5));
        struct hub_member *member = track && node ? hub_find_member(hub, run, node) : NULL;
        int noted = member ? hub_note_closed(hub, run, member, (uint32_t)(track - run->tracks),
                                             column_u64(row, 4), column_u64(row, 6))
                           : 0;
        code = code ? code : noted;
    }
    row = parts_bind(&hub->parts, PARTS_EACH_MERGED, SQL(sql_i64(REDO_S)));
    while (parts_row(&hub->parts, row)) {
        track = hub_load_track(hub, row, &run);
        struct hub_window *window = track ? hub_add_window(hub, track, column_u64(row, 4)) : NULL;
        if (window) {
            window->merged = true;
            window->revision = (uint32_t)sqlite3_column_int64(row, 5);
            window->changed = sqlite3_column_int(row, 6);
            window->redo = sqlite3_column_int(row, 7);
            run->has_partial = run->has_partial || sqlite3_column_int(row, 8);
        }
    }
    row = parts_bind(&hub->parts, PARTS_EACH_FLOOR, NULL);
    while (parts_row(&hub->parts, row)) {
        track = hub_load_track(hub, row, &run);
        if (track) {
            hub_raise_floor(track, column_u64(row, 4));
        }
    }
    return code;
}

static int hub_load_all(struct hub *hub)
{
    hub_merge_stop(hub); /* its run goes */
    hub_runs_free(hub);
    int code = hub_load_nodes(hub);
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_EACH_RUN, NULL);
    while (parts_row(&hub->parts, row)) {
        const char *job = (const char *)sqlite3_column_text(row, 1);
        if (!job || !job_name_valid(job, strlen(job)) ||
            sqlite3_column_bytes(row, 2) != RUN_BYTES) {
            continue;
        }
        struct hub_run *run = hub_add_run(hub, sqlite3_column_int64(row, 0), job, strlen(job),
                                          sqlite3_column_blob(row, 2));
        code = run ? code : ERR_MEMORY;
        if (run) {
            run->buckets = sqlite3_column_int64(row, 3);
            run->ended = sqlite3_column_int(row, 4);
            run->heard_s = run->saved_s = sqlite3_column_int64(row, 5);
        }
    }
    int loaded = hub_load_progress(hub); /* it tells what windows a run asks for */
    code = code ? code : loaded;
    int windows = hub_load_windows(hub);
    code = code ? code : windows;
    row = parts_bind(&hub->parts, PARTS_EACH_HEADS, NULL);
    while (parts_row(&hub->parts, row)) {
        struct hub_run *run = hub_run_of(hub, sqlite3_column_int64(row, 0));
        int noted = run ? hub_note_heads(run, (uint32_t)sqlite3_column_int64(row, 1),
                                         (uint32_t)sqlite3_column_int64(row, 2))
                        : 0;
        code = code ? code : noted;
    }
    row = parts_bind(&hub->parts, PARTS_EACH_SAID, NULL);
    while (parts_row(&hub->parts, row)) {
        struct hub_run *run = hub_run_of(hub, sqlite3_column_int64(row, 0));
        if (run) {
            run->said_last = sqlite3_column_int64(row, 1);
        }
    }
    hub->piece_bytes = hub->said_bytes = UINT64_MAX / 2; /* they are counted at once */
    hub->forget_ns = 0;
    return hub->parts.code && !code ? ERR_AGAIN : code;
}

int hub_put_meta(struct hub *hub)
{
    struct parts *parts = &hub->parts;
    parts_begin(parts);
    parts_run(parts, PARTS_PUT_META, SQL(sql_text("hub"), sql_blob(hub->id, FLEET_ID_BYTES)));
    parts_run(parts, PARTS_PUT_META,
              SQL(sql_text("history"), sql_blob(&hub->history, sizeof hub->history)));
    return parts_commit(parts);
}

int hub_load(struct hub *hub, int damage)
{
    char error[CONFIG_ERROR_MAX];
    for (int turn = 0; turn < 2; turn++) {
        parts_commit(&hub->parts); /* or undoes, where one before this has failed */
        if (parts_is_damage(damage) || !hub->parts.sql.db) {
            hub_merge_stop(hub);
            if (parts_open_anew(&hub->parts, hub->history_path, damage, error) != 0) {
                log_event(LOG_ERROR, "fleet_parts_trouble", LOG_STR("reason", error));
                return ERR_AGAIN;
            }
            hub_put_meta(hub);
        }
        int code = hub_load_all(hub);
        damage = hub->parts.code;
        if (!code || !parts_is_damage(damage)) {
            return code;
        }
    }
    return ERR_AGAIN;
}
