/* SPDX-License-Identifier: MIT */
#include "tests/unit/cli/top/maps.h"
#include "tests/unit/mpk_text.h"

#include "clients/cli/top/internal.h"

#include <inttypes.h>

uint8_t maps_run[RUN_BYTES] = {0xab, 0xcd, 0xef, 0x01, 0x23};
const char *maps_module;

void answer_begin(struct answer *answer)
{
    mpk_writer_init(&answer->writer);
}

const msgpack_object *answer_end(struct answer *answer)
{
    assert_true(mpk_writer_ok(&answer->writer));
    assert_int_equal(mpk_parse(answer->writer.buffer.data, answer->writer.buffer.size,
                               &mpk_result_limits, &answer->doc),
                     0);
    return answer->doc.root;
}

void answer_free(struct answer *answer)
{
    mpk_doc_clear(&answer->doc);
    mpk_writer_clear(&answer->writer);
}

static void top_maps_put_job(struct mpk_writer *writer, const char *job, uint64_t step,
                             uint64_t received, const char *severity)
{
    char run[2 * RUN_BYTES + 1], firing[64] = "";
    run_hex(maps_run, run);
    if (severity) {
        snprintf(firing, sizeof firing, ", 'firing': [{'severity': '%s', 'count': 3}]", severity);
    }
    mpk_text(writer,
             "{'job': '%s', 'run': '%s', 'state': 'active', 'epoch': 3, 'step': %" PRIu64
             ", 'world': 4, 'ranks': 2, 'received': %" PRIu64 ", 'lost': 7%s}",
             job, run, step, received, firing);
}

void put_monitor(struct mpk_writer *writer, const struct monitor *monitor)
{
    uint64_t repeated = 10 + monitor->dropped; /* no loss, but sent again */
    mpk_put_map(writer, 2);
    mpk_put_str(writer, "stats");
    mpk_text(writer,
             "{'received': %" PRIu64 ", 'lost': %" PRIu64 ", 'summaries': %" PRIu64
             ", 'alerts': %" PRIu64 ", 'dropped': {'repeated': %" PRIu64 ", 'late': %" PRIu64
             ", 'shape': 0}, 'uptime_s': %f}",
             monitor->received + repeated, monitor->lost, monitor->summaries, monitor->alerts,
             repeated, monitor->dropped, monitor->uptime_s);
    mpk_pair_array(writer, "jobs", (monitor->job ? 1u : 0u) + (monitor->second ? 1u : 0u));
    if (monitor->job) {
        top_maps_put_job(writer, monitor->job, monitor->step, monitor->received, NULL);
    }
    if (monitor->second) {
        top_maps_put_job(writer, monitor->second, monitor->step, monitor->received,
                         monitor->severity);
    }
}

void give_monitor(struct model *model, const struct monitor *monitor, int64_t now_ms)
{
    OWNED(answer_free) struct answer answer;
    answer_begin(&answer);
    put_monitor(&answer.writer, monitor);
    read_monitor(model, answer_end(&answer), now_ms);
}

static struct result_common top_maps_common(uint64_t step)
{
    return (struct result_common){"gpt-small", maps_run, 3, step, 1};
}

/* A list of one. */
void put_live(struct mpk_writer *writer, uint32_t layer, uint32_t heads, double base, uint64_t step)
{
    double entropy[64], confidence[64];
    enum pattern pattern[64];
    for (uint32_t i = 0; i < heads; i++) {
        entropy[i] = base + i / 100.0;
        confidence[i] = 1 - entropy[i];
        pattern[i] = i == 1 ? PATTERN_INDUCTION : PATTERN_MIXED;
    }
    struct live_result live = {
        .common = top_maps_common(step),
        .layer = {.id = {STACK_DECODER, layer, SITE_SELF},
                  .shape = {1, heads, 8, 8},
                  .rows = 64,
                  .module = maps_module},
        .numbers = {.heads = heads, .pattern = pattern},
    };
    live.numbers.value[METRIC_ENTROPY_NORMALIZED] = entropy;
    live.numbers.value[METRIC_CONFIDENCE] = confidence;
    mpk_put_array(writer, 1);
    live_encode(&live, writer);
}

void give_live(struct model *model, uint32_t layer, uint32_t heads, double base, uint64_t step)
{
    OWNED(answer_free) struct answer answer;
    answer_begin(&answer);
    put_live(&answer.writer, layer, heads, base, step);
    read_live(model, answer_end(&answer));
}

static void top_maps_put_grid_layer(struct mpk_writer *writer, uint32_t layer, uint32_t heads,
                                    uint32_t windows)
{
    float values[64 * 200];
    for (uint32_t head = 0; head < heads; head++) {
        for (uint32_t i = 0; i < windows; i++) {
            values[head * windows + i] = (float)layer + (float)head / 10.0f + (float)i / 100.0f;
        }
    }
    mpk_put_map(writer, 5);
    mpk_pair_str(writer, "stack", "decoder");
    mpk_pair_u64(writer, "layer", layer);
    mpk_pair_str(writer, "site", "self");
    mpk_pair_u64(writer, "heads", heads);
    mpk_pair_bin(writer, "values", values, sizeof(float) * heads * windows);
}

void give_grid(struct model *model, const char *metric, uint32_t layers, uint32_t heads,
               uint32_t windows)
{
    char run[2 * RUN_BYTES + 1];
    OWNED(answer_free) struct answer answer;
    run_hex(maps_run, run);
    answer_begin(&answer);
    mpk_put_map(&answer.writer, 5);
    mpk_pair_str(&answer.writer, "run", run);
    mpk_pair_str(&answer.writer, "metric", metric);
    mpk_pair_str(&answer.writer, "unit", "epoch");
    uint8_t last[8 * 200] = {0}, step[8 * 200] = {0};
    for (uint32_t i = 0; i < windows; i++) {
        last[8 * i] = (uint8_t)(i + 1);
        step[8 * i] = (uint8_t)(10 * i % 256);
        step[8 * i + 1] = (uint8_t)(10 * i / 256);
    }
    mpk_pair_map(&answer.writer, "windows", 2);
    mpk_pair_bin(&answer.writer, "last", last, 8 * (size_t)windows);
    mpk_pair_bin(&answer.writer, "step", step, 8 * (size_t)windows);
    mpk_pair_array(&answer.writer, "layers", layers);
    for (uint32_t i = 0; i < layers; i++) {
        top_maps_put_grid_layer(&answer.writer, i, heads, windows);
    }
    read_grid(model, answer_end(&answer));
}

static void top_maps_put_alert(struct mpk_writer *writer, uint32_t layer, int32_t head,
                               enum alert_severity severity, enum alert_state state,
                               const char *message)
{
    struct alert_result alert = {
        .common = top_maps_common(30),
        .rule = "entropy_collapse",
        .severity = severity,
        .state = state,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .head = head,
        .value = 0.05,
        .bound = 0.1,
        .since_after = 15,
        .since_step = 20,
        .message = message,
        .why = "Why it matters.",
        .advice = "Lower the learning rate.",
    };
    alert_encode(&alert, writer);
}

void give_verdict(struct model *model, const struct verdict_given *given, uint32_t count)
{
    char run[2 * RUN_BYTES + 1];
    OWNED(answer_free) struct answer answer;
    run_hex(maps_run, run);
    answer_begin(&answer);
    mpk_put_map(&answer.writer, 3);
    mpk_pair_str(&answer.writer, "run", run);
    mpk_pair_u64(&answer.writer, "step", 29);
    mpk_pair_array(&answer.writer, "alerts", count);
    for (uint32_t i = 0; i < count; i++) {
        top_maps_put_alert(&answer.writer, given[i].layer, given[i].head, given[i].severity,
                           ALERT_FIRING_AT_END, given[i].head < 0 ? "of all heads" : "of one head");
    }
    read_verdict(&model->opened, answer_end(&answer));
}

struct model *model_of_two_layers(void)
{
    struct model *model = model_new();
    assert_non_null(model);
    give_monitor(model, &(struct monitor){.job = "gpt-small", .step = 30, .uptime_s = 5}, 1000);
    model_open(model, "gpt-small", NULL);
    for (uint32_t layer = 0; layer < 2; layer++) {
        give_live(model, layer, 4, 0.2 + 0.3 * layer, 30);
    }
    give_grid(model, "entropy_normalized", 2, 4, 12);
    give_verdict(model, &(struct verdict_given){0, 2, ALERT_CRITICAL}, 1);
    return model;
}

int model_set_up(void **state)
{
    *state = model_of_two_layers();
    return 0;
}

int model_tear_down(void **state)
{
    struct model *model = *state;
    model_free(&model);
    assert_null(model);
    return 0;
}

void draw(struct model *model, struct screen *screen, int width, int height)
{
    if (screen->width != width || screen->height != height) {
        screen_resize(screen, width, height);
    }
    view_draw(model, screen, 10000, "14:02:31");
}

/* The text of a row, without the blanks at its end. */
static void maps_row_text(const struct screen *screen, int row, char *ret_text, size_t size)
{
    size_t used = 0, end = 0;
    for (int column = 0; column < screen->width; column++) {
        const char *text = screen->cells[row * screen->width + column].text;
        size_t length = strlen(text);
        if (used + length >= size) {
            break;
        }
        memcpy(ret_text + used, text, length);
        used += length;
        end = strcmp(text, " ") == 0 ? end : used;
    }
    ret_text[end] = '\0';
}

/* Static: a test that fails jumps out of here. */
static char drawn[1 << 17];

static void read_screen(const struct screen *screen)
{
    size_t used = 0;
    for (int row = 0; row < screen->height; row++) {
        maps_row_text(screen, row, drawn + used, sizeof drawn - used - 1);
        used += strlen(drawn + used);
        drawn[used++] = '\n';
    }
    drawn[used] = '\0';
}

/* A message of cmocka would be cut. */
static void top_maps_refuse(const char *what, const char *text)
{
    fprintf(stderr, "%s: '%s'\n%s", what, text, drawn);
    fail();
}

void assert_shows(const struct screen *screen, const char *text)
{
    read_screen(screen);
    if (!strstr(drawn, text)) {
        top_maps_refuse("not on the screen", text);
    }
}

void assert_shows_not(const struct screen *screen, const char *text)
{
    read_screen(screen);
    if (strstr(drawn, text)) {
        top_maps_refuse("on the screen", text);
    }
}

void assert_row(const struct screen *screen, int row, const char *text)
{
    char found[2048];
    maps_row_text(screen, row, found, sizeof found);
    assert_string_equal(found, text);
}
