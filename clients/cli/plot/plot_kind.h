/* SPDX-License-Identifier: MIT */
/* plot_kind: the kinds of figures that attnctl plot draws. Pure; any thread. */
#ifndef CLIENTS_CLI_PLOT_PLOT_KIND_H
#define CLIENTS_CLI_PLOT_PLOT_KIND_H

#include "clients/cli/base/option.h"

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

/* Sets of kinds; those of the past do not show maps. */
#define PLOT_BIT(kind)  (1u << (kind))
#define PLOT_KINDS_ALL  (PLOT_BIT(PLOT_KIND_COUNT) - 1)
#define PLOT_KINDS_PAST (PLOT_BIT(PLOT_ENTROPY) | PLOT_BIT(PLOT_SERIES))
#define PLOT_KINDS_MAPS (PLOT_KINDS_ALL & ~PLOT_KINDS_PAST)

/* Returns 0; or -1 with a sentence that names a near kind, or all of them (PLOT_ERROR_MAX bytes).
 */
int plot_kind_find(const char *name, enum plot_kind *ret_kind, char *reterr);
/* NULL = there is none. */
const struct option_kind *plot_kind_described(const char *name);

const char *plot_kind_name(enum plot_kind kind);
/* One line. */
const char *plot_kind_help(enum plot_kind kind);

/* "heatmap, layers": the names of a set of kinds. */
void plot_kind_list(unsigned kinds, char *ret_list, size_t size);

#endif
