/* SPDX-License-Identifier: MIT */
#include "colormap.h"

#include <math.h>
#include <string.h>

/* A byte of a ramp: 0 below 0, 255 above 1. */
static uint32_t ramp(double x)
{
    double limited = fmin(1, fmax(0, x));
    return (uint32_t)floor(255 * limited + 0.5);
}

static uint32_t rgb(uint32_t red, uint32_t green, uint32_t blue)
{
    return OPAQUE(red << 16 | green << 8 | blue);
}

/* The usual piecewise linear ramps: black, red, yellow, white; and cyan to magenta. */
static uint32_t hot(double t)
{
    return rgb(ramp(t / 0.365079), ramp((t - 0.365079) / 0.380953),
               ramp((t - 0.746032) / 0.253968));
}

static uint32_t cool(double t)
{
    return rgb(ramp(t), ramp(1 - t), 255);
}

static const struct {
    const char *name;
    const uint32_t *table;       /* NULL: computed */
    uint32_t (*color)(double t); /* of [0, 1] */
} known[] = {
    {"viridis", colormap_viridis, NULL},
    {"plasma", colormap_plasma, NULL},
    {"inferno", colormap_inferno, NULL},
    {"magma", colormap_magma, NULL},
    {"hot", NULL, hot},
    {"cool", NULL, cool},
};

int colormap_find(const char *name, struct colormap *ret_map)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(known[i].name, name) != 0)
            continue;
        ret_map->name = known[i].name;
        for (uint32_t step = 0; step < 256; step++)
            ret_map->color[step] =
                known[i].table ? OPAQUE(known[i].table[step]) : known[i].color(step / 255.0);
        return 0;
    }
    return -1;
}

uint32_t colormap_at(const struct colormap *map, double low, double high, double value)
{
    if (isnan(value))
        return 0;
    double step = floor(256 * (value - low) / (high - low));
    return map->color[(uint32_t)fmin(255, fmax(0, step))];
}
