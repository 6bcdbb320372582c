/* SPDX-License-Identifier: MIT */
/* Captures: when one is due, what it pools, what stays of it, and captures in checkpoints. */
#include "tests/unit/unit.h"

#include "daemon/state/capture.h"
#include "daemon/state/layer_state.h"
#include "proto/err.h"
#include "tests/unit/daemon/state/measured.h"
#include "tests/unit/heap.h"

#define HEADS   4
#define S       UINT64_C(1000000000)
#define TIMEOUT (30 * S)

struct capture_fixture {
    struct captures *captures;
    uint64_t now[8]; /* of each rank's clock */
    uint32_t world;
    double value; /* of all metrics of the next message */
    uint32_t offset, heads, rows;
    uint32_t metrics; /* of messages, that it has beside one of rows */
};

static void capture_begin(struct capture_fixture *f)
{
    f->captures = captures_new(TIMEOUT, NULL);
    assert_non_null(f->captures);
    captures_want_extremes(f->captures, METRIC_NEXT_TOKEN);
    f->world = f->metrics = 1;
    f->value = 0.5;
    f->heads = HEADS;
    f->rows = 3;
    for (uint32_t i = 0; i < 8; i++) {
        f->now[i] = 1000 * S + i * 3600 * S; /* clocks that differ by hours */
    }
}

static void capture_end(struct capture_fixture *f)
{
    captures_free(&f->captures);
}

#define CAPTURE_TEST(name) TEST_IN(name, struct capture_fixture, f, capture_begin, capture_end)

static int capture_hear(struct capture_fixture *f, uint32_t rank, uint64_t step, bool moves)
{
    const struct header header = {
        .rank = rank, .world = f->world, .step = step, .time_ns = f->now[rank]};
    return captures_hear(f->captures, rank, &header, moves);
}

static void capture_hello(struct capture_fixture *f, uint32_t rank, uint32_t layers)
{
    assert_int_equal(capture_hear(f, rank, 0, false), 0);
    captures_announce(f->captures, rank, layers);
}

/* A message of a layer, all of whose numbers are f->value. */
static int capture_send(struct capture_fixture *f, uint32_t rank, uint32_t layer, uint64_t step)
{
    struct head_block *head = calloc(f->heads, sizeof *head);
    double *values = malloc(f->heads * sizeof *values);
    assert_true(head && values);
    struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    message->header = (struct header){.type = MESSAGE_ATTENTION,
                                      .rank = rank,
                                      .world = f->world,
                                      .step = step,
                                      .time_ns = f->now[rank],
                                      .layer = {STACK_DECODER, layer, SITE_SELF},
                                      .keys = 7,
                                      .heads = f->heads,
                                      .head_offset = f->offset,
                                      .heads_total = HEADS};
    struct measured measured = {.heads = f->heads,
                                .rows = f->rows * f->heads,
                                .row_sum_error = 1e-6,
                                .head = head,
                                .value = {[METRIC_NEXT_TOKEN] = values}};
    for (uint32_t m = 0; m < f->metrics; m++) {
        measured.value[METRIC_ROW_COUNT + m] = values;
    }
    for (uint32_t h = 0; h < f->heads; h++) {
        values[h] = f->value;
        head[h].row[METRIC_NEXT_TOKEN].moments =
            (struct moments){f->rows, f->value, 0, f->value - 1, f->value + 1};
    }
    int code = capture_hear(f, rank, step, true);
    code = code ? code : captures_take(f->captures, rank, layer, message, &measured);
    free(message);
    free(values);
    free(head);
    return code;
}

/* The step of the capture that is due, which is judged; -1: none is. */
static int capture_judge(struct capture_fixture *f)
{
    struct capture *capture = captures_due(f->captures);
    int step = capture ? (int)capture->key.step : -1;
    if (capture) {
        captures_judged(f->captures, capture);
    }
    return step;
}

static void capture_layers(struct capture_fixture *f, uint32_t rank, uint32_t layers, uint64_t step)
{
    for (uint32_t i = 0; i < layers; i++) {
        assert_int_equal(capture_send(f, rank, i, step), 0);
    }
}

/* The first capture, of as many layers and ranks as given, is judged. */
static void capture_first(struct capture_fixture *f, uint32_t ranks, uint32_t layers)
{
    f->world = ranks;
    for (uint32_t r = 0; r < ranks; r++) {
        capture_hello(f, r, layers);
    }
    for (uint32_t r = 0; r < ranks; r++) {
        assert_int_equal(capture_judge(f), -1);
        capture_layers(f, r, layers, 0);
    }
    assert_int_equal(capture_judge(f), 0);
}

static const struct capture *capture_of_step(const struct capture_fixture *f, uint64_t step)
{
    for (uint32_t i = 0; i < f->captures->count; i++) {
        if (f->captures->of[i]->key.step == step) {
            return f->captures->of[i];
        }
    }
    return NULL;
}

/* Due */

CAPTURE_TEST(a_capture_is_due_when_the_layers_of_the_one_before_are_there)
{
    capture_first(f, 1, 2);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 0, 1, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_int_equal(capture_judge(f), -1);
}

CAPTURE_TEST(without_a_hello_the_first_capture_waits_for_the_next)
{
    capture_layers(f, 0, 2, 0);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), 0);
    assert_int_equal(capture_judge(f), -1);
    assert_false(capture_of_step(f, 0)->cut);
}

CAPTURE_TEST(the_first_capture_waits_for_the_ranks_of_the_world)
{
    f->world = 2;
    capture_hello(f, 0, 1);
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    assert_int_equal(capture_judge(f), -1);
    capture_hello(f, 1, 1);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 1, 0, 0), 0);
    assert_int_equal(capture_judge(f), 0);
}

CAPTURE_TEST(a_rank_that_lags_is_waited_for)
{
    capture_first(f, 2, 1);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_send(f, 0, 0, 4), 0);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 1, 0, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 1, 0, 6), 0); /* it has moved on without step 4 */
    assert_int_equal(capture_judge(f), 4);
    assert_true(capture_of_step(f, 4)->cut);
    assert_false(capture_of_step(f, 2)->cut);
}

CAPTURE_TEST(a_rank_that_said_bye_is_not_waited_for_unless_it_takes_that_back)
{
    capture_first(f, 2, 1);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    captures_bye(f->captures, 1, true);
    captures_bye(f->captures, 1, false);
    assert_int_equal(capture_judge(f), -1);
    captures_bye(f->captures, 1, true);
    assert_int_equal(capture_judge(f), 2);
}

CAPTURE_TEST(a_rank_that_is_gone_is_timed_by_the_clocks_of_the_others)
{
    capture_first(f, 2, 1);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), -1);
    f->now[1] += 2 * TIMEOUT; /* not the clock of one that is in the capture */
    assert_int_equal(capture_hear(f, 1, 0, false), 0);
    assert_int_equal(capture_judge(f), -1);
    f->now[0] += TIMEOUT - 1;
    assert_int_equal(capture_hear(f, 0, 0, false), 0);
    assert_int_equal(capture_judge(f), -1);
    f->now[0] += 1;
    assert_int_equal(capture_hear(f, 0, 0, false), 0);
    assert_int_equal(capture_judge(f), 2);
    /* From then on nobody waits for it. */
    assert_int_equal(capture_send(f, 0, 0, 4), 0);
    assert_int_equal(capture_judge(f), 4);
}

CAPTURE_TEST(ranks_at_other_steps_make_captures_of_their_own_in_order)
{
    capture_first(f, 2, 1);
    assert_int_equal(capture_send(f, 1, 0, 3), 0);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_int_equal(capture_judge(f), -1); /* the rank of step 2 may still send step 3 */
    assert_int_equal(capture_send(f, 0, 0, 4), 0);
    assert_int_equal(capture_judge(f), 3);
    assert_int_equal(capture_of_step(f, 3)->sent[1].messages, 1);
    assert_int_equal(f->captures->late, 0);
}

CAPTURE_TEST(a_layer_that_is_missing_is_waited_for_once)
{
    capture_first(f, 1, 2);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_send(f, 0, 0, 4), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_true(capture_of_step(f, 2)->cut);
    assert_null(capture_find_layer(capture_of_step(f, 2), 1));
    assert_int_equal(capture_judge(f), 4);
    assert_false(capture_of_step(f, 4)->cut);
}

CAPTURE_TEST(all_microbatches_of_a_step_are_waited_for)
{
    capture_hello(f, 0, 1);
    for (int i = 0; i < 4; i++) { /* the first capture is judged by the first of them */
        assert_int_equal(capture_send(f, 0, 0, 0), 0);
        assert_int_equal(capture_judge(f), i == 0 ? 0 : -1);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(capture_send(f, 0, 0, 2), 0);
        assert_int_equal(capture_judge(f), i == 3 ? 2 : -1);
    }
    assert_int_equal(f->captures->late, 3);
}

CAPTURE_TEST(with_too_many_open_ones_the_oldest_is_due)
{
    capture_first(f, 2, 1);
    for (uint64_t step = 1; step <= CAPTURES_OPEN_MAX; step++) {
        assert_int_equal(capture_send(f, 0, 0, step), 0);
        assert_int_equal(capture_judge(f), -1);
    }
    assert_int_equal(capture_send(f, 0, 0, 100), 0);
    assert_int_equal(capture_judge(f), 1);
    assert_true(capture_of_step(f, 1)->cut);
}

CAPTURE_TEST(captures_of_an_epoch_come_after_all_of_the_epoch_before)
{
    struct header header = {.world = 1, .epoch = 1, .step = 0, .time_ns = 1};
    capture_first(f, 1, 1);
    assert_int_equal(capture_send(f, 0, 0, 9), 0);
    assert_int_equal(capture_judge(f), 9);
    assert_int_equal(captures_hear(f->captures, 0, &header, true), 0);
    assert_int_equal(f->captures->ranks[0].newest.epoch, 1);
    assert_int_equal(f->captures->ranks[0].newest.step, 0);
}

/* Judged captures are freed for it; a layer that does not fit then is missing, and is there when
 * there is room. */
CAPTURE_TEST(a_full_budget_cuts_captures)
{
    uint64_t layer = capture_layer_most(HEADS) + layer_state_new_bytes(HEADS);
    struct state_budget budget = {.limit = UINT64_MAX};
    f->captures->budget = &budget;
    capture_first(f, 1, 2);
    for (uint64_t step = 1; step < 4; step++) {
        capture_layers(f, 0, 2, step);
        assert_int_equal(capture_judge(f), step);
    }
    assert_int_equal(f->captures->count, 4);
    assert_int_equal(budget.used, f->captures->bytes);
    budget.limit = budget.used + layer - 1;
    capture_layers(f, 0, 2, 4); /* in place of step 0 */
    assert_int_equal(f->captures->of[0]->key.step, 1);
    assert_int_equal(capture_judge(f), 4);
    assert_false(f->captures->of[f->captures->count - 1]->cut);
    budget.limit = 1;
    assert_int_equal(capture_send(f, 0, 0, 5), ERR_STATE_LIMIT);
    assert_int_equal(f->captures->count, 2); /* the newest that was judged, and this one */
    assert_true(f->captures->of[1]->cut);
    budget.limit = UINT64_MAX;
    capture_layers(f, 0, 2, 5);
    assert_int_equal(capture_judge(f), 5);
    captures_forget(f->captures);
    assert_int_equal(budget.used, 0);
}

/* Numbers */

/* Random captures of three ranks with uneven rows against the state of a window with them all. */
TEST(captures_pooled_are_the_mean_of_the_window)
{
    enum { CAPTURES = 16, RANKS = 3 };
    OWNED(captures_free) struct captures *captures = captures_new(TIMEOUT, NULL);
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, 64);
    double sum[METRIC_MATRIX_FIRST][HEADS] = {{0}}, count[METRIC_MATRIX_FIRST][HEADS] = {{0}};
    for (uint64_t step = 0; step < CAPTURES; step++) {
        for (uint32_t rank = 0; rank < RANKS; rank++) {
            struct measured_options options = {.batch = 1 + (uint32_t)step % 3,
                                               .heads = HEADS,
                                               .size = 4 + rank,
                                               .sharpness = 2,
                                               .invalid = step % 4 == 3,
                                               .seed = step * RANKS + rank};
            OWNED(measured_message_free)
            struct measured_message *sent = measured_message_new(&options, step);
            assert_non_null(sent);
            const struct measured *measured = measure_result(sent->measure);
            sent->message.header.rank = rank;
            assert_int_equal(captures_hear(captures, rank, &sent->message.header, true), 0);
            assert_int_equal(captures_take(captures, rank, 0, &sent->message, measured), 0);
            assert_int_equal(layer_state_add(state, &sent->message, measured), 0);
        }
    }
    assert_int_equal(captures->count, CAPTURES);
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            for (uint32_t c = 0; c < CAPTURES; c++) {
                const struct capture_layer *layer = capture_find_layer(captures->of[c], 0);
                double mean = capture_layer_mean(layer, (enum metric)m, h);
                uint32_t values = capture_layer_count(layer, (enum metric)m, h);
                assert_int_equal(isnan(mean), values == 0);
                sum[m][h] += values ? mean * values : 0;
                count[m][h] += values;
            }
            struct moments window = layer_state_moments(state, m, h);
            assert_true(count[m][h] == (double)window.n);
            if (window.n > 0) {
                double size = fmax(fabs(window.min), fabs(window.max));
                assert_close(sum[m][h] / count[m][h], window.mean, 1e-6 * size);
            }
        }
    }
    const struct capture_layer *third = capture_find_layer(captures->of[3], 0);
    assert_true(capture_layer_invalid_share(third, 0) == 0);
    assert_close(capture_layer_invalid_share(third, 3), 9.0 / 15,
                 1e-15); /* 3 of 4, of 5, of 6 rows */
}

CAPTURE_TEST(heads_of_tensor_parallel_ranks_are_one_layer)
{
    f->heads = 1;
    for (uint32_t rank = 0; rank < HEADS; rank++) {
        f->offset = rank;
        f->value = rank;
        f->rows = 1 + rank;
        assert_int_equal(capture_send(f, rank, 0, 0), 0);
    }
    const struct capture_layer *layer = capture_find_layer(capture_of_step(f, 0), 0);
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_true(capture_layer_mean(layer, METRIC_NEXT_TOKEN, h) == h);
        assert_int_equal(capture_layer_count(layer, METRIC_NEXT_TOKEN, h), 1 + h);
        assert_true(capture_layer_low(layer, METRIC_NEXT_TOKEN, h) == h - 1.0);
        assert_true(capture_layer_high(layer, METRIC_NEXT_TOKEN, h) == h + 1.0);
        assert_nan(capture_layer_low(layer, METRIC_ROW_COUNT, h));
    }
    assert_nan(capture_layer_mean(layer, METRIC_ENTROPY, 0));
    assert_int_equal(layer->messages, HEADS);
}

CAPTURE_TEST(a_metric_may_begin_within_a_capture)
{
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    f->metrics = 3;
    f->value = 1.5;
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    const struct capture_layer *layer = capture_find_layer(capture_of_step(f, 0), 0);
    assert_true(capture_layer_mean(layer, METRIC_NEXT_TOKEN, 3) == 1);
    assert_true(capture_layer_mean(layer, METRIC_ROW_COUNT, 3) == 1);
    assert_true(capture_layer_mean(layer, METRIC_ROW_COUNT + 2, 3) == 1.5);
    assert_int_equal(capture_layer_count(layer, METRIC_ROW_COUNT + 2, 3), 1);
}

CAPTURE_TEST(numbers_beyond_a_float_stay_finite)
{
    f->value = 1e300;
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    f->value = NAN; /* of a metric of messages: none */
    f->rows = 0;
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    const struct capture_layer *layer = capture_find_layer(capture_of_step(f, 0), 0);
    assert_true(isfinite(capture_layer_mean(layer, METRIC_NEXT_TOKEN, 0)));
    assert_true(isfinite(capture_layer_mean(layer, METRIC_ROW_COUNT, 0)));
    assert_int_equal(capture_layer_count(layer, METRIC_ROW_COUNT, 0), 1);
}

/* The ring */

CAPTURE_TEST(a_late_message_corrects_what_is_in_the_ring_and_is_judged_no_more)
{
    capture_first(f, 1, 1);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    f->value = 1.5;
    assert_int_equal(capture_send(f, 0, 0, 0), 0);
    assert_int_equal(capture_judge(f), -1);
    assert_true(capture_layer_mean(capture_of_step(f, 0)->layer[0], METRIC_NEXT_TOKEN, 0) == 1);
    assert_int_equal(capture_send(f, 0, 0, 1), 0); /* it never was there */
    assert_null(capture_of_step(f, 1));
    assert_int_equal(f->captures->late, 2);
}

CAPTURE_TEST(the_ring_keeps_its_limit_and_its_memory)
{
    capture_first(f, 1, 2);
    const void *block[3] = {capture_of_step(f, 0)->layer[1]->block};
    uint64_t bytes = f->captures->bytes;
    f->captures->limit = 3 * bytes;
    for (uint64_t step = 1; step < 20; step++) {
        capture_layers(f, 0, 2, step);
        assert_int_equal(capture_judge(f), (int)step);
        assert_int_equal(f->captures->count, step < 2 ? 2 : 3);
        assert_int_equal(f->captures->bytes, f->captures->count * bytes);
        const void *mine = capture_of_step(f, step)->layer[1]->block;
        assert_true(step < 3 || mine == block[step % 3]);
        block[step % 3] = mine;
    }
    assert_true(capture_layer_mean(capture_of_step(f, 19)->layer[1], METRIC_NEXT_TOKEN, 0) == 0.5);
}

CAPTURE_TEST(open_captures_are_not_evicted_but_judged_when_there_are_too_many)
{
    capture_first(f, 2, 1);
    f->captures->limit = 1;
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    assert_int_equal(capture_judge(f), -1); /* one is always kept */
    assert_int_equal(capture_send(f, 0, 0, 4), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_int_equal(f->captures->count, 2);
    assert_int_equal(f->captures->open, 1);
}

/* Checkpoints */

struct packed_captures {
    struct mpk_writer run, layer[2];
};

static void packed_captures_clear(struct packed_captures *packed)
{
    mpk_writer_clear(&packed->run);
    mpk_writer_clear(&packed->layer[0]);
    mpk_writer_clear(&packed->layer[1]);
}

static void captures_pack_all(const struct captures *captures, struct packed_captures *ret_packed)
{
    mpk_writer_init(&ret_packed->run);
    assert_int_equal(captures_pack(captures, &ret_packed->run), 0);
    for (uint32_t i = 0; i < 2; i++) {
        mpk_writer_init(&ret_packed->layer[i]);
        assert_int_equal(captures_pack_layer(captures, i, &ret_packed->layer[i]), 0);
    }
}

static int captures_unpack_all(struct captures *captures, const struct packed_captures *packed)
{
    int code = captures_unpack(captures, packed->run.buffer.data, packed->run.buffer.size);
    for (uint32_t i = 0; i < 2 && !code; i++) {
        const struct layer_id id = {STACK_DECODER, i, SITE_SELF};
        code = captures_unpack_layer(captures, id, i, packed->layer[i].buffer.data,
                                     packed->layer[i].buffer.size);
    }
    return code;
}

/* Open captures of two ranks, of which one has sent single heads. */
static void capture_fill(struct capture_fixture *f)
{
    capture_first(f, 2, 2);
    assert_int_equal(capture_send(f, 0, 0, 2), 0);
    f->heads = 1;
    f->offset = 2;
    f->rows = 5;
    assert_int_equal(capture_send(f, 1, 1, 2), 0);
    f->offset = 0;
    f->heads = HEADS;
    f->value = -3;
    assert_int_equal(capture_send(f, 0, 1, 4), 0);
}

CAPTURE_TEST(captures_come_back_bit_for_bit)
{
    OWNED(packed_captures_clear) struct packed_captures packed, again;
    OWNED(captures_free) struct captures *back = captures_new(TIMEOUT, NULL);
    captures_want_extremes(back, METRIC_NEXT_TOKEN);
    capture_fill(f);
    captures_pack_all(f->captures, &packed);
    assert_int_equal(captures_unpack_all(back, &packed), 0);
    captures_pack_all(back, &again);
    for (int i = -1; i < 2; i++) {
        const struct mpk_writer *a = i < 0 ? &packed.run : &packed.layer[i];
        const struct mpk_writer *b = i < 0 ? &again.run : &again.layer[i];
        assert_int_equal(a->buffer.size, b->buffer.size);
        assert_memory_equal(a->buffer.data, b->buffer.data, a->buffer.size);
    }
    assert_int_equal(back->open, 2);
}

CAPTURE_TEST(captures_that_came_back_wait_for_what_may_come_again)
{
    OWNED(packed_captures_clear) struct packed_captures packed;
    struct captures *before = f->captures;
    capture_first(f, 1, 2);
    capture_layers(f, 0, 1, 2);
    captures_pack_all(before, &packed);
    f->captures = captures_new(TIMEOUT, NULL);
    captures_want_extremes(f->captures, METRIC_NEXT_TOKEN);
    assert_int_equal(captures_unpack_all(f->captures, &packed), 0);
    captures_free(&before);
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 0, 0, 0), 0); /* judged before: no part of any capture */
    assert_int_equal(capture_judge(f), -1);
    assert_int_equal(capture_send(f, 0, 1, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    assert_false(capture_of_step(f, 2)->cut);
}

CAPTURE_TEST(an_older_layer_brings_nothing_that_was_judged)
{
    OWNED(packed_captures_clear) struct packed_captures old, packed;
    OWNED(captures_free) struct captures *back = captures_new(TIMEOUT, NULL);
    captures_want_extremes(back, METRIC_NEXT_TOKEN);
    capture_first(f, 1, 2);
    capture_layers(f, 0, 1, 2);
    captures_pack_all(f->captures, &old);
    assert_int_equal(capture_send(f, 0, 1, 2), 0);
    assert_int_equal(capture_judge(f), 2);
    captures_pack_all(f->captures, &packed);
    struct packed_captures mixed = {.run = packed.run, .layer = {old.layer[0], packed.layer[1]}};
    assert_int_equal(captures_unpack_all(back, &mixed), 0);
    assert_int_equal(back->count, 0);
    assert_int_equal(back->judged.step, 2);
}

CAPTURE_TEST(no_damaged_captures_are_believed)
{
    OWNED(packed_captures_clear) struct packed_captures packed;
    const struct layer_id id = {STACK_DECODER, 0, SITE_SELF};
    capture_fill(f);
    captures_pack_all(f->captures, &packed);
    const struct mpk_writer *parts[] = {&packed.run, &packed.layer[0]};
    for (int part = 0; part < 2; part++) {
        size_t size = parts[part]->buffer.size;
        for (size_t at = 0; at < 2 * size; at++) { /* each prefix, and each byte changed */
            OWNED(captures_free) struct captures *back = captures_new(TIMEOUT, NULL);
            size_t length = at < size ? at : size;
            char *bytes = malloc(length + 1);
            assert_true(back && bytes);
            memcpy(bytes, parts[part]->buffer.data, length);
            if (at >= size) {
                bytes[at - size] = (char)(bytes[at - size] ^ 0x55);
            }
            int code = part ? captures_unpack(back, packed.run.buffer.data, packed.run.buffer.size)
                            : captures_unpack(back, bytes, length);
            if (part) {
                code = captures_unpack_layer(back, id, 0, bytes, length);
            }
            assert_true(code == ERR_STORE_FORMAT || (code == 0 && at >= size));
            captures_due(back); /* asserts that they are in order */
            free(bytes);
        }
    }
}

/* Memory */

/* Layers, slices of heads, ranks and captures that come one after the other; returns how many
 * messages could not be taken. Allocates nothing by itself. */
static int capture_tell_story(struct capture_fixture *f)
{
    static const struct {
        uint32_t rank, layer, offset, heads;
        uint64_t step;
    } sent[] = {
        {0, 0, 0, 4, 0}, {0, 1, 0, 4, 0}, {0, 0, 0, 4, 2}, {1, 1, 2, 1, 2}, {0, 9, 0, 4, 4}};
    static const struct head_block head[HEADS];
    static struct message message;
    int refused = 0;
    for (size_t i = 0; i < sizeof sent / sizeof sent[0]; i++) {
        double values[HEADS] = {1, 1, 1, 1};
        const struct measured measured = {
            .heads = sent[i].heads, .head = head, .value = {[METRIC_ROW_COUNT] = values}};
        message.header = (struct header){.type = MESSAGE_ATTENTION,
                                         .world = 1,
                                         .step = sent[i].step,
                                         .layer = {STACK_DECODER, sent[i].layer, SITE_SELF},
                                         .heads = sent[i].heads,
                                         .head_offset = sent[i].offset,
                                         .heads_total = HEADS};
        int code = captures_hear(f->captures, sent[i].rank, &message.header, true);
        code = code ? code
                    : captures_take(f->captures, sent[i].rank, sent[i].layer, &message, &measured);
        assert_true(code == 0 || code == ERR_MEMORY);
        refused += code != 0;
        captures_due(f->captures); /* asserts that they are in order */
    }
    return refused;
}

CAPTURE_TEST(without_memory_a_capture_lacks_one_message)
{
    for (unsigned nth = 1;; nth++) {
        captures_free(&f->captures);
        f->captures = captures_new(TIMEOUT, NULL);
        heap_fail_at(nth);
        int refused = capture_tell_story(f);
        bool failed = heap_has_failed();
        heap_fail_at(0);
        uint32_t messages = 0;
        for (uint32_t i = 0; i < f->captures->count; i++) {
            const struct capture *capture = f->captures->of[i];
            for (uint32_t s = 0; s < capture->layer_count; s++) {
                const struct capture_layer *layer = capture_find_layer(capture, s);
                uint32_t values = layer ? capture_layer_count(layer, METRIC_ROW_COUNT, 2) : 0;
                assert_true(!layer || values == layer->messages);
                messages += values;
            }
        }
        assert_int_equal(refused, failed);
        assert_int_equal(messages, 5 - refused);
        if (!failed) {
            assert_true(nth > 10);
            return;
        }
    }
}

CAPTURE_TEST(unpacking_fails_whole_where_there_is_no_memory)
{
    OWNED(packed_captures_clear) struct packed_captures packed;
    capture_fill(f);
    captures_pack_all(f->captures, &packed);
    for (unsigned nth = 1;; nth++) {
        OWNED(captures_free) struct captures *back = captures_new(TIMEOUT, NULL);
        captures_want_extremes(back, METRIC_NEXT_TOKEN);
        heap_fail_at(nth);
        int code = captures_unpack_all(back, &packed);
        bool failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
        captures_due(back);
        if (!failed) {
            return;
        }
    }
}
