/* SPDX-License-Identifier: MIT */
/* layer_state_fixture: a stream of messages, states made of them, and whether two are the same. */
#ifndef TESTS_UNIT_DAEMON_STATE_LAYER_STATE_FIXTURE_H
#define TESTS_UNIT_DAEMON_STATE_LAYER_STATE_FIXTURE_H

#include "tests/unit/unit.h"

#include "daemon/state/layer_state.h"
#include "daemon/state/layer_state_internal.h"
#include "tests/unit/daemon/state/measured.h"

#define HEADS   3
#define BUCKETS 24
#define STREAM  24 /* messages */

static const struct measured_options everything = {
    .batch = 2, .heads = HEADS, .size = 24, .sharpness = 3, .everything = true};

static inline struct layer_state *empty_state(void)
{
    struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    assert_non_null(state);
    return state;
}

static inline void test_layer_state_add(struct layer_state *state, struct measured_message *message)
{
    assert_non_null(message);
    assert_int_equal(layer_state_add(state, &message->message, measure_result(message->measure)),
                     0);
    measured_message_free(&message);
}

/* With everything that a state may have. */
static inline struct layer_state *full_state(void)
{
    struct layer_state *state = empty_state();
    for (uint64_t i = 1; i <= 3; i++) {
        struct measured_options options = everything;
        options.seed = i;
        test_layer_state_add(state, measured_message_new(&options, i));
    }
    test_layer_state_add(state, measured_weights_new(HEADS, 4));
    tally_drop(&state->tally, ERR_SHAPE);
    state->tally.lost = 7;
    state->tally.source = 8;
    return state;
}

static inline void test_layer_state_pack(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(layer_state_pack(state, writer), 0);
}

/* The state's summary as one of layer 3 in a window of one step. */
static inline int view_state(const struct layer_state *state, struct summary_view *view)
{
    static const uint8_t run[RUN_BYTES] = {1, 2, 3};
    static const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    return summary_view_init(view, state, (struct layer_id){.layer = 3}, "job", run, &window);
}

static inline void summarise(const struct layer_state *state, struct mpk_writer *writer)
{
    OWNED(summary_view_clear) struct summary_view view;
    assert_int_equal(view_state(state, &view), 0);
    mpk_writer_init(writer);
    summary_encode(&view.result, writer);
    assert_true(mpk_writer_ok(writer));
}

static inline void assert_same_bytes(const struct mpk_writer *a, const struct mpk_writer *b)
{
    assert_int_equal(a->buffer.size, b->buffer.size);
    assert_memory_equal(a->buffer.data, b->buffer.data, a->buffer.size);
}

static inline void assert_relative(double got, double want, double relative)
{
    assert_close_or_nan(got, want, relative * fabs(want) + 1e-300);
}

/* Deviations are compared with the spread of the values as a whole: of values that are nearly the
 * same the std is rounding. */
static inline void layer_state_assert_same_moments(const struct moments *a, const struct moments *b)
{
    assert_int_equal(a->n, b->n);
    if (a->n == 0) {
        return;
    }
    double scale = fmax(fabs(b->min), fabs(b->max));
    assert_true(a->min == b->min && a->max == b->max);
    assert_true(fabs(a->mean - b->mean) <= 1e-12 * scale);
    if (a->n >= 2) {
        assert_true(fabs(moments_std(a) - moments_std(b)) <= 1e-12 * scale);
    }
}

static inline void assert_same_dist(const struct dist *a, const struct dist *b)
{
    layer_state_assert_same_moments(&a->moments, &b->moments);
    assert_int_equal(a->hist.halvings, b->hist.halvings);
    assert_int_equal(a->hist.used, b->hist.used);
    if (a->hist.used > 0) {
        assert_memory_equal(a->hist.buckets, b->hist.buckets,
                            a->hist.used * sizeof *a->hist.buckets);
    }
}

static inline struct dist dist_of(const struct layer_state *state, int metric, uint32_t head)
{
    struct dist dist;
    assert_int_equal(layer_state_dist(state, metric, head, &dist), 0);
    return dist;
}

static inline void assert_same_sets(const struct stat_set *a, const struct stat_set *b)
{
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        struct stat_record x = stat_find(a, slot), y = stat_find(b, slot);
        OWNED(dist_clear) struct dist dx = {0}, dy = {0};
        assert_relative(x.last, y.last, 0);
        assert_int_equal(stat_dist(&x, &dx), 0);
        assert_int_equal(stat_dist(&y, &dy), 0);
        if (slot < STAT_HISTS) {
            assert_same_dist(&dx, &dy);
        } else {
            layer_state_assert_same_moments(&x.moments, &y.moments);
        }
    }
}

static inline void assert_same_states(const struct layer_state *a, const struct layer_state *b)
{
    assert_memory_equal(&a->newest, &b->newest, sizeof a->newest);
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->messages, b->messages);
    assert_int_equal(layer_state_ranks(a), layer_state_ranks(b));
    assert_memory_equal(a->on, b->on, sizeof a->on);
    for (uint32_t h = 0; h < a->heads; h++) {
        assert_same_sets(&a->head[h].stats, &b->head[h].stats);
        assert_memory_equal(&a->head[h].newest, &b->head[h].newest, sizeof a->head[h].newest);
        assert_int_equal(a->head[h].invalid_rows, b->head[h].invalid_rows);
        assert_int_equal(a->head[h].pattern, b->head[h].pattern);
    }
    assert_same_sets(&a->across, &b->across);
}

/* A stream of messages of all temperatures; ranks and shapes of their own. */
static struct measured_message *stream[STREAM];

static inline int make_stream(void **unused)
{
    (void)unused;
    for (uint64_t i = 0; i < STREAM; i++) {
        struct measured_options options = everything;
        options.seed = i;
        options.sharpness = 0.2 + 0.5 * (double)(i * 7 % STREAM);
        options.everything = i % 3 == 0;
        options.without_spectra = i % 4 == 1;
        options.batch = 1 + (uint32_t)(i % 2);
        stream[i] = measured_message_new(&options, i + 1);
        if (!stream[i]) {
            return -1;
        }
        stream[i]->message.header.rank = (uint32_t)(100 + i % 11);
    }
    return 0;
}

static inline int free_stream(void **unused)
{
    (void)unused;
    for (int i = 0; i < STREAM; i++) {
        measured_message_free(&stream[i]);
    }
    return 0;
}

static inline int add_from_stream(struct layer_state *state, int i)
{
    return layer_state_add(state, &stream[i]->message, measure_result(stream[i]->measure));
}

static inline void take_from_stream(struct layer_state *state, int i)
{
    assert_int_equal(add_from_stream(state, i), 0);
}

static inline struct layer_state *whole_state(void)
{
    struct layer_state *state = empty_state();
    for (int i = 0; i < STREAM; i++) {
        take_from_stream(state, i);
    }
    return state;
}

static inline struct layer_state *test_layer_state_unpack(const struct mpk_writer *packed)
{
    struct layer_state *state = NULL;
    assert_int_equal(layer_state_unpack(packed->buffer.data, packed->buffer.size, &state), 0);
    return state;
}

#endif
