/* SPDX-License-Identifier: MIT */
/* Sketches of weights are judged: an optimizer moves those of all heads, and one thing is planted.
 */
#include "tests/unit/unit.h"

#include "daemon/state/sketch_judge.h"
#include "proto/err.h"

#include <math.h>

enum { HEADS = 4, KEY_HEADS = 2, ROWS = HEADS + KEY_HEADS };

static struct state_budget budget = {.limit = 1 << 20};

/* W_q and W_k of one layer, in training. */
struct judge_fixture {
    struct sketch *sketch;
    float weights[ROWS][SKETCH_PLACES]; /* of the query heads, then of the key heads */
    uint64_t seed, step;
    double rate; /* of the optimizer */
    uint32_t ranks;
    bool frozen; /* W_q */
    struct sketch_judged judged;
};

static double judge_random(struct judge_fixture *f)
{
    f->seed = f->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (double)(f->seed >> 11) * 0x1p-53 - 0.5;
}

static void judge_begin(struct judge_fixture *f)
{
    f->sketch = sketch_new(&budget);
    assert_non_null(f->sketch);
    f->seed = 7;
    f->rate = 1e-3;
    f->ranks = 1;
    for (int i = 0; i < ROWS * SKETCH_PLACES; i++) {
        f->weights[i / SKETCH_PLACES][i % SKETCH_PLACES] = (float)judge_random(f);
    }
}

static void judge_end(struct judge_fixture *f)
{
    sketch_judged_clear(&f->judged);
    sketch_free(&f->sketch);
}

#define JUDGE_TEST(name) TEST_IN(name, struct judge_fixture, f, judge_begin, judge_end)

/* The optimizer moves all but one row; -1: all. */
static void judge_train(struct judge_fixture *f, int but)
{
    for (int i = 0; i < ROWS * SKETCH_PLACES; i++) {
        float *place = &f->weights[i / SKETCH_PLACES][i % SKETCH_PLACES];
        double move = f->rate * judge_random(f);
        *place = i / SKETCH_PLACES == but ? *place : (float)((double)*place + move);
    }
    f->step++;
}

static void judge_send(struct judge_fixture *f, uint32_t rank)
{
    OWNED(message_free) struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    struct header *header = &message->header;
    *header = (struct header){.type = MESSAGE_SKETCH,
                              .rank = rank,
                              .step = f->step,
                              .heads = HEADS,
                              .kv_heads = KEY_HEADS,
                              .heads_total = HEADS,
                              .tensor_count = 2,
                              .frozen = {f->frozen},
                              .stored_dtype = {DTYPE_F32, DTYPE_F32}};
    message->rank_index = rank;
    message->frame_count = 4;
    zmq_msg_init(&message->frames[0]);
    zmq_msg_init(&message->frames[1]);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t rows = i ? KEY_HEADS : HEADS, size = rows * sizeof f->weights[0];
        header->tensors[i] = (struct tensor){.role = i ? TENSOR_WK : TENSOR_WQ,
                                             .rank = 2,
                                             .shape = {rows, SKETCH_PLACES},
                                             .bytes = size};
        zmq_msg_init_size(&message->frames[2 + i], size);
        memcpy(zmq_msg_data(&message->frames[2 + i]), f->weights[i ? HEADS : 0], size);
    }
    assert_int_equal(sketch_put(f->sketch, message), 0);
}

/* Judges the layer that was sent, in a model of which it is the only one. */
static void judge_finish(struct judge_fixture *f)
{
    struct sketch_median median[PROJECTION_COUNT];
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    sketch_judged_clear(&f->judged);
    assert_true(sketch_is_whole(f->sketch, f->ranks));
    assert_int_equal(sketch_measure(f->sketch), 0);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        median[p] = f->sketch->matrix[p].median;
    }
    assert_int_equal(sketch_judge(f->sketch, median, &f->judged), 0);
    assert_int_equal(f->judged.heads, HEADS);
    sketch_finish(f->sketch, &writer);
}

static void judge_capture(struct judge_fixture *f, int but)
{
    judge_train(f, but);
    for (uint32_t r = 0; r < f->ranks; r++) {
        judge_send(f, r);
    }
    judge_finish(f);
}

static void judge_captures(struct judge_fixture *f, int count)
{
    for (int i = 0; i < count; i++) {
        judge_capture(f, -1);
    }
}

/* This fault of each head. */
static void judge_expect(const struct judge_fixture *f, enum sketch_fault fault,
                         const double wanted[HEADS])
{
    for (int h = 0; h < HEADS; h++) {
        assert_close_or_nan(f->judged.fault[fault][h], wanted[h], 1e-6);
    }
}

static const double none[HEADS] = {0}, unknown[HEADS] = {NAN, NAN, NAN, NAN};

JUDGE_TEST(weights_that_train_are_well)
{
    static const double rates[] = {1e-3, 1e-3, 1, 1e-5, 1e-2}; /* warm restarts, decays */
    judge_capture(f, -1);
    judge_expect(f, SKETCH_FAULT_STILL, unknown); /* nothing to compare with */
    judge_expect(f, SKETCH_FAULT_REPLACED, unknown);
    for (int i = 0; i < 60; i++) {
        f->rate = rates[i / 12];
        judge_capture(f, -1);
        judge_expect(f, SKETCH_FAULT_INVALID, none);
        judge_expect(f, SKETCH_FAULT_STILL, none);
        judge_expect(f, SKETCH_FAULT_REPLACED, none);
        assert_true(isnan(f->judged.apart));
    }
}

JUDGE_TEST(a_matrix_that_does_not_move_is_still)
{
    judge_captures(f, 2);
    judge_capture(f, 2);
    judge_expect(f, SKETCH_FAULT_STILL, (double[]){0, 0, 1, 0});
    assert_int_equal(f->judged.matrix[SKETCH_FAULT_STILL][2], PROJECTION_Q);
    judge_capture(f, HEADS + 1); /* the key head of two */
    judge_expect(f, SKETCH_FAULT_STILL, (double[]){0, 0, 1, 1});
    assert_int_equal(f->judged.matrix[SKETCH_FAULT_STILL][3], PROJECTION_K);
    for (int i = 0; i < 20; i++) { /* weight decay alone, and its rounding */
        for (int k = 0; k < SKETCH_PLACES; k++) {
            f->weights[1][k] *= 0.9999F;
        }
        judge_capture(f, 1);
        judge_expect(f, SKETCH_FAULT_STILL, (double[]){0, 1, 0, 0});
    }
    f->rate = 0;
    judge_capture(f, -1); /* nothing is trained any more, as in an evaluation */
    judge_expect(f, SKETCH_FAULT_STILL, unknown);
}

JUDGE_TEST(what_is_frozen_on_purpose_is_not_judged)
{
    f->frozen = true;
    judge_captures(f, 2);
    judge_capture(f, 2);
    judge_expect(f, SKETCH_FAULT_STILL, none); /* by the keys */
    judge_capture(f, HEADS + 1);
    judge_expect(f, SKETCH_FAULT_STILL, (double[]){0, 0, 1, 1});
}

static void judge_replace(struct judge_fixture *f, int row)
{
    for (int k = 0; k < SKETCH_PLACES; k++) {
        f->weights[row][k] = (float)judge_random(f);
    }
}

JUDGE_TEST(a_matrix_that_points_elsewhere_at_once_was_replaced)
{
    judge_captures(f, 2);
    judge_replace(f, 0);
    judge_capture(f, -1); /* of the first captures nothing is said */
    judge_expect(f, SKETCH_FAULT_REPLACED, none);
    judge_captures(f, 160); /* until that is forgotten */
    judge_replace(f, HEADS);
    judge_capture(f, -1);
    judge_expect(f, SKETCH_FAULT_REPLACED, (double[]){1, 1, 0, 0});
    assert_int_equal(f->judged.matrix[SKETCH_FAULT_REPLACED][1], PROJECTION_K);
    judge_capture(f, -1);
    judge_expect(f, SKETCH_FAULT_REPLACED, (double[]){0.95, 0.95, 0, 0});
    for (int k = 0; k < SKETCH_PLACES; k++) { /* a factor is another fault */
        f->weights[3][k] *= 50;
    }
    judge_captures(f, 20);
    judge_expect(f, SKETCH_FAULT_REPLACED, (double[]){pow(0.95, 21), pow(0.95, 21), 0, 0});
}

JUDGE_TEST(what_is_not_finite_is_told_of_its_heads)
{
    judge_captures(f, 3);
    f->weights[HEADS][5] = NAN;
    judge_capture(f, -1);
    judge_expect(f, SKETCH_FAULT_INVALID, (double[]){1, 1, 0, 0});
    assert_int_equal(f->judged.matrix[SKETCH_FAULT_INVALID][0], PROJECTION_K);
    f->weights[3][0] = INFINITY;
    judge_capture(f, -1);
    judge_expect(f, SKETCH_FAULT_INVALID, (double[]){1, 1, 0, 1});
}

JUDGE_TEST(ranks_that_hold_other_weights_are_apart)
{
    f->ranks = 2;
    judge_captures(f, 3);
    assert_true(f->judged.apart == 0);
    judge_train(f, -1);
    judge_send(f, 0);
    f->weights[1][0] = nextafterf(f->weights[1][0], 1);
    judge_send(f, 1);
    judge_finish(f);
    assert_close(f->judged.apart, 1.0 / ROWS, 1e-15);
}

JUDGE_TEST(a_restart_changes_nothing)
{
    judge_captures(f, 12);
    judge_replace(f, 2);
    judge_capture(f, -1);
    struct judge_fixture other = *f;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    assert_int_equal(sketch_pack(f->sketch, &writer), 0);
    other.judged = (struct sketch_judged){.heads = 0};
    assert_int_equal(sketch_unpack(writer.buffer.data, writer.buffer.size, &budget, &other.sketch),
                     0);
    for (int i = 0; i < 3; i++) {
        judge_capture(f, i);
        judge_capture(&other, i);
        for (int k = 0; k < SKETCH_FAULTS; k++) {
            judge_expect(&other, (enum sketch_fault)k, f->judged.fault[k]);
        }
    }
    judge_end(&other);
}
