/* SPDX-License-Identifier: MIT */
/* engine: measures one loaded input and writes its numbers as the map of a layer. */
#ifndef CLIENTS_CLI_ANALYZE_ENGINE_H
#define CLIENTS_CLI_ANALYZE_ENGINE_H

#include "clients/cli/analyze/input.h"

#include "proto/mpk.h"

/* Appends one map of `attnd.analysis/1` to an empty writer. Returns 0 or an error of err.def, or
 * -errno of a thread that could not start. */
int engine_measure(const struct input *input, const struct options *options,
                   struct mpk_writer *writer);

/* Whether a map is too large for the spectrum that was asked for. */
bool engine_skips_spectrum(const struct input *input, const struct options *options);

#endif
