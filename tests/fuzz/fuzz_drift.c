/* SPDX-License-Identifier: MIT */
/* Any bytes as a packed drift: what is accepted is packed into what gives the same again, and
 * judges a window. */
#include "tests/fuzz/fuzz.h"

#include "daemon/state/drift.h"
#include "tests/unit/daemon/state/measured.h"

#include <math.h>
#include <string.h>

#define HEADS 2

static const struct drift_rule rule = {
    .windows = 2, .tolerance = 0.5, .threshold = 5, .buckets = 16};
static struct layer_state *window;

static void free_window(void)
{
    layer_state_free(&window);
}

static void fuzz_drift_prepare(void)
{
    struct measured_options options = {
        .batch = 1, .heads = HEADS, .size = 8, .sharpness = 1, .seed = 1};
    struct measured_message *message = measured_message_new(&options, 1);
    window = layer_state_new(HEADS, 16);
    REQUIRE(message && window);
    REQUIRE(layer_state_add(window, &message->message, measure_result(message->measure)) == 0);
    measured_message_free(&message);
    atexit(free_window);
}

static void fuzz_drift_pack(const struct drift *drift, struct mpk_writer *ret_packed)
{
    mpk_writer_init(ret_packed);
    REQUIRE(drift_pack(drift, ret_packed) == 0);
}

static void fuzz_drift_use(struct drift *drift)
{
    uint64_t bytes = drift_bytes(drift);
    REQUIRE(bytes > 0);
    if (drift_heads(drift) != HEADS) {
        return;
    }
    for (uint64_t last = 1; last < 4; last++) {
        REQUIRE(drift_window(drift, window, last, last != 2) == 0);
        for (int m = 0; m < METRIC_COUNT; m++) {
            drift_result(drift, m);
        }
        drift_result_clear(drift);
    }
    const struct layer_state *states[] = {window};
    REQUIRE(drift_pin(drift, states, 1) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct drift *drift, *again;
    struct mpk_writer packed, packed_again;
    if (!window) {
        fuzz_drift_prepare();
    }
    if (drift_unpack(&rule, data, len, &drift) != 0) {
        return 0;
    }
    fuzz_drift_pack(drift, &packed);
    REQUIRE(drift_unpack(&rule, packed.buffer.data, packed.buffer.size, &again) == 0);
    fuzz_drift_pack(again, &packed_again);
    REQUIRE(packed.buffer.size == packed_again.buffer.size);
    REQUIRE(memcmp(packed.buffer.data, packed_again.buffer.data, packed.buffer.size) == 0);
    fuzz_drift_use(drift);
    mpk_writer_clear(&packed);
    mpk_writer_clear(&packed_again);
    drift_free(&drift);
    drift_free(&again);
    return 0;
}
