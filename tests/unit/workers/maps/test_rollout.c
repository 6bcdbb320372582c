/* SPDX-License-Identifier: MIT */
/* Rollout against the formula, worked by hand and written out. */
#include "tests/unit/unit.h"

#include "workers/maps/rollout.h"

enum { N = 9 };

static void identity(uint32_t n, double *matrix)
{
    for (uint32_t i = 0; i < n * n; i++) {
        matrix[i] = i / n == i % n ? 1 : 0;
    }
}

/* 0.5 (A + I) of A = [1 0; 0.5 0.5] is [1 0; 0.25 0.75]: its square has 0.25 + 0.75 * 0.25. */
TEST(two_layers_by_hand)
{
    const float map[] = {1, 0, 0.5f, 0.5f};
    double rollout[4], work[6];
    identity(2, rollout);
    rollout_add(map, 2, 2, rollout, work);
    const double once[] = {1, 0, 0.25, 0.75};
    assert_memory_equal(rollout, once, sizeof once);
    rollout_add(map, 2, 2, rollout, work);
    const double twice[] = {1, 0, 0.4375, 0.5625};
    assert_memory_equal(rollout, twice, sizeof twice);
}

/* The newest layer stands on the left. */
TEST(layers_are_multiplied_from_the_left)
{
    const float first[] = {0, 1, 0, 1}, second[] = {1, 0, 1, 0};
    double rollout[4], work[6];
    identity(2, rollout);
    rollout_add(first, 2, 2, rollout, work);  /* [0.5 0.5; 0 1] */
    rollout_add(second, 2, 2, rollout, work); /* [1 0; 0.5 0.5] times that */
    const double want[] = {0.5, 0.5, 0.25, 0.75};
    assert_memory_equal(rollout, want, sizeof want);
}

/* With 10 keys in 4 cells two have 3: a row of means 0.1 stands for weights that sum to 1. */
TEST(a_cell_counts_as_often_as_it_has_keys)
{
    static const double keys[] = {2, 3, 2, 3};
    float map[16];
    double rollout[16], work[20];
    for (int i = 0; i < 16; i++) {
        map[i] = 0.1f;
    }
    identity(4, rollout);
    rollout_add(map, 4, 10, rollout, work);
    for (int i = 0; i < 16; i++) {
        assert_close(rollout[i], 0.5 * (0.1 * keys[i % 4] + (i / 4 == i % 4)), 1e-8);
    }
}

TEST(rows_stay_distributions)
{
    uint64_t seed = 3;
    float map[N * N];
    double rollout[N * N], work[N * (N + 1)];
    identity(N, rollout);
    for (int layer = 0; layer < 30; layer++) {
        for (int i = 0; i < N * N; i++) { /* of any sum */
            map[i] = (float)(random_unit(&seed) * 5);
        }
        rollout_add(map, N, N, rollout, work);
    }
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < N; j++) {
            assert_true(rollout[i * N + j] >= 0);
            sum += rollout[i * N + j];
        }
        assert_close(sum, 1, 1e-12);
    }
}

TEST(rows_without_a_sound_sum_are_the_identitys)
{
    float map[N * N] = {0};
    double rollout[N * N], before[N * N], work[N * (N + 1)];
    identity(N, rollout);
    for (int i = 0; i < N; i++) {
        map[i * N] = i == 1 ? NAN : i == 2 ? INFINITY : i == 3 ? -5 : 1;
    }
    rollout_add(map, N, N, rollout, work);
    memcpy(before, rollout, sizeof rollout);
    for (int i = 1; i < 4; i++) {
        for (int j = 0; j < N; j++) {
            assert_true(rollout[i * N + j] == (i == j));
        }
    }
    rollout_add(map, N, N, rollout, work);
    assert_memory_equal(rollout + N, before + N, 3 * N * sizeof *rollout);
    assert_close(rollout[4 * N], 0.75, 1e-12);
}
