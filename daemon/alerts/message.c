/* SPDX-License-Identifier: MIT */
/* alert_message: states an alert as a sentence with its numbers. */
#include "daemon/alerts/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "decoder.3.self head 5", "decoder.3.self (mean of its heads, head 2 has the lowest)", "the run".
 */
static void alert_message_name_place(const struct rule *rule, const struct alert_cell *cell,
                                     const struct alert_place *place, char *text, size_t size)
{
    bool of_heads = rule_is_of_heads(rule);
    bool pooled = of_heads ? place->head < 0 : !place->has_layer && !rule_is_of_run(rule);
    bool alike = place->has_layer && cell->worst < 0; /* its heads are, or it has one */
    const char *how = rule->statistic == RULE_MAX   ? "largest"
                      : rule->statistic == RULE_MIN ? "smallest"
                                                    : "mean";
    char where[64] = "the run", head[32] = "", all[32] = "", worst[48] = "";
    if (rule->metric == RULE_LOST_SHARE) {
        strcpy(where, "the messages since the run was last judged");
    }
    if (place->has_layer) {
        snprintf(where, sizeof where, "%s.%" PRIu32 ".%s", stack_name(place->layer.stack),
                 place->layer.layer, site_name(place->layer.site));
    }
    if (place->head >= 0) {
        snprintf(head, sizeof head, " head %" PRId32, place->head);
    }
    pooled = pooled && !alike;
    if (pooled) {
        snprintf(all, sizeof all, " (%s of its %s", how, of_heads ? "heads" : "layers");
    }
    if (rule->metric == RULE_RANK_DISTANCE && place->has_layer) {
        snprintf(all, sizeof all, " (rank %" PRId32, cell->worst);
        pooled = true;
    } else if (pooled && place->has_layer) {
        snprintf(worst, sizeof worst, ", head %" PRId32 " has the %s", cell->worst,
                 rule_is_worse_low(rule) ? "lowest" : "highest");
    }
    snprintf(text, size, "%s%s%s%s%s", where, head, all, worst, pooled ? ")" : "");
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
    if (rule_compares(rule) == RULE_RATIO) {
        snprintf(text, size, "%.4g times what it was %" PRIu32 " window%s ago", change,
                 rule->within, plural);
    } else {
        snprintf(text, size, "%.4g %s than %" PRIu32 " window%s ago", change,
                 rule_is_worse_low(rule) ? "lower" : "higher", rule->within, plural);
    }
}

void alert_message_origin(const struct alert_origin *origin, enum alert_state state,
                          char ret_text[ALERT_MESSAGE_MAX])
{
    char head[32] = "several heads";
    if (origin->head >= 0) {
        snprintf(head, sizeof head, "head %" PRId32, origin->head);
    }
    if (state == ALERT_RESOLVED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "no rows are invalid any more");
    } else if (origin->everywhere) {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "rows of all heads are invalid alike: no capture saw where that began, between "
                 "steps %" PRIu64 " and %" PRIu64,
                 origin->after, origin->before);
    } else {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "rows became invalid: first in %s of %s.%" PRIu32 ".%s, between steps %" PRIu64
                 " and %" PRIu64 ": %.4g of them",
                 head, stack_name(origin->layer.stack), (uint32_t)origin->layer.layer,
                 site_name(origin->layer.site), origin->after, origin->before, origin->share);
    }
}

/* The bound that was crossed is always named; where it fires until it is clear, or is clear, that
 * number as well. */
void alert_message(const struct rule *rule, const struct alert_cell *cell,
                   const struct alert_place *place, double now, enum alert_state state,
                   char ret_text[ALERT_MESSAGE_MAX])
{
    char value[96], where[128], change[96] = "", windows[32];
    bool rate = rule_is_rate(rule);
    const char *beyond = rate ? "more than" : rule_is_floor(rule) ? "below" : "above";
    const char *end = state == ALERT_FIRING_AT_END ? ", when the run ended" : "";
    if (rule->metric == RULE_SILENCE) {
        if (state == ALERT_RESOLVED) {
            snprintf(ret_text, ALERT_MESSAGE_MAX, "the run has been heard of again");
        } else {
            snprintf(ret_text, ALERT_MESSAGE_MAX,
                     "the run is silent: nothing has been heard of it for %.4g s, more than %.4g s",
                     cell->value, rule->bound);
        }
        return;
    }
    /* "max of max_abs_logit", "effective_rank per key". */
    const char *statistic =
        rule->statistic == RULE_ABS_SHIFT ? "|shift|" : rule_statistic_name(rule->statistic);
    bool plain = rule->statistic == RULE_MEAN;
    snprintf(value, sizeof value, "%s%s%s%s", plain ? "" : statistic, plain ? "" : " of ",
             rule_metric_name(rule->metric), rule->per_key ? " per key" : "");
    alert_message_name_place(rule, cell, place, where, sizeof where);
    if (rate) {
        strcpy(change, ", ");
        name_change(rule, cell->value, change + 2, sizeof change - 2);
    }
    windows_text(cell->held, windows);
    const char *says =
        state == ALERT_RESOLVED ? NULL : rule_says(rule->name, rule_metric_name(rule->metric));
    int used = snprintf(ret_text, ALERT_MESSAGE_MAX, "%s%s%s of %s is %.4g%s, ", says ? says : "",
                        says ? ": " : "", value, where, now, change);
    char *rest = ret_text + used; /* names have their bounds, and leave room */
    size_t room = ALERT_MESSAGE_MAX - (size_t)used;
    if (state == ALERT_RESOLVED) {
        snprintf(rest, room, "no longer %s %.4g (clear at %.4g)", beyond, rule->bound, rule->clear);
    } else if (cell->held == 0) {
        snprintf(rest, room, "was %s %.4g and is not back at %.4g%s", beyond, rule->bound,
                 rule->clear, end);
    } else {
        snprintf(rest, room, "%s %.4g%s%s", beyond, rule->bound, windows, end);
    }
}
