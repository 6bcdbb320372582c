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
    return past_window_of(job, run, 1, HEADS, last);
}

static void history_fill(struct past *past)
{
    past_open(past, NULL);
    struct past_window window = history_window_of("gpt", 0xa1, WINDOWS - 1);
    past_put_all(past, window);
    window.layer = (struct layer_id){STACK_ENCODER, 4, SITE_CROSS};
    window.last = 2;
    past_put_all(past, window);
    past_settle(past, 128);
}

static int history_set_up(void **state)
{
    static struct past past;
    history_fill(&past);
    *state = &past;
    return 0;
}

static int history_tear_down(void **state)
{
    past_close(*state);
    return 0;
}

/* All of them ask the same history; or each has a history of its own, which it may change. */
#define SHARED_TEST(name) TEST_OF(name, struct past *past, NULL, NULL)
#define FRESH_TEST(name)  TEST_IN(name, struct past, past, history_fill, past_close)

/* Reading answers */

static uint32_t windows_in(const struct past_answer *answer)
{
    return past_size(answer->root, "windows.last");
}

/* A number of an answer: this statistic of this window. */
static void history_assert_same(const char *statistic, uint32_t at, double value, double wanted)
{
    if (memcmp(&value, &wanted, sizeof value) != 0 && !(isnan(value) && isnan(wanted))) {
        fail_msg("%s of window %u: %.17g, not %.17g", statistic, at, value, wanted);
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
    const struct {
        const char *statistic;
        double value;
    } wanted[] = {{"mean", stat->mean}, {"std", stat->std},
                  {"min", stat->min},   {"max", stat->max},
                  {"p10", stat->p10},   {"p50", stat->p50},
                  {"p90", stat->p90},   {"p99", stat->p99},
                  {"last", stat->last}, {"count", (double)stat->count}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        history_assert_same(wanted[i].statistic, at,
                            past_f64(answer->root, "values.%s.%u", wanted[i].statistic, at),
                            wanted[i].value);
    }
}

/* Series */

SHARED_TEST(every_window_is_what_its_summary_said)
{
    const struct past_answer *answer = past_ask(past, "history", "job:s stack:s metric:s head:u",
                                                "gpt", "decoder", "entropy", UINT64_C(2));
    assert_int_equal(answer->code, 0);
    assert_int_equal(windows_in(answer), WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        assert_int_equal(past_u64(answer->root, "windows.last.%u", i), i);
        assert_int_equal(past_u64(answer->root, "windows.first.%u", i), i);
        assert_int_equal(past_u64(answer->root, "windows.step.%u", i), 10 * i);
        assert_int_equal(past_u64(answer->root, "windows.epoch.%u", i), i);
        assert_int_equal(past_u64(answer->root, "windows.time_ns.%u", i), 1000 * i);
        assert_window(answer, i, history_window_of("gpt", 0xa1, i), METRIC_ENTROPY, 2);
    }
    assert_false(past_bool(answer->root, "more"));
    assert_string_equal(past_text(answer->root, "metric"), "entropy");
    assert_string_equal(past_text(answer->root, "unit"), "epoch");
    assert_string_equal(past_text(answer->root, "run"), "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
}

SHARED_TEST(without_a_head_there_is_a_list_per_head)
{
    const struct past_answer *all = past_ask(past, "history", "job:s stack:s", "gpt", "decoder");
    assert_string_equal(past_text(all->root, "metric"), "entropy_normalized");
    assert_int_equal(past_size(all->root, "values.mean"), HEADS);
    for (uint32_t head = 0; head < HEADS; head++) {
        const struct past_answer *one =
            past_ask(past, "history", "job:s stack:s head:u", "gpt", "decoder", (uint64_t)head);
        assert_int_equal(past_size(all->root, "values.mean.%u", head), WINDOWS);
        for (uint32_t i = 0; i < WINDOWS; i++) {
            history_assert_same("mean", i, past_f64(all->root, "values.mean.%u.%u", head, i),
                                past_f64(one->root, "values.mean.%u", i));
        }
    }
}

SHARED_TEST(the_first_layer_is_that_of_the_encoder)
{
    const struct past_answer *answer = past_ask(past, "history", "job:s", "gpt");
    assert_string_equal(past_text(answer->root, "heads.0.stack"), "encoder");
    assert_string_equal(past_text(answer->root, "heads.0.site"), "cross");
    assert_int_equal(windows_in(answer), 3);
}

static void history_assert_range(struct past *past, const char *keys, uint64_t a, uint64_t b,
                                 uint64_t c, uint64_t first, uint64_t last, bool more)
{
    const struct past_answer *answer = past_ask(past, "history", keys, "decoder", "gpt", a, b, c);
    assert_int_equal(answer->code, 0);
    assert_int_equal(windows_in(answer), last - first + 1);
    for (uint32_t i = 0; i < last - first + 1; i++) {
        assert_int_equal(past_u64(answer->root, "windows.last.%u", i), first + i);
    }
    assert_int_equal(past_bool(answer->root, "more"), more);
}

/* Around the bounds of chunks (64, 128) and of what is recent. */
SHARED_TEST(a_range_with_from_goes_forward_and_without_it_back)
{
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

SHARED_TEST(packed_numbers_are_the_same_numbers)
{
    const struct past_answer *plain =
        past_ask(past, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(0));
    const struct past_answer *packed = past_ask(past, "history", "job:s stack:s head:u packed:b",
                                                "gpt", "decoder", UINT64_C(0), 1);
    const msgpack_object *p90 = past_get(packed->root, "values.p90");
    const msgpack_object *last = past_get(packed->root, "windows.last");
    assert_int_equal(p90->type, MSGPACK_OBJECT_BIN);
    assert_int_equal(p90->via.bin.size, 8 * WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        double number;
        uint64_t unit;
        memcpy(&number, p90->via.bin.ptr + 8 * i, sizeof number);
        memcpy(&unit, last->via.bin.ptr + 8 * i, sizeof unit);
        history_assert_same("p90", i, number, past_f64(plain->root, "values.p90.%u", i));
        assert_int_equal(unit, i);
    }
}

SHARED_TEST(only_the_statistics_that_were_asked_for)
{
    const struct past_answer *answer =
        past_ask(past, "history", "job:s head:u statistics:l", "gpt", UINT64_C(1), "p50");
    assert_int_equal(past_size(answer->root, "values"), 1);
    assert_non_null(past_get(answer->root, "values.p50"));
}

SHARED_TEST(a_number_of_the_layer_has_no_head)
{
    const struct past_answer *answer =
        past_ask(past, "history", "job:s stack:s metric:s", "gpt", "decoder", "sink_rate");
    assert_int_equal(answer->code, 0);
    assert_int_equal(past_get(answer->root, "heads.0.head")->type, MSGPACK_OBJECT_NIL);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        history_assert_same("last", i, past_f64(answer->root, "values.last.%u", i), 0.25);
    }
    past_refuses(past, ERR_ARGUMENT, "sink_rate is a number of the layer: head does not apply",
                 "history", "job:s metric:s head:u", "gpt", "sink_rate", UINT64_C(1));
}

/* A window that comes again after its chunk was written is what it is now, and once only. */
FRESH_TEST(a_window_that_came_again_is_the_newer_one)
{
    struct past_window again = history_window_of("gpt", 0xa1, 10);
    again.shift = 5;
    past_put(past, &again);
    past_settle(past, 127);
    const struct past_answer *answer = past_ask(past, "history", "job:s stack:s metric:s head:u",
                                                "gpt", "decoder", "entropy", UINT64_C(1));
    assert_int_equal(windows_in(answer), WINDOWS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        assert_window(answer, i, i == 10 ? again : history_window_of("gpt", 0xa1, i),
                      METRIC_ENTROPY, 1);
    }
    history_assert_range(past, "stack:s job:s from:u to:u limit:u", 5, 149, 20, 5, 24, true);
    history_assert_range(past, "stack:s job:s to:u limit:u limit:u", 149, 23, 23, 127, 149, true);
    history_assert_range(past, "stack:s job:s from:u to:u limit:u", 10, 10, 20, 10, 10, false);
}

/* Enough of them for a chunk of their own, which reaches over all others: in pages, too, from
 * either end. */
FRESH_TEST(windows_that_came_again_are_the_newer_ones_in_all_pages)
{
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
            const struct past_answer *answer =
                past_ask(past, "history",
                         forward ? "job:s stack:s metric:s head:u limit:u from:u"
                                 : "job:s stack:s metric:s head:u limit:u to:u",
                         "gpt", "decoder", "entropy", UINT64_C(1), UINT64_C(20), edge);
            uint32_t count = windows_in(answer);
            assert_in_range(count, 1, 20);
            for (uint32_t i = 0; i < count; i++) {
                uint64_t at = forward ? edge + i : edge + 1 - count + i;
                struct past_window wanted = history_window_of("gpt", 0xa1, at);
                wanted.shift = at % 2 || at >= 128 ? wanted.shift : 5;
                assert_window(answer, i, wanted, METRIC_ENTROPY, 1);
            }
            seen += count;
            edge = forward ? edge + count : edge - count;
        }
        assert_int_equal(seen, WINDOWS);
    }
}

/* Runs */

FRESH_TEST(a_run_is_named_by_its_first_digits)
{
    struct past_window window = history_window_of("gpt", 0xa2, 0);
    past_put(past, &window);
    past_settle(past, 0);
    assert_string_equal(past_text(past_ask(past, "history", "job:s", "gpt")->root, "run"),
                        "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2");
    assert_string_equal(
        past_text(past_ask(past, "history", "job:s run:s", "gpt", "a1")->root, "run"),
        "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
    past_refuses(past, ERR_RUN_UNKNOWN,
                 "run 'a' may be any of a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2, "
                 "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
                 "history", "job:s run:s", "gpt", "a");
    past_refuses(past, ERR_RUN_UNKNOWN,
                 "no run of gpt begins with 'b'; there are "
                 "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2, a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
                 "history", "job:s run:s", "gpt", "b");
}

FRESH_TEST(a_name_means_the_newest_active_run_or_the_one_that_ended_last)
{
    struct past_window window = history_window_of("gpt", 0xa2, 0);
    window.state = JOB_ENDED;
    past_put(past, &window);
    past_settle(past, 0);
    assert_int_equal(past_text(past_ask(past, "windows", "job:s", "gpt")->root, "run")[1], '1');
    window = history_window_of("gpt", 0xa1, WINDOWS);
    window.state = JOB_ENDED;
    past_put(past, &window);
    past_settle(past, 0);
    assert_int_equal(past_text(past_ask(past, "windows", "job:s", "gpt")->root, "run")[1], '1');
    window = history_window_of("gpt", 0xa2, WINDOWS + 1);
    window.state = JOB_ENDED;
    past_put(past, &window);
    past_settle(past, 0);
    assert_int_equal(past_text(past_ask(past, "windows", "job:s", "gpt")->root, "run")[1], '2');
}

FRESH_TEST(runs_are_listed_newest_first)
{
    struct past_window window = history_window_of("bert", 0xb1, 7);
    past_put(past, &window);
    past_settle(past, 0);
    const struct past_answer *answer = past_ask(past, "runs", "");
    assert_string_equal(past_text(answer->root, "runs.0.job"), "bert");
    assert_string_equal(past_text(answer->root, "runs.0.state"), "active");
    assert_string_equal(past_text(answer->root, "runs.1.job"), "gpt");
    assert_false(past_bool(answer->root, "more"));
    answer = past_ask(past, "runs", "limit:u", UINT64_C(1));
    assert_int_equal(past_size(answer->root, "runs"), 1);
    assert_true(past_bool(answer->root, "more"));
}

FRESH_TEST(windows_say_what_there_is)
{
    struct past_window window = history_window_of("gpt", 0xa1, 9);
    window.unit = WINDOW_STEP;
    window.length = 10;
    window.every = 5;
    past_put(past, &window);
    past_settle(past, 128);
    const struct past_answer *answer = past_ask(past, "windows", "job:s stack:s", "gpt", "decoder");
    assert_int_equal(past_size(answer->root, "layers.0.tracks"), 2);
    assert_string_equal(past_text(answer->root, "layers.0.tracks.0.unit"), "epoch");
    assert_int_equal(past_u64(answer->root, "layers.0.tracks.0.windows"), WINDOWS);
    assert_int_equal(past_size(answer->root, "layers.0.metrics"), 5);
    assert_string_equal(past_text(answer->root, "layers.0.metrics.0"), "entropy");
    assert_string_equal(past_text(answer->root, "layers.0.metrics.4"), "sink_rate");
    answer =
        past_ask(past, "history", "job:s stack:s window:s", "gpt", "decoder", "10 steps every 5");
    assert_string_equal(past_text(answer->root, "unit"), "step");
    assert_int_equal(windows_in(answer), 1);
}

/* One that a damaged database gives is not passed on. */
FRESH_TEST(the_past_names_modules)
{
    struct past_window window = history_window_of("clip", 0xc1, 1);
    past_put(past, &window);
    window.layer.layer = 2;
    window.module = "vision_model.layers.2.self_attn";
    past_put(past, &window);
    past_settle(past, 128);
    for (int i = 0; i < 2; i++) {
        const struct past_answer *layers = past_ask(
            past, i ? "grid" : "windows", i ? "job:s metric:s" : "job:s", "clip", "entropy");
        assert_null(past_get(layers->root, "layers.0.module"));
        assert_string_equal(past_text(layers->root, "layers.1.module"), window.module);
    }
    const struct past_answer *answer =
        past_ask(past, "history", "job:s layer:u", "clip", UINT64_C(2));
    assert_string_equal(past_text(answer->root, "heads.0.module"), window.module);
    answer = past_ask(past, "compare", "job:s", "clip"); /* with itself: heads in their order */
    assert_null(past_get(answer->root, "heads.0.module"));
    assert_string_equal(
        past_text(answer->root, "heads.%u.module", past_size(answer->root, "heads") - 1),
        window.module);
    past_execute(past, "UPDATE layers SET module = char(27) || '[2J' WHERE module IS NOT NULL");
    answer = past_ask(past, "windows", "job:s layer:u", "clip", UINT64_C(2));
    assert_int_equal(past_size(answer->root, "layers"), 1);
    assert_null(past_get(answer->root, "layers.0.module"));
}

/* Refusals */

SHARED_TEST(refusals_say_what_there_is_instead)
{
    past_refuses(past, ERR_JOB_UNKNOWN, "", "history", "job:s", "none");
    past_refuses(past, ERR_NO_HISTORY,
                 "encoder.4.cross has no 'max_logit' in these windows; it has entropy "
                 "entropy_normalized first_token variance sink_rate",
                 "history", "job:s metric:s", "gpt", "max_logit");
    past_refuses(past, ERR_NO_HISTORY,
                 "run a1a1a1a1 of gpt has no such layer; it has encoder.4.cross, decoder.1.self",
                 "history", "job:s stack:s site:s", "gpt", "encoder", "self");
}

SHARED_TEST(what_is_no_such_parameter_is_refused)
{
    static const struct {
        int code;
        const char *detail, *method, *keys, *first, *second;
    } refusals[] = {
        {ERR_ARGUMENT, "job is missing", "history", "metric:s", "x", NULL},
        {ERR_ARGUMENT, "this method has no parameter 'jop'", "history", "jop:s", "x", NULL},
        {ERR_ARGUMENT, "this method has no parameter 'metric'", "runs", "metric:s", "x", NULL},
        {ERR_ARGUMENT, "stack is not accepted: the text 'coder' (valid: encoder, decoder)",
         "history", "job:s stack:s", "gpt", "coder"},
        {ERR_ARGUMENT,
         "run is not accepted: the text 'A1' (valid: the first of 32 hexadecimal digits)",
         "history", "job:s run:s", "gpt", "A1"},
        {ERR_ARGUMENT,
         "window is not accepted: the text 'often' (valid: such as 1 epoch, 100 steps every 10)",
         "history", "job:s window:s", "gpt", "often"},
        {ERR_ARGUMENT,
         "statistics is not accepted: a list of 1 (valid: a list of mean, std, min, max, p10, p50, "
         "p90, p99, "
         "last, count)",
         "history", "job:s statistics:l", "gpt", "median"},
        {ERR_NO_HISTORY, "encoder.4.cross has no windows of 10 steps; it has those of 1 epoch",
         "history", "job:s window:s", "gpt", "10 steps"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        past_refuses(past, refusals[i].code, refusals[i].detail, refusals[i].method,
                     refusals[i].keys, refusals[i].first, refusals[i].second);
    }
}

SHARED_TEST(a_limit_and_a_range_have_bounds)
{
    past_refuses(past, ERR_ARGUMENT, "limit is not accepted: 0 (valid: 1 to 200000)", "history",
                 "job:s limit:u", "gpt", UINT64_C(0));
    past_refuses(past, ERR_ARGUMENT, "limit is not accepted: 200001 (valid: 1 to 200000)",
                 "history", "job:s limit:u", "gpt", UINT64_C(200001));
    past_refuses(past, ERR_ARGUMENT, "points is not accepted: 1 (valid: 2 to 10000)", "log",
                 "job:s points:u", "gpt", UINT64_C(1));
    past_refuses(past, ERR_ARGUMENT, "layer is not accepted: the text '4' (valid: 0 to 65535)",
                 "history", "job:s layer:s", "gpt", "4");
    past_refuses(past, ERR_ARGUMENT, "from 2 is greater than to 1", "history", "job:s from:u to:u",
                 "gpt", UINT64_C(2), UINT64_C(1));
    past_refuses(past, ERR_NO_HISTORY, "encoder.4.cross has no window of 1 epoch in this range",
                 "history", "job:s from:u", "gpt", UINT64_MAX);
    past_refuses(past, ERR_ARGUMENT, "the layer has no head 3 (valid: 0 to 2)", "history",
                 "job:s head:u", "gpt", UINT64_C(3));
}

/* `rows` and `rows_of` of an answer whose newest window ends with `last`; 0: it has none. */
static void assert_rows(struct past *past, uint64_t last, uint64_t rows, uint64_t of)
{
    const struct past_answer *answer =
        past_ask(past, "history", "job:s stack:s metric:s head:u to:u limit:u", "gpt", "decoder",
                 "entropy", UINT64_C(1), last, UINT64_C(2));
    assert_int_equal(answer->code, 0);
    assert_string_equal(answer->detail, "");
    assert_int_equal(past_u64(answer->root, "windows.last.1"), last);
    assert_window(answer, 0, history_window_of("gpt", 0xa1, last - 1), METRIC_ENTROPY, 1);
    assert_int_equal(mpk_find_u64(answer->root, "rows"), rows);
    assert_int_equal(mpk_find_u64(answer->root, "rows_of"), of);
    assert_int_equal(answer->root->via.map.size, 10 + (rows > 0) + (of > 0));
}

#define STATE_OF(last)                                                                             \
    "(SELECT window_id FROM windows JOIN layers USING (layer_id)"                                  \
    " WHERE stack = 1 AND last = " #last ")"

/* Windows in a state and in a chunk; a state that is damaged, and one that was thinned out, fail
 * no answer. */
FRESH_TEST(the_newest_window_says_how_many_rows_it_took)
{
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
FRESH_TEST(what_cannot_be_read_is_said)
{
    past_execute(past, "UPDATE series SET data = x'0102' WHERE head = 1");
    const struct past_answer *answer =
        past_ask(past, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(1));
    assert_int_equal(answer->code, ERR_STORE_FORMAT);
    assert_non_null(store_damage(past->store));
    answer = past_ask(past, "history", "job:s stack:s head:u", "gpt", "decoder", UINT64_C(0));
    assert_int_equal(answer->code, 0);
}

int main(void)
{
    return unit_run(history_set_up, history_tear_down);
}
