/* SPDX-License-Identifier: MIT */
/* colormap: colours of numbers from low to high, called as matplotlib calls them; the page has most
 * of them, too (clients/web/colors.js). Pure; any thread. */
#ifndef CLIENTS_CLI_PLOT_COLORMAP_H
#define CLIENTS_CLI_PLOT_COLORMAP_H

#include <stdint.h>

/* Colours are 0xAARRGGBB, not premultiplied. */
#define OPAQUE(rgb) (0xff000000u | (rgb))

struct colormap {
    uint32_t color[256]; /* opaque */
};

extern const uint32_t colormap_viridis[256], colormap_plasma[256], colormap_inferno[256],
    colormap_magma[256];

/* The names, with commas, for messages. */
#define COLORMAP_NAMES "viridis, cividis, plasma, inferno, magma, hot, cool, gray, RdBu"

/* One of the names; "_r" behind it: the other way round. Returns 0, or -1 when there is no such
 * map.
 */
int colormap_find(const char *name, struct colormap *ret_map);

/* The colour of a number: one of 256 steps from `low` to `high`, the first below and the last
 * above; transparent when it is not a number. */
uint32_t colormap_at(const struct colormap *map, double low, double high, double value);

#endif
