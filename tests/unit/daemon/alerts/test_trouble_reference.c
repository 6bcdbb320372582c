/* SPDX-License-Identifier: MIT */
/* Random windows against a reference that knows every window and computes each score from all of
 * them, by the definition in trouble.h. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/alerts/trouble_fixture.h"

#define NONE        ((double)NAN)
#define WINDOWS_MAX 64
#define RULES_TRIED 9

struct past {
    double value[WINDOWS_MAX], compared[WINDOWS_MAX]; /* windows without a number left out */
    int values, count;
};

static bool is_low(const struct rule *rule)
{
    return rule->condition == RULE_BELOW;
}

static void past_add(struct past *past, const struct rule *rule, double value)
{
    if (isnan(value)) {
        return;
    }
    past->value[past->values++] = value;
    double x = value;
    if (rule_is_rate(rule->condition)) {
        int then = past->values - 1 - (int)rule->within;
        if (then < 0) {
            return;
        }
        x = rule->condition == RULE_GROWS_BY   ? value / past->value[then]
            : rule->condition == RULE_FALLS_BY ? past->value[then] - value
                                               : value - past->value[then];
    }
    past->compared[past->count++] = x;
}

static bool holds(const struct rule *rule, double x)
{
    return is_low(rule) ? x < rule->bound : x > rule->bound;
}

/* Whether the rule fires after all of it, and whether it ever was clear. */
static bool past_fires(const struct past *past, const struct rule *rule, bool *ret_armed)
{
    bool fires = false, armed = false;
    uint32_t held = 0;
    for (int i = 0; i < past->count; i++) {
        double x = past->compared[i];
        bool clear = is_low(rule) ? x >= rule->clear : x <= rule->clear;
        held = holds(rule, x) && (armed || !rule->after_clear) ? held + 1 : 0;
        fires = (fires && !clear) || held >= rule->windows;
        armed = armed || clear;
    }
    *ret_armed = armed;
    return fires;
}

static double reference_level(const struct rule *rule, double end, double x)
{
    double gap = fabs(rule->bound - rule->clear), d = fabs(x - rule->bound);
    if (!holds(rule, x)) {
        return d >= gap ? 0 : 1 - d / gap;
    }
    return isinf(end) ? 1 + d / (d + gap) : 1 + d / fabs(end - rule->bound);
}

static double reference_approach(const struct past *past, const struct rule *rule, double end,
                                 double resolution)
{
    int n = past->count < 5 ? past->count : 5, first = past->count - n;
    double x = past->compared[past->count - 1], mean_t = 0, mean_x = 0, top = 0, bottom = 0;
    double approach = fmin(1, reference_level(rule, end, x));
    for (int i = 0; i < n; i++) {
        mean_t += (double)i / n;
        mean_x += past->compared[first + i] / n;
    }
    for (int i = 0; i < n; i++) {
        top += (i - mean_t) * (past->compared[first + i] - mean_x);
        bottom += (i - mean_t) * (i - mean_t);
    }
    double slope = n < 3 ? 0 : top / bottom;
    if (fabs(slope) * (n - 1) > resolution && !holds(rule, x) && (slope < 0) == is_low(rule)) {
        approach = fmax(approach, 1 - (rule->bound - x) / slope / 10);
    }
    return approach;
}

static double reference_score(const struct past *past, const struct rule *rule, double end,
                              double resolution, bool layer_fires)
{
    bool armed, own = past_fires(past, rule, &armed), all_beyond = past->count > 0;
    double held = 2;
    if (past->count == 0 || (rule->after_clear && !armed)) {
        return 0;
    }
    for (int i = past->count - 1; i >= 0 && i >= past->count - 3; i--) {
        held = fmin(held, reference_level(rule, end, past->compared[i]));
        all_beyond = all_beyond && holds(rule, past->compared[i]);
    }
    bool of_head = rule->each == RULE_EACH_HEAD;
    bool fires = of_head ? own : layer_fires && holds(rule, past->compared[past->count - 1]);
    if (fires) {
        return rule->severity + 1 + fmin(0.99, fmax(0, held - 1));
    }
    if (!of_head && all_beyond) {
        return 0.5 + 0.5 * fmin(0.99, held - 1);
    }
    return 0.5 * fmin(0.99, reference_approach(past, rule, end, resolution));
}

/* A rule, where what it compares ends on the worse side, and the smallest change that counts. */
static const struct trial {
    const char *name, *body;
    int metric;
    double end, resolution, low, high; /* of the values that are tried */
} trials[RULES_TRIED] = {
    {"r0", "metric: entropy_normalized, below: 0.2, clear: 0.3, for: 2, severity: critical",
     METRIC_ENTROPY_NORMALIZED, 0, 0.01, 0, 0.6},
    {"r1", "metric: entropy_normalized, below: 0.25, clear: 0.5, each: head",
     METRIC_ENTROPY_NORMALIZED, 0, 0.01, 0, 0.6},
    {"r2", "metric: confidence, above: 0.6, clear: 0.5, each: head, for: 3, after_clear: true",
     METRIC_CONFIDENCE, 1, 0.01, 0.3, 0.9},
    {"r3", "metric: max_logit, statistic: max, above: 50, clear: 40, severity: info",
     METRIC_MAX_LOGIT, INFINITY, 1, -20, 60},
    {"r4", "metric: tail_mass, falls_by: 0.2, clear: 0.1, within: 2", METRIC_TAIL_MASS, 1, 0.01,
     0.2, 0.7},
    {"r5", "metric: q_norm, grows_by: 1.5, clear: 1.2, within: 3, each: head", METRIC_Q_NORM,
     INFINITY, 0.1, 1, 2},
    {"r6", "metric: effective_rank, per_key: true, below: 0.4, clear: 0.5, after_clear: true",
     METRIC_EFFECTIVE_RANK, 0, 1.0 / 50, 10, 30},
    {"r7", "metric: first_token, rises_by: 0.3, clear: 0.1, within: 1, each: head, for: 2",
     METRIC_FIRST_TOKEN, 1, 0.01, 0.1, 0.9},
    {"r8", "metric: k_norm, statistic: mean, above: 3, clear: 2, each: run, severity: critical",
     METRIC_K_NORM, INFINITY, 0.1, 1, 5},
};

static double any_number(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) / 16777216.0;
}

/* Walks at random, to one end and back; sometimes there is no number, and odd heads come late. */
static double any_value(const struct trial *trial, unsigned *seed, double before, int window,
                        uint32_t head)
{
    double target = window / 8 % 2 ? trial->high : trial->low; /* of all heads */
    double step = (any_number(seed) - 0.5) * (trial->high - trial->low) / 2;
    double value = fmin(trial->high, fmax(trial->low, before + step + 0.3 * (target - before)));
    bool late = head % 2 == 1 && window < 4 + (int)head % 5;
    return late || any_number(seed) < 0.1 ? NONE : value;
}

static double layer_value(const struct rule *rule, const double *values, uint32_t heads)
{
    double sum = 0, most = -INFINITY;
    uint32_t count = 0;
    for (uint32_t h = 0; h < heads; h++) {
        if (!isnan(values[h])) {
            double value = rule->per_key ? values[h] / 50 : values[h];
            sum += value;
            most = fmax(most, value);
            count++;
        }
    }
    return count == 0 ? NONE : rule->statistic == RULE_MAX ? most : sum / count;
}

enum { TRIED_HEADS = 12 };

/* Random windows under some of the rules, and what is known of them. */
struct trying {
    struct trouble_fixture *f;
    unsigned rules, seed; /* rules: bits of trials */
    const struct rule *rule[RULES_TRIED];
    struct past heads[RULES_TRIED][TRIED_HEADS], layers[RULES_TRIED];
    double value[RULES_TRIED][TRIED_HEADS], walk[RULES_TRIED][TRIED_HEADS];
    int firing, beyond, approaching; /* heads and windows */
};

static void trying_begin(struct trying *trying, unsigned wanted)
{
    char rules[4096] = "";
    *trying = (struct trying){.rules = wanted, .seed = wanted};
    for (int r = 0; r < RULES_TRIED; r++) {
        sprintf(rules + strlen(rules), "  %s: {%s, enabled: %s}\n", trials[r].name, trials[r].body,
                wanted >> r & 1 ? "true" : "false");
    }
    trying->f = trouble_start(rules);
    for (uint32_t r = 0, i = config_rule_count(&trying->f->config) - RULES_TRIED; r < RULES_TRIED;
         r++) {
        trying->rule[r] = config_rule(&trying->f->config, i + r);
    }
}

static void trying_give_window(struct trying *trying, int window)
{
    trouble_begin(trying->f, TRIED_HEADS);
    for (int r = 0; r < RULES_TRIED; r++) {
        const struct trial *trial = &trials[r];
        for (uint32_t h = 0; h < TRIED_HEADS; h++) {
            double *walk = &trying->walk[r][h];
            *walk = window == 0 ? (trial->low + trial->high) / 2 : *walk;
            trying->value[r][h] = any_value(trial, &trying->seed, *walk, window, h);
            *walk = isnan(trying->value[r][h]) ? *walk : trying->value[r][h];
        }
        if (r == 1) { /* both are about one metric */
            memcpy(trying->value[1], trying->value[0], sizeof trying->value[0]);
        }
        trouble_put(trying->f, trial->metric, trying->value[r]);
    }
    trouble_end_window(trying->f);
}

/* The worst score of each head by the rules that are tried. */
static void trying_refer(struct trying *trying, double *ret_worst)
{
    for (int r = 0; r < RULES_TRIED; r++) {
        const struct rule *rule = trying->rule[r];
        bool armed, before = past_fires(&trying->layers[r], rule, &armed);
        past_add(&trying->layers[r], rule, layer_value(rule, trying->value[r], TRIED_HEADS));
        bool fires = past_fires(&trying->layers[r], rule, &armed);
        fires = rule->each == RULE_EACH_RUN ? before : fires; /* judged after the layers */
        for (uint32_t h = 0; h < TRIED_HEADS && trying->rules >> r & 1; h++) {
            double value = trying->value[r][h];
            past_add(&trying->heads[r][h], rule, rule->per_key ? value / 50 : value);
            double score = reference_score(&trying->heads[r][h], rule, trials[r].end,
                                           trials[r].resolution, fires);
            bool as_severe = score >= 1 && floor(score) == floor(ret_worst[h]);
            ret_worst[h] = as_severe ? ret_worst[h] : fmax(ret_worst[h], score);
        }
    }
}

static void trying_run(struct trying *trying)
{
    for (int w = 0; w < WINDOWS_MAX; w++) {
        double worst[TRIED_HEADS] = {0};
        trying_give_window(trying, w);
        trying_refer(trying, worst);
        for (uint32_t h = 0; h < TRIED_HEADS; h++) {
            assert_float_equal(trying->f->trouble->score[h], worst[h], 1e-9);
            trying->firing += worst[h] >= 1;
            trying->beyond += worst[h] >= 0.5 && worst[h] < 1;
            trying->approaching += worst[h] >= 0.1 && worst[h] < 0.5;
        }
    }
    trouble_stop(trying->f);
}

TEST(random_windows_score_as_the_reference_says_by_each_rule)
{
    static struct trying trying;
    int firing = 0, beyond = 0, approaching = 0;
    for (int r = 0; r < RULES_TRIED; r++) {
        trying_begin(&trying, 1u << r);
        trying_run(&trying);
        firing += trying.firing;
        beyond += trying.beyond;
        approaching += trying.approaching;
        assert_true(trying.firing > 0 && trying.approaching > 0);
    }
    assert_true(firing > 500 && beyond > 20 && approaching > 500); /* all of it was tried */
}

TEST(random_windows_score_as_the_reference_says_by_all_rules)
{
    static struct trying trying;
    trying_begin(&trying, (1u << RULES_TRIED) - 1);
    trying_run(&trying);
    assert_true(trying.firing > 100 && trying.approaching > 10);
}
