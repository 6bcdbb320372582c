/* SPDX-License-Identifier: MIT */
/* measures: what the engine says of one layer's maps, of one sample. */
#ifndef CLIENTS_CLI_PLOT_MEASURES_H
#define CLIENTS_CLI_PLOT_MEASURES_H

#include "clients/cli/plot/plot_maps.h"

#include "workers/measure.h"

/* The maps of all heads, [heads][queries][keys], as the engine takes them: borrowed. */
struct attention measures_attention(const struct source_layer *layer, const float *values);

/* Whether attnd gave its maps as they were, and not pooled; otherwise a sentence that says what
 * cannot be drawn. Returns CLI_OK or CLI_FINDING. */
int measures_check(struct plot *plot, size_t layer, const char *what);

/* Everything of one group; measure_free is the caller's. Returns CLI_OK, or the exit code with a
 * sentence in plot->error. */
int measures_run(struct plot *plot, const struct attention *attention, enum metric_group group,
                 struct measure **ret_measure);

#endif
