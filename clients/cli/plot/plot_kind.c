/* SPDX-License-Identifier: MIT */
#include "plot_kind.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *help;
    bool past, per_layer, per_head;
} kinds[PLOT_KIND_COUNT] = {
    [PLOT_HEATMAP] = {"heatmap", "one map: of a head, or the mean of all heads", .per_layer = true,
                      .per_head = true},
    [PLOT_HEADS] = {"heads", "all heads of a layer side by side", .per_layer = true},
    [PLOT_LAYERS] = {"layers", "one site across the layers", .per_head = true},
    [PLOT_FLOW] = {"flow", "encoder self, decoder self and cross attention of a layer",
                   .per_layer = true},
    [PLOT_AGGREGATE] = {"aggregate", "sum, mean, max, weighted, importance of a layer's heads",
                        .per_layer = true},
    [PLOT_ROLLOUT] = {"rollout", "attention rollout over the layers of a stack", .past = false},
    [PLOT_SIMILARITY] = {"similarity", "how alike the heads of a layer are", .per_layer = true},
    [PLOT_SPECTRUM] = {"spectrum", "singular values of a layer's heads", .per_layer = true},
    [PLOT_TOKENS] = {"tokens", "what one query attends to, as bars", .per_layer = true,
                     .per_head = true},
    [PLOT_ENTROPY] = {"entropy", "a metric of all heads and layers over time, as a map",
                      .past = true},
    [PLOT_SERIES] = {"series", "a metric of a layer over time, with alerts", .past = true},
};

const char *plot_kind_name(enum plot_kind kind)
{
    return kinds[kind].name;
}

const char *plot_kind_help(enum plot_kind kind)
{
    return kinds[kind].help;
}

bool plot_kind_is_past(enum plot_kind kind)
{
    return kinds[kind].past;
}

bool plot_kind_per_layer(enum plot_kind kind)
{
    return kinds[kind].per_layer;
}

bool plot_kind_per_head(enum plot_kind kind)
{
    return kinds[kind].per_head;
}

int plot_kind_find(const char *name, enum plot_kind *ret_kind, char *reterr)
{
    size_t used;
    for (int i = 0; i < PLOT_KIND_COUNT; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            *ret_kind = (enum plot_kind)i;
            return 0;
        }
    used = (size_t)snprintf(reterr, PLOT_ERROR_MAX, "no kind '%.80s' (valid:", name);
    for (int i = 0; i < PLOT_KIND_COUNT; i++)
        used += (size_t)snprintf(reterr + used, PLOT_ERROR_MAX - used, "%s %s", i > 0 ? "," : "",
                                 kinds[i].name);
    snprintf(reterr + used, PLOT_ERROR_MAX - used, ")");
    return -1;
}
