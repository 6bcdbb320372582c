/* SPDX-License-Identifier: MIT */
/* A state is what its values are, whichever way they came; and the memory that it takes. */
#include "tests/unit/daemon/state/layer_state_fixture.h"

#include "tests/unit/heap.h"

#include <malloc.h>

/* By the definition: every value of every message, through lists at full resolution. */
static struct dist brute_force(int metric, uint32_t head)
{
    struct dist dist = {0};
    for (int i = 0; i < STREAM; i++) {
        const struct measured *measured = measure_result(stream[i]->measure);
        if (!measured->value[metric]) {
            continue;
        }
        if (metric < METRIC_ROW_COUNT) {
            assert_int_equal(dist_merge(&dist, &measured->head[head].row[metric]), 0);
        } else {
            assert_int_equal(dist_add(&dist, measured->value[metric][head]), 0);
        }
    }
    dist_limit(&dist, BUCKETS);
    return dist;
}

TEST(a_state_is_what_its_values_are)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    unsigned seen = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            OWNED(dist_clear) struct dist got = dist_of(state, m, h), want = brute_force(m, h);
            struct moments moments = layer_state_moments(state, m, h);
            assert_same_dist(&got, &want);
            assert_memory_equal(&moments, &got.moments, sizeof moments);
            seen += want.moments.n > 0;
        }
    }
    assert_true(seen >= 28 * HEADS);
}

TEST(last_is_of_the_newest_message_that_has_it)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    const struct measured *newest = measure_result(stream[STREAM - 1]->measure);
    const struct measured *spectra = measure_result(stream[STREAM - 1]->measure);
    for (int i = STREAM - 1; !spectra->has_spectra; i--) {
        spectra = measure_result(stream[i]->measure);
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        const struct stat_set *set = &state->head[h].stats;
        for (uint32_t m = 0; m < METRIC_MATRIX_FIRST; m++) {
            bool in_turn = metric_info[m].group == METRIC_GROUP_SPECTRUM;
            const struct measured *of = in_turn ? spectra : newest;
            assert_relative(stat_find(set, m).last, of->value[m] ? of->value[m][h] : NAN, 0);
        }
        for (uint32_t i = 0; i < vector_info[VECTOR_SINGULAR_VALUES].width; i++) {
            assert_relative(stat_find(set, layer_vector_slot(VECTOR_SINGULAR_VALUES, i)).last,
                            spectra->vector[VECTOR_SINGULAR_VALUES]
                                           [h * vector_info[VECTOR_SINGULAR_VALUES].width + i],
                            0);
        }
    }
}

/* An older message that is late adds its values, and is not the newest. */
TEST(order_of_arrival_does_not_matter)
{
    OWNED(layer_state_free) struct layer_state *state = empty_state(), *whole = whole_state();
    for (int i = STREAM - 1; i >= 0; i--) {
        take_from_stream(state, i);
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_relative(stat_find(&state->head[h].stats, METRIC_ENTROPY).last,
                        stat_find(&whole->head[h].stats, METRIC_ENTROPY).last, 0);
        assert_int_equal(state->head[h].pattern, whole->head[h].pattern);
    }
    assert_int_equal(state->step, whole->step);
}

#define PARTS 6

static void merge_into(struct layer_state *into, const struct layer_state *from)
{
    assert_int_equal(layer_state_merge(into, from), 0);
}

static void assert_same_dists(const struct layer_state *a, const struct layer_state *b)
{
    for (uint32_t h = 0; h < HEADS; h++) {
        for (int m = 0; m < METRIC_COUNT; m++) {
            OWNED(dist_clear) struct dist of_a = dist_of(a, m, h), of_b = dist_of(b, m, h);
            assert_same_dist(&of_a, &of_b);
        }
    }
}

/* Deals the stream to parts, each in the order of arrival. */
static void deal(struct layer_state *part[PARTS], uint64_t *seed)
{
    for (int p = 0; p < PARTS; p++) {
        part[p] = layer_state_new(HEADS, BUCKETS);
    }
    for (int i = 0; i < STREAM; i++) {
        take_from_stream(part[(int)(PARTS * random_unit(seed))], i);
    }
}

static void free_parts(struct layer_state *part[PARTS])
{
    for (int p = 0; p < PARTS; p++) {
        layer_state_free(&part[p]);
    }
}

TEST(parts_merged_one_by_one_are_the_whole)
{
    uint64_t seed = 11;
    OWNED(layer_state_free) struct layer_state *whole = whole_state();
    struct layer_state *part[PARTS];
    for (int round = 0; round < 10; round++) {
        deal(part, &seed);
        OWNED(layer_state_free) struct layer_state *merged = empty_state();
        for (int p = 0; p < PARTS; p++) {
            merge_into(merged, part[p]);
        }
        assert_same_dists(merged, whole);
        free_parts(part);
    }
}

TEST(merging_all_at_once_is_merging_one_by_one)
{
    uint64_t seed = 12;
    struct layer_state *part[PARTS];
    for (int round = 0; round < 10; round++) {
        deal(part, &seed);
        OWNED(layer_state_free) struct layer_state *at_once = empty_state();
        OWNED(layer_state_free) struct layer_state *one_by_one = empty_state();
        assert_int_equal(
            layer_state_merge_all(at_once, (const struct layer_state *const *)part, PARTS), 0);
        for (int p = 0; p < PARTS; p++) {
            merge_into(one_by_one, part[p]);
        }
        assert_same_states(at_once, one_by_one);
        free_parts(part);
    }
}

/* (a + b) + c = a + (b + c), in the order of time. */
TEST(merging_is_associative)
{
    OWNED(layer_state_free) struct layer_state *left = empty_state(), *right = empty_state();
    OWNED(layer_state_free) struct layer_state *whole = whole_state();
    struct layer_state *part[PARTS];
    for (int p = 0; p < PARTS; p++) {
        part[p] = layer_state_new(HEADS, BUCKETS);
    }
    for (int i = 0; i < STREAM; i++) {
        take_from_stream(part[i * PARTS / STREAM], i);
    }
    for (int p = 0; p < PARTS; p++) {
        merge_into(left, part[p]);
    }
    for (int p = PARTS - 2; p >= 0; p--) {
        merge_into(part[p], part[p + 1]);
    }
    merge_into(right, part[0]);
    assert_same_states(left, right);
    assert_same_states(left, whole);
    free_parts(part);
}

/* Slices of the heads, as tensor-parallel ranks send them. */
TEST(a_slice_adds_to_its_own_heads)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS + 2, BUCKETS);
    struct message message = stream[0]->message;
    message.header.head_offset = 2;
    message.header.heads_total = HEADS + 2;
    assert_int_equal(layer_state_add(state, &message, measure_result(stream[0]->measure)), 0);
    for (uint32_t h = 0; h < HEADS + 2; h++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, METRIC_ENTROPY, h);
        assert_int_equal(dist.moments.n > 0, h >= 2);
        assert_int_equal(position_exists(&state->head[h].newest), h >= 2);
    }
}

TEST(histograms_use_as_many_buckets_as_allowed)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    unsigned coarse = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, m, HEADS - 1);
        assert_true(dist.hist.used <= BUCKETS ||
                    (dist.hist.halvings == HIST_HALVINGS_MAX && dist.hist.used <= HIST_SPAN + 1));
        coarse += dist.hist.halvings > 0;
    }
    assert_true(coarse > 5);
}

TEST(summaries_state_the_error_of_the_coarsest_histogram)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    OWNED(summary_view_clear) struct summary_view view;
    double worst = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            OWNED(dist_clear) struct dist dist = dist_of(state, m, h);
            worst = fmax(worst, dist_quantile_error(&dist));
        }
    }
    assert_int_equal(view_state(state, &view), 0);
    assert_true(view.result.quantile_error >= worst);
    for (uint32_t h = 0; h < HEADS; h++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, METRIC_ENTROPY, h);
        const struct result_stat *stat = &view.result.stat[METRIC_ENTROPY][h];
        assert_relative(stat->p10, dist_quantile(&dist, 0.1), 0);
        assert_relative(stat->p50, dist_quantile(&dist, 0.5), 0);
        assert_relative(stat->p99, dist_quantile(&dist, 0.99), 0);
        assert_relative(stat->std, moments_std(&dist.moments), 0);
        assert_int_equal(stat->count, dist.moments.n);
    }
}

TEST(an_empty_state_has_no_numbers)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    OWNED(summary_view_clear) struct summary_view view;
    assert_int_equal(view_state(state, &view), 0);
    assert_true(isnan(view.result.quantile_error));
    assert_null(view.result.stat[METRIC_ENTROPY]);
    struct dist dist = dist_of(state, METRIC_ENTROPY, 0);
    assert_int_equal(dist.moments.n, 0);
}

/* Memory */

/* With what the heap keeps beside each block. */
static size_t layer_state_block(const void *memory)
{
    return memory ? malloc_usable_size((void *)memory) + 8 : 0;
}

static size_t blocks_of_detail(const struct detail *detail)
{
    if (!detail) {
        return 0;
    }
    return layer_state_block(detail) + layer_state_block(detail->pairs.pairs) +
           layer_state_block(detail->pairs.head_pairs) +
           layer_state_block(detail->pairs.head_count) +
           layer_state_block(detail->similarity.cosine) + layer_state_block(detail->similarity.js) +
           layer_state_block(detail->similarity.redundant);
}

static size_t blocks_of(const struct layer_state *state)
{
    size_t bytes = layer_state_block(state) + layer_state_block(state->head) +
                   layer_state_block(state->across.bytes) + layer_state_block(state->rank_bits) +
                   layer_state_block(state->rank_entropy.means) + blocks_of_detail(state->detail);
    for (uint32_t i = 0; i < state->rank_entropy.count; i++) {
        bytes += layer_state_block(state->rank_entropy.means[i].rows);
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        bytes += layer_state_block(state->head[h].stats.bytes);
    }
    return bytes;
}

TEST(bytes_are_what_the_heap_gave_out)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    for (int i = 0; i < STREAM; i++) {
        take_from_stream(state, i);
        double said = (double)layer_state_bytes(state), used = (double)blocks_of(state);
        /* A sanitizer's heap gives exactly what was asked for. */
        assert_close(said, used, 0.02 * used + 16 * 12);
    }
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    OWNED(layer_state_free) struct layer_state *back = test_layer_state_unpack(&packed);
    assert_true(fabs((double)layer_state_bytes(back) - (double)blocks_of(back)) < 16 * 12);
}

/* Each allocation fails in turn; `act` gives a code, and leaves what can be freed. */
static void fail_each(int (*act)(void))
{
    for (unsigned nth = 1;; nth++) {
        heap_fail_at(nth);
        int code = act();
        bool failed = heap_has_failed();
        heap_fail_at(0);
        if (!failed) {
            assert_int_equal(code, 0);
            return;
        }
        assert_int_equal(code, ERR_MEMORY);
    }
}

static int build(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    int code = state ? 0 : ERR_MEMORY;
    for (int i = 0; i < 3 && !code; i++) {
        code = add_from_stream(state, i);
    }
    return code;
}

static struct layer_state *fixture[2];

static int merge_fixture(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    return state ? layer_state_merge_all(state, (const struct layer_state *const *)fixture, 2)
                 : ERR_MEMORY;
}

static int merge_one_fixture(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    return state ? layer_state_merge(state, fixture[0]) : ERR_MEMORY;
}

static int view_fixture(void)
{
    OWNED(summary_view_clear) struct summary_view view;
    return view_state(fixture[0], &view);
}

static int store_fixture(void)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    OWNED(layer_state_free) struct layer_state *back = NULL;
    mpk_writer_init(&packed);
    int code = layer_state_pack(fixture[0], &packed);
    if (!code) {
        code = layer_state_unpack(packed.buffer.data, packed.buffer.size, &back);
    }
    return code;
}

static int read_fixture(void)
{
    OWNED(dist_clear) struct dist dist = {0};
    return layer_state_dist(fixture[0], METRIC_ENTROPY, 0, &dist);
}

TEST(out_of_memory_is_an_error_everywhere)
{
    fixture[0] = full_state();
    fixture[1] = whole_state();
    fail_each(build);
    fail_each(merge_fixture);
    fail_each(merge_one_fixture);
    fail_each(view_fixture);
    fail_each(store_fixture);
    fail_each(read_fixture);
    layer_state_free(&fixture[0]);
    layer_state_free(&fixture[1]);
}

int main(void)
{
    return unit_run(make_stream, free_stream);
}
