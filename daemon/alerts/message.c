/* SPDX-License-Identifier: MIT */
/* alert_message: states an alert as a sentence with its numbers. */
#include "daemon/alerts/internal.h"

#include <inttypes.h>
#include <stdio.h>

/* "max of max_abs_logit", "effective_rank per key". */
static void name_value(const struct rule *rule, char *text, size_t size)
{
    const char *statistic =
        rule->statistic == RULE_ABS_Z ? "|z|" : rule_statistic_name(rule->statistic);
    bool plain = rule->statistic == RULE_MEAN;
    snprintf(text, size, "%s%s%s%s", plain ? "" : statistic, plain ? "" : " of ",
             rule_metric_name(rule->metric), rule->per_key ? " per key" : "");
}

/* "decoder.3.self head 5", "decoder.3.self (mean of its heads)", "the run". */
static void alert_message_name_place(const struct rule *rule, const struct alert_place *place,
                                     char *text, size_t size)
{
    bool of_heads = rule->metric < METRIC_COUNT;
    bool pooled = of_heads ? place->head < 0 : !place->has_layer && rule->metric < RULE_LOST_SHARE;
    const char *how = rule->statistic == RULE_MAX   ? "largest"
                      : rule->statistic == RULE_MIN ? "smallest"
                                                    : "mean";
    char where[64] = "the run", head[32] = "", all[32] = "";
    if (place->has_layer) {
        snprintf(where, sizeof where, "%s.%" PRIu32 ".%s", stack_name(place->layer.stack),
                 place->layer.layer, site_name(place->layer.site));
    }
    if (place->head >= 0) {
        snprintf(head, sizeof head, " head %" PRId32, place->head);
    }
    if (pooled) {
        snprintf(all, sizeof all, " (%s of its %s)", how, of_heads ? "heads" : "layers");
    }
    snprintf(text, size, "%s%s%s", where, head, all);
}

/* " for 3 windows", or nothing. */
static const char *windows_text(uint32_t windows, char ret_text[32])
{
    ret_text[0] = '\0';
    if (windows > 1) {
        snprintf(ret_text, 32, " for %" PRIu32 " windows", windows);
    }
    return ret_text;
}

/* "0.3 lower than 4 windows ago", "5 times what it was 1 window ago". */
static void name_change(const struct rule *rule, double change, char *text, size_t size)
{
    const char *plural = rule->within == 1 ? "" : "s";
    if (rule->condition == RULE_GROWS_BY) {
        snprintf(text, size, "%.4g times what it was %" PRIu32 " window%s ago", change,
                 rule->within, plural);
    } else {
        snprintf(text, size, "%.4g %s than %" PRIu32 " window%s ago", change,
                 rule->condition == RULE_FALLS_BY ? "lower" : "higher", rule->within, plural);
    }
}

static void of_silence(const struct rule *rule, const struct alert_cell *cell,
                       enum alert_reason reason, char ret_text[ALERT_MESSAGE_MAX])
{
    if (reason == ALERT_BECAUSE_IT_HOLDS) {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "nothing has been heard of the run for %.4g s, more than %.4g s", cell->value,
                 rule->bound);
    } else {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "the run %s",
                 reason == ALERT_BECAUSE_IT_ENDED ? "has ended" : "has been heard of again");
    }
}

void alert_message(const struct rule *rule, const struct alert_cell *cell,
                   const struct alert_place *place, double now, enum alert_reason reason,
                   char ret_text[ALERT_MESSAGE_MAX])
{
    char value[96], where[128], change[96], windows[32];
    bool holds = reason == ALERT_BECAUSE_IT_HOLDS, below = rule->condition == RULE_BELOW;
    if (rule->metric == RULE_SILENCE) {
        of_silence(rule, cell, reason, ret_text);
        return;
    }
    name_value(rule, value, sizeof value);
    alert_message_name_place(rule, place, where, sizeof where);
    name_change(rule, cell->value, change, sizeof change);
    windows_text(cell->held, windows);
    if (reason == ALERT_BECAUSE_IT_ENDED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s of %s: the run has ended", value, where);
    } else if (holds && cell->held == 0) { /* it fires until it is clear */
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s of %s is %.4g%s%s, not back at %.4g", value,
                 where, now, rule_is_rate(rule->condition) ? ", " : "",
                 rule_is_rate(rule->condition) ? change : "", rule->clear);
    } else if (rule_is_rate(rule->condition)) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s of %s is %.4g, %s, %s %.4g%s", value, where, now,
                 change, holds ? "more than" : "at most", holds ? rule->bound : rule->clear,
                 holds ? windows : " again");
    } else if (holds) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s of %s is %.4g, %s %.4g%s", value, where, now,
                 below ? "below" : "above", rule->bound, windows);
    } else {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s of %s is %.4g again, %s %.4g", value, where, now,
                 below ? "at least" : "at most", rule->clear);
    }
}
