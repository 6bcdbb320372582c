/* SPDX-License-Identifier: MIT */
/* panels_fit: what a figure of maps leaves out when it is small: first titles of axes that are too
 * long, then all of them, then the ticks. */
#ifndef CLIENTS_CLI_PLOT_PANELS_FIT_H
#define CLIENTS_CLI_PLOT_PANELS_FIT_H

#include "clients/cli/plot/panels_layout.h"

/* Lays the figure out; takes away from `panels` and `bars` what has no room. Returns 0, ERR_MEMORY,
 * or PAGE_TOO_SMALL: *ret_least is then large enough for what cannot be left out. */
int panels_fit(struct panels *panels, struct bar *bars, const struct page *page, double legend,
               struct panels_layout *ret_layout, struct page *ret_least);
/* What goes around all maps. */
struct box panels_fit_outline(const struct panels_layout *layout, const struct panels *panels);

#endif
