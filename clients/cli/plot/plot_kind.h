/* SPDX-License-Identifier: MIT */
/* plot_kind: the kinds of figures that attnctl plot draws. Pure; any thread. */
#ifndef PLOT_KIND_H
#define PLOT_KIND_H

#include <stdbool.h>

#define PLOT_ERROR_MAX 1024

enum plot_kind {
    PLOT_HEATMAP,
    PLOT_HEADS,
    PLOT_LAYERS,
    PLOT_FLOW,
    PLOT_AGGREGATE,
    PLOT_ROLLOUT,
    PLOT_SIMILARITY,
    PLOT_SPECTRUM,
    PLOT_TOKENS,
    PLOT_ENTROPY,
    PLOT_SERIES,
    PLOT_KIND_COUNT
};

/* Returns 0; or -1 with a sentence that lists the kinds (PLOT_ERROR_MAX bytes). */
int plot_kind_find(const char *name, enum plot_kind *ret_kind, char *reterr);

const char *plot_kind_name(enum plot_kind kind);
/* One line. */
const char *plot_kind_help(enum plot_kind kind);
/* Whether the kind shows the past, and not maps. */
bool plot_kind_is_past(enum plot_kind kind);
/* Whether there can be a figure per layer, per head. */
bool plot_kind_per_layer(enum plot_kind kind);
bool plot_kind_per_head(enum plot_kind kind);

#endif
