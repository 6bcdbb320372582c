/* SPDX-License-Identifier: MIT */
/* The loss that a training logs: its curve against a reference that keeps all values, hostile
 * values, and what rules tell of it. */
#include "tests/unit/daemon/alerts/fixture.h"

#include "daemon/alerts/loss.h"

#include <float.h>

static const uint8_t id[RUN_BYTES] = {0xa0, 0xa1};

/* A value of a rank at a step, in the order of its clock. */
static bool take_of(struct loss *loss, uint32_t rank, uint64_t step, uint64_t time_ns,
                    const char *name, double value)
{
    struct named_value one = {
        .name = name, .kind = isfinite(value) ? NAMED_NUMBER : NAMED_NONE, .number = value};
    const struct named_values values = {.list = &one, .count = 1};
    const struct result_common at = {"gpt", id, 0, step, time_ns};
    return loss_take(loss, rank, &at, &values);
}

static void take(struct loss *loss, uint64_t step, double value)
{
    assert_true(take_of(loss, 0, step, step + 1, "loss", value));
}

/* Normal, by the sum of 12 uniform numbers. */
static double random_normal(uint64_t *seed)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        sum += random_unit(seed);
    }
    return sum;
}

/* The reference: says what loss.c says in words, of all values from the first one on, and finds
 * each quantile by counting. */

struct reference {
    double level, best, top, fallen, spread, slow, wander, risen;
};

/* The value that `below` others are not above, of those that are. */
static double reference_rank(const double *values, int count, int below)
{
    for (int i = 0; i < count; i++) {
        int less = 0, same = 0;
        for (int j = 0; j < count; j++) {
            less += values[j] < values[i];
            same += values[j] == values[i];
        }
        if (less <= below && below < less + same) {
            return values[i];
        }
    }
    return NAN;
}

static double reference_median(const double *values, int count)
{
    return reference_rank(values, count, (count - 1) / 2);
}

static double reference_spread(const double *values, int count)
{
    double off[LOSS_KEPT];
    int half = count / 2;
    double old = reference_median(values, half);
    double new = reference_median(values + count - half, half);
    for (int i = 0; i < count; i++) {
        double line = old + (new - old) * (0.5 + (i - (count - 1) / 2.0) / (count - half));
        off[i] = fabs(values[i] - line);
    }
    return 1.4826 * reference_median(off, count);
}

static void reference_take(struct reference *r, const double *values, int count)
{
    int length = count / 8 < 16 ? 16 : count / 8 > 128 ? 128 : count / 8;
    const double *newest = values + count - length;
    r->risen = NAN;
    if (count < 16) {
        return;
    }
    double low = reference_rank(newest, length, (length - 1) / 4);
    double high = reference_rank(newest, length, length - 1 - (length - 1) / 4);
    double spread_now = reference_spread(newest, length);
    r->level = reference_median(newest, length);
    if (count == 16) {
        *r = (struct reference){r->level, r->level,   fmax(r->level, reference_median(newest, 8)),
                                0,        spread_now, r->level,
                                0,        NAN};
    }
    r->best = r->level < r->best ? r->level : r->best;
    r->fallen = fmax(r->fallen, r->top - r->level);
    double spread = fmax(r->spread, r->wander), pace = fmax(4, count / 4.0);
    bool fell = r->fallen > 0 && r->fallen >= 10 * spread;
    double way = fell ? r->fallen : 200 * spread, up = fmax(4 * spread, 0.15 * way);
    bool near = count < 32 || high <= r->best + 4 * spread;
    bool calm = near || (fell && high <= r->best + up);
    if (near) {
        r->spread += (spread_now - r->spread) / pace;
        r->wander += (2.5066 * fmax(0, r->level - r->slow) - r->wander) / pace;
    }
    if (calm || !fell) {
        r->best += (r->level - r->best) / pace;
        r->slow += (r->level - r->slow) / fmax(4, count / 8.0);
        r->top = fmax(r->top, r->level);
    }
    if (count < 32) {
        return;
    }
    r->risen = 0;
    if (!calm && way > 0 && r->level > r->best + up) {
        int of = length * 3 / 4, third = of / 2;
        double then = reference_median(newest + length - of, third);
        double now = reference_median(newest + length - third, third);
        bool falls = low <= r->top && now < then;
        r->risen = falls || low <= r->best + up ? NAN : (low - r->best) / way;
    }
}

static void agree(const double *values, int count)
{
    struct loss loss;
    struct reference r = {0};
    loss_init(&loss);
    for (int i = 0; i < count; i++) {
        take(&loss, (uint64_t)i, values[i]);
        reference_take(&r, values, i + 1);
        double tolerance = 1e-12 * (1 + fabs(r.top) + fabs(r.level));
        assert_close(loss.level, r.level, 0);
        assert_close(loss.best, r.best, tolerance);
        assert_close(loss.top, r.top, tolerance);
        assert_close(loss.fallen, r.fallen, tolerance);
        assert_close(loss.spread, r.spread, tolerance);
        assert_close(loss.wander, r.wander, tolerance);
        assert_close_or_nan(loss_risen(&loss), r.risen, 1e-9 * (1 + fabs(r.risen)));
        assert_true(loss_is_sound(&loss));
    }
}

/* Falls from 4 to 1, by noise, and from step `at` on goes up by this much within some steps. */
static void make_curve(uint64_t seed, double noise, int at, double up, int count,
                       double *ret_values)
{
    for (int i = 0; i < count; i++) {
        double rise = i >= at ? up * (1 - exp(-(i - at + 1) / 5.0)) : 0;
        ret_values[i] = 1 + 3 * exp(-i / 60.0) + rise + noise * random_normal(&seed);
    }
}

TEST(a_curve_is_as_a_reference_has_it_that_keeps_all_values)
{
    static double values[1400];
    static const struct {
        double noise, up;
        int count;
    } curves[] = {{0.05, 0, 1400}, {0.05, 2.5, 600}, {0.8, 0, 600}, {0, 2, 400}, {0.02, 60, 300}};
    for (size_t i = 0; i < sizeof curves / sizeof curves[0]; i++) {
        make_curve(i + 1, curves[i].noise, curves[i].count / 2, curves[i].up, curves[i].count,
                   values);
        agree(values, curves[i].count);
    }
}

/* The largest share that is told; of a state that is the same before and after a checkpoint. */
static double most_risen(const double *values, int count)
{
    double most = 0;
    struct loss loss;
    loss_init(&loss);
    for (int i = 0; i < count; i++) {
        take(&loss, (uint64_t)i, values[i]);
        most = fmax(most, loss_risen(&loss));
    }
    return most;
}

TEST(a_loss_that_lost_what_it_had_gained_has_risen_and_a_healthy_one_has_not)
{
    double values[600];
    for (uint64_t seed = 1; seed <= 20; seed++) {
        make_curve(seed, 0.05, 300, 2.4, 600, values);
        assert_close(most_risen(values, 600), 2.4 / 2.8, 0.05); /* its first 8 steps are smoothed */
        make_curve(seed, 0.05, 300, 0, 600, values);
        assert_true(most_risen(values, 600) == 0);
        make_curve(seed, 1, 300, 0, 600, values); /* as of batches of one */
        assert_true(most_risen(values, 600) == 0);
        make_curve(seed, 0.05, 300, 0, 600, values);
        for (int i = 0; i < 600; i++) { /* becomes negative */
            values[i] -= 1.5;
        }
        assert_true(most_risen(values, 600) == 0);
        for (int i = 100; i < 600; i += 40) { /* outliers */
            values[i] = 1e6;
        }
        assert_true(most_risen(values, 600) == 0);
    }
}

TEST(other_data_that_is_learned_and_a_level_that_rises_slowly_are_healthy)
{
    double values[800];
    uint64_t seed = 5;
    for (int i = 0; i < 800; i++) {
        double other = i < 400 ? 0 : 2.7 * exp(-(i - 400) / 60.0);
        values[i] = 1 + 3 * exp(-i / 60.0) + other + 0.03 * random_normal(&seed);
    }
    assert_true(most_risen(values, 800) < 0.5);
    for (int i = 0; i < 800; i++) {
        values[i] = 1 + 3 * exp(-i / 20.0) + 1.2 * i / 800 + 0.05 * random_normal(&seed);
    }
    assert_true(most_risen(values, 800) < 0.5);
}

/* Hostile */

TEST(values_that_are_all_equal_or_huge_say_nothing_and_overflow_nothing)
{
    double values[200];
    for (int i = 0; i < 200; i++) {
        values[i] = 2.5;
    }
    agree(values, 200);
    assert_true(most_risen(values, 200) == 0);
    static const double huge[] = {1e300, -1e300, DBL_MAX, -DBL_MAX, 0, DBL_MIN, 5e-324};
    struct loss loss;
    for (size_t first = 0; first < 7; first++) {
        loss_init(&loss);
        for (size_t i = 0; i < 300; i++) {
            take(&loss, i, huge[i < 100 ? first : (i * 5 + first) % 7]);
            assert_true(loss_is_sound(&loss) && !isinf(loss_risen(&loss)));
        }
    }
}

TEST(a_nan_is_in_the_share_of_32_values_and_not_in_the_curve)
{
    struct loss loss;
    loss_init(&loss);
    assert_nan(loss_broken(&loss));
    take(&loss, 0, NAN);
    assert_true(loss_broken(&loss) == 1 && loss_stays_broken(&loss) && loss.count == 0);
    take(&loss, 1, INFINITY);
    take(&loss, 2, 3);
    assert_close(loss_broken(&loss), 2.0 / 3, 1e-15);
    assert_false(loss_stays_broken(&loss));
    for (uint64_t step = 3; step < 33; step++) {
        take(&loss, step, 3);
    }
    assert_close(loss_broken(&loss), 1.0 / 32, 0);
    take(&loss, 33, 3);
    assert_true(loss_broken(&loss) == 0 && loss.count == 32);
    take(&loss, 34, NAN);
    assert_true(loss_stays_broken(&loss));
    take(&loss, 35, 3);
    take(&loss, 36, NAN);
    assert_false(loss_stays_broken(&loss));
}

/* Which loss */

TEST(the_first_of_three_names_is_the_loss_and_no_other)
{
    struct loss loss;
    loss_init(&loss);
    static const char *const others[] = {"reward", "eval_loss", "val/loss", "Loss", "loss_aux", ""};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_false(take_of(&loss, 0, 1, 1, others[i], 2));
    }
    assert_true(take_of(&loss, 0, 1, 1, "train/loss", 2));
    assert_string_equal(loss_name(&loss), "train/loss");
    assert_true(take_of(&loss, 0, 1, 2, "train_loss", 2));
    assert_true(take_of(&loss, 0, 2, 3, "train_loss", 2));
    assert_string_equal(loss_name(&loss), "train_loss");
    assert_int_equal(loss.count, 2);
    assert_true(take_of(&loss, 0, 3, 4, "loss", 2));
    assert_string_equal(loss_name(&loss), "loss");
    assert_false(take_of(&loss, 0, 4, 5, "train_loss", 2)); /* the mean that ends a run */
    assert_int_equal(loss.count, 1);
}

TEST(the_rank_that_logs_first_is_followed)
{
    struct loss loss;
    loss_init(&loss);
    assert_true(take_of(&loss, 3, 10, 1, "loss", 2));
    assert_false(take_of(&loss, 0, 9, 2, "loss", 2));
    assert_true(take_of(&loss, 3, 11, 2, "loss", 2));
    assert_int_equal(loss.count, 2);
}

TEST(steps_that_go_back_begin_the_curve_anew_and_what_comes_twice_counts_once)
{
    struct loss loss;
    loss_init(&loss);
    for (uint64_t step = 0; step < 40; step++) {
        take(&loss, step, 3);
    }
    for (uint64_t step = 20; step < 40; step++) { /* after a kill of attnd */
        assert_false(take_of(&loss, 0, step, step + 1, "loss", 3));
    }
    assert_true(take_of(&loss, 0, 39, 100, "loss", 3)); /* twice in a step */
    assert_int_equal(loss.count, 41);
    assert_true(take_of(&loss, 0, 20, 101, "loss", 7)); /* from a checkpoint */
    assert_int_equal(loss.count, 1);
    assert_nan(loss_risen(&loss));
}

/* Rules: the defaults */

static void start_defaults(struct alerts_fixture *f)
{
    config_defaults(&f->config);
    f->alerts = alerts_new(&f->config, "gpt");
    assert_non_null(f->alerts);
    f->sink = (struct alert_sink){alerts_on_event, alerts_on_overflow, f};
}

#define LOSS_TEST(name) TEST_IN(name, struct alerts_fixture, f, start_defaults, alerts_stop)

static void log_value(struct alerts_fixture *f, uint64_t step, double value)
{
    struct named_value one = {
        .name = "loss", .kind = isfinite(value) ? NAMED_NUMBER : NAMED_NONE, .number = value};
    const struct named_values values = {.list = &one, .count = 1};
    const struct log_result log = {{"gpt", id, 0, step, step + 1}, &values};
    bool taken;
    assert_int_equal(alerts_log(f->alerts, &log, 0, &f->sink, &taken), 0);
    assert_true(taken);
}

static void log_curve(struct alerts_fixture *f, const double *values, int from, int to)
{
    for (int i = from; i < to; i++) {
        log_value(f, 10 * (uint64_t)i, values[i]);
    }
}

LOSS_TEST(a_loss_that_is_nan_is_told_at_once_with_the_steps_between_which_it_began)
{
    log_value(f, 10, 2.5);
    log_value(f, 20, 2.4);
    expect_silence(f);
    log_value(f, 30, NAN);
    const struct told *told = alerts_expect(
        f, ALERT_FIRING, "loss is NaN or infinite since step 30, at step 20 it was finite");
    assert_string_equal(told->rule, "loss_invalid");
    assert_int_equal(told->severity, ALERT_CRITICAL);
    assert_int_equal(told->since_after, 20);
    assert_int_equal(told->since_step, 30);
    log_value(f, 40, NAN);
    end_run(f, true);
    alerts_expect(f, ALERT_FIRING_AT_END,
                  "loss is NaN or infinite since step 30, at step 20 it was "
                  "finite, when the run ended");
}

LOSS_TEST(a_loss_that_was_never_finite_is_so_from_the_start)
{
    log_value(f, 7, INFINITY);
    const struct told *told =
        alerts_expect(f, ALERT_FIRING, "loss is NaN or infinite from the start, at step 7");
    assert_true(told->since_after == ALERT_FROM_START);
    assert_int_equal(told->since_step, 7);
}

LOSS_TEST(steps_that_a_scaler_skips_are_said_to_be_that_and_32_finite_values_resolve_them)
{
    log_value(f, 10, 2.5);
    log_value(f, 20, NAN);
    f->seen = f->count;
    for (uint64_t step = 30; step < 340; step += 10) {
        log_value(f, step, step == 200 ? NAN : 2.5);
    }
    expect_silence(f); /* one alert of several */
    assert_int_equal(alerts_each(f->alerts, &f->sink), 0);
    alerts_expect(f, ALERT_FIRING,
                  "loss is NaN or infinite now and then, since step 20, at step 10 it was finite: "
                  "6.2 % of its last values; finite ones follow, as where a GradScaler skips such "
                  "steps");
    for (uint64_t step = 340; step < 520; step += 10) {
        log_value(f, step, 2.5);
    }
    expect_silence(f);
    log_value(f, 520, 2.5);
    expect_resolved(f, "loss is finite again");
}

LOSS_TEST(a_loss_that_rises_is_told_with_the_step_after_which_it_began_and_is_resolved)
{
    double values[600];
    make_curve(3, 0.02, 300, 2.4, 600, values);
    log_curve(f, values, 0, 300);
    expect_silence(f);
    log_curve(f, values, 300, 400);
    assert_int_equal(f->count, 1);
    const struct told *told = &f->told[f->seen++];
    assert_string_equal(told->rule, "loss_rises");
    assert_int_equal(told->severity, ALERT_WARNING);
    assert_int_equal(told->since_after, 2990);
    assert_int_equal(told->since_step, 3000);
    assert_non_null(strstr(told->text, "loss has risen to 3."));
    assert_non_null(strstr(told->text, " (smoothed) and stays high; at its best it was 1.0"));
    make_curve(3, 0.02, 600, 0, 600, values);
    log_curve(f, values, 400, 600);
    assert_int_equal(f->count, 2);
    assert_int_equal(f->told[f->seen].state, ALERT_RESOLVED);
    assert_non_null(strstr(f->told[f->seen++].text, "loss is back at 1.0"));
}

static void is_not_of_loss(void *data, const struct rule *rule)
{
    *(bool *)data = *(bool *)data && !rule_is_of_loss(rule);
}

LOSS_TEST(windows_leave_the_loss_alone_and_it_counts_as_checked)
{
    bool none = true;
    for (uint64_t step = 0; step < 31; step++) {
        log_value(f, step, 2.5);
    }
    alerts_unjudged(f->alerts, is_not_of_loss, &none);
    assert_false(none); /* whether it rises is not known yet */
    log_value(f, 31, 2.5);
    end_window(f);
    end_window(f);
    expect_silence(f);
    none = true;
    alerts_unjudged(f->alerts, is_not_of_loss, &none);
    assert_true(none);
}

LOSS_TEST(a_checkpoint_between_any_two_values_changes_nothing)
{
    double values[400];
    struct alerts_fixture *other = calloc(1, sizeof *other);
    start_defaults(other);
    make_curve(9, 0.02, 200, 2.4, 400, values);
    values[150] = NAN;
    for (int i = 0; i < 400; i++) {
        log_curve(f, values, i, i + 1);
        log_curve(other, values, i, i + 1);
        save_and_restore(f);
        assert_int_equal(f->count, other->count);
    }
    assert_int_equal(f->count, 3);
    for (uint32_t i = 0; i < f->count; i++) {
        assert_string_equal(f->told[i].text, other->told[i].text);
        assert_int_equal(f->told[i].since_step, other->told[i].since_step);
    }
    f->seen = f->count;
    other->seen = other->count;
    alerts_stop(other);
    free(other);
}
