/* SPDX-License-Identifier: MIT */
/* Rows that a node writes about a run, for hubs. */
#include "tests/unit/unit.h"

#include "daemon/base/stats.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/forward.h"
#include "proto/err.h"
#include "proto/fleet.h"
#include "tests/unit/daemon/run/fake_store.h"
#include "tests/unit/daemon/run/fixture.h"
#include "tests/unit/heap.h"

static void node_begin(struct run_fixture *f)
{
    stored_begin(f);
    f->config.fleet_role = CONFIG_ROLE_NODE;
}

#define NODE_TEST(name) TEST_IN(name, struct run_fixture, f, node_begin, stored_stop)

/* A row, which must be read. */
static struct fleet_body row_at(const struct run_fixture *f, int index, struct mpk_doc *ret_doc)
{
    const struct store *store = f->sink.store;
    struct fleet_body body;
    assert_true(index < store->out_count);
    assert_int_equal(
        mpk_parse(store->out[index].value, store->out[index].size, &fleet_limits, ret_doc), 0);
    assert_int_equal(fleet_body_decode(ret_doc->root, &body), 0);
    return body;
}

/* "p" a state, "c" a part that closed, "r" the run, in their order. */
static const char *kinds_of(const struct run_fixture *f)
{
    static char kinds[64];
    int count = f->sink.store->out_count;
    assert_true(count < (int)sizeof kinds);
    for (int i = 0; i < count; i++) {
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        kinds[i] = "pcr"[row_at(f, i, &doc).kind];
    }
    kinds[count] = '\0';
    return kinds;
}

static void send_steps(struct run_fixture *f, uint64_t from, uint64_t to)
{
    for (uint64_t step = from; step <= to; step++) {
        for (uint32_t layer = 0; layer < 2; layer++) {
            assert_int_equal(fixture_send(f, layer, 0, step), 0);
        }
    }
}

NODE_TEST(a_part_comes_with_its_states_and_then_its_end)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    send_steps(f, 0, 8); /* windows of four */
    assert_string_equal(kinds_of(f), "ppcppc");
    struct fleet_body body = row_at(f, 1, &doc);
    const struct fake_window *window = &f->sink.store->windows[1];
    assert_int_equal(body.layer.layer, 1);
    assert_int_equal(body.rule.unit, WINDOW_STEP);
    assert_int_equal(body.rule.length, 4);
    assert_int_equal(body.state_size, window->size); /* the bytes of the window: packed once */
    assert_memory_equal(body.state, window->state, window->size);
    mpk_doc_clear(&doc);
    body = row_at(f, 5, &doc);
    assert_int_equal(body.part, 1);
    assert_int_equal(body.layers, 2);
    assert_int_equal(body.next_before, 1);
    assert_int_equal(body.complete_from, 0);
    assert_int_equal(body.world, 1);
    assert_int_equal(body.ranks_found->via.array.size, 1);
}

NODE_TEST(a_window_that_is_shown_sends_no_part)
{
    send_steps(f, 0, 1);
    assert_false(queue_flush(f->run));
    assert_int_equal(f->summaries, 2);
    assert_string_equal(kinds_of(f), "");
}

NODE_TEST(a_part_is_sent_once_for_all_windows_that_it_is_in)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    f->config.window_length = 8;
    f->config.window_every = 4;
    run_free(&f->run);
    fixture_new_run(f);
    send_steps(f, 0, 12);
    assert_string_equal(kinds_of(f), "ppcppcppc");
    assert_int_equal(row_at(f, 6, &doc).part, 2);
}

NODE_TEST(nothing_is_said_of_windows_in_seconds_or_without_a_fleet)
{
    fixture_also(f, "1 second every 1");
    f->config.fleet_role = CONFIG_ROLE_NODE;
    send_steps(f, 0, 3);
    f->now += 10 * S;
    tick_run(f->run, f->now);
    assert_string_equal(kinds_of(f), "");
    f->config.fleet_role = CONFIG_ROLE_OFF;
    send_steps(f, 4, 20);
    assert_string_equal(kinds_of(f), "");
}

NODE_TEST(the_end_of_a_run_and_its_coming_back_are_said)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    send_steps(f, 0, 1);
    assert_int_equal(fixture_event(f, 0, EVENT_BYE, 0), 0);
    assert_string_equal(kinds_of(f), "ppcr");
    assert_int_equal(row_at(f, 3, &doc).state_of_run, JOB_ENDED);
    mpk_doc_clear(&doc);
    f->now += 100 * S;
    send_steps(f, 4, 4);
    assert_int_equal(row_at(f, 4, &doc).state_of_run, JOB_ACTIVE);
}

NODE_TEST(when_the_store_has_lost_something_parts_before_were_not_seen)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    send_steps(f, 0, 8);
    stats_add(&f->stats, COUNT_STORE_DROPPED, 3);
    send_steps(f, 9, 16);
    assert_string_equal(kinds_of(f), "ppcppcppcppc");
    assert_int_equal(row_at(f, 8, &doc).complete_from, 2);
    mpk_doc_clear(&doc);
    assert_int_equal(row_at(f, 11, &doc).complete_from, 2);
}

/* Each part that closed has its two states before it, and both parts have closed. */
static void check_rows(const struct run_fixture *f)
{
    unsigned states[3] = {0}, closed = 0;
    for (int i = 0; i < f->sink.store->out_count; i++) {
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        struct fleet_body body = row_at(f, i, &doc);
        assert_true(body.kind != FLEET_RUN && body.part < 3);
        if (body.kind == FLEET_PART) {
            states[body.part] |= 1u << body.layer.layer;
        } else {
            assert_int_equal(states[body.part], 3);
            assert_int_equal(body.layers, 2);
            closed |= 1u << body.part;
        }
    }
    assert_int_equal(closed, 3);
}

TEST(a_part_whose_allocations_fail_is_sent_later)
{
    unsigned nth = 0;
    bool failed = true;
    while (failed) {
        struct run_fixture f;
        stored_start(&f, "[]");
        f.config.fleet_role = CONFIG_ROLE_NODE;
        send_steps(&f, 0, 3);
        struct sample *sample = fixture_make(&f, 0, 0, 4); /* the part before it closes */
        heap_fail_at(++nth);
        if (fixture_queue(&f, sample)) {
            fixture_finish(&f, sample);
        }
        (void)fixture_take_all(&f);
        failed = heap_has_failed();
        heap_fail_at(0);
        f.now += 2 * S; /* a part that was put off is closed again after a second */
        send_steps(&f, 5, 8);
        check_rows(&f);
        stored_stop(&f);
    }
    assert_true(nth > 10);
}

/* Everything that is said of a run. Returns 0 or ERR_MEMORY. */
static int say_all(struct run_fixture *f, struct store_batch *batch)
{
    struct named_value value = {.name = "loss", .kind = NAMED_NUMBER, .number = 0.5};
    struct header header = {.values = {.list = &value, .count = 1}};
    int code = forward_settings(f->run, "\x80", 1, batch);
    code = code ? code : forward_log(f->run, &header, batch);
    return code ? code : forward_state(f->run, batch);
}

NODE_TEST(what_is_said_of_a_run_without_memory_is_an_error)
{
    unsigned nth = 0;
    bool failed = true;
    send_steps(f, 0, 0);
    while (failed) {
        OWNED(batch_free) struct store_batch *batch = checkpoint_begin(f->run);
        heap_fail_at(++nth);
        int code = say_all(f, batch);
        failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
    }
    assert_true(nth > 6);
}
