/* SPDX-License-Identifier: MIT */
/* Questions about numbers: what the store was given is what the history answers, bit for bit,
 * whether it is in a chunk or still in a state. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "daemon/history/params.h"

#define WINDOWS 150 /* 128 of them in chunks */
#define HEADS   3

static struct past_window history_window_of(const char *job, uint8_t run, uint64_t last)
{
    return (struct past_window){
        .job = job,
        .run = run,
        .layer = {STACK_DECODER, 1, SITE_SELF},
        .heads = HEADS,
        .unit = WINDOW_EPOCH,
        .length = 1,
        .every = 1,
        .last = last,
    };
}

static int history_set_up(void **state)
{
    static struct past past;
    past_open(&past, NULL);
    struct past_window window = history_window_of("gpt", 0xa1, WINDOWS - 1);
    past_put_all(&past, window);
    window.layer = (struct layer_id){STACK_ENCODER, 4, SITE_CROSS};
    window.last = 2;
    past_put_all(&past, window);
    past_settle(&past, 128);
    *state = &past;
    return 0;
}

static int history_tear_down(void **state)
{
    past_close(*state);
    return 0;
}

/* Reading answers */

static const msgpack_object *history_item(const msgpack_object *list, uint32_t index)
{
    assert_non_null(list);
    assert_int_equal(list->type, MSGPACK_OBJECT_ARRAY);
    assert_true(index < list->via.array.size);
    return &list->via.array.ptr[index];
}

static double value_at(const struct past_answer *answer, const char *statistic, uint32_t index)
{
    double number = 0;
    const msgpack_object *list = mpk_find(mpk_find(answer->root, "values"), statistic);
    assert_int_equal(mpk_get_f64(history_item(list, index), &number), 0);
    return number;
}

static uint64_t window_at(const struct past_answer *answer, const char *key, uint32_t index)
{
    uint64_t number = 0;
    const msgpack_object *list = mpk_find(mpk_find(answer->root, "windows"), key);
    assert_int_equal(mpk_get_u64(history_item(list, index), UINT64_MAX, &number), 0);
    return number;
}

static uint32_t windows_in(const struct past_answer *answer)
{
    const msgpack_object *last = mpk_find(mpk_find(answer->root, "windows"), "last");
    return last->via.array.size;
}

static void assert_more(const struct past_answer *answer, bool expected)
{
    bool more;
    assert_int_equal(mpk_get_bool(mpk_find(answer->root, "more"), &more), 0);
    assert_int_equal(more, expected);
}

static void history_assert_text(const msgpack_object *map, const char *key, const char *text)
{
    assert_true(mpk_is_str(mpk_find(map, key), text));
}

static void history_assert_same(double a, double b)
{
    if (!isnan(a) || !isnan(b)) {
        assert_memory_equal(&a, &b, sizeof a);
    }
}

/* Compares with the summary of that window. */
static void assert_window(const struct past_answer *answer, uint32_t at, struct past_window window,
                          int metric, uint32_t head)
{
    OWNED(layer_state_free) struct layer_state *state = past_state(&window);
    OWNED(summary_view_clear) struct summary_view view;
    struct result_window covers = {WINDOW_EPOCH, window.last, window.last, 1, 1, false};
    uint8_t run[RUN_BYTES] = {0};
    assert_int_equal(summary_view_init(&view, state, window.layer, window.job, run, &covers), 0);
    const struct result_stat *stat = &view.result.stat[metric][head];
    history_assert_same(value_at(answer, "mean", at), stat->mean);
    history_assert_same(value_at(answer, "std", at), stat->std);
    history_assert_same(value_at(answer, "min", at), stat->min);
    history_assert_same(value_at(answer, "max", at), stat->max);
    history_assert_same(value_at(answer, "p10", at), stat->p10);
    history_assert_same(value_at(answer, "p50", at), stat->p50);
    history_assert_same(value_at(answer, "p90", at), stat->p90);
    history_assert_same(value_at(answer, "p99", at), stat->p99);
    history_assert_same(value_at(answer, "last", at), stat->last);
    history_assert_same(value_at(answer, "count", at), (double)stat->count);
}

/* Series */

static void test_every_window_is_what_its_summary_said(void **state)
{
    struct past *past = *state;
    OWNED(past_forget) struct past_answer answer;
    past_ask(past, &answer, "history", "job:s stack:s metric:s head:u", "gpt", "decoder", "entropy",
             UINT64_C(2));
    assert_int_equal(answer.code, 0);
    assert_int_equal(windows_in(&answer), WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        assert_int_equal(window_at(&answer, "last", i), i);
        assert_int_equal(window_at(&answer, "first", i), i);
        assert_int_equal(window_at(&answer, "step", i), 10 * i);
        assert_int_equal(window_at(&answer, "epoch", i), i);
        assert_int_equal(window_at(&answer, "time_ns", i), 1000 * i);
        assert_window(&answer, i, history_window_of("gpt", 0xa1, i), METRIC_ENTROPY, 2);
    }
    assert_more(&answer, false);
    history_assert_text(answer.root, "metric", "entropy");
    history_assert_text(answer.root, "unit", "epoch");
    history_assert_text(answer.root, "run", "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
}

static void test_without_a_head_there_is_a_list_per_head(void **state)
{
    struct past *past = *state;
    struct past_answer all, one;
    past_ask(past, &all, "history", "job:s stack:s", "gpt", "decoder");
    history_assert_text(all.root, "metric", "entropy_normalized");
    const msgpack_object *means = mpk_find(mpk_find(all.root, "values"), "mean");
    assert_int_equal(means->via.array.size, HEADS);
    for (uint32_t head = 0; head < HEADS; head++) {
        past_ask(past, &one, "history", "job:s stack:s head:u", "gpt", "decoder", (uint64_t)head);
        assert_int_equal(history_item(means, head)->via.array.size, WINDOWS);
        for (uint32_t i = 0; i < WINDOWS; i++) {
            double number = 0;
            mpk_get_f64(history_item(history_item(means, head), i), &number);
            history_assert_same(number, value_at(&one, "mean", i));
        }
        past_forget(&one);
    }
    past_forget(&all);
}

static void test_the_first_layer_is_that_of_the_encoder(void **state)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(*state, &answer, "history", "job:s", "gpt");
    const msgpack_object *head = history_item(mpk_find(answer.root, "heads"), 0);
    history_assert_text(head, "stack", "encoder");
    history_assert_text(head, "site", "cross");
    assert_int_equal(windows_in(&answer), 3);
}

static void history_assert_range(struct past *past, const char *keys, uint64_t a, uint64_t b,
                                 uint64_t c, uint64_t first, uint64_t last, bool more)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(past, &answer, "history", keys, "decoder", "gpt", a, b, c);
    assert_int_equal(answer.code, 0);
    assert_int_equal(windows_in(&answer), last - first + 1);
    for (uint32_t i = 0; i < last - first + 1; i++) {
        assert_int_equal(window_at(&answer, "last", i), first + i);
    }
    assert_more(&answer, more);
}

/* Around the bounds of chunks (64, 128) and of what is recent. */
static void test_a_range_with_from_goes_forward_and_without_it_back(void **state)
{
    struct past *past = *state;
    static const uint64_t bounds[] = {0, 1, 62, 63, 64, 65, 127, 128, 129, 148, 149};
    enum { BOUNDS = sizeof bounds / sizeof bounds[0] };
    for (int i = 0; i < BOUNDS; i++) {
        for (int j = i; j < BOUNDS; j++) {
            for (uint64_t limit = 1; limit <= 150; limit += 37) {
                uint64_t from = bounds[i], to = bounds[j], all = to - from + 1;
                uint64_t shown = all < limit ? all : limit;
                history_assert_range(past, "stack:s job:s from:u to:u limit:u", from, to, limit,
                                     from, from + shown - 1, all > limit);
                shown = to + 1 < limit ? to + 1 : limit;
                history_assert_range(past, "stack:s job:s to:u limit:u limit:u", to, limit, limit,
                                     to + 1 - shown, to, to + 1 > limit);
            }
        }
    }
}

static void test_packed_numbers_are_the_same_numbers(void **state)
{
    struct past *past = *state;
    OWNED(past_forget) struct past_answer plain, packed;
    past_ask(past, &plain, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(0));
    past_ask(past, &packed, "history", "job:s stack:s head:u packed:b", "gpt", "decoder",
             UINT64_C(0), 1);
    const msgpack_object *p90 = mpk_find(mpk_find(packed.root, "values"), "p90");
    const msgpack_object *last = mpk_find(mpk_find(packed.root, "windows"), "last");
    assert_int_equal(p90->type, MSGPACK_OBJECT_BIN);
    assert_int_equal(p90->via.bin.size, 8 * WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        double number;
        uint64_t unit;
        memcpy(&number, p90->via.bin.ptr + 8 * i, sizeof number);
        memcpy(&unit, last->via.bin.ptr + 8 * i, sizeof unit);
        history_assert_same(number, value_at(&plain, "p90", i));
        assert_int_equal(unit, i);
    }
}

static void test_only_the_statistics_that_were_asked_for(void **state)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(*state, &answer, "history", "job:s head:u statistics:l", "gpt", UINT64_C(1), "p50");
    const msgpack_object *values = mpk_find(answer.root, "values");
    assert_int_equal(values->via.map.size, 1);
    assert_non_null(mpk_find(values, "p50"));
}

static void test_a_number_of_the_layer_has_no_head(void **state)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(*state, &answer, "history", "job:s stack:s metric:s", "gpt", "decoder", "sink_rate");
    assert_int_equal(answer.code, 0);
    assert_int_equal(mpk_find(history_item(mpk_find(answer.root, "heads"), 0), "head")->type,
                     MSGPACK_OBJECT_NIL);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        history_assert_same(value_at(&answer, "last", i), 0.25);
    }
    past_forget(&answer);
    past_ask(*state, &answer, "history", "job:s metric:s head:u", "gpt", "sink_rate", UINT64_C(1));
    assert_int_equal(answer.code, ERR_ARGUMENT);
    assert_string_equal(answer.detail, "sink_rate is a number of the layer: head does not apply");
}

/* A window that comes again after its chunk was written is what it is now, and once only. */
static void test_a_window_that_came_again_is_the_newer_one(void **state)
{
    struct past *past = *state;
    struct past_window again = history_window_of("gpt", 0xa1, 10);
    struct past_answer answer;
    again.shift = 5;
    past_put(past, &again);
    past_settle(past, 127);
    past_ask(past, &answer, "history", "job:s stack:s metric:s head:u", "gpt", "decoder", "entropy",
             UINT64_C(1));
    assert_int_equal(windows_in(&answer), WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        assert_window(&answer, i, i == 10 ? again : history_window_of("gpt", 0xa1, i),
                      METRIC_ENTROPY, 1);
    }
    past_forget(&answer);
    history_assert_range(past, "stack:s job:s from:u to:u limit:u", 5, 149, 20, 5, 24, true);
    history_assert_range(past, "stack:s job:s to:u limit:u limit:u", 149, 23, 23, 127, 149, true);
    history_assert_range(past, "stack:s job:s from:u to:u limit:u", 10, 10, 20, 10, 10, false);
}

/* Enough of them for a chunk of their own, which reaches over all others: in pages, too, from
 * either end. */
static void test_windows_that_came_again_are_the_newer_ones_in_all_pages(void **state)
{
    struct past *past = *state;
    /* As many as a chunk has, of those that are in one: that number stays, whichever are taken. */
    for (uint32_t i = 0; i < 128; i += 2) {
        struct past_window again = history_window_of("gpt", 0xa1, i);
        again.shift = 5;
        past_put(past, &again);
    }
    past_settle(past, 128);
    for (int forward = 0; forward < 2; forward++) {
        uint64_t edge = forward ? 0 : WINDOWS - 1, seen = 0;
        while (seen < WINDOWS) {
            OWNED(past_forget) struct past_answer answer;
            past_ask(past, &answer, "history",
                     forward ? "job:s stack:s metric:s head:u limit:u from:u"
                             : "job:s stack:s metric:s head:u limit:u to:u",
                     "gpt", "decoder", "entropy", UINT64_C(1), UINT64_C(20), edge);
            uint32_t count = windows_in(&answer);
            assert_in_range(count, 1, 20);
            for (uint32_t i = 0; i < count; i++) {
                uint64_t at = forward ? edge + i : edge + 1 - count + i;
                struct past_window wanted = history_window_of("gpt", 0xa1, at);
                wanted.shift = at % 2 || at >= 128 ? wanted.shift : 5;
                assert_window(&answer, i, wanted, METRIC_ENTROPY, 1);
            }
            seen += count;
            edge = forward ? edge + count : edge - count;
        }
        assert_int_equal(seen, WINDOWS);
    }
}

/* Runs */

static void test_a_run_is_named_by_its_first_digits(void **state)
{
    struct past *past = *state;
    struct past_window window = history_window_of("gpt", 0xa2, 0);
    OWNED(past_forget) struct past_answer answer;
    past_put(past, &window);
    past_settle(past, 0);
    past_ask(past, &answer, "history", "job:s", "gpt");
    history_assert_text(answer.root, "run", "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2");
    past_forget(&answer);
    past_ask(past, &answer, "history", "job:s run:s", "gpt", "a1");
    history_assert_text(answer.root, "run", "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
    past_forget(&answer);
    past_ask(past, &answer, "history", "job:s run:s", "gpt", "a");
    assert_int_equal(answer.code, ERR_RUN_UNKNOWN);
    assert_string_equal(answer.detail, "run 'a' may be any of a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2, "
                                       "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
    past_forget(&answer);
    past_ask(past, &answer, "history", "job:s run:s", "gpt", "b");
    assert_int_equal(answer.code, ERR_RUN_UNKNOWN);
    assert_string_equal(answer.detail,
                        "no run of gpt begins with 'b'; there are "
                        "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2, a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
}

static void test_runs_are_listed_newest_first(void **state)
{
    struct past *past = *state;
    struct past_window window = history_window_of("bert", 0xb1, 7);
    OWNED(past_forget) struct past_answer answer;
    past_put(past, &window);
    past_settle(past, 0);
    past_ask(past, &answer, "runs", "");
    const msgpack_object *run = history_item(mpk_find(answer.root, "runs"), 0);
    history_assert_text(run, "job", "bert");
    history_assert_text(run, "state", "active");
    history_assert_text(history_item(mpk_find(answer.root, "runs"), 1), "job", "gpt");
    assert_more(&answer, false);
    past_forget(&answer);
    past_ask(past, &answer, "runs", "limit:u", UINT64_C(1));
    assert_int_equal(mpk_find(answer.root, "runs")->via.array.size, 1);
    assert_more(&answer, true);
}

static void test_windows_say_what_there_is(void **state)
{
    struct past *past = *state;
    struct past_window window = history_window_of("gpt", 0xa1, 9);
    OWNED(past_forget) struct past_answer answer;
    uint64_t windows = 0;
    window.unit = WINDOW_STEP;
    window.length = 10;
    window.every = 5;
    past_put(past, &window);
    past_settle(past, 128);
    past_ask(past, &answer, "windows", "job:s stack:s", "gpt", "decoder");
    const msgpack_object *layer = history_item(mpk_find(answer.root, "layers"), 0);
    const msgpack_object *tracks = mpk_find(layer, "tracks");
    assert_int_equal(tracks->via.array.size, 2);
    history_assert_text(history_item(tracks, 0), "unit", "epoch");
    assert_int_equal(mpk_get_u64(mpk_find(history_item(tracks, 0), "windows"), 1000, &windows), 0);
    assert_int_equal(windows, WINDOWS);
    const msgpack_object *metrics = mpk_find(layer, "metrics");
    assert_int_equal(metrics->via.array.size, 5);
    assert_true(mpk_is_str(history_item(metrics, 0), "entropy"));
    assert_true(mpk_is_str(history_item(metrics, 4), "sink_rate"));
    past_forget(&answer);
    past_ask(past, &answer, "history", "job:s stack:s window:s", "gpt", "decoder",
             "10 steps every 5");
    history_assert_text(answer.root, "unit", "step");
    assert_int_equal(windows_in(&answer), 1);
}

static const char *module_of(const msgpack_object *map)
{
    static char text[MODULE_MAX + 1];
    const msgpack_object *module = mpk_find(map, "module");
    snprintf(text, sizeof text, "%.*s", module ? (int)module->via.str.size : 0,
             module ? module->via.str.ptr : "");
    return text;
}

/* One that a damaged database gives is not passed on. */
static void test_the_past_names_modules(void **state)
{
    struct past *past = *state;
    struct past_window window = history_window_of("clip", 0xc1, 1);
    OWNED(past_forget) struct past_answer answer;
    past_put(past, &window);
    window.layer.layer = 2;
    window.module = "vision_model.layers.2.self_attn";
    past_put(past, &window);
    past_settle(past, 128);
    for (int i = 0; i < 2; i++) {
        past_ask(past, &answer, i ? "grid" : "windows", i ? "job:s metric:s" : "job:s", "clip",
                 "entropy");
        const msgpack_object *layers = mpk_find(answer.root, "layers");
        assert_null(mpk_find(history_item(layers, 0), "module"));
        assert_string_equal(module_of(history_item(layers, 1)), window.module);
        past_forget(&answer);
    }
    past_ask(past, &answer, "history", "job:s layer:u", "clip", (uint64_t)2);
    assert_string_equal(module_of(history_item(mpk_find(answer.root, "heads"), 0)), window.module);
    past_forget(&answer);
    past_ask(past, &answer, "compare", "job:s", "clip"); /* with itself: heads in their order */
    const msgpack_object *heads = mpk_find(answer.root, "heads");
    assert_string_equal(module_of(history_item(heads, 0)), "");
    assert_string_equal(module_of(history_item(heads, heads->via.array.size - 1)), window.module);
    past_forget(&answer);
    past_execute(past, "UPDATE layers SET module = char(27) || '[2J' WHERE module IS NOT NULL");
    past_ask(past, &answer, "windows", "job:s layer:u", "clip", (uint64_t)2);
    assert_string_equal(module_of(history_item(mpk_find(answer.root, "layers"), 0)), "");
}

/* Refusals */

static void history_assert_refused(struct past *past, int code, const char *detail,
                                   const char *method, const char *keys, const char *a,
                                   const char *b)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(past, &answer, method, keys, a, b, "self");
    assert_string_equal(answer.detail, detail);
    assert_int_equal(answer.code, code);
}

static void test_refusals_say_what_there_is_instead(void **state)
{
    struct past *past = *state;
    history_assert_refused(past, ERR_JOB_UNKNOWN, "", "history", "job:s", "none", NULL);
    history_assert_refused(past, ERR_NO_HISTORY,
                           "encoder.4.cross has no 'max_logit' in these windows; it has entropy "
                           "entropy_normalized first_token variance sink_rate",
                           "history", "job:s metric:s", "gpt", "max_logit");
    history_assert_refused(past, ERR_NO_HISTORY,
                           "run a1a1a1a1 of gpt has no such layer; it has encoder.4.cross, "
                           "decoder.1.self",
                           "history", "job:s stack:s site:s", "gpt", "encoder");
}

static void test_what_is_no_such_parameter_is_refused(void **state)
{
    struct past *past = *state;
    history_assert_refused(past, ERR_ARGUMENT, "job is missing", "history", "metric:s", "x", NULL);
    history_assert_refused(past, ERR_ARGUMENT, "this method has no parameter 'jop'", "history",
                           "jop:s", "x", NULL);
    history_assert_refused(past, ERR_ARGUMENT, "this method has no parameter 'metric'", "runs",
                           "metric:s", "x", NULL);
    history_assert_refused(past, ERR_ARGUMENT, "stack is not accepted (valid: encoder, decoder)",
                           "history", "job:s stack:s", "gpt", "coder");
    history_assert_refused(past, ERR_ARGUMENT,
                           "run is not accepted (valid: the first of 32 hexadecimal digits)",
                           "history", "job:s run:s", "gpt", "A1");
    history_assert_refused(past, ERR_ARGUMENT,
                           "window is not accepted (valid: such as 1 epoch, 100 steps every 10)",
                           "history", "job:s window:s", "gpt", "often");
    history_assert_refused(
        past, ERR_ARGUMENT,
        "statistics is not accepted (valid: a list of mean, std, min, max, p10, p50, p90, "
        "p99, last, count)",
        "history", "job:s statistics:l", "gpt", "median");
    history_assert_refused(past, ERR_NO_HISTORY,
                           "encoder.4.cross has no windows of 10 steps; it has those of 1 epoch",
                           "history", "job:s window:s", "gpt", "10 steps");
}

static void test_a_limit_and_a_range_have_bounds(void **state)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(*state, &answer, "history", "job:s limit:u", "gpt", UINT64_C(0));
    assert_string_equal(answer.detail, "limit is not accepted (valid: 1 to 200000)");
    past_forget(&answer);
    past_ask(*state, &answer, "history", "job:s limit:u", "gpt", UINT64_C(200001));
    assert_string_equal(answer.detail, "limit is not accepted (valid: 1 to 200000)");
    past_forget(&answer);
    past_ask(*state, &answer, "history", "job:s from:u to:u", "gpt", UINT64_C(2), UINT64_C(1));
    assert_string_equal(answer.detail, "from is greater than to");
    past_forget(&answer);
    past_ask(*state, &answer, "history", "job:s from:u", "gpt", UINT64_MAX);
    assert_int_equal(answer.code, ERR_NO_HISTORY);
    assert_string_equal(answer.detail, "encoder.4.cross has no window of 1 epoch in this range");
    past_forget(&answer);
    past_ask(*state, &answer, "history", "job:s head:u", "gpt", UINT64_C(3));
    assert_string_equal(answer.detail, "the layer has no head 3 (valid: 0 to 2)");
}

/* `rows` and `rows_of` of an answer whose newest window ends with `last`; 0: it has none. */
static void assert_rows(struct past *past, uint64_t last, uint64_t rows, uint64_t of)
{
    struct past_answer answer;
    past_ask(past, &answer, "history", "job:s stack:s metric:s head:u to:u limit:u", "gpt",
             "decoder", "entropy", UINT64_C(1), last, UINT64_C(2));
    assert_int_equal(answer.code, 0);
    assert_string_equal(answer.detail, "");
    assert_int_equal(window_at(&answer, "last", 1), last);
    assert_window(&answer, 0, history_window_of("gpt", 0xa1, last - 1), METRIC_ENTROPY, 1);
    assert_int_equal(mpk_find_u64(answer.root, "rows"), rows);
    assert_int_equal(mpk_find_u64(answer.root, "rows_of"), of);
    assert_int_equal(answer.root->via.map.size, 10 + (rows > 0) + (of > 0));
    past_forget(&answer);
}

#define STATE_OF(last)                                                                             \
    "(SELECT window_id FROM windows JOIN layers USING (layer_id)"                                  \
    " WHERE stack = 1 AND last = " #last ")"

/* Windows in a state and in a chunk; a state that is damaged, and one that was thinned out, fail
 * no answer. */
static void test_the_newest_window_says_how_many_rows_it_took(void **state)
{
    struct past *past = *state;
    struct past_window again = history_window_of("gpt", 0xa1, 10);
    again.stride = 8;
    past_put(past, &again);
    past_settle(past, 127);
    past_execute(past, "UPDATE states SET (bytes, data) = (SELECT bytes, data FROM states"
                       " WHERE window_id = " STATE_OF(10) ") WHERE window_id = " STATE_OF(20));
    past_execute(past, "UPDATE states SET data = x'00' WHERE window_id = " STATE_OF(30));
    past_execute(past, "DELETE FROM states WHERE window_id = " STATE_OF(40));
    assert_rows(past, 10, 36, 288);
    assert_rows(past, 20, 36, 288);
    assert_rows(past, 21, 36, 0);
    assert_rows(past, 149, 36, 0);
    assert_rows(past, 30, 0, 0);
    assert_rows(past, 40, 0, 0);
    assert_null(store_damage(past->store));
}

/* A damaged row is an error, and the next question is answered. */
static void test_what_cannot_be_read_is_said(void **state)
{
    struct past *past = *state;
    OWNED(past_forget) struct past_answer answer;
    past_execute(past, "UPDATE series SET data = x'0102' WHERE head = 1");
    past_ask(past, &answer, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(1));
    assert_int_equal(answer.code, ERR_STORE_FORMAT);
    assert_non_null(store_damage(past->store));
    past_forget(&answer);
    past_ask(past, &answer, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(0));
    assert_int_equal(answer.code, 0);
}

int main(void)
{
#define FRESH(name) cmocka_unit_test_setup_teardown(name, history_set_up, history_tear_down)
    static const struct CMUnitTest shared[] = {
        cmocka_unit_test(test_every_window_is_what_its_summary_said),
        cmocka_unit_test(test_without_a_head_there_is_a_list_per_head),
        cmocka_unit_test(test_the_first_layer_is_that_of_the_encoder),
        cmocka_unit_test(test_a_range_with_from_goes_forward_and_without_it_back),
        cmocka_unit_test(test_packed_numbers_are_the_same_numbers),
        cmocka_unit_test(test_only_the_statistics_that_were_asked_for),
        cmocka_unit_test(test_a_number_of_the_layer_has_no_head),
        cmocka_unit_test(test_refusals_say_what_there_is_instead),
        cmocka_unit_test(test_what_is_no_such_parameter_is_refused),
        cmocka_unit_test(test_a_limit_and_a_range_have_bounds),
    };
    static const struct CMUnitTest fresh[] = {
        FRESH(test_a_window_that_came_again_is_the_newer_one),
        FRESH(test_windows_that_came_again_are_the_newer_ones_in_all_pages),
        FRESH(test_a_run_is_named_by_its_first_digits),
        FRESH(test_runs_are_listed_newest_first),
        FRESH(test_windows_say_what_there_is),
        FRESH(test_the_past_names_modules),
        FRESH(test_the_newest_window_says_how_many_rows_it_took),
        FRESH(test_what_cannot_be_read_is_said),
    };
    return cmocka_run_group_tests(shared, history_set_up, history_tear_down) +
           cmocka_run_group_tests(fresh, NULL, NULL);
}
