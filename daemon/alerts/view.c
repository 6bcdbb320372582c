/* SPDX-License-Identifier: MIT */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>

/* The metrics that rules which are certain look at (quantity.c). */
static const enum metric alert_view_metrics[] = {METRIC_NEXT_TOKEN, METRIC_ENTROPY_NORMALIZED};
#define VIEW_METRICS (sizeof alert_view_metrics / sizeof alert_view_metrics[0])

static int alert_view_reserve(struct alert_view *view, uint32_t heads)
{
    if (heads <= view->heads) {
        return 0;
    }
    alert_view_clear(view);
    view->stat = malloc(heads * VIEW_METRICS * sizeof *view->stat);
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
                                           .rows = layer->rows,
                                           .invalid_rows = layer->invalid_rows,
                                           .row_sum_error = layer->row_sum_error};
    for (uint32_t i = 0; i < VIEW_METRICS; i++) {
        enum metric metric = alert_view_metrics[i];
        struct result_stat *stat = view->stat + (size_t)i * layer->heads;
        summary->stat[metric] = layer->slot_of[metric] ? stat : NULL;
        for (uint32_t h = 0; h < layer->heads; h++) {
            stat[h] = (struct result_stat){.mean = capture_layer_mean(layer, metric, h),
                                           .min = capture_layer_low(layer, metric, h),
                                           .max = capture_layer_high(layer, metric, h),
                                           .count = capture_layer_count(layer, metric, h)};
        }
    }
    for (uint32_t h = 0; h < layer->heads; h++) {
        view->invalid_share[h] = capture_layer_invalid_share(layer, h);
    }
    return 0;
}

void alert_view_clear(struct alert_view *view)
{
    free(view->stat);
    free(view->invalid_share);
    *view = (struct alert_view){.heads = 0};
}
