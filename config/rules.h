/* SPDX-License-Identifier: MIT */
/* rules: the alert rules: the section `rules` of the config, over defaults that are on.
 *
 *   rules:
 *     entropy_collapse:              # a default: what is given here replaces that of the default
 *       below: 0.05
 *     my_rule:                       # or one of your own
 *       metric: first_token
 *       each: head
 *       job: gpt-*
 *       above: 0.9
 *       for: 3
 *       severity: critical
 *
 * Errors name path:line and the valid choices. Pure; any thread. */
#ifndef CONFIG_RULES_H
#define CONFIG_RULES_H

#include "proto/metric.h"

struct config;

#define RULE_NAME_MAX    63
#define RULE_PATTERN_MAX 128
#define RULES_MAX        128
#define RULE_WITHIN_MAX  64
#define RULE_FOR_MAX     10000

enum rule_condition {
#define RULE_CONDITION(symbol, name, compares, low, change, valid, help) RULE_##symbol,
#include "config/rules.def"
#undef RULE_CONDITION
    RULE_CONDITION_COUNT
};

/* The number that a condition compares with its bound: the value, or its change within `within`
 * captures. A change for the worse is positive. */
enum rule_compares { RULE_VALUE, RULE_DIFFERENCE, RULE_RATIO };

/* The number that a rule judges. Captures have the mean, the smallest and the largest; from DELTA
 * on they are of drift. */
enum rule_statistic {
    RULE_MEAN,
    RULE_STD,
    RULE_MIN,
    RULE_MAX,
    RULE_P10,
    RULE_P50,
    RULE_P90,
    RULE_P99,
    RULE_LAST,
    RULE_DELTA,
    RULE_SHIFT,
    RULE_ABS_SHIFT,
    RULE_JS,
    RULE_STATISTIC_COUNT
};

/* The unit that has a state of its own, from fine to coarse. */
enum rule_each { RULE_EACH_HEAD, RULE_EACH_LAYER, RULE_EACH_RUN, RULE_EACH_COUNT };

/* The numbers that can be judged: continues enum metric. */
enum rule_metric {
    RULE_METRIC_FIRST = METRIC_COUNT - 1,
#define RULE_METRIC(symbol, name, finest, minimum, maximum, help) RULE_##symbol,
#include "config/rules.def"
#undef RULE_METRIC
    RULE_METRIC_COUNT
};

struct rule {
    char name[RULE_NAME_MAX + 1];
    bool enabled;
    uint32_t metric; /* enum metric, enum rule_metric */
    enum rule_statistic statistic;
    bool per_key; /* the value is divided by the number of keys: effective_rank as a share of T */
    /* A coarser one than the metric has: the mean over heads (and layers), of MAX the largest, of
     * MIN the smallest. */
    enum rule_each each;
    char job[RULE_PATTERN_MAX + 1];   /* pattern of the job's name */
    char layer[RULE_PATTERN_MAX + 1]; /* pattern of "decoder.3.self" */
    enum rule_condition condition;
    double bound;
    double clear;     /* resolved when what is compared is there again: >= for BELOW, else <= */
    uint32_t within;  /* captures, where a change is compared; else 1 */
    uint32_t times;   /* `for`: captures */
    bool after_clear; /* counts only once it has been clear */
    int severity;     /* enum alert_severity */
};

/* All rules in force: the defaults, then those of the file, in its order. Includes rules that are
 * not enabled. */
uint32_t config_rule_count(const struct config *config);
const struct rule *config_rule(const struct config *config, uint32_t index);

const char *rule_metric_name(uint32_t metric);
/* Whether it judges what each head has a number of. */
bool rule_is_of_heads(const struct rule *rule);
/* Whether it judges what only the run has a number of. */
bool rule_is_of_run(const struct rule *rule);
/* Whether it judges each value of the loss that is logged. */
bool rule_is_of_loss(const struct rule *rule);
/* Whether it judges what only windows have, so that its `for` and `within` are windows; else it
 * judges each capture. */
bool rule_is_of_windows(const struct rule *rule);
/* Whether it judges sketches of weights, capture by capture; neither windows nor rows. */
bool rule_is_of_sketches(const struct rule *rule);
/* Whether of two values the lower one is nearer to its bound, or farther beyond. */
bool rule_is_worse_low(const struct rule *rule);
/* "mean", "abs_shift", ... and "below", "falls_by", ... */
const char *rule_statistic_name(enum rule_statistic statistic);
const char *rule_condition_name(enum rule_condition condition);
enum rule_compares rule_compares(const struct rule *rule);
/* Says the change of a rate in a sentence: "lower than", as in "0.3 lower than 2 captures ago". */
const char *rule_change(const struct rule *rule);
/* Whether the value is compared with that of `within` captures ago. */
bool rule_is_rate(const struct rule *rule);
/* Whether what is compared must not be below the bound; else not above it. */
bool rule_is_floor(const struct rule *rule);

/* The range of the value of a rule: of the metric, the statistic, per key. */
void rule_values(const struct rule *rule, double *ret_minimum, double *ret_maximum);

/* Where a default rule of this name fires about this metric: a few words that say what is wrong;
 * why that matters, and what people do about it: a sentence each. NULL for other rules. */
const char *rule_says(const char *name, const char *metric);
const char *rule_why(const char *name, const char *metric);
const char *rule_advice(const char *name, const char *metric);
/* Where not every run has the numbers that a rule judges, why not, and what gives them; else NULL.
 */
const char *rule_needs(const char *name, const char *metric);

/* A number that is another one when the rule is: of everything but `enabled` and the severity. */
uint64_t rule_hash(const struct rule *rule);

#endif
