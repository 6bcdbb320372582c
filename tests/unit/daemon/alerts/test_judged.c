/* SPDX-License-Identifier: MIT */
/* Captures by the default rules: the first invalid rows, and masks that are lost. */
#include "tests/unit/unit.h"

#include "daemon/alerts/internal.h"

#define NONE  ((double)NAN)
#define HEADS 4

static const uint8_t run_id[RUN_BYTES] = {1};
static const struct layer_id decoder_0 = {STACK_DECODER, 0, SITE_SELF};
static const struct layer_id decoder_1 = {STACK_DECODER, 1, SITE_SELF};
static const double none_invalid[HEADS], all_invalid[HEADS] = {1, 1, 1, 1};

struct told {
    char rule[RULE_NAME_MAX + 1];
    enum alert_state state;
    int32_t head;
};

struct judged_fixture {
    struct config config;
    struct alerts *alerts;
    struct alert_sink sink;
    struct captures *captures;
    struct told told; /* the newest */
    char message[300];
    uint32_t count;
    uint64_t step;
};

static void judged_on_event(void *data, const struct alert_result *event)
{
    struct judged_fixture *f = data;
    f->told = (struct told){.state = event->state, .head = event->head};
    snprintf(f->told.rule, sizeof f->told.rule, "%s", event->rule);
    snprintf(f->message, sizeof f->message, "%s", event->message);
    f->count++;
}

static void keep_origin_share(void *data, const struct alert_result *event)
{
    if (strcmp(event->rule, "first_invalid") == 0) {
        *(double *)data = event->value;
    }
}

static void judged_start(struct judged_fixture *f)
{
    memset(f, 0, sizeof *f);
    config_defaults(&f->config);
    f->alerts = alerts_new(&f->config, "gpt");
    f->captures = captures_new(UINT64_MAX, NULL);
    assert_true(f->alerts && f->captures);
    captures_want_extremes(f->captures, METRIC_NEXT_TOKEN);
    f->sink = (struct alert_sink){judged_on_event, NULL, f};
}

static void judged_stop(struct judged_fixture *f)
{
    alerts_free(&f->alerts);
    captures_free(&f->captures);
    config_clear(&f->config);
}

#define JUDGED_TEST(name) TEST_IN(name, struct judged_fixture, f, judged_start, judged_stop)

/* A message with one head of a layer, of 1000 rows: this share is invalid, and the others give the
 * next token at least and at most this weight. */
static void send_head(struct judged_fixture *f, struct layer_id id, uint32_t head, double invalid,
                      double least, double most)
{
    struct message *message = calloc(1, sizeof *message);
    struct head_block *block = calloc(1, sizeof *block);
    assert_true(message && block);
    uint64_t sound = 1000 - (uint64_t)lround(1000 * invalid);
    double value = sound ? most : NONE;
    struct measured measured = {.heads = 1,
                                .rows = sound,
                                .invalid_rows = 1000 - sound,
                                .row_sum_error = NAN,
                                .head = block,
                                .value = {[METRIC_ENTROPY] = &value, [METRIC_NEXT_TOKEN] = &value}};
    message->header = (struct header){.type = MESSAGE_ATTENTION,
                                      .layer = id,
                                      .step = f->step,
                                      .heads = 1,
                                      .head_offset = head,
                                      .heads_total = HEADS};
    block->row[METRIC_ENTROPY].moments = (struct moments){.n = sound, .mean = 1};
    block->row[METRIC_NEXT_TOKEN].moments = (struct moments){sound, most, 0, least, most};
    assert_int_equal(captures_hear(f->captures, 0, &message->header, true), 0);
    assert_int_equal(captures_take(f->captures, 0, 4u * id.stack + id.layer, message, &measured),
                     0);
    free(block);
    free(message);
}

static void capture_invalid(struct judged_fixture *f, struct layer_id id, const double *shares)
{
    for (uint32_t h = 0; h < HEADS; h++) {
        if (!isnan(shares[h])) {
            send_head(f, id, h, shares[h], 0, 0);
        }
    }
}

static void judge_capture(struct judged_fixture *f)
{
    struct capture *capture = captures_oldest_open(f->captures);
    const struct result_common common = {"gpt", run_id, 0, f->step, 0};
    assert_non_null(capture);
    assert_int_equal(alerts_capture(f->alerts, &common, capture, &f->sink), 0);
    captures_judged(f->captures, capture);
    f->step += 30;
}

/* A capture of two layers. */
static void capture_both(struct judged_fixture *f, const double *of_0, const double *of_1)
{
    capture_invalid(f, decoder_1, of_1);
    capture_invalid(f, decoder_0, of_0);
    judge_capture(f);
}

JUDGED_TEST(invalid_rows_are_told_by_their_capture_with_the_one_before)
{
    capture_both(f, none_invalid, none_invalid);
    capture_both(f, none_invalid, none_invalid);
    assert_int_equal(f->count, 0);
    capture_both(f, none_invalid, (double[]){0, 0, 0.6, 0});
    assert_int_equal(f->count, 2); /* first_invalid, and invalid_rows of the layer */
    assert_string_equal(f->message,
                        "rows became invalid: first in head 2 of decoder.1.self, between "
                        "steps 30 and 60: 60 % of its rows");
    assert_string_equal(f->told.rule, "first_invalid");
    assert_int_equal(f->told.head, 2);
    capture_both(f, all_invalid, all_invalid); /* it is where it began */
    double share = 0;
    struct alert_sink sink = {keep_origin_share, NULL, &share};
    assert_int_equal(alerts_each(f->alerts, &sink), 0);
    assert_true(share == 0.6);
    capture_both(f, none_invalid, none_invalid);
    assert_string_equal(f->message, "no rows are invalid any more");
    capture_both(f, all_invalid, all_invalid);
    assert_string_equal(f->message, "rows of all heads are invalid alike: no capture saw where "
                                    "that began, between steps 120 and 150");
}

JUDGED_TEST(rows_that_are_invalid_in_the_first_capture_are_so_from_the_start)
{
    capture_both(f, (double[]){0, 0.1, 0, 0}, all_invalid);
    assert_string_equal(f->message, "rows became invalid: first in head 1 of decoder.0.self, from "
                                    "the start: 10 % of its rows");
}

JUDGED_TEST(windows_leave_what_captures_have_judged)
{
    capture_both(f, none_invalid, none_invalid);
    struct summary_result summary = {.common = {"gpt", run_id, 0, 30, 0},
                                     .heads = HEADS,
                                     .invalid_share = all_invalid,
                                     .layer = {.id = decoder_0, .rows = 100, .invalid_rows = 400}};
    assert_int_equal(alerts_layer(f->alerts, &summary, ALERTS_OF_WINDOWS, &f->sink), 0);
    struct alert_run run = {.common = summary.common, .by = ALERTS_OF_WINDOWS, .processed = 1};
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    assert_int_equal(f->count, 0);
}

JUDGED_TEST(heads_without_rows_are_neither_sound_nor_invalid)
{
    capture_both(f, (double[]){NONE, 0, 0, NONE}, none_invalid);
    capture_both(f, (double[]){NONE, 1, 1, NONE}, all_invalid);
    assert_string_equal(f->message, "rows of all heads are invalid alike: no capture saw where "
                                    "that began, between steps 0 and 30");
}

/* Captures of decoders whose layers have these masks, as of expect_ahead. Returns which layers look
 * ahead in the last one. */
static const char *capture_masks(struct judged_fixture *f, const char *masks, int times)
{
    static char found[8];
    for (int i = 0; i < times; i++) {
        for (uint16_t layer = 0; masks[layer]; layer++) {
            double most = masks[layer] == 'c' ? 0 : 0.3, least = masks[layer] == 'n' ? 0.3 : 0;
            for (uint32_t h = 0; h < HEADS; h++) {
                send_head(f, (struct layer_id){STACK_DECODER, layer, SITE_SELF}, h, 0, least, most);
            }
        }
        judge_capture(f);
    }
    for (uint16_t layer = 0; masks[layer]; layer++) {
        struct alert_layer *of =
            alert_layer_get(f->alerts, (struct layer_id){STACK_DECODER, layer, SITE_SELF});
        double later = of->numbers->later_keys;
        found[layer] = isnan(later) ? '?' : later > 0.001 ? '!' : '.';
        found[layer + 1] = '\0';
    }
    return found;
}

JUDGED_TEST(a_layer_without_a_mask_is_told_by_one_capture)
{
    assert_string_equal(capture_masks(f, "nccc", 1), "!...");
    assert_string_equal(f->told.rule, "looks_ahead");
    assert_string_equal(capture_masks(f, "cccc", 1), "....");
    assert_int_equal(f->told.state, ALERT_RESOLVED);
    assert_string_equal(capture_masks(f, "ccnc", 1), "..!.");
}

JUDGED_TEST(a_mask_that_all_layers_lose_is_told_by_four_captures_after_sixteen)
{
    assert_string_equal(capture_masks(f, "cc", 15), "..");
    assert_string_equal(capture_masks(f, "nn", 4), "??");
    judged_stop(f);
    judged_start(f);
    assert_string_equal(capture_masks(f, "pp", 16), "..");
    assert_string_equal(capture_masks(f, "nn", 3), "??");
    assert_string_equal(capture_masks(f, "nn", 1), "!!");
    assert_string_equal(capture_masks(f, "cc", 16), ".."); /* it came back: a design */
    assert_string_equal(capture_masks(f, "nn", 4), "??");
}
