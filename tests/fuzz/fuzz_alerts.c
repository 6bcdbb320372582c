/* SPDX-License-Identifier: MIT */
/* Any bytes as packed alerts of the rules that there are by default: what is accepted is packed
 * into what gives the same again, says what fires, judges a window and resolves. */
#include "tests/fuzz/fuzz.h"

#include "daemon/alerts/alerts.h"
#include "daemon/state/layer_state.h"
#include "tests/unit/daemon/state/measured.h"

#include <string.h>

static struct config config;
static struct layer_state *window;

static void fuzz_alerts_clear(void)
{
    layer_state_free(&window);
    config_clear(&config);
}

static void fuzz_alerts_prepare(void)
{
    struct measured_options options = {
        .batch = 1, .heads = 2, .size = 8, .sharpness = 1, .seed = 1};
    struct measured_message *message = measured_message_new(&options, 1);
    window = layer_state_new(2, 16);
    REQUIRE(message && window);
    REQUIRE(layer_state_add(window, &message->message, measure_result(message->measure)) == 0);
    measured_message_free(&message);
    config_defaults(&config);
    atexit(fuzz_alerts_clear);
}

static struct alerts *fuzz_alerts_begin(void)
{
    struct alerts *alerts = alerts_new(&config, "job");
    REQUIRE(alerts);
    return alerts;
}

static void fuzz_alerts_on_event(void *data, const struct alert_result *event)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    alert_encode(event, &writer);
    REQUIRE(mpk_writer_ok(&writer));
    ++*(uint32_t *)data;
    mpk_writer_clear(&writer);
}

static void fuzz_alerts_on_overflow(void *data, uint32_t events)
{
    *(uint32_t *)data += events;
}

static void fuzz_alerts_pack(const struct alerts *alerts, struct mpk_writer *ret_packed)
{
    mpk_writer_init(ret_packed);
    REQUIRE(alerts_pack(alerts, ret_packed) == 0);
}

static void fuzz_alerts_use(struct alerts *alerts)
{
    static const uint8_t run[RUN_BYTES] = {1};
    const struct result_window about = {WINDOW_EPOCH, 1, 1, 1, 1, false};
    uint32_t events = 0;
    struct alert_sink sink = {fuzz_alerts_on_event, fuzz_alerts_on_overflow, &events};
    struct result_common common = {.job = "job", .run = run, .epoch = 3, .step = 4, .time_ns = 5};
    struct alert_run facts = {.common = common, .processed = 5, .lost = 5};
    struct summary_view view;
    alerts_each(alerts, &sink);
    for (uint32_t layer = 0; layer < 2; layer++) {
        REQUIRE(summary_view_init(&view, window, (struct layer_id){STACK_DECODER, layer, SITE_SELF},
                                  "job", run, &about) == 0);
        REQUIRE(alerts_layer(alerts, &view.result, &sink) == 0);
        summary_view_clear(&view);
    }
    REQUIRE(alerts_run(alerts, &facts, &sink) == 0);
    REQUIRE(alerts_silence(alerts, &common, 1e6, &sink) == 0);
    alerts_end(alerts, &common, &sink);
    events = 0;
    alerts_each(alerts, &sink);
    REQUIRE(events == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mpk_writer packed, packed_again;
    if (!window) {
        fuzz_alerts_prepare();
    }
    struct alerts *alerts = fuzz_alerts_begin(), *again = fuzz_alerts_begin();
    if (alerts_unpack(alerts, data, len) == 0) {
        fuzz_alerts_pack(alerts, &packed);
        REQUIRE(alerts_unpack(again, packed.buffer.data, packed.buffer.size) == 0);
        fuzz_alerts_pack(again, &packed_again);
        REQUIRE(packed.buffer.size == packed_again.buffer.size);
        REQUIRE(memcmp(packed.buffer.data, packed_again.buffer.data, packed.buffer.size) == 0);
        mpk_writer_clear(&packed);
        mpk_writer_clear(&packed_again);
    }
    fuzz_alerts_use(alerts);
    alerts_free(&alerts);
    alerts_free(&again);
    return 0;
}
