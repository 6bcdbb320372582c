/* SPDX-License-Identifier: MIT */
/* Messages of type sketch in a run: which captures are finished when, what is charged for them, and
 * what comes back of them. */
#include "tests/unit/unit.h"

#include "daemon/run/checkpoint.h"
#include "tests/unit/daemon/run/fake_store.h"

/* W_q of all heads of layer 0. Returns the code. */
static int sketches_send(struct run_fixture *f, uint32_t rank, uint64_t step, float value)
{
    struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    message->received_ns = f->now;
    message->header =
        (struct header){.type = MESSAGE_SKETCH,
                        .run = {1},
                        .rank = rank,
                        .world = 2,
                        .seq = f->seq[0][rank]++,
                        .step = step,
                        .heads = HEADS,
                        .kv_heads = HEADS,
                        .heads_total = HEADS,
                        .tensor_count = 1,
                        .tensors = {{.role = TENSOR_WQ, .shape = {HEADS, SKETCH_PLACES}}}};
    strcpy(message->header.job, "job");
    message->frame_count = 3;
    zmq_msg_init(&message->frames[0]);
    zmq_msg_init(&message->frames[1]);
    zmq_msg_init_size(&message->frames[2], HEADS * SKETCH_PLACES * sizeof value);
    for (int i = 0; i < HEADS * SKETCH_PLACES; i++) {
        ((float *)zmq_msg_data(&message->frames[2]))[i] = value;
    }
    assert_false(queue_put(f->run, message, f->now)); /* nothing is computed */
    struct message *taken = queue_take(f->run);
    assert_ptr_equal(taken, message);
    int code = taken->code;
    message_free(&taken);
    return code;
}

static const struct sketch *sketches_of(const struct run_fixture *f)
{
    return stream_find(f->run->streams, (struct layer_id){0})->sketch;
}

STORED_TEST(a_capture_is_live_and_in_the_history_when_it_is_whole)
{
    assert_int_equal(sketches_send(f, 0, 0, 1), 0);
    assert_true(f->live == 0 && f->sink.store->sketches == 0);
    assert_int_equal(sketches_send(f, 1, 0, 1), 0);
    assert_true(f->live == 1 && f->sink.store->sketches == 1);
    assert_int_equal(run_counts(f->run).processed, 2);
    sketches_send(f, 0, 1, 1);
    assert_int_equal(f->live, 1);
    sketches_send(f, 0, 2, 1); /* a later capture, which waits for nobody else */
    assert_true(f->live == 3 && f->sink.store->sketches == 3);
}

STORED_TEST(a_window_that_closes_finishes_its_captures_and_no_others)
{
    sketches_send(f, 0, 3, 1);
    fixture_send(f, 1, 1, 4); /* of another layer, in the next window */
    assert_int_equal(f->sink.store->sketches, 0);
    fixture_send(f, 1, 0, 4);
    assert_int_equal(f->sink.store->sketches, 1);
    assert_false(sketches_of(f)->is_open);
    sketches_send(f, 1, 5, 1);
    for (uint64_t step = 7; step <= 8; step++) {
        assert_int_equal(f->sink.store->sketches, 1);
        assert_int_equal(f->sink.store->window_count,
                         0); /* no layer has numbers of the first one */
        fixture_send(f, 1, 0, step);
        fixture_send(f, 1, 1, step);
    }
    assert_int_equal(f->sink.store->sketches, 2);
    assert_int_equal(f->sink.store->window_count, 1);
}

STORED_TEST(what_was_open_goes_on_after_a_restart)
{
    sketches_send(f, 0, 0, 1);
    sketches_send(f, 1, 0, 1);
    sketches_send(f, 0, 1, 2);
    stored_save(f);
    assert_int_equal(fake_store_count(f->sink.store, "sketch/"), 1);
    uint64_t used = f->budget.used;
    run_free(&f->run);
    assert_int_equal(f->budget.used, 0);
    assert_int_equal(stored_come_back(f, false), 1);
    assert_int_equal(f->budget.used, used);
    assert_true(sketches_of(f)->is_open && sketches_of(f)->capture.received_ns == f->now);
    int live = f->live;
    sketches_send(f, 1, 1, 2);
    assert_int_equal(f->live, live + 1);
    assert_true(sketches_of(f)->matrix[PROJECTION_Q].of[SKETCH_CHANGED][0].step == 1);
}

STORED_TEST(a_run_that_ends_keeps_none)
{
    sketches_send(f, 0, 0, 1);
    stored_save(f);
    fixture_event(f, 0, EVENT_BYE, 0);
    fixture_event(f, 1, EVENT_BYE, 0);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(f->sink.store->sketches, 1);
    assert_int_equal(fake_store_count(f->sink.store, "sketch/"), 0);
    assert_null(sketches_of(f));
    assert_int_equal(f->budget.used, run_kept_bytes(f->run));
}

STORED_TEST(a_run_that_goes_idle_keeps_them_for_an_hour)
{
    sketches_send(f, 0, 0, 1);
    f->now += f->config.limits_idle;
    tick_run(f->run, f->now);
    assert_int_equal(f->run->state, JOB_IDLE);
    assert_int_equal(f->sink.store->sketches, 1);
    assert_true(sketches_of(f) && !sketches_of(f)->is_open);
    f->now += TICK_STREAM_IDLE_NS;
    tick_run(f->run, f->now);
    assert_non_null(sketches_of(f)); /* it is not saved yet */
    stored_save(f);
    tick_run(f->run, f->now);
    assert_null(sketches_of(f));
    assert_int_equal(fake_store_count(f->sink.store, "sketch/"), 1);
    assert_false(tick_wanted(f->run));
}

STORED_TEST(without_room_a_layer_has_none)
{
    sketches_send(f, 0, 0, 1);
    sketch_free(&f->run->streams->sketch);
    f->run->budget.limit = f->run->budget.used + 1000;
    assert_int_equal(sketches_send(f, 0, 2, 1), ERR_STATE_LIMIT);
    assert_int_equal(run_counts(f->run).tally.dropped[err_index(ERR_STATE_LIMIT)], 1);
    assert_int_equal(f->run->budget.used, run_kept_bytes(f->run));
    f->run->budget.limit += 10000;
    assert_int_equal(sketches_send(f, 0, 3, 1), 0);
}

STORED_TEST(damaged_sketches_are_left_out)
{
    sketches_send(f, 0, 0, 1);
    stored_save(f);
    struct fake_kept *kept =
        (struct fake_kept *)(uintptr_t)fake_store_find(f->sink.store, "sketch/0");
    kept->size /= 2;
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 1);
    assert_null(sketches_of(f));
    assert_int_equal(sketches_send(f, 0, 1, 1), 0);
}
