/* SPDX-License-Identifier: MIT */
/* The verdict that the history has of a run: its alerts that were not resolved. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "proto/err.h"

static int history_verdict_set_up(void **state)
{
    static struct past past;
    past_open(&past, NULL);
    *state = &past;
    return 0;
}

static int history_verdict_tear_down(void **state)
{
    past_close(*state);
    return 0;
}

#define VERDICT_TEST(name)                                                                         \
    TEST_OF(name, struct past *past, history_verdict_set_up, history_verdict_tear_down)

static struct past_window history_verdict_window(void)
{
    return (struct past_window){
        .job = "gpt",
        .run = 0xa1,
        .layer = {STACK_DECODER, 0, SITE_SELF},
        .module = "blocks.attn",
        .heads = 3,
        .unit = WINDOW_EPOCH,
        .length = 1,
        .every = 1,
        .last = 1,
    };
}

static int history_verdict_fill(struct store_batch *batch, const void *data)
{
    return batch_alert(batch, data);
}

/* The value is farther beyond the bound in later heads. */
static void history_verdict_put(struct past *past, const char *rule, int32_t layer, int32_t head,
                                enum alert_severity severity, enum alert_state event)
{
    struct past_window window = history_verdict_window();
    const struct alert_result alert = {
        .common = {"gpt", NULL, 1, 10, 5},
        .rule = rule,
        .severity = severity,
        .state = event,
        .metric = "max_logit",
        .has_layer = layer >= 0,
        .layer = {STACK_DECODER, layer >= 0 ? (uint32_t)layer : 0, SITE_SELF},
        .head = head,
        .value = 120 + head,
        .bound = 100,
        .message = "words",
    };
    past_put_batch(past, &window, history_verdict_fill, &alert);
}

/* "rule:layer.head, ..." of the alerts of an answer; "-" where it is about more. */
static void history_verdict_names(const struct past_answer *answer, char ret_names[256])
{
    const msgpack_object *alerts = mpk_find(answer->root, "alerts");
    size_t used = 0;
    ret_names[0] = '\0';
    for (uint32_t i = 0; i < mpk_items(alerts); i++) {
        const msgpack_object *one = &alerts->via.array.ptr[i], *rule = mpk_find(one, "rule");
        char place[2][8] = {"-", "-"};
        for (int k = 0; k < 2; k++) {
            uint64_t number;
            if (mpk_get_u64(mpk_find(one, k ? "head" : "layer"), 1000, &number) == 0) {
                snprintf(place[k], sizeof place[k], "%u", (unsigned)number);
            }
        }
        used += (size_t)snprintf(ret_names + used, 256 - used, "%s%.*s:%s.%s", i ? ", " : "",
                                 (int)rule->via.str.size, rule->via.str.ptr, place[0], place[1]);
    }
}

VERDICT_TEST(what_was_not_resolved_is_named_the_worst_first)
{
    OWNED(past_forget) struct past_answer answer;
    char names[256];
    past_put_all(past, history_verdict_window());
    history_verdict_put(past, "resolved", 1, -1, ALERT_CRITICAL, ALERT_FIRING);
    history_verdict_put(past, "resolved", 1, -1, ALERT_CRITICAL, ALERT_RESOLVED);
    history_verdict_put(past, "again", 1, -1, ALERT_WARNING, ALERT_RESOLVED);
    history_verdict_put(past, "again", 1, -1, ALERT_WARNING, ALERT_FIRING);
    history_verdict_put(past, "again", 2, -1, ALERT_WARNING, ALERT_RESOLVED); /* another layer */
    history_verdict_put(past, "at_end", -1, -1, ALERT_INFO, ALERT_FIRING);
    history_verdict_put(past, "at_end", -1, -1, ALERT_INFO, ALERT_FIRING_AT_END);
    history_verdict_put(past, "max_logit_growth", 1, 2, ALERT_CRITICAL, ALERT_FIRING);
    history_verdict_put(past, "max_logit_growth", 1, 1, ALERT_CRITICAL, ALERT_FIRING);
    history_verdict_put(past, "max_logit_growth", 1, 1, ALERT_CRITICAL, ALERT_RESOLVED);
    history_verdict_put(past, "entropy_collapse", 0, -1, ALERT_CRITICAL, ALERT_FIRING);
    history_verdict_put(past, "max_logit_growth", 0, 5, ALERT_CRITICAL, ALERT_FIRING);
    past_settle(past, 0);
    past_ask(past, &answer, "verdict", "job:s run:s", "gpt", "a1a1");
    assert_int_equal(answer.code, 0);
    history_verdict_names(&answer, names);
    assert_string_equal(names, "entropy_collapse:0.-, max_logit_growth:0.5, max_logit_growth:1.2, "
                               "again:1.-, at_end:-.-");
    assert_false(mpk_find(answer.root, "more")->via.boolean);
    assert_true(mpk_is_str(mpk_find(answer.root, "state"), "active"));
    assert_int_equal(mpk_find(answer.root, "checks")->type, MSGPACK_OBJECT_NIL);
    const msgpack_object *second = &mpk_find(answer.root, "alerts")->via.array.ptr[1];
    assert_int_equal(mpk_find(second, "why")->type, MSGPACK_OBJECT_STR);
    assert_int_equal(mpk_find(second, "advice")->type, MSGPACK_OBJECT_STR);
    past_forget(&answer);
    past_ask(past, &answer, "verdict", "job:s limit:u", "gpt", UINT64_C(2));
    history_verdict_names(&answer, names);
    assert_string_equal(names, "entropy_collapse:0.-, max_logit_growth:0.5");
    assert_true(mpk_find(answer.root, "more")->via.boolean);
}

VERDICT_TEST(a_run_that_is_not_there_is_an_error)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(past, &answer, "verdict", "job:s", "gpt");
    assert_int_equal(answer.code, ERR_JOB_UNKNOWN);
    past_forget(&answer);
    past_put_all(past, history_verdict_window());
    past_settle(past, 0);
    past_ask(past, &answer, "verdict", "job:s run:s", "gpt", "beef");
    assert_int_equal(answer.code, ERR_RUN_UNKNOWN);
}
