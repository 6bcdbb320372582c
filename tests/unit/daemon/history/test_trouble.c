/* SPDX-License-Identifier: MIT */
/* The trouble that the history has: of the newest judged window of each layer as it was stored,
 * alerts that were not resolved, and the scores of every window, in a chunk or still in a state. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "proto/err.h"

#define HEADS   3
#define WINDOWS 150 /* 128 of them in chunks */

static int history_trouble_set_up(void **state)
{
    static struct past past;
    past_open(&past, NULL);
    *state = &past;
    return 0;
}

static int history_trouble_tear_down(void **state)
{
    past_close(*state);
    return 0;
}

#define TROUBLE_TEST(name)                                                                         \
    TEST_OF(name, struct past *past, history_trouble_set_up, history_trouble_tear_down)

static struct past_window history_trouble_window(uint32_t layer, uint64_t last)
{
    return (struct past_window){
        .job = "gpt",
        .run = 0xa1,
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .module = "blocks.attn",
        .heads = HEADS,
        .unit = WINDOW_EPOCH,
        .length = 1,
        .every = 1,
        .last = last,
    };
}

/* Any score in [0, 4) that is no round number. */
static double history_trouble_score(uint64_t window, uint32_t head)
{
    uint64_t seed = window * 7 + head + 1;
    random_unit(&seed);
    return 4 * random_unit(&seed);
}

/* Every fifth window was not judged. */
static bool is_judged(uint64_t window)
{
    return window % 5 != 3;
}

static void put_judged(struct past *past, uint32_t layer, uint64_t last)
{
    double score[HEADS];
    struct trouble_head worst = {.head = 1,
                                 .state = TROUBLE_FIRING,
                                 .severity = ALERT_CRITICAL,
                                 .rule = "entropy_collapse",
                                 .metric = "entropy_normalized",
                                 .statistic = "mean",
                                 .condition = "below",
                                 .value = 0.05,
                                 .bound = 0.1,
                                 .slope = NAN,
                                 .eta = NAN,
                                 .since_step = last,
                                 .windows = 2};
    const struct result_trouble trouble = {last, last * 10, HEADS, score, &worst, 1};
    struct past_window window = history_trouble_window(layer, last);
    for (uint32_t h = 0; h < HEADS; h++) {
        score[h] = history_trouble_score(last, h);
    }
    worst.score = score[1];
    window.trouble = is_judged(last) ? &trouble : NULL;
    past_put(past, &window);
}

static int history_trouble_fill_alert(struct store_batch *batch, const void *data)
{
    return batch_alert(batch, data);
}

static void history_trouble_put_alert(struct past *past, const char *rule, int32_t layer,
                                      int32_t head, enum alert_state event)
{
    struct past_window window = history_trouble_window(0, 1);
    const struct alert_result alert = {
        .common = {"gpt", NULL, 1, 10, 5},
        .rule = rule,
        .severity = ALERT_WARNING,
        .state = event,
        .metric = "max_logit",
        .has_layer = layer >= 0,
        .layer = {STACK_DECODER, layer >= 0 ? (uint32_t)layer : 0, SITE_SELF},
        .head = head,
        .value = 120,
        .bound = 100,
        .message = "words",
    };
    past_put_batch(past, &window, history_trouble_fill_alert, &alert);
}

static const msgpack_object *history_trouble_item(const msgpack_object *list, uint32_t index)
{
    assert_non_null(list);
    assert_int_equal(list->type, MSGPACK_OBJECT_ARRAY);
    assert_true(index < list->via.array.size);
    return &list->via.array.ptr[index];
}

static uint64_t history_trouble_count(const msgpack_object *map, const char *key)
{
    uint64_t number = 0;
    const msgpack_object *found = mpk_find(map, key);
    assert_non_null(found);
    assert_int_equal(mpk_get_u64(found, UINT64_MAX, &number), 0);
    return number;
}

TROUBLE_TEST(each_judged_layer_has_its_newest_judged_window)
{
    struct past_answer answer;
    struct result_trouble *trouble;
    struct past_window never = history_trouble_window(2, 4);
    for (uint64_t last = 0; last < 4; last++) { /* the last one was not judged */
        put_judged(past, 0, last);
        put_judged(past, 1, last + 1);
    }
    past_put(past, &never);
    past_settle(past, 0);
    past_ask(past, &answer, "trouble", "job:s", "gpt");
    assert_int_equal(answer.code, 0);
    assert_true(mpk_is_str(mpk_find(answer.root, "job"), "gpt"));
    assert_true(mpk_is_str(mpk_find(answer.root, "state"), "active"));
    const msgpack_object *layers = mpk_find(answer.root, "layers");
    assert_int_equal(layers->via.array.size, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const msgpack_object *layer = history_trouble_item(layers, i);
        uint64_t number = history_trouble_count(layer, "layer"), last = number == 0 ? 2 : 4;
        assert_true(mpk_is_str(mpk_find(layer, "module"), "blocks.attn"));
        assert_int_equal(trouble_decode(mpk_find(layer, "trouble"), &trouble), 0);
        assert_int_equal(trouble->step, last * 10);
        assert_int_equal(trouble->count, 1);
        assert_string_equal(trouble->worst[0].rule, "entropy_collapse");
        assert_true(isnan(trouble->worst[0].slope));
        for (uint32_t h = 0; h < HEADS; h++) {
            assert_true(trouble->score[h] == history_trouble_score(last, h));
        }
        free(trouble);
    }
    past_forget(&answer);
}

TROUBLE_TEST(an_alert_that_is_not_resolved_and_has_no_head_is_named)
{
    struct past_answer answer;
    past_put_all(past, history_trouble_window(0, 1));
    history_trouble_put_alert(past, "resolved", 1, -1, ALERT_FIRING);
    history_trouble_put_alert(past, "resolved", 1, -1, ALERT_RESOLVED);
    history_trouble_put_alert(past, "again", 1, -1, ALERT_RESOLVED);
    history_trouble_put_alert(past, "again", 1, -1, ALERT_FIRING);
    history_trouble_put_alert(past, "again", 2, -1, ALERT_RESOLVED); /* of another layer */
    history_trouble_put_alert(past, "at_end", -1, -1, ALERT_FIRING);
    history_trouble_put_alert(past, "at_end", -1, -1, ALERT_FIRING_AT_END);
    history_trouble_put_alert(past, "of_head", 1, 2, ALERT_FIRING);
    past_settle(past, 0);
    past_ask(past, &answer, "trouble", "job:s run:s", "gpt", "a1a1");
    const msgpack_object *alerts = mpk_find(answer.root, "alerts");
    assert_int_equal(alerts->via.array.size, 2);
    const msgpack_object *one = history_trouble_item(alerts, 0),
                         *other = history_trouble_item(alerts, 1);
    assert_true(mpk_is_str(mpk_find(one, "rule"), "again"));
    assert_int_equal(history_trouble_count(one, "layer"), 1);
    assert_true(mpk_is_str(mpk_find(other, "rule"), "at_end"));
    assert_true(mpk_is_str(mpk_find(other, "state"), "firing_at_end"));
    assert_true(mpk_find(other, "layer")->type == MSGPACK_OBJECT_NIL);
    assert_int_equal(mpk_find(answer.root, "layers")->via.array.size, 0); /* none was judged */
    past_forget(&answer);
}

TROUBLE_TEST(damaged_details_are_nil_and_the_rest_is_answered)
{
    struct past_answer answer;
    for (uint32_t layer = 0; layer < 3; layer++) {
        put_judged(past, layer, 1);
    }
    past_settle(past, 0);
    past_execute(past, "UPDATE layers SET trouble = x'85a176' WHERE layer = 0");
    past_execute(past, "UPDATE layers SET trouble = x'' WHERE layer = 1");
    past_ask(past, &answer, "trouble", "job:s", "gpt");
    assert_int_equal(answer.code, 0);
    const msgpack_object *layers = mpk_find(answer.root, "layers");
    assert_int_equal(layers->via.array.size, 3);
    for (uint32_t i = 0; i < 3; i++) {
        const msgpack_object *layer = history_trouble_item(layers, i);
        bool damaged = history_trouble_count(layer, "layer") < 2;
        assert_int_equal(mpk_find(layer, "trouble")->type,
                         damaged ? MSGPACK_OBJECT_NIL : MSGPACK_OBJECT_MAP);
    }
    past_forget(&answer);
}

TROUBLE_TEST(a_run_that_is_not_there_is_an_error)
{
    struct past_answer answer;
    past_ask(past, &answer, "trouble", "job:s", "gpt");
    assert_int_equal(answer.code, ERR_JOB_UNKNOWN);
    past_forget(&answer);
    put_judged(past, 0, 1);
    past_settle(past, 0);
    past_ask(past, &answer, "trouble", "job:s run:s", "gpt", "beef");
    assert_int_equal(answer.code, ERR_RUN_UNKNOWN);
    past_forget(&answer);
}

/* The values of a head in an answer to `history` or `grid`. */
static void assert_scores(const msgpack_object *values, const msgpack_object *counts, uint32_t head)
{
    assert_int_equal(values->via.array.size, WINDOWS);
    for (uint32_t w = 0; w < WINDOWS; w++) {
        const msgpack_object *value = history_trouble_item(values, w);
        double score = NAN;
        assert_int_equal(value->type == MSGPACK_OBJECT_NIL, !is_judged(w));
        if (is_judged(w)) {
            assert_int_equal(mpk_get_f64(value, &score), 0);
            assert_true(score == history_trouble_score(w, head));
        }
        if (counts) {
            double count = NAN;
            assert_int_equal(mpk_get_f64(history_trouble_item(counts, w), &count), 0);
            assert_true(count == is_judged(w));
        }
    }
}

TROUBLE_TEST(scores_are_a_series_bit_for_bit_in_chunks_and_in_states)
{
    struct past_answer answer;
    for (uint64_t last = 0; last < WINDOWS; last++) {
        put_judged(past, 1, last);
    }
    past_settle(past, 128);
    past_execute(past, "DELETE FROM states WHERE window_id IN"
                       " (SELECT window_id FROM windows WHERE chunk_id IS NOT NULL)");
    for (uint32_t h = 0; h < HEADS; h++) {
        past_ask(past, &answer, "history", "job:s layer:u head:u metric:s statistics:l", "gpt",
                 UINT64_C(1), (uint64_t)h, "trouble", "mean");
        assert_int_equal(answer.code, 0);
        assert_scores(mpk_find(mpk_find(answer.root, "values"), "mean"), NULL, h);
        past_forget(&answer);
        past_ask(past, &answer, "history", "job:s layer:u head:u metric:s", "gpt", UINT64_C(1),
                 (uint64_t)h, "trouble");
        assert_scores(mpk_find(mpk_find(answer.root, "values"), "last"),
                      mpk_find(mpk_find(answer.root, "values"), "count"), h);
        past_forget(&answer);
    }
    past_ask(past, &answer, "grid", "job:s metric:s", "gpt", "trouble");
    const msgpack_object *layer = history_trouble_item(mpk_find(answer.root, "layers"), 0);
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_scores(history_trouble_item(mpk_find(layer, "values"), h), NULL, h);
    }
    past_forget(&answer);
}
