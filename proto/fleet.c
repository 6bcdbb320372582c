/* SPDX-License-Identifier: MIT */
#include "proto/fleet.h"

#include "proto/err.h"
#include "proto/header_internal.h"

#include <math.h>
#include <string.h>

/* A state is one bin; the rest is small. */
const struct mpk_limits fleet_limits = {.bytes = 256u << 20, .depth = 6, .elements = 1u << 20};

static const char *const kinds[] = {
    [FLEET_PART] = "part", [FLEET_CLOSED] = "closed", [FLEET_RUN] = "run"};

/* Writing */

static void fleet_put_rule(struct mpk_writer *writer, const struct fleet_body *body)
{
    mpk_pair_str(writer, "unit", window_unit_name(body->rule.unit));
    mpk_pair_u64(writer, "length", body->rule.length);
    mpk_pair_u64(writer, "every", body->rule.every);
    mpk_pair_u64(writer, "part", body->part);
}

static void fleet_put_text(struct mpk_writer *writer, const char *key, const char *text,
                           size_t size)
{
    mpk_put_str(writer, key);
    mpk_put_text(writer, text, size);
}

static void fleet_put_progress(struct mpk_writer *writer, const struct fleet_body *body)
{
    mpk_pair_u64(writer, "world", body->world);
    mpk_pair_u64(writer, "epoch", body->epoch);
    mpk_pair_u64(writer, "step", body->step);
    mpk_pair_u64(writer, "time_ns", body->time_ns);
    mpk_pair_u64(writer, "received", body->received);
    mpk_pair_u64(writer, "processed", body->processed);
    mpk_pair_u64(writer, "lost", body->lost);
    mpk_pair_map(writer, "dropped", body->dropped_count);
    for (uint32_t i = 0; i < body->dropped_count; i++) {
        mpk_pair_u64(writer, body->dropped[i].reason, body->dropped[i].count);
    }
    mpk_pair_array(writer, "ranks", body->rank_count);
    for (uint32_t i = 0; i < body->rank_count; i++) {
        mpk_put_u64(writer, body->ranks[i]);
    }
}

void fleet_body_encode(const struct fleet_body *body, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    mpk_pair_u64(writer, "v", FLEET_VERSION);
    mpk_pair_str(writer, "kind", kinds[body->kind]);
    fleet_put_text(writer, "job", body->job, body->job_size);
    mpk_pair_bin(writer, "run", body->run, RUN_BYTES);
    if (body->own_window.length > 0) {
        mpk_put_str(writer, "own_window");
        own_window_put(&body->own_window, writer);
    }
    switch (body->kind) {
    case FLEET_PART:
        fleet_put_rule(writer, body);
        header_put_layer(writer, body->layer);
        if (body->module) {
            fleet_put_text(writer, "module", body->module, body->module_size);
        }
        mpk_pair_bin(writer, "state", body->state, body->state_size);
        break;
    case FLEET_CLOSED:
        fleet_put_rule(writer, body);
        fleet_put_progress(writer, body);
        mpk_pair_u64(writer, "next_before", body->next_before);
        mpk_pair_u64(writer, "complete_from", body->complete_from);
        mpk_pair_bool(writer, "cut", body->cut);
        mpk_pair_u64(writer, "layers", body->layers);
        break;
    case FLEET_RUN:
        fleet_put_progress(writer, body);
        mpk_pair_str(writer, "state", job_state_name(body->state_of_run));
        if (body->failure.type[0]) {
            mpk_put_str(writer, "failure");
            failure_put(&body->failure, writer);
        }
        if (body->settings) {
            mpk_pair_bin(writer, "settings", body->settings, body->settings_size);
        }
        mpk_pair_array(writer, "points", body->point_count);
        for (uint32_t i = 0; i < body->point_count; i++) {
            const struct fleet_point *point = &body->points[i];
            mpk_put_array(writer, 5);
            mpk_put_text(writer, point->name, point->name_size);
            mpk_put_u64(writer, point->epoch);
            mpk_put_u64(writer, point->step);
            mpk_put_u64(writer, point->time_ns);
            mpk_put_f64(writer, point->value);
        }
        break;
    }
    mpk_close_map(writer, &map);
}

void fleet_beat_encode(const struct fleet_beat *beat, struct mpk_writer *writer)
{
    mpk_put_map(writer, 16 + (uint32_t)((*beat->domain != '\0') + (*beat->trouble != '\0')));
    mpk_pair_u64(writer, "v", FLEET_VERSION);
    mpk_pair_bin(writer, "instance", beat->instance, FLEET_ID_BYTES);
    mpk_pair_u64(writer, "file", beat->file);
    mpk_pair_str(writer, "name", beat->name);
    mpk_pair_str(writer, "host", beat->host);
    mpk_pair_str(writer, "version", beat->version);
    mpk_pair_u64(writer, "newest", beat->newest);
    mpk_pair_u64(writer, "taken", beat->taken);
    mpk_pair_u64(writer, "rows", beat->rows);
    mpk_pair_u64(writer, "bytes", beat->bytes);
    mpk_pair_u64(writer, "unsent", beat->unsent);
    mpk_pair_u64(writer, "unsent_bytes", beat->unsent_bytes);
    mpk_pair_u64(writer, "outbox_lost", beat->outbox_lost);
    mpk_pair_u64(writer, "time_ns", beat->time_ns);
    mpk_pair_bool(writer, "stopping", beat->stopping);
    if (*beat->domain) {
        mpk_pair_str(writer, "domain", beat->domain);
    }
    if (*beat->trouble) {
        mpk_pair_str(writer, "trouble", beat->trouble);
    }
    mpk_pair_array(writer, "runs", beat->run_count);
    for (uint32_t i = 0; i < beat->run_count; i++) {
        mpk_put_array(writer, 4);
        mpk_put_bin(writer, beat->runs[i].run, RUN_BYTES);
        mpk_put_u64(writer, beat->runs[i].silent_ns);
        mpk_put_u64(writer, beat->runs[i].world);
        mpk_put_u64(writer, beat->runs[i].ranks);
    }
}

void fleet_ask_encode(const struct fleet_ask *ask, struct mpk_writer *writer)
{
    mpk_put_map(writer, 7);
    mpk_pair_u64(writer, "v", FLEET_VERSION);
    mpk_pair_str(writer, "hub", ask->hub);
    mpk_pair_bin(writer, "instance", ask->instance, FLEET_ID_BYTES);
    mpk_pair_u64(writer, "from", ask->from);
    mpk_pair_u64(writer, "to", ask->to);
    mpk_pair_str(writer, "refused", ask->refused);
    mpk_pair_bool(writer, "pause", ask->pause);
}

/* Reading: the first thing that is wrong is kept, and all that follows is skipped. */

struct fleet_reader {
    const msgpack_object *map;
    int code;
};

static const msgpack_object *fleet_find(struct fleet_reader *reader, const char *key, int type)
{
    const msgpack_object *value = reader->code ? NULL : mpk_find(reader->map, key);
    if (!value || (int)value->type != type) {
        reader->code = ERR_FLEET;
        return NULL;
    }
    return value;
}

static uint64_t fleet_number(struct fleet_reader *reader, const char *key, uint64_t max)
{
    const msgpack_object *value = fleet_find(reader, key, MSGPACK_OBJECT_POSITIVE_INTEGER);
    uint64_t number = 0;
    if (value && mpk_get_u64(value, max, &number) != 0) {
        reader->code = ERR_FLEET;
    }
    return number;
}

static bool fleet_flag(struct fleet_reader *reader, const char *key)
{
    const msgpack_object *value = fleet_find(reader, key, MSGPACK_OBJECT_BOOLEAN);
    return value && value->via.boolean;
}

/* Text without NUL of at least `min` bytes. */
static const char *fleet_text(struct fleet_reader *reader, const char *key, size_t min, size_t max,
                              size_t *ret_size)
{
    const msgpack_object *value = fleet_find(reader, key, MSGPACK_OBJECT_STR);
    if (!value || value->via.str.size < min || value->via.str.size > max ||
        memchr(value->via.str.ptr, '\0', value->via.str.size)) {
        reader->code = ERR_FLEET;
        return NULL;
    }
    *ret_size = value->via.str.size;
    return value->via.str.ptr;
}

static void fleet_copy_text(struct fleet_reader *reader, const char *key, char *to, size_t size)
{
    size_t found = 0;
    const char *text = fleet_text(reader, key, 0, size - 1, &found);
    if (text) {
        memcpy(to, text, found);
        to[found] = '\0';
    }
}

/* `size` is exact; 0: any. */
static const uint8_t *fleet_bin(struct fleet_reader *reader, const char *key, size_t size,
                                size_t *ret_size)
{
    const msgpack_object *value = fleet_find(reader, key, MSGPACK_OBJECT_BIN);
    if (!value || (size && value->via.bin.size != size)) {
        reader->code = ERR_FLEET;
        return NULL;
    }
    if (ret_size) {
        *ret_size = value->via.bin.size;
    }
    return (const uint8_t *)value->via.bin.ptr;
}

/* The position of a word among `count`. */
static unsigned fleet_choice(struct fleet_reader *reader, const char *key, unsigned count,
                             const char *const *words)
{
    const msgpack_object *value = fleet_find(reader, key, MSGPACK_OBJECT_STR);
    unsigned word = 0;
    if (value && mpk_get_word(value, words, count, &word) != 0) {
        reader->code = ERR_FLEET;
    }
    return word;
}

static void fleet_read_rule(struct fleet_reader *reader, struct fleet_body *body)
{
    body->rule.unit = (enum window_unit)fleet_choice(
        reader, "unit", 2,
        (const char *const[]){window_unit_name(WINDOW_EPOCH), window_unit_name(WINDOW_STEP)});
    body->rule.length = fleet_number(reader, "length", FLEET_RULE_MAX);
    body->rule.every = fleet_number(reader, "every", FLEET_RULE_MAX);
    body->part = fleet_number(reader, "part", COUNT_MAX / FLEET_RULE_MAX);
    if (!body->rule.length || !body->rule.every) {
        reader->code = ERR_FLEET;
    }
}

static void fleet_read_progress(struct fleet_reader *reader, struct fleet_body *body)
{
    body->world = (uint32_t)fleet_number(reader, "world", WORLD_MAX);
    body->epoch = fleet_number(reader, "epoch", COUNT_MAX);
    body->step = fleet_number(reader, "step", COUNT_MAX);
    body->time_ns = fleet_number(reader, "time_ns", UINT64_MAX);
    body->received = fleet_number(reader, "received", COUNT_MAX);
    body->processed = fleet_number(reader, "processed", COUNT_MAX);
    body->lost = fleet_number(reader, "lost", COUNT_MAX);
    body->dropped_found = fleet_find(reader, "dropped", MSGPACK_OBJECT_MAP);
    body->ranks_found = fleet_find(reader, "ranks", MSGPACK_OBJECT_ARRAY);
    for (uint32_t i = 0; !reader->code && i < body->ranks_found->via.array.size; i++) {
        uint64_t rank;
        if (mpk_get_u64(&body->ranks_found->via.array.ptr[i], WORLD_MAX - 1, &rank) != 0) {
            reader->code = ERR_FLEET;
        }
    }
}

static void fleet_check_version(struct fleet_reader *reader)
{
    if (fleet_number(reader, "v", UINT32_MAX) != FLEET_VERSION) {
        reader->code = ERR_FLEET;
    }
}

int fleet_body_decode(const msgpack_object *map, struct fleet_body *ret_body)
{
    struct fleet_reader reader = {.map = map};
    struct fleet_body body = {.kind = FLEET_PART};
    fleet_check_version(&reader);
    body.kind = (enum fleet_kind)fleet_choice(&reader, "kind", 3, kinds);
    body.job = fleet_text(&reader, "job", 1, JOB_NAME_MAX, &body.job_size);
    body.run = fleet_bin(&reader, "run", RUN_BYTES, NULL);
    if (!reader.code && !job_name_valid(body.job, body.job_size)) {
        return ERR_FLEET;
    }
    const msgpack_object *own = mpk_find(map, "own_window");
    if (own &&
        (own_window_read(own, &body.own_window) != 0 || body.own_window.unit == WINDOW_SECOND)) {
        return ERR_FLEET;
    }
    if (body.kind != FLEET_RUN) {
        fleet_read_rule(&reader, &body);
    }
    if (body.kind == FLEET_PART) {
        body.layer.stack = (enum stack)fleet_choice(&reader, "stack", 2, stack_names);
        body.layer.layer = (uint32_t)fleet_number(&reader, "layer", LAYER_MAX);
        body.layer.site = (enum site)fleet_choice(&reader, "site", 2, site_names);
        if (mpk_find(map, "module")) {
            body.module = fleet_text(&reader, "module", 1, MODULE_MAX, &body.module_size);
        }
        if (body.module && !module_path_valid(body.module, body.module_size)) {
            return ERR_FLEET;
        }
        body.state = fleet_bin(&reader, "state", 0, &body.state_size);
    } else {
        fleet_read_progress(&reader, &body);
    }
    if (body.kind == FLEET_CLOSED) {
        body.next_before = fleet_number(&reader, "next_before", COUNT_MAX);
        body.complete_from = fleet_number(&reader, "complete_from", COUNT_MAX);
        body.cut = fleet_flag(&reader, "cut");
        body.layers = (uint32_t)fleet_number(&reader, "layers", UINT32_MAX);
    } else if (body.kind == FLEET_RUN) {
        body.state_of_run = (enum job_state)fleet_choice(
            &reader, "state", 3,
            (const char *const[]){job_state_name(JOB_ACTIVE), job_state_name(JOB_IDLE),
                                  job_state_name(JOB_ENDED)});
        if (mpk_find(map, "failure") &&
            failure_read(mpk_find(map, "failure"), &body.failure) != 0) {
            return ERR_FLEET;
        }
        body.points_found = fleet_find(&reader, "points", MSGPACK_OBJECT_ARRAY);
        if (mpk_find(map, "settings")) {
            body.settings = fleet_bin(&reader, "settings", 0, &body.settings_size);
        }
    }
    if (!reader.code) {
        *ret_body = body;
    }
    return reader.code;
}

int fleet_point_decode(const msgpack_object *point, struct fleet_point *ret_point)
{
    const msgpack_object *at = point->via.array.ptr;
    struct fleet_point found = {.value = NAN};
    if (point->type != MSGPACK_OBJECT_ARRAY || point->via.array.size != 5 ||
        at[0].type != MSGPACK_OBJECT_STR || at[0].via.str.size < 1 ||
        at[0].via.str.size > NAMED_NAME_MAX ||
        memchr(at[0].via.str.ptr, '\0', at[0].via.str.size) ||
        mpk_get_u64(&at[1], COUNT_MAX, &found.epoch) != 0 ||
        mpk_get_u64(&at[2], COUNT_MAX, &found.step) != 0 ||
        mpk_get_u64(&at[3], UINT64_MAX, &found.time_ns) != 0 ||
        mpk_get_f64(&at[4], &found.value) != 0) {
        return ERR_FLEET;
    }
    found.name = at[0].via.str.ptr;
    found.name_size = at[0].via.str.size;
    *ret_point = found;
    return 0;
}

int fleet_beat_decode(const msgpack_object *map, struct fleet_beat *ret_beat)
{
    struct fleet_reader reader = {.map = map};
    struct fleet_beat beat = {.newest = 0};
    fleet_check_version(&reader);
    const uint8_t *instance = fleet_bin(&reader, "instance", FLEET_ID_BYTES, NULL);
    fleet_copy_text(&reader, "name", beat.name, sizeof beat.name);
    fleet_copy_text(&reader, "host", beat.host, sizeof beat.host);
    fleet_copy_text(&reader, "version", beat.version, sizeof beat.version);
    beat.file = mpk_find(map, "file") ? fleet_number(&reader, "file", UINT64_MAX) : 0;
    beat.newest = fleet_number(&reader, "newest", COUNT_MAX);
    beat.taken = fleet_number(&reader, "taken", COUNT_MAX);
    beat.rows = fleet_number(&reader, "rows", COUNT_MAX);
    beat.bytes = fleet_number(&reader, "bytes", COUNT_MAX);
    beat.unsent = fleet_number(&reader, "unsent", COUNT_MAX);
    beat.unsent_bytes = fleet_number(&reader, "unsent_bytes", COUNT_MAX);
    beat.outbox_lost = fleet_number(&reader, "outbox_lost", COUNT_MAX);
    beat.time_ns = fleet_number(&reader, "time_ns", UINT64_MAX);
    beat.stopping = fleet_flag(&reader, "stopping");
    if (mpk_find(map, "domain")) {
        fleet_copy_text(&reader, "domain", beat.domain, sizeof beat.domain);
    }
    if (mpk_find(map, "trouble")) {
        fleet_copy_text(&reader, "trouble", beat.trouble, sizeof beat.trouble);
    }
    beat.runs_found = fleet_find(&reader, "runs", MSGPACK_OBJECT_ARRAY);
    if (reader.code || beat.runs_found->via.array.size > FLEET_RUNS_MAX) {
        return ERR_FLEET;
    }
    memcpy(beat.instance, instance, sizeof beat.instance);
    *ret_beat = beat;
    return 0;
}

int fleet_beat_run_decode(const msgpack_object *run, struct fleet_beat_run *ret_run)
{
    const msgpack_object *at = run->via.array.ptr;
    uint64_t silent_ns, world, ranks;
    if (run->type != MSGPACK_OBJECT_ARRAY || run->via.array.size != 4 ||
        at[0].type != MSGPACK_OBJECT_BIN || at[0].via.bin.size != RUN_BYTES ||
        mpk_get_u64(&at[1], UINT64_MAX, &silent_ns) != 0 ||
        mpk_get_u64(&at[2], WORLD_MAX, &world) != 0 ||
        mpk_get_u64(&at[3], WORLD_MAX, &ranks) != 0) {
        return ERR_FLEET;
    }
    *ret_run = (struct fleet_beat_run){
        .silent_ns = silent_ns, .world = (uint32_t)world, .ranks = (uint32_t)ranks};
    memcpy(ret_run->run, at[0].via.bin.ptr, RUN_BYTES);
    return 0;
}

int fleet_ask_decode(const msgpack_object *map, struct fleet_ask *ret_ask)
{
    struct fleet_reader reader = {.map = map};
    struct fleet_ask ask = {.from = 0};
    fleet_check_version(&reader);
    fleet_copy_text(&reader, "hub", ask.hub, sizeof ask.hub);
    const uint8_t *instance = fleet_bin(&reader, "instance", FLEET_ID_BYTES, NULL);
    ask.from = fleet_number(&reader, "from", COUNT_MAX);
    ask.to = fleet_number(&reader, "to", COUNT_MAX);
    fleet_copy_text(&reader, "refused", ask.refused, sizeof ask.refused);
    ask.pause = fleet_flag(&reader, "pause");
    if (!reader.code) {
        memcpy(ask.instance, instance, sizeof ask.instance);
        *ret_ask = ask;
    }
    return reader.code;
}
