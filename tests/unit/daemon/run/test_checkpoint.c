/* SPDX-License-Identifier: MIT */
/* Runs that are killed and come back from what was kept of them. */
#include "tests/unit/unit.h"

#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "tests/unit/daemon/run/fake_store.h"
#include "daemon/run/restore.h"
#include "tests/unit/daemon/run/fixture.h"
#include "tests/unit/daemon/state/learned.h"

static void die_and_come_back(struct run_fixture *f)
{
    run_free(&f->run);
    assert_int_equal(f->budget.used, 0);
    assert_int_equal(stored_come_back(f, false), 1);
}

static uint32_t checkpoint_random_below(uint32_t *seed, uint32_t limit)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % limit;
}

/* Two ranks, two layers, some steps left out. */
static void send_some(struct run_fixture *f, uint32_t *seed, uint64_t step)
{
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t layer = 0; layer < 2; layer++) {
            if (checkpoint_random_below(seed, 4) > 0 || step % 4 == 0) {
                assert_int_equal(fixture_send(f, layer, rank, step), 0);
            }
        }
    }
}

#define ALSO  "[8 steps every 2, 10 steps, 3 epochs, 7 steps every 14]"
#define STEPS 60

/* `kill` in this number of steps of a hundred, right after a checkpoint. */
static void train(struct run_fixture *f, uint32_t seed, uint32_t kill, bool pauses)
{
    uint32_t chance = seed + 99;
    stored_start(f, ALSO);
    f->sink.pause = pauses ? fixture_pause : NULL;
    for (uint64_t step = 0; step < STEPS; step++) {
        send_some(f, &seed, step);
        f->now += S / 10;
        if (checkpoint_random_below(&chance, 100) < kill) {
            stored_save(f);
            die_and_come_back(f);
        }
    }
    for (uint32_t rank = 0; rank < 2; rank++) {
        fixture_event(f, rank, EVENT_BYE, 0);
    }
    assert_int_equal(f->run->state, JOB_ENDED);
}

static void assert_same_windows(const struct store *a, const struct store *b)
{
    assert_true(a->window_count > 50);
    assert_int_equal(a->window_count, b->window_count);
    for (int i = 0; i < a->window_count; i++) {
        assert_int_equal(a->windows[i].layer, b->windows[i].layer);
        assert_int_equal(a->windows[i].window.last, b->windows[i].window.last);
        assert_int_equal(a->windows[i].window.partial, b->windows[i].window.partial);
        assert_int_equal(a->windows[i].messages, b->windows[i].messages);
        assert_int_equal(a->windows[i].lost, b->windows[i].lost);
        assert_int_equal(a->windows[i].size, b->windows[i].size);
        assert_memory_equal(a->windows[i].state, b->windows[i].state, a->windows[i].size);
    }
}

TEST(restarts_change_nothing_that_was_saved)
{
    struct run_fixture whole, torn;
    for (uint32_t seed = 1; seed < 12; seed++) {
        train(&whole, seed, 0, false);
        train(&torn, seed, 25, false);
        assert_same_windows(whole.sink.store, torn.sink.store);
        assert_int_equal(torn.sink.store->replaced_final, 0);
        stored_stop(&whole);
        stored_stop(&torn);
    }
}

/* Windows that go out layer by layer */

TEST(windows_that_pause_are_the_same)
{
    OWNED(stored_stop) struct run_fixture whole, paused;
    train(&whole, 1, 0, false);
    train(&paused, 1, 25, true);
    assert_true(paused.pauses > 500);
    assert_same_windows(whole.sink.store, paused.sink.store);
    fixture_assert_same_summaries(&whole, &paused);
}

STORED_TEST(a_window_that_pauses_is_kept_when_it_is_through)
{
    for (uint64_t step = 0; step < 4; step++) {
        fixture_send(f, 0, 0, step);
        fixture_send(f, 1, 0, step);
    }
    stored_save(f);
    int batches = f->sink.store->batches, pieces = 0;
    f->sink.pause = fixture_pause;
    struct sample *first = fixture_make(f, 0, 0, 4), *second = fixture_make(f, 1, 0, 4);
    fixture_queue(f, first);
    fixture_queue(f, second);
    fixture_finish(f, first);
    fixture_finish(f, second);
    assert_null(queue_take(f->run)); /* it closes a window */
    for (; run_closes(f->run); pieces++) {
        assert_true(run_busy(f->run));
        assert_int_equal(f->run->queued, 1);
        assert_int_equal(f->sink.store->batches, batches);
        tick_run(f->run, f->now);
        struct message *taken = queue_take(f->run);
        assert_ptr_equal(taken, run_closes(f->run) ? NULL : &first->message);
    }
    assert_ptr_equal(queue_take(f->run), &second->message);
    assert_true(pieces >= 3);
    assert_int_equal(f->summaries, 2);
    assert_int_equal(f->sink.store->batches, batches + 1);
    assert_int_equal(fake_store_count(f->sink.store, "part/step-4-4/0/"), 0);
    free(first);
    free(second);
}

STORED_TEST(what_a_flush_shows_pauses)
{
    f->sink.pause = fixture_pause;
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 1, 0, 0);
    assert_true(queue_flush(f->run));
    assert_true(f->run->shows);
    assert_int_equal(fixture_take_all(f), 1);
    assert_false(f->run->shows);
    assert_int_equal(f->summaries, 2);
    assert_int_equal(f->sink.store->window_count, 2);
}

STORED_TEST(a_run_whose_windows_pause_goes_idle_when_they_are_out)
{
    f->sink.pause = fixture_pause;
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 1, 0, 0);
    assert_int_equal(closing_go_idle(f->run), ERR_AGAIN);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    assert_int_equal(fixture_take_all(f), 1);
    assert_int_equal(f->run->state, JOB_IDLE);
    assert_int_equal(f->summaries, 2);
    assert_int_equal(fixture_send(f, 0, 0, 1), 0);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    assert_true(queue_flush(f->run));
    assert_int_equal(fixture_take_all(f), 1);
    assert_int_equal(f->run->state, JOB_ACTIVE); /* what is shown later ends nothing */
}

STORED_TEST(a_run_may_go_while_its_window_pauses)
{
    f->sink.pause = fixture_pause;
    fixture_send(f, 0, 0, 0);
    assert_true(queue_flush(f->run)); /* nothing leaks */
}

/* The sums in a track's windows of a layer. */
struct checkpoint_sums {
    uint64_t messages, lost;
};

static struct checkpoint_sums checkpoint_add_up(const struct store *store, uint32_t layer,
                                                uint64_t length)
{
    struct checkpoint_sums sums = {0};
    for (int i = 0; i < store->window_count; i++) {
        const struct fake_window *window = &store->windows[i];
        if (window->layer != layer || window->window.length != length || !window->final) {
            continue;
        }
        sums.messages += window->messages;
        sums.lost += window->lost;
    }
    return sums;
}

/* Kills at any message, with checkpoints now and then, sometimes half of one. */
static void train_dangerously(struct run_fixture *f, uint32_t seed)
{
    stored_start(f, "[10 steps]");
    for (uint64_t step = 0; step < STEPS; step++) {
        send_some(f, &seed, step);
        if (checkpoint_random_below(&seed, 6) == 0) {
            checkpoint_step(f->run);
            checkpoint_submit(f->run, f->now);
        }
        if (checkpoint_random_below(&seed, 12) == 0) {
            stored_save(f);
        }
        if (step > 5 && checkpoint_random_below(&seed, 10) == 0 && f->sink.store->kept_count > 0) {
            die_and_come_back(f);
        }
    }
}

TEST(what_is_counted_and_what_is_lost_is_what_was_sent)
{
    struct run_fixture f;
    for (uint32_t seed = 1; seed < 40; seed++) {
        train_dangerously(&f, seed);
        for (uint32_t layer = 0; layer < 2; layer++) {
            for (uint32_t rank = 0; rank < 2; rank++) {
                fixture_send(&f, layer, rank, STEPS); /* so that gaps are seen */
            }
        }
        for (uint32_t rank = 0; rank < 2; rank++) {
            fixture_event(&f, rank, EVENT_BYE, 0);
        }
        for (uint32_t layer = 0; layer < 2; layer++) {
            uint64_t sent = f.seq[layer][0] + f.seq[layer][1];
            struct checkpoint_sums short_windows = checkpoint_add_up(f.sink.store, layer, 4);
            struct checkpoint_sums long_windows = checkpoint_add_up(f.sink.store, layer, 10);
            assert_int_equal(short_windows.messages + short_windows.lost, sent);
            assert_int_equal(long_windows.messages + long_windows.lost, sent);
        }
        struct counts counts = run_counts(f.run);
        assert_int_equal(counts.received, counts.processed);
        assert_int_equal(f.sink.store->replaced_final, 0);
        stored_stop(&f);
    }
}

STORED_TEST(a_batch_that_is_dropped_is_made_up_for)
{
    fixture_send(f, 0, 0, 0);
    f->sink.store->full = true;
    stored_save(f);
    assert_int_equal(f->sink.store->kept_count, 0);
    f->sink.store->full = false;
    stored_save(f);
    die_and_come_back(f);
    fixture_send(f, 0, 0, 1);
    fixture_send(f, 0, 0, 4);
    assert_int_equal(f->sink.store->windows[0].messages, 2);
    assert_int_equal(f->sink.store->windows[0].lost, 0);
}

STORED_TEST(nothing_is_saved_twice)
{
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    int batches = f->sink.store->batches;
    stored_save(f);
    assert_int_equal(f->sink.store->batches, batches);
}

STORED_TEST(a_closed_window_leaves_no_part_behind)
{
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    assert_int_equal(fake_store_count(f->sink.store, "part/step-4-4/0/"), 1);
    fixture_send(f, 0, 0, 4);
    assert_int_equal(fake_store_count(f->sink.store, "part/step-4-4/0/"), 0);
    assert_int_equal(fake_store_count(f->sink.store, "part/step-4-4/1/"), 1);
}

/* Rank 1 was not waited for in the first four steps. */
STORED_TEST(a_window_with_a_part_that_was_cut_is_partial_after_a_restart)
{
    fixture_also(f, "[8 steps every 4]");
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 1, 0);
    f->now += f->config.window_timeout;
    fixture_send(f, 0, 0, 4);
    fixture_send(f, 0, 1, 4);
    stored_save(f);
    die_and_come_back(f);
    fixture_send(f, 0, 0, 8);
    fixture_send(f, 0, 1, 8);
    int found = 0;
    for (int i = 0; i < f->sink.store->window_count; i++) {
        const struct fake_window *window = &f->sink.store->windows[i];
        if (window->final && window->window.last == 7) {
            assert_int_equal(window->window.partial, window->window.length == 8);
            found++;
        }
    }
    assert_int_equal(found, 2);
}

STORED_TEST(a_run_keeps_the_windows_that_it_asked_for_over_a_restart)
{
    run_free(&f->run);
    f->cut.own = (struct config_window){CONFIG_UNIT_STEP, 6, 6};
    fixture_new_run(f);
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    f->config.window_unit = CONFIG_UNIT_EPOCH;
    f->config.window_length = f->config.window_every = 1;
    die_and_come_back(f);
    assert_string_equal(f->run->tracks[0].name, "step-6-6");
    fixture_send(f, 0, 0, 5);
    fixture_send(f, 0, 0, 6);
    assert_int_equal(f->sink.store->windows[0].messages, 2);
}

STORED_TEST(a_run_that_has_ended_comes_back_ended)
{
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    fixture_event(f, 0, EVENT_BYE, 0);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(fake_store_count(f->sink.store, "part/"), 0);
    f->now += 50 * S;
    die_and_come_back(f);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(f->run->step, 0);
    assert_int_equal(run_counts(f->run).processed, 2);
    assert_int_equal(f->now - f->run->last_ns, 50 * S); /* heard of when it was */
    f->seq[0][0] = 0;
    assert_int_equal(fixture_send(f, 0, 0, 0), ERR_ENDED); /* an old message, once more */
    assert_int_equal(f->run->state, JOB_ENDED);
}

STORED_TEST(an_idle_run_keeps_its_numbers_but_no_parts)
{
    fixture_send(f, 0, 0, 0);
    fixture_send(f, 0, 0, 1);
    f->now += f->config.limits_idle;
    tick_run(f->run, f->now);
    assert_int_equal(f->run->state, JOB_IDLE);
    stored_save(f);
    assert_int_equal(fake_store_count(f->sink.store, "part/"), 0);
    assert_int_equal(fake_store_count(f->sink.store, "layer/"), 1);
    die_and_come_back(f);
    assert_int_equal(f->run->state, JOB_IDLE);
    f->seq[0][0] += 3;
    fixture_send(f, 0, 0, 5);
    assert_int_equal(f->run->state, JOB_ACTIVE);
    fixture_send(f, 0, 0, 8);
    const struct fake_window *last = &f->sink.store->windows[f->sink.store->window_count - 1];
    assert_int_equal(last->window.last, 7);
    assert_int_equal(last->lost, 3);
}

STORED_TEST(a_baseline_goes_on)
{
    for (uint64_t step = 0; step < 13; step++) {
        fixture_send(f, 0, 0, step);
    }
    const struct layer_track *layer = &f->run->streams->tracks[0];
    uint64_t learned = learned_windows(layer->drift);
    assert_int_equal(learned, 3);
    die_and_come_back(f);
    layer = &f->run->streams->tracks[0];
    assert_int_equal(learned_windows(layer->drift), learned);
    assert_true(f->run->budget.used > 0);
    fixture_send(f, 0, 0, 16);
    assert_int_equal(learned_windows(layer->drift), learned + 1);
}

STORED_TEST(a_baseline_idle_for_long_is_freed_and_stays_kept)
{
    for (uint64_t step = 0; step < 9; step++) {
        fixture_send(f, 0, 0, step);
    }
    f->now += TICK_STREAM_IDLE_NS;
    tick_run(f->run, f->now);
    assert_null(f->run->streams->tracks[0].drift);
    assert_int_equal(stats_get(&f->stats, COUNT_EVICTED), 1);
    assert_int_equal(fake_store_count(f->sink.store, "drift/"), 1);
    assert_int_equal(f->budget.used, run_kept_bytes(f->run) + f->run->captures->bytes);
    assert_false(tick_wanted(f->run));
}

static void send_of_module(struct run_fixture *f, uint64_t step, const char *module)
{
    struct sample *sample = fixture_make(f, 0, 0, step);
    strcpy(sample->message.header.module, module);
    fixture_queue(f, sample);
    fixture_finish(f, sample);
    assert_int_equal(fixture_take_all(f), 0);
}

STORED_TEST(the_module_of_a_layer_comes_back)
{
    assert_int_equal(fixture_send(f, 1, 0, 0), 0);
    send_of_module(f, 0, "model.layers.0.self_attn");
    stored_save(f);
    die_and_come_back(f);
    assert_string_equal(stream_find(f->run->streams, (struct layer_id){0})->module,
                        "model.layers.0.self_attn");
    assert_null(stream_find(f->run->streams, (struct layer_id){.layer = 1})->module);
}

STORED_TEST(rules_may_change_while_attnd_is_away)
{
    char error[CONFIG_ERROR_MAX];
    fixture_also(f, "[10 steps]");
    for (uint64_t step = 0; step < 6; step++) {
        fixture_send(f, 0, 0, step);
    }
    stored_save(f);
    config_set(&f->config, "window.also=[5 steps]", error);
    die_and_come_back(f);
    for (uint64_t step = 6; step < 16; step++) {
        fixture_send(f, 0, 0, step);
    }
    assert_int_equal(checkpoint_add_up(f->sink.store, 0, 4).messages, 12);
    assert_int_equal(checkpoint_add_up(f->sink.store, 0, 10).messages, 0);
    /* of the new rule's first window attnd had seen only a part */
    assert_int_equal(checkpoint_add_up(f->sink.store, 0, 5).messages, 4 + 5);
    for (int i = 0; i < f->sink.store->window_count; i++) {
        if (f->sink.store->windows[i].window.length == 5) {
            assert_int_equal(f->sink.store->windows[i].window.partial,
                             f->sink.store->windows[i].window.last == 9);
        }
    }
}

STORED_TEST(seconds_that_attnd_was_away_count)
{
    fixture_also(f, "[10 seconds]");
    f->sink.wall_offset_ns = 5000 * S;
    f->now += 3 * S;
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    f->now = 7 * S;                    /* the machine was started again, */
    f->sink.wall_offset_ns = 6000 * S; /* four seconds later by its clock */
    die_and_come_back(f);
    assert_int_equal(window_age(&f->run->tracks[1].window, f->now), 7 * S);
    f->sink.wall_offset_ns = 0; /* the clock was turned back */
    die_and_come_back(f);
    assert_int_equal(window_age(&f->run->tracks[1].window, f->now), 3 * S);
}

STORED_TEST(what_was_dropped_at_the_source_goes_on)
{
    fixture_total(f, 0, 0);
    fixture_send(f, 0, 0, 0);
    fixture_total(f, 0, 5);
    stored_save(f);
    die_and_come_back(f);
    assert_int_equal(run_counts(f->run).tally.source, 5);
    assert_int_equal(f->run->judged.tally.source, 5);
    fixture_total(f, 0, 7);
    assert_int_equal(run_counts(f->run).tally.source, 7);
}

STORED_TEST(without_about_a_run_does_not_come_back)
{
    fixture_send(f, 0, 0, 0);
    stored_save(f);
    struct fake_kept *about =
        (struct fake_kept *)(uintptr_t)fake_store_find(f->sink.store, "about");
    about->size /= 2;
    run_free(&f->run);
    assert_int_equal(stored_come_back(f, false), 0);
    assert_null(f->run);
    assert_int_equal(f->budget.used, 0);
    fixture_new_run(f);
}

/* Whatever is wrong with a value: the others are used, and nothing breaks. */
TEST(damaged_values_are_left_out)
{
    struct run_fixture f;
    uint32_t seed = 7;
    for (int round = 0; round < 300; round++) {
        stored_start(&f, "[8 steps every 2]");
        for (uint64_t step = 0; step < 9; step++) {
            send_some(&f, &seed, step);
        }
        stored_save(&f);
        struct fake_kept *kept =
            &f.sink.store->kept[checkpoint_random_below(&seed, (uint32_t)f.sink.store->kept_count)];
        if (round % 2) {
            kept->size = checkpoint_random_below(&seed, (uint32_t)kept->size);
        } else {
            ((uint8_t *)kept->value)[checkpoint_random_below(&seed, (uint32_t)kept->size)] ^=
                (uint8_t)(1u << checkpoint_random_below(&seed, 8));
        }
        run_free(&f.run);
        if (stored_come_back(&f, false) == 0) {
            fixture_new_run(&f);
        }
        fixture_send(&f, 0, 0, 20);
        stored_stop(&f);
    }
}

/* Each part a second time, without numbers. */
static void give_parts_twice(void *restore, const char *job, const uint8_t *id, const char *key,
                             const void *value, size_t size)
{
    restore_value(restore, job, id, key, value, size);
    if (strncmp(key, "part/", 5) == 0) {
        OWNED(layer_state_free) struct layer_state *empty = layer_state_new(2, 48);
        OWNED(mpk_writer_clear) struct mpk_writer packed;
        mpk_writer_init(&packed);
        assert_int_equal(layer_state_pack(empty, &packed), 0);
        restore_value(restore, job, id, key, packed.buffer.data, packed.buffer.size);
    }
}

STORED_TEST(of_two_values_for_a_part_the_first_counts)
{
    fixture_also(f, "[8 steps every 2]");
    assert_int_equal(fixture_send(f, 0, 0, 0), 0);
    stored_save(f);
    run_free(&f->run);
    struct restore restore = stored_restore(f);
    store_each_kept(f->sink.store, give_parts_twice, &restore);
    restore_finish(&restore);
    assert_int_equal(restore.runs, 1);
    const struct window_part *part = f->run->tracks[0].window.open;
    assert_true(state_table_find(part->data, 0)->rows > 0);
}
