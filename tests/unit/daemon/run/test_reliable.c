/* SPDX-License-Identifier: MIT */
/* Messages of the reliable lane: promises go where what they are about is saved, messages that come
 * again change nothing, and events wait for what their rank sent before. */
#include "tests/unit/unit.h"

#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/hold.h"
#include "daemon/run/past.h"
#include "daemon/run/registry.h"
#include "tests/unit/daemon/run/fake_store.h"
#include "tests/unit/daemon/run/fixture.h"
#include "tests/unit/heap.h"

static struct promise *promise_of(uint64_t id)
{
    struct promise *promise = calloc(1, sizeof *promise);
    assert_non_null(promise);
    promise->id = id;
    return promise;
}

/* A message of layer 0 and rank 0 with this number on the lane, which is its promise, too. */
static int send_reliable(struct run_fixture *f, uint64_t seq, uint64_t step)
{
    struct sample *sample = fixture_make(f, 0, 0, step);
    f->seq[0][0]--;
    sample->message.header.reliable = true;
    sample->message.header.seq = seq;
    sample->message.promise = promise_of(seq);
    if (fixture_queue(f, sample)) {
        fixture_finish(f, sample);
    }
    return fixture_take_all(f);
}

/* The promises that the store has made good, as one number: 12 for 1 and 2. */
static uint64_t kept(struct run_fixture *f)
{
    uint64_t digits = 0;
    struct promise *promise;
    while ((promise = promises_take(&f->sink.store->kept_promises))) {
        digits = 10 * digits + promise->id;
        free(promise);
    }
    return digits;
}

STORED_TEST(a_promise_is_kept_by_the_batch_that_saves_its_layer)
{
    fixture_also(f, "[8 steps]");
    assert_int_equal(send_reliable(f, 0, 0), 0);
    assert_int_equal(send_reliable(f, 1, 1), 0);
    f->sink.store->full = true;
    stored_save(f);
    assert_int_equal(kept(f), 0);
    assert_int_equal(send_reliable(f, 2, 2), 0);
    f->sink.store->full = false;
    stored_save(f);
    uint64_t digits = kept(f); /* 0, 1 and 2, in whatever order they came back */
    assert_true(digits == 12 || digits == 120 || digits == 201 || digits == 210 || digits == 21 ||
                digits == 102);
    assert_null(f->run->promises.first);
}

/* Its count among the dropped is saved as well; one that came before is acknowledged. */
STORED_TEST(what_is_dropped_in_its_turn_waits_to_be_saved_too)
{
    struct promise *promise;
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(send_reliable(f, i, 8 * i), 0); /* the first window of four steps closes */
    }
    assert_int_equal(send_reliable(f, 2, 0), ERR_LATE);
    assert_int_equal(send_reliable(f, 2, 0), ERR_REPEATED);
    (void)kept(f); /* by the window */
    stored_save(f);
    int late = 0, count = 0;
    while ((promise = promises_take(&f->sink.store->kept_promises))) {
        assert_int_equal(promise->code, 0);
        late += promise->id == 2 && promise->dropped == ERR_LATE;
        count += promise->id == 2;
        free(promise);
    }
    assert_int_equal(count, 2);
    assert_int_equal(late, 1);
}

/* A window that closes saves its own track only: a promise is about all of them. */
STORED_TEST(a_window_that_closes_saves_the_other_tracks_as_well)
{
    fixture_also(f, "[100 steps]");
    for (uint64_t i = 1; i < 6; i++) { /* windows of four steps: the first closes with step 4 */
        assert_int_equal(send_reliable(f, i, i - 1), 0);
    }
    assert_int_equal(kept(f), 12345);
    assert_int_equal(fake_store_count(f->sink.store, "layer/"), 2);
}

STORED_TEST(a_message_that_comes_again_changes_nothing)
{
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(send_reliable(f, i, i), 0);
    }
    assert_int_equal(fixture_send(f, 0, 0, 3), 0); /* the other lane has numbers of its own */
    assert_int_equal(send_reliable(f, 0, 0), ERR_REPEATED);
    assert_int_equal(send_reliable(f, 1, 9), ERR_REPEATED);
    struct counts counts = run_counts(f->run);
    assert_int_equal(counts.received, 6);
    assert_int_equal(counts.processed, 4);
    assert_int_equal(counts.tally.dropped[err_index(ERR_REPEATED)], 2);
    assert_int_equal(counts.tally.lost, 0);
    assert_int_equal(stats_get(&f->stats, COUNT_RELIABLE_DUPLICATES), 2);
    assert_int_equal(f->run->step, 3);
}

STORED_TEST(its_numbers_come_back)
{
    fixture_also(f, "[8 steps]");
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(send_reliable(f, i, i), 0);
    }
    stored_save(f);
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 1);
    assert_true(f->run->reliable);
    assert_int_equal(send_reliable(f, 2, 2), ERR_REPEATED);
    assert_int_equal(send_reliable(f, 3, 3), 0);
}

/* It is not there at the start, and still known when it is asked for. */
STORED_TEST(a_run_that_is_forgotten_leaves_its_numbers)
{
    for (uint64_t i = 1; i < 3; i++) {
        assert_int_equal(send_reliable(f, i, i), 0);
    }
    checkpoint_forget(f->run, f->now);
    assert_int_equal(kept(f), 12);
    assert_int_equal(fake_store_count(f->sink.store, "part/"), 0);
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 0);
    assert_int_equal(stored_come_back(f, true), 1);
    assert_int_equal(send_reliable(f, 2, 2), ERR_REPEATED);
    assert_int_equal(send_reliable(f, 3, 30), 0);
}

/* It goes on, and is there at the next start with what was acknowledged. */
STORED_TEST(a_run_that_came_back_is_not_forgotten_any_more)
{
    assert_int_equal(send_reliable(f, 1, 0), 0);
    checkpoint_forget(f->run, f->now);
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, true), 1);
    assert_int_equal(send_reliable(f, 2, 1), 0);
    assert_int_equal(fake_store_count(f->sink.store, CHECKPOINT_FORGOTTEN), 1);
    f->sink.store->full = true;
    stored_save(f);
    f->sink.store->full = false;
    stored_save(f);
    assert_int_equal(kept(f), 12);
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 1);
    assert_int_equal(send_reliable(f, 2, 1), ERR_REPEATED);
    checkpoint_forget(f->run, f->now); /* again */
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, true), 1);
    checkpoint_forget(f->run, f->now);
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 0);
    assert_int_equal(stored_come_back(f, true), 1);
}

static void reliable_settle(void *data, struct promises *promises)
{
    promises_move(data, promises);
}

/* A message of a run that need not be known, by either lane. */
static int reliable_arrive(struct run_fixture *f, struct registry *registry, uint8_t id,
                           bool reliable, uint64_t seq)
{
    struct sample *sample = fixture_make(f, 0, 0, 9);
    bool compute;
    sample->message.header.run[0] = id;
    sample->message.header.reliable = reliable;
    sample->message.header.seq = seq;
    sample->message.promise = reliable ? promise_of(seq) : NULL;
    int code = registry_arrive(registry, &sample->message, f->now, &compute);
    free(sample->message.promise);
    free(sample);
    return code;
}

/* A registry that has forgotten run 1, of which two messages were kept. */
static struct registry *reliable_forgetful(struct run_fixture *f)
{
    for (uint64_t i = 1; i < 3; i++) {
        assert_int_equal(send_reliable(f, i, i), 0);
    }
    checkpoint_forget(f->run, f->now);
    assert_int_equal(kept(f), 12);
    run_free(&f->run);
    struct registry *registry = registry_new(&f->config, &f->sink, NULL, NULL);
    assert_non_null(registry);
    return registry;
}

/* Half of what is there would let messages count twice, and overwrite the other half. */
STORED_TEST(a_past_that_cannot_be_read_is_asked_for_again)
{
    OWNED(registry_free) struct registry *registry = reliable_forgetful(f);
    f->sink.store->unreadable = true;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(reliable_arrive(f, registry, 1, i & 1, 2), ERR_HISTORY_UNREAD);
        assert_int_equal(registry_jobs(registry), 0);
    }
    f->sink.store->unreadable = false;
    assert_int_equal(reliable_arrive(f, registry, 1, true, 2), ERR_REPEATED);
    assert_int_equal(reliable_arrive(f, registry, 1, true, 1), ERR_REPEATED);
}

/* The run's last batch may be on its way: nothing is answered before that is there. */
STORED_TEST(what_comes_again_of_the_past_is_answered_by_the_history)
{
    struct promises answers = {0};
    OWNED(registry_free) struct registry *registry = reliable_forgetful(f);
    f->sink.data = &answers;
    f->sink.settle = reliable_settle;
    assert_int_equal(reliable_arrive(f, registry, 1, true, 2), ERR_REPEATED);
    assert_int_equal(kept(f), 2);
    assert_null(answers.first);
    f->sink.store->full = true;
    assert_int_equal(reliable_arrive(f, registry, 1, true, 1), ERR_REPEATED);
    assert_int_equal(kept(f), 0);
    assert_non_null(answers.first);
    assert_int_equal(answers.first->code, ERR_AGAIN);
    assert_true(answers.first->repeated);
    promises_free(&answers);
    f->sink.data = f;
}

/* As long as the store loses nothing: a run may have been read before it was written. */
STORED_TEST(the_history_is_asked_once_for_each_of_a_few_runs)
{
    OWNED(registry_free) struct registry *registry = reliable_forgetful(f);
    f->config.limits_jobs = 0;
    for (int i = 0; i < 3; i++) {
        for (uint8_t id = 1; id <= PASTS_MAX; id++) {
            assert_int_equal(reliable_arrive(f, registry, id, false, 0), ERR_JOB_LIMIT);
        }
    }
    assert_int_equal(f->sink.store->asked, PASTS_MAX);
    stats_add(&f->stats, COUNT_STORE_DROPPED, 1);
    assert_int_equal(reliable_arrive(f, registry, 1, true, 2), ERR_REPEATED);
    assert_int_equal(f->sink.store->asked, PASTS_MAX + 1);
}

/* Its rows are still there: what forgets them waits in the store's queue. */
STORED_TEST(a_run_that_never_used_the_lane_begins_anew)
{
    bool compute;
    assert_int_equal(fixture_send(f, 0, 0, 0), 0);
    stored_save(f);
    run_free(&f->run);
    OWNED(registry_free) struct registry *registry = registry_new(&f->config, &f->sink, NULL, NULL);
    assert_non_null(registry);
    struct sample *sample = fixture_make(f, 0, 0, 1);
    assert_int_equal(registry_arrive(registry, &sample->message, f->now, &compute), 0);
    f->run = registry_find(registry, "job", "01");
    assert_non_null(f->run);
    assert_null(f->run->streams);
    fixture_finish(f, sample);
    assert_int_equal(fixture_take_all(f), 0);
    assert_int_equal(run_counts(f->run).received, 1);
    f->run = NULL;
}

STORED_TEST(what_is_not_saved_of_a_run_that_is_forgotten_is_not_answered)
{
    struct promises answers = {0};
    assert_int_equal(send_reliable(f, 1, 1), 0);
    f->sink.data = &answers;
    f->sink.settle = reliable_settle;
    f->sink.store->full = true;
    checkpoint_forget(f->run, f->now);
    assert_non_null(answers.first);
    assert_int_equal(answers.first->code, ERR_AGAIN);
    promises_free(&answers);
    f->sink.data = f;
}

/* Without memory */

static const struct fake_window *final_window(const struct run_fixture *f, uint64_t last)
{
    const struct store *store = f->sink.store;
    for (int i = 0; i < store->window_count; i++) {
        if (store->windows[i].window.last == last && store->windows[i].final) {
            return &store->windows[i];
        }
    }
    return NULL;
}

/* The message that closes a window finds no memory for one thing. Returns whether that came. */
static bool close_without_memory(unsigned nth)
{
    OWNED(stored_stop) struct run_fixture f;
    stored_start(&f, "[]");
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(send_reliable(&f, i, i), 0);
    }
    stored_save(&f);
    kept(&f); /* acknowledged */
    struct sample *next = fixture_make(&f, 0, 0, 4);
    assert_true(fixture_queue(&f, next));
    fixture_finish(&f, next);
    heap_fail_at(nth);
    fixture_take_all(&f);
    bool failed = heap_has_failed();
    heap_fail_at(0);
    f.now += 2 * S;
    fixture_send(&f, 0, 0, 5);
    const struct fake_window *window = final_window(&f, 3);
    if (!window || window->messages != 4) {
        fail_msg("the window is lost with allocation %u", nth);
    }
    assert_int_equal(fake_store_count(f.sink.store, "part/step-4-4/0/"), 0);
    return failed;
}

TEST(a_window_without_memory_to_keep_it_closes_again)
{
    unsigned nth = 1;
    while (close_without_memory(nth)) {
        nth++;
    }
    assert_true(nth > 20);
}

/* Returns whether the failure came. */
static bool log_without_memory(unsigned nth)
{
    OWNED(stored_stop) struct run_fixture f;
    struct message message = {.header = {.type = MESSAGE_EVENT, .event = EVENT_LOG, .world = 1}};
    stored_start(&f, "[]");
    strcpy(message.header.job, "job");
    message.received_ns = f.now;
    assert_int_equal(send_reliable(&f, 0, 0), 0);
    assert_false(queue_put(f.run, &message, f.now));
    heap_fail_at(nth);
    assert_ptr_equal(queue_take(f.run), &message);
    bool failed = heap_has_failed();
    heap_fail_at(0);
    uint64_t dropped = run_counts(f.run).tally.dropped[err_index(ERR_MEMORY)];
    assert_int_equal(dropped, message.code != 0);
    assert_int_equal(run_counts(f.run).processed, 2 - dropped);
    assert_int_equal(f.sink.store->batches, message.code == 0); /* with what was logged */
    return failed;
}

TEST(what_is_logged_without_memory_to_keep_it_is_dropped)
{
    unsigned nth = 1;
    while (log_without_memory(nth)) {
        nth++;
    }
    assert_true(nth > 2);
}

/* Its window would be freed, and is nowhere else. */
STORED_TEST(a_run_without_memory_to_show_its_windows_is_not_idle)
{
    assert_int_equal(send_reliable(f, 0, 0), 0);
    f->now += f->config.window_timeout;
    tick_run(f->run, f->now); /* shown as quiet */
    assert_int_equal(send_reliable(f, 1, 1), 0);
    heap_fail_at(1);
    assert_int_equal(closing_go_idle(f->run), ERR_MEMORY);
    heap_fail_at(0);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    assert_int_equal(closing_go_idle(f->run), 0);
    assert_int_equal(f->run->state, JOB_IDLE);
    assert_int_equal(f->sink.store->windows[0].messages, 2);
}

/* Events that wait */

static struct message *event_after(struct run_fixture *f, uint32_t layer, uint64_t seq)
{
    struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    message->received_ns = f->now;
    message->header = (struct header){
        .type = MESSAGE_EVENT, .event = EVENT_EPOCH_END, .world = 1, .reliable = true};
    strcpy(message->header.job, "job");
    if (seq) {
        message->header.after = calloc(1, sizeof *message->header.after);
        assert_non_null(message->header.after);
        message->header.after[0] = (struct topic_position){{STACK_ENCODER, layer, SITE_SELF}, seq};
        message->header.after_count = 1;
    }
    return message;
}

STORED_TEST(an_event_waits_for_the_numbers_that_it_names)
{
    struct message *first = event_after(f, 1, 2), *second = event_after(f, 0, 0);
    assert_int_equal(hold_put(f->run, first, f->now), 1);
    assert_int_equal(hold_put(f->run, second, f->now), 1); /* behind it */
    assert_true(run_busy(f->run));
    fixture_send(f, 1, 0, 0);
    assert_null(hold_take(f->run, f->now));
    fixture_send(f, 1, 0, 1);
    assert_ptr_equal(hold_take(f->run, f->now), first);
    assert_ptr_equal(hold_take(f->run, f->now), second);
    assert_null(hold_take(f->run, f->now));
    assert_false(run_busy(f->run));
    assert_int_equal(hold_put(f->run, first, f->now), 0); /* they are there */
    message_free(&first);
    message_free(&second);
}

STORED_TEST(an_event_without_memory_to_wait_overtakes_nothing)
{
    bool compute;
    struct registry *registry = registry_new(&f->config, &f->sink, NULL, NULL);
    struct message *first = event_after(f, 0, 0), *message = event_after(f, 1, 2);
    assert_non_null(registry);
    assert_int_equal(registry_arrive(registry, first, f->now, &compute), 0);
    struct run *run = registry_find(registry, "job", "");
    assert_ptr_equal(queue_take(run), first);
    heap_fail_at(1);
    assert_int_equal(registry_arrive(registry, message, f->now, &compute), ERR_MEMORY);
    assert_true(heap_has_failed());
    heap_fail_at(0);
    assert_int_equal(run_counts(run).tally.dropped[err_index(ERR_MEMORY)], 1);
    assert_int_equal(registry_arrive(registry, message, f->now, &compute), 0); /* sent again */
    assert_ptr_equal(hold_take(run, UINT64_MAX), message);
    message_free(&first);
    message_free(&message);
    registry_free(&registry);
}

STORED_TEST(an_event_waits_no_longer_than_a_window)
{
    OWNED(message_free) struct message *message = event_after(f, 2, 1);
    uint64_t since = f->now;
    assert_int_equal(hold_put(f->run, message, f->now), 1);
    f->now += f->config.window_timeout - 1;
    assert_null(hold_take(f->run, f->now));
    assert_int_equal(run_time_ns(f->run, f->now), since); /* no window closes over it */
    f->now++;
    assert_ptr_equal(hold_take(f->run, f->now), message);
    assert_int_equal(run_time_ns(f->run, f->now), f->now);
}
