/* SPDX-License-Identifier: MIT */
/* hub_fixture: a hub without servers: rows go in by hand, merged windows come out of the inbox, and
 * the loop is the test. */
#ifndef TESTS_UNIT_DAEMON_FLEET_FIXTURE_H
#define TESTS_UNIT_DAEMON_FLEET_FIXTURE_H

#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "daemon/base/stats.h"
#include "daemon/fleet/hub_internal.h"
#include "daemon/store/store.h"
#include "proto/err.h"
#include "tests/unit/daemon/state/measured.h"

#include <unistd.h>

#define HEADS   2
#define BUCKETS 48
#define NODES   3
#define SECOND  UINT64_C(1000000000)
#define NOW_S   INT64_C(1000000000)

static const uint8_t run_id[RUN_BYTES] = {7};
static struct own_window asked; /* windows, by the run */

struct place {
    char directory[64], history[96], parts[112];
    uv_loop_t loop;
    struct inbox inbox;
    struct stats stats;
    struct store *store; /* without a history */
    struct hub hub;
    struct config config;
    uint64_t seq[NODES];
    struct merged *merged[64]; /* as they came */
    uint32_t merged_count;
};

static inline void on_note(void *data, struct note *note)
{
    struct place *place = data;
    assert_int_equal(note->kind, NOTE_MERGED);
    assert_true(place->merged_count < 64);
    place->merged[place->merged_count++] = (struct merged *)note;
}

static inline void open_hub(struct place *place)
{
    char error[CONFIG_ERROR_MAX] = "";
    struct hub *hub = &place->hub;
    *hub = (struct hub){.config = &place->config,
                        .store = place->store,
                        .inbox = &place->inbox,
                        .history_path = place->history,
                        .clock_s = NOW_S};
    hub->now_ns = hub->started_ns = hub->clock_ns = clock_monotonic_ns();
    assert_int_equal(parts_open(&hub->parts, place->history, error), 0);
    assert_int_equal(hub_load(hub, 0), 0);
}

static inline void close_hub(struct place *place)
{
    hub_take_save(&place->hub);
    assert_int_equal(parts_commit(&place->hub.parts), 0);
    hub_merge_stop(&place->hub);
    hub_runs_free(&place->hub);
    parts_close(&place->hub.parts);
}

static inline void reopen_hub(struct place *place)
{
    close_hub(place);
    open_hub(place);
}

static inline void hub_begin(struct place *place)
{
    asked = (struct own_window){.length = 0};
    strcpy(place->directory, "/tmp/attnd-hub-XXXXXX");
    assert_non_null(mkdtemp(place->directory));
    snprintf(place->history, sizeof place->history, "%s/history.db", place->directory);
    snprintf(place->parts, sizeof place->parts, "%s.parts", place->history);
    config_defaults(&place->config);
    place->config.window_unit = CONFIG_UNIT_STEP;
    place->config.window_length = place->config.window_every = 2;
    place->config.window_buckets = BUCKETS;
    uv_loop_init(&place->loop);
    inbox_init(&place->inbox, &place->loop, on_note, place);
    place->config.history_enabled = false;
    assert_int_equal(store_new(&place->config, &place->stats, &place->store), 0);
    open_hub(place);
}

static inline void read_inbox(struct place *place)
{
    uv_run(&place->loop, UV_RUN_NOWAIT);
}

static inline void hub_end(struct place *place)
{
    char file[128];
    close_hub(place);
    store_free(&place->store);
    inbox_close(&place->inbox);
    uv_run(&place->loop, UV_RUN_DEFAULT);
    uv_loop_close(&place->loop);
    for (uint32_t i = 0; i < place->merged_count; i++) {
        merged_free(&place->merged[i]);
    }
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s%s", place->parts, i == 2 ? "-shm" : i ? "-wal" : "");
        unlink(file);
    }
    rmdir(place->directory);
}

#define HUB_TEST(name) TEST_IN(name, struct place, place, hub_begin, hub_end)

/* Rows */

static inline struct layer_state *new_state(uint32_t node, uint64_t part, uint32_t heads,
                                            uint32_t buckets)
{
    const struct measured_options options = {.batch = 1,
                                             .heads = heads,
                                             .size = 8,
                                             .sharpness = 1 + node,
                                             .without_spectra = true,
                                             .seed = (uint32_t)(10 * part + node)};
    struct measured_message *message = measured_message_new(&options, (uint32_t)part + 1);
    struct layer_state *state = layer_state_new(heads, buckets);
    assert_non_null(message);
    message->message.header.rank = node;
    assert_int_equal(layer_state_add(state, &message->message, measure_result(message->measure)),
                     0);
    measured_message_free(&message);
    return state;
}

static inline enum hub_verdict send_row(struct place *place, uint32_t node, uint64_t seq,
                                        const void *data, size_t size, uint32_t piece,
                                        uint32_t pieces)
{
    struct hub_message message = {.node = {(uint8_t)(node + 1)},
                                  .instance = {(uint8_t)(node + 1)},
                                  .seq = seq,
                                  .piece = piece,
                                  .pieces = pieces,
                                  .data = data,
                                  .size = size};
    return hub_take(&place->hub, &message);
}

static inline void send_body(struct place *place, uint32_t node, const struct fleet_body *body,
                             uint32_t times)
{
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    uint64_t seq = ++place->seq[node];
    mpk_writer_init(&writer);
    fleet_body_encode(body, &writer);
    assert_true(mpk_writer_ok(&writer));
    size_t half = writer.buffer.size / 2;
    for (uint32_t i = 0; i < times; i++) {
        if (node == 1) { /* in two pieces, the last first */
            send_row(place, node, seq, writer.buffer.data + half, writer.buffer.size - half, 2, 2);
            send_row(place, node, seq, writer.buffer.data, half, 1, 2);
        } else {
            send_row(place, node, seq, writer.buffer.data, writer.buffer.size, 1, 1);
        }
    }
}

static inline struct fleet_body new_body(enum fleet_kind kind, uint64_t part)
{
    return (struct fleet_body){.kind = kind,
                               .job = "job",
                               .job_size = 3,
                               .run = run_id,
                               .own_window = asked,
                               .rule = {WINDOW_STEP, 2, 2},
                               .part = part};
}

static inline void send_part_of(struct place *place, uint32_t node, uint64_t part, uint32_t heads,
                                uint32_t buckets)
{
    struct fleet_body body = new_body(FLEET_PART, part);
    OWNED(layer_state_free) struct layer_state *state = new_state(node, part, heads, buckets);
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    assert_int_equal(layer_state_pack(state, &writer), 0);
    body.state = writer.buffer.data;
    body.state_size = writer.buffer.size;
    send_body(place, node, &body, 2);
}

static inline void send_closed(struct place *place, uint32_t node, uint64_t part)
{
    struct fleet_body body = new_body(FLEET_CLOSED, part);
    body.next_before = part;
    body.layers = 1;
    body.world = NODES;
    body.ranks = &node;
    body.rank_count = 1;
    body.step = 2 * part + 1;
    body.received = body.processed = 4;
    send_body(place, node, &body, 1);
}

static inline void send_window(struct place *place, uint32_t node, uint64_t part)
{
    send_part_of(place, node, part, HEADS, BUCKETS);
    send_closed(place, node, part);
}

static inline void send_windows(struct place *place, uint64_t part)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, part);
    }
}

static inline void send_end(struct place *place, uint32_t node)
{
    struct fleet_body body = new_body(FLEET_RUN, 0);
    body.state_of_run = JOB_ENDED;
    body.world = NODES;
    body.ranks = &node;
    body.rank_count = 1;
    send_body(place, node, &body, 1);
}

/* The hub's turns until it waits for the loop, which reads what there is. */
static inline void merge_until_idle(struct place *place)
{
    while (hub_merge_step(&place->hub)) {
    }
    read_inbox(place);
}

/* The hub's turn, and the loop's, which takes everything. Returns how much came. */
static inline uint32_t merge_all(struct place *place)
{
    uint32_t before = place->merged_count, answered = before;
    for (int i = 0; i < 100; i++) {
        merge_until_idle(place);
        for (; answered < place->merged_count; answered++) {
            hub_merge_done(&place->hub, place->merged[answered]);
        }
    }
    return place->merged_count - before;
}

static inline void pass_time(struct place *place, uint64_t ns)
{
    place->hub.now_ns += ns;
}

#endif
