/* SPDX-License-Identifier: MIT */
/* A window is known by the row `closed` of its last part, which every node that has any of it
 * sends. It is merged when nobody who may still send some of it is waited for, in the order of
 * windows, because drift learns and rules judge in that order. A window that was merged and has
 * changed is merged again at any time, a second after the last change, so that parts which come
 * together are one correction. */
#include "daemon/base/clock.h"
#include "daemon/base/grow.h"
#include "daemon/fleet/hub_internal.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

/* A run that a node does not name any more is waited for so long, from the first that closes. */
#define ENDING_NS UINT64_C(5000000000)
#define QUIET_NS  UINT64_C(1000000000)

int64_t hub_now_s(const struct hub *hub)
{
    return hub->clock_s +
           (int64_t)(clock_since_ns(hub->clock_ns, hub->now_ns) / UINT64_C(1000000000));
}

/* Nodes and runs */

struct hub_node *hub_add_node(struct hub *hub, int64_t row, const uint8_t *id)
{
    struct hub_node *node = calloc(1, sizeof *node), **end = &hub->nodes;
    if (node) {
        node->row = row;
        node->used_s = hub_now_s(hub);
        memcpy(node->id, id, sizeof node->id);
        link_id_text(id, node->name); /* until it says another one */
        while (*end && memcmp((*end)->id, id, sizeof node->id) < 0) {
            end = &(*end)->next;
        }
        node->next = *end;
        *end = node;
    }
    return node;
}

struct hub_run *hub_add_run(struct hub *hub, int64_t row, const char *job, size_t job_size,
                            const uint8_t *id)
{
    struct hub_run *run = calloc(1, sizeof *run);
    if (!run) {
        return NULL;
    }
    run->row = row;
    run->buckets = -1;
    run->begun_ns = hub->now_ns;
    run->heard_s = run->saved_s = hub_now_s(hub);
    memcpy(run->job, job, job_size);
    memcpy(run->run, id, RUN_BYTES);
    if (hub_index_add(hub, run) != 0) {
        free(run);
        return NULL;
    }
    for (struct hub_node *node = hub->nodes; node; node = node->next) {
        if (hub_beat_of(run, node)) {
            hub_find_member(hub, run, node);
        }
    }
    return run;
}

void hub_save_run(struct hub *hub, struct hub_run *run)
{
    run->saved_s = run->heard_s;
    parts_run(&hub->parts, PARTS_SET_RUN,
              SQL(sql_i64(run->buckets), sql_u64(run->ended), sql_i64(run->heard_s),
                  sql_i64(run->forgotten_s), sql_i64(run->row)));
}

struct hub_run *hub_find_run(struct hub *hub, const char *job, size_t job_size, const uint8_t *id)
{
    struct hub_run *run = hub_known_run(hub, job, job_size, id);
    struct parts *parts = &hub->parts;
    char name[JOB_NAME_MAX + 1] = "";
    int64_t row = -1, buckets = -1;
    if (run) {
        return run;
    }
    memcpy(name, job, job_size);
    parts_begin(parts);
    sqlite3_stmt *past =
        parts_bind(parts, PARTS_GET_RUN, SQL(sql_text(name), sql_blob(id, RUN_BYTES)));
    bool was_here = parts_row(parts, past);
    if (was_here) {
        row = sqlite3_column_int64(past, 0);
        buckets = sqlite3_column_int64(past, 1);
        sqlite3_reset(past);
    } else {
        row = parts_run(parts, PARTS_PUT_RUN,
                        SQL(sql_text(name), sql_blob(id, RUN_BYTES), sql_i64(hub_now_s(hub))));
    }
    run = row < 0 ? NULL : hub_add_run(hub, row, job, job_size, id);
    if (run && was_here) {
        /* It was forgotten, but not its floors. */
        sqlite3_stmt *floor = parts_bind(&hub->parts, PARTS_FLOORS_OF, SQL(sql_i64(run->row)));
        run->buckets = buckets;
        while (parts_row(&hub->parts, floor)) {
            struct fleet_rule rule = parts_rule(floor, 0);
            int at = hub_find_track(hub, run, &rule); /* not known: what windows it asks for */
            if (at >= 0) {
                hub_raise_floor(&run->tracks[at], column_u64(floor, 3));
            }
        }
        hub_save_run(hub, run);
    }
    return run;
}

enum job_state hub_state_of(const struct hub *hub, const struct hub_run *run)
{
    int64_t idle_s = (int64_t)(hub->config->limits_idle / UINT64_C(1000000000));
    bool idle = hub_now_s(hub) - run->heard_s >= idle_s;
    return run->ended ? JOB_ENDED : idle ? JOB_IDLE : JOB_ACTIVE;
}

struct hub_member *hub_find_member(struct hub *hub, struct hub_run *run, struct hub_node *node)
{
    uint32_t at = hub_member_at(run, node); /* in the order in which they are merged */
    if (at < run->member_count && run->members[at]->node == node) {
        return run->members[at];
    }
    if (hub->members >= HUB_MEMBERS_MAX) {
        return NULL;
    }
    struct hub_member **members =
        realloc(run->members, (run->member_count + 1) * sizeof(struct hub_member *));
    struct hub_member *member = members ? calloc(1, sizeof *member) : NULL;
    run->members = members ? members : run->members;
    if (member) {
        member->node = node;
        member->tracks = calloc(run->track_count + 1, sizeof *member->tracks);
    }
    if (!member || !member->tracks) {
        free(member);
        return NULL;
    }
    memmove(members + at + 1, members + at, (run->member_count++ - at) * sizeof *members);
    members[at] = member;
    hub->members++;
    node->memberships++;
    run->told = run->told && run->ended;
    if (hub->parts.open) { /* else it comes from there */
        parts_run(&hub->parts, PARTS_PUT_MEMBER, SQL(sql_i64(run->row), sql_i64(node->row)));
    }
    return member;
}

uint64_t hub_track_parts(const struct hub_track *track)
{
    return track->rule.length / track->size;
}

bool hub_knows_rule(const struct hub *hub, const struct hub_run *run, const struct fleet_rule *rule)
{
    const struct own_window *own = &run->own_window;
    int index = config_window_find(hub->config, (int)rule->unit, rule->length, rule->every);
    bool is_own =
        own->unit == rule->unit && own->length == rule->length && own->length == rule->every;
    return own->length == 0 ? index >= 0 : is_own || index > 0;
}

void hub_note_own_window(struct hub_run *run, const struct fleet_body *body)
{
    run->own_window = run->own_window.length > 0 ? run->own_window : body->own_window;
}

int hub_find_track(struct hub *hub, struct hub_run *run, const struct fleet_rule *rule)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        const struct fleet_rule *known = &run->tracks[t].rule;
        if (known->unit == rule->unit && known->length == rule->length &&
            known->every == rule->every) {
            return (int)t;
        }
    }
    int64_t row = -1;
    static const enum parts_statement get_or_put[] = {PARTS_GET_TRACK, PARTS_PUT_TRACK};
    parts_begin(&hub->parts);
    for (int i = 0; i < 2 && row < 0; i++) {
        row = parts_run(&hub->parts, get_or_put[i],
                        SQL(sql_u64(rule->unit), sql_u64(rule->length), sql_u64(rule->every)));
    }
    if (row < 0) {
        return -1;
    }
    /* In the memory of a run, with the same index in all its members. */
    uint32_t count = run->track_count;
    struct hub_track *tracks = realloc(run->tracks, (count + 1) * sizeof *tracks);
    run->tracks = tracks ? tracks : run->tracks;
    for (uint32_t i = 0; i < run->member_count && tracks; i++) {
        struct hub_member *member = run->members[i];
        struct hub_progress *grown = realloc(member->tracks, (count + 2) * sizeof *grown);
        member->tracks = grown ? grown : member->tracks;
        tracks = grown ? tracks : NULL;
        if (grown) {
            grown[count + 1] = grown[count] = (struct hub_progress){.next = 0};
        }
    }
    if (!tracks) {
        return -1;
    }
    tracks[count] = (struct hub_track){
        .row = row, .rule = *rule, .size = config_window_part(rule->length, rule->every)};
    run->track_count++;
    return (int)count;
}

/* News of members */

int hub_note_progress(const struct hub *hub, struct hub_member *member,
                      const struct fleet_body *body, uint64_t seq)
{
    const msgpack_object_array *ranks = &body->ranks_found->via.array;
    /* With one too many the loop says so. */
    uint64_t most = hub->config->limits_ranks + 1;
    uint32_t count = ranks->size < most ? ranks->size : (uint32_t)most;
    uint32_t *copy = malloc((count + 1) * sizeof *copy);
    if (!copy) {
        return ERR_MEMORY;
    }
    if (seq <= member->seq) {
        free(copy);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        copy[i] = (uint32_t)ranks->ptr[i].via.u64;
    }
    free(member->ranks);
    member->ranks = copy;
    member->rank_count = count;
    member->tally = (struct tally){.lost = body->lost};
    const msgpack_object_map *dropped = &body->dropped_found->via.map;
    for (uint32_t i = 0; i < dropped->size; i++) {
        uint64_t messages = 0;
        if (mpk_get_u64(&dropped->ptr[i].val, COUNT_MAX, &messages) != 0) {
            continue;
        }
        if (mpk_is_str(&dropped->ptr[i].key, "source")) {
            member->tally.source = messages;
        }
        for (int e = 0; e < ERR_COUNT; e++) {
            if (mpk_is_str(&dropped->ptr[i].key, err_slug(ERR_BASE - e))) {
                member->tally.dropped[e] = messages;
            }
        }
    }
    member->said = *body;
    member->seq = seq;
    return 0;
}

bool hub_is_heard(const struct hub *hub, const struct hub_node *node)
{
    uint64_t since_ns = hub->listens_ns > hub->started_ns ? hub->listens_ns : hub->started_ns;
    uint64_t heard_ns = node->heard_ns > since_ns ? node->heard_ns : since_ns;
    return !(node->heard_ns && node->beat.stopping) &&
           clock_since_ns(heard_ns, hub->now_ns) < hub->config->window_timeout;
}

bool hub_has_ended(const struct hub_member *member)
{
    return member->seq > 0 && member->said.kind == FLEET_RUN &&
           member->said.state_of_run != JOB_ACTIVE && seen_low(&member->node->seen) >= member->seq;
}

static struct hub_progress *hub_progress_of(const struct hub *hub, const struct hub_member *member,
                                            uint32_t track)
{
    struct hub_progress *progress = &member->tracks[track];
    bool heard = hub_is_heard(hub, member->node);
    uint64_t low = seen_low(&member->node->seen);
    for (uint32_t i = 0; i < progress->waiting_count;) {
        const struct hub_closed *closed = &progress->waiting[i];
        if (closed->seq > low && heard) {
            i++;
            continue;
        }
        progress->next = closed->part >= progress->next ? closed->part + 1 : progress->next;
        progress->waiting[i] = progress->waiting[--progress->waiting_count];
    }
    return progress;
}

/* Windows */

static uint64_t hub_stride(const struct hub_track *track)
{
    return track->rule.every / track->size;
}

/* The first one at or behind the part. */
static uint32_t hub_window_at(const struct hub_track *track, uint64_t part)
{
    uint32_t from = 0, to = track->window_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (track->windows[middle].part < part) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

struct hub_window *hub_find_window(struct hub_track *track, uint64_t part)
{
    uint32_t at = hub_window_at(track, part);
    return at < track->window_count && track->windows[at].part == part ? &track->windows[at] : NULL;
}

struct hub_window *hub_add_window(struct hub *hub, struct hub_track *track, uint64_t part)
{
    struct hub_window *window = hub_find_window(track, part);
    if (window) {
        return window;
    }
    if (!grow(&track->windows, track->window_count, &track->window_capacity,
              sizeof *track->windows)) {
        return NULL;
    }
    uint32_t at = hub_window_at(track, part);
    memmove(track->windows + at + 1, track->windows + at,
            (track->window_count++ - at) * sizeof *track->windows);
    track->windows[at] =
        (struct hub_window){.part = part, .first_ns = hub->now_ns, .generation = ++hub->generation};
    track->open = at < track->open ? at : track->open;
    return &track->windows[at];
}

int hub_note_closed(struct hub *hub, struct hub_run *run, struct hub_member *member, uint32_t at,
                    uint64_t part, uint64_t seq)
{
    struct hub_track *track = &run->tracks[at];
    struct hub_progress *progress = &member->tracks[at];
    if (progress->waiting_count < HUB_WAITING_MAX &&
        !grow(&progress->waiting, progress->waiting_count, &progress->waiting_capacity,
              sizeof *progress->waiting)) {
        return ERR_MEMORY;
    }
    if (progress->waiting_count == HUB_WAITING_MAX) {
        hub_progress_of(hub, member, at);
    }
    if (progress->waiting_count < HUB_WAITING_MAX) {
        progress->waiting[progress->waiting_count++] = (struct hub_closed){part, seq};
    } else { /* both count when both may */
        struct hub_closed *last = &progress->waiting[HUB_WAITING_MAX - 1];
        last->part = part > last->part ? part : last->part;
        last->seq = seq > last->seq ? seq : last->seq;
    }
    track->front = part >= track->front ? part + 1 : track->front;
    bool due = part % hub_stride(track) == hub_stride(track) - 1 &&
               (track->floor == 0 || part + 1 >= track->floor + hub_track_parts(track));
    return !due || hub_add_window(hub, track, part) ? 0 : ERR_MEMORY;
}

void hub_note_changed(struct hub *hub, struct hub_run *run, uint32_t at, uint64_t part)
{
    struct hub_track *track = &run->tracks[at];
    uint64_t to = part + hub_track_parts(track) - 1;
    bool was_merged = false;
    uint32_t at_first = hub_window_at(track, part);
    track->open = at_first < track->open ? at_first : track->open;
    for (uint32_t i = at_first; i < track->window_count; i++) {
        struct hub_window *window = &track->windows[i];
        if (window->part > to) {
            break;
        }
        window->generation = ++hub->generation;
        window->changed_ns = hub->now_ns;
        was_merged = was_merged || (window->merged && !window->changed);
        window->changed = window->merged;
    }
    if (was_merged) {
        parts_run(&hub->parts, PARTS_SET_CHANGED,
                  SQL(sql_i64(run->row), sql_i64(track->row), sql_u64(part), sql_u64(to)));
    }
}

uint32_t hub_raise_floor(struct hub_track *track, uint64_t floor)
{
    uint32_t gone = 0, lost = 0;
    track->floor = floor > track->floor ? floor : track->floor;
    while (gone < track->window_count &&
           track->windows[gone].part + 1 < track->floor + hub_track_parts(track)) {
        lost += !track->windows[gone++].merged;
    }
    if (gone) {
        track->window_count -= gone;
        track->open -= gone < track->open ? gone : track->open;
        memmove(track->windows, track->windows + gone,
                track->window_count * sizeof *track->windows);
    }
    return lost;
}

/* Waiting for members */

uint64_t hub_behind(const struct hub *hub, const struct hub_run *run,
                    const struct hub_member *member)
{
    uint64_t most = 0;
    for (uint32_t t = 0; t < run->track_count && !hub_has_ended(member); t++) {
        uint64_t next = hub_progress_of(hub, member, t)->next, front = run->tracks[t].front;
        uint64_t behind = front > next ? (front - next) / hub_stride(&run->tracks[t]) : 0;
        most = behind > most ? behind : most;
    }
    return most;
}

bool hub_waits_for(const struct hub *hub, const struct hub_run *run, uint32_t at,
                   const struct hub_window *window, const struct hub_member *member)
{
    const struct hub_node *node = member->node;
    const struct hub_track *track = &run->tracks[at];
    const struct fleet_beat_run *beat = hub_beat_of(run, node);
    if (member->refused || hub_progress_of(hub, member, at)->next > window->part ||
        hub_has_ended(member) || !hub_is_heard(hub, node) ||
        (track->front - 1 - window->part) / hub_stride(track) > HUB_BEHIND_MAX) {
        return false;
    }
    bool on_its_way = !node->heard_ns || node->beat.newest > seen_low(&node->seen);
    uint64_t timeout = hub->config->window_timeout;
    if (!beat) { /* it ends there, and the rows that say so may wait for the disk of the node */
        uint64_t grace = timeout < ENDING_NS ? timeout : ENDING_NS;
        return on_its_way || clock_since_ns(window->first_ns, hub->now_ns) < grace;
    }
    return on_its_way || beat->silent_ns < timeout;
}

/* Ranks of the world that no node has may be on their way. */
static bool hub_waits_for_world(const struct hub *hub, const struct hub_run *run,
                                const struct hub_track *track)
{
    uint32_t world = 0, ranks = 0;
    if (track->windows[0].merged || track->floor > 0 ||
        clock_since_ns(run->begun_ns, hub->now_ns) >= hub->config->window_rank_grace) {
        return false;
    }
    for (uint32_t i = 0; i < run->member_count; i++) {
        const struct hub_member *member = run->members[i];
        const struct fleet_beat_run *beat = hub_beat_of(run, member->node);
        uint32_t own = beat && beat->ranks > member->rank_count ? beat->ranks : member->rank_count;
        world = member->said.world > world ? member->said.world : world;
        world = beat && beat->world > world ? beat->world : world;
        ranks += own;
    }
    return ranks < world;
}

static bool hub_is_due(const struct hub *hub, const struct hub_run *run, uint32_t at,
                       const struct hub_window *window)
{
    if (hub_waits_for_world(hub, run, &run->tracks[at])) {
        return false;
    }
    for (uint32_t i = 0; i < run->member_count; i++) {
        if (hub_waits_for(hub, run, at, window, run->members[i])) {
            return false;
        }
    }
    return true;
}

uint32_t hub_first_open(struct hub_track *track)
{
    for (; track->open < track->window_count; track->open++) {
        const struct hub_window *window = &track->windows[track->open];
        if (!window->merged || window->changed || window->redo || window->away) {
            break;
        }
    }
    return track->open;
}

bool hub_find_due(const struct hub *hub, const struct hub_run *run, uint32_t *ret_track,
                  struct hub_window **ret_window)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct hub_track *track = &run->tracks[t];
        bool first = true;
        for (uint32_t i = hub_first_open(track); i < track->window_count && !track->waits; i++) {
            struct hub_window *window = &track->windows[i];
            bool again =
                window->merged &&
                (window->redo ||
                 (window->changed && clock_since_ns(window->changed_ns, hub->now_ns) >= QUIET_NS));
            bool next = !window->merged && first && hub_is_due(hub, run, t, window);
            first = first && window->merged;
            if ((again || next) && window->retry_ns <= hub->now_ns) {
                *ret_track = t;
                *ret_window = window;
                return true;
            }
        }
    }
    return false;
}

/* The run as a whole */

static int hub_compare_ranks(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

int hub_sum_up(const struct hub_run *run, struct merged *merged)
{
    uint32_t count = 0, ended = 0;
    strcpy(merged->job, run->job);
    memcpy(merged->run, run->run, RUN_BYTES);
    merged->own_window = run->own_window;
    for (uint32_t i = 0; i < run->member_count; i++) {
        count += run->members[i]->rank_count;
    }
    merged->ranks = malloc((count + 1) * sizeof *merged->ranks);
    if (!merged->ranks) {
        return ERR_MEMORY;
    }
    count = 0;
    for (uint32_t i = 0; i < run->member_count; i++) {
        const struct hub_member *member = run->members[i];
        const struct fleet_body *said = &member->said;
        bool later = said->epoch > merged->epoch ||
                     (said->epoch == merged->epoch && said->step >= merged->step);
        if (member->rank_count) {
            memcpy(merged->ranks + count, member->ranks,
                   member->rank_count * sizeof *member->ranks);
        }
        count += member->rank_count;
        ended += hub_has_ended(member);
        merged->world = said->world > merged->world ? said->world : merged->world;
        merged->received += said->received;
        merged->processed += said->processed;
        tally_merge(&merged->tally, &member->tally);
        if (member->seq && later) {
            merged->epoch = said->epoch;
            merged->step = said->step;
            merged->time_ns = said->time_ns;
        }
    }
    qsort(merged->ranks, count, sizeof *merged->ranks, hub_compare_ranks);
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || merged->ranks[i] != merged->ranks[i - 1]) {
            merged->ranks[merged->rank_count++] = merged->ranks[i];
        }
    }
    merged->state = ended == run->member_count ? JOB_ENDED : JOB_ACTIVE;
    return 0;
}

void hub_free_run(struct hub *hub, struct hub_run *run)
{
    hub_index_drop(hub, run);
    hub->members -= run->member_count;
    for (uint32_t i = 0; i < run->member_count; i++) {
        struct hub_member *member = run->members[i];
        member->node->memberships--;
        for (uint32_t t = 0; t < run->track_count; t++) {
            free(member->tracks[t].waiting);
        }
        free(member->tracks);
        free(member->ranks);
        free(member);
    }
    for (uint32_t t = 0; t < run->track_count; t++) {
        free(run->tracks[t].windows);
        hub_ranks_clear(&run->tracks[t].ranks);
    }
    free(run->members);
    free(run->tracks);
    free(run->layers);
    free(run);
}

void hub_free_node(struct hub_node *node)
{
    seen_clear(&node->seen);
    free(node->runs);
    free(node);
}

void hub_runs_free(struct hub *hub)
{
    while (hub->runs) {
        hub_free_run(hub, hub->runs);
    }
    free(hub->runs_by_id);
    hub->runs_by_id = NULL;
    hub->run_capacity = 0;
    while (hub->nodes) {
        struct hub_node *node = hub->nodes;
        hub->nodes = node->next;
        hub_free_node(node);
    }
}
