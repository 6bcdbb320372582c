/* SPDX-License-Identifier: MIT */
/* alert_sentence: an alert as a sentence with its numbers. */
#include "daemon/alerts/internal.h"

#include <inttypes.h>
#include <math.h>
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
        layer_name(place->layer, where);
    }
    if (place->head >= 0) {
        snprintf(head, sizeof head, " head %" PRId32, place->head);
    }
    pooled = pooled && !alike;
    if (pooled) {
        snprintf(all, sizeof all, " (%s of its %s", how, of_heads ? "heads" : "layers");
    }
    if (rule_is_of_sketches(rule) && place->head >= 0 && cell->worst >= 0 &&
        cell->worst < PROJECTION_COUNT) {
        static const char *const matrices[PROJECTION_COUNT] = {"W_q", "W_k", "W_v", "W_o"};
        snprintf(all, sizeof all, " (%s", matrices[cell->worst]);
        pooled = true;
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

/* The bound that was crossed is always named; where it fires until it is clear, or is clear, that
 * number as well. */
static void alert_message(const struct rule *rule, const struct alert_cell *cell,
                          const struct alert_place *place, double now, enum alert_state state,
                          char ret_text[ALERT_MESSAGE_MAX])
{
    char value[96], where[128], change[96] = "", times[32] = "";
    const char *unit = rule_is_of_windows(rule) ? "window" : "capture";
    bool rate = rule_is_rate(rule);
    const char *beyond = rate ? "more than" : rule_condition_name(rule->condition);
    char end[ALERT_MESSAGE_MAX / 4];
    snprintf(end, sizeof end, "%s%s", state == ALERT_FIRING_AT_END ? ", when the run ended" : "",
             cell->doubtful ? "; or it is induction, which token numbers would tell (tokens=)"
                            : "");
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
    if (rate) { /* ", 0.3 lower than 4 captures ago" */
        snprintf(change, sizeof change, ", %.4g %s %" PRIu32 " %s%s ago", cell->value,
                 rule_change(rule), rule->within, unit, rule->within == 1 ? "" : "s");
    }
    if (cell->held > 1) {
        snprintf(times, sizeof times, " for %" PRIu32 " %ss", cell->held, unit);
    }
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
        snprintf(rest, room, "%s %.4g%s%s", beyond, rule->bound, times, end);
    }
}

/* The newest value of a rate, which its cell does not hold: the newest of the ring. */
static double value_now(const struct rule *rule, const struct alert_cells *cells, uint32_t index)
{
    const struct alert_cell *cell = &cells->cell[index];
    if (!rule_is_rate(rule)) {
        return cell->value;
    }
    const double *past = cells->past + (size_t)index * rule->within;
    return cell->past_count ? past[(cell->past_next + rule->within - 1) % rule->within] : NAN;
}

/* The sentence of first_invalid. */
static void origin_message(const struct alert_origin *origin, const struct alert_cell *cell,
                           enum alert_state state, char ret_text[ALERT_MESSAGE_MAX])
{
    char head[32] = "several heads", layer[LAYER_NAME_MAX], when[80] = "from the start";
    if (cell->passed != ALERT_FROM_START) {
        snprintf(when, sizeof when, "between steps %" PRIu64 " and %" PRIu64, cell->passed,
                 cell->failed);
    }
    if (origin->head >= 0) {
        snprintf(head, sizeof head, "head %" PRId32, origin->head);
    }
    if (state == ALERT_RESOLVED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "no rows are invalid any more");
    } else if (origin->everywhere) {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "rows of all heads are invalid alike: no capture saw where that began, %s", when);
    } else {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "rows became invalid: first in %s of %s, %s: %.4g %% of its rows", head,
                 layer_name(origin->layer, layer), when, 100 * origin->share);
    }
}

void alert_sentence(const struct alerts *alerts, const struct rule *rule,
                    const struct alert_cells *cells, uint32_t index,
                    const struct alert_place *place, enum alert_state state,
                    char ret_text[ALERT_MESSAGE_MAX])
{
    const struct alert_cell *cell = &cells->cell[index];
    if (rule_is_of_loss(rule)) {
        loss_message(&alerts->loss, rule, cell, state, ret_text);
    } else if (rule->metric == RULE_LOST_SHARE && alerts->other_heads && state != ALERT_RESOLVED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "layers have other numbers of heads than before: %.4g %% of the messages are "
                 "dropped as heads_changed%s",
                 100 * cell->value, state == ALERT_FIRING_AT_END ? ", when the run ended" : "");
    } else if (rule->metric == RULE_INVALID_ORIGIN) {
        origin_message(&alerts->origin, cell, state, ret_text);
    } else {
        alert_message(rule, cell, place, value_now(rule, cells, index), state, ret_text);
    }
}
