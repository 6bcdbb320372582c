/* SPDX-License-Identifier: MIT */
/* rule_read: one rule of a file. It begins as the rule of the same name, or as a blank one; keys
 * replace what is there; at the end it is made whole and checked.
 *
 * A condition takes the place of the one before, and what belongs to that goes with it: `clear`,
 * unless it is given too, follows from the new bound, and `within` is 1 again. */
#include "config/capture.h"
#include "config/names.h"

#include "proto/result.h"
#include "config/rules_internal.h"

#include <math.h>
#include <string.h>

/* Whether what a rule says can ever be true, and ever be false. */

#define LN2 0.69314718055994530942

/* The line of a key, or of the rule when the key is not given. */
static struct origin rule_check_at(const struct rule_draft *draft, enum rule_key key)
{
    struct origin origin = draft->origin;
    if (draft->key_line[key]) {
        origin.line = draft->key_line[key];
    }
    return origin;
}

static int rule_check_refuse(const struct rule_draft *draft, enum rule_key key, char *reterr,
                             const char *reason)
{
    char text[RULE_TEXT_MAX] = "";
    rule_key_text(&draft->rule, key, text);
    return config_error(reterr, rule_check_at(draft, key), "%s.%s: '%s': %s", draft->label,
                        rule_keys[key].name, text, reason);
}

/* Intervals */

struct interval {
    double low, high;
    bool low_open, high_open;
};

static int require(const struct rule_draft *draft, enum rule_key key, double number,
                   const struct interval *interval, const char *reason, char *reterr)
{
    char valid[128], text[512];
    bool above = interval->low_open ? number > interval->low : number >= interval->low;
    bool below = interval->high_open ? number < interval->high : number <= interval->high;
    if (above && below) {
        return 0;
    }
    /* "above 0, at most 1". */
    char low[VALUE_DECIMAL_MAX], high[VALUE_DECIMAL_MAX];
    value_decimal_print(interval->low, low);
    value_decimal_print(interval->high, high);
    if (isinf(interval->low) && isinf(interval->high)) {
        strcpy(valid, "any number");
    } else if (isinf(interval->low)) {
        snprintf(valid, 128, "%s %s", interval->high_open ? "below" : "at most", high);
    } else if (isinf(interval->high)) {
        snprintf(valid, 128, "%s %s", interval->low_open ? "above" : "at least", low);
    } else {
        snprintf(valid, 128, "%s %s, %s %s", interval->low_open ? "above" : "at least", low,
                 interval->high_open ? "below" : "at most", high);
    }
    snprintf(text, sizeof text, "%s (valid: %s)", reason, valid);
    return rule_check_refuse(draft, key, reterr, text);
}

void rule_values(const struct rule *rule, double *ret_minimum, double *ret_maximum)
{
    struct rule_metric_info info = rule_metric_info(rule->metric);
    double width = info.maximum - info.minimum;
    *ret_minimum = rule->per_key ? 0 : info.minimum;
    *ret_maximum = rule->per_key ? 1 : info.maximum;
    if (rule->statistic == RULE_SHIFT || rule->statistic == RULE_ABS_SHIFT) {
        bool finite = rule->metric < METRIC_COUNT && isfinite(width);
        *ret_maximum = finite ? width / metric_grain((enum metric)rule->metric, 0) : INFINITY;
        *ret_minimum = -*ret_maximum;
    }
    if (rule->statistic == RULE_STD || rule->statistic == RULE_ABS_SHIFT ||
        rule->statistic == RULE_JS) {
        *ret_minimum = 0;
    }
    if (rule->statistic == RULE_DELTA) {
        *ret_minimum = -width;
    }
    if (rule->statistic == RULE_STD || rule->statistic == RULE_DELTA) {
        *ret_maximum = width;
    }
    if (rule->statistic == RULE_JS) {
        *ret_maximum = LN2;
    }
}

static struct interval values(const struct rule *rule)
{
    struct interval values = {0};
    rule_values(rule, &values.low, &values.high);
    return values;
}

/* Checks */

static int check_statistic(const struct rule_draft *draft, char *reterr)
{
    const struct rule *rule = &draft->rule;
    bool head = rule->metric < METRIC_COUNT;
    if (!head && rule->metric != RULE_SINK_RATE && rule->statistic != RULE_MEAN) {
        return rule_check_refuse(draft, RULE_KEY_STATISTIC, reterr,
                                 "the metric is one number per window (valid: mean)");
    }
    if (!head && rule->statistic >= RULE_DELTA) {
        return rule_check_refuse(
            draft, RULE_KEY_STATISTIC, reterr,
            "drift is of what heads have (valid: mean, std, min, max, p10, p50, p90, p99, "
            "last)");
    }
    if (head && rule->statistic == RULE_JS && metric_info[rule->metric].kind != METRIC_KIND_ROW) {
        return rule_check_refuse(
            draft, RULE_KEY_STATISTIC, reterr,
            "the metric has one value per message, no histogram of rows (valid: delta, "
            "shift, abs_shift)");
    }
    return 0;
}

static int check_scope(const struct rule_draft *draft, char *reterr)
{
    const struct rule *rule = &draft->rule;
    struct rule_metric_info info = rule_metric_info(rule->metric);
    if (rule->each < info.finest) {
        return rule_check_refuse(draft, RULE_KEY_EACH, reterr,
                                 info.finest == RULE_EACH_RUN
                                     ? "the metric is about the run as a whole (valid: run)"
                                     : "the metric is about a layer (valid: layer, run)");
    }
    if (rule->each == RULE_EACH_RUN && rule_is_of_sketches(rule)) {
        return rule_check_refuse(draft, RULE_KEY_EACH, reterr,
                                 "sketches are judged layer by layer (valid: head, layer)");
    }
    if (rule->per_key && (!info.per_key || rule->statistic >= RULE_DELTA)) {
        return rule_check_refuse(draft, RULE_KEY_PER_KEY, reterr,
                                 "the value is not counted in keys (valid: false)");
    }
    return 0;
}

/* All conditions, or those that compare with an earlier value. */
static struct names condition_names(bool rates_only)
{
    struct names names = {.wanted = "", .distance = 32};
    for (int i = 0; i < RULE_CONDITION_COUNT; i++) {
        struct rule rule = {.condition = (enum rule_condition)i};
        if (!rates_only || rule_is_rate(&rule)) {
            names_add(&names, rule_condition_name(rule.condition));
        }
    }
    return names;
}

static int check_time(const struct rule_draft *draft, char *reterr)
{
    const struct rule *rule = &draft->rule;
    if (rule->within != 1 && !rule_is_rate(rule)) {
        struct names names = condition_names(true);
        return config_error(reterr, rule_check_at(draft, RULE_KEY_WITHIN),
                            "%s.within: '%u': %s looks at one capture (valid with %s)",
                            draft->label, (unsigned)rule->within,
                            rule_condition_name(rule->condition), names.list);
    }
    if (rule->metric != RULE_SILENCE) {
        return 0;
    }
    if (rule->times != 1) {
        return rule_check_refuse(draft, RULE_KEY_FOR, reterr, "silence has no captures (valid: 1)");
    }
    if (rule->condition != RULE_ABOVE) {
        return rule_check_refuse(draft, rule_condition_key((int)rule->condition), reterr,
                                 "silence only grows (valid: above)");
    }
    return 0;
}

static int check_bound(const struct rule_draft *draft, char *reterr)
{
    const struct rule *rule = &draft->rule;
    struct interval can_be = values(rule), valid = can_be;
    const char *reason = rule_is_rate(rule) ? "the metric cannot change by more, or always does"
                                            : "the metric is never on one side of it";
    if (rule_compares(rule) == RULE_VALUE) {
        valid.low_open = rule_is_floor(rule);
        valid.high_open = !valid.low_open;
    } else if (rule_compares(rule) == RULE_RATIO) {
        valid = (struct interval){.low = 1, .high = INFINITY, .low_open = true};
    } else {
        valid = (struct interval){0, can_be.high - can_be.low, true, true};
    }
    return require(draft, rule_condition_key((int)rule->condition), rule->bound, &valid, reason,
                   reterr);
}

/* Whether what the keys say fits together. Returns 0, or -1 with a message. */
static int rule_check(const struct rule_draft *draft, char *reterr)
{
    if (check_statistic(draft, reterr) != 0 || check_scope(draft, reterr) != 0 ||
        check_time(draft, reterr) != 0 || check_bound(draft, reterr) != 0) {
        return -1;
    }
    const struct rule *rule = &draft->rule;
    struct interval valid = values(rule);
    if (rule_is_floor(rule)) {
        valid.low = rule->bound;
    } else if (rule_compares(rule) == RULE_VALUE) {
        valid.high = rule->bound;
    } else if (rule_compares(rule) == RULE_RATIO) {
        valid = (struct interval){.low = 0, .high = rule->bound, .low_open = true};
    } else {
        valid = (struct interval){.low = valid.low - valid.high, .high = rule->bound};
    }
    char reason[128];
    snprintf(reason, sizeof reason, "on the wrong side of `%s`, or never reached",
             rule_condition_name(rule->condition));
    return require(draft, RULE_KEY_CLEAR, rule->clear, &valid, reason, reterr);
}

#define LETTERS                                                                                    \
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"                                         \
    "0123456789._-"

/* Words */

static int rule_read_refuse(const struct rule_draft *draft, enum rule_key key, const char *text,
                            struct origin origin, const char *reason, char *reterr)
{
    char quoted[QUOTE_MAX + 4];
    return config_error(reterr, origin, "%s.%s: '%s': %s (valid: %s)", draft->label,
                        rule_keys[key].name, config_quotable(text, quoted), reason,
                        rule_keys[key].valid);
}

/* Candidates for a mistyped metric: names that hold the text or differ in few letters. */
static bool is_close(const char *name, const char *text)
{
    return (strlen(text) >= 3 && strstr(name, text)) || strstr(text, name) ||
           names_distance(name, text) <= 3;
}

static int unknown_metric(const struct rule_draft *draft, const char *text, struct origin origin,
                          char *reterr)
{
    struct names close = {.wanted = text, .distance = 32};
    char quoted[QUOTE_MAX + 4];
    for (uint32_t metric = 0, count = 0; metric < RULE_METRIC_COUNT && count < 8; metric++) {
        if (!is_close(rule_metric_name(metric), text)) {
            continue;
        }
        names_add(&close, rule_metric_name(metric));
        count++;
    }
    return config_error(reterr, origin,
                        "%s.metric: '%s': no such metric (valid: the metrics of PROTOCOL.md and "
                        "those of config/README.md%s%s)",
                        draft->label, config_quotable(text, quoted), close.used ? "; close: " : "",
                        close.list);
}

/* One key */

/* A bound of old counted in another unit, so that the new name alone would not do. */
static int check_old_statistic(const struct rule_draft *draft, const char *text,
                               struct origin origin, char *reterr)
{
    bool absolute = strcmp(text, "abs_z") == 0;
    if (!absolute && strcmp(text, "z") != 0) {
        return 0;
    }
    return config_error(
        reterr, origin,
        "%s.statistic: '%s': is now %s, whose unit is the largest of the baseline's std, the "
        "metric's resolution and 5 %% of its range: choose the bound anew (metrics from 0 "
        "to 1 reach 20; 6 is far). The default rule `drift` is no more: leave a copy of it out",
        draft->label, text, absolute ? "abs_shift" : "shift");
}

static int check_only_condition(const struct rule_draft *draft, enum rule_key key,
                                struct origin origin, char *reterr)
{
    for (int i = 0; i < RULE_CONDITION_COUNT; i++) {
        enum rule_key other = rule_condition_key(i);
        if (other != key && draft->key_line[other]) {
            return config_error(
                reterr, origin, "%s.%s: a second condition (first: %s on line %zu; valid: one)",
                draft->label, rule_keys[key].name, rule_keys[other].name, draft->key_line[other]);
        }
    }
    return 0;
}

/* Reads the value into its field. */
static int rule_read_put(struct rule_draft *draft, enum rule_key key, const char *text,
                         struct origin origin, char *reterr)
{
    const struct rule_field *field = &rule_fields[key];
    void *value = (char *)&draft->rule + field->offset;
    char quoted[QUOTE_MAX + 4], reason[VALUE_REASON_MAX];
    const char *not_layers;
    size_t length = strlen(text);
    uint64_t count;
    unsigned word = 0;
    switch (field->kind) {
    case RULE_FIELD_METRIC:
        draft->rule.metric = rule_metric_find(text);
        return draft->rule.metric == RULE_METRIC_COUNT ? unknown_metric(draft, text, origin, reterr)
                                                       : 0;
    case RULE_FIELD_WORD:
    case RULE_FIELD_BOOL:
        while (field->words[word] && strcmp(field->words[word], text) != 0) {
            word++;
        }
        if (!field->words[word]) {
            return rule_read_refuse(draft, key, text, origin, "not one of the choices", reterr);
        }
        if (field->kind == RULE_FIELD_BOOL) {
            *(bool *)value = word == 1;
        } else {
            *(unsigned *)value = word;
        }
        return 0;
    case RULE_FIELD_PATTERN:
        if (length == 0 || length > RULE_PATTERN_MAX || strspn(text, LETTERS "*?[]!") != length) {
            return config_error(
                reterr, origin,
                "%s.%s: '%s': not a pattern (valid: 1 to %d of A-Z a-z 0-9 . _ - and "
                "* ? [ ] !)",
                draft->label, rule_keys[key].name, config_quotable(text, quoted), RULE_PATTERN_MAX);
        }
        not_layers = key == RULE_KEY_LAYER ? capture_layers_reason(text) : NULL;
        if (not_layers) {
            return rule_read_refuse(draft, key, text, origin, not_layers, reterr);
        }
        memcpy(value, text, length + 1);
        return 0;
    case RULE_FIELD_COUNT:
        if (value_parse(&(struct value_rule){VALUE_COUNT, 1, field->maximum}, text, &count,
                        reason) != 0) {
            return config_error(reterr, origin, "%s.%s: '%s': %s", draft->label,
                                rule_keys[key].name, config_quotable(text, quoted), reason);
        }
        *(uint32_t *)value = (uint32_t)count;
        return 0;
    case RULE_FIELD_NUMBER:
        break;
    }
    return value_decimal(text, value)
               ? 0
               : rule_read_refuse(draft, key, text, origin, "not a number", reterr);
}

int rules_put(struct rule_draft *draft, enum rule_key key, const char *text, struct origin origin,
              char *reterr)
{
    if (draft->key_line[key]) {
        return config_error(reterr, origin, "%s.%s: given twice (first on line %zu)", draft->label,
                            rule_keys[key].name, draft->key_line[key]);
    }
    if (key == RULE_KEY_STATISTIC && check_old_statistic(draft, text, origin, reterr) != 0) {
        return -1;
    }
    if (rule_key_is_condition(key)) {
        if (check_only_condition(draft, key, origin, reterr) != 0) {
            return -1;
        }
        draft->rule.condition = (enum rule_condition)(key - RULE_KEY_BELOW);
    }
    if (rule_read_put(draft, key, text, origin, reterr) != 0) {
        return -1;
    }
    draft->key_line[key] = origin.line;
    return 0;
}

int rules_find_key(const struct rule_draft *draft, const char *name, struct origin origin,
                   char *reterr, enum rule_key *ret_key)
{
    struct names names = {.wanted = name, .distance = 32};
    char guess[64], quoted[QUOTE_MAX + 4];
    for (int key = 0; key < RULE_KEY_COUNT; key++) {
        names_add(&names, rule_keys[key].name);
        if (strcmp(rule_keys[key].name, name) == 0) {
            *ret_key = (enum rule_key)key;
            return 0;
        }
    }
    return config_error(reterr, origin, "%s.%s: unknown key (valid in a rule: %s%s)", draft->label,
                        config_quotable(name, quoted), names.list, names_guess(&names, guess));
}

/* A whole rule */

int rules_begin(const struct config_rules *rules, const char *name, struct origin origin,
                char *reterr, struct rule_draft *ret_draft)
{
    char quoted[QUOTE_MAX + 4];
    size_t length = strlen(name);
    if (length == 0 || length > RULE_NAME_MAX || strspn(name, LETTERS) != length) {
        return config_error(reterr, origin,
                            "rules: '%s': not a name (valid: 1 to %d of A-Z a-z 0-9 . _ -)",
                            config_quotable(name, quoted), RULE_NAME_MAX);
    }
    uint32_t index = 0;
    while (index < rules->count && strcmp(rules->rules[index].name, name) != 0) {
        index++;
    }
    if (index < rules->count && rules->line[index]) {
        return config_error(reterr, origin, "rules.%s: given twice (first on line %zu)", name,
                            rules->line[index]);
    }
    if (index == RULES_MAX) {
        return config_error(reterr, origin, "rules: more than %d rules, defaults included",
                            RULES_MAX);
    }
    *ret_draft = (struct rule_draft){.origin = origin, .index = index};
    ret_draft->rule = index < rules->count ? rules->rules[index] : rule_blank;
    strcpy(ret_draft->rule.name, name);
    snprintf(ret_draft->label, sizeof ret_draft->label, "rules.%s", name);
    return 0;
}

/* To six digits, so that it reads well: 0.11, not 0.11000000000000001. */
static double tidy(double number)
{
    char text[VALUE_DECIMAL_MAX];
    snprintf(text, sizeof text, "%.6g", number);
    value_decimal(text, &number);
    return number;
}

/* 10 % of the bound beyond it, or half of the way to what the metric can be. */
static double clear_of(const struct rule *rule)
{
    double minimum, maximum, slack = 0.1 * fabs(rule->bound);
    rule_values(rule, &minimum, &maximum);
    switch (rule_compares(rule)) {
    case RULE_VALUE:
        return tidy(rule_is_floor(rule) ? fmin(rule->bound + slack, (rule->bound + maximum) / 2)
                                        : fmax(rule->bound - slack, (rule->bound + minimum) / 2));
    case RULE_RATIO:
        return tidy(rule->bound - 0.1 * (rule->bound - 1));
    default:
        return tidy(rule->bound - slack);
    }
}

int rules_end(struct config_rules *rules, struct rule_draft *draft, char *reterr)
{
    if (draft->rule.metric == RULE_METRIC_COUNT) {
        return config_error(reterr, draft->origin,
                            "%s: has no metric, and no default rule has this name", draft->label);
    }
    if (draft->rule.condition == RULE_CONDITION_COUNT) {
        struct names names = condition_names(false);
        return config_error(reterr, draft->origin, "%s: has no condition (valid: one of %s)",
                            draft->label, names.list);
    }
    struct rule *rule = &draft->rule;
    struct rule_metric_info info = rule_metric_info(rule->metric);
    bool condition_given = draft->key_line[rule_condition_key((int)rule->condition)];
    if (!draft->key_line[RULE_KEY_EACH] && rule->each < info.finest) {
        rule->each = info.finest;
    }
    if (!rule_is_rate(rule) && !draft->key_line[RULE_KEY_WITHIN]) {
        rule->within = 1;
    }
    if (condition_given && !draft->key_line[RULE_KEY_CLEAR]) {
        rule->clear = clear_of(rule);
    }
    if (rule_check(draft, reterr) != 0) {
        return -1;
    }
    rules->rules[draft->index] = draft->rule;
    rules->line[draft->index] = draft->origin.line;
    if (draft->index == rules->count) {
        rules->count++;
    }
    return 0;
}
