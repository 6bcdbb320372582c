/* SPDX-License-Identifier: MIT */
/* The values of a run come in the order of their keys (checkpoint.h), so `about` is first, and a
 * layer's numbers come before its parts.
 *
 * Tracks of a layer were saved at different times. The newest numbers count for the layer; what a
 * track lacks up to there was lost for it, and is counted in its next window. */
#include "daemon/run/restore.h"

#include "daemon/base/log.h"
#include "daemon/run/checkpoint.h"
#include "daemon/state/stored.h"
#include "daemon/run/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sequences and counts of runs and layers, as checkpoint.c packed them, in the map that is read. */

/* Copies a list whose length nobody else says. Returns how many; 0: there are none, and *ret_list
 * is unchanged. */
static uint32_t restore_list(struct stored *in, const char *key, size_t size, void *ret_list)
{
    const uint8_t *bytes = NULL;
    size_t got = 0;
    stored_bytes(in, key, &bytes, &got);
    if (got == 0) {
        return 0;
    }
    stored_copy(in, key, got / size, size, ret_list);
    return in->code ? 0 : (uint32_t)(got / size);
}

static void restore_sequences(struct stored *in, const char *key, struct sequences *sequences)
{
    struct sequence *of_rank = NULL;
    uint32_t count = restore_list(in, key, sizeof *of_rank, &of_rank);
    if (count > 0) {
        sequences_clear(sequences);
        sequences->of_rank = of_rank;
        sequences->count = count;
        sequences_restored(sequences);
    }
}

/* Takes over the newer numbers. A run has them if it has used the reliable lane. */
static void restore_reliable(struct run *run, struct stored *in, struct sequences *into)
{
    struct sequences saved = {0};
    if (in->code || !mpk_find(in->map, "reliable")) {
        return;
    }
    restore_sequences(in, "reliable", &saved);
    stored_note(in, sequences_merge(into, &saved));
    sequences_clear(&saved);
    run->reliable = true;
}

/* One with fewer reasons is from an older attnd; with more, from a newer one. */
static void restore_tally(struct stored *in, const char *key, struct tally *tally)
{
    const uint8_t *bytes = NULL;
    size_t size = 0;
    stored_bytes(in, key, &bytes, &size);
    if (size > 0) {
        memcpy(tally, bytes, size < sizeof *tally ? size : sizeof *tally);
    }
}

static void restore_counts(struct stored *in, struct counts *counts)
{
    stored_u64(in, "received", UINT64_MAX, &counts->received);
    stored_u64(in, "processed", UINT64_MAX, &counts->processed);
    restore_tally(in, "tally", &counts->tally);
}

/* Earlier versions did not save them. */
static void restore_drop_totals(struct stored *in, struct run *run)
{
    struct drop_totals *totals = &run->drop_totals;
    if (!mpk_find(in->map, "drop_totals")) {
        return;
    }
    stored_u64(in, "found", UINT64_MAX, &run->found);
    uint32_t count = restore_list(in, "drop_totals", sizeof *totals->of_rank, &totals->of_rank);
    totals->count = count > 0 ? count : totals->count;
}

static bool is_array(const msgpack_object *value)
{
    return value && value->type == MSGPACK_OBJECT_ARRAY;
}

/* The elements of an array of whole numbers, checked; NULL when it is none. */
static const msgpack_object *numbers(const msgpack_object *map, const char *key,
                                     uint32_t *ret_count)
{
    const msgpack_object *value = mpk_find(map, key);
    if (!is_array(value)) {
        return NULL;
    }
    for (uint32_t i = 0; i < value->via.array.size; i++) {
        if (value->via.array.ptr[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
            return NULL;
        }
    }
    *ret_count = value->via.array.size;
    return value->via.array.ptr;
}

/* About the run */

static struct track *restore_find_track(struct run *run, const char *name, size_t length)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        if (strlen(run->tracks[t].name) == length &&
            memcmp(run->tracks[t].name, name, length) == 0) {
            return &run->tracks[t];
        }
    }
    return NULL;
}

static int restore_read_track(struct restore *restore, uint32_t world, const msgpack_object *map)
{
    const msgpack_object *name = mpk_find(map, "name");
    if (!name || name->type != MSGPACK_OBJECT_STR) {
        return ERR_STORE_FORMAT;
    }
    struct track *track = restore_find_track(restore->run, name->via.str.ptr, name->via.str.size);
    if (!track) {
        return 0;
    }
    restore->has_track[track->index] = true;
    struct window *window = &track->window;
    struct stored in = {map, 0};
    struct window_part *part;
    uint32_t count = 0, index;
    uint64_t settled = 0;
    stored_u64(&in, "next", UINT64_MAX, &window->next_index);
    stored_u64(&in, "complete_from", UINT64_MAX, &window->complete_from);
    stored_u64(&in, "settled", 1, &settled);
    window->settled = settled;
    const msgpack_object *row = numbers(map, "ranks", &count);
    int code = in.code ? in.code : row && count % 5 == 0 ? 0 : ERR_STORE_FORMAT;
    for (uint32_t i = 0; i < count && !code; i += 5) {
        code = row[i].via.u64 > UINT32_MAX ? ERR_STORE_FORMAT
                                           : window_rank(window, (uint32_t)row[i].via.u64, world,
                                                         UINT32_MAX, restore->now_ns, &index);
        if (!code) {
            window->ranks[index].bye = row[i + 1].via.u64 != 0;
            window->ranks[index].seen = row[i + 2].via.u64 != 0;
            window->ranks[index].position = row[i + 3].via.u64;
            window->ranks[index].finished = row[i + 4].via.u64;
        }
    }
    /* A closed part is there even if no layer has a state in it: it says that its window was cut.
     */
    const msgpack_object *cut = numbers(map, "cut", &count);
    code = code || cut ? code : ERR_STORE_FORMAT;
    for (uint32_t i = 0; i < count && !code; i++) {
        if (cut[i].via.u64 < window->next_index && window_needs(window, cut[i].via.u64)) {
            code = window_restore_part(window, cut[i].via.u64, restore->now_ns, &part);
            if (!code) {
                part->cut = true;
            }
        }
    }
    track->next_before = track->window.next_index;
    return code;
}

/* The time while attnd was away counts, unless the clock was turned back meanwhile. */
static void read_age(const struct restore *restore, struct stored *in)
{
    struct run *run = restore->run;
    uint64_t age = 0, then = 0, now = restore->now_ns + run->sink->wall_offset_ns;
    stored_u64(in, "age_ns", UINT64_MAX, &age);
    stored_u64(in, "wall_ns", UINT64_MAX, &then);
    uint64_t away = now > then ? now - then : 0;
    for (uint32_t t = 0; t < run->track_count; t++) {
        run->tracks[t].window.age_ns = age + away;
    }
    /* When it was last heard of. A run that goes on could not be heard while attnd was away.
     * Earlier versions did not save it. */
    uint64_t silent = 0;
    if (mpk_find(in->map, "silent_ns")) {
        stored_u64(in, "silent_ns", UINT64_MAX, &silent);
    }
    if (run->state != JOB_ACTIVE) {
        silent += away;
    }
    run->last_ns = run->alive_ns = restore->now_ns > silent ? restore->now_ns - silent : 0;
}

static int read_about(struct restore *restore, const msgpack_object *root)
{
    struct config_cut cut;
    uint32_t world = 0;
    /* How it was cut stays. Earlier versions did not save it. */
    const msgpack_object *value = mpk_find(root, "own_window");
    struct own_window own = {.length = 0};
    int code = value ? own_window_read(value, &own) : 0;
    cut = (struct config_cut){
        .capture_every = mpk_find(root, "capture_every")
                             ? mpk_find_u64(root, "capture_every")
                             : config_capture_every(restore->config, restore->job, 0),
        .own = {.unit = (enum config_unit)own.unit, .length = own.length, .every = own.length}};
    code = code ? ERR_STORE_FORMAT : 0;
    struct run *run = code ? NULL
                           : run_new(restore->job, restore->id, &cut, restore->config,
                                     restore->sink, restore->budget, restore->now_ns);
    if (!run) {
        return code ? code : ERR_MEMORY;
    }
    restore->run = run;
    if (mpk_find(root, "merged")) {
        run_be_merged(run);
    }
    struct stored in = {root, 0};
    stored_u32(&in, "world", UINT32_MAX, &world);
    uint64_t state = run->state;
    stored_u64(&in, "state", JOB_ENDED, &state);
    stored_u64(&in, "taken", UINT64_MAX, &run->taken);
    stored_u64(&in, "epoch", UINT64_MAX, &run->epoch);
    stored_u64(&in, "step", UINT64_MAX, &run->step);
    stored_u64(&in, "time_ns", UINT64_MAX, &run->time_ns);
    run->state = (enum job_state)state;
    const msgpack_object *failure = mpk_find(root, "failure");
    if (failure && failure_read(failure, &run->failure) != 0) {
        stored_note(&in, ERR_STORE_FORMAT);
    }
    read_age(restore, &in);
    restore_counts(&in, &run->counts);
    restore_sequences(&in, "sequences", &run->events);
    restore_reliable(run, &in, &run->reliable_events);
    restore_drop_totals(&in, run);
    const msgpack_object *tracks = mpk_find(root, "tracks");
    code = in.code ? in.code : is_array(tracks) ? 0 : ERR_STORE_FORMAT;
    for (uint32_t i = 0; !code && i < tracks->via.array.size; i++) {
        code = restore_read_track(restore, world, &tracks->via.array.ptr[i]);
    }
    return code;
}

/* About a layer */

/* The place that a key names after its first segment. */
struct restore_place {
    struct track *track;
    struct stream *stream;
    uint64_t part;
};

/* Earlier versions did not save it. */
static int read_module(const msgpack_object *map, struct stream *stream)
{
    const msgpack_object *module = mpk_find(map, "module");
    if (!module) {
        return 0;
    }
    if (module->type != MSGPACK_OBJECT_STR ||
        !module_path_valid(module->via.str.ptr, module->via.str.size)) {
        return ERR_STORE_FORMAT;
    }
    stream_set_module(stream, module->via.str.ptr, module->via.str.size);
    return 0;
}

static int read_row(struct restore *restore, const struct restore_place *place,
                    const msgpack_object *root)
{
    struct stream *stream = place->stream;
    struct layer_track *layer = &stream->tracks[place->track->index];
    struct counts counts = {0};
    struct stored in = {root, 0};
    uint32_t heads = 0;
    stored_u32(&in, "heads", (uint32_t)restore->run->config->limits_heads, &heads);
    stored_bool(&in, "measured", &stream->measured);
    restore_sequences(&in, "sequences", &layer->restored);
    restore_reliable(restore->run, &in, &stream->reliable);
    restore->run->keeps_tensors |= stream->reliable.count > 0;
    if (!in.code) {
        in.code = sequences_merge(&stream->sequences, &layer->restored);
    }
    restore_counts(&in, &counts);
    restore_tally(&in, "pending", &layer->pending);
    if (!in.code && counts.received >= stream->counts.received) {
        stream->counts = counts;
        in.code = read_module(root, stream);
    }
    if (in.code) {
        return in.code;
    }
    stream->heads = heads;
    layer->unsaved = false;
    free(stream->spectrum_next);
    stream->spectrum_next = NULL;
    stored_copy(&in, "turns", heads, sizeof *stream->spectrum_next, &stream->spectrum_next);
    return in.code;
}

static int restore_put_state(struct restore *restore, const struct restore_place *place,
                             struct layer_state **state)
{
    struct window_part *part;
    struct track *track = place->track;
    if ((*state)->heads != place->stream->heads) {
        return ERR_STORE_FORMAT;
    }
    int code = window_restore_part(&track->window, place->part, restore->now_ns, &part);
    if (!code && !part->data) {
        part->data = state_table_new(track->budget, track->buckets);
    }
    if (code || !part->data) {
        return ERR_MEMORY;
    }
    if (state_table_find(part->data, place->stream->index)) {
        return ERR_STORE_FORMAT; /* two keys that name the same */
    }
    code = state_table_put(part->data, place->stream->index, state);
    if (code) {
        return code;
    }
    state_table_set_saved(part->data, place->stream->index, true);
    part->arrivals = 1; /* it has something to show */
    return 0;
}

static int read_part(struct restore *restore, const struct restore_place *place, const void *value,
                     size_t size)
{
    struct layer_state *state;
    if (!window_needs(&place->track->window, place->part)) {
        return 0; /* its window is out; what forgot it did not get through */
    }
    int code = layer_state_unpack(value, size, &state);
    if (!code) {
        code = restore_put_state(restore, place, &state);
        layer_state_free(&state);
    }
    return code;
}

static int read_drift(struct restore *restore, const struct restore_place *place, const void *value,
                      size_t size)
{
    struct run *run = restore->run;
    struct layer_track *layer = &place->stream->tracks[place->track->index];
    struct drift_rule rule = run_drift_rule(run->config);
    if (layer->drift) {
        return ERR_STORE_FORMAT;
    }
    int code = drift_unpack(&rule, value, size, &layer->drift);
    if (!code) {
        run_charge_drift(run, layer);
    }
    return code;
}

/* When its capture came nobody knows any more. */
static int restore_read_sketch(struct restore *restore, struct stream *stream, const void *value,
                               size_t size)
{
    int code = stream->sketch ? ERR_STORE_FORMAT
                              : sketch_unpack(value, size, &restore->run->budget, &stream->sketch);
    if (!code) {
        stream->sketch->capture.received_ns = restore->now_ns;
    }
    return code;
}

/* Keys */

/* The layer whose number is all that is left of a key. */
static int restore_find_layer(struct restore *restore, const char *number,
                              struct stream **ret_stream)
{
    char *end;
    unsigned long layer = strtoul(number, &end, 10);
    if (end == number || *end != '\0' ||
        layer > header_layer_key((struct layer_id){STACK_DECODER, LAYER_MAX, SITE_CROSS})) {
        return ERR_STORE_FORMAT;
    }
    return run_put_stream(restore->run, header_layer_of((uint32_t)layer), 0, restore->now_ns,
                          ret_stream);
}

/* "TRACK/LAYER" or "TRACK/INDEX/LAYER". Returns 0, ERR_AGAIN for a track there is not, or an error.
 */
static int find_place(struct restore *restore, const char *key, bool has_index,
                      struct restore_place *place)
{
    size_t length = strcspn(key, "/");
    char *end = (char *)(uintptr_t)(key + length);
    place->track = restore_find_track(restore->run, key, length);
    if (!place->track) {
        char unknown[TRACK_NAME_MAX];
        snprintf(unknown, sizeof unknown, "%.*s", (int)length, key);
        if (strcmp(unknown, restore->unknown_track) != 0) {
            strcpy(restore->unknown_track, unknown);
            restore->run->has_other_windows = true;
            log_event(LOG_WARNING, "windows_dropped", LOG_STR("job", restore->job),
                      LOG_STR("window", unknown),
                      LOG_STR("reason", "it is not in the config any more"));
        }
        return ERR_AGAIN;
    }
    if (has_index && *end == '/') {
        place->part = strtoull(end + 1, &end, 10);
    }
    return *end != '/' ? ERR_STORE_FORMAT : restore_find_layer(restore, end + 1, &place->stream);
}

static int with_document(struct restore *restore, const struct restore_place *place,
                         const void *value, size_t size)
{
    struct mpk_doc doc;
    int code = mpk_parse(value, size, &stored_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = place ? read_row(restore, place, doc.root) : read_about(restore, doc.root);
    mpk_doc_clear(&doc);
    return code;
}

static int restore_read_value(struct restore *restore, const char *key, const void *value,
                              size_t size)
{
    struct restore_place place = {.part = 0};
    int code = 0;
    if (strcmp(key, CHECKPOINT_FORGOTTEN) == 0) {
        if (restore->of_forgotten) {
            restore->run->came_back = restore->run->reliable = true;
        } else {
            run_free(&restore->run);
        }
        return 0;
    }
    if (strcmp(key, "alerts") == 0) {
        return restore->run->alerts ? alerts_unpack(restore->run->alerts, value, size) : 0;
    }
    if (strcmp(key, "capture") == 0) {
        return restore->run->captures ? captures_unpack(restore->run->captures, value, size) : 0;
    }
    const char *rest = strchr(key, '/');
    if (!rest) {
        return ERR_STORE_FORMAT;
    }
    /* A run that has ended has no parts and frees its baselines: past.c reads them. */
    if (restore->run->state == JOB_ENDED && strncmp(key, "layer/", 6) != 0) {
        return 0;
    }
    if (strncmp(key, "open/", 5) == 0) {
        code = restore_find_layer(restore, rest + 1, &place.stream);
        return code || !restore->run->captures
                   ? code
                   : captures_unpack_layer(restore->run->captures, place.stream->id,
                                           place.stream->index, value, size);
    }
    if (strncmp(key, "sketch/", 7) == 0) {
        code = restore_find_layer(restore, rest + 1, &place.stream);
        return code ? code : restore_read_sketch(restore, place.stream, value, size);
    }
    code = find_place(restore, rest + 1, strncmp(key, "part/", 5) == 0, &place);
    if (code) {
        return code == ERR_AGAIN ? 0 : code;
    }
    if (strncmp(key, "layer/", 6) == 0) {
        return with_document(restore, &place, value, size);
    }
    if (strncmp(key, "part/", 5) == 0) {
        return read_part(restore, &place, value, size);
    }
    if (strncmp(key, "drift/", 6) == 0) {
        return read_drift(restore, &place, value, size);
    }
    return strncmp(key, "trouble/", 8) == 0 ? 0 : ERR_STORE_FORMAT; /* an older attnd's scores */
}

/* Runs */

/* All tracks know the same ranks by the same index: a new one learns them here. */
static int share_ranks(struct restore *restore, const struct window *from, struct window *to)
{
    int code = 0;
    for (uint32_t i = 0; i < from->rank_count && !code; i++) {
        uint32_t index;
        code =
            window_rank(to, from->ranks[i].rank, from->world, UINT32_MAX, restore->now_ns, &index);
        if (!code && index != i) {
            code = ERR_STORE_FORMAT;
        }
        if (!code) {
            to->ranks[i].bye = from->ranks[i].bye;
        }
    }
    return code || to->rank_count == from->rank_count ? code : ERR_STORE_FORMAT;
}

static void say_unreadable(struct restore *restore, const char *key, int code)
{
    restore->is_short = restore->is_short || code == ERR_MEMORY;
    log_event(LOG_WARNING, "checkpoint_unreadable", LOG_STR("job", restore->job),
              LOG_STR("key", key), LOG_STR("reason", err_text(code)));
}

void restore_finish(struct restore *restore)
{
    struct run *run = restore->run;
    if (!run) {
        return;
    }
    uint32_t known = 0;
    int code = 0;
    while (known + 1 < run->track_count && !restore->has_track[known]) {
        known++;
    }
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        if (t != known) {
            code = share_ranks(restore, &run->tracks[known].window, &run->tracks[t].window);
        }
    }
    if (code) {
        say_unreadable(restore, "about", code);
        run_free(&restore->run);
        return;
    }
    for (uint32_t t = 0; t < run->track_count; t++) {
        run->tracks[t].joins_late = !restore->has_track[t];
    }
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        for (uint32_t t = 0; t < run->track_count; t++) {
            struct layer_track *layer = &stream->tracks[t];
            uint64_t lacks = sequences_since(&stream->sequences, &layer->restored);
            if (restore->has_track[t] && lacks > 0) {
                layer->pending.lost += lacks;
                run->tracks[t].joins_late = true;
            }
            sequences_clear(&layer->restored);
        }
    }
    run->dirty = true;
    char hex[2 * RUN_BYTES + 1];
    run_hex(run->id, hex);
    restore->run = NULL;
    run->judged = run_counts(run); /* before the stop */
    run_count_sequences(run);
    bool room = restore->adopt(restore->data, run);
    log_event(restore->of_forgotten ? LOG_DEBUG
              : room                ? LOG_INFO
                                    : LOG_WARNING,
              room ? "run_restored" : "run_not_restored", LOG_STR("job", run->job),
              LOG_STR("run", hex), LOG_NUM("layers", HASH_COUNT(run->streams)),
              LOG_NUM("messages", run->taken));
    restore->runs += room;
    if (!room) {
        run_free(&run);
    }
}

/* Its first value, which must be `about`: without it the others mean nothing. */
static void begin_run(struct restore *restore, const char *job, const uint8_t *id, const char *key,
                      const void *value, size_t size)
{
    restore_finish(restore);
    snprintf(restore->job, sizeof restore->job, "%s", job);
    memcpy(restore->id, id, RUN_BYTES);
    memset(restore->has_track, 0, sizeof restore->has_track);
    restore->unknown_track[0] = '\0';
    if (strcmp(key, "about") != 0) {
        say_unreadable(restore, key, ERR_STORE_FORMAT);
        return;
    }
    int code = with_document(restore, NULL, value, size);
    if (code) {
        say_unreadable(restore, key, code);
        run_free(&restore->run);
    }
}

void restore_value(void *data, const char *job, const uint8_t *id, const char *key,
                   const void *value, size_t size)
{
    struct restore *restore = data;
    bool same = strcmp(restore->job, job) == 0 && memcmp(restore->id, id, RUN_BYTES) == 0;
    if (!same) {
        begin_run(restore, job, id, key, value, size);
        return;
    }
    int code = restore->run ? restore_read_value(restore, key, value, size) : 0;
    if (code) {
        say_unreadable(restore, key, code);
    }
}
