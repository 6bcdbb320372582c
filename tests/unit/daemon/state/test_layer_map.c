/* SPDX-License-Identifier: MIT */
/* A layer's pooled map stays with its state until another comes. */
#include "tests/unit/unit.h"

#include "tests/unit/heap.h"
#include "daemon/state/layer_state.h"

static const uint16_t first_cells[] = {1, 2, 3, 4, 5, 6}, later_cells[] = {7};
static const struct layer_map first_map = {20, 30, 2, 3, first_cells},
                              later_map = {1, 1, 1, 1, later_cells};

static int layer_map_add(struct layer_state *state, uint64_t step, const struct layer_map *map)
{
    struct message message = {
        .header = {.heads = 1, .heads_total = 1, .epoch = 3, .step = step, .time_ns = 9}};
    struct measured measured = {.heads = 1, .sink_rate = NAN, .map = map};
    return layer_state_add(state, &message, &measured);
}

static struct layer_state *state_with(uint64_t step, const struct layer_map *map)
{
    struct layer_state *state = layer_state_new(1, 48);
    assert_non_null(state);
    assert_int_equal(layer_map_add(state, step, map), 0);
    return state;
}

static void layer_map_assert_map(const struct layer_state *state, const struct layer_map *map,
                                 uint64_t step)
{
    assert_non_null(state->map);
    const struct layer_map *got = &state->map->map;
    assert_int_equal(got->queries, map->queries);
    assert_int_equal(got->keys, map->keys);
    assert_int_equal(got->rows, map->rows);
    assert_int_equal(got->columns, map->columns);
    assert_memory_equal(got->values, map->values, 2 * map->rows * map->columns);
    assert_int_equal(state->map->epoch, 3);
    assert_int_equal(state->map->step, step);
    assert_int_equal(state->map->time_ns, 9);
}

TEST(messages_without_a_map_leave_the_one_there_is)
{
    OWNED(layer_state_free) struct layer_state *state = state_with(1, NULL);
    uint64_t bytes = layer_state_bytes(state);
    assert_null(state->map);
    assert_int_equal(layer_map_add(state, 2, &first_map), 0);
    assert_true(layer_state_bytes(state) >= bytes + sizeof first_cells);
    assert_int_equal(layer_map_add(state, 3, NULL), 0);
    layer_map_assert_map(state, &first_map, 2);
    assert_int_equal(layer_map_add(state, 4, &later_map), 0);
    layer_map_assert_map(state, &later_map, 4);
}

TEST(of_parts_the_newest_map_counts)
{
    struct layer_state *into = layer_state_new(1, 48), *first = state_with(1, &first_map);
    struct layer_state *later = state_with(2, &later_map), *last = state_with(3, NULL);
    assert_non_null(into);
    assert_int_equal(layer_state_merge(into, first), 0);
    layer_map_assert_map(into, &first_map, 1);
    assert_int_equal(layer_state_merge(into, later), 0);
    assert_int_equal(layer_state_merge(into, last), 0);
    layer_state_free(&first);
    layer_state_free(&later);
    layer_state_free(&last);
    layer_map_assert_map(into, &later_map, 2);
    layer_state_free(&into);
}

TEST(out_of_memory_keeps_the_map_there_is)
{
    OWNED(layer_state_free) struct layer_state *state = state_with(1, &first_map);
    for (unsigned nth = 1; nth <= 2; nth++) {
        heap_fail_at(nth);
        assert_int_equal(layer_map_add(state, 2, &later_map), ERR_MEMORY);
        heap_fail_at(0);
        layer_map_assert_map(state, &first_map, 1);
    }
}
