/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/ingest/sequence.h"

static int sequence_next(struct sequences *s, uint64_t seq, uint64_t dropped, struct losses *losses)
{
    *losses = (struct losses){0};
    return sequences_next(s, 0, seq, dropped, losses);
}

TEST(a_gap_is_a_loss)
{
    struct sequences s = {0};
    struct losses losses;
    assert_int_equal(sequence_next(&s, 0, 0, &losses), 0);
    assert_int_equal(sequence_next(&s, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(&s, 5, 0, &losses), 0);
    assert_int_equal(losses.lost, 3);
    sequences_clear(&s);
}

TEST(starting_in_the_middle_loses_nothing)
{
    struct sequences s = {0};
    struct losses losses;
    assert_int_equal(sequence_next(&s, 1000, 7, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(losses.source, 0);
    assert_int_equal(sequence_next(&s, 1001, 9, &losses), 0);
    assert_int_equal(losses.source, 2);
    sequences_clear(&s);
}

TEST(drops_before_the_first_message_count)
{
    struct sequences s = {0};
    struct losses losses;
    assert_int_equal(sequence_next(&s, 0, 4, &losses), 0);
    assert_int_equal(losses.source, 4);
    sequences_clear(&s);
}

TEST(repeats_and_steps_back_are_refused_without_effect)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 0, &losses);
    sequence_next(&s, 1, 0, &losses);
    assert_int_equal(sequence_next(&s, 1, 0, &losses), ERR_SEQ_DUPLICATE);
    assert_int_equal(sequence_next(&s, 0, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 2, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}

TEST(what_a_gap_had_lost_is_found_once)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 0, &losses);
    sequence_next(&s, 5, 2, &losses);
    assert_int_equal(losses.lost, 4);
    assert_false(sequences_passed(&s, 0, 1));
    assert_false(sequences_goes_on(&s, 0, 1));
    assert_int_equal(sequence_next(&s, 1, 1, &losses), 0); /* the old connection is read out */
    assert_int_equal(losses.found, 1);
    assert_int_equal(losses.lost + losses.source, 0);
    assert_int_equal(sequence_next(&s, 6, 2, &losses), 0); /* between those of the new one */
    assert_int_equal(losses.found + losses.lost + losses.source, 0);
    assert_int_equal(sequence_next(&s, 3, 2, &losses), 0);
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(&s, 3, 2, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 2, 2, &losses),
                     ERR_SEQ_ORDER); /* what was skipped stays lost */
    assert_int_equal(sequence_next(&s, 4, 2, &losses), 0);
    assert_int_equal(sequence_next(&s, 7, 2, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}

TEST(the_newest_gaps_are_remembered)
{
    struct sequences s = {0};
    struct losses losses;
    for (uint64_t seq = 0; seq <= 3 * SEQUENCE_GAPS; seq += 3) {
        assert_int_equal(sequence_next(&s, seq, 0, &losses), 0);
    }
    assert_int_equal(sequence_next(&s, 3 * SEQUENCE_GAPS + 3, 0, &losses),
                     0); /* one gap too many */
    assert_int_equal(sequence_next(&s, 1, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 4, 0, &losses), 0);
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(&s, 3 * SEQUENCE_GAPS + 1, 0, &losses), 0);
    assert_int_equal(losses.found, 1);
    sequences_clear(&s);
}

#define FAR (UINT64_C(1) << 62)

TEST(a_forged_number_loses_nothing)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 0, &losses);
    assert_int_equal(sequence_next(&s, FAR, 9, &losses), ERR_SEQ_ORDER);
    assert_false(sequences_goes_on(&s, 0, FAR + SEQUENCE_GAP_MAX + 2));
    assert_int_equal(sequence_next(&s, 1, 0, &losses), 0);
    assert_int_equal(losses.lost + losses.source, 0);
    sequences_clear(&s);
}

TEST(two_forged_numbers_in_a_row_do_not_keep_the_true_ones_out)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 0, &losses);
    assert_int_equal(sequence_next(&s, FAR, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, FAR + 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_false(sequences_passed(&s, 0, 1));
    assert_int_equal(sequence_next(&s, 1, 0, &losses), 0); /* where it was before */
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(&s, 2, 0, &losses), 0);
    /* and with yet another one the true one has to come twice */
    assert_int_equal(sequence_next(&s, FAR + 2, 0, &losses), 0);
    assert_int_equal(sequence_next(&s, FAR / 2, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 3, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 4, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}

TEST(a_forged_first_number_costs_one_message)
{
    struct sequences s = {0};
    struct losses losses;
    assert_int_equal(sequence_next(&s, FAR, 0, &losses), 0);
    assert_int_equal(sequence_next(&s, 0, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(sequence_next(&s, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(sequence_next(&s, 2, 0, &losses), 0);
    sequences_clear(&s);
}

TEST(the_largest_gap_is_a_loss_and_one_more_is_a_jump)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 0, &losses);
    assert_int_equal(sequence_next(&s, 1 + SEQUENCE_GAP_MAX, 0, &losses), 0);
    assert_int_equal(losses.lost, SEQUENCE_GAP_MAX);
    assert_int_equal(sequence_next(&s, 1, 0, &losses), 0); /* the true ones go on in the gap */
    assert_int_equal(losses.found, 1);
    assert_int_equal(sequence_next(&s, 2 + SEQUENCE_GAP_MAX + SEQUENCE_GAP_MAX + 1, 0, &losses),
                     ERR_SEQ_ORDER);
    sequences_clear(&s);
}

TEST(a_forged_count_of_drops_is_not_believed)
{
    struct sequences s = {0};
    struct losses losses;
    sequence_next(&s, 0, 3, &losses);
    assert_int_equal(sequence_next(&s, 1, FAR, &losses), 0);
    assert_int_equal(losses.source, 0);
    assert_int_equal(sequence_next(&s, 2, 5, &losses), 0);
    assert_int_equal(losses.source, 2);
    sequences_clear(&s);
}

TEST(a_jump_is_no_loss_of_those_who_missed_it)
{
    struct sequences s = {0}, older = {0};
    struct losses losses;
    sequence_next(&older, 0, 0, &losses);
    sequence_next(&s, 0, 0, &losses);
    sequence_next(&s, FAR, 0, &losses);
    sequence_next(&s, FAR + 1, 0, &losses);
    assert_int_equal(sequences_since(&s, &older), 0);
    sequences_clear(&s);
    sequences_clear(&older);
}

TEST(ranks_are_counted_apart)
{
    struct sequences s = {0};
    struct losses losses = {0};
    assert_int_equal(sequences_next(&s, 300, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(&s, 2, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(&s, 300, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}
