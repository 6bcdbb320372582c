/* SPDX-License-Identifier: MIT */
/* The rows that a node sends to hubs. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "daemon/store/outbox.h"
#include "proto/err.h"
#include "tests/unit/heap.h"

#include <inttypes.h>
#include <unistd.h>

#define HOUR UINT64_C(3600)

static void open_node(struct store_fixture *fixture)
{
    fixture->config.fleet_role = CONFIG_ROLE_NODE;
    fixture_open(fixture);
}

/* Rows "row 1", "row 2", ..., in one batch. */
static void put_rows(struct store_fixture *fixture, uint64_t first, uint64_t last)
{
    struct store_batch *batch = batch_of(7, 1);
    uint64_t before = stats_get(&fixture->stats, COUNT_STORED);
    for (uint64_t row = first; row <= last; row++) {
        char body[32];
        int size = snprintf(body, sizeof body, "row %" PRIu64, row);
        assert_int_equal(batch_out(batch, body, (size_t)size), 0);
    }
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, before + last - first + 1);
}

static struct outbox_status status_of(struct store_fixture *fixture)
{
    struct outbox_status status;
    assert_int_equal(outbox_status(fixture->store, &status), 0);
    return status;
}

static uint64_t next_after(struct store_fixture *fixture, uint64_t after)
{
    OWNED(outbox_row_clear) struct outbox_row row = {.body = NULL};
    uint64_t opened = status_of(fixture).opened;
    int found = outbox_next(fixture->store, opened, after, &row);
    assert_true(found >= 0);
    uint64_t seq = found ? row.seq : 0;
    return seq;
}

static void take(struct store_fixture *fixture, uint64_t first, uint64_t last, uint64_t turn)
{
    for (uint64_t seq = first; seq <= last; seq++) {
        const struct outbox_taken taken = {seq, turn};
        assert_int_equal(outbox_take(fixture->store, status_of(fixture).opened, &taken, 1), 0);
    }
}

STORE_TEST(rows_come_in_their_order_until_a_server_has_taken_them)
{
    struct outbox_row row = {.body = NULL};
    open_node(fixture);
    put_rows(fixture, 1, 3);
    struct outbox_status status = status_of(fixture);
    assert_int_equal(outbox_next(fixture->store, status.opened, 0, &row), 1);
    assert_int_equal(row.seq, 1);
    assert_int_equal(row.run[0], 7);
    assert_int_equal(row.size, 5);
    assert_memory_equal(row.body, "row 1", 5);
    outbox_row_clear(&row);
    take(fixture, 2, 2, 0);
    take(fixture, 2, 2, 0); /* an answer may come twice */
    assert_int_equal(next_after(fixture, 1), 3);
    assert_int_equal(next_after(fixture, 3), 0);
    status = status_of(fixture);
    assert_int_equal(status.newest, 3);
    assert_int_equal(status.taken, 0);
    assert_int_equal(status.rows, 3);
    assert_int_equal(status.bytes, 15);
    assert_int_equal(status.unsent, 2);
    assert_int_equal(status.unsent_bytes, 10);
    take(fixture, 1, 1, 0);
    assert_int_equal(status_of(fixture).taken, 2);
}

STORE_TEST(a_row_for_which_there_is_no_memory_is_read_later)
{
    OWNED(outbox_row_clear) struct outbox_row row = {.body = NULL};
    open_node(fixture);
    put_rows(fixture, 1, 1);
    uint64_t opened = status_of(fixture).opened;
    heap_fail_at(1); /* nothing else of attnd runs now */
    assert_int_equal(outbox_next(fixture->store, opened, 0, &row), ERR_MEMORY);
    assert_true(heap_has_failed());
    heap_fail_at(0);
    assert_int_equal(outbox_next(fixture->store, opened, 0, &row), 1);
    assert_memory_equal(row.body, "row 1", 5);
}

STORE_TEST(a_row_that_is_asked_for_again_is_of_another_turn)
{
    struct outbox_range range = {1, 2}, gone[4];
    open_node(fixture);
    put_rows(fixture, 1, 3);
    take(fixture, 1, 3, 0);
    uint64_t opened = status_of(fixture).opened;
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 4), 0);
    assert_true(range.first > range.last);
    assert_int_equal(status_of(fixture).unsent, 2);
    assert_int_equal(status_of(fixture).taken, 0);
    take(fixture, 1, 1, 0); /* of the turn before */
    assert_int_equal(next_after(fixture, 0), 1);
    take(fixture, 1, 2, 1);
    assert_int_equal(next_after(fixture, 0), 0);
}

STORE_TEST(the_holes_of_a_range_are_gone)
{
    struct outbox_range range = {1, 1000}, gone[2];
    open_node(fixture);
    put_rows(fixture, 1, 9);
    fixture_close(fixture);
    change(fixture, "DELETE FROM outbox WHERE seq IN (1, 3, 4, 8, 9)");
    open_node(fixture);
    uint64_t opened = status_of(fixture).opened;
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 2), 2);
    assert_int_equal(gone[0].first, 1);
    assert_int_equal(gone[0].last, 1);
    assert_int_equal(gone[1].first, 3);
    assert_int_equal(gone[1].last, 4);
    assert_int_equal(range.first, 8); /* no room for more */
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 2), 1);
    assert_int_equal(gone[0].first, 8);
    assert_int_equal(gone[0].last, 1000); /* those that were left out, too */
    assert_true(range.first > range.last);
}

STORE_TEST(ranges_are_gone_through_in_slices)
{
    struct outbox_range range = {1, 600}, gone[2];
    open_node(fixture);
    put_rows(fixture, 1, 600);
    uint64_t opened = status_of(fixture).opened;
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 2), 0);
    assert_int_equal(range.first, 257);
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 2), 0);
    assert_int_equal(outbox_again(fixture->store, opened, &range, gone, 2), 0);
    assert_true(range.first > range.last);
}

/* Opens the file again; the first number that can be given now. */
static uint64_t next_life(struct store_fixture *fixture)
{
    uint64_t newest = status_of(fixture).newest;
    fixture_close(fixture);
    open_node(fixture);
    struct outbox_status status = status_of(fixture);
    assert_int_equal(status.skipped.first, newest + 1);
    assert_int_equal(status.skipped.last, status.newest);
    assert_int_equal((status.newest - newest) % FLEET_JUMP, 0);
    return status.newest + 1;
}

STORE_TEST(each_opening_begins_at_the_time_of_day)
{
    open_node(fixture);
    put_rows(fixture, 1, 2);
    struct outbox_status first = status_of(fixture);
    assert_int_equal(first.newest, 2);
    assert_true(first.skipped.first > first.skipped.last);
    uint64_t before = clock_wall_ns(), begin = next_life(fixture);
    assert_true(begin > before - FLEET_JUMP && begin <= clock_wall_ns());
    put_rows(fixture, 3, 3);
    assert_int_equal(status_of(fixture).newest, begin);
    assert_true(next_life(fixture) > begin);
    assert_memory_equal(status_of(fixture).node, first.node, FLEET_ID_BYTES);
}

STORE_TEST(a_clock_that_is_behind_the_numbers_makes_none_twice)
{
    static const uint64_t numbers[] = {COUNT_MAX / 4 * 3, COUNT_MAX / 8 * 7};
    open_node(fixture);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char sql[96];
        fixture_close(fixture);
        snprintf(sql, sizeof sql, "UPDATE sqlite_sequence SET seq = %" PRIu64, numbers[i]);
        change(fixture, sql);
        open_node(fixture);
        uint64_t newest = status_of(fixture).newest;
        assert_true(newest > numbers[i] && newest <= numbers[i] + (FLEET_JUMP << 16));
    }
}

STORE_TEST(a_history_that_is_replaced_is_another_node)
{
    struct outbox_row row = {.body = NULL};
    open_node(fixture);
    put_rows(fixture, 1, 1);
    struct outbox_status before = status_of(fixture);
    unlink(fixture->path);
    put_rows(fixture, 2, 2);
    struct outbox_status after = status_of(fixture);
    assert_int_not_equal(before.opened, after.opened);
    assert_memory_not_equal(before.node, after.node, FLEET_ID_BYTES);
    assert_int_equal(after.newest, 1);
    assert_int_equal(outbox_next(fixture->store, before.opened, 0, &row), ERR_HISTORY_UNREAD);
    const struct outbox_taken taken = {1, 0};
    assert_int_equal(outbox_take(fixture->store, before.opened, &taken, 1), ERR_HISTORY_UNREAD);
    assert_int_equal(status_of(fixture).unsent, 1);
}

STORE_TEST(rows_go_some_time_after_they_were_taken)
{
    open_node(fixture);
    put_rows(fixture, 1, 4);
    take(fixture, 1, 2, 0);
    uint64_t opened = status_of(fixture).opened;
    assert_false(outbox_prune(fixture->store, opened, HOUR, UINT64_MAX));
    assert_int_equal(status_of(fixture).rows, 4);
    fixture_close(fixture);
    change(fixture, "UPDATE outbox SET taken = taken - 3601 WHERE seq = 1;"
                    "UPDATE outbox SET stored = stored - 36000");
    open_node(fixture);
    submit_window(fixture, 3, "", 0); /* the clock is believed with a window */
    wait_answer(fixture, "SELECT count(*) FROM windows", 1);
    outbox_prune(fixture->store, status_of(fixture).opened, HOUR, UINT64_MAX);
    assert_int_equal(status_of(fixture).rows, 3);
    assert_int_equal(status_of(fixture).lost, 0);
    assert_answer(fixture, 2, "SELECT min(seq) FROM outbox_bodies");
    assert_true(status_of(fixture).oldest_unsent_s >= 36000);
}

STORE_TEST(beyond_the_bound_those_that_no_server_took_go_last)
{
    open_node(fixture);
    put_rows(fixture, 1, 6);
    take(fixture, 4, 5, 0);
    uint64_t opened = status_of(fixture).opened;
    outbox_prune(fixture->store, opened, HOUR, 20);
    assert_answer(fixture, 1236, "SELECT group_concat(seq, '') FROM outbox");
    assert_int_equal(status_of(fixture).lost, 0);
    outbox_prune(fixture->store, opened, HOUR, 10);
    assert_answer(fixture, 36, "SELECT group_concat(seq, '') FROM outbox_bodies");
    assert_int_equal(status_of(fixture).lost, 2);
    assert_int_equal(status_of(fixture).bytes, 10);
    fixture_close(fixture);
    open_node(fixture);
    assert_int_equal(status_of(fixture).lost, 2); /* it is kept */
}

STORE_TEST(the_outbox_takes_no_room_from_windows)
{
    static uint8_t body[200000];
    fixture->config.history_max_size = 1 << 20;
    open_node(fixture);
    submit_window(fixture, 1, "state", 5);
    struct store_batch *batch = batch_of(7, 1);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(batch_out(batch, body, sizeof body), 0);
    }
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, 21);
    store_window(fixture, 2, "state", 5);
    fixture_close(fixture); /* what is to be removed is */
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED), 0);
    fixture_open(fixture);
    assert_answer(fixture, 2, "SELECT count(*) FROM windows");
}

OPEN_STORE_TEST(an_attnd_that_is_no_node_has_no_id)
{
    struct outbox_status status;
    store_window(fixture, 1, "", 0);
    assert_int_equal(outbox_status(fixture->store, &status), ERR_HISTORY_UNREAD);
    assert_answer(fixture, 0, "SELECT count(*) FROM meta WHERE key = 'node'");
}
