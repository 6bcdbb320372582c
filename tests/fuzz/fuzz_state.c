/* SPDX-License-Identifier: MIT */
/* Any bytes as the packed state of a layer: what is accepted is packed into what gives the same
 * again, can be added to another and summed up, and the sum is a state again. */
#include "tests/fuzz/fuzz.h"

#include "daemon/state/layer_state.h"

#include <string.h>

/* Larger ones are only read: time. */
#define HEADS_MOST 8

#define COUNTS_MOST (UINT64_C(1) << 50)

static void fuzz_state_pack(const struct layer_state *state, struct mpk_writer *ret_packed)
{
    mpk_writer_init(ret_packed);
    REQUIRE(layer_state_pack(state, ret_packed) == 0);
}

static void fuzz_state_use(struct layer_state *state, struct layer_state *other)
{
    static const uint8_t run[RUN_BYTES] = {1};
    const struct result_window window = {WINDOW_EPOCH, 1, 1, 1, 1, false};
    const struct layer_id layer = {STACK_DECODER, 0, SITE_SELF};
    struct summary_view view;
    struct mpk_writer writer;
    REQUIRE(layer_state_merge(state, other) == 0);
    REQUIRE(summary_view_init(&view, state, layer, "job", run, &window) == 0);
    mpk_writer_init(&writer);
    summary_encode(&view.result, &writer);
    REQUIRE(mpk_writer_ok(&writer));
    REQUIRE(mpk_check(writer.buffer.data, writer.buffer.size, &mpk_result_limits) == 0);
    mpk_writer_clear(&writer);
    summary_view_clear(&view);
    REQUIRE(layer_state_bytes(state) > 0);
}

/* Twice these still are counts of a state. */
static bool fuzz_state_may_double(const struct layer_state *state)
{
    return state->rows < COUNTS_MOST && state->invalid_rows < COUNTS_MOST &&
           state->messages < COUNTS_MOST && state->tally.lost < COUNTS_MOST;
}

static void fuzz_state_read_sum(const struct layer_state *state)
{
    struct layer_state *sum;
    struct mpk_writer packed;
    fuzz_state_pack(state, &packed);
    REQUIRE(layer_state_unpack(packed.buffer.data, packed.buffer.size, &sum) == 0);
    layer_state_free(&sum);
    mpk_writer_clear(&packed);
}

/* The histograms of the others may be anything: what is refused here, nothing takes. */
static bool fuzz_state_read_metric(const uint8_t *data, size_t len)
{
    struct layer_state *state;
    struct result_stat stat;
    if (layer_state_unpack_metric(data, len, METRIC_ENTROPY, &state) != 0) {
        return false;
    }
    REQUIRE(layer_state_stat(state, METRIC_ENTROPY, 0, &stat) == 0);
    layer_state_free(&state);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct layer_state *state, *again;
    struct mpk_writer packed, packed_again;
    if (!fuzz_state_read_metric(data, len) || layer_state_unpack(data, len, &state) != 0) {
        return 0;
    }
    fuzz_state_pack(state, &packed);
    REQUIRE(layer_state_unpack(packed.buffer.data, packed.buffer.size, &again) == 0);
    fuzz_state_pack(again, &packed_again);
    REQUIRE(packed.buffer.size == packed_again.buffer.size);
    REQUIRE(memcmp(packed.buffer.data, packed_again.buffer.data, packed.buffer.size) == 0);
    if (state->heads <= HEADS_MOST) {
        bool may_double = fuzz_state_may_double(state);
        fuzz_state_use(state, again);
        if (may_double) {
            fuzz_state_read_sum(state);
        }
    }
    mpk_writer_clear(&packed);
    mpk_writer_clear(&packed_again);
    layer_state_free(&state);
    layer_state_free(&again);
    return 0;
}
