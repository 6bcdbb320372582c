/* SPDX-License-Identifier: MIT */
/* Messages of one run, computed in an order that the test chooses. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/run/fixture.h"

/* A message of this step, which has its turn when its numbers are there. */
static struct sample *queue_step(struct run_fixture *f, uint64_t step)
{
    struct sample *sample = fixture_make(f, 0, 0, step);
    assert_true(fixture_queue(f, sample));
    return sample;
}

RUN_TEST(live_values_come_in_the_order_of_their_messages)
{
    struct sample *first = queue_step(f, 0), *second = queue_step(f, 1);
    fixture_finish(f, second);
    assert_null(queue_take(f->run));
    assert_int_equal(f->live, 0);
    fixture_finish(f, first);
    assert_ptr_equal(queue_take(f->run), &first->message);
    free(first);
    assert_int_equal(f->live, 1);
    fixture_take_all(f);
    assert_int_equal(f->live, 2);
}

RUN_TEST(a_message_waits_for_the_older_ones)
{
    struct sample *first = queue_step(f, 0), *second = queue_step(f, 1);
    fixture_finish(f, second);
    assert_null(queue_take(f->run));
    fixture_finish(f, first);
    assert_ptr_equal(queue_take(f->run), &first->message);
    assert_ptr_equal(queue_take(f->run), &second->message);
    assert_int_equal(f->live, 2);
    free(first);
    free(second);
}

RUN_TEST(older_matrices_do_not_take_the_place_of_newer_ones)
{
    struct sample *matrices[3];
    fixture_send(f, 0, 0, 0);
    int live = f->live;
    for (int i = 0; i < 3; i++) {
        matrices[i] = fixture_make_weights(f, (uint64_t)i);
        assert_true(fixture_queue(f, matrices[i]));
        assert_null(queue_take(f->run)); /* taken, and computed in the background */
    }
    fixture_finish(f, matrices[1]);
    fixture_finish(f, matrices[0]);
    assert_int_equal(f->live, live + 1);
    fixture_finish(f, matrices[2]);
    assert_int_equal(f->live, live + 2);
    for (int i = 0; i < 3; i++) {
        queue_join(f->run, &matrices[i]->message, f->now);
        free(matrices[i]);
    }
}

RUN_TEST(matrices_that_are_ready_in_their_turn_are_newer_than_slow_ones)
{
    struct sample *slow = fixture_make_weights(f, 0);
    assert_true(fixture_queue(f, slow));
    assert_null(queue_take(f->run)); /* taken, and computed in the background */
    struct sample *attention = fixture_make(f, 0, 0, 1), *ready = fixture_make_weights(f, 1);
    assert_true(fixture_queue(f, attention));
    assert_true(fixture_queue(f, ready));
    fixture_finish(f, ready);
    assert_int_equal(f->live, 0);
    fixture_finish(f, attention);
    assert_int_equal(fixture_take_all(f), 0);
    assert_int_equal(f->live, 2);
    fixture_finish(f, slow);
    assert_int_equal(f->live, 2);
    queue_join(f->run, &slow->message, f->now);
    free(slow);
}

RUN_TEST(turns_of_another_number_of_heads_begin_anew)
{
    assert_int_equal(fixture_send(f, 0, 0, 0), 0);
    struct stream *stream = f->run->streams;
    stream_end_spectrum_turn(stream, 0, 1);
    stream_set_heads(stream, HEADS);
    assert_int_equal(stream_spectrum_turn(stream, 0), 1);
    stream_set_heads(stream, 2 * HEADS);
    assert_int_equal(stream_spectrum_turn(stream, 0), 0);
    stream_end_spectrum_turn(stream, 2 * HEADS - 1, 1); /* there is room for them all */
}

RUN_TEST(a_message_without_numbers_lets_the_queue_go_on)
{
    struct sample *first = queue_step(f, 0), *second = queue_step(f, 1);
    fixture_finish(f, second);
    first->message.code = ERR_MEMORY;
    queue_finish(f->run, &first->message);
    assert_int_equal(fixture_take_all(f), 0);
    struct counts counts = run_counts(f->run);
    assert_int_equal(counts.received, 2);
    assert_int_equal(counts.processed, 1);
    assert_int_equal(counts.tally.dropped[err_index(ERR_MEMORY)], 1);
}

/* Fisher-Yates with a generator of its own, so that a failure can be repeated. */
static void shuffle(struct sample **samples, int count, uint32_t seed)
{
    for (int i = count - 1; i > 0; i--) {
        seed = seed * 1664525 + 1013904223;
        int other = (int)(seed >> 8) % (i + 1);
        struct sample *sample = samples[i];
        samples[i] = samples[other];
        samples[other] = sample;
    }
}

static void run_shuffled(struct run_fixture *f, uint32_t seed)
{
    struct sample *samples[40];
    fixture_start(f, "[8 steps every 2]");
    for (int i = 0; i < 40; i++) {
        samples[i] = fixture_make(f, 0, (uint32_t)i % 2, (uint64_t)i / 2);
        assert_true(fixture_queue(f, samples[i]));
    }
    if (seed) {
        shuffle(samples, 40, seed);
    }
    for (int i = 0; i < 40; i++) {
        fixture_finish(f, samples[i]);
        fixture_take_all(f);
    }
    assert_int_equal(f->run->queued, 0);
}

TEST(whichever_worker_is_faster_the_summaries_are_the_same_bytes)
{
    struct run_fixture in_order, other;
    run_shuffled(&in_order, 0);
    assert_true(in_order.summaries > 8);
    for (uint32_t seed = 1; seed < 20; seed++) {
        run_shuffled(&other, seed);
        fixture_assert_same_summaries(&other, &in_order);
        fixture_stop(&other);
    }
    fixture_stop(&in_order);
}

RUN_TEST(every_track_makes_its_own_windows)
{
    uint64_t messages[2] = {0};
    fixture_also(f, "[6 steps]");
    for (uint64_t step = 0; step < 13; step++) {
        assert_int_equal(fixture_send(f, 0, 0, step), 0);
    }
    assert_int_equal(f->summaries, 3 + 2);
    for (int i = 0; i < f->summaries; i++) {
        messages[f->summary[i].track] += fixture_number(f, i, NULL, "messages");
    }
    assert_int_equal(messages[0], 12);
    assert_int_equal(messages[1], 12);
}

RUN_TEST(late_for_one_track_counts_in_the_other)
{
    fixture_also(f, "[100 steps]");
    fixture_send(f, 0, 0, 2);
    fixture_send(f, 0, 0, 5); /* closes the first four steps */
    assert_int_equal(f->summaries, 1);
    assert_int_equal(fixture_send(f, 0, 0, 3), 0);
    fixture_send(f, 0, 0, 7);
    fixture_send(f, 0, 0, 100);
    assert_int_equal(f->summaries, 3);
    assert_int_equal(fixture_number(f, 1, NULL, "messages"), 2);
    assert_int_equal(fixture_number(f, 1, "dropped", "late"), 1);
    assert_int_equal(f->summary[2].track, 1);
    assert_int_equal(fixture_number(f, 2, NULL, "messages"), 4);
    assert_int_equal(fixture_number(f, 2, "dropped", "late"), UINT64_MAX);
}

RUN_TEST(late_for_all_tracks_is_refused_without_work)
{
    fixture_also(f, "[2 steps]");
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 4);
    struct sample *late = fixture_make(f, 0, 0, 1);
    assert_false(fixture_queue(f, late));
    assert_int_equal(fixture_take_all(f), ERR_LATE);
    assert_int_equal(run_counts(f->run).tally.dropped[err_index(ERR_LATE)], 1);
}

RUN_TEST(lateness_is_decided_in_the_order_of_arrival)
{
    struct sample *first = queue_step(f, 0), *next = queue_step(f, 4);
    struct sample *late = queue_step(f, 1); /* nobody knows yet */
    fixture_finish(f, late);
    fixture_finish(f, next);
    fixture_finish(f, first);
    assert_int_equal(fixture_take_all(f), ERR_LATE);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 1);
}

RUN_TEST(a_repeated_message_costs_no_work)
{
    fixture_send(f, 0, 0, 0);
    f->seq[0][0] = 0;
    struct sample *again = fixture_make(f, 0, 0, 0);
    assert_false(fixture_queue(f, again));
    assert_int_equal(fixture_take_all(f), ERR_SEQ_DUPLICATE);
}

RUN_TEST(a_flush_waits_for_what_was_received_before_it)
{
    struct sample *first = queue_step(f, 0);
    assert_true(queue_flush(f->run));
    struct sample *second = queue_step(f, 1);
    fixture_finish(f, second);
    fixture_finish(f, first);
    fixture_take_all(f);
    assert_int_equal(f->summaries, 1);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 1);
}

RUN_TEST(weights_hold_up_their_windows_and_no_message)
{
    fixture_also(f, "[100 steps]");
    struct sample *weights = fixture_make_weights(f, 0);
    fixture_queue(f, weights);
    for (uint64_t step = 1; step <= 8; step++) {
        assert_int_equal(fixture_send(f, 0, 0, step), 0);
    }
    assert_int_equal(f->summaries, 0);
    assert_true(queue_flush(f->run));
    fixture_finish(f, weights);
    assert_true(run_busy(f->run));
    queue_join(f->run, &weights->message, f->now);
    assert_int_equal(weights->message.code, 0);
    assert_false(run_busy(f->run));
    assert_int_equal(fixture_number(f, f->summaries - 1, NULL, "messages"), 4);
    assert_int_equal(run_counts(f->run).processed, 9);
    free(weights);
}

RUN_TEST(weights_that_are_refused_in_their_turn_are_counted_once)
{
    struct sample *weights = fixture_make_weights(f, 3);
    fixture_queue(f, weights);
    struct sample *again = fixture_make_weights(f, 3);
    again->message.header.seq = 0;
    assert_true(fixture_queue(f, again)); /* nobody could know */
    assert_null(queue_take(f->run));
    fixture_finish(f, again);
    queue_join(f->run, &again->message, f->now);
    assert_int_equal(again->message.code, ERR_SEQ_DUPLICATE);
    fixture_finish(f, weights);
    queue_join(f->run, &weights->message, f->now);
    assert_int_equal(weights->message.code, 0);
    struct counts counts = run_counts(f->run);
    assert_int_equal(counts.received, 2);
    assert_int_equal(counts.processed, 1);
    assert_int_equal(counts.tally.dropped[err_index(ERR_SEQ_DUPLICATE)], 1);
    free(weights);
    free(again);
}

RUN_TEST(without_state_memory_messages_are_refused_and_windows_go_on)
{
    fixture_send(f, 0, 0, 0);
    uint64_t room = f->budget.limit;
    f->budget.limit = 1;
    assert_int_equal(fixture_send(f, 0, 0, 1), ERR_STATE_LIMIT);
    assert_int_equal(fixture_send(f, 0, 0, 4), ERR_STATE_LIMIT);
    assert_int_equal(f->summaries, 1); /* the rank has moved on */
    f->budget.limit = room;
    assert_int_equal(fixture_send(f, 0, 0, 5), 0);
    fixture_send(f, 0, 0, 8);
    assert_int_equal(fixture_number(f, 1, "dropped", "state_limit"), 2);
}

/* A hello of 60 KB names a thousand, and a job may have many runs. */
RUN_TEST(layers_take_of_the_state_memory)
{
    struct layer_id id = {STACK_DECODER, 7, SITE_SELF}, other = {STACK_DECODER, 8, SITE_SELF};
    struct stream *stream;
    uint64_t used = f->budget.used, room = f->budget.limit;
    assert_int_equal(run_stream(f->run, id, 4, f->now, &stream), 0);
    assert_true(f->budget.used >= used + sizeof *stream);
    f->budget.limit = f->budget.used;
    assert_int_equal(run_stream(f->run, other, 4, f->now, &stream), ERR_STATE_LIMIT);
    assert_int_equal(run_stream(f->run, id, 4, f->now, &stream), 0);
    assert_int_equal(run_put_stream(f->run, other, 4, f->now, &stream), 0);
    f->budget.limit = room;
}

/* A message of the last of a thousand ranks makes its layer keep numbers of them all. */
RUN_TEST(ranks_and_their_numbers_take_of_the_state_memory)
{
    enum { LAST = 3 };
    fixture_send(f, 0, 0, 0);
    for (uint32_t rank = 1; rank < LAST; rank++) {
        fixture_hello(f, rank, 0);
    }
    const struct sequences *sequences = &f->run->streams->sequences;
    uint64_t used = f->budget.used, room = f->budget.limit;
    f->budget.limit = used;
    assert_int_equal(fixture_send(f, 0, LAST - 1, 0), ERR_STATE_LIMIT);
    assert_int_equal(sequences->count, 1);
    assert_int_equal(fixture_hello(f, LAST, 0), ERR_STATE_LIMIT);
    assert_int_equal(f->run->tracks[0].window.rank_count, LAST);
    assert_int_equal(fixture_event(f, LAST - 1, EVENT_EPOCH_END, 0), 0);
    f->budget.limit = room;
    assert_int_equal(fixture_send(f, 0, LAST - 1, 0), 0);
    assert_int_equal(sequences->count, LAST);
    assert_true(f->budget.used >= used + (LAST - 1) * SEQUENCE_BYTES);
    assert_int_equal(fixture_hello(f, LAST, 0), 0);
}

/* It says where the training is; what has been sent until there may still be on its way. */
RUN_TEST(a_hello_from_a_later_step_moves_no_window)
{
    fixture_also(f, "[6 steps]");
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 1);
    assert_int_equal(fixture_hello(f, 0, 100), 0);
    assert_int_equal(f->run->step, 100);
    assert_int_equal(f->summaries, 0);
    assert_int_equal(fixture_send(f, 0, 0, 2), 0);
    assert_int_equal(fixture_send(f, 0, 0, 4), 0);
    assert_int_equal(f->summaries, 1);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 3);
    assert_int_equal(fixture_number(f, 0, "window", "last"), 3);
    assert_int_equal(run_counts(f->run).tally.lost, 0);
}

/* A hello announces it, messages say it, and one that does not leaves it. */
RUN_TEST(a_layer_has_the_module_that_was_said_last)
{
    struct stream *stream;
    struct layer_info layers[] = {{{STACK_ENCODER, 0, SITE_SELF}, HEADS, "text.0.attn"},
                                  {{STACK_ENCODER, 1, SITE_SELF}, HEADS, NULL}};
    struct message hello = {.header = {.type = MESSAGE_EVENT,
                                       .event = EVENT_HELLO,
                                       .run = {1},
                                       .world = 1,
                                       .layers = layers,
                                       .layer_count = 2}};
    queue_put(f->run, &hello, f->now);
    assert_ptr_equal(queue_take(f->run), &hello);
    stream = stream_find(f->run->streams, layers[0].id);
    assert_string_equal(stream->module, "text.0.attn");
    assert_null(stream_find(f->run->streams, layers[1].id)->module);
    assert_int_equal(fixture_send(f, 0, 0, 0), 0);
    assert_string_equal(stream->module, "text.0.attn");
    struct sample *sample = fixture_make(f, 0, 0, 1);
    strcpy(sample->message.header.module, "text.0.attn#1");
    fixture_queue(f, sample);
    fixture_finish(f, sample);
    assert_int_equal(fixture_take_all(f), 0);
    assert_string_equal(stream->module, "text.0.attn#1");
    assert_int_equal(fixture_send(f, 0, 0, 4), 0); /* the window of steps 0 to 3 closes */
    assert_int_equal(f->summaries, 1);
    assert_non_null(
        memmem(f->summary[0].data, f->summary[0].size, "\xa6module\xadtext.0.attn#1", 21));
}

static void say_hello_for(struct run_fixture *f, uint32_t rank, uint64_t seconds)
{
    for (uint64_t s = 0; s < seconds; s += 10) {
        f->now += 10 * S;
        if (rank != UINT32_MAX) {
            fixture_hello(f, rank, 5);
        }
        tick_run(f->run, f->now);
    }
}

RUN_TEST(a_hello_is_a_sign_of_life)
{
    f->config.limits_idle = 900 * S;
    fixture_send(f, 0, 0, 0);
    say_hello_for(f, 0, 7200);
    assert_int_equal(f->alerts, 0);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    say_hello_for(f, UINT32_MAX, 7200);
    assert_int_equal(f->alerts, 1); /* silence */
    assert_int_equal(f->run->state, JOB_IDLE);
    fixture_hello(f, 0, 6);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    tick_run(f->run, f->now);
    assert_int_equal(f->alerts, 2); /* resolved */
}

/* The others wait for a rank that sends tensors and is alive, but not for one that only says hello.
 */
RUN_TEST(who_only_says_hello_holds_up_no_window)
{
    fixture_hello(f, 1, 0);
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 4);
    say_hello_for(f, 1, 100);
    assert_int_equal(fixture_number(f, 0, "window", "last"), 3);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 1);
    assert_int_equal(fixture_send(f, 0, 1, 3), ERR_LATE);

    fixture_also(f, "[]");
    fixture_send(f, 0, 1, 0);
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 4);
    say_hello_for(f, 1, 100);
    assert_int_equal(fixture_send(f, 0, 1, 3), 0);
}

RUN_TEST(a_message_that_comes_late_is_counted_once)
{
    fixture_send(f, 0, 0, 0);
    f->seq[0][0] = 3; /* the new connection is read first */
    fixture_send(f, 0, 0, 2);
    assert_int_equal(run_counts(f->run).tally.lost, 2);
    f->seq[0][0] = 1;
    assert_int_equal(fixture_send(f, 0, 0, 1), 0);
    f->seq[0][0] = 4;
    fixture_send(f, 0, 0, 4); /* closes the window */
    struct counts counts = run_counts(f->run);
    assert_int_equal(counts.processed, 4);
    assert_int_equal(counts.tally.lost, 1);
    assert_int_equal(f->run->found, 1);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 3);
    assert_int_equal(fixture_number(f, 0, NULL, "lost"), 1);
}

/* The losses that a refused message has shown wait for the window that the late one comes in. */
RUN_TEST(a_late_message_is_found_once_among_losses_that_wait)
{
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 4); /* closes the window */
    f->seq[0][0] = 4;
    assert_int_equal(fixture_send(f, 0, 0, 1), ERR_LATE);
    f->seq[0][0] = 2;
    assert_int_equal(fixture_send(f, 0, 0, 5), 0);
    f->seq[0][0] = 5;
    fixture_send(f, 0, 0, 8);
    assert_int_equal(run_counts(f->run).tally.lost, 1);
    assert_int_equal(fixture_number(f, 1, NULL, "lost"), 1);
}

/* Its window has closed, and has said that it is lost. */
RUN_TEST(a_late_message_that_is_too_late_is_counted_once)
{
    f->seq[0][0] = 1;
    fixture_send(f, 0, 0, 0);
    f->seq[0][0] = 3;
    fixture_send(f, 0, 0, 2);
    fixture_send(f, 0, 0, 4);
    f->seq[0][0] = 2;
    assert_int_equal(fixture_send(f, 0, 0, 1), ERR_LATE);
    f->seq[0][0] = 5;
    fixture_send(f, 0, 0, 8);
    struct counts counts = run_counts(f->run);
    assert_int_equal(counts.received, counts.processed + 1);
    assert_int_equal(counts.tally.dropped[err_index(ERR_LATE)], 1);
    assert_int_equal(counts.tally.lost, 0);
    assert_int_equal(fixture_number(f, 0, NULL, "lost"), 1);
    assert_int_equal(fixture_number(f, 1, NULL, "lost"), 0);
    assert_int_equal(fixture_number(f, 1, "dropped", "late"), UINT64_MAX);
}

RUN_TEST(totals_are_judged_when_no_window_will)
{
    fixture_total(f, 0, 0);
    fixture_total(f, 0, 9);
    assert_int_equal(f->alerts, 1); /* losses */
    assert_int_equal(run_counts(f->run).tally.source, 9);
    assert_true(f->run->dirty); /* the job map says it */

    fixture_also(f, "[]");
    fixture_total(f, 0, 0);
    fixture_send(f, 0, 0, 0); /* its window will */
    fixture_total(f, 0, 9);
    assert_int_equal(f->alerts, 0);
    fixture_send(f, 0, 0, 4);
    assert_int_equal(f->alerts, 1);
}

RUN_TEST(a_forged_bye_ends_nothing)
{
    fixture_send(f, 0, 0, 0);
    fixture_event(f, 0, EVENT_BYE, 0);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(fixture_send(f, 0, 0, 4), 0);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    f->now += 70 * S;
    assert_int_equal(fixture_send(f, 0, 0, 8), 0);
    f->now += 70 * S;
    tick_run(f->run, f->now);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    assert_int_equal(fixture_number(f, 1, "window", "last"), 7);
}

RUN_TEST(what_was_on_its_way_at_the_bye_does_not_keep_the_run)
{
    fixture_send(f, 0, 0, 0);
    fixture_event(f, 0, EVENT_BYE, 0);
    f->now += S;
    assert_int_equal(fixture_send(f, 0, 0, 4), 0);
    f->now += f->config.window_timeout;
    tick_run(f->run, f->now);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(run_counts(f->run).processed, 3);
}

RUN_TEST(a_run_id_that_is_used_again_has_ended)
{
    fixture_send(f, 0, 0, 0);
    fixture_event(f, 0, EVENT_BYE, 0);
    f->seq[0][0] = f->event_seq[0] = 0;
    assert_int_equal(fixture_send(f, 0, 0, 0), ERR_ENDED);
    assert_int_equal(fixture_event(f, 0, EVENT_HELLO, 0), ERR_ENDED);
    assert_int_equal(f->run->state, JOB_ENDED);
}
