/* SPDX-License-Identifier: MIT */
/* analyze: arrays of files become layers, then inputs of the engine, whose numbers are printed. */
#ifndef CLIENTS_CLI_ANALYZE_INTERNAL_H
#define CLIENTS_CLI_ANALYZE_INTERNAL_H

#include "clients/cli/analyze/input.h"
#include "proto/mpk.h"
#include "workers/stats/dist.h"

#include <msgpack.h>
#include <stdio.h>

/* engine: measures one loaded input and writes its numbers as the map of a layer. */

/* Appends one map of `attnd.analysis/1` to an empty writer. Returns 0 or an error of err.def, or
 * -errno of a thread that could not start. */
int engine_measure(const struct input *input, const struct options *options,
                   struct mpk_writer *writer);

/* Whether a map is too large for the spectrum that was asked for. */
bool engine_skips_spectrum(const struct input *input, const struct options *options);

/* statistics: the plain statistics of attention maps: mean, std, min, max over all entries as sent,
 * masked ones included. */

/* Entries that are not finite are left out. Accurate to about 1e-15 of the largest entry: within a
 * row in two passes, rows merged (Chan, Golub and LeVeque 1983), all in f64. Returns 0 or
 * ERR_MEMORY. */
int statistics_measure(const struct attention *a, struct moments *ret_entries);

/* Prints {"encoder": [{"layer", "type", "mean", "std", "min", "max", "shape"}], "decoder": [...]};
 * entries[i] belongs to inputs->items[i]. A missing number is null. */
void statistics_print(const struct inputs *inputs, const struct moments *entries, FILE *out);

/* show: one layer of an analysis as a table for people. */

/* `layer` is the map that engine_measure writes. */
void show_layer(const msgpack_object *layer, int width, FILE *out);

#endif
