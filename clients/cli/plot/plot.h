/* SPDX-License-Identifier: MIT */
/* plot: one run of attnctl plot, and what the kinds of figures share. One thread. */
#ifndef CLIENTS_CLI_PLOT_PLOT_H
#define CLIENTS_CLI_PLOT_PLOT_H

#include "clients/cli/plot/chart.h"
#include "clients/cli/plot/page.h"
#include "clients/cli/plot/panels.h"
#include "clients/cli/plot/plot_options.h"
#include "clients/cli/source/source.h"

struct plot {
    struct cli *cli;
    struct plot_options options;
    struct source *source;             /* of the kinds that draw maps */
    const struct source_layer *layers; /* [layer_count]; borrowed from it */
    size_t layer_count;
    struct fonts *fonts;
    char error[PLOT_ERROR_MAX]; /* what went wrong, one sentence */
    bool empty; /* ... and it was only that this figure has no number to show; others may have */
};

/* What one figure is about. */
struct choice {
    size_t layer;
    bool mean; /* over the heads */
    uint32_t head;
};

/* Draws a figure. Returns CLI_OK, or the exit code with a sentence in plot->error. */
typedef int kind_draw(struct plot *plot, const struct choice *choice, struct bytes *ret_file);
kind_draw kind_heatmap, kind_heads, kind_layers, kind_flow, kind_aggregate, kind_rollout,
    kind_similarity, kind_spectrum, kind_tokens, kind_entropy, kind_series;

/* Writes the sentence; returns the code. */
int plot_fail(struct plot *plot, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int plot_fail_memory(struct plot *plot);
/* There is nothing to draw: `why`. */
int plot_fail_empty(struct plot *plot, const char *why);

/* Whether a text such as "decoder.3.self", or a part of it, is about this layer. */
bool plot_layer_matches(const char *text, struct layer_id id);

/* The page of a figure of so many inches, unless the command line says otherwise. The default title
 * is `title`; it is borrowed. */
struct page plot_page(const struct plot *plot, double inches, const char *title);

/* Draws panels of one layer or more, with the colours that the command line asks for. */
int plot_panels(struct plot *plot, struct panels *panels, const struct page *page,
                struct bytes *ret_file);

/* Draws a chart of so many inches. */
int plot_chart(struct plot *plot, const struct chart *chart, double inches, const char *title,
               struct bytes *ret_file);

/* The widths of a figure in one column, and in two. */
#define WIDTH_ONE 3.3
#define WIDTH_TWO 6.9

#endif
