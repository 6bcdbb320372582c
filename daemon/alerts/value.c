/* SPDX-License-Identifier: MIT */
/* alert_value: the number of a window that a rule judges. */
#include "daemon/alerts/internal.h"

#include <math.h>

/* Beyond the widest tolerance (of f16 and bf16) a sum is off, unless nobody judged it. */
#define ROW_SUM_TOLERANCE 2e-2

bool alert_has(const struct summary_result *summary, const struct rule *rule)
{
    if (rule->metric < METRIC_COUNT) {
        return rule->statistic < RULE_DELTA ? summary->stat[rule->metric] != NULL
                                            : summary->drift[rule->metric] != NULL;
    }
    if (rule->metric == RULE_SINK_RATE) {
        return summary->sink_rate != NULL;
    }
    if (rule->metric == RULE_REDUNDANT_SHARE) {
        return summary->similarity.js != NULL;
    }
    if (rule->metric == RULE_RANK_DISTANCE) {
        return !isnan(summary->rank_distance);
    }
    return !rule_is_of_run(rule);
}

static double of_stat(const struct result_stat *stat, enum rule_statistic statistic)
{
    if (stat->count == 0) {
        return NAN;
    }
    switch (statistic) {
    case RULE_STD:
        return stat->std;
    case RULE_MIN:
        return stat->min;
    case RULE_MAX:
        return stat->max;
    case RULE_P10:
        return stat->p10;
    case RULE_P50:
        return stat->p50;
    case RULE_P90:
        return stat->p90;
    case RULE_P99:
        return stat->p99;
    case RULE_LAST:
        return stat->last;
    default:
        return stat->mean;
    }
}

static double of_drift(const struct result_drift *drift, enum rule_statistic statistic)
{
    switch (statistic) {
    case RULE_DELTA:
        return drift->delta;
    case RULE_SHIFT:
        return drift->shift;
    case RULE_ABS_SHIFT:
        return fabs(drift->shift);
    default:
        return drift->js;
    }
}

double alert_head_value(const struct alert_layer *layer, const struct summary_result *summary,
                        const struct rule *rule, uint32_t head)
{
    const struct alert_head_numbers *numbers = &layer->numbers->head[head];
    switch (rule->metric) {
    case RULE_INVALID_SHARE:
        return summary->invalid_share ? summary->invalid_share[head] : NAN;
    case RULE_SATURATED_ENTROPY:
        return numbers->saturated_entropy;
    case RULE_SATURATED_ALONE:
        return numbers->saturated_alone;
    case RULE_LOST_FOCUS:
        return numbers->lost_focus;
    case RULE_WRITTEN_SHARE:
        return numbers->written_share;
    case RULE_TWIN:
        return numbers->twin;
    default:
        break;
    }
    if (rule->statistic >= RULE_DELTA) {
        return of_drift(&summary->drift[rule->metric][head], rule->statistic);
    }
    double value = of_stat(&summary->stat[rule->metric][head], rule->statistic);
    if (!rule->per_key) {
        return value;
    }
    uint32_t keys = summary->layer.shape[3];
    return keys ? value / keys : NAN;
}

static double alert_value_share(double part, double all)
{
    return all > 0 ? part / all : NAN;
}

/* Sums are not judged after dropout and with a learned sink; a summary does not say so, but there
 * only can the largest error be beyond every tolerance while all rows are sound. */
static double row_sum_error(const struct result_layer *layer)
{
    bool judged = layer->invalid_rows > 0 || layer->row_sum_error <= ROW_SUM_TOLERANCE;
    return judged ? layer->row_sum_error : NAN;
}

double alert_layer_value(const struct alert_layer *judged, const struct summary_result *summary,
                         const struct rule *rule)
{
    const struct result_layer *layer = &summary->layer;
    double heads = summary->heads;
    switch (rule->metric) {
    case RULE_SINK_RATE:
        return of_stat(summary->sink_rate, rule->statistic);
    case RULE_REDUNDANT_SHARE:
        return alert_value_share(summary->similarity.redundant_total, heads * (heads - 1) / 2);
    case RULE_INVALID_SHARE:
        return alert_value_share((double)layer->invalid_rows,
                                 (double)layer->rows + (double)layer->invalid_rows);
    case RULE_FOCUS_SHARE:
        return judged->numbers->focus_share;
    case RULE_LATER_KEYS:
        return judged->numbers->later_keys;
    case RULE_RANK_DISTANCE:
        return summary->rank_distance;
    default:
        return row_sum_error(layer);
    }
}

void alert_gather(struct alert_gathered *gathered, uint32_t head, double value)
{
    if (isnan(value)) {
        return;
    }
    if (gathered->count == 0 || value < gathered->min) {
        gathered->min = value;
        gathered->lowest = head;
    }
    if (gathered->count == 0 || value > gathered->max) {
        gathered->max = value;
        gathered->highest = head;
    }
    gathered->sum += value;
    gathered->count++;
}

double alert_gathered_value(const struct alert_gathered *gathered, const struct rule *rule)
{
    if (gathered->count == 0) {
        return NAN;
    }
    if (rule->statistic == RULE_MIN) {
        return gathered->min;
    }
    if (rule->statistic == RULE_MAX) {
        return gathered->max;
    }
    return gathered->sum / (double)gathered->count;
}

int32_t alert_gathered_worst(const struct alert_gathered *gathered, const struct rule *rule)
{
    if (gathered->count == 0 || gathered->min == gathered->max || !rule_is_of_heads(rule)) {
        return -1;
    }
    return (int32_t)(rule_is_worse_low(rule) ? gathered->lowest : gathered->highest);
}
