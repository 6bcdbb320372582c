/* SPDX-License-Identifier: MIT */
/* plot_maps: what figures take from a source: maps, their axes, and what to call them. */
#ifndef CLIENTS_CLI_PLOT_PLOT_MAPS_H
#define CLIENTS_CLI_PLOT_PLOT_MAPS_H

#include "clients/cli/plot/plot.h"

/* The sample to draw: what the command line says, or the layer's first. */
uint32_t plot_maps_sample(const struct plot *plot, size_t layer);

/* A head's map, or the mean over the heads, [rows][columns]; the caller's. Returns CLI_OK, or the
 * exit code with a sentence in plot->error. */
int plot_maps_read(struct plot *plot, const struct choice *choice, float **ret_values);
/* All heads' maps, [heads][rows][columns]. */
int plot_maps_read_heads(struct plot *plot, size_t layer, float **ret_values);

struct heat plot_maps_heat(const struct source_layer *layer, const float *values);

/* Texts of tokens, borrowed from the source in an array of the caller's; NULL when there are none.
 */
struct map_texts {
    const char **x, **y; /* [columns], [rows] */
};
int plot_maps_texts(struct plot *plot, size_t layer, struct map_texts *ret_texts);
void plot_maps_texts_clear(struct map_texts *texts);

/* A panel with its axes; `texts` and `values` are borrowed. */
struct panel plot_maps_panel(const struct source_layer *layer, const float *values,
                             const struct map_texts *texts);

/* ", sample 1, step 1200, pooled to 128 x 128": what there is to say. */
#define DETAILS_MAX 136
void plot_maps_details(const struct plot *plot, size_t layer, char ret_text[DETAILS_MAX]);
/* "decoder.3.self, head 2, step 1200", into TITLE_MAX bytes. */
void plot_maps_title(const struct plot *plot, const struct choice *choice, char *ret_title);
/* "head 2", "mean of 12 heads" */
void plot_maps_head_text(const struct plot *plot, const struct choice *choice, char ret_text[48]);

#endif
