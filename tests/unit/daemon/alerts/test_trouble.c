/* SPDX-License-Identifier: MIT */
/* Trouble of heads by hand: each part of the definition with numbers that can be followed. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "tests/unit/daemon/alerts/trouble_fixture.h"
#include "tests/unit/heap.h"

#define NONE ((double)NAN)

static void give_entropy(struct trouble_fixture *f, double entropy)
{
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 1, &entropy);
}

/* The only head that is listed. */
static const struct trouble_head *only(const struct trouble_fixture *f)
{
    assert_int_equal(f->trouble->count, 1);
    assert_float_equal(f->trouble->worst[0].score, f->trouble->score[f->trouble->worst[0].head], 0);
    return &f->trouble->worst[0];
}

static void expect_score(const struct trouble_fixture *f, uint32_t head, double score)
{
    assert_float_equal(f->trouble->score[head], score, 1e-12);
}

#define BELOW "  low: {metric: entropy_normalized, below: 0.1, clear: 0.2, for: 2, each: "

TEST(a_value_between_clear_and_bound_approaches)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer, severity: critical}\n");
    give_entropy(f, 0.5);
    expect_score(f, 0, 0);
    assert_int_equal(f->trouble->count, 0);
    give_entropy(f, 0.15); /* halfway */
    expect_score(f, 0, 0.25);
    const struct trouble_head *head = only(f);
    assert_int_equal(head->state, TROUBLE_APPROACHING);
    assert_string_equal(head->rule, "low");
    assert_string_equal(head->metric, "entropy_normalized");
    assert_string_equal(head->statistic, "mean");
    assert_string_equal(head->condition, "below");
    assert_float_equal(head->value, 0.15, 0);
    assert_float_equal(head->bound, 0.1, 0);
    assert_true(isnan(head->slope) && isnan(head->eta)); /* of two windows */
    assert_int_equal(head->since_epoch, 1);
    assert_int_equal(head->since_step, 10);
    assert_int_equal(head->windows, 1);
    give_entropy(f, 0.1); /* at the bound is not below it */
    expect_score(f, 0, 0.5 * 0.99);
    assert_int_equal(only(f)->windows, 2);
    assert_int_equal(f->events, 0);
    trouble_stop(f);
}

TEST(a_slope_tells_of_a_bound_that_is_not_near_yet)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer}\n");
    const double values[] = {0.9, 0.8, 0.7, 0.6, 0.5};
    for (int i = 0; i < 5; i++) {
        give_entropy(f, values[i]);
    }
    expect_score(f, 0, 0.5 * (1 - 4 / 10.0)); /* 0.4 to go at 0.1 a window */
    const struct trouble_head *head = only(f);
    assert_float_equal(head->slope, -0.1, 1e-12);
    assert_float_equal(head->eta, 4, 1e-9);
    assert_int_equal(head->since_step, 20); /* the first with a slope: 6 windows to go */
    assert_int_equal(head->windows, 3);
    give_entropy(f, 0.9); /* 0.8 0.7 0.6 0.5 0.9 has none towards the bound */
    expect_score(f, 0, 0);
    trouble_stop(f);
}

TEST(a_change_within_the_resolution_is_no_slope)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer}\n");
    give_entropy(f, 0.2049);
    give_entropy(f, 0.2029);
    give_entropy(f, 0.2009); /* 0.004 in all, less than 0.01 */
    expect_score(f, 0, 0);
    give_entropy(f, 0.2); /* clear itself */
    expect_score(f, 0, 0);
    trouble_stop(f);
}

TEST(a_rule_that_fires_scores_its_severity_and_the_held_level)
{
    struct trouble_fixture *f = trouble_start(BELOW "head, severity: critical}\n");
    give_entropy(f, 0.09);
    expect_score(f, 0, 0.5 * 0.99); /* beyond, but not for two windows yet */
    assert_int_equal(only(f)->state, TROUBLE_APPROACHING);
    give_entropy(f, 0.05);
    expect_score(f, 0, 3 + 0.1); /* the milder of the two: (0.1 - 0.09) / 0.1 */
    assert_int_equal(only(f)->state, TROUBLE_FIRING);
    assert_int_equal(only(f)->severity, ALERT_CRITICAL);
    assert_int_equal(only(f)->since_step, 0);
    assert_int_equal(only(f)->windows, 2);
    give_entropy(f, 0);
    give_entropy(f, 0);
    expect_score(f, 0, 3 + 0.5);
    give_entropy(f, 0);
    expect_score(f, 0, 3 + 0.99); /* not the next severity */
    give_entropy(f, 0.15);        /* fires until it is clear */
    expect_score(f, 0, 3);
    assert_int_equal(only(f)->since_step, 0);
    assert_int_equal(only(f)->windows, 6);
    give_entropy(f, 0.2);
    expect_score(f, 0, 0);
    trouble_stop(f);
}

TEST(a_rule_of_a_layer_marks_the_heads_that_cause_it)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer, severity: warning}\n");
    const double heads[] = {0.01, 0.02, 0.15};
    for (int i = 0; i < 2; i++) {
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, 3, heads);
    }
    assert_int_equal(f->events, 1); /* the mean is 0.06 */
    expect_score(f, 0, 2 + 0.9);
    expect_score(f, 1, 2 + 0.8);
    expect_score(f, 2, 0.5 * 0.5); /* itself not beyond */
    assert_int_equal(f->trouble->count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(f->trouble->worst[i].head, i);
    }
    assert_float_equal(f->trouble->worst[0].value, 0.01, 0); /* its own, not the layer's */
    trouble_stop(f);
}

TEST(one_head_beyond_the_bound_of_a_layer_that_is_well_is_watched)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer}\n");
    const double heads[] = {0.5, 0.08, 0.9, 0.6};
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 4, heads);
    expect_score(f, 1, 0.5 + 0.5 * 0.2);
    assert_int_equal(only(f)->state, TROUBLE_BEYOND);
    assert_int_equal(f->events, 0);
    const double later[] = {0.5, 0.3, 0.9, 0.6}; /* one odd window is not held */
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 4, later);
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 4, heads);
    expect_score(f, 1, 0.5 * 0.99);
    assert_int_equal(only(f)->state, TROUBLE_APPROACHING);
    assert_int_equal(only(f)->since_step, 20);
    trouble_stop(f);
}

TEST(distance_without_an_end_counts_in_gaps_of_the_rule)
{
    struct trouble_fixture *f =
        trouble_start("  high: {metric: max_logit, above: 100, clear: 80, severity: info}\n");
    const double logit = 120, more = INFINITY;
    trouble_give(f, METRIC_MAX_LOGIT, 1, &logit);
    expect_score(f, 0, 1 + 0.5); /* 20 / (20 + 20) */
    for (int i = 0; i < 3; i++) {
        trouble_give(f, METRIC_MAX_LOGIT, 1, &more);
    }
    expect_score(f, 0, 1 + 0.99);
    assert_true(isnan(only(f)->eta));
    trouble_stop(f);
}

TEST(after_clear_holds_head_by_head)
{
    struct trouble_fixture *f = trouble_start(
        "  even: {metric: entropy_normalized, above: 0.9, clear: 0.8, after_clear: true}\n");
    const double first[] = {0.99, 0.5}, then[] = {0.99, 0.99};
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 2, first);
    assert_int_equal(f->trouble->count, 0);
    for (int i = 0; i < 3; i++) {
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, 2, then);
    }
    assert_int_equal(f->events, 1);
    expect_score(f, 0, 0); /* never was clear */
    expect_score(f, 1, 2 + 0.9);
    trouble_stop(f);
}

TEST(a_rate_is_weighed_by_each_heads_own_change)
{
    struct trouble_fixture *f = trouble_start("  fall: {metric: entropy_normalized, falls_by: 0.5,"
                                              " clear: 0.25, within: 2, severity: warning}\n");
    const double windows[][2] = {{0.9, 0.9}, {0.8, 0.9}, {0.2, 0.15}};
    for (int i = 0; i < 3; i++) {
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, 2, windows[i]);
    }
    assert_int_equal(f->events, 1);
    expect_score(f, 0, 2 + 0.4); /* fell by 0.7; cannot by more than 1 */
    expect_score(f, 1, 2 + 0.5);
    assert_float_equal(f->trouble->worst[0].value, 0.75, 1e-12);
    assert_string_equal(f->trouble->worst[0].condition, "falls_by");
    trouble_stop(f);
}

TEST(the_worst_rule_counts)
{
    struct trouble_fixture *f =
        trouble_start("  a: {metric: entropy_normalized, below: 0.1, each: head, severity: info}\n"
                      "  b: {metric: max_logit, above: 100, each: head, severity: critical}\n"
                      "  c: {metric: entropy_normalized, below: 0.5, each: head}\n");
    const double entropy[] = {0.01, 0.01, 0.4}, logit[] = {110, 1, 1};
    trouble_begin(f, 3);
    trouble_put(f, METRIC_ENTROPY_NORMALIZED, entropy);
    trouble_put(f, METRIC_MAX_LOGIT, logit);
    trouble_end_window(f);
    assert_int_equal(f->trouble->count, 3);
    assert_string_equal(f->trouble->worst[0].rule, "b");
    assert_string_equal(f->trouble->worst[1].rule, "c");
    assert_int_equal(f->trouble->worst[1].head, 1);
    assert_int_equal(f->trouble->worst[2].head, 2);
    trouble_stop(f);
}

TEST(a_window_without_a_number_changes_nothing)
{
    struct trouble_fixture *f = trouble_start(BELOW "head}\n");
    const double none = NONE;
    for (int i = 0; i < 3; i++) {
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, 1, &none);
        assert_int_equal(f->trouble->count, 0);
    }
    give_entropy(f, 0.05);
    give_entropy(f, 0.05);
    expect_score(f, 0, 2.5);
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 1, &none);
    expect_score(f, 0, 2.5);
    assert_int_equal(only(f)->windows, 2);
    trouble_begin(f, 1); /* not even the metric */
    trouble_end_window(f);
    expect_score(f, 0, 2.5);
    trouble_stop(f);
}

/* Unsound rows */

#define UNSOUND                                                                                    \
    "  bad: {metric: invalid_share, above: 0, severity: critical}\n"                               \
    "  low: {metric: entropy_normalized, below: 0.1, each: head, severity: critical}\n"

static void give_invalid(struct trouble_fixture *f, uint32_t heads, const double *shares,
                         const double *entropy)
{
    trouble_begin(f, heads);
    trouble_put(f, METRIC_ENTROPY_NORMALIZED, entropy);
    trouble_put_invalid(f, shares);
    trouble_end_window(f);
}

TEST(a_head_without_a_sound_row_is_worse_than_any_number)
{
    struct trouble_fixture *f = trouble_start(UNSOUND);
    const double sound[] = {0, 0, 0, 0}, shares[] = {0, 0.25, 0, 1};
    const double entropy[] = {0.5, 0.5, 0, 0.5}, then[] = {0.5, 0.5, 0, NONE};
    for (int i = 0; i < 3; i++) {
        give_invalid(f, 4, sound, entropy);
    }
    expect_score(f, 2, 3 + 0.99);
    assert_int_equal(f->trouble->count, 1);
    give_invalid(f, 4, shares, then); /* at once, whatever went before */
    assert_int_equal(f->trouble->count, 3);
    assert_int_equal(f->trouble->worst[0].head, 3);
    assert_int_equal(f->trouble->worst[1].head, 2);
    expect_score(f, 3, 3 + 0.995);
    expect_score(f, 1, 3); /* held for one window */
    expect_score(f, 0, 0);
    const struct trouble_head *worst = &f->trouble->worst[0];
    assert_string_equal(worst->rule, "bad");
    assert_string_equal(worst->metric, "invalid_share");
    assert_float_equal(worst->value, 1, 0);
    assert_float_equal(worst->bound, 0, 0);
    assert_int_equal(worst->since_step, 30);
    trouble_stop(f);
}

TEST(a_head_with_some_unsound_rows_scores_their_share)
{
    struct trouble_fixture *f = trouble_start(UNSOUND);
    const double shares[] = {0.5, NONE}, entropy[] = {0.5, 0.5}, sound[] = {0, 0};
    for (int i = 0; i < 3; i++) {
        give_invalid(f, 2, shares, entropy);
    }
    expect_score(f, 0, 3 + 0.5);
    expect_score(f, 1, 0);
    assert_int_equal(f->events, 1); /* of the layer */
    assert_true(only(f)->windows == 3 && only(f)->severity == ALERT_CRITICAL);
    give_invalid(f, 2, sound, entropy);
    assert_int_equal(f->trouble->count, 0);
    trouble_stop(f);
}

TEST(a_layer_that_does_not_count_rows_by_head_marks_none)
{
    struct trouble_fixture *f = trouble_start(UNSOUND);
    const double shares[] = {1, 0}, entropy[] = {0.5, 0.5};
    trouble_begin(f, 2);
    trouble_put(f, METRIC_ENTROPY_NORMALIZED, entropy);
    trouble_put_invalid(f, shares);
    f->summary.invalid_share = NULL;
    trouble_end_window(f);
    assert_int_equal(f->events, 1);
    assert_int_equal(f->trouble->count, 0);
    trouble_stop(f);
}

/* Sizes */

TEST(four_thousand_heads_are_ranked)
{
    static double entropy[FIXTURE_HEADS_MAX];
    struct trouble_fixture *f = trouble_start(BELOW "head}\n");
    for (uint32_t h = 0; h < FIXTURE_HEADS_MAX; h++) {
        entropy[h] = h % 2 ? 0.5 : 0.1 * h / FIXTURE_HEADS_MAX;
    }
    for (int i = 0; i < 3; i++) {
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, FIXTURE_HEADS_MAX, entropy);
    }
    assert_int_equal(f->trouble->heads, FIXTURE_HEADS_MAX);
    assert_int_equal(f->trouble->count, FIXTURE_HEADS_MAX / 2);
    for (uint32_t i = 0; i < f->trouble->count; i++) {
        /* the level cannot be told apart above 1.99: then the first head comes first */
        assert_int_equal(f->trouble->worst[i].head, 2 * i);
    }
    trouble_stop(f);
}

TEST(the_end_keeps_what_was_told_and_another_model_begins_anew)
{
    struct trouble_fixture *f = trouble_start(BELOW "layer}\n");
    const double well[] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    trouble_give(f, METRIC_ENTROPY_NORMALIZED, 8, well);
    trouble_end(f->alerts);
    assert_int_equal(trouble_newest(f->alerts, f->summary.layer.id)->heads, 8);
    give_entropy(f, 0.5);
    assert_int_equal(f->trouble->heads, 1);
    trouble_stop(f);
}

/* Checkpoints */

#define FIVE                                                                                       \
    BELOW "layer}\n"                                                                               \
          "  even: {metric: entropy_normalized, above: 0.9, each: head, after_clear: true}\n"      \
          "  fall: {metric: entropy_normalized, falls_by: 0.3, within: 3}\n"                       \
          "  grow: {metric: max_logit, grows_by: 1.5, within: 2, each: head}\n"                    \
          "  bad: {metric: invalid_share, above: 0}\n"

static void give_both(struct trouble_fixture *f, int window)
{
    static const double entropy[][3] = {{0.5, 0.95, NONE},   {0.3, 0.7, NONE},  {0.15, 0.95, 0.4},
                                        {0.05, 0.96, 0.05},  {0.04, 0.5, 0.06}, {0.02, 0.97, 0.01},
                                        {NONE, 0.96, 0.001}, {0.4, 0.95, 0.1}};
    const double logit[] = {10 * pow(1.3, window), 50, 5};
    const double shares[] = {0, window > 2 ? 0.25 : 0, window == 4 ? 1 : 0};
    trouble_begin(f, 3);
    trouble_put(f, METRIC_ENTROPY_NORMALIZED, entropy[window]);
    trouble_put(f, METRIC_MAX_LOGIT, logit);
    trouble_put_invalid(f, shares);
    trouble_end_window(f);
}

static struct mpk_writer packed_trouble(const struct result_trouble *trouble)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    trouble_encode(trouble, &writer);
    assert_true(mpk_writer_ok(&writer));
    return writer;
}

static void assert_same_trouble(const struct result_trouble *a, const struct result_trouble *b)
{
    struct mpk_writer one = packed_trouble(a), other = packed_trouble(b);
    assert_int_equal(one.buffer.size, other.buffer.size);
    assert_memory_equal(one.buffer.data, other.buffer.data, one.buffer.size);
    mpk_writer_clear(&one);
    mpk_writer_clear(&other);
}

/* New alerts with what a checkpoint has of the layer. */
static struct alerts *restored(const struct trouble_fixture *f)
{
    struct alerts *alerts = alerts_new(&f->config, "gpt");
    struct layer_id id = f->summary.layer.id;
    struct mpk_writer cells, trouble;
    mpk_writer_init(&cells);
    mpk_writer_init(&trouble);
    assert_int_equal(alerts_pack(f->alerts, &cells), 0);
    assert_int_equal(trouble_pack(f->alerts, id, &trouble), 0);
    assert_int_equal(alerts_unpack(alerts, cells.buffer.data, cells.buffer.size), 0);
    assert_int_equal(trouble_unpack(alerts, id, trouble.buffer.data, trouble.buffer.size), 0);
    mpk_writer_clear(&cells);
    mpk_writer_clear(&trouble);
    return alerts;
}

TEST(a_restart_after_any_window_changes_nothing)
{
    for (int stop = 1; stop < 8; stop++) {
        struct trouble_fixture *f = trouble_start(FIVE);
        for (int w = 0; w < stop; w++) {
            give_both(f, w);
        }
        struct alerts *kept = f->alerts, *copy = restored(f);
        assert_same_trouble(trouble_newest(copy, f->summary.layer.id), f->trouble);
        for (int w = stop; w < 8; w++) {
            give_both(f, w);
            const struct result_trouble *wanted = f->trouble;
            f->alerts = copy;
            f->window--;
            give_both(f, w);
            assert_same_trouble(f->trouble, wanted);
            f->alerts = kept;
        }
        alerts_free(&copy);
        trouble_stop(f);
    }
}

TEST(a_damaged_checkpoint_is_refused_or_harmless)
{
    struct trouble_fixture *f = trouble_start(FIVE);
    struct layer_id id = {STACK_DECODER, 3, SITE_SELF};
    struct mpk_writer writer;
    int refused = 0;
    for (int w = 0; w < 5; w++) {
        give_both(f, w);
    }
    mpk_writer_init(&writer);
    assert_int_equal(trouble_pack(f->alerts, id, &writer), 0);
    for (size_t i = 0; i < writer.buffer.size; i++) {
        struct alerts *alerts = alerts_new(&f->config, "gpt");
        writer.buffer.data[i] ^= 0x15;
        int code = trouble_unpack(alerts, id, writer.buffer.data, writer.buffer.size);
        assert_true(code == 0 || code == ERR_STORE_FORMAT);
        assert_true(code == 0 || !trouble_newest(alerts, id));
        refused += code != 0;
        writer.buffer.data[i] ^= 0x15;
        code = trouble_unpack(alerts, id, writer.buffer.data, writer.buffer.size - 1 - i);
        assert_int_equal(code, ERR_STORE_FORMAT); /* cut off */
        alerts_free(&alerts);
    }
    assert_true(refused > 100);
    mpk_writer_clear(&writer);
    trouble_stop(f);
}

/* Fails at the first allocation, then at the second, ... until none fails. */
TEST(out_of_memory_is_survived)
{
    bool failed = true;
    for (unsigned nth = 1; failed; nth++) {
        struct trouble_fixture *f = trouble_start(
            BELOW
            "layer}\n"
            "  even: {metric: entropy_normalized, above: 0.9, each: layer, after_clear: true}\n");
        const double heads[] = {0.05, 0.05};
        trouble_begin(f, 2);
        trouble_put(f, METRIC_ENTROPY_NORMALIZED, heads);
        assert_int_equal(alerts_layer(f->alerts, &f->summary, &f->sink), 0);
        heap_fail_at(nth);
        int code = trouble_layer(f->alerts, &f->summary, &f->trouble);
        failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
        trouble_begin(f, 2);
        trouble_end_window(f); /* without the metric */
        trouble_give(f, METRIC_ENTROPY_NORMALIZED, 2, heads);
        assert_int_equal(f->trouble->count, 2);
        trouble_stop(f);
    }
}

TEST(unpacking_out_of_memory_leaves_nothing_and_can_be_done_again)
{
    struct trouble_fixture *f = trouble_start(FIVE);
    struct mpk_writer writer;
    bool failed = true;
    unsigned nth = 0;
    for (int w = 0; w < 5; w++) {
        give_both(f, w);
    }
    const struct layer_id id = f->summary.layer.id;
    mpk_writer_init(&writer);
    assert_int_equal(trouble_pack(f->alerts, id, &writer), 0);
    while (failed) {
        struct alerts *alerts = alerts_new(&f->config, "gpt");
        heap_fail_at(++nth);
        int code = trouble_unpack(alerts, id, writer.buffer.data, writer.buffer.size);
        failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
        if (failed) {
            assert_null(trouble_newest(alerts, id));
        }
        assert_int_equal(trouble_unpack(alerts, id, writer.buffer.data, writer.buffer.size), 0);
        assert_same_trouble(trouble_newest(alerts, id), f->trouble);
        alerts_free(&alerts);
    }
    assert_true(nth > 8); /* the document, the layer, its newest window, cells of five rules */
    mpk_writer_clear(&writer);
    trouble_stop(f);
}
