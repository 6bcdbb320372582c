/* SPDX-License-Identifier: MIT */
/* When rules fire and are resolved, and the words that tell it. */
#include "tests/unit/daemon/alerts/fixture.h"

/* Bounds */

ALERTS_TEST(a_rule_fires_after_its_captures_and_is_resolved_at_clear)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 3, severity: critical, each: head");
    is_quiet(f, 0.5);
    is_quiet(f, 0.09);
    is_quiet(f, 0.08);
    const struct told *told = fires(f, 0.04, OF_HEAD(0) "0.04, below 0.1 for 3 captures");
    assert_string_equal(told->rule, "mine");
    assert_int_equal(told->severity, ALERT_CRITICAL);
    assert_int_equal(told->head, 0);
    assert_true(told->value == 0.04 && told->bound == 0.1);
    assert_int_equal(told->epoch, 3);
    assert_int_equal(told->since_after, 0);
    assert_int_equal(told->since_step, 10);
    is_quiet(f, 0.01);
    is_quiet(f, 0.15);
    told = resolves(f, 0.2, OF_HEAD(0) "0.2, no longer below 0.1 (clear at 0.2)");
    assert_true(told->value == 0.2 && told->bound == 0.1);
    assert_int_equal(told->since_after, 0);
    is_quiet(f, 0.3);
}

/* Windows end at steps 0, 10, 20, ...: one that passes says that all was well up to the end of the
 * one before it. */
ALERTS_TEST(an_alert_began_between_the_last_that_passed_and_the_first_that_failed)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, each: head, for: 2");
    is_quiet(f, 0.5);
    is_quiet(f, 0.5); /* step 10: well up to 0 */
    is_quiet(f, 0.05);
    is_quiet(f, 0.2);  /* step 30: well up to 20, a new row */
    is_quiet(f, NONE); /* says nothing */
    is_quiet(f, 0.05); /* step 50 */
    save_and_restore(f);
    const struct told *told = fires(f, 0.05, OF_HEAD(0) "0.05, below 0.1 for 2 captures");
    assert_int_equal(told->since_after, 20);
    assert_int_equal(told->since_step, 50);
    is_quiet(f, 0.15); /* between bound and clear it goes on as the same */
    told = resolves(f, 0.3, OF_HEAD(0) "0.3, no longer below 0.1 (clear at 0.2)");
    assert_int_equal(told->since_after, 20);
    assert_int_equal(told->since_step, 50);
    is_quiet(f, 0.05);
    told = fires(f, 0.05, OF_HEAD(0) "0.05, below 0.1 for 2 captures");
    assert_int_equal(told->since_after, 70);
    assert_int_equal(told->since_step, 90);
}

ALERTS_TEST(a_value_between_bound_and_clear_neither_counts_nor_ends_what_counts)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 2");
    is_quiet(f, 0.05);
    is_quiet(f, 0.2);
    is_quiet(f, 0.05);
    is_quiet(f, 0.15);
    const struct told *told = fires(f, 0.06, OF_LAYER " is 0.06, below 0.1 for 2 captures");
    assert_int_equal(told->since_after, 0);
    assert_int_equal(told->since_step, 20);
}

ALERTS_TEST(a_bound_itself_is_not_beyond_it)
{
    start_mine(f, "metric: max_logit, above: 10, clear: 10, each: head");
    f->metric = METRIC_MAX_LOGIT;
    is_quiet(f, 10);
    fires(f, 10.5, "max_logit of decoder.3.self head 0 is 10.5, above 10");
    resolves(f, 10, "max_logit of decoder.3.self head 0 is 10, no longer above 10 (clear at 10)");
}

ALERTS_TEST(an_infinite_value_is_beyond_every_bound)
{
    start_mine(f, "metric: max_logit, above: 10, each: head");
    f->metric = METRIC_MAX_LOGIT;
    fires(f, INFINITY, "max_logit of decoder.3.self head 0 is inf, above 10");
}

ALERTS_TEST(a_number_that_does_not_exist_changes_nothing)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 2");
    is_quiet(f, 0.05);
    is_quiet(f, NONE);
    fires(f, 0.05, OF_LAYER " is 0.05, below 0.1 for 2 captures");
    is_quiet(f, NONE);
}

ALERTS_TEST(a_rule_that_counts_only_after_clear_ignores_the_beginning)
{
    start_mine(f, ENTROPY "above: 0.9, clear: 0.7, after_clear: true, each: head");
    is_quiet(f, 0.99);
    is_quiet(f, 0.8);
    is_quiet(f, 0.99);
    is_quiet(f, 0.7);
    fires(f, 0.95, OF_HEAD(0) "0.95, above 0.9");
}

/* Rates */

ALERTS_TEST(a_fall_is_measured_against_captures_ago)
{
    start_mine(f, ENTROPY "falls_by: 0.3, clear: 0.1, within: 2, each: head");
    is_quiet(f, 0.9);
    is_quiet(f, 0.5); /* nothing to compare with yet */
    is_quiet(f, 0.65);
    const struct told *told =
        fires(f, 0.1, OF_HEAD(0) "0.1, 0.4 lower than 2 captures ago, more than 0.3");
    assert_true(fabs(told->value - 0.4) < 1e-12 && told->bound == 0.3);
    is_quiet(f, 0.45); /* 0.2 lower: neither */
    resolves(f, 0.05,
             OF_HEAD(0) "0.05, 0.05 lower than 2 captures ago, no longer more than 0.3 (clear at "
                        "0.1)");
}

ALERTS_TEST(a_rise_is_a_fall_upwards)
{
    start_mine(f, ENTROPY "rises_by: 0.3, each: head");
    is_quiet(f, 0.1);
    fires(f, 0.5, OF_HEAD(0) "0.5, 0.4 higher than 1 capture ago, more than 0.3");
}

ALERTS_TEST(growth_is_a_ratio_to_something_positive)
{
    start_mine(f, "metric: max_logit, grows_by: 3, each: head, for: 2");
    f->metric = METRIC_MAX_LOGIT;
    const double values[] = {0, 5, -2, 4, 1, 4};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        is_quiet(f, values[i]);
    }
    fires(f, 13,
          "max_logit of decoder.3.self head 0 is 13, 3.25 times what it was 1 capture ago, more "
          "than 3 for 2 captures");
}

ALERTS_TEST(captures_without_a_number_are_none_for_a_rate)
{
    start_mine(f, ENTROPY "falls_by: 0.3, within: 1, each: head");
    is_quiet(f, 0.9);
    is_quiet(f, NONE);
    fires(f, 0.5, OF_HEAD(0) "0.5, 0.4 lower than 1 capture ago, more than 0.3");
}

/* Scope */

ALERTS_TEST(heads_are_judged_one_by_one)
{
    start_mine(f, ENTROPY "below: 0.1, each: head");
    give(f, 3, (double[]){0.5, 0.05, 0.5});
    expect_firing(f, OF_HEAD(1) "0.05, below 0.1");
    give(f, 3, (double[]){0.5, 0.5, 0.04});
    expect_resolved(f, OF_HEAD(1) "0.5, no longer below 0.1 (clear at 0.11)");
    assert_int_equal(alerts_expect(f, ALERT_FIRING, OF_HEAD(2) "0.04, below 0.1")->head, 2);
}

ALERTS_TEST(a_layer_is_the_mean_of_its_heads_that_have_a_number)
{
    start_mine(f, ENTROPY "below: 0.3");
    give(f, 3, (double[]){0.5, NONE, 0.1});
    expect_silence(f);
    give(f, 3, (double[]){0.4, NONE, 0.1});
    const struct told *told = alerts_expect(
        f, ALERT_FIRING, OF_LAYER " (mean of its heads, head 2 has the lowest) is 0.25, below 0.3");
    assert_int_equal(told->head, -1);
}

ALERTS_TEST(of_a_layer_the_largest_max_and_the_smallest_min_count)
{
    alerts_start(f, "  high: {metric: max_abs_logit, statistic: max, above: 10}\n"
                    "  low: {metric: max_abs_logit, statistic: min, below: 2}\n");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_MAX_ABS_LOGIT, 2, (double[]){5, 5});
    w.stat[0].max = 12, w.stat[1].max = 3;
    w.stat[0].min = 3, w.stat[1].min = 1;
    window_fires(f, &w,
                 "max of max_abs_logit of decoder.3.self (largest of its heads, head 0 has the "
                 "highest) is 12, above 10");
    expect_firing(f,
                  "min of max_abs_logit of decoder.3.self (smallest of its heads, head 1 has the "
                  "lowest) is 1, below 2");
}

ALERTS_TEST(a_run_is_the_mean_over_its_layers_at_the_end_of_a_window)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.3, each: run}\n"
                    "  sinks: {metric: sink_rate, above: 0.5, each: run}\n");
    struct result_stat sinks = {.mean = 1, .count = 1};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.4, 0.4});
    alerts_layer(f->alerts, &w.summary, ALERTS_OF_ALL, &f->sink);
    w.summary.layer.id.layer = 4;
    w.stat[0].mean = w.stat[1].mean = 0.1;
    w.summary.sink_rate = &sinks;
    alerts_layer(f->alerts, &w.summary, ALERTS_OF_ALL, &f->sink);
    expect_silence(f);
    end_window(f);
    const struct told *told = alerts_expect(
        f, ALERT_FIRING, "entropy_normalized of the run (mean of its heads) is 0.25, below 0.3");
    assert_false(told->has_layer);
    assert_int_equal(told->head, -1);
    expect_firing(f, "sink_rate of the run (mean of its layers) is 1, above 0.5");
    end_window(f); /* a window without layers changes nothing */
}

ALERTS_TEST(patterns_choose_layers_and_jobs)
{
    alerts_start(f, "  a: {" ENTROPY "below: 0.1, layer: 'decoder.[0-2].*'}\n"
                    "  b: {" ENTROPY "below: 0.1, job: 'bert*'}\n"
                    "  c: {" ENTROPY "below: 0.1, layer: '*.self', job: 'g?t'}\n");
    struct alerts_window w;
    assert_string_equal(fires(f, 0.05, OF_LAYER " is 0.05, below 0.1")->rule, "c");
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0.05});
    w.summary.layer.id = (struct layer_id){STACK_DECODER, 2, SITE_CROSS};
    give_window(f, &w);
    const struct told *told =
        alerts_expect(f, ALERT_FIRING, "entropy_normalized of decoder.2.cross is 0.05, below 0.1");
    assert_string_equal(told->rule, "a");
    assert_int_equal(told->layer.layer, 2);
}

ALERTS_TEST(rules_that_are_off_are_not_judged)
{
    start_mine(f, ENTROPY "below: 0.5, enabled: false");
    is_quiet(f, 0.01);
    alerts_stop(f);
    start_mine(f, ENTROPY "below: 0.5");
    f->config.alerts_enabled = false;
    set_limit(f, 20); /* begins anew */
    is_quiet(f, 0.01);
}

ALERTS_TEST(another_number_of_heads_begins_anew)
{
    start_mine(f, ENTROPY "below: 0.1, for: 2, each: head");
    give(f, 1, (double[]){0.05});
    give(f, 2, (double[]){0.05, 0.05});
    expect_silence(f);
}

/* Numbers */

ALERTS_TEST(every_statistic_is_the_one_it_says)
{
    static const struct {
        const char *name, *text; /* as in a rule, and in a message */
        double bound, expected;
    } statistics[] = {
        {"mean", "", 0, 0.1},
        {"std", "std of ", 0, 0.2},
        {"min", "min of ", 0, 0.3},
        {"max", "max of ", 0, 0.4},
        {"p10", "p10 of ", 0, 0.45},
        {"p50", "p50 of ", 0, 0.5},
        {"p90", "p90 of ", 0, 0.6},
        {"p99", "p99 of ", 0, 0.7},
        {"last", "last of ", 0, 0.8},
        {"delta", "delta of ", -0.5, -0.25},
        {"js", "js of ", 0, 0.5},
        {"shift", "shift of ", -0.5, -0.125},
        {"abs_shift", "|shift| of ", 0, 0.125},
    };
    for (size_t i = 0; i < sizeof statistics / sizeof statistics[0]; i++) {
        char body[128], text[128];
        struct alerts_window w;
        snprintf(body, sizeof body, ENTROPY "above: %g, each: head, statistic: %s",
                 statistics[i].bound, statistics[i].name);
        start_mine(f, body);
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0.1});
        w.stat[0] = (struct result_stat){0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 5};
        w.drift[0] = (struct result_drift){-0.25, -0.125, 0.5, NONE};
        w.summary.drift[METRIC_ENTROPY_NORMALIZED] = w.drift;
        give_window(f, &w);
        snprintf(text, sizeof text, "%s" OF_HEAD(0) "%g, above %g", statistics[i].text,
                 statistics[i].expected, statistics[i].bound);
        assert_true(alerts_expect(f, ALERT_FIRING, text)->value == statistics[i].expected);
        alerts_stop(f);
    }
}

ALERTS_TEST(a_head_without_values_or_drift_has_no_number)
{
    alerts_start(f, "  a: {" ENTROPY "below: 0.5, each: head}\n"
                    "  b: {" ENTROPY "statistic: abs_shift, above: 1, each: head}\n");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0});
    w.stat[0].count = 0;
    window_is_quiet(f, &w);
    w.summary.stat[METRIC_ENTROPY_NORMALIZED] = NULL;
    window_is_quiet(f, &w);
}

ALERTS_TEST(per_key_divides_by_the_keys_of_the_newest_message)
{
    start_mine(f, "metric: effective_rank, per_key: true, below: 0.1, each: head");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_EFFECTIVE_RANK, 1, (double[]){4});
    w.summary.layer.shape[3] = 0;
    window_is_quiet(f, &w);
    w.summary.layer.shape[3] = 50;
    window_fires(f, &w, "effective_rank per key of decoder.3.self head 0 is 0.08, below 0.1");
}

ALERTS_TEST(unsound_rows_are_a_share_of_all)
{
    start_mine(f, "metric: invalid_share, above: 0");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 1, (double[]){1});
    window_is_quiet(f, &w);
    w.summary.layer.invalid_rows = 300;
    window_fires(f, &w, "invalid_share of decoder.3.self is 0.75, above 0");
    w.summary.layer.rows = w.summary.layer.invalid_rows = 0;
    window_is_quiet(f, &w); /* no rows: no number */
    w.summary.layer.rows = 1;
    give_window(f, &w);
    expect_resolved(f, "invalid_share of decoder.3.self is 0, no longer above 0 (clear at 0)");
}

ALERTS_TEST(row_sums_are_not_judged_after_dropout)
{
    start_mine(f, "metric: row_sum_error, above: 0.01");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 1, (double[]){1});
    w.summary.layer.row_sum_error = 0.4;
    window_is_quiet(f, &w); /* all rows are sound, so sums were not judged */
    w.summary.layer.row_sum_error = 0.015;
    window_fires(f, &w, "row_sum_error of decoder.3.self is 0.015, above 0.01");
    w.summary.layer.row_sum_error = 0;
    give_window(f, &w);
    expect_resolved(f,
                    "row_sum_error of decoder.3.self is 0, no longer above 0.01 (clear at 0.009)");
    w.summary.layer.row_sum_error = 0.4;
    w.summary.layer.invalid_rows = 1;
    window_fires(f, &w, "row_sum_error of decoder.3.self is 0.4, above 0.01");
}

ALERTS_TEST(redundancy_is_a_share_of_the_pairs)
{
    start_mine(f, "metric: redundant_share, above: 0.5");
    const double js[16] = {0};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 4, (double[]){1, 1, 1, 1});
    w.summary.similarity.redundant_total = 4;
    window_is_quiet(f, &w); /* not measured */
    w.summary.similarity.js = js;
    window_fires(f, &w, "redundant_share of decoder.3.self is 0.6667, above 0.5");
    w.summary.heads = 1; /* has no pair */
    window_is_quiet(f, &w);
}

ALERTS_TEST(sink_rate_has_statistics)
{
    start_mine(f, "metric: sink_rate, statistic: p90, above: 0.5");
    struct result_stat rate = {.mean = 0.1, .p90 = 0.75, .count = 9};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_FIRST_TOKEN, 1, (double[]){0});
    w.summary.sink_rate = &rate;
    window_fires(f, &w, "p90 of sink_rate of decoder.3.self is 0.75, above 0.5");
}

/* Heads that do induction look at one key as well: only the numbers of tokens tell. */
ALERTS_TEST(without_token_numbers_saturation_is_at_most_a_warning)
{
    struct result_stat induction[2] = {{.mean = 0.1, .count = 1}, {.mean = 0.1, .count = 1}};
    alerts_start(f, "  layer: {metric: saturated_entropy, below: 0.5, severity: critical}\n"
                    "  other: {metric: entropy_sans_first, below: 0.15, severity: critical}\n");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY_SANS_FIRST, 2, (double[]){0.05, 0.05});
    give_window(f, &w);
    assert_int_equal(
        alerts_expect(f, ALERT_FIRING,
                      "saturated_entropy of decoder.3.self is 0.05, below 0.5; or it is induction, "
                      "which token numbers would tell (tokens=)")
            ->severity,
        ALERT_WARNING);
    assert_int_equal(
        alerts_expect(f, ALERT_FIRING, "entropy_sans_first of decoder.3.self is 0.05, below 0.15")
            ->severity,
        ALERT_CRITICAL);
    OWNED(mpk_writer_clear) struct mpk_writer kept;
    mpk_writer_init(&kept);
    assert_int_equal(alerts_pack(f->alerts, &kept), 0);
    assert_int_equal(alerts_unpack(f->alerts, kept.buffer.data, kept.buffer.size), 0);
    for (int i = 0; i < 2; i++) { /* the worst comes first */
        alerts_each(f->alerts, &f->sink);
        assert_string_equal(f->told[f->seen++].rule, i ? "layer" : "other");
        assert_string_equal(f->told[f->seen++].rule, i ? "other" : "layer");
        w.summary.stat[METRIC_INDUCTION] = induction;
        give_window(f, &w);
    }
}

/* The run */

ALERTS_TEST(losses_are_a_share_of_all_messages)
{
    start_mine(f, "metric: lost_share, above: 0.25, clear: 0.1");
    give_run(f, 75, 20, 5);
    expect_silence(f);
    give_run(f, 70, 20, 10);
    const struct told *told = alerts_expect(
        f, ALERT_FIRING,
        "lost_share of the messages since the run was last judged is 0.3, above 0.25");
    assert_false(told->has_layer);
    assert_int_equal(told->head, -1);
    give_run(f, 0, 0, 0);
    expect_silence(f);
    give_run(f, 100, 0, 0);
    expect_resolved(f, "lost_share of the messages since the run was last judged is 0, no longer "
                       "above 0.25 (clear at 0.1)");
}

ALERTS_TEST(silence_is_told_and_resolved)
{
    start_mine(f, "metric: silence, above: 60");
    is_silent_for(f, 60);
    expect_silence(f);
    is_silent_for(f, 61);
    expect_firing(f, "the run is silent: nothing has been heard of it for 61 s, more than 60 s");
    is_silent_for(f, 600);
    end_window(f); /* windows say nothing about it */
    expect_silence(f);
    is_silent_for(f, 0);
    expect_resolved(f, "the run has been heard of again");
}

ALERTS_TEST(what_fires_at_the_end_stays_as_it_is)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head, for: 2}\n"
                    "  quiet: {metric: silence, above: 60}\n");
    const char *text = OF_HEAD(0) "0.2, below 0.5 for 2 captures, when the run ended";
    give(f, 2, (double[]){0.1, 0.9});
    give(f, 2, (double[]){0.2, 0.9});
    expect_firing(f, OF_HEAD(0) "0.2, below 0.5 for 2 captures");
    is_silent_for(f, 100);
    expect_firing(f, "the run is silent: nothing has been heard of it for 100 s, more than 60 s");
    end_run(f, true);
    expect_resolved(f, "the run has been heard of again"); /* by its bye */
    const struct told *told = alerts_expect(f, ALERT_FIRING_AT_END, text);
    assert_true(told->value == 0.2 && told->bound == 0.5);
    assert_int_equal(told->epoch, 2);
    assert_int_equal(told->since_after, ALERT_FROM_START);
    end_run(f, true);
    expect_silence(f); /* it is told once */
    for (int restart = 0; restart < 2; restart++) {
        alerts_each(f->alerts, &f->sink);
        told = alerts_expect(f, ALERT_FIRING_AT_END, text);
        assert_true(told->value == 0.2 && told->bound == 0.5 && told->since_step == 0);
        expect_silence(f);
        save_and_restore(f);
    }
}

ALERTS_TEST(an_idle_run_that_goes_on_tells_anew)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head}\n"
                    "  quiet: {metric: silence, above: 60}\n");
    give(f, 2, (double[]){0.1, 0.2});
    is_silent_for(f, 600);
    f->seen = f->count;
    end_run(f, false);
    for (int h = 0; h < 2; h++) {
        assert_int_equal(f->told[f->seen].head, h);
        assert_int_equal(f->told[f->seen++].state, ALERT_FIRING_AT_END);
    }
    expect_silence(f); /* silence fires on */
    give(f, 2, (double[]){0.3, 0.9});
    expect_firing(f, OF_HEAD(0) "0.3, below 0.5 for 2 captures");
    expect_resolved(f, OF_HEAD(1) "0.9, no longer below 0.5 (clear at 0.55)");
    is_silent_for(f, 0);
    expect_resolved(f, "the run has been heard of again");
}

ALERTS_TEST(the_end_tells_at_most_so_many_that_were_never_told)
{
    start_mine(f, ENTROPY "below: 0.5, each: head");
    set_limit(f, 2);
    give(f, 6, (double[]){0.1, 0.1, 0.1, 0.1, 0.1, 0.1});
    assert_int_equal(f->count, 2);
    end_run(f, true);
    assert_int_equal(f->count, 2 + 2 + 2); /* the two that were told, and two more */
    alerts_each(f->alerts, &f->sink);
    assert_int_equal(f->count, 6 + 6);
    assert_int_equal(f->told[11].state, ALERT_FIRING_AT_END);
    f->seen = f->count;
}

ALERTS_TEST(the_rank_that_is_far_from_the_others_is_named)
{
    alerts_start(f,
                 "  mine: {metric: rank_distance, above: 5, for: 2}\n"
                 "  all: {metric: rank_distance, each: run, above: 5, for: 2, severity: info}\n");
    for (int i = 0; i < 3; i++) {
        struct alerts_window w;
        expect_silence(f);
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.5, 0.5});
        w.summary.rank_distance = i == 0 ? NONE : 7.5;
        w.summary.odd_rank = 9;
        give_window(f, &w);
    }
    expect_firing(f, "rank_distance of decoder.3.self (rank 9) is 7.5, above 5 for 2 windows");
    expect_firing(f, "rank_distance of the run (mean of its layers) is 7.5, above 5 for 2 windows");
}

ALERTS_TEST(each_tells_the_worst_first)
{
    alerts_start(f, "  second: {" ENTROPY "below: 0.5, each: head}\n"
                    "  first: {" ENTROPY "below: 0.3, each: layer, severity: critical}\n"
                    "  third: {" ENTROPY "above: 0.05, each: head}\n");
    static const struct {
        const char *rule;
        int32_t head;
    } order[] = {{"first", -1}, {"second", 1}, {"second", 2},
                 {"second", 0}, {"third", 0},  {"third", 2}};
    give(f, 3, (double[]){0.4, 0.05, 0.1});
    f->seen = f->count;
    alerts_each(f->alerts, &f->sink);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        assert_string_equal(f->told[f->seen].rule, order[i].rule);
        assert_int_equal(f->told[f->seen++].head, order[i].head);
    }
    expect_silence(f);
}

ALERTS_TEST(each_tells_what_fires_now)
{
    start_mine(f, ENTROPY "falls_by: 0.25, each: head");
    give(f, 2, (double[]){0.9, 0.9});
    give(f, 2, (double[]){0.9, 0.5});
    f->seen = f->count;
    alerts_each(f->alerts, &f->sink);
    expect_firing(f, OF_HEAD(1) "0.5, 0.4 lower than 1 capture ago, more than 0.25");
}
