/* SPDX-License-Identifier: MIT */
/* The section `rules`: alerts. */
#include "tests/unit/config/helpers.h"

#include "proto/result.h"
#include "config/rules_internal.h"

static const struct rule *rules_find(const struct config *config, const char *name)
{
    for (uint32_t i = 0; i < config_rule_count(config); i++) {
        if (strcmp(config_rule(config, i)->name, name) == 0) {
            return config_rule(config, i);
        }
    }
    fail_msg("no rule %s", name);
    return NULL;
}

/* Loads one rule named `mine` with this body. */
static struct rule load_mine(const char *body)
{
    char text[1024];
    snprintf(text, sizeof text, "rules:\n  mine: {%s}\n", body);
    OWNED(config_clear) struct config config = loaded(text);
    struct rule rule = *rules_find(&config, "mine");
    return rule;
}

/* A rule `mine` with this body, and why it is refused. */
#define MINE(body, message)                                                                        \
    {                                                                                              \
        "rules:\n  mine: {" body "}\n", "attnd.yaml:2: rules.mine" message                         \
    }

TEST(without_a_file_the_defaults_are_in_force)
{
    struct config config = defaults();
    assert_int_equal(config_rule_count(&config), RULE_DEFAULT_COUNT);
    for (uint32_t i = 0; i < RULE_DEFAULT_COUNT; i++) {
        assert_true(config_rule(&config, i)->enabled);
    }
}

static bool same_rule(const struct rule *a, const struct rule *b)
{
    return a->metric == b->metric && a->statistic == b->statistic && a->per_key == b->per_key &&
           a->each == b->each && a->condition == b->condition && a->bound == b->bound &&
           a->clear == b->clear && a->within == b->within && a->times == b->times &&
           a->after_clear == b->after_clear && a->severity == b->severity &&
           a->enabled == b->enabled && strcmp(a->job, b->job) == 0 &&
           strcmp(a->layer, b->layer) == 0 && strcmp(a->name, b->name) == 0;
}

/* So that their tables pass every check that a user's rule has to pass. */
TEST(the_defaults_load_again_from_their_dump)
{
    struct config config = defaults();
    char *text = printed(&config);
    OWNED(config_clear) struct config again = loaded(text);
    assert_int_equal(config_rule_count(&again), RULE_DEFAULT_COUNT);
    for (uint32_t i = 0; i < RULE_DEFAULT_COUNT; i++) {
        assert_true(same_rule(config_rule(&config, i), config_rule(&again, i)));
    }
    free(text);
}

TEST(a_rule_named_like_a_default_changes_what_it_gives)
{
    struct config config = loaded("rules:\n"
                                  "  entropy_collapse:\n"
                                  "    severity: info\n"
                                  "    layer: 'decoder.*'\n"
                                  "  silence: {enabled: false}\n");
    const struct rule *rule = rules_find(&config, "entropy_collapse");
    struct rule expected = rule_defaults[RULE_DEFAULT_entropy_collapse];
    expected.severity = ALERT_INFO;
    strcpy(expected.layer, "decoder.*");
    assert_true(same_rule(rule, &expected));
    assert_false(rules_find(&config, "silence")->enabled);
    assert_int_equal(config_rule_count(&config), RULE_DEFAULT_COUNT);
    config_clear(&config);
    assert_null(config.rules);
}

TEST(a_new_bound_brings_its_own_clear)
{
    struct config config =
        loaded("rules: {entropy_collapse: {below: 0.5}, losses: {above: 0.2}}\n");
    assert_true(rules_find(&config, "entropy_collapse")->clear == 0.55);
    assert_true(rules_find(&config, "losses")->clear == 0.18);
    config_clear(&config);
}

TEST(another_condition_takes_the_place_of_the_defaults)
{
    struct config config = loaded("rules: {entropy_collapse: {falls_by: 0.5, within: 3}}\n");
    const struct rule *rule = rules_find(&config, "entropy_collapse");
    assert_int_equal(rule->condition, RULE_FALLS_BY);
    assert_int_equal(rule->within, 3);
    assert_true(rule->clear == 0.45);
    config_clear(&config);
    config = loaded("rules: {entropy_falls: {below: 0.5}}\n");
    assert_int_equal(rules_find(&config, "entropy_falls")->within, 1);
    config_clear(&config);
}

TEST(a_new_rule_has_every_key)
{
    struct rule rule =
        load_mine("metric: effective_rank, statistic: p90, per_key: true, each: head, "
                  "job: 'gpt-*', layer: 'encoder.[0-3].self', falls_by: 0.25, "
                  "within: 64, for: 7, clear: 0.125, after_clear: true, severity: "
                  "critical, enabled: false");
    assert_string_equal(rule.name, "mine");
    assert_int_equal(rule.metric, METRIC_EFFECTIVE_RANK);
    assert_int_equal(rule.statistic, RULE_P90);
    assert_true(rule.per_key && rule.after_clear && !rule.enabled);
    assert_int_equal(rule.each, RULE_EACH_HEAD);
    assert_string_equal(rule.job, "gpt-*");
    assert_string_equal(rule.layer, "encoder.[0-3].self");
    assert_int_equal(rule.condition, RULE_FALLS_BY);
    assert_true(rule.bound == 0.25 && rule.clear == 0.125);
    assert_int_equal(rule.within, 64);
    assert_int_equal(rule.times, 7);
    assert_int_equal(rule.severity, ALERT_CRITICAL);
}

TEST(what_a_new_rule_leaves_out)
{
    struct rule rule = load_mine("metric: max_logit, grows_by: 3");
    assert_int_equal(rule.statistic, RULE_MEAN);
    assert_int_equal(rule.each, RULE_EACH_LAYER);
    assert_string_equal(rule.job, "*");
    assert_string_equal(rule.layer, "*");
    assert_int_equal(rule.within, 1);
    assert_int_equal(rule.times, 1);
    assert_int_equal(rule.severity, ALERT_WARNING);
    assert_true(rule.enabled && !rule.after_clear && !rule.per_key);
    assert_true(rule.clear == 2.8);
    assert_int_equal(load_mine("metric: lost_share, above: 0.5").each, RULE_EACH_RUN);
}

/* `clear` without being given is somewhere the metric can be. */
TEST(clear_follows_from_the_bound)
{
    assert_true(load_mine("metric: entropy_normalized, below: 0.98").clear == 0.99);
    assert_true(load_mine("metric: entropy_normalized, above: 0.5").clear == 0.45);
    assert_true(load_mine("metric: invalid_share, above: 0").clear == 0);
    assert_true(load_mine("metric: max_logit, below: -10").clear == -9);
    assert_true(load_mine("metric: max_logit, above: -10").clear == -11);
    assert_true(load_mine("metric: entropy, rises_by: 2").clear == 1.8);
    assert_true(load_mine("metric: confidence, statistic: delta, above: -0.5").clear == -0.55);
    assert_true(load_mine("metric: rank, per_key: true, below: 0.98").clear == 0.99);
}

TEST(rules_are_printed_and_load_again)
{
    struct config config =
        loaded("rules:\n"
               "  mine: {metric: first_token, above: 0.9, layer: '*.self'}\n"
               "  rank_collapse: {after_clear: false, each: layer, layer: 'd*'}\n");
    char *text = printed(&config);
    assert_non_null(strstr(text, "\n  mine:\n"
                                 "    metric: first_token\n"
                                 "    layer: '*.self'\n"
                                 "    above: 0.9\n"
                                 "    clear: 0.81\n"));
    assert_non_null(strstr(text, "    after_clear: false\n"));
    struct config again = loaded(text);
    assert_same_config(&config, &again);
    for (uint32_t i = 0; i < config_rule_count(&config); i++) {
        assert_true(same_rule(config_rule(&config, i), config_rule(&again, i)));
    }
    config_clear(&config);
    config_clear(&again);
    free(text);
}

static void rules_visit(void *data, const char *section, const char *name, const char *value)
{
    if (strcmp(section, "rules.mine") == 0) {
        sprintf((char *)data + strlen(data), "%s=%s;", name, value);
    }
}

TEST(each_visits_the_rules)
{
    char visited[256] = "";
    struct config config = loaded("rules: {mine: {metric: entropy, rises_by: 2, within: 4}}\n");
    config_each(&config, rules_visit, visited);
    assert_string_equal(visited, "metric=entropy;rises_by=2;within=4;clear=1.8;");
    config_clear(&config);
}

TEST(a_section_replaces_the_rules_of_an_earlier_file)
{
    char error[CONFIG_ERROR_MAX];
    struct config config = loaded("rules: {mine: {metric: entropy, above: 1}}\n");
    assert_int_equal(load_text(&config, "jobs: {a: {core: true}}\n", error), 0);
    assert_int_equal(config_rule_count(&config), RULE_DEFAULT_COUNT + 1);
    assert_int_equal(load_text(&config, "rules: {mine: {metric: x}}\n", error), -1);
    assert_int_equal(config_rule_count(&config), RULE_DEFAULT_COUNT + 1);
    assert_int_equal(load_text(&config, "rules:\n", error), 0);
    assert_int_equal(config_rule_count(&config), RULE_DEFAULT_COUNT);
    assert_non_null(config.jobs);
    config_clear(&config);
}

#define VALID "no such metric (valid: the metrics of PROTOCOL.md and those of config/README.md"
REFUSED(unknown_metrics_are_refused_with_close_ones,
        MINE("metric: entropi, above: 1", ".metric: 'entropi': " VALID "; close: entropy)"),
        MINE("metric: token, above: 1",
             ".metric: 'token': " VALID "; close: previous_token, next_token, first_token, "
             "duplicate_token)"),
        MINE("metric: colourfulness, above: 1", ".metric: 'colourfulness': " VALID ")"));

REFUSED(a_rule_has_one_metric_and_one_condition,
        {"rules:\n  mine:\n    above: 1\n",
         "attnd.yaml:2: rules.mine: has no metric, and no default rule has this name"},
        {"rules:\n  mine:\n",
         "attnd.yaml:2: rules.mine: has no metric, and no default rule has this name"},
        MINE("metric: entropy", ": has no condition (valid: one of below, above, "
                                "falls_by, rises_by, grows_by)"),
        {"rules:\n  mine:\n    metric: entropy\n    above: 1\n    below: 0.5\n",
         "attnd.yaml:5: rules.mine.below: a second condition (first: above on line 4; "
         "valid: one)"});

#define NEVER "the metric is never on one side of it"
REFUSED(impossible_bounds_are_refused,
        MINE("metric: entropy_normalized, below: -1",
             ".below: '-1': " NEVER " (valid: above 0, at most 1)"),
        MINE("metric: entropy_normalized, below: 2",
             ".below: '2': " NEVER " (valid: above 0, at most 1)"),
        MINE("metric: first_token, above: 1",
             ".above: '1': " NEVER " (valid: at least 0, below 1)"),
        MINE("metric: entropy, below: 0", ".below: '0': " NEVER " (valid: above 0)"),
        MINE("metric: entropy, statistic: js, above: 0.7",
             ".above: '0.7': " NEVER " (valid: at least 0, below 0.6931471805599453)"),
        MINE("metric: entropy, falls_by: 0",
             ".falls_by: '0': the metric cannot change by more, or always does (valid: "
             "above 0)"),
        MINE("metric: first_token, rises_by: 1",
             ".rises_by: '1': the metric cannot change by more, or always does (valid: "
             "above 0, below 1)"),
        MINE("metric: max_logit, grows_by: 1",
             ".grows_by: '1': the metric cannot change by more, or always does (valid: above 1)"),
        MINE("metric: entropy, above: nan", ".above: 'nan': not a number (valid: number)"));

REFUSED(clear_is_on_the_other_side,
        MINE("metric: entropy_normalized, below: 0.1, clear: 0.05",
             ".clear: '0.05': on the wrong side of `below`, or never reached (valid: at "
             "least 0.1, at most 1)"),
        MINE("metric: entropy_normalized, above: 0.5, clear: 0.6",
             ".clear: '0.6': on the wrong side of `above`, or never reached (valid: at "
             "least 0, at most 0.5)"),
        MINE("metric: max_logit, grows_by: 3, clear: 4",
             ".clear: '4': on the wrong side of `grows_by`, or never reached (valid: "
             "above 0, at most 3)"),
        MINE("metric: entropy, falls_by: 3, clear: 4",
             ".clear: '4': on the wrong side of `falls_by`, or never reached (valid: at "
             "most 3)"),
        /* a default's, of which only clear is given */
        {"rules: {entropy_collapse: {clear: 0}}\n",
         "attnd.yaml:1: rules.entropy_collapse.clear: '0': on the wrong side of `below`, "
         "or never reached (valid: at least 0.25, at most 1)"});

REFUSED(captures_are_counted_from_one,
        MINE("metric: entropy, above: 1, for: 0", ".for: '0': out of range (valid: 1 to 10000)"),
        MINE("metric: entropy, falls_by: 1, within: 0",
             ".within: '0': out of range (valid: 1 to 64)"),
        MINE("metric: entropy, falls_by: 1, within: 65",
             ".within: '65': out of range (valid: 1 to 64)"),
        MINE("metric: entropy, above: 1, within: 2",
             ".within: '2': above looks at one capture (valid with falls_by, rises_by, grows_by)"),
        MINE("metric: silence, above: 1, for: 2", ".for: '2': silence has no captures (valid: 1)"),
        MINE("metric: silence, grows_by: 2", ".grows_by: '2': silence only grows (valid: above)"));

REFUSED(scope_and_statistic_fit_the_metric,
        MINE("metric: sink_rate, above: 0.5, each: head",
             ".each: 'head': the metric is about a layer (valid: layer, run)"),
        MINE("metric: silence, above: 5, each: layer",
             ".each: 'layer': the metric is about the run as a whole (valid: run)"),
        MINE("metric: lost_share, above: 0.5, statistic: max",
             ".statistic: 'max': the metric is one number per window (valid: mean)"),
        MINE("metric: sink_rate, above: 0.5, statistic: shift",
             ".statistic: 'shift': drift is of what heads have (valid: mean, std, min, max, "
             "p10, p50, p90, p99, last)"),
        MINE("metric: rank, above: 0.5, statistic: js",
             ".statistic: 'js': the metric has one value per message, no histogram of "
             "rows (valid: delta, shift, abs_shift)"),
        MINE("metric: entropy, above: 0.5, per_key: true",
             ".per_key: 'true': the value is not counted in keys (valid: false)"));

REFUSED(shift_is_at_most_its_range_in_its_unit,
        MINE("metric: entropy_normalized, above: 20, statistic: abs_shift",
             ".above: '20': the metric is never on one side of it (valid: at least 0, below 20)"),
        MINE("metric: qk_cosine, below: -20, statistic: shift",
             ".below: '-20': the metric is never on one side of it (valid: above -20, "
             "at most 20)"));

/* Its bound would not mean the same. */
#define FORMER(old, new)                                                                           \
    MINE("metric: entropy, above: 10, statistic: " old,                                            \
         ".statistic: '" old                                                                       \
         "': is now " new ", whose unit is the largest of the baseline's std, "                    \
                          "the metric's resolution and 5 % of its range: choose the bound anew "   \
                          "(metrics "                                                              \
                          "from 0 to 1 reach 20; 6 is far). The default rule `drift` is no more: " \
                          "leave a "                                                               \
                          "copy of it out")
REFUSED(the_statistic_of_before_is_refused_with_the_new_one, FORMER("abs_z", "abs_shift"),
        FORMER("z", "shift"));

REFUSED(words_are_refused_with_the_choices,
        MINE("metric: entropy, above: 1, severity: bad",
             ".severity: 'bad': not one of the choices (valid: info, warning, critical)"),
        MINE("metric: entropy, above: 1, each: token",
             ".each: 'token': not one of the choices (valid: head, layer, run)"),
        MINE("metric: entropy, above: 1, statistic: median",
             ".statistic: 'median': not one of the choices (valid: mean, std, min, max, "
             "p10, p50, p90, p99, last; of drift: delta, shift, abs_shift, js)"),
        MINE("metric: entropy, above: 1, enabled: 'no'",
             ".enabled: 'no': not one of the choices (valid: false, true)"),
        MINE("metric: entropy, above: 1, job: 'a b'",
             ".job: 'a b': not a pattern (valid: 1 to 128 of A-Z a-z 0-9 . _ - and * ? [ ] !)"),
        MINE("metric: entropy, abov: 1",
             ".abov: unknown key (valid in a rule: metric, statistic, per_key, each, "
             "job, layer, below, above, falls_by, rises_by, grows_by, within, for, "
             "clear, after_clear, severity, enabled; did you mean above?)"));

/* As a plan is: wildcards may match what comes later. */
REFUSED(a_rule_names_layers,
        MINE("metric: entropy, above: 1, layer: foo",
             ".layer: 'foo': names no layer (valid: pattern of decoder.3.self)"),
        MINE("metric: entropy, above: 1, layer: decoder.3",
             ".layer: 'decoder.3': names no layer (valid: pattern of decoder.3.self)"));

TEST(the_shape_of_the_section_is_checked)
{
    assert_refused("rules: [a]\n",
                   "attnd.yaml:1: rules: expected lines of `key: value`, found a list");
    assert_refused("rules: {a: 1}\n",
                   "attnd.yaml:1: rules.a: expected lines of `key: value`, found a value");
    assert_refused("rules: {[a]: {}}\n",
                   "attnd.yaml:1: rules: expected the name of a rule, found a list");
    assert_refused("rules: {a: {[b]: 1}}\n",
                   "attnd.yaml:1: rules.a: expected the name of a key, found a list");
    assert_refused("rules: {a: {above: [1]}}\n",
                   "attnd.yaml:1: rules.a.above: expected one value, found a list");
    assert_refused("rules:\nrules:\n",
                   "attnd.yaml:2: rules: section given twice (first on line 1)");
    assert_refused("rules:\n  losses: {above: 0.5}\n  losses: {above: 0.4}\n",
                   "attnd.yaml:3: rules.losses: given twice (first on line 2)");
    assert_refused("rules:\n  losses:\n    above: 0.5\n    above: 0.4\n",
                   "attnd.yaml:4: rules.losses.above: given twice (first on line 3)");
    assert_refused("rules: {'a b': {}}\n",
                   "attnd.yaml:1: rules: 'a b': not a name (valid: 1 to 63 of A-Z a-z 0-9 . _ -)");
    assert_set_refused("rules.losses.above=1", "--set: 'rules.losses.above=1': rules belong into a "
                                               "file");
}

TEST(there_are_at_most_128_rules)
{
    char text[16384] = "rules:\n";
    for (int i = 0; i < RULES_MAX - RULE_DEFAULT_COUNT; i++) {
        sprintf(text + strlen(text), "  r%d: {metric: entropy, above: 1}\n", i);
    }
    struct config config = loaded(text);
    config_clear(&config);
    strcat(text, "  more: {metric: entropy, above: 1}\n");
    char message[128];
    snprintf(message, sizeof message,
             "attnd.yaml:%d: rules: more than 128 rules, defaults included",
             RULES_MAX - RULE_DEFAULT_COUNT + 2);
    assert_refused(text, message);
}

TEST(the_hash_tells_rules_apart)
{
    struct rule a = load_mine("metric: entropy, above: 1"), same = a, b = a;
    same.severity = ALERT_CRITICAL;
    same.enabled = false;
    b.bound = 2;
    assert_true(rule_hash(&a) == rule_hash(&same));
    assert_true(rule_hash(&a) != rule_hash(&b));
    b = a;
    b.times = 2;
    assert_true(rule_hash(&a) != rule_hash(&b));
    b = a;
    b.after_clear = true;
    assert_true(rule_hash(&a) != rule_hash(&b));
}
