/* SPDX-License-Identifier: MIT */
/* Windows under a clock that the test turns. Times are in seconds here. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/run/window.h"

#define S UINT64_C(1000000000)

struct window_fixture {
    struct window window;
    uint64_t now;
};

static void window_start(struct window_fixture *f, enum window_unit unit, uint64_t length,
                         uint64_t every)
{
    struct config config = {.window_length = length, .window_every = every};
    struct window_rule rule = {.unit = unit,
                               .length = length,
                               .every = every,
                               .part =
                                   config_window_part(config.window_length, config.window_every),
                               .timeout_ns = 60 * S,
                               .rank_grace_ns = 5 * S};
    f->now = 100 * S;
    window_init(&f->window, &rule, f->now);
}

static void window_begin(struct window_fixture *f)
{
    window_start(f, WINDOW_EPOCH, 1, 1);
}

static void window_end(struct window_fixture *f)
{
    struct window_part *part;
    while ((part = window_take_any(&f->window))) {
        free(part);
    }
    window_fini(&f->window);
}

/* With a window per epoch, unless it starts others. */
#define WINDOW_TEST(name) TEST_IN(name, struct window_fixture, f, window_begin, window_end)

static uint32_t window_join(struct window_fixture *f, uint32_t rank, uint32_t world)
{
    uint32_t index;
    assert_int_equal(window_rank(&f->window, rank, world, 16, f->now, &index), 0);
    return index;
}

static int window_message(struct window_fixture *f, uint32_t rank, uint64_t unit)
{
    struct window_part *part;
    return window_arrive(&f->window, rank, unit, false, f->now, &part);
}

/* Closes what may be closed; returns the index of the last part closed, or -1. */
static int64_t window_close_all(struct window_fixture *f)
{
    int64_t last = -1;
    struct window_part *part;
    while ((part = window_close_next(&f->window, f->now))) {
        last = (int64_t)part->index;
        while ((part = window_forget(&f->window))) {
            free(part);
        }
    }
    return last;
}

/* All that the rank has of an epoch. */
static void window_epoch(struct window_fixture *f, uint32_t rank, uint64_t epoch)
{
    assert_int_equal(window_message(f, rank, epoch), 0);
    window_epoch_end(&f->window, rank, epoch);
}

/* The next part, which can be closed. */
static struct window_part *window_next(struct window_fixture *f)
{
    struct window_part *part = window_close_next(&f->window, f->now);
    assert_non_null(part);
    return part;
}

WINDOW_TEST(an_epoch_closes_by_its_end)
{
    uint32_t rank = window_join(f, 0, 1);
    assert_int_equal(window_message(f, rank, 0), 0);
    assert_int_equal(window_close_all(f), -1);
    window_epoch_end(&f->window, rank, 0);
    assert_int_equal(window_close_all(f), 0);
    assert_int_equal(window_message(f, rank, 0), ERR_LATE);
}

WINDOW_TEST(what_overtakes_others_closes_nothing)
{
    struct window_part *part;
    uint32_t rank = window_join(f, 0, 1);
    assert_int_equal(window_message(f, rank, 0), 0);
    assert_int_equal(window_arrive(&f->window, rank, 2, true, f->now, &part), 0);
    assert_int_equal(part->index, 2);
    assert_int_equal(window_close_all(f), -1);
    assert_int_equal(window_message(f, rank, 1), 0);
    assert_int_equal(window_close_all(f), 0);
    assert_int_equal(window_message(f, rank, 2), 0);
    assert_int_equal(window_close_all(f), 1);
}

WINDOW_TEST(all_ranks_must_have_moved_on)
{
    uint32_t a = window_join(f, 0, 2), b = window_join(f, 1, 2);
    window_message(f, a, 0);
    window_message(f, b, 0);
    window_message(f, a, 1);
    assert_int_equal(window_close_all(f), -1);
    window_message(f, b, 1);
    assert_int_equal(window_close_all(f), 0);
}

WINDOW_TEST(a_straggler_is_waited_for_until_the_timeout)
{
    uint32_t a = window_join(f, 0, 2);
    window_join(f, 1, 2);
    window_epoch(f, a, 0);
    f->now += 59 * S;
    assert_null(window_close_next(&f->window, f->now));
    f->now += 1 * S;
    struct window_part *part = window_next(f);
    assert_true(part->cut);
    assert_true(window_describe(&f->window, part).partial);
}

WINDOW_TEST(unknown_ranks_hold_up_the_first_part_for_the_grace_only)
{
    uint32_t a = window_join(f, 0, 8);
    window_epoch(f, a, 0);
    assert_int_equal(window_close_all(f), -1);
    f->now += 5 * S;
    assert_int_equal(window_close_all(f), 0);
    window_epoch(f, a, 1);
    assert_int_equal(window_close_all(f), 1);
}

WINDOW_TEST(silence_shows_once_and_keeps_open)
{
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    assert_null(window_quiet(&f->window, f->now + 59 * S));
    assert_non_null(window_quiet(&f->window, f->now + 60 * S));
    assert_null(window_quiet(&f->window, f->now + 61 * S));
    assert_int_equal(window_message(f, a, 0), 0);
    assert_non_null(window_quiet(&f->window, f->now + 60 * S));
}

WINDOW_TEST(bye_closes_and_cuts_what_was_not_ended)
{
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    window_bye(&f->window, a, 0, f->now);
    assert_true(window_next(f)->cut);
    assert_true(window_all_bye(&f->window));
}

WINDOW_TEST(a_bye_is_taken_back_and_holds_when_nothing_follows)
{
    uint32_t a = window_join(f, 0, 1);
    window_bye(&f->window, a, 0, f->now);
    f->now += 10 * S; /* what was still on its way */
    window_join(f, 0, 1);
    window_take_bye_back(&f->window, a, f->now);
    assert_false(window_all_bye(&f->window));
    window_settle_byes(&f->window, f->now + 59 * S);
    assert_false(window_all_bye(&f->window));
    window_settle_byes(&f->window, f->now + 60 * S);
    assert_true(window_all_bye(&f->window));
}

WINDOW_TEST(a_bye_that_is_followed_for_long_is_taken_back_for_good)
{
    uint32_t a = window_join(f, 0, 1);
    window_bye(&f->window, a, 0, f->now);
    f->now += 61 * S;
    window_join(f, 0, 1);
    window_take_bye_back(&f->window, a, f->now);
    window_settle_byes(&f->window, f->now + 1000 * S);
    assert_false(window_all_bye(&f->window));
}

WINDOW_TEST(rolling_windows_keep_what_later_ones_need)
{
    window_start(f, WINDOW_EPOCH, 6, 2); /* parts of 2, three per window */
    uint32_t a = window_join(f, 0, 1);
    assert_int_equal(f->window.rule.part, 2);
    for (uint64_t epoch = 0; epoch < 9; epoch++) {
        window_message(f, a, epoch);
    }
    assert_int_equal(window_close_all(f), 3);
    assert_int_equal(f->window.closed->index, 2); /* parts 2 and 3 and the next one make a window */
    assert_int_equal(f->window.closed->next->index, 3);
    assert_null(f->window.closed->next->next);
}

WINDOW_TEST(a_window_is_due_even_if_its_last_unit_was_skipped)
{
    window_start(f, WINDOW_STEP, 10, 10);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 3);
    window_message(f, a, 27);
    struct window_part *part = window_next(f);
    assert_true(window_due(&f->window, part));
    assert_int_equal(window_describe(&f->window, part).last, 9);
    assert_null(window_close_next(&f->window, f->now));
}

WINDOW_TEST(a_longer_stride_opens_its_boundary)
{
    window_start(f, WINDOW_EPOCH, 2, 4); /* parts of 2; due at parts 1, 3, 5 */
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    window_message(f, a, 9);
    struct window_part *part = window_next(f);
    assert_int_equal(part->index, 0);
    assert_false(window_due(&f->window, part));
    part = window_next(f);
    assert_int_equal(part->index, 1);
    assert_true(window_due(&f->window, part));
}

WINDOW_TEST(seconds_close_by_the_clock)
{
    window_start(f, WINDOW_SECOND, 10, 10);
    uint32_t a = window_join(f, 0, 1);
    assert_int_equal(window_unit_of(&f->window, 0, 0, f->now + 3 * S), 3);
    window_message(f, a, 3);
    f->now += 9 * S;
    assert_int_equal(window_close_all(f), -1);
    f->now += 1 * S;
    assert_int_equal(window_close_all(f), 0);
}

WINDOW_TEST(more_ranks_than_the_limit_are_refused)
{
    uint32_t index;
    for (uint32_t rank = 0; rank < 16; rank++) {
        window_join(f, rank, 16);
    }
    assert_int_equal(window_rank(&f->window, 16, 17, 16, f->now, &index), ERR_RANK_LIMIT);
}

/* The survivors of a dead rank go on: the oldest part is cut, not their data refused. */
WINDOW_TEST(a_rank_far_ahead_cuts_the_oldest_part)
{
    window_start(f, WINDOW_STEP, 1, 1);
    uint32_t a = window_join(f, 0, 2), b = window_join(f, 1, 2);
    window_message(f, b, 0);
    for (uint64_t step = 0; step < WINDOW_OPEN_MAX + 4; step++) {
        assert_int_equal(window_message(f, a, step), 0);
    }
    assert_true(window_next(f)->cut);
}

WINDOW_TEST(a_dead_rank_is_waited_for_once)
{
    uint32_t a = window_join(f, 0, 2);
    window_join(f, 1, 2);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        window_epoch(f, a, epoch);
    }
    assert_int_equal(window_close_all(f), -1);
    f->now += 60 * S;
    window_join(f, 0, 2);
    assert_int_equal(window_close_all(f), 2);
    window_epoch(f, a, 3);
    assert_int_equal(window_close_all(f), 3);
}

WINDOW_TEST(the_last_step_before_a_bye_completes_its_window)
{
    window_start(f, WINDOW_STEP, 5, 5);
    uint32_t a = window_join(f, 0, 1);
    for (uint64_t step = 0; step < 10; step++) {
        window_message(f, a, step);
    }
    window_bye(&f->window, a, 0, f->now);
    assert_false(window_next(f)->cut);
    assert_false(window_next(f)->cut);
}

WINDOW_TEST(a_bye_after_steps_without_a_message_completes_their_window)
{
    window_start(f, WINDOW_STEP, 100, 100);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 90);
    window_bye(&f->window, a, 99, f->now);
    assert_false(window_next(f)->cut);
}

WINDOW_TEST(a_bye_before_the_end_of_a_window_cuts_it)
{
    window_start(f, WINDOW_STEP, 100, 100);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 90);
    window_bye(&f->window, a, 98, f->now);
    assert_true(window_next(f)->cut);
}

WINDOW_TEST(parts_that_all_have_finished_are_not_too_many)
{
    window_start(f, WINDOW_STEP, 1, 1);
    uint32_t a = window_join(f, 0, 1);
    for (uint64_t step = 0; step < 10 * WINDOW_OPEN_MAX; step++) {
        assert_int_equal(window_message(f, a, step), 0);
    }
    assert_false(window_next(f)->cut);
}

WINDOW_TEST(late_stays_late_and_is_foreseen)
{
    window_start(f, WINDOW_STEP, 10, 10);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 3);
    window_message(f, a, 12);
    assert_false(window_is_late(&f->window, 9));
    window_close_all(f);
    assert_true(window_is_late(&f->window, 9));
    assert_int_equal(window_message(f, a, 9), ERR_LATE);
    assert_false(window_is_late(&f->window, 10));
}

WINDOW_TEST(steps_that_go_backwards_count_while_their_part_is_open)
{
    window_start(f, WINDOW_STEP, 10, 10);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 18);
    assert_int_equal(window_message(f, a, 11), 0);
    assert_int_equal(window_close_all(f), -1);
    assert_int_equal(window_message(f, a, 20), 0);
    assert_int_equal(window_close_all(f), 1);
    assert_int_equal(window_message(f, a, 19), ERR_LATE);
}

WINDOW_TEST(skipped_epochs_leave_no_window_behind)
{
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    window_message(f, a, UINT64_C(1) << 40);
    assert_int_equal(window_next(f)->index, 0);
    assert_null(window_close_next(&f->window, f->now));
    assert_int_equal(f->window.open->index, UINT64_C(1) << 40);
}

WINDOW_TEST(a_world_that_grows_does_not_reopen_anything)
{
    uint32_t a = window_join(f, 0, 1);
    window_epoch(f, a, 0);
    assert_int_equal(window_close_all(f), 0);
    uint32_t b = window_join(f, 1, 2);
    assert_int_equal(f->window.world, 2);
    assert_int_equal(window_message(f, b, 0), ERR_LATE);
    window_epoch(f, a, 1);
    assert_int_equal(window_close_all(f), -1); /* the new rank is waited for */
    window_epoch(f, b, 1);
    assert_int_equal(window_close_all(f), 1);
}

WINDOW_TEST(a_clock_that_stands_still_or_goes_back_closes_nothing)
{
    window_start(f, WINDOW_SECOND, 1, 1);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    assert_null(window_close_next(&f->window, f->now - 50 * S));
    assert_int_equal(window_unit_of(&f->window, 0, 0, f->now - 50 * S), 0);
}

/* Parts that came back may be later than the time of a daemon that has read no message yet. */
WINDOW_TEST(a_clock_that_is_behind_makes_nobody_silent)
{
    uint32_t a = window_join(f, 0, 2);
    window_join(f, 1, 2);
    window_epoch(f, a, 0);
    assert_null(window_quiet(&f->window, f->now - 1));
    assert_null(window_close_next(&f->window, f->now - 1));
    assert_non_null(window_quiet(&f->window, f->now + 60 * S));
}

WINDOW_TEST(ranks_can_be_taken_back)
{
    window_join(f, 7, 8);
    window_join(f, 3, 8);
    assert_int_equal(window_find_rank(&f->window, 3), 1);
    window_forget_ranks(&f->window, 1);
    assert_int_equal(window_find_rank(&f->window, 3), UINT32_MAX);
    assert_int_equal(window_join(f, 5, 8), 1);
}

WINDOW_TEST(saved_parts_come_back_where_they_were)
{
    struct window_part *part;
    window_start(f, WINDOW_EPOCH, 6, 2);
    f->window.next_index = 4;
    assert_true(window_needs(&f->window, 2));
    assert_false(window_needs(&f->window, 1));
    for (uint64_t index = 5; index >= 2; index--) {
        assert_int_equal(window_restore_part(&f->window, index, f->now, &part), 0);
        assert_int_equal(part->closed, index < 4);
    }
    assert_int_equal(f->window.closed->index, 2);
    assert_int_equal(f->window.closed->next->index, 3);
    assert_int_equal(f->window.open->index, 4);
    assert_int_equal(f->window.open->next->index, 5);
    assert_int_equal(window_restore_part(&f->window, 5, f->now, &part), 0);
    assert_null(f->window.open->next->next);
}

WINDOW_TEST(seconds_go_on_from_the_age_that_was_saved)
{
    window_start(f, WINDOW_SECOND, 10, 10);
    f->window.age_ns = 25 * S;
    assert_int_equal(window_unit_of(&f->window, 0, 0, f->now + 3 * S), 28);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 28);
    f->now += 4 * S;
    assert_int_equal(window_close_all(f), -1);
    f->now += 1 * S;
    assert_int_equal(window_close_all(f), 2);
}

WINDOW_TEST(a_window_that_reaches_back_before_the_first_unit_seen_is_partial)
{
    window_start(f, WINDOW_EPOCH, 2, 1);
    uint32_t a = window_join(f, 0, 1);
    for (uint64_t epoch = 100; epoch < 103; epoch++) {
        window_message(f, a, epoch);
    }
    assert_true(window_describe(&f->window, window_next(f)).partial);
    struct window_part *part = window_next(f);
    assert_int_equal(window_describe(&f->window, part).last, 101);
    assert_false(window_describe(&f->window, part).partial);
}

WINDOW_TEST(a_window_whose_data_was_thrown_away_is_partial)
{
    struct window_part *part;
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 5);
    while ((part = window_take_any(&f->window))) {
        free(part);
    }
    window_message(f, a, 5);
    window_epoch(f, a, 6);
    assert_true(window_describe(&f->window, window_next(f)).partial);
    free(window_forget(&f->window));
    assert_false(window_describe(&f->window, window_next(f)).partial);
}

WINDOW_TEST(a_quiet_window_of_several_parts_is_shown_once)
{
    window_start(f, WINDOW_EPOCH, 4, 4);
    uint32_t a = window_join(f, 0, 2);
    window_join(f, 1, 2);
    window_message(f, a, 0);
    window_message(f, a, 1);
    assert_non_null(window_quiet(&f->window, f->now + 60 * S));
    assert_null(window_quiet(&f->window, f->now + 60 * S));
}

WINDOW_TEST(a_part_that_is_reopened_closes_a_second_later_and_before_others)
{
    window_start(f, WINDOW_STEP, 1, 1);
    uint32_t a = window_join(f, 0, 1);
    window_message(f, a, 0);
    window_message(f, a, 1);
    window_message(f, a, 2);
    struct window_part *part = window_next(f);
    assert_int_equal(part->index, 0);
    window_reopen(&f->window, true, f->now);
    assert_true(part->judged && !part->closed);
    assert_null(window_close_next(&f->window, f->now + S - 1));
    assert_int_equal(window_message(f, a, 0), 0); /* not late any more */
    assert_ptr_equal(window_close_next(&f->window, f->now + S), part);
    assert_int_equal(window_close_next(&f->window, f->now + S)->index, 1);
    assert_int_equal(window_message(f, a, 0), ERR_LATE);
}
