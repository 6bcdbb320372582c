/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/colormap.h"

#include <math.h>
#include <stdbool.h>
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

/* Piecewise linear ramps: black, red, yellow, white, from black on (matplotlib's from a dark red);
 * and cyan to magenta. */
static uint32_t hot(double t)
{
    return rgb(ramp(t / 0.365079), ramp((t - 0.365079) / 0.380953),
               ramp((t - 0.746032) / 0.253968));
}

static uint32_t cool(double t)
{
    return rgb(ramp(t), ramp(1 - t), 255);
}

static uint32_t gray(double t)
{
    return rgb(ramp(t), ramp(t), ramp(t));
}

/* A colour at a place between 0 and 255. */
struct control {
    uint32_t at, color;
};

/* cividis (Nunez, Anderton, Renslow 2018): with straight lines between these its 256 colours are
 * right to 1 / 255. */
static const struct control cividis[] = {
    {0, 0x00224e},   {20, 0x003070},  {23, 0x013271},  {29, 0x143670},  {39, 0x263d6e},
    {60, 0x3f4c6c},  {92, 0x5e626e},  {130, 0x7e7d78}, {158, 0x999277}, {193, 0xbdae6c},
    {217, 0xd6c35d}, {234, 0xe9d34e}, {248, 0xf9e03a}, {251, 0xfde334}, {255, 0xfee838},
};

/* RdBu of eleven classes, of ColorBrewer (Brewer, Harrower; Apache licence), every 25.5 of 255. */
static const uint32_t classes[] = {0x67001f, 0xb2182b, 0xd6604d, 0xf4a582, 0xfddbc7, 0xf7f7f7,
                                   0xd1e5f0, 0x92c5de, 0x4393c3, 0x2166ac, 0x053061};

/* From one colour to another, a share of the way. */
static uint32_t mix(uint32_t from, uint32_t to, double share)
{
    uint32_t mixed = 0;
    for (int shift = 0; shift <= 16; shift += 8) {
        double a = from >> shift & 0xff, b = to >> shift & 0xff;
        mixed |= ramp((a + share * (b - a)) / 255) << shift;
    }
    return OPAQUE(mixed);
}

static uint32_t color_cividis(double t)
{
    const struct control *next = cividis + 1;
    double at = 255 * t;
    while (next->at < at && next->at < 255)
        next++;
    return mix(next[-1].color, next->color, (at - next[-1].at) / (next->at - next[-1].at));
}

static uint32_t red_blue(double t)
{
    int first = (int)fmin(9, floor(10 * t));
    return mix(classes[first], classes[first + 1], 10 * t - first);
}

static const struct {
    const char *name;
    const uint32_t *table;       /* NULL: computed */
    uint32_t (*color)(double t); /* of [0, 1] */
} known[] = {
    {"viridis", colormap_viridis, NULL},
    {"cividis", NULL, color_cividis},
    {"plasma", colormap_plasma, NULL},
    {"inferno", colormap_inferno, NULL},
    {"magma", colormap_magma, NULL},
    {"hot", NULL, hot},
    {"cool", NULL, cool},
    {"gray", NULL, gray},
    {"RdBu", NULL, red_blue},
};

/* Whether a text is a name, or a name with "_r" behind it. */
static bool is_named(const char *text, const char *name, bool *ret_reversed)
{
    size_t length = strlen(name);
    *ret_reversed = strncmp(text, name, length) == 0 && strcmp(text + length, "_r") == 0;
    return *ret_reversed || strcmp(text, name) == 0;
}

int colormap_find(const char *name, struct colormap *ret_map)
{
    bool reversed;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (!is_named(name, known[i].name, &reversed))
            continue;
        for (uint32_t step = 0; step < 256; step++)
            ret_map->color[reversed ? 255 - step : step] =
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
