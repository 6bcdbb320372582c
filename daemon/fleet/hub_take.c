/* SPDX-License-Identifier: MIT */
/* A row is checked whole before it goes into the file, so that what is in there can be merged. One
 * that cannot be read is set aside and counts as seen: its node could only send it again. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/fleet/hub_internal.h"
#include "proto/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whose parts they are */

static bool hub_is_earlier(const struct hub_node *node, const uint8_t *instance)
{
    for (uint32_t i = 0; i < node->earlier_count; i++) {
        if (memcmp(node->earlier[i], instance, FLEET_ID_BYTES) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether a start of the node may speak for it: the one that is known, or a new one when that is
 * silent, or had the same history. An earlier one may still have rows in the stream. `beat`: a sign
 * of life of it; NULL: a row. *ret_twice: another one was heard; else the hub has only just begun
 * to listen. */
static bool hub_accepts(struct hub *hub, struct hub_node *node, const uint8_t *instance,
                        const struct fleet_beat *beat, bool *ret_twice)
{
    *ret_twice = false;
    if (node->has_instance && memcmp(node->instance, instance, FLEET_ID_BYTES) == 0) {
        return true;
    }
    if (!beat && hub_is_earlier(node, instance)) {
        return true;
    }
    *ret_twice = node->heard_ns && !node->beat.stopping &&
                 clock_since_ns(node->heard_ns, hub->now_ns) < HUB_GONE_NS;
    bool early = node->loaded && !node->heard_ns &&
                 clock_since_ns(hub->started_ns, hub->now_ns) < HUB_GONE_NS;
    if (*ret_twice && beat && beat->file && beat->file == node->beat.file) {
        *ret_twice = false; /* the same file, which only one attnd opens at a time */
        early = false;
    }
    if (*ret_twice && beat && log_is_round(hub->refused_copies++)) {
        log_event(LOG_WARNING, "fleet_node_twice", LOG_STR("node", node->name),
                  LOG_STR("host", node->host),
                  LOG_STR("detail", "another attnd has its id, as from a copied history"));
    }
    if (*ret_twice || early) {
        return false;
    }
    /* The node was started anew. */
    if (node->has_instance) {
        if (node->earlier_count == HUB_EARLIER_MAX) {
            memmove(node->earlier[0], node->earlier[1],
                    (HUB_EARLIER_MAX - 1) * sizeof node->earlier[0]);
            node->earlier_count--;
        }
        memcpy(node->earlier[node->earlier_count++], node->instance, FLEET_ID_BYTES);
    }
    memcpy(node->instance, instance, FLEET_ID_BYTES);
    node->has_instance = node->unsaved = true;
    node->loaded = false;
    node->heard_ns = 0;
    *node->refused = '\0';
    return true;
}

static void hub_hear(struct hub_run *run, int64_t heard_s)
{
    run->heard_s = heard_s > run->heard_s ? heard_s : run->heard_s;
}

/* Where nobody was heard it was the hub, or its servers, that was cut off: all nodes are waited for
 * as at its start. All may be silent between two signs of life, which is no such silence. */
static void hub_listen(struct hub *hub)
{
    uint64_t most = hub->config->window_timeout / 2;
    most = most < HUB_GONE_NS / 2 ? HUB_GONE_NS / 2 : most < HUB_GONE_NS ? most : HUB_GONE_NS;
    if (clock_since_ns(hub->heard_ns, hub->now_ns) >= most) {
        hub->listens_ns = hub->now_ns;
    }
    hub->heard_ns = hub->now_ns;
}

struct hub_node *hub_take_beat(struct hub *hub, const uint8_t *id, const struct fleet_beat *beat,
                               const char **ret_refused)
{
    hub_listen(hub);
    struct hub_node *node = hub_find_node(hub, id);
    *ret_refused = "the hub has no room for one more node";
    if (!node) {
        return NULL;
    }
    node->used_s = hub_now_s(hub);
    bool twice;
    if (!hub_accepts(hub, node, beat->instance, beat, &twice)) {
        *ret_refused = "";
        if (!twice) {
            return NULL;
        }
        snprintf(node->twice, sizeof node->twice,
                 "another attnd with the id of this node lives, %.40s on %.40s: remove the copied "
                 "history",
                 node->name, node->host);
        snprintf(node->copy, sizeof node->copy,
                 "another attnd has its id, %.40s on %.40s, as from a copied history, and is "
                 "refused",
                 beat->name, beat->host);
        node->copy_ns = hub->now_ns;
        *ret_refused = node->twice;
        return NULL;
    }
    struct fleet_beat_run *runs = calloc(beat->runs_found->via.array.size + 1, sizeof *runs);
    if (!runs) {
        return NULL;
    }
    node->unsaved = node->unsaved || strcmp(node->name, beat->name) != 0 ||
                    strcmp(node->host, beat->host) != 0 ||
                    strcmp(node->version, beat->version) != 0;
    strcpy(node->name, beat->name);
    strcpy(node->host, beat->host);
    strcpy(node->version, beat->version);
    free(node->runs);
    node->runs = runs;
    node->run_count = 0;
    for (uint32_t i = 0; i < beat->runs_found->via.array.size; i++) {
        if (fleet_beat_run_decode(&beat->runs_found->via.array.ptr[i], &runs[node->run_count]) ==
            0) {
            node->run_count++;
        }
    }
    if (node->run_count > 1) {
        qsort(runs, node->run_count, sizeof *runs, hub_beat_order);
    }
    node->heard_ns = hub->now_ns;
    node->clock_ns = (int64_t)(beat->time_ns - clock_wall_ns());
    node->beat = *beat;
    node->beat.runs = NULL;
    node->beat.runs_found = NULL;
    bool refused = false; /* while the run goes on there: then its rows of others are wanted */
    for (uint32_t i = 0; i < node->run_count; i++) {
        uint32_t at = i && hub_beat_order(&runs[i], &runs[i - 1]) == 0 /* it is named twice */
                          ? hub->run_count
                          : hub_index_at(hub, runs[i].run);
        for (; at < hub->run_count; at++) {
            struct hub_run *run = hub->runs_by_id[at];
            if (memcmp(runs[i].run, run->run, RUN_BYTES) != 0) {
                break;
            }
            uint64_t silent_s = runs[i].silent_ns / UINT64_C(1000000000);
            const struct hub_member *member = hub_find_member(hub, run, node);
            refused = refused || (member && member->refused);
            hub_hear(run, hub_now_s(hub) - (int64_t)silent_s);
        }
    }
    *node->refused = refused ? *node->refused : '\0';
    *ret_refused = node->refused;
    return node;
}

/* Rows */

static void hub_set_aside(struct hub *hub, const struct hub_node *node, uint64_t seq, int code)
{
    if (log_is_round(hub->counts[HUB_POISONED]++)) {
        log_event(LOG_WARNING, "fleet_row_set_aside", LOG_STR("node", node->name),
                  LOG_NUM("seq", seq), LOG_STR("reason", err_slug(code)),
                  LOG_NUM("count", hub->counts[HUB_POISONED]));
    }
}

/* The first part of a run says how many buckets its histograms have. */
static bool hub_agrees(struct hub *hub, struct hub_run *run, struct hub_member *member,
                       uint32_t buckets)
{
    struct hub_node *node = member->node;
    if (run->buckets < 0) {
        run->buckets = buckets;
        hub_save_run(hub, run);
    }
    member->refused = run->buckets != (int64_t)buckets;
    if (!member->refused) {
        return true;
    }
    if (!*node->refused) {
        snprintf(node->refused, sizeof node->refused,
                 "window.buckets is %u here and %lld on the other nodes of the run: histograms "
                 "cannot be merged",
                 buckets, (long long)run->buckets);
        log_event(LOG_WARNING, "fleet_node_refused", LOG_STR("node", node->name),
                  LOG_STR("job", run->job), LOG_STR("reason", node->refused));
    }
    return false;
}

int hub_note_heads(struct hub_run *run, uint32_t layer, uint32_t heads)
{
    for (uint32_t i = 0; i < run->layer_count; i++) {
        if (run->layers[i].key == layer) {
            return run->layers[i].heads == heads ? 0 : ERR_HEADS_CHANGED;
        }
    }
    if (run->layer_count == HUB_LAYERS_MAX) {
        return ERR_STREAM_LIMIT;
    }
    struct hub_layer *layers = realloc(run->layers, (run->layer_count + 1) * sizeof *layers);
    if (!layers) {
        return ERR_MEMORY;
    }
    run->layers = layers;
    run->layers[run->layer_count++] = (struct hub_layer){layer, heads};
    return 0;
}

/* The first part of a layer says how many heads it has. */
static int hub_check_heads(struct hub *hub, struct hub_run *run, uint32_t layer, uint32_t heads)
{
    uint32_t before = run->layer_count;
    int code = hub_note_heads(run, layer, heads);
    if (run->layer_count > before) {
        parts_run(&hub->parts, PARTS_PUT_HEADS,
                  SQL(sql_i64(run->row), sql_u64(layer), sql_u64(heads)));
    }
    return code;
}

/* Returns 0, ERR_MEMORY, or what is wrong with it. */
static int hub_take_part(struct hub *hub, struct hub_run *run, struct hub_member *member,
                         uint32_t track, const struct fleet_body *body, uint64_t seq)
{
    struct layer_state *state;
    char module[MODULE_MAX + 1] = "";
    if (body->part < run->tracks[track].floor) {
        return 0;
    }
    int code = layer_state_unpack(body->state, body->state_size, &state);
    if (code) {
        return code;
    }
    uint32_t layer = header_layer_key(body->layer);
    bool agrees = hub_agrees(hub, run, member, state->buckets);
    code = agrees ? hub_check_heads(hub, run, layer, state->heads) : 0;
    layer_state_free(&state);
    if (code || !agrees) {
        return code;
    }
    if (body->module) {
        memcpy(module, body->module, body->module_size);
    }
    int64_t put = parts_run(&hub->parts, PARTS_PUT_PART,
                            SQL(sql_i64(run->row), sql_i64(run->tracks[track].row),
                                sql_u64(body->part), sql_u64(layer), sql_i64(member->node->row),
                                sql_u64(seq), sql_i64(hub_now_s(hub)), sql_u64(body->state_size),
                                sql_text(body->module ? module : NULL),
                                sql_blob(body->state, body->state_size)));
    if (put > 0) { /* else it was here, or a newer one */
        hub->parts.rows++;
        hub->parts.bytes += body->state_size;
        hub_note_changed(hub, run, track, body->part);
    }
    return 0;
}

static int hub_take_closed(struct hub *hub, struct hub_run *run, struct hub_member *member,
                           uint32_t track, const struct fleet_body *body, uint64_t seq)
{
    const struct hub_track *of = &run->tracks[track];
    if (body->part < of->floor) {
        return 0;
    }
    int64_t put = parts_run(
        &hub->parts, PARTS_PUT_CLOSED,
        SQL(sql_i64(run->row), sql_i64(of->row), sql_u64(body->part), sql_i64(member->node->row),
            sql_u64(seq), sql_u64(body->next_before), sql_u64(body->complete_from),
            sql_u64(body->cut), sql_u64(body->layers), sql_i64(hub_now_s(hub))));
    if (put <= 0) {
        return 0; /* it was here, or a newer one */
    }
    int code = hub_note_closed(hub, run, member, track, body->part, seq);
    hub_note_changed(hub, run, track, body->part);
    return code;
}

static void hub_note_unknown(struct hub *hub, const struct hub_node *node,
                             const struct fleet_body *body)
{
    snprintf(hub->unknown, sizeof hub->unknown,
             "%s has windows of %llu %s%s every %llu, this hub has none: set window.unit, "
             "window.length and window.every, or window.also, alike on nodes and hub",
             node->name, (unsigned long long)body->rule.length, window_unit_name(body->rule.unit),
             body->rule.length == 1 ? "" : "s", (unsigned long long)body->rule.every);
    if (log_is_round(hub->counts[HUB_WINDOWS_UNKNOWN]++)) {
        log_event(LOG_WARNING, "fleet_window_unknown", LOG_STR("node", node->name),
                  LOG_STR("unit", window_unit_name(body->rule.unit)),
                  LOG_NUM("length", body->rule.length), LOG_NUM("every", body->rule.every),
                  LOG_STR("detail", hub->unknown));
    }
}

/* It goes on, also when the loop is just being told that it has ended. */
static void hub_set_active(struct hub *hub, struct hub_run *run)
{
    run->told = false;
    if (run->ended) {
        run->ended = false;
        hub_save_run(hub, run);
    }
}

static int hub_take_body(struct hub *hub, struct hub_node *node, const struct fleet_body *body,
                         const void *data, size_t size, uint64_t seq)
{
    int track = 0, code = 0;
    if (body->kind != FLEET_PART && size > HUB_SAID_MAX) {
        return ERR_FLEET;
    }
    if (!hub_known_run(hub, body->job, body->job_size, body->run) && !hub_make_room(hub)) {
        return ERR_RUN_LIMIT;
    }
    struct hub_run *run = hub_find_run(hub, body->job, body->job_size, body->run);
    struct hub_member *member = run ? hub_find_member(hub, run, node) : NULL;
    if (run && !member && hub->members >= HUB_MEMBERS_MAX) {
        return ERR_RUN_LIMIT;
    }
    if (run) {
        hub_note_own_window(run, body);
    }
    bool known = member && body->kind != FLEET_RUN && hub_knows_rule(hub, run, &body->rule);
    if (known) {
        track = hub_find_track(hub, run, &body->rule);
    }
    if (!member || track < 0) {
        return ERR_MEMORY;
    }
    hub_hear(run, hub_now_s(hub));
    if (body->kind == FLEET_PART) {
        return known ? hub_take_part(hub, run, member, (uint32_t)track, body, seq) : 0;
    }
    parts_run(&hub->parts, PARTS_PUT_PROGRESS,
              SQL(sql_i64(run->row), sql_i64(node->row), sql_u64(seq), sql_blob(data, size)));
    code = hub_note_progress(hub, member, body, seq);
    if (!code && body->kind == FLEET_CLOSED) {
        hub_set_active(hub, run);
        if (!known) {
            hub_note_unknown(hub, node, body);
            return 0;
        }
        return hub_take_closed(hub, run, member, (uint32_t)track, body, seq);
    }
    if (!code &&
        (body->settings || body->failure.type[0] || body->points_found->via.array.size > 0)) {
        /* Settings, and values that were logged, for the loop. */
        int64_t said = parts_run(&hub->parts, PARTS_PUT_SAID,
                                 SQL(sql_i64(run->row), sql_i64(node->row), sql_u64(seq),
                                     sql_blob(data, size), sql_i64(hub_now_s(hub))));
        run->said_last = said > run->said_last ? said : run->said_last;
        hub->said_bytes += size + HUB_ROW_BYTES;
        hub->forget_ns =
            hub->said_bytes > hub->config->fleet_outbox / HUB_SAID_PART ? 0 : hub->forget_ns;
    }
    if (body->state_of_run == JOB_ACTIVE) {
        hub_set_active(hub, run);
    }
    return code;
}

/* A whole row. Only memory is a reason to have it again. */
static int hub_take_row(struct hub *hub, struct hub_node *node, uint64_t seq, const void *data,
                        size_t size)
{
    struct mpk_doc doc;
    struct fleet_body body;
    int code = mpk_parse(data, size, &fleet_limits, &doc);
    if (!code) {
        code = fleet_body_decode(doc.root, &body);
        code = code ? code : hub_take_body(hub, node, &body, data, size, seq);
        mpk_doc_clear(&doc);
    }
    if (code && code != ERR_MEMORY) {
        hub_set_aside(hub, node, seq, code);
        code = 0;
    }
    hub->counts[HUB_RECEIVED]++;
    return code;
}

/* Puts a row together when all its pieces are there. Returns 0 or ERR_MEMORY. */
static int hub_take_piece(struct hub *hub, struct hub_node *node, const struct hub_message *message,
                          bool *ret_whole)
{
    struct parts *parts = &hub->parts;
    int64_t seq = (int64_t)message->seq;
    size_t size = 0;
    *ret_whole = true;
    if (message->piece < message->pieces &&
        message->size * (message->pieces - 1) > fleet_limits.bytes) {
        hub_set_aside(hub, node, message->seq, ERR_FLEET);
        return 0;
    }
    hub->piece_bytes += message->size + HUB_ROW_BYTES;
    hub->forget_ns =
        hub->piece_bytes > hub->config->fleet_outbox / HUB_PIECES_PART ? 0 : hub->forget_ns;
    parts_run(parts, PARTS_PUT_PIECE,
              SQL(sql_i64(node->row), sql_i64(seq), sql_u64(message->piece),
                  sql_u64(message->pieces), sql_blob(message->data, message->size),
                  sql_i64(hub_now_s(hub))));
    int64_t there = parts_run(parts, PARTS_COUNT_PIECES,
                              SQL(sql_i64(node->row), sql_i64(seq), sql_u64(message->pieces)));
    *ret_whole = there == (int64_t)message->pieces;
    if (!*ret_whole) {
        return 0;
    }
    char *row = NULL;
    sqlite3_stmt *piece = parts_bind(
        parts, PARTS_EACH_PIECE, SQL(sql_i64(node->row), sql_i64(seq), sql_u64(message->pieces)));
    int code = 0;
    while (parts_row(parts, piece)) {
        size_t more = (size_t)sqlite3_column_bytes(piece, 0);
        char *grown = realloc(row, size + more + 1);
        if (!grown) {
            code = ERR_MEMORY;
            continue;
        }
        row = grown;
        if (more) {
            memcpy(row + size, sqlite3_column_blob(piece, 0), more);
        }
        size += more;
    }
    code = code ? code : hub_take_row(hub, node, message->seq, row, size);
    if (!code) { /* else the last piece comes again, and no other */
        parts_run(parts, PARTS_DROP_PIECES, SQL(sql_i64(node->row), sql_i64(seq)));
    }
    free(row);
    return code;
}

enum hub_verdict hub_take(struct hub *hub, const struct hub_message *message)
{
    bool whole = true, twice;
    int code = 0;
    hub_listen(hub);
    parts_begin(&hub->parts);
    if (!hub->parts.open) {
        return HUB_AGAIN;
    }
    struct hub_node *node = hub_find_node(hub, message->node);
    if (!node || !hub_accepts(hub, node, message->instance, NULL, &twice)) {
        return hub->parts.code ? HUB_AGAIN : HUB_LATER;
    }
    node->unsaved = true;
    node->used_s = hub_now_s(hub);
    if (message->gone.first) {
        struct seen_range gone = message->gone;
        uint64_t before = seen_lacking(&node->seen, gone.last);
        code = seen_add(&node->seen, gone.first, gone.last);
        if (!message->skipped) {
            /* Earlier starts of the node left out multiples of FLEET_JUMP (proto/FLEET.md). */
            hub->counts[HUB_GONE] += (before - seen_lacking(&node->seen, gone.last)) % FLEET_JUMP;
        }
    } else if (seen_has(&node->seen, message->seq)) {
        hub->counts[HUB_REPEATED]++;
    } else if (message->pieces > 1) {
        code = hub_take_piece(hub, node, message, &whole);
    } else {
        code = hub_take_row(hub, node, message->seq, message->data, message->size);
    }
    if (!code && whole && !message->gone.first) {
        code = seen_add(&node->seen, message->seq, message->seq);
    }
    return code ? HUB_AGAIN : HUB_TAKE;
}

void hub_take_save(struct hub *hub)
{
    for (struct hub_node *node = hub->nodes; node; node = node->next) {
        if (!node->unsaved) {
            continue;
        }
        parts_begin(&hub->parts);
        node->unsaved = false;
        parts_run(&hub->parts, PARTS_SET_NODE,
                  SQL(sql_text(node->name), sql_text(node->host), sql_text(node->version),
                      sql_blob(node->instance, FLEET_ID_BYTES),
                      sql_blob(node->earlier, node->earlier_count * (size_t)FLEET_ID_BYTES),
                      sql_blob(node->seen.ranges, node->seen.count * sizeof *node->seen.ranges),
                      sql_i64(node->row)));
    }
}
