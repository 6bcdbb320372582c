/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/ingest/sequence.h"

static struct losses losses; /* by the newest number */

static int sequence_next(struct sequences *s, uint64_t seq, uint64_t dropped)
{
    losses = (struct losses){0};
    return sequences_next(s, 0, seq, dropped, &losses);
}

#define SEQUENCE_TEST(name) TEST_IN(name, struct sequences, s, NULL, sequences_clear)

SEQUENCE_TEST(a_gap_is_a_loss)
{
    assert_int_equal(sequence_next(s, 0, 0), 0);
    assert_int_equal(sequence_next(s, 1, 0), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(s, 5, 0), 0);
    assert_int_equal(losses.lost, 3);
}

SEQUENCE_TEST(starting_in_the_middle_loses_nothing)
{
    assert_int_equal(sequence_next(s, 1000, 7), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(losses.source, 0);
    assert_int_equal(sequence_next(s, 1001, 9), 0);
    assert_int_equal(losses.source, 2);
}

SEQUENCE_TEST(what_is_lost_over_a_restart_is_joined_late)
{
    for (uint64_t lost = 0; lost < 2; lost++) {
        for (uint64_t dropped = 0; dropped < 2; dropped++) {
            sequences_clear(s);
            sequence_next(s, 0, 0);
            sequences_restored(s);
            assert_int_equal(sequence_next(s, 1 + lost, dropped), 0);
            assert_int_equal(losses.joined_late, lost + dropped > 0);
            assert_int_equal(losses.lost, lost);
            assert_int_equal(sequence_next(s, 9, 9), 0);
            assert_false(losses.joined_late);
        }
    }
    sequences_clear(s);
    assert_int_equal(sequence_next(s, 0, 0), 0);
    assert_false(losses.joined_late);
}

SEQUENCE_TEST(drops_before_the_first_message_count)
{
    assert_int_equal(sequence_next(s, 0, 4), 0);
    assert_int_equal(losses.source, 4);
}

SEQUENCE_TEST(repeats_and_steps_back_are_refused_without_effect)
{
    sequence_next(s, 0, 0);
    sequence_next(s, 1, 0);
    assert_int_equal(sequence_next(s, 1, 0), ERR_SEQ_DUPLICATE);
    assert_int_equal(sequence_next(s, 0, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 2, 0), 0);
    assert_int_equal(losses.lost, 0);
}

SEQUENCE_TEST(what_a_gap_had_lost_is_found_once)
{
    sequence_next(s, 0, 0);
    sequence_next(s, 5, 2);
    assert_int_equal(losses.lost, 4);
    assert_false(sequences_passed(s, 0, 1));
    assert_false(sequences_goes_on(s, 0, 1));
    assert_int_equal(sequence_next(s, 1, 1), 0); /* the old connection is read out */
    assert_int_equal(losses.found, 1);
    assert_int_equal(losses.lost + losses.source, 0);
    assert_int_equal(sequence_next(s, 6, 2), 0); /* between those of the new one */
    assert_int_equal(losses.found + losses.lost + losses.source, 0);
    assert_int_equal(sequence_next(s, 3, 2), 0);
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(s, 3, 2), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 2, 2), ERR_SEQ_ORDER); /* what was skipped stays lost */
    assert_int_equal(sequence_next(s, 4, 2), 0);
    assert_int_equal(sequence_next(s, 7, 2), 0);
    assert_int_equal(losses.lost, 0);
}

SEQUENCE_TEST(the_newest_gaps_are_remembered)
{
    for (uint64_t seq = 0; seq <= 3 * SEQUENCE_GAPS; seq += 3) {
        assert_int_equal(sequence_next(s, seq, 0), 0);
    }
    assert_int_equal(sequence_next(s, 3 * SEQUENCE_GAPS + 3, 0), 0); /* one gap too many */
    assert_int_equal(sequence_next(s, 1, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 4, 0), 0);
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(s, 3 * SEQUENCE_GAPS + 1, 0), 0);
    assert_int_equal(losses.found, 1);
}

#define FAR (UINT64_C(1) << 62)

SEQUENCE_TEST(a_forged_number_loses_nothing)
{
    sequence_next(s, 0, 0);
    assert_int_equal(sequence_next(s, FAR, 9), ERR_SEQ_ORDER);
    assert_false(sequences_goes_on(s, 0, FAR + SEQUENCE_GAP_MAX + 2));
    assert_int_equal(sequence_next(s, 1, 0), 0);
    assert_int_equal(losses.lost + losses.source, 0);
}

SEQUENCE_TEST(two_forged_numbers_in_a_row_do_not_keep_the_true_ones_out)
{
    sequence_next(s, 0, 0);
    assert_int_equal(sequence_next(s, FAR, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, FAR + 1, 0), 0);
    assert_int_equal(losses.lost, 0);
    assert_false(sequences_passed(s, 0, 1));
    assert_int_equal(sequence_next(s, 1, 0), 0); /* where it was before */
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(s, 2, 0), 0);
    /* and with yet another one the true one has to come twice */
    assert_int_equal(sequence_next(s, FAR + 2, 0), 0);
    assert_int_equal(sequence_next(s, FAR / 2, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 3, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 4, 0), 0);
    assert_int_equal(losses.lost, 0);
}

SEQUENCE_TEST(a_forged_first_number_costs_one_message)
{
    assert_int_equal(sequence_next(s, FAR, 0), 0);
    assert_int_equal(sequence_next(s, 0, 0), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(s, 1, 0), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(s, 2, 0), 0);
}

SEQUENCE_TEST(the_largest_gap_is_a_loss_and_one_more_is_a_jump)
{
    sequence_next(s, 0, 0);
    assert_int_equal(sequence_next(s, 1 + SEQUENCE_GAP_MAX, 0), 0);
    assert_int_equal(losses.lost, SEQUENCE_GAP_MAX);
    assert_int_equal(sequence_next(s, 1, 0), 0); /* the true ones go on in the gap */
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(s, 2 + SEQUENCE_GAP_MAX + SEQUENCE_GAP_MAX + 1, 0),
                     ERR_SEQ_ORDER);
}

SEQUENCE_TEST(a_forged_count_of_drops_is_not_believed)
{
    sequence_next(s, 0, 3);
    assert_int_equal(sequence_next(s, 1, FAR), 0);
    assert_int_equal(losses.source, 0);
    assert_int_equal(sequence_next(s, 2, 5), 0);
    assert_int_equal(losses.source, 2);
}

SEQUENCE_TEST(a_jump_is_no_loss_of_those_who_missed_it)
{
    OWNED(sequences_clear) struct sequences older = {0};
    sequence_next(&older, 0, 0);
    sequence_next(s, 0, 0);
    sequence_next(s, FAR, 0);
    sequence_next(s, FAR + 1, 0);
    assert_int_equal(sequences_since(s, &older), 0);
}

SEQUENCE_TEST(ranks_are_counted_apart)
{
    losses = (struct losses){0};
    assert_int_equal(sequences_next(s, 300, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(s, 2, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(s, 300, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
}
