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

/* statistics: the plain statistics of attention maps: mean, std, min, max over all entries as sent,
 * masked ones included. */

/* show: one layer of an analysis as a table for people. */

/* `layer` is the map that engine_measure writes. */
void show_layer(const msgpack_object *layer, int width, FILE *out);

#endif
