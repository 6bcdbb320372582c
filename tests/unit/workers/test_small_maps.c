/* SPDX-License-Identifier: MIT */
/* How many cells the maps of heads have that are kept with a window, and what is in them. */
#include "tests/unit/unit.h"

#include "workers/small_maps.h"

/* Maps of `heads` heads, n x n, each cell 1 in the first half of the columns and 0 in the others.
 */
static struct head_maps maps_of(uint32_t heads, uint32_t n)
{
    struct head_maps maps = {.heads = heads, .queries = n, .keys = n, .rows = n, .columns = n};
    maps.values = malloc((size_t)heads * n * n * sizeof *maps.values);
    assert_non_null(maps.values);
    for (size_t i = 0; i < (size_t)heads * n * n; i++) {
        maps.values[i] = i % n < n / 2 ? 1 : 0;
    }
    return maps;
}

static void check_side(uint32_t heads, uint32_t n, uint32_t size, uint32_t side)
{
    struct head_maps maps = maps_of(heads, n);
    struct small_maps *small = small_maps_new(&maps, size);
    assert_non_null(small);
    assert_int_equal(small->heads, heads);
    assert_int_equal(small->rows, side);
    assert_int_equal(small->columns, side);
    assert_int_equal(small->queries, n);
    for (size_t i = 0; i < (size_t)heads * side * side; i++) {
        assert_int_equal(small->values[i], i % side < side / 2 ? 0x3c00 : 0);
    }
    struct small_maps *copy = small_maps_copy(small);
    assert_memory_equal(copy, small, small_maps_bytes(small));
    free(copy);
    free(small);
    free(maps.values);
}

TEST(many_heads_have_fewer_cells)
{
    check_side(1, 64, 32, 32);
    check_side(12, 16, 32, 16);
    check_side(128, 64, 32, 16);
    check_side(1024, 32, 32, 8);
    check_side(4, 32, 4, 4);
}

TEST(beyond_a_number_of_heads_there_are_none)
{
    struct head_maps maps = {.heads = SMALL_MAPS_HEADS + 1, .rows = 1, .columns = 1};
    assert_null(small_maps_new(&maps, 32));
}
