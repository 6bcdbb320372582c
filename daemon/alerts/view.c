/* SPDX-License-Identifier: MIT */
#include "daemon/alerts/internal.h"

#include "proto/err.h"
#include "proto/pattern.h"

#include <math.h>
#include <stdlib.h>

void alert_view_init(struct alert_view *view, const struct rule *const *rules, uint32_t count)
{
    /* By quantity.c. */
    static const enum metric looked_at[] = {METRIC_ENTROPY_NORMALIZED, METRIC_ENTROPY_SANS_FIRST,
                                            METRIC_STD_LOGIT,          METRIC_FIRST_TOKEN,
                                            METRIC_PREVIOUS_TOKEN,     METRIC_NEXT_TOKEN,
                                            METRIC_INDUCTION,          METRIC_DUPLICATE_TOKEN};
    for (size_t i = 0; i < sizeof looked_at / sizeof looked_at[0]; i++) {
        view->wants[looked_at[i]] = true;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (rules[i]->metric < METRIC_MATRIX_FIRST && !rule_is_of_windows(rules[i])) {
            view->wants[rules[i]->metric] = true;
        }
    }
    view->metrics = 0;
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        view->metrics += view->wants[m];
    }
}

static int alert_view_reserve(struct alert_view *view, uint32_t heads)
{
    if (heads <= view->heads) {
        return 0;
    }
    alert_view_clear(view);
    view->stat = malloc((size_t)heads * view->metrics * sizeof *view->stat);
    view->invalid_share = malloc(heads * sizeof *view->invalid_share);
    view->heads = view->stat && view->invalid_share ? heads : 0;
    return view->heads ? 0 : ERR_MEMORY;
}

int alert_view_fill(struct alert_view *view, const struct result_common *common,
                    const struct capture_layer *layer)
{
    if (alert_view_reserve(view, layer->heads) != 0) {
        return ERR_MEMORY;
    }
    struct summary_result *summary = &view->summary;
    *summary = (struct summary_result){.common = *common,
                                       .heads = layer->heads,
                                       .invalid_share = view->invalid_share,
                                       .rank_distance = NAN};
    summary->layer = (struct result_layer){.id = layer->id,
                                           .shape = {0, layer->heads, 0, layer->keys},
                                           .rows = layer->rows,
                                           .invalid_rows = layer->invalid_rows,
                                           .row_sum_error = layer->row_sum_error};
    struct result_stat *stat = view->stat;
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (!view->wants[m] || !layer->slot_of[m]) {
            continue;
        }
        summary->stat[m] = stat;
        const enum metric metric = (enum metric)m;
        for (uint32_t h = 0; h < layer->heads; h++, stat++) {
            *stat = (struct result_stat){.mean = capture_layer_mean(layer, metric, h),
                                         .min = capture_layer_low(layer, metric, h),
                                         .max = capture_layer_high(layer, metric, h),
                                         .count = capture_layer_count(layer, metric, h)};
        }
    }
    double *room = view->invalid_share;
    for (uint32_t h = 0; h < layer->heads; h++) {
        room[h] = capture_layer_mean(layer, METRIC_FIRST_TOKEN, h);
    }
    double sinks = pattern_sink_rate(room, layer->heads);
    view->sink_rate = (struct result_stat){
        .mean = sinks, .min = sinks, .max = sinks, .count = isnan(sinks) ? 0u : 1u};
    summary->sink_rate = &view->sink_rate;
    for (uint32_t h = 0; h < layer->heads; h++) {
        room[h] = capture_layer_invalid_share(layer, h);
    }
    return 0;
}

void alert_view_clear(struct alert_view *view)
{
    free(view->stat);
    free(view->invalid_share);
    view->stat = NULL;
    view->invalid_share = NULL;
    view->heads = 0;
}
