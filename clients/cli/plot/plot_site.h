/* SPDX-License-Identifier: MIT */
/* plot_site: which of the attentions of a layer --site means. */
#ifndef CLIENTS_CLI_PLOT_PLOT_SITE_H
#define CLIENTS_CLI_PLOT_PLOT_SITE_H

#include "clients/cli/plot/plot.h"

/* Finds the stack and site of "decoder.cross", or of a part of it that only one has of those that
 * the source has; `self_only`: of self-attention. ret_id->layer is 0. Returns CLI_OK, or CLI_USAGE
 * with a sentence in plot->error that lists them. */
int plot_site_find(struct plot *plot, bool self_only, struct layer_id *ret_id);

/* Whether two layers are of one stack and site. */
bool plot_site_is_same(struct layer_id a, struct layer_id b);

#endif
