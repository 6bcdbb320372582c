/* SPDX-License-Identifier: MIT */
/* Tier rows as a whole message: jobs, what is on, the maps beside it, memory. */
#include "tests/unit/workers/rows/sums_fixture.h"

#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/measure.h"

static int rows_set_up(void **state)
{
    struct drawn *d = drawn_new();
    drawn_set_mask(d, 1);
    drawn_send(d, APART_BY_PLACE);
    *state = d;
    return 0;
}

static int rows_tear_down(void **state)
{
    free(*state);
    return 0;
}

#define ROWS_TEST(name) TEST_OF(name, struct drawn *d, rows_set_up, rows_tear_down)

static struct measure_plan all_of(uint64_t block_entries)
{
    static const double head_weights[SUMS_HEADS] = {1, 1, 1, 1};
    struct measure_plan plan = {.whole = true,
                                .head_pairs = true,
                                .top_pairs = 5,
                                .local_window = 99,
                                .head_weights = head_weights,
                                .head_weight_count = SUMS_HEADS,
                                .spectrum_max_size = 128,
                                .qk_maps_max_size = 128,
                                .block_entries = block_entries,
                                .isa = isa_best()};
    for (uint32_t g = 0; g < METRIC_GROUP_COUNT; g++) {
        plan.group[g] = true;
    }
    return plan;
}

/* Runs the jobs last to first. */
static int rows_run(const struct sent_sums *rows, const struct head_maps *maps, const void *halves,
                    const struct measure_plan *plan, struct measure **ret_measure)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    int rc = measure_new_rows(rows, maps, halves, plan, ret_measure);
    for (uint32_t i = rc == 0 ? measure_jobs(*ret_measure) : 0; i > 0; i--) {
        assert_int_equal(measure_job_kind(*ret_measure, i - 1), MEASURE_ROWS);
        measure_run(*ret_measure, i - 1, &scratch);
    }
    rc = rc == 0 ? measure_finish(*ret_measure, &scratch) : rc;
    if (rc != 0) {
        measure_free(ret_measure);
    }
    return rc;
}

ROWS_TEST(jobs_give_what_one_gives)
{
    struct measure_plan whole = all_of(UINT64_MAX), cut = all_of(2000);
    struct measure *one = NULL, *many = NULL;
    assert_int_equal(rows_run(&d->rows, NULL, NULL, &whole, &one), 0);
    assert_int_equal(rows_run(&d->rows, NULL, NULL, &cut, &many), 0);
    assert_int_equal(measure_jobs(one), 1);
    assert_int_equal(measure_jobs(many), 18);
    const struct measured *a = measure_result(one), *b = measure_result(many);
    assert_int_equal(a->tier, TIER_ROWS);
    assert_int_equal(a->rows, SUMS_ROWS);
    assert_int_equal(b->rows, SUMS_ROWS);
    for (int m = 0; m < METRIC_COUNT; m++) {
        assert_true(!a->value[m] == !b->value[m]);
        for (uint32_t h = 0; a->value[m] && h < SUMS_HEADS; h++) {
            double tolerance = 1e-9 * fmax(1, fabs(a->value[m][h]));
            assert_close_or_nan(b->value[m][h], a->value[m][h], tolerance);
        }
    }
    measure_free(&one);
    measure_free(&many);
}

ROWS_TEST(what_needs_a_map_is_not_there)
{
    struct measure_plan plan = all_of(UINT64_MAX);
    struct measure *measure = NULL;
    assert_int_equal(rows_run(&d->rows, NULL, NULL, &plan, &measure), 0);
    const struct measured *m = measure_result(measure);
    assert_null(m->map);
    assert_null(m->head_similarity);
    assert_int_equal(m->pair_count, 0);
    assert_false(m->has_spectra || m->has_aggregate[AGGREGATE_MEAN]);
    assert_null(m->value[METRIC_OUTPUT_NORM]);
    assert_null(m->value[METRIC_SINK_DEFICIT]);
    assert_non_null(m->value[METRIC_IMPORTANCE]);
    assert_non_null(m->pattern);
    assert_int_equal(m->local_window, 3);
    assert_close(m->sink_rate, 0, 1);
    assert_null(measure_take_head_maps(measure));
    measure_free(&measure);
}

ROWS_TEST(a_slice_of_the_heads_has_no_importance)
{
    struct measure_plan plan = all_of(UINT64_MAX);
    struct measure *measure = NULL;
    plan.whole = false;
    assert_int_equal(rows_run(&d->rows, NULL, NULL, &plan, &measure), 0);
    assert_true(isnan(measure_result(measure)->sink_rate));
    const double *importance = measure_result(measure)->value[METRIC_IMPORTANCE];
    assert_true(!importance || isnan(importance[0]));
    measure_free(&measure);
}

ROWS_TEST(maps_beside_it_are_taken_where_they_are_wanted)
{
    struct measure_plan plan = all_of(UINT64_MAX);
    struct measure *measure = NULL;
    uint16_t halves[SUMS_HEADS * 4];
    struct head_maps shape = {.heads = SUMS_HEADS,
                              .queries = 2,
                              .keys = 2,
                              .queries_sent = 70,
                              .keys_sent = 70,
                              .rows = 2,
                              .columns = 2};
    for (uint32_t i = 0; i < SUMS_HEADS * 4; i++) {
        halves[i] = (uint16_t)(i / 4 < 2 ? 0x3c00 : 0); /* 1, 0 */
    }
    assert_int_equal(rows_run(&d->rows, &shape, halves, &plan, &measure), 0);
    assert_null(measure_take_head_maps(measure));
    measure_free(&measure);
    plan.head_maps_size = 16;
    plan.pooled_map = true;
    assert_int_equal(rows_run(&d->rows, &shape, halves, &plan, &measure), 0);
    const struct layer_map *map = measure_result(measure)->map;
    struct head_maps *maps = measure_take_head_maps(measure);
    assert_non_null(maps);
    assert_close((double)maps->values[0], 1, 0);
    assert_int_equal(map->queries, 2);
    assert_int_equal(map->values[3], 0x3800); /* 0.5 */
    head_maps_free(&maps);
    measure_free(&measure);
}

ROWS_TEST(a_number_that_cannot_be_is_an_error_of_the_message)
{
    struct measure_plan plan = all_of(2000);
    struct measure *measure = NULL;
    drawn_sum(d, ROW_SUM_TOTAL)[SUMS_ROWS - 1] = -1;
    assert_int_equal(rows_run(&d->rows, NULL, NULL, &plan, &measure), ERR_ROWS);
    assert_null(measure);
}

ROWS_TEST(out_of_memory_is_an_error)
{
    struct measure_plan plan = all_of(2000);
    bool failed = true;
    for (unsigned nth = 1; failed; nth++) {
        struct measure *measure = NULL;
        heap_fail_at(nth);
        int rc = rows_run(&d->rows, NULL, NULL, &plan, &measure);
        failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(rc, failed ? ERR_MEMORY : 0);
        measure_free(&measure);
    }
}

ROWS_TEST(its_cost_grows_with_its_rows)
{
    struct measure_plan plan = all_of(1 << 20);
    struct sent_sums more = d->rows;
    uint64_t cost = measure_rows_cost(&d->rows, &plan);
    assert_true(cost > 65536 && cost < (16 << 20));
    more.rows = more.queries = 100 * more.rows;
    assert_true(measure_rows_cost(&more, &plan) > cost);
    more.batch = more.heads = more.rows = INT32_MAX;
    assert_true(measure_rows_cost(&more, &plan) >= UINT64_C(1) << 40);
}
