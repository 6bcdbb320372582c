/* SPDX-License-Identifier: MIT */
/* rules: what is worth an alert: the section `rules` of the config, over defaults that are on.
 *
 *   rules:
 *     entropy_collapse:              # a default: what is given here replaces that of the default
 *       below: 0.1
 *     my_rule:                       # or one of your own
 *       metric: first_token          # any metric of metric.def, or one of the run's and layer's
 * own job: gpt-* above: 0.9 for: 3 severity: critical
 *
 * Errors name path:line and the valid choices. Pure; any thread. */
#ifndef CONFIG_RULES_H
#define CONFIG_RULES_H

#include <stdbool.h>
#include <stdint.h>

struct config;

#define RULE_NAME_MAX    64
#define RULE_PATTERN_MAX 128
#define RULES_MAX        128

enum rule_condition {
    RULE_BELOW,    /* value < bound */
    RULE_ABOVE,    /* value > bound */
    RULE_FALLS_BY, /* value is lower than `within` windows ago by more than bound */
    RULE_RISES_BY, /* ... higher ... */
    RULE_GROWS_BY, /* value is more than bound times what it was `within` windows ago */
};

/* Which number of a window. */
enum rule_statistic {
    RULE_MEAN,
    RULE_STD,
    RULE_MIN,
    RULE_MAX,
    RULE_P50,
    RULE_P90,
    RULE_P99,
    RULE_LAST,
    RULE_DELTA,
    RULE_Z,
    RULE_ABS_Z,
    RULE_JS, /* of drift */
};

/* What has a state of its own. */
enum rule_each { RULE_EACH_HEAD, RULE_EACH_LAYER, RULE_EACH_RUN };

struct rule {
    char name[RULE_NAME_MAX];
    bool enabled;
    char metric[RULE_NAME_MAX];
    enum rule_statistic statistic;
    bool per_key; /* the value is divided by the number of keys: effective_rank as a share of T */
    enum rule_each each; /* with EACH_LAYER a head metric is averaged over the heads */
    char job[RULE_PATTERN_MAX],
        layer[RULE_PATTERN_MAX]; /* patterns of the job's name, of "decoder.3.self" */
    enum rule_condition condition;
    double bound, clear; /* resolved when the value is beyond clear again */
    uint32_t within;     /* windows, of FALLS_BY, RISES_BY, GROWS_BY */
    uint32_t windows;    /* `for` */
    int severity;        /* enum alert_severity */
};

/* All rules in force: the defaults, and those of the file. */
uint32_t config_rule_count(const struct config *config);
const struct rule *config_rule(const struct config *config, uint32_t index);

#endif
