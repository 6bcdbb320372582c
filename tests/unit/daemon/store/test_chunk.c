/* SPDX-License-Identifier: MIT */
/* States become series, and are thinned out. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/store/series.h"

#define VARIANTS 4

/* Series against summaries */

struct expected {
    struct layer_state *state[VARIANTS];
    struct summary_view view[VARIANTS];
};

static const struct result_stat *store_chunk_number_of(const struct summary_result *result,
                                                       const char *name, int head)
{
    if (!strcmp(name, "sink_rate")) {
        return result->sink_rate;
    }
    for (int m = 0; head >= 0 && m < METRIC_COUNT; m++) {
        if (!strcmp(name, metric_info[m].name)) {
            return &result->stat[m][head];
        }
    }
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        for (int s = 0; s < MAP_STAT_COUNT; s++) {
            if (strstr(name, aggregate_name[a]) == name + 10 &&
                !strcmp(strrchr(name, '.') + 1, map_stat_name[s])) {
                return &result->aggregate[a][s];
            }
        }
    }
    fail_msg("no such number: %s", name);
    return NULL;
}

static int count_expected(const struct expected *expected)
{
    const struct summary_result *result = &expected->view[0].result;
    int count = 1; /* sink_rate */
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; result->stat[m] && h < result->heads; h++) {
            count += result->stat[m][h].count > 0;
        }
    }
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        count += result->has_aggregate[a] ? MAP_STAT_COUNT : 0;
    }
    return count;
}

static void check_series(struct store_fixture *fixture, const struct mpk_writer *states, int gap)
{
    struct expected expected;
    sqlite3 *db;
    sqlite3_stmt *row;
    int rows = 0;
    static const uint8_t run[RUN_BYTES];
    const struct result_window window = {.length = 1, .every = 1};
    for (int i = 0; i < VARIANTS; i++) {
        assert_int_equal(
            layer_state_unpack(states[i].buffer.data, states[i].buffer.size, &expected.state[i]),
            0);
        assert_int_equal(summary_view_init(&expected.view[i], expected.state[i],
                                           (struct layer_id){0}, "j", run, &window),
                         0);
    }
    assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT name, head, data FROM series"
                                        " JOIN metrics USING(metric_id) WHERE chunk_id = 1",
                                        -1, &row, NULL),
                     SQLITE_OK);
    for (; sqlite3_step(row) == SQLITE_ROW; rows++) {
        /* Windows from `gap` on have no numbers. */
        struct result_stat stats[SERIES_WINDOWS_MAX];
        const char *name = (const char *)sqlite3_column_text(row, 0);
        assert_int_equal(series_decode(sqlite3_column_blob(row, 2),
                                       (size_t)sqlite3_column_bytes(row, 2), 64, stats),
                         0);
        for (int i = 0; i < gap; i++) {
            assert_memory_equal(&stats[i],
                                store_chunk_number_of(&expected.view[i % VARIANTS].result, name,
                                                      sqlite3_column_int(row, 1)),
                                sizeof stats[i]);
        }
        for (int i = gap; i < 64; i++) {
            assert_true(stats[i].count == 0 && isnan(stats[i].mean) && isnan(stats[i].last));
        }
    }
    assert_int_equal(rows, count_expected(&expected));
    assert_true(rows > 3 * 20);
    sqlite3_finalize(row);
    sqlite3_close(db);
    for (int i = 0; i < VARIANTS; i++) {
        summary_view_clear(&expected.view[i]);
        layer_state_free(&expected.state[i]);
    }
}

static void store_chunk_check_windows(struct store_fixture *fixture)
{
    struct series_window windows[SERIES_WINDOWS_MAX];
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT windows FROM chunks", -1, &row, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    assert_int_equal(series_windows_decode(sqlite3_column_blob(row, 0),
                                           (size_t)sqlite3_column_bytes(row, 0), 64, windows),
                     0);
    for (uint64_t i = 0; i < 64; i++) {
        const struct series_window expected = {i, i, i, 10 * i, 1000 + i, 4, 1, 0};
        assert_memory_equal(&windows[i], &expected, sizeof expected);
    }
    sqlite3_finalize(row);
    sqlite3_close(db);
}

static void submit_states(struct store_fixture *fixture, struct mpk_writer *states, uint64_t from,
                          uint64_t to)
{
    for (uint64_t last = from; last < to; last++) {
        submit_window(fixture, last, states[last % VARIANTS].buffer.data,
                      states[last % VARIANTS].buffer.size);
    }
}

static void pack_states(struct mpk_writer *states)
{
    for (uint64_t i = 0; i < VARIANTS; i++) {
        pack_state(i, &states[i]);
    }
}

static void clear_states(struct mpk_writer *states)
{
    for (int i = 0; i < VARIANTS; i++) {
        mpk_writer_clear(&states[i]);
    }
}

STORE_TEST(64_windows_become_a_chunk_with_their_summaries_numbers)
{
    struct mpk_writer states[VARIANTS];
    pack_states(states);
    fixture_open(fixture);
    submit_states(fixture, states, 0, 63);
    submit_window(fixture, 63, NULL, 0);
    submit_states(fixture, states, 64, 70);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
    assert_answer(fixture, 1,
                  "SELECT count(*) FROM chunks WHERE first = 0 AND last = 63"
                  " AND count = 64 AND bare = 0");
    assert_answer(fixture, 6, "SELECT count(*) FROM windows WHERE chunk_id IS NULL");
    fixture_close(fixture);
    check_series(fixture, states, 63);
    store_chunk_check_windows(fixture);
    clear_states(states);
}

STORE_TEST(a_window_that_comes_after_its_chunk_is_not_in_it)
{
    struct mpk_writer states[VARIANTS];
    pack_states(states);
    fixture_open(fixture);
    submit_states(fixture, states, 0, 64);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
    submit_window(fixture, 5, states[3].buffer.data, states[3].buffer.size);
    wait_answer(fixture, "SELECT last FROM windows WHERE chunk_id IS NULL", 5);
    assert_answer(fixture, 64, "SELECT count(*) FROM windows");
    clear_states(states);
}

STORE_TEST(open_windows_are_not_chunked)
{
    struct store_batch *batch = batch_of(7, 1);
    fixture_open(fixture);
    for (uint64_t last = 0; last < 130; last++) {
        struct store_window window = window_of(last, "x", 1);
        window.final = last != 10 && last < 65;
        assert_int_equal(batch_window(batch, &window), 0);
    }
    submit(fixture, batch);
    wait_answer(fixture, "SELECT count(*) FROM windows WHERE chunk_id IS NOT NULL", 64);
    assert_answer(fixture, 0,
                  "SELECT count(*) FROM windows WHERE chunk_id IS NOT NULL"
                  " AND final = 0");
}

STORE_TEST(states_that_cannot_be_read_give_gaps)
{
    struct mpk_writer states[VARIANTS];
    pack_states(states);
    fixture_open(fixture);
    log_capture();
    submit_states(fixture, states, 0, 60);
    for (uint64_t last = 60; last < 64; last++) {
        submit_window(fixture, last, "no state", 8);
    }
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
    fixture_close(fixture);
    assert_int_equal(log_release("history_state_unreadable windows=4"), 1);
    check_series(fixture, states, 60);
    clear_states(states);
}

STORE_TEST(old_states_are_thinned_out)
{
    struct mpk_writer states[VARIANTS];
    pack_states(states);
    fixture->config.history_states = 65; /* two chunks */
    fixture_open(fixture);
    submit_states(fixture, states, 0, 4 * 64 + 1);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 4);
    wait_answer(fixture, "SELECT count(*) FROM states", 2 * 64 + 1);
    assert_answer(fixture, 2 * 64, "SELECT min(last) FROM windows JOIN states USING(window_id)");
    assert_answer(fixture, 2, "SELECT count(*) FROM chunks WHERE bare = 1 AND last < 128");
    clear_states(states);
}

OPEN_STORE_TEST(what_was_not_chunked_is_chunked_at_the_next_start)
{
    submit_window(fixture, 0, NULL, 0);
    fixture_close(fixture);
    change(fixture, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
                    " INSERT INTO windows SELECT NULL, 1, 1, i, i, 0, 0, 0, 0, 0, 0, 1,"
                    " strftime('%s'), NULL FROM n");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
}
