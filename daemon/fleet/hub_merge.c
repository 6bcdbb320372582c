/* SPDX-License-Identifier: MIT */
/* A window is merged a layer at a time, between which the hub fetches. States of a layer are added
 * in the order of node ids, then of parts, few enough at a time to bound memory: two hubs with
 * the same parts add the same numbers in the same order. */
#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/grow.h"
#include "daemon/base/log.h"
#include "daemon/fleet/hub_internal.h"
#include "daemon/store/store.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

/* States, heads and packed bytes of them in memory at once. Fewer at a time take longer. */
#define STATES_MAX 256
#define HEADS_MAX  (64 * STATES_MAX)
#define BYTES_MAX  (UINT64_C(128) << 20)
#define RETRY_NS   UINT64_C(1000000000)
#define REFUSED_NS UINT64_C(5000000000)

/* Missing nodes */

static int hub_add_missing(struct merged *merged, const struct hub_node *node, const char *reason)
{
    struct result_missing *missing =
        realloc(merged->missing, (merged->missing_count + 1) * sizeof *missing);
    if (!missing) {
        return ERR_MEMORY;
    }
    merged->missing = missing;
    struct result_missing *last = &missing[merged->missing_count++];
    strcpy(last->name, node->name);
    last->reason = reason;
    merged->partial = true;
    return 0;
}

static uint64_t hub_first_part(const struct hub_track *track, uint64_t part)
{
    uint64_t parts = hub_track_parts(track);
    return part + 1 >= parts ? part + 1 - parts : 0;
}

/* The window as a member's rows `closed` have it. */
struct hub_closing {
    uint64_t layers; /* states that it has sent */
    bool partial, gone, reaches;
};

static struct hub_closing hub_read_closings(struct hub *hub, const struct hub_job *job,
                                            const struct hub_member *member)
{
    const struct hub_track *track = &job->run->tracks[job->track];
    uint64_t first = hub_first_part(track, job->part), next = first;
    struct hub_closing closing = {.layers = 0};
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_CLOSED_OF,
                                   SQL(sql_i64(job->run->row), sql_i64(track->row),
                                       sql_i64(member->node->row), sql_u64(first)));
    while (!closing.reaches && parts_row(&hub->parts, row)) {
        uint64_t part = column_u64(row, 0);
        closing.gone = closing.gone || column_u64(row, 1) > next;
        closing.reaches = part >= job->part;
        if (part <= job->part) {
            closing.partial =
                closing.partial || sqlite3_column_int(row, 3) || column_u64(row, 2) > first;
            closing.layers += column_u64(row, 4);
        }
        next = part + 1;
    }
    sqlite3_reset(row);
    return closing;
}

/* Finds what is not there of the window, and because of whom. */
static int hub_find_missing(struct hub *hub, struct hub_job *job)
{
    struct merged *merged = job->merged;
    uint64_t *states = calloc(job->run->member_count + 1, sizeof *states);
    int code = states ? 0 : ERR_MEMORY;
    if (states) {
        /* How many states of each member are in the file for these parts: [members]. */
        const struct hub_track *track = &job->run->tracks[job->track];
        sqlite3_stmt *row =
            parts_bind(&hub->parts, PARTS_COUNT_PARTS,
                       SQL(sql_i64(job->run->row), sql_i64(track->row),
                           sql_u64(hub_first_part(track, job->part)), sql_u64(job->part)));
        while (parts_row(&hub->parts, row)) {
            for (uint32_t i = 0; i < job->run->member_count; i++) {
                if (job->run->members[i]->node->row == sqlite3_column_int64(row, 0)) {
                    states[i] += column_u64(row, 1);
                }
            }
        }
    }
    for (uint32_t i = 0; i < job->run->member_count && !code; i++) {
        const struct hub_member *member = job->run->members[i];
        struct hub_closing closing = hub_read_closings(hub, job, member);
        merged->nodes += states[i] > 0;
        merged->partial = merged->partial || closing.partial;
        if (member->refused) {
            code = hub_add_missing(merged, member->node, "its window.buckets is another");
        } else if (closing.gone || states[i] < closing.layers) {
            code = hub_add_missing(merged, member->node, "some of its parts are not there");
        } else if (!closing.reaches && hub_has_ended(member)) {
            merged->partial = true; /* as where one rank ends before the others */
        } else if (!closing.reaches) {
            code =
                hub_add_missing(merged, member->node,
                                hub_is_heard(hub, member->node) ? "it is behind" : "it is silent");
        }
    }
    free(states);
    return code;
}

/* Layers */

/* Adds states to the layer's, which may be NULL. */
static int hub_add_states(struct layer_state **into, struct layer_state **states, uint32_t *count)
{
    int code = 0;
    if (*count == 0) {
        return 0;
    }
    if (!*into && *count == 1) {
        *into = states[0];
        *count = 0;
        return 0;
    }
    if (!*into) {
        *into = layer_state_new(states[0]->heads, states[0]->buckets);
        code = *into ? 0 : ERR_MEMORY;
    }
    code = code ? code
                : layer_state_merge_all(*into, (const struct layer_state *const *)states, *count);
    for (uint32_t i = 0; i < *count; i++) {
        layer_state_free(&states[i]);
    }
    *count = 0;
    return code;
}

/* A step of one training is in one epoch, whichever node sees it. */
static void hub_note_disagreement(struct hub *hub, const struct hub_job *job)
{
    struct hub_window *window = hub_find_window(&job->run->tracks[job->track], job->part);
    if (!window || window->disagreed) {
        return;
    }
    window->disagreed = true;
    if (log_is_round(hub->counts[HUB_STEPS_DISAGREE]++)) {
        log_event(LOG_WARNING, "fleet_steps_disagree", LOG_STR("job", job->run->job),
                  LOG_NUM("part", job->part),
                  LOG_STR("detail", "nodes of the run are in different epochs at the same step"));
    }
}

/* A state that was sound when it came. It goes on without it, and says because of whom. */
static int hub_leave_out(struct hub *hub, struct hub_job *job, int64_t node, int reason)
{
    const struct hub_member *member = hub_member_of(job->run, node);
    struct merged *merged = job->merged;
    const char *name = member ? member->node->name : "";
    if (log_is_round(hub->counts[HUB_POISONED]++)) {
        log_event(LOG_WARNING, "fleet_part_damaged", LOG_STR("job", job->run->job),
                  LOG_NUM("part", job->part), LOG_STR("node", name),
                  LOG_STR("reason", err_slug(reason)));
    }
    for (uint32_t i = 0; i < merged->missing_count; i++) {
        if (strcmp(merged->missing[i].name, name) == 0) {
            return 0;
        }
    }
    merged->partial = true;
    return member ? hub_add_missing(merged, member->node, "one of its parts is damaged") : 0;
}

static int hub_merge_layer(struct hub *hub, struct hub_job *job, uint32_t key)
{
    const struct hub_track *track = &job->run->tracks[job->track];
    struct merged_layer *layer = &job->merged->layers[job->merged->layer_count++];
    struct layer_state *states[STATES_MAX], *state;
    uint32_t count = 0, heads = 0;
    uint64_t epoch = 0, step = 0, bytes = 0;
    int code = 0;
    *layer = (struct merged_layer){.id = header_layer_of(key)};
    sqlite3_stmt *row = parts_bind(&hub->parts, PARTS_EACH_STATE,
                                   SQL(sql_i64(job->run->row), sql_i64(track->row),
                                       sql_u64(hub_first_part(track, job->part)),
                                       sql_u64(job->part), sql_u64(key)));
    while (!code && parts_row(&hub->parts, row)) {
        const char *module = (const char *)sqlite3_column_text(row, 1);
        code = layer_state_unpack(sqlite3_column_blob(row, 2), (size_t)sqlite3_column_bytes(row, 2),
                                  &state);
        if (!code && (int64_t)state->buckets != job->run->buckets) {
            layer_state_free(&state);
            code = ERR_STORE_FORMAT;
        }
        if (code && code != ERR_MEMORY) {
            code = hub_leave_out(hub, job, sqlite3_column_int64(row, 0), code);
            continue;
        }
        if (code) {
            break;
        }
        if (heads && state->heads != heads) { /* nothing to merge it with */
            layer_state_free(&state);
            job->merged->partial = true;
            continue;
        }
        if (heads && state->step == step && state->epoch != epoch) {
            hub_note_disagreement(hub, job);
        }
        code = hub_ranks_add(job, sqlite3_column_int64(row, 0), state);
        heads = state->heads;
        step = state->step;
        epoch = state->epoch;
        if (module && !layer->module) {
            layer->module = strdup(module);
        }
        states[count++] = state;
        bytes += (uint64_t)sqlite3_column_bytes(row, 2);
        if (!code &&
            (count == STATES_MAX || (uint64_t)count * heads >= HEADS_MAX || bytes >= BYTES_MAX)) {
            code = hub_add_states(&layer->state, states, &count);
            bytes = 0;
        }
    }
    sqlite3_reset(row);
    int added = hub_add_states(&layer->state, states, &count);
    code = code ? code : added;
    code = code ? code : hub_ranks_judge(job, key, heads);
    if (!code && !layer->state) { /* its rows have gone since */
        free(layer->module);
        job->merged->layer_count--;
    }
    return code;
}

/* Jobs */

void hub_merge_stop(struct hub *hub)
{
    merged_free(&hub->job.merged);
    free(hub->job.layers);
    hub_ranks_stop(&hub->job);
    hub->job = (struct hub_job){.run = NULL};
}

static void hub_post(struct hub *hub, struct merged *merged)
{
    merged->note.kind = NOTE_MERGED;
    hub->away++;
    inbox_post(hub->inbox, NULL, &merged->note);
}

static int hub_list_layers(struct hub *hub, struct hub_job *job)
{
    const struct hub_track *track = &job->run->tracks[job->track];
    uint32_t capacity = 0;
    int code = 0;
    sqlite3_stmt *row =
        parts_bind(&hub->parts, PARTS_EACH_LAYER,
                   SQL(sql_i64(job->run->row), sql_i64(track->row),
                       sql_u64(hub_first_part(track, job->part)), sql_u64(job->part)));
    while (!code && parts_row(&hub->parts, row)) {
        if (grow(&job->layers, job->layer_count, &capacity, sizeof *job->layers)) {
            job->layers[job->layer_count++] = (uint32_t)sqlite3_column_int64(row, 0);
        } else {
            code = ERR_MEMORY;
        }
    }
    sqlite3_reset(row);
    job->merged->layers = calloc(job->layer_count + 1, sizeof *job->merged->layers);
    return code ? code : job->merged->layers ? 0 : ERR_MEMORY;
}

static int hub_begin_job(struct hub *hub, struct hub_run *run, uint32_t at,
                         struct hub_window *window)
{
    struct hub_track *track = &run->tracks[at];
    struct hub_job *job = &hub->job;
    *job = (struct hub_job){
        .run = run, .track = at, .part = window->part, .generation = window->generation};
    struct merged *merged = job->merged = calloc(1, sizeof *merged);
    if (!merged) {
        return ERR_MEMORY;
    }
    merged->has_window = true;
    merged->unit = track->rule.unit;
    merged->length = track->rule.length;
    merged->every = track->rule.every;
    merged->part = window->part;
    merged->row = run->row;
    merged->generation = window->generation;
    bool same = window->redo && !window->changed;
    merged->revision = window->merged ? window->revision + !same : 0;
    int code = hub_sum_up(run, merged);
    merged->state = run->ended ? JOB_ENDED : JOB_ACTIVE;
    code = code ? code : hub_find_missing(hub, job);
    code = code ? code : hub_list_layers(hub, job);
    return hub->parts.code && !code ? ERR_AGAIN : code; /* what was not read is not missing */
}

/* Settings and logged values of a run, one row at a time. Returns whether there was one. */
static bool hub_tell_said(struct hub *hub, struct hub_run *run)
{
    if (run->said >= run->said_last || run->said_waits || run->retry_ns > hub->now_ns) {
        return false;
    }
    sqlite3_stmt *row =
        parts_bind(&hub->parts, PARTS_NEXT_SAID, SQL(sql_i64(run->row), sql_i64(run->said)));
    if (!parts_row(&hub->parts, row)) {
        run->said = hub->parts.code ? run->said : run->said_last; /* it has gone since */
        return false;
    }
    struct merged *merged = calloc(1, sizeof *merged);
    int code = merged ? hub_sum_up(run, merged) : ERR_MEMORY;
    if (!code) {
        merged->state = run->ended ? JOB_ENDED : JOB_ACTIVE;
        merged->row = run->row;
        merged->generation = column_u64(row, 0);
        merged->body_size = (size_t)sqlite3_column_bytes(row, 1);
        merged->body = malloc(merged->body_size + 1);
        code = merged->body ? 0 : ERR_MEMORY;
    }
    if (!code) {
        memcpy(merged->body, sqlite3_column_blob(row, 1), merged->body_size);
        run->said_waits = true;
        hub_post(hub, merged);
        merged = NULL;
    }
    sqlite3_reset(row);
    merged_free(&merged);
    run->retry_ns = code ? hub->now_ns + RETRY_NS : run->retry_ns;
    return !code;
}

/* Its nodes have all ended, and its windows are through. Returns whether the loop is told so. */
static bool hub_tell_end(struct hub *hub, struct hub_run *run)
{
    bool over = run->member_count > 0 && !run->ended && !run->told && run->retry_ns <= hub->now_ns;
    for (uint32_t i = 0; i < run->member_count && over; i++) {
        over = hub_has_ended(run->members[i]) ||
               (run->members[i]->seq == 0 && !hub_is_heard(hub, run->members[i]->node));
    }
    for (uint32_t t = 0; t < run->track_count && over; t++) {
        struct hub_track *track = &run->tracks[t];
        for (uint32_t i = hub_first_open(track); i < track->window_count && over; i++) {
            over = track->windows[i].merged && !track->windows[i].away;
        }
    }
    struct merged *merged = over ? calloc(1, sizeof *merged) : NULL;
    if (merged && hub_sum_up(run, merged) == 0) {
        merged->row = run->row;
        merged->state = JOB_ENDED;
        run->told = true;
        hub_post(hub, merged);
        return true;
    }
    merged_free(&merged);
    return false;
}

/* Returns whether a window of the run is begun. */
static bool hub_begin_due(struct hub *hub, struct hub_run *run)
{
    struct hub_window *window;
    uint32_t track;
    if (!hub_find_due(hub, run, &track, &window)) {
        return false;
    }
    int code = hub_begin_job(hub, run, track, window);
    if (code) {
        window->retry_ns = hub->now_ns + RETRY_NS;
        hub_merge_stop(hub);
    }
    return !code;
}

/* Each run has its turn: one that always has something does not hold up the others. */
bool hub_merge_step(struct hub *hub)
{
    struct hub_run *run = hub->served;
    if (hub->job.run) {
        struct hub_job *job = &hub->job;
        struct hub_track *track = &job->run->tracks[job->track];
        struct hub_window *window = hub_find_window(track, job->part);
        int code = window ? 0 : ERR_AGAIN;
        if (!code && job->at < job->layer_count) {
            code = hub_merge_layer(hub, job, job->layers[job->at++]);
        }
        code = hub->parts.code && !code ? ERR_AGAIN : code;
        if (code) {
            log_event(LOG_WARNING, "fleet_window_put_off", LOG_STR("job", job->run->job),
                      LOG_NUM("part", job->part), LOG_STR("reason", err_slug(code)));
            if (window) {
                window->retry_ns = hub->now_ns + RETRY_NS;
            }
            hub_merge_stop(hub);
            return false;
        }
        if (job->at < job->layer_count) {
            return true;
        }
        window->away = track->waits = true;
        hub_ranks_keep(job, hub_first_part(track, job->part) * track->size,
                       (job->part + 1) * track->size - 1);
        crash_point("hub_merged");
        hub_post(hub, job->merged);
        job->merged = NULL;
        hub_merge_stop(hub);
        return false;
    }
    for (uint32_t i = 0; i < hub->run_count; i++) {
        run = run && run->next ? run->next : hub->runs;
        if (hub_tell_said(hub, run) || hub_begin_due(hub, run) || hub_tell_end(hub, run)) {
            hub->served = run;
            return true;
        }
    }
    return false;
}

/* Back from the loop */

static void hub_window_done(struct hub *hub, struct hub_run *run, const struct merged *merged)
{
    const struct fleet_rule rule = {merged->unit, merged->length, merged->every};
    int at = hub_find_track(hub, run, &rule); /* another one, if the file was read again since */
    struct hub_track *track = at < 0 ? NULL : &run->tracks[at];
    struct hub_window *window = track ? hub_find_window(track, merged->part) : NULL;
    if (track) {
        track->waits = false;
    }
    if (!window) {
        return;
    }
    window->away = false;
    if (merged->code) {
        window->retry_ns = run->retry_ns;
        return;
    }
    bool again = window->redo && merged->revision == window->revision;
    window->merged = true;
    window->redo = false;
    window->changed = window->generation != merged->generation;
    window->revision = merged->revision;
    if (!store_trouble(hub->store)) { /* else a hub that is killed meanwhile would not know */
        /* The window is through: into the transaction, with the nodes that it lacks. */
        struct mpk_writer missing;
        mpk_writer_init(&missing);
        mpk_put_array(&missing, merged->missing_count);
        for (uint32_t i = 0; i < merged->missing_count; i++) {
            mpk_put_map(&missing, 2);
            mpk_pair_str(&missing, "name", merged->missing[i].name);
            mpk_pair_str(&missing, "reason", merged->missing[i].reason);
        }
        bool lacks = merged->missing_count && mpk_writer_ok(&missing);
        run->has_partial = run->has_partial || lacks;
        parts_run(&hub->parts, PARTS_PUT_MERGED,
                  SQL(sql_i64(run->row), sql_i64(track->row), sql_u64(merged->part),
                      sql_u64(merged->revision), sql_i64(hub_now_s(hub)),
                      sql_if(lacks, sql_blob(missing.buffer.data, missing.buffer.size))));
        mpk_writer_clear(&missing);
    }
    if (window->changed) {
        parts_run(&hub->parts, PARTS_SET_CHANGED,
                  SQL(sql_i64(run->row), sql_i64(track->row), sql_u64(merged->part),
                      sql_u64(merged->part)));
    }
    hub->counts[HUB_MERGED] += !again;
    hub->counts[HUB_CORRECTED] += !again && merged->revision > 0;
}

void hub_merge_done(struct hub *hub, struct merged *merged)
{
    parts_begin(&hub->parts);
    hub->changed = true;
    hub->away--;
    struct hub_run *run = hub_run_of(hub, merged->row);
    if (!run) {
        return; /* it was forgotten */
    }
    /* The loop may take it after all, when other runs have ended: it is asked now and then. */
    int code = merged->code;
    bool lasts = code && code != ERR_AGAIN && code != ERR_MEMORY && code != ERR_CLOSED;
    run->retry_ns = code ? hub->now_ns + (lasts ? REFUSED_NS : RETRY_NS) : 0;
    if (!code || lasts) {
        run->refused = code;
    }
    if (merged->body) {
        int64_t said = (int64_t)merged->generation;
        run->said_waits = false;
        if (!merged->code) {
            run->said = said > run->said ? said : run->said;
        }
        if (!merged->code && !store_trouble(hub->store)) {
            parts_run(&hub->parts, PARTS_SET_TOLD, SQL(sql_i64(said)));
        }
    } else if (merged->has_window) {
        hub_window_done(hub, run, merged);
    } else {
        run->ended = run->told && !merged->code; /* else it goes on since */
        run->told = false;
        hub_save_run(hub, run);
    }
}
