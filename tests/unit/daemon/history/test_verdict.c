/* SPDX-License-Identifier: MIT */
/* The verdict that the history has of a run: its alerts that were not resolved. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "proto/err.h"

static struct past_window history_verdict_window(void)
{
    struct past_window window = past_window_of("gpt", 0xa1, 0, 3, 1);
    window.module = "blocks.attn";
    return window;
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
    past_put_alert(past, &window, &alert);
}

/* "rule:layer.head, ..." of the alerts of an answer; "-" where it is about more. */
static void history_verdict_names(const struct past_answer *answer, char ret_names[256])
{
    size_t used = 0;
    ret_names[0] = '\0';
    for (uint32_t i = 0; i < past_size(answer->root, "alerts"); i++) {
        char place[2][8] = {"-", "-"};
        for (int k = 0; k < 2; k++) {
            uint64_t number;
            const char *of = k ? "head" : "layer";
            if (mpk_get_u64(past_get(answer->root, "alerts.%u.%s", i, of), 1000, &number) == 0) {
                snprintf(place[k], sizeof place[k], "%u", (unsigned)number);
            }
        }
        used += (size_t)snprintf(ret_names + used, 256 - used, "%s%s:%s.%s", i ? ", " : "",
                                 past_text(answer->root, "alerts.%u.rule", i), place[0], place[1]);
    }
}

PAST_TEST(what_was_not_resolved_is_named_the_worst_first)
{
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
    const struct past_answer *answer = past_ask(past, "verdict", "job:s run:s", "gpt", "a1a1");
    assert_int_equal(answer->code, 0);
    history_verdict_names(answer, names);
    assert_string_equal(names, "entropy_collapse:0.-, max_logit_growth:0.5, max_logit_growth:1.2, "
                               "again:1.-, at_end:-.-");
    assert_false(past_bool(answer->root, "more"));
    assert_string_equal(past_text(answer->root, "state"), "active");
    assert_int_equal(past_get(answer->root, "checks")->type, MSGPACK_OBJECT_NIL);
    assert_string_not_equal(past_text(answer->root, "alerts.1.why"), "");
    assert_string_not_equal(past_text(answer->root, "alerts.1.advice"), "");
    answer = past_ask(past, "verdict", "job:s limit:u", "gpt", UINT64_C(2));
    history_verdict_names(answer, names);
    assert_string_equal(names, "entropy_collapse:0.-, max_logit_growth:0.5");
    assert_true(past_bool(answer->root, "more"));
}

PAST_TEST(a_run_that_is_not_there_is_an_error)
{
    assert_int_equal(past_ask(past, "verdict", "job:s", "gpt")->code, ERR_JOB_UNKNOWN);
    past_put_all(past, history_verdict_window());
    past_settle(past, 0);
    assert_int_equal(past_ask(past, "verdict", "job:s run:s", "gpt", "beef")->code,
                     ERR_RUN_UNKNOWN);
}
