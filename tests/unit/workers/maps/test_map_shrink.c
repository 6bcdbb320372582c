/* SPDX-License-Identifier: MIT */
/* Small maps against the mean of what is in each cell. */
#include "tests/unit/unit.h"

#include "workers/maps/map_shrink.h"

/* The mean of the finite entries with floor(r R / n) <= i < floor((r + 1) R / n), and columns
 * alike. */
static double mean_in(const float *cells, uint32_t R, uint32_t C, uint32_t n, uint32_t m,
                      uint32_t r, uint32_t c)
{
    double sum = 0, count = 0;
    for (uint32_t i = 0; i < R; i++) {
        for (uint32_t j = 0; j < C; j++) {
            bool in =
                i >= r * R / n && i < (r + 1) * R / n && j >= c * C / m && j < (c + 1) * C / m;
            if (in && isfinite(cells[i * C + j])) {
                sum += (double)cells[i * C + j];
                count++;
            }
        }
    }
    return sum / count;
}

static void check(uint32_t rows, uint32_t columns, uint32_t size)
{
    uint32_t n = rows < size ? rows : size, m = columns < size ? columns : size;
    float *cells = malloc((size_t)rows * columns * sizeof *cells);
    float *in_place = malloc((size_t)rows * columns * sizeof *cells);
    assert_true(cells && in_place);
    for (uint32_t i = 0; i < rows * columns; i++) {
        cells[i] = i % 7 == 3 ? NAN : i % 11 == 5 ? INFINITY : (float)(i * 37 % 101) / 101;
    }
    memcpy(in_place, cells, (size_t)rows * columns * sizeof *cells);
    map_shrink(in_place, rows, columns, size, in_place);
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t c = 0; c < m; c++) {
            double wanted = mean_in(cells, rows, columns, n, m, r, c);
            double got = (double)in_place[r * m + c];
            assert_close_or_nan(got, wanted, 1e-7);
        }
    }
    free(cells);
    free(in_place);
}

TEST(each_cell_is_the_mean_of_the_finite_ones_in_it)
{
    check(64, 64, 24);
    check(17, 5, 8);
    check(5, 40, 7);
    check(128, 128, 1);
    check(1, 1, 24);
}

TEST(a_map_that_fits_stays_as_it_is)
{
    float cells[6] = {0, 0.25F, 0.5F, 1, 2, 3}, small[6];
    map_shrink(cells, 2, 3, 3, small);
    assert_memory_equal(cells, small, sizeof cells);
}
