/* SPDX-License-Identifier: MIT */
/* rules: the tables of rules.def, and rules as text. Reading and checking them from a
 * file: rule_read.c. */
#include "config/rules_internal.h"

#include "proto/result.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct rule_key_info rule_keys[RULE_KEY_COUNT] = {
#define RULE_KEY(symbol, name, text, valid, help) {#name, text, valid, help},
#include "config/rules.def"
#undef RULE_KEY
};

const struct rule rule_defaults[RULE_DEFAULT_COUNT] = {
#define RULE(rule_name, rule_metric, rule_statistic, keys, rule_each, rule_condition, rule_bound,  \
             rule_clear, rule_within, rule_for, rule_after_clear, rule_severity, help)             \
    {.name = #rule_name,                                                                           \
     .enabled = true,                                                                              \
     .metric = rule_metric,                                                                        \
     .statistic = RULE_##rule_statistic,                                                           \
     .per_key = keys,                                                                              \
     .each = RULE_EACH_##rule_each,                                                                \
     .job = "*",                                                                                   \
     .layer = "*",                                                                                 \
     .condition = RULE_##rule_condition,                                                           \
     .bound = rule_bound,                                                                          \
     .clear = rule_clear,                                                                          \
     .within = rule_within,                                                                        \
     .times = rule_for,                                                                            \
     .after_clear = rule_after_clear,                                                              \
     .severity = ALERT_##rule_severity},
#include "config/rules.def"
#undef RULE
};

const struct rule_text rule_default_texts[RULE_DEFAULT_COUNT] = {
#define RULE(name, metric, statistic, per_key, each, condition, bound, clear, within, windows,     \
             after_clear, severity, text)                                                          \
    [RULE_DEFAULT_##name].help = text,
#define RULE_ADVICE(name, words, reason, remedy)                                                   \
    [RULE_DEFAULT_##name].says = words, [RULE_DEFAULT_##name].why = reason,                        \
    [RULE_DEFAULT_##name].advice = remedy,
#define RULE_NEEDS(name, text) [RULE_DEFAULT_##name].needs = text,
#include "config/rules.def"
#undef RULE
#undef RULE_ADVICE
#undef RULE_NEEDS
};

static const struct {
    uint32_t first, last;
    const char *needs;
} metric_needs[] = {
#define METRIC_NEEDS(first, last, needs) {METRIC_##first, METRIC_##last, needs},
#include "config/rules.def"
#undef METRIC_NEEDS
};

const struct rule rule_blank = {
    .enabled = true,
    .metric = RULE_METRIC_COUNT,
    .each = RULE_EACH_LAYER,
    .job = "*",
    .layer = "*",
    .condition = RULE_CONDITION_COUNT,
    .within = 1,
    .times = 1,
    .severity = ALERT_WARNING,
};

static const struct {
    const char *name;
    enum rule_compares compares;
    bool low;
    const char *change;
} conditions[RULE_CONDITION_COUNT] = {
#define RULE_CONDITION(symbol, name, compares, low, change, valid, help)                           \
    {#name, RULE_##compares, low, change},
#include "config/rules.def"
#undef RULE_CONDITION
};

/* Names: each list ends with NULL */

const char *const rule_statistic_names[RULE_STATISTIC_COUNT + 1] = {
    [RULE_MEAN] = "mean",   [RULE_STD] = "std",     [RULE_MIN] = "min",
    [RULE_MAX] = "max",     [RULE_P10] = "p10",     [RULE_P50] = "p50",
    [RULE_P90] = "p90",     [RULE_P99] = "p99",     [RULE_LAST] = "last",
    [RULE_DELTA] = "delta", [RULE_SHIFT] = "shift", [RULE_ABS_SHIFT] = "abs_shift",
    [RULE_JS] = "js",
};

const char *const rule_each_names[RULE_EACH_COUNT + 1] = {
    [RULE_EACH_HEAD] = "head",
    [RULE_EACH_LAYER] = "layer",
    [RULE_EACH_RUN] = "run",
};

const char *rule_statistic_name(enum rule_statistic statistic)
{
    return rule_statistic_names[statistic];
}

const char *rule_condition_name(enum rule_condition condition)
{
    return conditions[condition].name;
}

enum rule_compares rule_compares(const struct rule *rule)
{
    return conditions[rule->condition].compares;
}

const char *rule_change(const struct rule *rule)
{
    return conditions[rule->condition].change;
}

bool rule_is_rate(const struct rule *rule)
{
    return rule_compares(rule) != RULE_VALUE;
}

bool rule_is_worse_low(const struct rule *rule)
{
    return conditions[rule->condition].low;
}

bool rule_is_floor(const struct rule *rule)
{
    return !rule_is_rate(rule) && rule_is_worse_low(rule);
}

/* Metrics */

static const bool per_key[METRIC_COUNT] = {
#define RULE_PER_KEY(symbol) [METRIC_##symbol] = true,
#include "config/rules.def"
#undef RULE_PER_KEY
};

static const struct rule_metric_info others[] = {
#define RULE_METRIC(symbol, name, finest, minimum, maximum, help)                                  \
    {name, RULE_EACH_##finest, minimum, maximum, false},
#include "config/rules.def"
#undef RULE_METRIC
};

struct rule_metric_info rule_metric_info(uint32_t metric)
{
    if (metric >= METRIC_COUNT) {
        return others[metric - METRIC_COUNT];
    }
    const struct metric_info *info = &metric_info[metric];
    return (struct rule_metric_info){info->name, RULE_EACH_HEAD, info->minimum, info->maximum,
                                     per_key[metric]};
}

bool rule_is_of_heads(const struct rule *rule)
{
    return rule_metric_info(rule->metric).finest == RULE_EACH_HEAD;
}

bool rule_is_of_run(const struct rule *rule)
{
    return rule_metric_info(rule->metric).finest == RULE_EACH_RUN;
}

bool rule_is_of_loss(const struct rule *rule)
{
    return rule->metric == RULE_LOSS_BROKEN || rule->metric == RULE_LOSS_RISEN;
}

bool rule_is_of_windows(const struct rule *rule)
{
    static const enum rule_metric in_windows[] = {RULE_REDUNDANT_SHARE, RULE_WRITTEN_SHARE,
                                                  RULE_TWIN, RULE_RANK_DISTANCE, RULE_LOST_SHARE};
    bool captured =
        rule->statistic == RULE_MEAN || rule->statistic == RULE_MIN || rule->statistic == RULE_MAX;
    bool is = rule->metric < METRIC_COUNT && (rule->metric >= METRIC_MATRIX_FIRST || !captured);
    for (size_t i = 0; i < sizeof in_windows / sizeof in_windows[0]; i++) {
        is = is || rule->metric == in_windows[i];
    }
    return is;
}

bool rule_is_of_sketches(const struct rule *rule)
{
    return rule->metric >= RULE_WEIGHTS_INVALID && rule->metric <= RULE_RANKS_APART;
}

const char *rule_metric_name(uint32_t metric)
{
    return rule_metric_info(metric).name;
}

uint32_t rule_metric_find(const char *name)
{
    uint32_t metric = 0;
    while (metric < RULE_METRIC_COUNT && strcmp(rule_metric_name(metric), name) != 0) {
        metric++;
    }
    return metric;
}

/* As text */

static const char *const bool_names[] = {"false", "true", NULL};
static const char *const severity_names[] = {"info", "warning", "critical", NULL};

_Static_assert(ALERT_INFO == 0 && ALERT_WARNING == 1 && ALERT_CRITICAL == 2, "as named");
_Static_assert(sizeof(enum rule_statistic) == sizeof(unsigned) &&
                   sizeof(enum rule_each) == sizeof(unsigned),
               "words are stored as unsigned");
#define FIELD(name) offsetof(struct rule, name)
const struct rule_field rule_fields[RULE_KEY_COUNT] = {
    [RULE_KEY_METRIC] = {RULE_FIELD_METRIC, FIELD(metric), NULL, 0},
    [RULE_KEY_STATISTIC] = {RULE_FIELD_WORD, FIELD(statistic), rule_statistic_names, 0},
    [RULE_KEY_PER_KEY] = {RULE_FIELD_BOOL, FIELD(per_key), bool_names, 0},
    [RULE_KEY_EACH] = {RULE_FIELD_WORD, FIELD(each), rule_each_names, 0},
    [RULE_KEY_JOB] = {RULE_FIELD_PATTERN, FIELD(job), NULL, 0},
    [RULE_KEY_LAYER] = {RULE_FIELD_PATTERN, FIELD(layer), NULL, 0},
#define RULE_CONDITION(symbol, name, compares, low, change, valid, help)                           \
    [RULE_KEY_##symbol] = {RULE_FIELD_NUMBER, FIELD(bound), NULL, 0},
#include "config/rules.def"
#undef RULE_CONDITION
    [RULE_KEY_WITHIN] = {RULE_FIELD_COUNT, FIELD(within), NULL, RULE_WITHIN_MAX},
    [RULE_KEY_FOR] = {RULE_FIELD_COUNT, FIELD(times), NULL, RULE_FOR_MAX},
    [RULE_KEY_CLEAR] = {RULE_FIELD_NUMBER, FIELD(clear), NULL, 0},
    [RULE_KEY_AFTER_CLEAR] = {RULE_FIELD_BOOL, FIELD(after_clear), bool_names, 0},
    [RULE_KEY_SEVERITY] = {RULE_FIELD_WORD, FIELD(severity), severity_names, 0},
    [RULE_KEY_ENABLED] = {RULE_FIELD_BOOL, FIELD(enabled), bool_names, 0},
};

bool rule_key_text(const struct rule *rule, enum rule_key key, char ret_text[RULE_TEXT_MAX])
{
    const struct rule_field *field = &rule_fields[key];
    const void *value = (const char *)rule + field->offset;
    switch (field->kind) {
    case RULE_FIELD_METRIC:
        strcpy(ret_text, rule_metric_name(rule->metric));
        break;
    case RULE_FIELD_WORD:
        strcpy(ret_text, field->words[*(const unsigned *)value]);
        break;
    case RULE_FIELD_BOOL:
        strcpy(ret_text, field->words[*(const bool *)value]);
        break;
    case RULE_FIELD_PATTERN:
        strcpy(ret_text, value);
        break;
    case RULE_FIELD_COUNT:
        snprintf(ret_text, RULE_TEXT_MAX, "%" PRIu32, *(const uint32_t *)value);
        break;
    case RULE_FIELD_NUMBER:
        value_decimal_print(*(const double *)value, ret_text);
        break;
    }
    if (rule_key_is_condition(key)) {
        return key == rule_condition_key((int)rule->condition);
    }
    return key != RULE_KEY_WITHIN || rule_is_rate(rule);
}

/* The default of the same name, or NULL. */
static const struct rule *find_default(const char *name)
{
    for (int i = 0; i < RULE_DEFAULT_COUNT; i++) {
        if (strcmp(rule_defaults[i].name, name) == 0) {
            return &rule_defaults[i];
        }
    }
    return NULL;
}

/* A default that was made to judge another metric means something else: it says nothing. */
static const struct rule_text *rules_find_text(const char *name, const char *metric)
{
    static const struct rule_text nothing;
    const struct rule *rule = find_default(name);
    bool same = rule && strcmp(rule_metric_name(rule->metric), metric) == 0;
    return same ? &rule_default_texts[rule - rule_defaults] : &nothing;
}

const char *rule_says(const char *name, const char *metric)
{
    return rules_find_text(name, metric)->says;
}

const char *rule_why(const char *name, const char *metric)
{
    return rules_find_text(name, metric)->why;
}

const char *rule_advice(const char *name, const char *metric)
{
    return rules_find_text(name, metric)->advice;
}

const char *rule_needs(const char *name, const char *metric)
{
    const struct rule_text *text = rules_find_text(name, metric);
    uint32_t found = rule_metric_find(metric);
    const char *needs = text->needs;
    for (int i = 0; i < RULE_DEFAULT_COUNT && !text->help && !needs && found >= METRIC_COUNT; i++) {
        needs = rule_defaults[i].metric == found ? rule_default_texts[i].needs : NULL;
    }
    for (size_t i = 0; i < sizeof metric_needs / sizeof metric_needs[0] && !text->help; i++) {
        bool has = found >= metric_needs[i].first && found <= metric_needs[i].last;
        needs = has ? metric_needs[i].needs : needs;
    }
    return needs;
}

/* Whether a rule has a key only because nothing else was given, and would have it again. */
static bool goes_without_saying(const struct rule *rule, enum rule_key key, const char *text)
{
    char other[RULE_TEXT_MAX];
    const struct rule *base = find_default(rule->name);
    if (strcmp(text, rule_keys[key].text) != 0) {
        return false;
    }
    return !base || !rule_key_text(base, key, other) || strcmp(text, other) == 0;
}

const char *rule_next_key(const struct rule *rule, int *key, char ret_text[RULE_TEXT_MAX])
{
    while (*key < RULE_KEY_COUNT) {
        enum rule_key at = (enum rule_key)(*key)++;
        if (rule_key_text(rule, at, ret_text) && !goes_without_saying(rule, at, ret_text)) {
            return rule_keys[at].name;
        }
    }
    return NULL;
}

/* FNV-1a over the texts of the keys, each with its end. */
uint64_t rule_hash(const struct rule *rule)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int key = 0; key < RULE_KEY_COUNT; key++) {
        char text[RULE_TEXT_MAX] = "";
        if (key == RULE_KEY_SEVERITY || key == RULE_KEY_ENABLED) {
            continue;
        }
        if (!rule_key_text(rule, (enum rule_key)key, text)) {
            text[0] = '\0';
        }
        for (size_t i = 0; i == 0 || text[i - 1]; i++) {
            hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
        }
    }
    return hash;
}

/* Lists */

struct config_rules *rules_new(void)
{
    struct config_rules *rules = calloc(1, sizeof *rules);
    if (!rules) {
        return NULL;
    }
    memcpy(rules->rules, rule_defaults, sizeof rule_defaults);
    rules->count = RULE_DEFAULT_COUNT;
    return rules;
}

uint32_t config_rule_count(const struct config *config)
{
    return config->rules ? config->rules->count : RULE_DEFAULT_COUNT;
}

const struct rule *config_rule(const struct config *config, uint32_t index)
{
    return config->rules ? &config->rules->rules[index] : &rule_defaults[index];
}
