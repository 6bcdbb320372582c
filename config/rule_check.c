/* SPDX-License-Identifier: MIT */
/* rule_check: whether what a rule says can ever be true, and ever be false. */
#include "config/rules_internal.h"

#include <math.h>
#include <string.h>

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
    if (rule->per_key && (!info.per_key || rule->statistic >= RULE_DELTA)) {
        return rule_check_refuse(draft, RULE_KEY_PER_KEY, reterr,
                                 "the value is not counted in keys (valid: false)");
    }
    return 0;
}

static int check_time(const struct rule_draft *draft, char *reterr)
{
    const struct rule *rule = &draft->rule;
    if (rule->within != 1 && !rule_is_rate(rule)) {
        return config_error(reterr, rule_check_at(draft, RULE_KEY_WITHIN),
                            "%s.within: '%u': belongs to falls_by, rises_by and grows_by, not to "
                            "%s",
                            draft->label, (unsigned)rule->within,
                            rule_condition_name(rule->condition));
    }
    if (rule->metric != RULE_SILENCE) {
        return 0;
    }
    if (rule->windows != 1) {
        return rule_check_refuse(draft, RULE_KEY_FOR, reterr, "silence has no windows (valid: 1)");
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
    const char *reason = "the metric is never on one side of it";
    if (rule_compares(rule) == RULE_VALUE) {
        valid.low_open = rule_is_floor(rule);
        valid.high_open = !valid.low_open;
    } else if (rule_compares(rule) == RULE_RATIO) {
        valid = (struct interval){.low = 1, .high = INFINITY, .low_open = true};
        reason = "growing is by more than 1";
    } else {
        valid = (struct interval){0, can_be.high - can_be.low, true, true};
        reason = "the metric cannot change by more, or always does";
    }
    return require(draft, rule_condition_key((int)rule->condition), rule->bound, &valid, reason,
                   reterr);
}

int rule_check(const struct rule_draft *draft, char *reterr)
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
