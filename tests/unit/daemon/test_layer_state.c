/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "heap.h"
#include "layer_state.h"
#include "measured.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEADS 3

static const struct measured_options everything = {
    .batch = 2, .heads = HEADS, .size = 24, .sharpness = 3, .everything = true};

static void add(struct layer_state *state, struct measured_message *message)
{
    assert_non_null(message);
    assert_int_equal(layer_state_add(state, &message->message, measure_result(message->measure)),
                     0);
    measured_message_free(&message);
}

/* With everything that a state may have. */
static struct layer_state *full_state(void)
{
    struct layer_state *state = layer_state_new(HEADS, 48);
    assert_non_null(state);
    for (uint64_t i = 1; i <= 3; i++) {
        struct measured_options options = everything;
        options.seed = i;
        add(state, measured_message_new(&options, i));
    }
    add(state, measured_weights_new(HEADS, 4));
    tally_drop(&state->tally, ERR_SHAPE);
    state->tally.lost = 7;
    state->tally.source = 8;
    return state;
}

static void pack(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(layer_state_pack(state, writer), 0);
}

static void summarise(const struct layer_state *state, struct mpk_writer *writer)
{
    const struct layer_id id = {.layer = 3};
    const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    const uint8_t run[RUN_BYTES] = {1, 2, 3};
    struct summary_view view;
    assert_int_equal(summary_view_init(&view, state, id, "job", run, &window), 0);
    mpk_writer_init(writer);
    summary_encode(&view.result, writer);
    assert_true(mpk_writer_ok(writer));
    summary_view_clear(&view);
}

static void assert_same_bytes(const struct mpk_writer *a, const struct mpk_writer *b)
{
    assert_int_equal(a->buffer.size, b->buffer.size);
    assert_memory_equal(a->buffer.data, b->buffer.data, a->buffer.size);
}

static void test_unpacked_is_what_was_packed(void **unused)
{
    (void)unused;
    struct layer_state *state = full_state(), *back = NULL;
    struct mpk_writer packed, again, summary, summary_again;
    pack(state, &packed);
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &back), 0);
    pack(back, &again);
    assert_same_bytes(&packed, &again);
    summarise(state, &summary);
    summarise(back, &summary_again);
    assert_same_bytes(&summary, &summary_again);
    mpk_writer_clear(&packed);
    mpk_writer_clear(&again);
    mpk_writer_clear(&summary);
    mpk_writer_clear(&summary_again);
    layer_state_free(&state);
    layer_state_free(&back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpacked_is_what_was_packed),
    };
    return cmocka_run_group_tests_name("layer_state", tests, NULL, NULL);
}
