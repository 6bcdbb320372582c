/* SPDX-License-Identifier: MIT */
/* Alerts that outlive a window: those that are told later, those in checkpoints, and an oracle that
 * knows all windows. */
#include "tests/unit/daemon/alerts/fixture.h"

#include "tests/unit/heap.h"

/* Floods */

ALERTS_TEST(what_is_beyond_the_limit_is_told_with_later_windows)
{
    start_mine(f, ENTROPY "below: 0.5, each: head");
    double entropies[10];
    set_limit(f, 4);
    for (int h = 0; h < 10; h++) {
        entropies[h] = 0.1;
    }
    give(f, 10, entropies);
    assert_int_equal(f->count, 4);
    assert_int_equal(f->held_back, 6);
    entropies[4] = 0.9; /* resolved before it was told: never told */
    give(f, 10, entropies);
    assert_int_equal(f->count, 8);
    assert_int_equal(f->told[4].head, 5);
    assert_int_equal(f->held_back, 6); /* each is counted once */
    give(f, 10, entropies);
    assert_int_equal(f->count, 9);
    f->seen = f->count;
    for (int h = 0; h < 10; h++) {
        entropies[h] = 0.9;
    }
    for (int window = 0; window < 3; window++) {
        give(f, 10, entropies);
    }
    assert_int_equal(f->count, 18);
    for (int i = 9; i < 18; i++) {
        assert_int_equal(f->told[i].state, ALERT_RESOLVED);
    }
    assert_int_equal(f->held_back, 6 + 5);
    f->seen = f->count;
}

/* An oracle: judges a whole history of values from its beginning, for each capture anew. */

struct oracle {
    enum rule_condition condition;
    double bound, clear;
    uint32_t within, times;
    bool after_clear;
};

/* -1 clear, 0 neither, 1 holds, 2 cannot be told. */
static int alerts_look(const struct oracle *o, const double *numbers, uint32_t index)
{
    double x = numbers[index];
    if (o->condition > RULE_ABOVE) {
        if (index < o->within) {
            return 2;
        }
        double then = numbers[index - o->within];
        if (o->condition == RULE_GROWS_BY && !(then > 0)) {
            return 2;
        }
        x = o->condition == RULE_GROWS_BY   ? x / then
            : o->condition == RULE_FALLS_BY ? then - x
                                            : x - then;
    }
    if (o->condition == RULE_BELOW) {
        return x < o->bound ? 1 : x >= o->clear ? -1 : 0;
    }
    return x > o->bound ? 1 : x <= o->clear ? -1 : 0;
}

static bool oracle_fires(const struct oracle *o, const double *history, uint32_t count)
{
    double numbers[512];
    uint32_t used = 0, row = 0;
    bool firing = false, armed = !o->after_clear;
    for (uint32_t i = 0; i < count; i++) {
        if (!isnan(history[i])) {
            numbers[used++] = history[i];
        }
    }
    for (uint32_t i = 0; i < used; i++) {
        int verdict = alerts_look(o, numbers, i);
        if (verdict == 2) {
            continue;
        }
        row = verdict == -1 ? 0 : row + (verdict == 1 && armed);
        armed = armed || verdict == -1;
        firing = verdict == -1 ? false : firing || row >= o->times;
    }
    return firing;
}

static double random_thousandth(void)
{
    return (double)(rand() % 1001) / 1000;
}

static struct oracle random_rule(char *ret_body)
{
    struct oracle o = {.condition = (enum rule_condition)(rand() % RULE_CONDITION_COUNT),
                       .bound = 0.3 + 0.1 * (rand() % 4),
                       .within = 1,
                       .times = 1u + (uint32_t)(rand() % 3),
                       .after_clear = rand() % 2};
    if (o.condition > RULE_ABOVE) {
        o.within = 1u + (uint32_t)(rand() % 5);
    }
    if (o.condition == RULE_GROWS_BY) {
        o.bound += 1;
    }
    o.clear = o.condition == RULE_BELOW ? o.bound + 0.1 : o.bound - 0.1;
    int used = sprintf(ret_body,
                       ENTROPY "each: head, %s: %.17g, clear: %.17g, for: %u, "
                               "after_clear: %s",
                       rule_condition_name(o.condition), o.bound, o.clear, (unsigned)o.times,
                       o.after_clear ? "true" : "false");
    if (o.condition > RULE_ABOVE) {
        sprintf(ret_body + used, ", within: %u", (unsigned)o.within);
    }
    return o;
}

/* Whether the newest event of a head says firing. */
static bool was_told(const struct alerts_fixture *f, int head)
{
    for (uint32_t i = f->count; i-- > 0;) {
        if (f->told[i].head == head) {
            return f->told[i].state == ALERT_FIRING;
        }
    }
    return false;
}

ALERTS_TEST(random_histories_agree_with_an_oracle_across_restarts)
{
    enum { HEADS = 3, WINDOWS = 60 };
    static double history[HEADS][WINDOWS];
    srand(7);
    for (int round = 0; round < 150; round++) {
        char body[256];
        struct oracle o = random_rule(body);
        start_mine(f, body);
        for (uint32_t w = 0; w < WINDOWS; w++) {
            double entropies[HEADS];
            for (int h = 0; h < HEADS; h++) {
                entropies[h] = history[h][w] = rand() % 8 == 0 ? NONE : random_thousandth();
            }
            give(f, HEADS, entropies);
            for (int h = 0; h < HEADS; h++) {
                assert_int_equal(was_told(f, h), oracle_fires(&o, history[h], w + 1));
            }
            if (rand() % 10 == 0) {
                save_and_restore(f);
            }
        }
        f->seen = f->count;
        alerts_stop(f);
    }
}

static void count_unjudged(void *data, const struct rule *rule)
{
    (void)rule;
    ++*(uint32_t *)data;
}

ALERTS_TEST(a_check_passes_when_it_could_have_fired_and_as_long_as_its_numbers_are_new)
{
    alerts_start(f, "  thrice: {" ENTROPY "below: 0.1, for: 3}\n"
                    "  falls: {" ENTROPY "falls_by: 0.5, within: 2}\n");
    for (uint32_t window = 1; window <= 16; window++) {
        uint32_t unjudged = 0, judged = window < 3 || window > 8 ? 0 : 2;
        double entropy = window > 4 ? NONE : 0.5;
        give(f, 2, (double[]){entropy, entropy});
        assert_int_equal(alerts_unjudged(f->alerts, count_unjudged, &unjudged), judged);
        assert_int_equal(unjudged, 2 - judged);
        if (window == 4) {
            save_and_restore(f);
        }
    }
}

/* Checkpoints */

ALERTS_TEST(a_restart_tells_nothing_twice_and_resolves)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, for: 2}\n"
                    "  all: {" ENTROPY "below: 0.5, each: run}\n");
    uint64_t epoch, step;
    save_and_restore(f);
    assert_false(alerts_judged_to(f->alerts, &epoch, &step));
    give(f, 2, (double[]){0.1, 0.1});
    save_and_restore(f);
    give(f, 2, (double[]){0.15, 0.05});
    f->seen = f->count;
    assert_int_equal(f->count, 2);
    save_and_restore(f);
    assert_true(alerts_judged_to(f->alerts, &epoch, &step) && epoch == 1);
    alerts_each(f->alerts, &f->sink);
    expect_firing(f, OF_LAYER
                  " (mean of its heads, head 1 has the lowest) is 0.1, below 0.5 for 2 captures");
    expect_firing(f, "entropy_normalized of the run (mean of its heads) is 0.1, below 0.5 for 2 "
                     "captures");
    give(f, 2, (double[]){0.1, 0.1});
    expect_silence(f);
    give(f, 2, (double[]){0.9, 0.9});
    const struct told *told =
        alerts_expect(f, ALERT_RESOLVED, OF_LAYER " is 0.9, no longer below 0.5 (clear at 0.55)");
    assert_int_equal(told->since_after, ALERT_FROM_START);
    expect_resolved(f, "entropy_normalized of the run (mean of its heads) is 0.9, no longer below "
                       "0.5 (clear at 0.55)");
}

ALERTS_TEST(what_was_saved_under_another_rule_is_left_out)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5}\n  other: {" ENTROPY "below: 0.6}\n");
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    give(f, 1, (double[]){0.1});
    f->seen = f->count;
    mpk_writer_init(&writer);
    alerts_pack(f->alerts, &writer);
    alerts_stop(f);
    alerts_start(f, "  mine: {" ENTROPY "below: 0.4}\n  other: {" ENTROPY
                    "below: 0.6, severity: info}\n");
    assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size), 0);
    alerts_each(f->alerts, &f->sink);
    assert_int_equal(f->count, 1);
    assert_string_equal(f->told[0].rule, "other");
    f->seen = f->count;
}

ALERTS_TEST(a_damaged_checkpoint_is_refused_or_harmless)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head}\n"
                    "  rate: {" ENTROPY "falls_by: 0.3, within: 3}\n");
    struct mpk_writer writer;
    give(f, 2, (double[]){0.1, 0.9});
    give(f, 2, (double[]){0.1, 0.2});
    f->seen = f->count;
    mpk_writer_init(&writer);
    assert_int_equal(alerts_pack(f->alerts, &writer), 0);
    for (size_t size = 0; size < writer.buffer.size; size++) {
        assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, size), ERR_STORE_FORMAT);
        alerts_each(f->alerts, &f->sink);
        expect_silence(f);
    }
    for (size_t at = 0; at < writer.buffer.size; at++) {
        char kept = writer.buffer.data[at];
        for (int value = 0; value < 256; value += 5) {
            writer.buffer.data[at] = (char)value;
            int code = alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size);
            assert_true(code == 0 || code == ERR_STORE_FORMAT);
        }
        writer.buffer.data[at] = kept;
    }
    assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size), 0);
    mpk_writer_clear(&writer);
    f->seen = f->count;
}

ALERTS_TEST(a_quiet_run_packs_to_twenty_one_bytes_per_head)
{
    start_mine(f, ENTROPY "above: 0.99, clear: 0.9, after_clear: true, each: head");
    double entropies[HEADS_MAX];
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    for (int h = 0; h < HEADS_MAX; h++) {
        entropies[h] = 0.5;
    }
    give(f, HEADS_MAX, entropies);
    mpk_writer_init(&writer);
    alerts_pack(f->alerts, &writer);
    assert_in_range(writer.buffer.size, 1, 274 + 20 * HEADS_MAX);
}

/* Memory */

ALERTS_TEST(out_of_memory_is_survived)
{
    for (unsigned nth = 1; nth < 40; nth++) {
        alerts_start(f, "  a: {" ENTROPY "below: 0.5, each: head}\n"
                        "  b: {" ENTROPY "falls_by: 0.5, each: run}\n");
        struct alerts_window w;
        struct mpk_writer writer;
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.1, 0.1});
        struct alert_run run = {.common = alerts_common_of(f)};
        heap_fail_at(nth);
        struct alerts *alerts = alerts_new(&f->config, "gpt");
        int code = alerts ? alerts_layer(alerts, &w.summary, ALERTS_OF_ALL, &f->sink) : 0;
        int run_code = alerts ? alerts_run(alerts, &run, &f->sink) : 0;
        mpk_writer_init(&writer);
        int pack_code = alerts ? alerts_pack(alerts, &writer) : 0;
        heap_fail_at(0);
        assert_true(code == 0 || code == ERR_MEMORY);
        assert_true(run_code == 0 || run_code == ERR_MEMORY);
        assert_true(pack_code == 0 || pack_code == ERR_MEMORY);
        if (alerts && pack_code == 0) {
            heap_fail_at(nth);
            int unpacked = alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size);
            heap_fail_at(0);
            assert_true(unpacked == 0 || unpacked == ERR_MEMORY);
        }
        mpk_writer_clear(&writer);
        alerts_free(&alerts);
        f->seen = f->count;
        alerts_stop(f);
    }
}
