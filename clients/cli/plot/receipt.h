/* SPDX-License-Identifier: MIT */
/* receipt: what was written, for programs: a line of JSON per figure. */
#ifndef CLIENTS_CLI_PLOT_RECEIPT_H
#define CLIENTS_CLI_PLOT_RECEIPT_H

#include "clients/cli/plot/plot.h"

/* {"figure": path, "kind": "heatmap", "layer": "decoder.3.self", "head": 7}: `layer` is null of
 * figures that are not of one layer, `head` of those that are not of one head, and when the mean
 * over all is shown. Returns CLI_OK, or the exit code when the sentence stands on err. */
int receipt_print(struct plot *plot, const struct choice *choice, const char *path, FILE *out);

#endif
