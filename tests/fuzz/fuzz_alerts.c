/* SPDX-License-Identifier: MIT */
/* Any bytes as packed alerts, of the rules that there are by default: what is accepted is packed
 * into what gives the same again, says what fires, judges a window and
 * what is logged, and resolves. */
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

/* An accepted state is packed into one that gives the same again: from the second time on to the
 * byte. The first time layers with nothing to say, which decide their order, are still among them.
 */
static void fuzz_alerts_take(struct alerts *alerts, const uint8_t *data, size_t len)
{
    struct mpk_writer packed[3];
    if (alerts_unpack(alerts, data, len) != 0) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        struct alerts *again = fuzz_alerts_begin();
        mpk_writer_init(&packed[i]);
        REQUIRE(i == 0 ||
                alerts_unpack(again, packed[i - 1].buffer.data, packed[i - 1].buffer.size) == 0);
        REQUIRE(alerts_pack(i == 0 ? alerts : again, &packed[i]) == 0);
        REQUIRE(packed[i].buffer.size == packed[0].buffer.size);
        alerts_free(&again);
    }
    REQUIRE(memcmp(packed[1].buffer.data, packed[2].buffer.data, packed[1].buffer.size) == 0);
    for (int i = 0; i < 3; i++) {
        mpk_writer_clear(&packed[i]);
    }
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
        REQUIRE(alerts_layer(alerts, &view.result, ALERTS_OF_ALL, &sink) == 0);
        summary_view_clear(&view);
    }
    REQUIRE(alerts_run(alerts, &facts, &sink) == 0);
    for (uint64_t i = 0; i < 40; i++) {
        static const double values[] = {1, 1e300, -1e300, 0, 2};
        struct named_value loss = {"loss", i % 9 == 8 ? NAMED_NONE : NAMED_NUMBER,
                                   values[i * i % 5], false, NULL};
        const struct named_values logged = {&loss, 1, NULL};
        const struct log_result log = {{"job", run, 3, 4 + i, 5 + i}, &logged};
        bool taken;
        REQUIRE(alerts_log(alerts, &log, 0, &sink, &taken) == 0);
    }
    REQUIRE(alerts_silence(alerts, &common, 1e6, &sink) == 0);
    alerts_end(alerts, &common, true, &sink);
    events = 0;
    alerts_end(alerts, &common, true, &sink); /* all has been told */
    REQUIRE(events == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!window) {
        fuzz_alerts_prepare();
    }
    struct alerts *alerts = fuzz_alerts_begin();
    fuzz_alerts_take(alerts, data, len);
    fuzz_alerts_use(alerts);
    alerts_free(&alerts);
    return 0;
}
