/* SPDX-License-Identifier: MIT */
/* In place a new cell is written only over cells that have been read: it has no more rows and
 * columns before it than the first of the cells that come after those in it. */
#include "workers/maps/map_shrink.h"

#include <math.h>

void map_shrink(const float *cells, uint32_t rows, uint32_t columns, uint32_t size,
                float *ret_cells)
{
    uint32_t n = map_shrink_side(rows, size), m = map_shrink_side(columns, size);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t top = map_shrink_edge(r, rows, n), bottom = map_shrink_edge(r + 1, rows, n);
        for (uint32_t c = 0; c < m; c++) {
            uint32_t left = map_shrink_edge(c, columns, m);
            uint32_t right = map_shrink_edge(c + 1, columns, m), finite = 0;
            double sum = 0;
            for (uint32_t i = top; i < bottom; i++) {
                for (uint32_t j = left; j < right; j++) {
                    float x = cells[(uint64_t)i * columns + j];
                    sum += isfinite(x) ? (double)x : 0;
                    finite += isfinite(x) ? 1 : 0;
                }
            }
            *ret_cells++ = finite ? (float)(sum / finite) : NAN;
        }
    }
}
