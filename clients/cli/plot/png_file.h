/* SPDX-License-Identifier: MIT */
/* png_file: pixels as a PNG file in memory. */
#ifndef CLIENTS_CLI_PLOT_PNG_FILE_H
#define CLIENTS_CLI_PLOT_PNG_FILE_H

#include "clients/cli/plot/canvas.h"

/* Pixels 0xAARRGGBB (not premultiplied), `stride` of them from row to row. */
struct pixels {
    const uint32_t *data;
    uint32_t width, height;
    size_t stride;
    bool alpha;   /* otherwise the first byte is not looked at */
    bool smaller; /* takes more time for a smaller file */
    double dpi;   /* 0 = not said */
};

/* Returns 0 or ERR_MEMORY. */
int png_encode(const struct pixels *pixels, struct bytes *ret_file);

#endif
