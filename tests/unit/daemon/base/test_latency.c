/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/stats.h"

#include <pthread.h>

static uint64_t latency_count(struct latency *latency, int i)
{
    return atomic_load(&latency->count[i]);
}

TEST(a_bound_belongs_to_its_class)
{
    struct latency latency = {.sum_ns = 0};
    for (int i = 0; i < LATENCY_BOUNDS; i++) {
        latency_add(&latency, latency_bound_ns[i]);
        latency_add(&latency, latency_bound_ns[i] + 1);
    }
    assert_int_equal(latency_count(&latency, 0), 1);
    for (int i = 1; i < LATENCY_BOUNDS; i++) {
        assert_int_equal(latency_count(&latency, i), 2);
    }
    assert_int_equal(latency_count(&latency, LATENCY_BOUNDS), 1);
}

TEST(bounds_ascend)
{
    for (int i = 1; i < LATENCY_BOUNDS; i++) {
        assert_true(latency_bound_ns[i] > latency_bound_ns[i - 1]);
    }
}

TEST(a_clock_that_goes_back_counts_as_no_time)
{
    struct latency latency = {.sum_ns = 0};
    latency_add_between(&latency, 500, 200);
    latency_add_between(&latency, 200, 500);
    assert_int_equal(latency_count(&latency, 0), 2);
    assert_int_equal(atomic_load(&latency.sum_ns), 300);
}

#define ADDITIONS 20000

static void *test_latency_add(void *data)
{
    for (int i = 0; i < ADDITIONS; i++) {
        latency_add(data, 1);
    }
    return NULL;
}

TEST(threads_lose_nothing)
{
    struct latency latency = {.sum_ns = 0};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, test_latency_add, &latency), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(latency_count(&latency, 0), 4 * ADDITIONS);
    assert_int_equal(atomic_load(&latency.sum_ns), 4 * ADDITIONS);
}
