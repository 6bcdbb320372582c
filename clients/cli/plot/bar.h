/* SPDX-License-Identifier: MIT */
/* bar: the colour bar beside a map. */
#ifndef CLIENTS_CLI_PLOT_BAR_H
#define CLIENTS_CLI_PLOT_BAR_H

#include "clients/cli/plot/heat.h"
#include "clients/cli/plot/page.h"

struct bar {
    const struct colormap *colors;
    double low, high;  /* of the colours */
    bool below, above; /* there are values beyond: the bar has a point there */
    const char *title; /* "" = none */
};

/* Points that it needs beside a box of this height, with the gap to the box. */
double bar_room(const struct bar *bar, struct fonts *fonts, double height);
/* To the right of the box. */
void bar_draw(const struct bar *bar, struct fonts *fonts, struct box box, struct canvas *canvas);

#endif
