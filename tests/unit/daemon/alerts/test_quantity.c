/* SPDX-License-Identifier: MIT */
/* Numbers of a head among its mates and in its own past, by hand, and what the default rules make
 * of them. */
#include "tests/unit/unit.h"

#include "daemon/alerts/internal.h"

#define NONE  ((double)NAN)
#define HEADS 4

static const uint8_t run_id[RUN_BYTES] = {1};
static const struct layer_id decoder_0 = {STACK_DECODER, 0, SITE_SELF};
static const struct layer_id decoder_1 = {STACK_DECODER, 1, SITE_SELF};
static const struct layer_id decoder_2 = {STACK_DECODER, 2, SITE_SELF};

struct told {
    char rule[RULE_NAME_MAX + 1];
    enum alert_state state;
    bool has_layer;
    struct layer_id layer;
    int32_t head;
};

struct quantity_fixture {
    struct config config;
    struct alerts *alerts;
    struct alert_sink sink;
    struct told told; /* the newest */
    char message[300];
    uint32_t count;
    uint64_t step;
    struct result_stat stat[METRIC_COUNT][HEADS];
    double invalid[HEADS];
    struct summary_result summary;
};

static void quantity_on_event(void *data, const struct alert_result *event)
{
    struct quantity_fixture *f = data;
    f->told = (struct told){.state = event->state,
                            .has_layer = event->has_layer,
                            .layer = event->layer,
                            .head = event->head};
    snprintf(f->told.rule, sizeof f->told.rule, "%s", event->rule);
    snprintf(f->message, sizeof f->message, "%s", event->message);
    f->count++;
}

static void quantity_start(struct quantity_fixture *f)
{
    config_defaults(&f->config);
    f->alerts = alerts_new(&f->config, "gpt");
    assert_non_null(f->alerts);
    f->sink = (struct alert_sink){quantity_on_event, NULL, f};
}

static void quantity_stop(struct quantity_fixture *f)
{
    alerts_free(&f->alerts);
    config_clear(&f->config);
}

#define QUANTITY_TEST(name) TEST_IN(name, struct quantity_fixture, f, quantity_start, quantity_stop)

/* A window of 16 captures of the layer, of which nothing is known yet. */
static void begin_window(struct quantity_fixture *f, struct layer_id id)
{
    f->summary = (struct summary_result){
        .common = {"gpt", run_id, 0, f->step, 0}, .heads = HEADS, .messages = 32, .ranks = 2};
    f->summary.layer.id = id;
    f->summary.window.first = f->summary.window.last = f->step;
    f->summary.layer.rows = 100;
    f->summary.invalid_share = f->invalid;
    memset(f->invalid, 0, sizeof f->invalid);
}

/* The means of a metric; NaN: the head has none. */
static void put_means(struct quantity_fixture *f, enum metric metric, const double *mean)
{
    for (int h = 0; h < HEADS; h++) {
        double x = mean[h];
        f->stat[metric][h] =
            (struct result_stat){.mean = x, .min = x, .max = x, .count = isnan(x) ? 0U : 1U};
    }
    f->summary.stat[metric] = f->stat[metric];
}

static const struct alert_numbers *take_window(struct quantity_fixture *f)
{
    struct alert_layer *layer = alert_layer_get(f->alerts, f->summary.layer.id);
    f->alerts->weight = 16;
    assert_int_equal(alert_numbers_take(f->alerts, layer, &f->summary, ALERTS_OF_ALL), 0);
    return layer->numbers;
}

static void judge_window(struct quantity_fixture *f)
{
    assert_int_equal(alerts_layer(f->alerts, &f->summary, ALERTS_OF_ALL, &f->sink), 0);
}

static void end_window(struct quantity_fixture *f)
{
    struct alert_run run = {.common = {"gpt", run_id, 0, f->step, 0}, .processed = 1};
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    f->step++;
}

static void expect_same(double found, double wanted)
{
    assert_close_or_nan(found, wanted, 1e-6);
}

QUANTITY_TEST(a_head_is_saturated_when_it_is_sharp_and_its_logits_are_spread)
{
    static const struct {
        double entropy, spread, wanted;
    } cases[] = {
        {0.02, 50, 0.02}, {0.02, 24, 0.02},   {0.02, 22, 1},  /* an aligned head */
        {0.9, 50, 0.9},   {0.02, NONE, 0.02}, {0.1, NONE, 1}, /* logits are not known */
        {NONE, 50, NONE}, {NONE, NONE, NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){cases[i].entropy, 0.8, 0.8, 0.8});
        put_means(f, METRIC_STD_LOGIT, (double[]){cases[i].spread, 1, 1, 1});
        const struct alert_numbers *numbers = take_window(f);
        expect_same(numbers->head[0].saturated_entropy, cases[i].wanted);
        expect_same(numbers->head[0].saturated_alone,
                    isnan(cases[i].spread) ? NAN : cases[i].wanted);
        expect_same(numbers->head[1].saturated_entropy, 1);
    }
}

/* Head 3 of a layer of which the others have learned little. */
static double alone_after(struct quantity_fixture *f, double spread, double entropy)
{
    begin_window(f, decoder_0);
    put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.98, 0.99, 0.99, entropy});
    put_means(f, METRIC_STD_LOGIT, (double[]){0.33, 0.21, 0.18, spread});
    judge_window(f);
    end_window(f);
    return alert_layer_get(f->alerts, decoder_0)->numbers->head[3].saturated_alone;
}

static void pack_and_unpack(struct alerts *alerts)
{
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    assert_int_equal(alerts_pack(alerts, &writer), 0);
    assert_int_equal(alerts_unpack(alerts, writer.buffer.data, writer.buffer.size), 0);
}

QUANTITY_TEST(a_head_whose_logits_jump_is_saturated_before_they_are_at_the_bound)
{
    /* Seed 337 of tests/verdict, whose queries are 50 times as large since the third window; in the
     * second series that begins within it. At last the head is as it was. */
    static const double series[][6][2] = {
        {{0.15, 0.99}, {0.16, 0.99}, {7.92, 0.24}, {8.97, 0.16}, {9.94, 0.15}, {0.5, 0.95}},
        {{0.24, 0.99}, {0.25, 0.99}, {4.49, 0.72}, {9.5, 0.15}, {10, 0.13}, {0.5, 0.95}},
    };
    for (size_t i = 0; i < sizeof series / sizeof series[0]; i++) {
        for (size_t w = 0; w < 6; w++) {
            double entropy = series[i][w][1];
            expect_same(alone_after(f, series[i][w][0], entropy), entropy < 0.25 ? entropy : 1);
            assert_int_equal(f->count, 2 * i + (w > 1 + i) + (w == 5));
            pack_and_unpack(f->alerts);
        }
        assert_string_equal(f->told.rule, "head_saturated");
        assert_int_equal(f->told.head, 3);
        alerts_forget(f->alerts);
    }
}

QUANTITY_TEST(a_head_that_learns_to_be_sharp_within_windows_is_not_saturated)
{
    /* Cross attention that aligns (seed 285, windows of 64 captures), queries that begin at 0, and
     * a head that was sharp when the run began. */
    static const double series[][5][2] = {
        {{0.55, 0.95}, {5.66, 0.17}, {6.82, 0.06}, {6.49, 0.05}, {6.46, 0.04}},
        {{0, 1}, {0.001, 1}, {0.2, 0.99}, {2, 0.7}, {5, 0.2}},
        {{6, 0.1}, {6, 0.1}, {6, 0.1}, {6, 0.1}, {6, 0.1}},
    };
    for (size_t i = 0; i < sizeof series / sizeof series[0]; i++) {
        for (size_t w = 0; w < 5; w++) {
            expect_same(alone_after(f, series[i][w][0], series[i][w][1]), 1);
        }
        alerts_forget(f->alerts);
    }
    for (int window = 0; window < 2; window++) { /* three of four at once: they align */
        begin_window(f, decoder_0);
        double spread = window ? 8 : 0.2;
        put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.2, 0.2, 0.2, 0.9});
        put_means(f, METRIC_STD_LOGIT, (double[]){spread, spread, spread, 0.2});
        expect_same(take_window(f)->head[0].saturated_alone, 1);
    }
}

QUANTITY_TEST(heads_that_look_at_one_key_by_their_role_are_not_saturated)
{
    /* Layer 1 of a model that does induction (seed 1301 of tests/verdict), with other roles. */
    static const enum metric roles[] = {METRIC_PREVIOUS_TOKEN, METRIC_NEXT_TOKEN, METRIC_INDUCTION,
                                        METRIC_DUPLICATE_TOKEN};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        for (int window = 0; window < 2; window++) {
            double spread = window ? 25 : 1;
            begin_window(f, decoder_0);
            put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.02, 0.03, 0.02, 0.04});
            put_means(f, METRIC_STD_LOGIT, (double[]){spread, spread, spread, spread});
            put_means(f, roles[i], (double[]){0.7, 0.98, 0.69, 0.34});
            const struct alert_numbers *numbers = take_window(f);
            end_window(f);
            for (int h = 0; h < 4 && window; h++) {
                expect_same(numbers->head[h].saturated_entropy, h == 2 ? 0.02 : h == 3 ? 0.04 : 1);
                assert_int_equal(numbers->head[h].is_saturated, h > 1);
            }
        }
        alerts_forget(f->alerts);
    }
}

QUANTITY_TEST(a_head_that_loses_its_role_is_saturated_from_then_on)
{
    for (int window = 0; window < 4; window++) {
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.02, 0.9, 0.9, 0.9});
        put_means(f, METRIC_STD_LOGIT, (double[]){25, 1, 1, 1});
        put_means(f, METRIC_INDUCTION, (double[]){window < 2 ? 0.9 : 0.2, 0, 0, 0});
        expect_same(take_window(f)->head[0].saturated_alone, window < 2 ? 1 : 0.02);
        end_window(f);
    }
}

QUANTITY_TEST(saturation_is_the_layers_where_its_mean_is_sharp_and_else_each_heads)
{
    for (int all = 0; all < 2; all++) {
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.1, 0.1, 0.1, all ? 0.2 : 0.9});
        put_means(f, METRIC_STD_LOGIT, (double[]){30, 30, 30, all ? 30 : 2});
        const struct alert_numbers *numbers = take_window(f);
        for (int h = 0; h < 3; h++) {
            expect_same(numbers->head[h].saturated_entropy, 0.1);
            expect_same(numbers->head[h].saturated_alone, all ? 1 : 0.1);
        }
        expect_same(numbers->head[3].saturated_alone, 1);
    }
}

QUANTITY_TEST(focus_is_lost_of_what_the_running_mean_kept)
{
    static const double entropy[] = {0.992, 0.5,  0.95, 0.8, 0.7,  NONE,
                                     0.98,  0.99, 0.6,  0.6, 0.96, 0.99};
    static const double wanted[] = {NONE, 0,    0.400793651, 0.206349206,
                                    0,    NONE, 0.48859127,  0.96031746,
                                    0,    0,    0.439798702, 0.969899351};
    for (size_t i = 0; i < sizeof entropy / sizeof entropy[0]; i++) {
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){entropy[i], 1, 1, 1});
        expect_same(take_window(f)->head[0].lost_focus, wanted[i]);
    }
}

/* Head 0 loses all that it had at once, head 1 in many windows, head 2 had next to nothing, and
 * head 3 keeps a tenth. */
QUANTITY_TEST(focus_of_a_head_that_has_learned_little_is_lost_at_once_or_not_at_all)
{
    double slowly = 0.04;
    for (int window = 0; window < 12; window++, slowly *= 0.6) {
        double kept = window < 6 ? 0.04 : 0;
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_NORMALIZED,
                  (double[]){1 - kept, 1 - slowly, 1 - kept / 8, 1 - fmax(kept, 0.004)});
        const struct alert_head_numbers *head = take_window(f)->head;
        expect_same(head[0].lost_focus, kept > 0 ? 0 : 1);
        expect_same(head[1].lost_focus, window < 3 ? 0 : NONE);
        expect_same(head[2].lost_focus, NONE);
        expect_same(head[3].lost_focus, window < 7 ? 0 : NONE);
    }
}

QUANTITY_TEST(a_head_writes_a_share_of_the_median)
{
    begin_window(f, decoder_0);
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, (double[]){0.01, 0.5, 1, 2});
    expect_same(take_window(f)->head[0].written_share, 0.02);
    expect_same(take_window(f)->head[3].written_share, 1); /* its own is the largest yet */
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, (double[]){NONE, 0.5, 1, 2});
    expect_same(take_window(f)->head[0].written_share, NONE);
    expect_same(take_window(f)->head[1].written_share, 0.5);
    alerts_forget(f->alerts);
    begin_window(f, decoder_0);
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, (double[]){0, 0, 0, 1}); /* how some begin */
    expect_same(take_window(f)->head[0].written_share, NONE);
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, (double[]){0, 1, 0, 1}); /* dead from the first step */
    expect_same(take_window(f)->head[0].written_share, 0);
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, (double[]){NONE, 1, 1, 1});
    put_means(f, METRIC_WRITE_NORM, (double[]){3, 1, 1, 1}); /* which says more */
    expect_same(take_window(f)->head[0].written_share, 3);
}

/* The shares of heads whose W_v W_o has these norms in the next window. */
static void expect_written(struct quantity_fixture *f, const double *norm, const double *wanted)
{
    begin_window(f, decoder_0);
    put_means(f, METRIC_WV_WO_SPECTRAL_NORM, norm);
    const struct alert_numbers *numbers = take_window(f);
    for (int h = 0; h < HEADS; h++) {
        expect_same(numbers->head[h].written_share, wanted[h]);
    }
}

QUANTITY_TEST(heads_that_die_together_are_told_by_their_own_past)
{
    static const double norm[][HEADS] = {
        {1, 1, 1, 2}, {0.5, 1.5, 1, 2}, {0.02, 0.03, 1, 2}, {0.02, 0.03, 0.01, 0.02}};
    static const double wanted[][HEADS] = {
        {1, 1, 1, 1}, {0.5, 1, 1, 1}, {0.02, 0.02, 1, 1}, {0.02, 0.02, 0.01, 0.01}};
    for (size_t i = 0; i < sizeof norm / sizeof norm[0]; i++) {
        expect_written(f, norm[i], wanted[i]);
    }
}

/* Heads 0 and 1 are, heads 2 and 3 begin with 0, as output matrices of some models do. */
QUANTITY_TEST(heads_that_are_dead_from_the_first_step_are_told_by_their_second_matrices)
{
    static const double norm[][HEADS] = {{0, 0, 0, 0}, {0, 0, 0.5, 1}, {0, 0.5, 0.5, 1}};
    static const double wanted[][HEADS] = {{NONE, NONE, NONE, NONE}, {0, 0, 1, 1}, {0, 1, 1, 1}};
    for (size_t i = 0; i < sizeof norm / sizeof norm[0]; i++) {
        expect_written(f, norm[i], wanted[i]);
        pack_and_unpack(f->alerts);
    }
}

QUANTITY_TEST(twins_have_the_same_queries_and_values)
{
    begin_window(f, decoder_0);
    put_means(f, METRIC_WQ_CORRELATION_MAX, (double[]){1, 1, 0.1, NONE});
    put_means(f, METRIC_WV_CORRELATION_MAX, (double[]){0.99, 0.2, 1, 1});
    const struct alert_numbers *numbers = take_window(f);
    expect_same(numbers->head[0].twin, 0.99);
    expect_same(numbers->head[1].twin, 0.2);
    expect_same(numbers->head[2].twin, 0.1);
    expect_same(numbers->head[3].twin, NONE);
}

QUANTITY_TEST(a_layer_is_compared_with_the_model_of_the_window_before)
{
    for (int window = 0; window < 2; window++) {
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.99, 0.98, 1, 1});
        expect_same(take_window(f)->focus_share, window ? 0.02 / 0.4 : NONE);
        begin_window(f, decoder_1);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.6, 0.9, 1, NONE});
        expect_same(take_window(f)->focus_share, window ? 1 : NONE);
        alert_numbers_end(f->alerts, ALERTS_OF_ALL);
    }
}

/* Layer 0 has learned 0.2, and a saturated head of layer 1 says nothing of what can be learned: but
 * without its logits it may as well have learned to align. */
QUANTITY_TEST(saturated_heads_are_no_measure_of_what_a_layer_has_to_learn)
{
    for (int window = 0; window < 4; window++) {
        double spread = window < 2 ? 40 : NONE;
        begin_window(f, decoder_0);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.8, 0.9, 1, 1});
        expect_same(take_window(f)->focus_share, window == 0 ? NONE : window < 3 ? 1 : 0.2 / 0.99);
        begin_window(f, decoder_1);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.01, 1, 1, NONE});
        put_means(f, METRIC_ENTROPY_SANS_FIRST, (double[]){0.01, 1, 1, NONE});
        put_means(f, METRIC_STD_LOGIT, (double[]){spread, 1, 1, NONE});
        expect_same(take_window(f)->focus_share, window == 0 ? NONE : window < 3 ? 0.99 / 0.2 : 1);
        alert_numbers_end(f->alerts, ALERTS_OF_ALL);
    }
}

/* Layer 1 is in the first two windows only; attnd begins anew in between. Layer 2 never comes. */
QUANTITY_TEST(a_layer_without_captures_is_not_measured_after_32)
{
    for (int window = 0; window < 24; window++) {
        for (uint16_t layer = 0; layer <= (window < 2); layer++) {
            begin_window(f, (struct layer_id){STACK_DECODER, layer, SITE_SELF});
            judge_window(f);
        }
        end_window(f);
        assert_true(alerts_measured(f->alerts, decoder_0, true));
        assert_int_equal(alerts_measured(f->alerts, decoder_1, true), window < 3);
        assert_int_equal(alerts_measured(f->alerts, decoder_2, false), window < 2);
        assert_false(alerts_measured(f->alerts, decoder_2, true)); /* it will not come any more */
        if (window % 5 == 4) {
            pack_and_unpack(f->alerts);
        }
    }
}

/* The later keys of a decoder's layer: 'c' has a causal mask, 'p' one that leaves a prefix or a
 * picture open, 'n' none, ' ' no rows. */
static double take_mask(struct quantity_fixture *f, uint16_t layer, char mask)
{
    double next = mask == 'c' ? 0 : mask == ' ' ? NONE : 0.3;
    begin_window(f, (struct layer_id){STACK_DECODER, layer, SITE_SELF});
    put_means(f, METRIC_NEXT_TOKEN, (double[]){next, next, NONE, next});
    for (int h = 0; h < HEADS && mask == 'p'; h++) {
        f->stat[METRIC_NEXT_TOKEN][h].min = 0;
    }
    return take_window(f)->later_keys;
}

/* Which layers look ahead in the last of some windows: a letter a layer, words a window. */
static void expect_ahead(struct quantity_fixture *f, const char *windows, const char *wanted)
{
    char found[32] = "";
    uint16_t layer = 0;
    for (const char *at = windows; *at; at++) {
        if (*at == '/') {
            end_window(f);
            layer = 0;
            continue;
        }
        double later = take_mask(f, layer, *at);
        found[layer] = isnan(later) ? '?' : later > 0.001 ? '!' : '.';
        found[++layer] = '\0';
    }
    assert_string_equal(found, wanted);
    quantity_stop(f);
    quantity_start(f);
}

QUANTITY_TEST(a_layer_without_a_mask_looks_ahead_among_layers_with_one)
{
    expect_ahead(f, "ccncc", "..!..");
    expect_ahead(f, "nccc", "?...");
    expect_ahead(f, "nccc/nccc", "!...");
    expect_ahead(f, "cn/cn", ".!");
    expect_ahead(f, "nc/nc", "!.");
    expect_ahead(f, "cccc/cccc/cncc", ".?..");
    expect_ahead(f, "cccc/cccc/cncc/cncc", ".!..");
    expect_ahead(f, "ppnp/ppnp", "..!.");
}

QUANTITY_TEST(masks_that_are_meant_leave_later_keys_to_no_rule)
{
    expect_ahead(f, "pppp/pppp", "....");
    expect_ahead(f, "cccc/pppp", "....");
    expect_ahead(f, "cpcp/cpcp", "....");
    expect_ahead(f, "nnnn/nnnn", "????");
    expect_ahead(f, "cccc/nnnn", "????");      /* an objective a step */
    expect_ahead(f, "cccc/nnnn/pppp", "...."); /* as UniLM has them */
    expect_ahead(f, "cncn/cncn", ".?.?");      /* every second layer: a design */
    expect_ahead(f, "    /cccc", "....");
}

QUANTITY_TEST(zeros_of_saturated_heads_are_no_mask)
{
    for (int window = 0; window < 2; window++) {
        begin_window(f, (struct layer_id){STACK_DECODER, 1, SITE_SELF});
        put_means(f, METRIC_NEXT_TOKEN, (double[]){0.3, 0.3, 0.3, 0.3});
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.01, 0.02, 0.01, 0.03});
        for (int h = 0; h < HEADS; h++) {
            f->stat[METRIC_NEXT_TOKEN][h].min = 0;
        }
        expect_same(take_window(f)->later_keys, NONE);
        expect_same(take_mask(f, 0, 'n'), NONE);
        end_window(f);
    }
}

QUANTITY_TEST(a_mask_that_all_layers_lose_is_told_by_their_own_past)
{
    expect_ahead(f, "cc/cc/cc/cc/nn", "!!");
    expect_ahead(f, "pp/pp/pp/pp/nn/nn", "!!");
    expect_ahead(f, "cc/cc/cc/nn", "??");          /* too few windows to tell */
    expect_ahead(f, "cc/cc/cc/cc/nn/cc/nn", "??"); /* it comes and goes: a design */
}

QUANTITY_TEST(layers_of_an_encoder_may_see_later_keys)
{
    for (int window = 0; window < 2; window++) {
        expect_same(take_mask(f, 0, 'c'), 0);
        begin_window(f, (struct layer_id){STACK_ENCODER, 0, SITE_SELF});
        put_means(f, METRIC_NEXT_TOKEN, (double[]){0.1, 0.3, 0.2, 0.1});
        expect_same(take_window(f)->later_keys, NONE);
        end_window(f);
    }
}

/* Judges windows of decoder.1 and then decoder.0, with these shares of invalid rows. */
static void judge_invalid(struct quantity_fixture *f, const double *later, const double *earlier)
{
    begin_window(f, decoder_1);
    memcpy(f->invalid, later, sizeof f->invalid);
    judge_window(f);
    begin_window(f, decoder_0);
    memcpy(f->invalid, earlier, sizeof f->invalid);
    judge_window(f);
    end_window(f);
}

static void expect_told(const struct quantity_fixture *f, enum alert_state state,
                        struct layer_id layer, int32_t head)
{
    assert_string_equal(f->told.rule, "first_invalid");
    assert_int_equal(f->told.state, state);
    assert_true(f->told.has_layer);
    assert_memory_equal(&f->told.layer, &layer, sizeof layer);
    assert_int_equal(f->told.head, head);
}

static void keep_origin_share(void *data, const struct alert_result *event)
{
    if (strcmp(event->rule, "first_invalid") == 0) {
        *(double *)data = event->value;
    }
}

static const double none_invalid[HEADS], all_invalid[HEADS] = {1, 1, 1, 1};

QUANTITY_TEST(rows_became_invalid_first_in_the_first_layer_with_more_than_others)
{
    /* One row of a head, and all rows that see it in the layer behind. */
    judge_invalid(f, (double[]){0.3, 0.3, 0.3, 0.3}, (double[]){0, 0.001, 0, 0});
    expect_told(f, ALERT_FIRING, decoder_0, 1);
    end_window(f); /* losses alone are judged */
    expect_told(f, ALERT_FIRING, decoder_0, 1);
    judge_invalid(f, none_invalid, none_invalid);
    judge_invalid(f, (double[]){0.5, 0.5, 0.6, 0.5}, (double[]){0.5, 0.5, 0.5, 0.5});
    expect_told(f, ALERT_FIRING, decoder_1, 2);
    assert_string_equal(f->message,
                        "rows became invalid: first in head 2 of decoder.1.self, between "
                        "steps 0 and 3: 60 % of its rows");
    judge_invalid(f, all_invalid, all_invalid);
    double share = 0;
    struct alert_sink sink = {keep_origin_share, NULL, &share};
    assert_int_equal(alerts_each(f->alerts, &sink), 0);
    assert_true(share == 0.6); /* as the message says, though all are by now */
    judge_invalid(f, none_invalid, none_invalid);
    expect_told(f, ALERT_RESOLVED, decoder_1, 2);
    judge_invalid(f, (double[]){0.6, 0.6, 0.6, 0.6}, (double[]){0.5, 0.6, 0.5, 0.5});
    expect_told(f, ALERT_FIRING, decoder_0, 1);
    judge_invalid(f, none_invalid, none_invalid);
    judge_invalid(f, (double[]){0.6, 0.6, 0.6, 0.6}, (double[]){0.5, 0.5, 0.5, 0.5});
    expect_told(f, ALERT_FIRING, decoder_1, -1);
}

QUANTITY_TEST(where_all_heads_are_invalid_alike_nobody_saw_the_origin)
{
    judge_invalid(f, none_invalid, none_invalid);
    judge_invalid(f, none_invalid, none_invalid);
    judge_invalid(f, all_invalid, all_invalid);
    assert_string_equal(f->told.rule, "first_invalid");
    assert_false(f->told.has_layer);
    assert_string_equal(f->message, "rows of all heads are invalid alike: no capture saw where "
                                    "that began, between steps 0 and 2");
    judge_invalid(f, none_invalid, none_invalid);
    assert_string_equal(f->message, "no rows are invalid any more");
}

/* metrics.core is off. */
QUANTITY_TEST(a_window_without_shares_of_heads_has_no_origin)
{
    begin_window(f, decoder_0);
    f->summary.invalid_share = NULL;
    take_window(f);
    expect_same(alert_origin_value(f->alerts), NONE);
}

/* As where a plan leaves head 0 out. */
QUANTITY_TEST(a_window_without_rows_of_a_head_tells_of_the_others)
{
    judge_invalid(f, (double[]){NONE, 0, 0.6, 0}, (double[]){NONE, 0, 0, 0});
    expect_told(f, ALERT_FIRING, decoder_1, 2);
}

/* Judges a window in which the heads of decoder.0 and decoder.1 give the first token this weight;
 * returns the share of the heads that it has taken. */
static double judge_sinks(struct quantity_fixture *f, const double *of_0, const double *of_1)
{
    for (int layer = 0; layer < 2; layer++) {
        begin_window(f, layer ? decoder_1 : decoder_0);
        put_means(f, METRIC_FIRST_TOKEN, layer ? of_1 : of_0);
        judge_window(f);
    }
    double share = alert_sink_share(f->alerts);
    end_window(f);
    return share;
}

QUANTITY_TEST(sinks_take_over_when_half_of_the_heads_turn_to_the_first_token_at_once)
{
    static const double sinks[] = {0.95, 0.99, 0.92, NONE}, some[] = {0.2, 0.91, 0.3, 0.4};
    static const double few[] = {0.2, 0.3, 0.1, 0};
    expect_same(judge_sinks(f, sinks, sinks), 0); /* it came with them */
    expect_same(judge_sinks(f, some, some), 0);
    expect_same(judge_sinks(f, few, few), 0);
    assert_int_equal(f->count, 0);
    expect_same(judge_sinks(f, sinks, some), 4.0 / 7);
    pack_and_unpack(f->alerts);
    expect_same(judge_sinks(f, sinks, some), 4.0 / 7);
    assert_string_equal(f->told.rule, "sink_takeover");
    assert_int_equal(f->told.state, ALERT_FIRING);
}

QUANTITY_TEST(sinks_that_grow_in_many_windows_take_nothing_over)
{
    for (int window = 0; window < 20; window++) {
        double first = fmin(0.98, 0.05 + 0.09 * window);
        const double heads[] = {first, first, first, first};
        expect_same(judge_sinks(f, heads, heads), 0);
    }
}

QUANTITY_TEST(a_restart_forgets_neither_focus_nor_origin)
{
    for (int window = 0; window < 2; window++) {
        begin_window(f, decoder_1);
        put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.5, 0.5, 0.5, 0.5});
        memcpy(f->invalid, (double[]){0, 0, 0.6, 0}, sizeof f->invalid);
        judge_window(f);
        end_window(f);
    }
    expect_told(f, ALERT_FIRING, decoder_1, 2);
    pack_and_unpack(f->alerts);
    begin_window(f, decoder_1);
    put_means(f, METRIC_ENTROPY_NORMALIZED, (double[]){0.99, 0.5, 0.5, 0.5});
    judge_window(f);
    expect_same(alert_layer_get(f->alerts, decoder_1)->numbers->head[0].lost_focus,
                1 - 0.01 / 0.375);
    expect_same(alert_layer_get(f->alerts, decoder_1)->numbers->focus_share, 1);
    end_window(f);
    expect_told(f, ALERT_RESOLVED, decoder_1, 2);
}
