/* SPDX-License-Identifier: MIT */
/* A hub without servers: rows go in by hand, merged windows come out of the inbox, and the loop is
 * this test. */
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

static void on_note(void *data, struct note *note)
{
    struct place *place = data;
    assert_int_equal(note->kind, NOTE_MERGED);
    assert_true(place->merged_count < 64);
    place->merged[place->merged_count++] = (struct merged *)note;
}

static void open_hub(struct place *place)
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

static void close_hub(struct place *place)
{
    hub_take_save(&place->hub);
    assert_int_equal(parts_commit(&place->hub.parts), 0);
    hub_merge_stop(&place->hub);
    hub_runs_free(&place->hub);
    parts_close(&place->hub.parts);
}

static int begin(void **state)
{
    asked = (struct own_window){.length = 0};
    struct place *place = calloc(1, sizeof *place);
    strcpy(place->directory, "/tmp/attnd-hub-XXXXXX");
    if (!mkdtemp(place->directory)) {
        return -1;
    }
    snprintf(place->history, sizeof place->history, "%s/history.db", place->directory);
    snprintf(place->parts, sizeof place->parts, "%s.parts", place->history);
    config_defaults(&place->config);
    place->config.window_unit = CONFIG_UNIT_STEP;
    place->config.window_length = place->config.window_every = 2;
    place->config.window_buckets = BUCKETS;
    uv_loop_init(&place->loop);
    inbox_init(&place->inbox, &place->loop, on_note, place);
    place->config.history_enabled = false;
    if (store_new(&place->config, &place->stats, &place->store) != 0) {
        return -1;
    }
    open_hub(place);
    *state = place;
    return 0;
}

static void read_inbox(struct place *place)
{
    uv_run(&place->loop, UV_RUN_NOWAIT);
}

static int end(void **state)
{
    struct place *place = *state;
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
    free(place);
    return 0;
}

#define HUB_TEST(name) TEST_OF(name, struct place *place, begin, end)

/* Rows */

static struct layer_state *new_state(uint32_t node, uint64_t part, uint32_t heads, uint32_t buckets)
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

static enum hub_verdict send_row(struct place *place, uint32_t node, uint64_t seq, const void *data,
                                 size_t size, uint32_t piece, uint32_t pieces)
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

static void send_body(struct place *place, uint32_t node, const struct fleet_body *body,
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

static struct fleet_body new_body(enum fleet_kind kind, uint64_t part)
{
    return (struct fleet_body){.kind = kind,
                               .job = "job",
                               .job_size = 3,
                               .run = run_id,
                               .own_window = asked,
                               .rule = {WINDOW_STEP, 2, 2},
                               .part = part};
}

static void send_part_of(struct place *place, uint32_t node, uint64_t part, uint32_t heads,
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

static void send_closed(struct place *place, uint32_t node, uint64_t part)
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

static void send_window(struct place *place, uint32_t node, uint64_t part)
{
    send_part_of(place, node, part, HEADS, BUCKETS);
    send_closed(place, node, part);
}

static void send_end(struct place *place, uint32_t node)
{
    struct fleet_body body = new_body(FLEET_RUN, 0);
    body.state_of_run = JOB_ENDED;
    body.world = NODES;
    body.ranks = &node;
    body.rank_count = 1;
    send_body(place, node, &body, 1);
}

/* The hub's turn, and the loop's, which takes everything. Returns how much came. */
static uint32_t merge_all(struct place *place)
{
    uint32_t before = place->merged_count, answered = before;
    for (int i = 0; i < 100; i++) {
        while (hub_merge_step(&place->hub)) {
        }
        read_inbox(place);
        for (; answered < place->merged_count; answered++) {
            hub_merge_done(&place->hub, place->merged[answered]);
        }
    }
    return place->merged_count - before;
}

static void pass_time(struct place *place, uint64_t ns)
{
    place->hub.now_ns += ns;
}

/* Tests */

HUB_TEST(a_hub_has_the_windows_that_a_run_asks_for)
{
    place->config.window_length = place->config.window_every = 5;
    asked = (struct own_window){WINDOW_STEP, 2};
    for (uint64_t part = 0; part < 2; part++) {
        for (uint32_t node = 0; node < NODES; node++) {
            send_window(place, node, part);
        }
        assert_int_equal(merge_all(place), part + 1); /* again, what the loop may not have kept */
        const struct merged *merged = place->merged[place->merged_count - 1];
        assert_int_equal(merged->own_window.length, 2);
        assert_int_equal(merged->part, part);
        close_hub(place); /* what it knows of the run is in its file */
        open_hub(place);
    }
    assert_int_equal(place->hub.counts[HUB_WINDOWS_UNKNOWN], 0);
}

HUB_TEST(windows_are_the_merge_of_their_parts)
{
    for (uint64_t part = 0; part < 3; part++) {
        for (uint32_t node = 0; node < NODES; node++) {
            assert_int_equal(merge_all(place), 0);
            send_window(place, node, part);
        }
        assert_int_equal(merge_all(place), 1);
        struct merged *merged = place->merged[part];
        struct layer_state *wanted = layer_state_new(HEADS, BUCKETS), *states[NODES];
        for (uint32_t node = 0; node < NODES; node++) {
            states[node] = new_state(node, part, HEADS, BUCKETS);
        }
        assert_int_equal(
            layer_state_merge_all(wanted, (const struct layer_state *const *)states, NODES), 0);
        struct mpk_writer got, want;
        mpk_writer_init(&got);
        mpk_writer_init(&want);
        assert_int_equal(layer_state_pack(merged->layers[0].state, &got), 0);
        assert_int_equal(layer_state_pack(wanted, &want), 0);
        assert_int_equal(got.buffer.size, want.buffer.size);
        assert_memory_equal(got.buffer.data, want.buffer.data, want.buffer.size);
        assert_int_equal(merged->part, part);
        assert_int_equal(merged->nodes, NODES);
        assert_int_equal(merged->rank_count, NODES);
        assert_int_equal(merged->missing_count, 0);
        assert_false(merged->partial);
        assert_int_equal(merged->processed, 4 * NODES);
        mpk_writer_clear(&got);
        mpk_writer_clear(&want);
        layer_state_free(&wanted);
        for (uint32_t node = 0; node < NODES; node++) {
            layer_state_free(&states[node]);
        }
    }
    for (uint32_t node = 0; node < NODES; node++) {
        send_end(place, node);
    }
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[3]->state, JOB_ENDED);
    assert_false(place->merged[3]->has_window);
    assert_int_equal(merge_all(place), 0);
}

HUB_TEST(late_parts_correct_a_window)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, 0);
    }
    assert_int_equal(merge_all(place), 1);
    send_window(place, 0, 1);
    send_window(place, 1, 1);
    assert_int_equal(merge_all(place), 0);
    pass_time(place, place->config.window_timeout + SECOND); /* the third is silent */
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->missing_count, 1);
    assert_true(place->merged[1]->partial);
    send_window(place, 2, 1);
    assert_int_equal(merge_all(place), 0); /* more may come */
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[2]->revision, 1);
    assert_int_equal(place->merged[2]->nodes, NODES);
    assert_int_equal(place->merged[2]->missing_count, 0);
    assert_false(place->merged[2]->partial);
}

HUB_TEST(that_windows_are_partial_is_in_the_file)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_closed(place, node, 0);
    }
    assert_false(place->hub.runs->has_partial);
    assert_int_equal(merge_all(place), 1); /* it lacks the state of each of them */
    assert_true(place->hub.runs->has_partial);
    close_hub(place);
    open_hub(place);
    assert_true(place->hub.runs->has_partial);
}

/* Nobody was heard: it was the hub that was cut off, and no node is silent. */
HUB_TEST(all_are_waited_for_after_a_silence_of_all)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, 0);
    }
    assert_int_equal(merge_all(place), 1);
    pass_time(place, 2 * place->config.window_timeout);
    send_window(place, 0, 1);
    send_window(place, 1, 1);
    assert_int_equal(merge_all(place), 0);
    send_window(place, 2, 1);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->missing_count, 0);
}

HUB_TEST(it_goes_on_from_its_file)
{
    send_window(place, 0, 0);
    send_window(place, 1, 0);
    close_hub(place);
    open_hub(place);
    assert_int_equal(merge_all(place), 0);
    send_window(place, 2, 0);
    assert_int_equal(merge_all(place), 1);
    close_hub(place);
    open_hub(place);
    assert_int_equal(merge_all(place), 1); /* the loop may not have kept it */
    assert_int_equal(place->merged[1]->revision, 0);
    assert_int_equal(place->merged[1]->nodes, NODES);
}

HUB_TEST(a_window_that_is_not_taken_comes_again)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, 0);
    }
    while (hub_merge_step(&place->hub)) {
    }
    read_inbox(place);
    assert_int_equal(place->merged_count, 1);
    place->merged[0]->code = ERR_MEMORY;
    hub_merge_done(&place->hub, place->merged[0]);
    assert_int_equal(merge_all(place), 0);
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->revision, 0);
}

HUB_TEST(what_cannot_be_merged_is_set_aside)
{
    struct hub *hub = &place->hub;
    send_part_of(place, 0, 0, HEADS, BUCKETS);
    send_part_of(place, 0, 1, HEADS + 1, BUCKETS);
    assert_int_equal(hub->counts[HUB_POISONED], 1);
    send_row(place, 0, ++place->seq[0], "\x80", 1, 1, 1);
    send_row(place, 0, ++place->seq[0], "no map at all", 13, 1, 1);
    send_row(place, 0, ++place->seq[0], "", 0, 1, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 4);
    assert_int_equal(seen_low(&hub->nodes->seen), place->seq[0]); /* they are not asked for */
    send_part_of(place, 2, 0, HEADS, BUCKETS / 2);
    send_closed(place, 2, 0);
    assert_int_equal(hub->counts[HUB_POISONED], 4);
    send_closed(place, 0, 0);
    pass_time(place, place->config.window_rank_grace + SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[0]->nodes, 1);
    assert_int_equal(place->merged[0]->missing_count, 1);
    assert_non_null(strstr(place->merged[0]->missing[0].reason, "buckets"));
}

HUB_TEST(rows_that_are_gone_are_not_waited_for)
{
    struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, 2}};
    for (uint32_t node = 0; node < NODES; node++) {
        place->seq[node] += node == 0 ? 2 : 0; /* its window 0 never comes */
        if (node > 0) {
            send_window(place, node, 0);
        }
        send_window(place, node, 1);
    }
    assert_int_equal(merge_all(place), 0);
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    assert_int_equal(place->hub.counts[HUB_GONE], 2);
    assert_int_equal(merge_all(place), 2);
    assert_int_equal(place->merged[0]->part, 0);
    assert_int_equal(place->merged[0]->missing_count, 1);
    assert_int_equal(place->merged[1]->missing_count, 0);
}

HUB_TEST(a_copy_of_a_node_is_refused)
{
    msgpack_object none = {.type = MSGPACK_OBJECT_ARRAY};
    struct fleet_beat beat = {.instance = {1}, .name = "first", .runs_found = &none};
    struct hub_message copy = {
        .node = {1}, .instance = {9}, .seq = 5, .piece = 1, .pieces = 1, .data = "", .size = 0};
    const char *refused;
    assert_non_null(
        hub_take_beat(&place->hub, (const uint8_t[FLEET_ID_BYTES]){1}, &beat, &refused));
    assert_string_equal(refused, "");
    assert_int_equal(hub_take(&place->hub, &copy), HUB_LATER);
    beat.instance[0] = 9;
    assert_null(hub_take_beat(&place->hub, (const uint8_t[FLEET_ID_BYTES]){1}, &beat, &refused));
    assert_non_null(strstr(refused, "first"));
    pass_time(place, HUB_GONE_NS);
    assert_int_equal(hub_take(&place->hub, &copy), HUB_TAKE);
}

HUB_TEST(a_node_that_was_started_again_is_no_copy)
{
    static const uint8_t id[FLEET_ID_BYTES] = {1};
    msgpack_object none = {.type = MSGPACK_OBJECT_ARRAY};
    struct fleet_beat beat = {.instance = {1}, .file = 5, .runs_found = &none};
    const char *refused;
    assert_non_null(hub_take_beat(&place->hub, id, &beat, &refused));
    beat.instance[0] = 2;
    beat.file = 6;
    assert_null(hub_take_beat(&place->hub, id, &beat, &refused));
    beat.file = 5;
    assert_non_null(hub_take_beat(&place->hub, id, &beat, &refused));
    assert_string_equal(refused, "");
}

HUB_TEST(a_node_is_refused_while_the_run_goes_on_there)
{
    static const uint8_t id[FLEET_ID_BYTES] = {3};
    msgpack_object run[4] = {{.type = MSGPACK_OBJECT_BIN}}, runs = {.type = MSGPACK_OBJECT_ARRAY};
    run[0].via.bin.ptr = (const char *)run_id;
    run[0].via.bin.size = RUN_BYTES;
    for (int i = 1; i < 4; i++) {
        run[i].type = MSGPACK_OBJECT_POSITIVE_INTEGER;
    }
    msgpack_object one = {.type = MSGPACK_OBJECT_ARRAY};
    one.via.array.ptr = run;
    one.via.array.size = 4;
    runs.via.array.ptr = &one;
    runs.via.array.size = 1;
    struct fleet_beat beat = {.instance = {3}, .runs_found = &runs};
    const char *refused;
    send_part_of(place, 0, 0, HEADS, BUCKETS);
    send_part_of(place, 2, 0, HEADS, 2 * BUCKETS);
    assert_non_null(hub_take_beat(&place->hub, id, &beat, &refused));
    assert_non_null(strstr(refused, "window.buckets is 96 here and 48"));
    runs.via.array.size = 0;
    assert_non_null(hub_take_beat(&place->hub, id, &beat, &refused));
    assert_string_equal(refused, "");
}

/* The past */

static void run_sql(struct place *place, const char *text)
{
    parts_begin(&place->hub.parts);
    assert_int_equal(sqlite3_exec(place->hub.parts.sql.db, text, NULL, NULL, NULL), SQLITE_OK);
}

static int64_t count_rows(struct place *place, const char *table)
{
    char text[128];
    sqlite3_stmt *statement;
    snprintf(text, sizeof text, "SELECT count(*) FROM %s", table);
    assert_int_equal(sqlite3_prepare_v2(place->hub.parts.sql.db, text, -1, &statement, NULL), 0);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return count;
}

static void forget(struct place *place)
{
    place->hub.forget_ns = 0;
    hub_forget(&place->hub);
}

/* Everything came, and was heard of, in 1970. */
static void pass_years(struct place *place)
{
    run_sql(place, "UPDATE parts SET stored = 1; UPDATE closed SET stored = 1;"
                   "UPDATE said SET stored = 1; UPDATE runs SET heard = 1");
    for (struct hub_run *run = place->hub.runs; run; run = run->next) {
        run->heard_s = 1;
    }
    for (struct hub_node *node = place->hub.nodes; node; node = node->next) {
        node->used_s = 1;
    }
}

HUB_TEST(a_run_of_long_ago_is_forgotten_but_not_merged_anew)
{
    for (uint64_t part = 0; part < 3; part++) {
        for (uint32_t node = 0; node < NODES; node++) {
            send_window(place, node, part);
        }
    }
    assert_int_equal(merge_all(place), 3);
    pass_years(place);
    run_sql(place, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 10005)"
                   "INSERT INTO runs(job, run, heard, forgotten) SELECT 'old', i, 1, i FROM n;"
                   "INSERT INTO floors SELECT run_id, 1, 1 FROM runs WHERE forgotten > 0");
    forget(place);
    assert_int_equal(count_rows(place, "runs"), 10000);
    assert_int_equal(count_rows(place, "floors"), 10000);
    static const char *const tables[] = {"parts", "closed", "merged", "progress", "said", "nodes"};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        assert_int_equal(count_rows(place, tables[i]), 0);
    }
    assert_null(place->hub.runs);
    assert_null(place->hub.nodes);
    assert_int_equal(place->hub.members, 0);
    const struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, place->seq[0]}};
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    for (int again = 0; again < 2; again++) {
        send_window(place, 0, 1); /* late, and it knows of no other node */
        pass_time(place, place->config.window_rank_grace + SECOND);
        assert_int_equal(merge_all(place), 0);
        close_hub(place);
        open_hub(place);
    }
    send_window(place, 0, 3);
    pass_time(place, place->config.window_rank_grace + SECOND);
    assert_int_equal(merge_all(place), 1); /* the training goes on */
    assert_int_equal(place->merged[3]->part, 3);
}

HUB_TEST(rows_without_parts_go_too)
{
    for (uint64_t part = 0; part < 1000; part++) {
        send_closed(place, 0, part);
    }
    assert_int_equal(place->hub.runs->tracks[0].window_count, 1000);
    run_sql(place, "UPDATE closed SET stored = 1 WHERE part < 990");
    for (int i = 0; i < 5; i++) {
        forget(place);
    }
    assert_int_equal(count_rows(place, "closed"), 10);
    assert_int_equal(place->hub.runs->tracks[0].window_count, 10);
    assert_int_equal(place->hub.runs->tracks[0].floor, 990);
    assert_int_equal(hub_raise_floor(&place->hub.runs->tracks[0], 992), 2);
}

HUB_TEST(pieces_are_bounded_in_bytes)
{
    struct hub *hub = &place->hub;
    static char data[10000];
    const uint64_t most = 64 * sizeof data;
    place->config.fleet_outbox = HUB_PIECES_PART * most;
    for (uint64_t seq = 1; seq <= 200; seq++) { /* the second never comes */
        assert_int_equal(send_row(place, 0, seq, data, sizeof data, 1, 2), HUB_TAKE);
        if (hub->forget_ns == 0) {
            forget(place);
        }
        assert_true((uint64_t)count_rows(place, "pieces") <= most / sizeof data);
    }
    assert_true(count_rows(place, "pieces WHERE seq = 200") == 1);
    assert_false(seen_has(&hub->nodes->seen, 1)); /* it is asked for again */
    assert_int_equal(send_row(place, 0, 201, data, sizeof data, 1, 100000), HUB_TAKE);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* no row is so large */
    assert_true(seen_has(&hub->nodes->seen, 201));
}

HUB_TEST(what_is_said_is_bounded_in_bytes)
{
    static const char settings[1000];
    struct fleet_body body = new_body(FLEET_RUN, 0);
    place->config.fleet_outbox = HUB_SAID_PART * UINT64_C(100000);
    body.settings = settings;
    body.settings_size = sizeof settings;
    for (int i = 0; i < 300; i++) {
        send_body(place, 0, &body, 1);
        if (place->hub.forget_ns == 0) {
            forget(place);
        }
    }
    assert_in_range(count_rows(place, "said"), 50, 100);
    assert_int_equal(count_rows(place, "said WHERE seq = 300"), 1);
}

HUB_TEST(layers_of_a_run_are_bounded)
{
    send_window(place, 0, 0);
    struct hub_run *run = place->hub.runs;
    run->layers = realloc(run->layers, HUB_LAYERS_MAX * sizeof *run->layers);
    memset(run->layers, 0xff, HUB_LAYERS_MAX * sizeof *run->layers);
    run->layer_count = HUB_LAYERS_MAX;
    send_part_of(place, 0, 1, HEADS, BUCKETS);
    assert_int_equal(place->hub.counts[HUB_POISONED], 1);
}

/* Parts that were closed above a row that never comes, until it does. */
HUB_TEST(rows_above_a_hole_are_bounded)
{
    struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, 1}};
    place->seq[0] = 1;
    for (uint64_t part = 0; part < 3 * HUB_WAITING_MAX; part++) {
        send_closed(place, 0, part);
    }
    struct hub_run *run = place->hub.runs;
    const struct hub_progress *progress = &run->members[0]->tracks[0];
    assert_int_equal(progress->waiting_count, HUB_WAITING_MAX);
    assert_int_equal(hub_behind(&place->hub, run, run->members[0]), 3 * HUB_WAITING_MAX);
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    assert_int_equal(hub_behind(&place->hub, run, run->members[0]), 0);
    assert_int_equal(progress->next, 3 * HUB_WAITING_MAX);
}

HUB_TEST(runs_and_nodes_are_bounded)
{
    struct hub *hub = &place->hub;
    uint8_t other[RUN_BYTES] = {0};
    place->config.limits_jobs = place->config.limits_runs = 2;
    struct fleet_body body = new_body(FLEET_CLOSED, 0);
    body.run = other;
    for (uint8_t i = 0; i < 4 + HUB_RUNS_MORE + 1; i++) {
        other[0] = i;
        send_body(place, 0, &body, 1);
    }
    assert_int_equal(count_rows(place, "runs"), 4 + HUB_RUNS_MORE);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* all of the others go on */
    hub->runs->heard_s = 1;
    pass_time(place, SECOND);
    body = new_body(FLEET_RUN, 0);
    body.run = other;
    send_body(place, 0, &body, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* instead of the idle one */
    other[0]++;
    send_body(place, 0, &body, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* instead of one that has closed nothing */
    assert_int_equal(count_rows(place, "runs WHERE forgotten = 0"), 4 + HUB_RUNS_MORE);
    uint8_t id[FLEET_ID_BYTES] = {9};
    for (uint32_t i = 1; i < HUB_NODES_MAX; i++) {
        memcpy(id + 1, &i, sizeof i);
        assert_non_null(hub_find_node(hub, id));
    }
    id[0] = 8;
    assert_null(hub_find_node(hub, id)); /* all of them were heard of just now */
    hub->nodes->used_s -= 60;            /* takes part in runs */
    assert_null(hub_find_node(hub, id));
    hub->nodes->next->used_s -= 60;
    assert_non_null(hub_find_node(hub, id));
    assert_int_equal(count_rows(place, "nodes"), HUB_NODES_MAX);
}

/* Runs of different jobs may have the same id. */
HUB_TEST(runs_are_found_by_job_and_id)
{
    static const char *const jobs[] = {"ab", "a", "b", "abc"};
    struct hub *hub = &place->hub;
    struct fleet_beat_run named = {.world = 1};
    int64_t rows[4];
    memcpy(named.run, run_id, RUN_BYTES);
    struct hub_node *node = hub_find_node(hub, (const uint8_t[FLEET_ID_BYTES]){1});
    node->runs = malloc(sizeof named);
    *node->runs = named;
    node->run_count = 1;
    for (int i = 0; i < 4; i++) {
        struct hub_run *run = hub_find_run(hub, jobs[i], strlen(jobs[i]), run_id);
        assert_int_equal(run->member_count, 1); /* the node has named it */
        rows[i] = run->row;
    }
    hub_forget_run(hub, hub_run_of(hub, rows[1]));
    for (int i = 0; i < 4; i++) {
        struct hub_run *run = hub_known_run(hub, jobs[i], strlen(jobs[i]), run_id);
        assert_ptr_equal(run, hub_run_of(hub, rows[i]));
        assert_true(i == 1 ? !run : run && strcmp(run->job, jobs[i]) == 0);
    }
    assert_null(hub_known_run(hub, "ab", 2, (const uint8_t[RUN_BYTES]){8}));
    assert_int_equal(hub->run_count, 3);
}

/* Each window is back before the next one is looked for. */
HUB_TEST(each_run_has_its_turn)
{
    uint8_t ids[3][RUN_BYTES] = {{1}, {2}, {3}};
    for (uint64_t part = 0; part < 4; part++) {
        for (int i = 0; i < 3; i++) {
            struct fleet_body body = new_body(FLEET_CLOSED, part);
            body.next_before = part;
            body.run = ids[i];
            send_body(place, 0, &body, 1);
        }
    }
    for (uint32_t i = 0; i < 12; i++) {
        for (int turn = 0; turn < 2; turn++) { /* begins, and ends */
            hub_merge_step(&place->hub);
        }
        read_inbox(place);
        assert_int_equal(place->merged_count, i + 1);
        hub_merge_done(&place->hub, place->merged[i]);
        assert_int_equal(place->merged[i]->run[0], 3 - i % 3);
        assert_int_equal(place->merged[i]->part, i / 3);
    }
    assert_false(hub_merge_step(&place->hub));
}

HUB_TEST(what_is_said_is_told_once_and_in_order_of_a_run)
{
    struct fleet_body body = new_body(FLEET_RUN, 0);
    uint8_t other[RUN_BYTES] = {1};
    body.settings = "\x80";
    body.settings_size = 1;
    send_body(place, 0, &body, 2);
    body.run = other;
    send_body(place, 0, &body, 1);
    while (hub_merge_step(&place->hub)) {
    }
    read_inbox(place);
    assert_int_equal(place->merged_count, 2);
    assert_memory_equal(place->merged[0]->run, other, RUN_BYTES);
    place->merged[0]->code = ERR_RUN_LIMIT; /* that does not hold up the other run */
    hub_merge_done(&place->hub, place->merged[0]);
    hub_merge_done(&place->hub, place->merged[1]);
    assert_int_equal(merge_all(place), 0);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, other)->refused, ERR_RUN_LIMIT);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, run_id)->refused, 0);
    pass_time(place, 10 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, other)->refused, 0);
    assert_int_equal(count_rows(place, "said WHERE told"), 2);
}

HUB_TEST(a_part_that_is_damaged_is_left_out)
{
    static const char *const damages[] = {"x'00'", "substr(state, 1, length(state) / 2)"};
    for (uint64_t part = 0; part < 2; part++) {
        char text[128];
        for (uint32_t node = 0; node < NODES; node++) {
            send_window(place, node, part);
        }
        snprintf(text, sizeof text, "UPDATE parts SET state = %s WHERE node_id = 2 AND part = %d",
                 damages[part], (int)part);
        run_sql(place, text);
        assert_int_equal(merge_all(place), 1);
        const struct merged *merged = place->merged[part];
        assert_true(merged->partial && merged->layers[0].state);
        assert_int_equal(merged->missing_count, 1);
        assert_string_equal(merged->missing[0].reason, "one of its parts is damaged");
        assert_int_equal(place->hub.counts[HUB_POISONED], part + 1);
    }
}

/* As many changes came before and after the memory was read again. */
HUB_TEST(a_window_that_was_with_the_loop_meanwhile_has_changed)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, 0);
    }
    while (hub_merge_step(&place->hub)) {
    }
    read_inbox(place);
    parts_commit(&place->hub.parts);
    place->hub.parts.code = SQLITE_IOERR; /* one that could not read is tried again */
    assert_int_equal(hub_load(&place->hub, 0), 0);
    send_window(place, 0, 0);
    send_window(place, 1, 0);
    send_part_of(place, 2, 0, HEADS, BUCKETS);
    hub_merge_done(&place->hub, place->merged[0]);
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->revision, 1);
}

HUB_TEST(a_file_that_is_damaged_is_begun_anew)
{
    struct hub *hub = &place->hub;
    char page[4096] = "";
    send_window(place, 0, 0);
    hub_take_save(hub);
    assert_int_equal(parts_commit(&hub->parts), 0);
    memcpy(hub->id, "hub's id", FLEET_ID_BYTES);
    sqlite3_exec(hub->parts.sql.db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    FILE *file = fopen(place->parts, "r+");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    for (long at = ftell(file) / 4096; at > 1; at--) { /* all pages but the first two */
        fseek(file, at * 4096, SEEK_SET);
        fwrite(page, sizeof page, 1, file);
    }
    fclose(file);
    sqlite3_db_release_memory(hub->parts.sql.db); /* they are read again */
    assert_int_equal(hub_load(hub, 0), 0);
    assert_null(hub->nodes);
    assert_int_equal(count_rows(place, "meta"), 2);
    place->seq[0] = 0;
    for (uint32_t node = 0; node < NODES; node++) {
        send_window(place, node, 0);
    }
    assert_int_equal(merge_all(place), 1);
}
