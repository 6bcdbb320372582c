/* SPDX-License-Identifier: MIT */
/* Maps, alerts, comparisons; and how questions wait, end and fail. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "daemon/base/clock.h"
#include "daemon/history/params.h"

static struct past_window answers_window(uint8_t run, uint32_t layer, uint64_t last)
{
    return past_window_of("gpt", run, layer, 2, last);
}

/* Maps */

static int history_answers_fill_map(struct store_batch *batch, const void *data)
{
    return batch_map(batch, data);
}

static void history_answers_put_map(struct past *past, uint64_t last, const uint16_t *values)
{
    struct past_window window = answers_window(1, 0, last);
    const struct store_map map = {.layer = window.layer,
                                  .window = {WINDOW_EPOCH, last, last, 1, 1, false},
                                  .epoch = last,
                                  .step = 7,
                                  .time_ns = 8,
                                  .queries = 20,
                                  .keys = 30,
                                  .rows = 2,
                                  .columns = 3,
                                  .values = values};
    past_put(past, &window);
    past_put_batch(past, &window, history_answers_fill_map, &map);
}

PAST_TEST(a_map_is_the_newest_or_the_one_that_is_named)
{
    /* 1, 0.5, 0.333, 0, the least there is, -2 */
    static const uint16_t newest[6] = {0x3c00, 0x3800, 0x3555, 0, 1, 0xc000}, older[6] = {0x3c00};
    static const double values[6] = {1, 0.5, 0x1.554p-2, 0, 0x1p-24, -2};
    history_answers_put_map(past, 3, older);
    history_answers_put_map(past, 4, newest);
    past_settle(past, 0);
    const struct past_answer *answer = past_ask(past, "map", "job:s", "gpt");
    assert_int_equal(answer->code, 0);
    assert_int_equal(past_u64(answer->root, "last"), 4);
    assert_int_equal(past_u64(answer->root, "queries"), 20);
    for (uint32_t i = 0; i < 6; i++) {
        assert_close(past_f64(answer->root, "values.%u.%u", i / 3, i % 3), values[i], 0);
    }
    answer = past_ask(past, "map", "job:s last:u packed:b", "gpt", UINT64_C(3), 1);
    const msgpack_object *bytes = past_get(answer->root, "values");
    assert_int_equal(bytes->type, MSGPACK_OBJECT_BIN);
    assert_int_equal(bytes->via.bin.size, sizeof older);
    assert_memory_equal(bytes->via.bin.ptr, older, sizeof older);
    past_refuses(past, ERR_NO_HISTORY, "there is no map of a window that ends there", "map",
                 "job:s last:u", "gpt", UINT64_C(5));
}

/* Alerts */

static void history_answers_put_alert(struct past *past, const char *job, uint64_t step,
                                      const char *rule, enum alert_severity severity,
                                      enum alert_state event)
{
    struct past_window window = past_window_of(job, 1, 0, 2, 1);
    const struct alert_result alert = {
        .common = {job, NULL, 1, step, 5},
        .rule = rule,
        .severity = severity,
        .state = event,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, 3, SITE_SELF},
        .head = step % 2 ? 2 : -1,
        .value = step % 2 ? 0.25 : NAN,
        .bound = 0.5,
        .since_after = 0,
        .since_step = step - 1,
        .message = "words",
    };
    past_put_alert(past, &window, &alert);
}

static uint32_t alerts_in(struct past *past, const char *keys, const char *a, const char *b)
{
    const struct past_answer *answer = past_ask(past, "alerts", keys, a, b);
    assert_int_equal(answer->code, 0);
    return past_size(answer->root, "alerts");
}

static void history_answers_put_alerts(struct past *past)
{
    history_answers_put_alert(past, "gpt", 1, "collapse", ALERT_CRITICAL, ALERT_FIRING);
    history_answers_put_alert(past, "gpt", 2, "growth", ALERT_WARNING, ALERT_FIRING);
    history_answers_put_alert(past, "gpt", 3, "collapse", ALERT_CRITICAL, ALERT_RESOLVED);
    history_answers_put_alert(past, "bert", 4, "growth", ALERT_WARNING, ALERT_FIRING);
    past_settle(past, 0);
}

PAST_TEST(alerts_are_the_maps_that_were_published_newest_first)
{
    history_answers_put_alerts(past);
    const struct past_answer *answer = past_ask(past, "alerts", "");
    assert_int_equal(past_size(answer->root, "alerts"), 4);
    assert_string_equal(past_text(answer->root, "alerts.0.job"), "bert");
    assert_int_equal(past_get(answer->root, "alerts.0.head")->type, MSGPACK_OBJECT_NIL);
    assert_int_equal(past_get(answer->root, "alerts.0.value")->type, MSGPACK_OBJECT_NIL);
    const msgpack_object *second = past_get(answer->root, "alerts.1");
    assert_string_equal(past_text(second, "kind"), "alert");
    assert_string_equal(past_text(second, "rule"), "collapse");
    assert_string_equal(past_text(second, "severity"), "critical");
    assert_string_equal(past_text(second, "state"), "resolved");
    assert_string_equal(past_text(second, "run"), "01010101010101010101010101010101");
    assert_int_equal(past_u64(second, "head"), 2);
    assert_close(past_f64(second, "value"), 0.25, 0);
    assert_int_equal(past_u64(second, "since.1"), 2);
}

PAST_TEST(alerts_are_chosen_by_what_they_are)
{
    history_answers_put_alerts(past);
    assert_int_equal(alerts_in(past, "job:s", "gpt", NULL), 3);
    assert_int_equal(alerts_in(past, "job:s rule:s", "gpt", "collapse"), 2);
    assert_int_equal(alerts_in(past, "severity:s", "warning", NULL), 2);
    assert_int_equal(alerts_in(past, "severity:s", "info", NULL), 0);
    assert_int_equal(alerts_in(past, "severity:s state:s", "critical", "firing"), 1);
    assert_int_equal(alerts_in(past, "job:s run:s", "gpt", "0101"), 3);
    const struct past_answer *answer =
        past_ask(past, "alerts", "from:u to:u limit:u", UINT64_C(2), UINT64_C(4), UINT64_C(2));
    assert_int_equal(past_size(answer->root, "alerts"), 2);
    assert_true(past_bool(answer->root, "more"));
    past_refuses(past, ERR_ARGUMENT, "run needs a job", "alerts", "run:s", "01");
    past_refuses(past, ERR_ARGUMENT,
                 "severity is not accepted: the text 'dire' (valid: info, warning, critical)",
                 "alerts", "severity:s", "dire");
}

/* Comparisons */

/* Two layers in run 1; in run 2 layer 0 is shifted, layer 1 is another draw of the same, and there
 * is a layer 2. */
static void history_answers_put_runs(struct past *past)
{
    for (uint8_t run = 1; run <= 2; run++) {
        for (uint32_t layer = 0; layer < 1u + run; layer++) {
            struct past_window window = answers_window(run, layer, 4);
            window.shift = run == 2 && layer == 0 ? 0.75 : 0;
            window.seed = run;
            past_put_all(past, window);
        }
    }
    past_settle(past, 0);
}

static void merge_windows(struct past_window window, int metric, uint32_t head, struct dist *pool)
{
    for (window.last = 0; window.last < 5; window.last++) {
        OWNED(layer_state_free) struct layer_state *state = past_state(&window);
        OWNED(dist_clear) struct dist dist = {.moments = {0}};
        assert_int_equal(layer_state_dist(state, metric, head, &dist), 0);
        assert_int_equal(dist_merge(pool, &dist), 0);
    }
}

/* By the formula, from the values. */
static double expected_js(uint32_t layer, uint32_t head, int metric)
{
    struct dist pool[2] = {{.moments = {0}}, {.moments = {0}}};
    for (uint8_t run = 1; run <= 2; run++) {
        struct past_window window = answers_window(run, layer, 0);
        window.shift = run == 2 && layer == 0 ? 0.75 : 0;
        window.seed = run;
        merge_windows(window, metric, head, &pool[run - 1]);
    }
    dist_limit(&pool[0], PAST_BUCKETS);
    dist_limit(&pool[1], PAST_BUCKETS);
    double js = dist_js(&pool[0], &pool[1]);
    dist_clear(&pool[0]);
    dist_clear(&pool[1]);
    return js;
}

static void assert_head(const msgpack_object *head)
{
    static const int metrics[] = {METRIC_ENTROPY, METRIC_ENTROPY_NORMALIZED, METRIC_FIRST_TOKEN};
    double sum = 0;
    assert_int_equal(past_size(head, "metrics"), 3);
    for (int i = 0; i < 3; i++) {
        double js = expected_js((uint32_t)past_u64(head, "layer"), (uint32_t)past_u64(head, "head"),
                                metrics[i]);
        const msgpack_object *metric = past_get(head, "metrics.%s", metric_info[metrics[i]].name);
        assert_close(past_f64(metric, "js"), js, 1e-12);
        assert_close(past_f64(metric, "delta"),
                     past_f64(metric, "mean_b") - past_f64(metric, "mean_a"), 0);
        sum += js;
    }
    assert_close(past_f64(head, "distance"), sum / 3, 1e-12);
}

static const msgpack_object *compare_runs(struct past *past, const char *a, const char *b)
{
    const struct past_answer *answer =
        past_ask(past, "compare", "job:s run:s run_b:s", "gpt", a, b);
    assert_int_equal(answer->code, 0);
    return answer->root;
}

PAST_TEST(heads_are_ranked_by_their_divergence)
{
    history_answers_put_runs(past);
    const msgpack_object *answer = compare_runs(past, "01", "02");
    assert_int_equal(past_size(answer, "heads"), 4);
    assert_int_equal(past_u64(answer, "heads.0.layer"), 0);
    assert_int_equal(past_u64(answer, "heads.1.layer"), 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_head(past_get(answer, "heads.%u", i));
        assert_true(i == 0 || past_f64(answer, "heads.%u.distance", i) <=
                                  past_f64(answer, "heads.%u.distance", i - 1));
    }
    assert_int_equal(past_size(answer, "only_a"), 0);
    assert_int_equal(past_size(answer, "only_b"), 2);
    assert_int_equal(past_u64(answer, "only_b.0.layer"), 2);
    assert_int_equal(past_u64(answer, "a.windows"), 5);
}

PAST_TEST(a_comparison_is_symmetric)
{
    history_answers_put_runs(past);
    const msgpack_object *there = compare_runs(past, "01", "02");
    const msgpack_object *back = compare_runs(past, "02", "01");
    for (uint32_t i = 0; i < 4; i++) {
        assert_close(past_f64(there, "heads.%u.distance", i),
                     past_f64(back, "heads.%u.distance", i), 0);
        assert_close(past_f64(there, "heads.%u.metrics.entropy.delta", i),
                     -past_f64(back, "heads.%u.metrics.entropy.delta", i), 0);
    }
}

PAST_TEST(a_run_is_at_no_distance_from_itself)
{
    history_answers_put_runs(past);
    const msgpack_object *answer = compare_runs(past, "02", "02");
    assert_int_equal(past_size(answer, "heads"), 6);
    for (uint32_t i = 0; i < 6; i++) { /* ties in the order of layers and heads */
        assert_close(past_f64(answer, "heads.%u.distance", i), 0, 0);
        assert_int_equal(past_u64(answer, "heads.%u.layer", i), i / 2);
        assert_int_equal(past_u64(answer, "heads.%u.head", i), i % 2);
    }
}

PAST_TEST(a_comparison_can_be_narrowed_down)
{
    history_answers_put_runs(past);
    const struct past_answer *answer =
        past_ask(past, "compare", "job:s run:s run_b:s metric:s limit:u windows:u", "gpt", "01",
                 "02", "entropy", UINT64_C(1), UINT64_C(2));
    assert_int_equal(past_size(answer->root, "heads"), 1);
    assert_int_equal(past_size(answer->root, "heads.0.metrics"), 1);
    assert_int_equal(past_u64(answer->root, "a.first"), 3);
    assert_int_equal(past_u64(answer->root, "a.windows"), 2);
    assert_true(past_bool(answer->root, "more"));
    past_refuses(
        past, ERR_ARGUMENT,
        "metric is not accepted: variance (valid: those with one value per attention row, such as "
        "entropy)",
        "compare", "job:s metric:s", "gpt", "variance");
    past_refuses(
        past, ERR_NO_HISTORY,
        "run 01010101 of gpt has no window with histograms in this range, nor has the other",
        "compare", "job:s run:s run_b:s from:u", "gpt", "01", "02", UINT64_C(9));
}

PAST_TEST(runs_with_other_windows_are_not_compared)
{
    struct past_window window = answers_window(3, 1, 4);
    window.unit = WINDOW_STEP;
    window.length = 10;
    window.every = 5;
    history_answers_put_runs(past);
    past_put(past, &window);
    past_settle(past, 0);
    past_refuses(past, ERR_NO_HISTORY,
                 "run 03030303 of gpt has not the windows of run 01010101 of gpt: decoder.1.self "
                 "has no windows of 1 epoch; it has those of 10 steps every 5",
                 "compare", "job:s run:s run_b:s", "gpt", "01", "03");
}

/* Waiting */

PAST_TEST(too_many_questions_are_refused_and_the_others_answered)
{
    static struct past_answer answers[HISTORY_WAITING_MAX + 1];
    int taken = 0;
    while (taken <= HISTORY_WAITING_MAX && past_send(past, &answers[taken], "runs") == 0) {
        taken++;
    }
    assert_int_equal(taken, HISTORY_WAITING_MAX);
    assert_int_equal(past_send(past, &answers[taken], "runs"), ERR_AGAIN);
    for (int i = 0; i < taken; i++) {
        past_wait_for(past, &answers[i]);
        assert_int_equal(answers[i].code, 0);
        past_forget(&answers[i]);
    }
    assert_int_equal(past_send(past, &answers[0], "runs"), 0);
    assert_int_equal(past_send(past, &answers[1], "nonsense"), ERR_METHOD_UNKNOWN);
}

/* Asker 1 asks as much as it may, then asker 2 once. Returns whether 2 had its answer before the
 * last one of 1: not when the reader has been faster than both. */
static bool history_answers_take_turns(struct past *past)
{
    static struct past_answer answers[HISTORY_WAITING_MAX], other;
    int taken = 0;
    while (taken < HISTORY_WAITING_MAX && past_send_for(past, 1, &answers[taken], "runs") == 0) {
        taken++;
    }
    bool bounded = taken < HISTORY_WAITING_MAX && past_send_for(past, 2, &other, "runs") == 0;
    for (int i = 0; i < taken; i++) {
        past_wait_for(past, &answers[i]);
    }
    if (bounded) {
        past_wait_for(past, &other);
    }
    bool between = bounded && other.order < answers[taken - 1].order;
    for (int i = 0; i < taken; i++) {
        past_forget(&answers[i]);
    }
    past_forget(&other);
    return between;
}

PAST_TEST(who_asks_much_leaves_room_and_turns_to_others)
{
    bool took_turns = false;
    for (int tries = 0; tries < 1000 && !took_turns; tries++) {
        took_turns = history_answers_take_turns(past);
    }
    assert_true(took_turns);
}

/* The tear-down closes with questions still waiting; each is answered there. */
TEST(closing_answers_what_waits)
{
    static struct past_answer answers[40];
    struct past past;
    past_open(&past, NULL);
    history_answers_put_runs(&past);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(past_send(&past, &answers[i], "runs"), 0);
    }
    past_close(&past);
    for (int i = 0; i < 40; i++) {
        assert_true(answers[i].answered);
        assert_true(answers[i].code == 0 || answers[i].code == ERR_CLOSED);
        past_forget(&answers[i]);
    }
}

static void be_quick(struct config *config)
{
    config->history_query_time = 1;
}

TEST(a_question_that_takes_too_long_is_ended)
{
    OWNED(past_close) struct past past;
    past_open(&past, be_quick);
    history_answers_put_runs(&past);
    assert_int_equal(past_ask(&past, "compare", "job:s", "gpt")->code, ERR_QUERY_TIME);
}

static void turn_off(struct config *config)
{
    config->history_enabled = false;
}

TEST(without_a_history_every_question_says_so)
{
    OWNED(past_close) struct past past;
    struct past_answer answer;
    past_open(&past, turn_off);
    assert_int_equal(past_send(&past, &answer, "runs"), ERR_HISTORY_OFF);
}

static int fill_point(struct store_batch *batch, const void *data)
{
    return batch_point(batch, data);
}

static int fill_settings(struct store_batch *batch, const void *data)
{
    (void)data;
    return batch_settings(batch, "\x81\xa5model\xa4gpt2", 12);
}

/* One point is a series; a value that was not finite is nil; runs of one job are apart. */
PAST_TEST(a_log_has_a_series_per_name_of_its_run)
{
    struct past_window windows[] = {answers_window(0xa1, 0, 3), answers_window(0xb2, 0, 3)};
    const struct store_point points[] = {{"loss", 0, 10, 1, 2.5},
                                         {"loss", 1, 20, 2, NAN},
                                         {"<b>lr", 0, 10, 1, 0.125},
                                         {"loss", 0, 7, 3, 9.0}};
    for (int i = 0; i < 4; i++) {
        past_put_batch(past, &windows[i == 3], fill_point, &points[i]);
    }
    past_put_batch(past, &windows[1], fill_settings, NULL);
    past_settle(past, 0);
    const struct past_answer *answer = past_ask(past, "log", "job:s run:s", "gpt", "a1");
    assert_int_equal(past_size(answer->root, "series"), 2);
    assert_string_equal(past_text(answer->root, "series.0.name"), "loss");
    assert_int_equal(past_u64(answer->root, "series.0.step.1"), 20);
    assert_int_equal(past_u64(answer->root, "series.0.epoch.1"), 1);
    assert_int_equal(past_u64(answer->root, "series.0.time_ns.1"), 2);
    assert_close(past_f64(answer->root, "series.0.value.0"), 2.5, 0);
    assert_int_equal(past_get(answer->root, "series.0.value.1")->type, MSGPACK_OBJECT_NIL);
    assert_string_equal(past_text(answer->root, "series.1.name"), "<b>lr");
    answer = past_ask(past, "log", "job:s", "gpt"); /* the newest run */
    assert_int_equal(past_size(answer->root, "series"), 1);
    assert_close(past_f64(answer->root, "series.0.value.0"), 9, 0);
    answer = past_ask(past, "runs", "");
    assert_string_equal(past_text(answer->root, "runs.0.settings.model"), "gpt2");
    assert_int_equal(past_size(answer->root, "runs.1.settings"), 0);
}

static int fill_sketch(struct store_batch *batch, const void *data)
{
    return batch_sketch(batch, data);
}

/* One that cannot be read is nil. */
PAST_TEST(sketches_are_chosen_by_layer_and_step_newest_first)
{
    struct past_window window = answers_window(0xa1, 0, 3);
    static const char map[] = "\x81\xa4step\x0a";
    for (uint32_t layer = 0; layer < 2; layer++) {
        for (uint64_t step = 10; step <= 30; step += 10) {
            struct store_sketch sketch = {.layer = {STACK_DECODER, layer, SITE_CROSS},
                                          .epoch = step / 20,
                                          .step = step,
                                          .time_ns = 7,
                                          .numbers = step == 30 ? "\xc1\xc1" : map,
                                          .numbers_size = step == 30 ? 2 : 7};
            past_put_batch(past, &window, fill_sketch, &sketch);
        }
    }
    past_settle(past, 0);
    const struct past_answer *answer = past_ask(past, "sketches", "job:s", "gpt");
    assert_int_equal(past_size(answer->root, "sketches"), 6);
    assert_int_equal(past_get(answer->root, "sketches.0.sketch")->type, MSGPACK_OBJECT_NIL);
    assert_int_equal(past_u64(answer->root, "sketches.1.layer"), 1);
    assert_int_equal(past_u64(answer->root, "sketches.5.sketch.step"), 10);
    assert_int_equal(past_u64(answer->root, "sketches.2.epoch"), 1);
    assert_string_equal(past_text(answer->root, "sketches.2.site"), "cross");
    answer = past_ask(past, "sketches", "job:s layer:u from:u to:u", "gpt", UINT64_C(1),
                      UINT64_C(20), UINT64_C(29));
    assert_int_equal(past_size(answer->root, "sketches"), 1);
    assert_int_equal(past_u64(answer->root, "sketches.0.time_ns"), 7);
    answer = past_ask(past, "sketches", "job:s limit:u", "gpt", UINT64_C(2));
    assert_true(past_bool(answer->root, "more") && past_size(answer->root, "sketches") == 2);
    answer = past_ask(past, "sketches", "job:s stack:s", "gpt", "encoder");
    assert_int_equal(past_size(answer->root, "sketches"), 0);
    assert_int_equal(past_ask(past, "sketches", "job:s", "bert")->code, ERR_JOB_UNKNOWN);
}

PAST_TEST(a_run_without_a_log_has_no_series_and_an_unknown_job_is_refused)
{
    struct past_window window = answers_window(0xa1, 0, 3);
    past_put(past, &window);
    past_settle(past, 0);
    assert_int_equal(past_size(past_ask(past, "log", "job:s", "gpt")->root, "series"), 0);
    assert_int_equal(past_ask(past, "log", "job:s", "bert")->code, ERR_JOB_UNKNOWN);
    past_refuses(past, ERR_ARGUMENT, "job is missing", "log", "");
}

static void run_shell(const struct past *past, const char *commands)
{
    char text[512];
    snprintf(text, sizeof text, "cd %s && %s", past->directory, commands);
    assert_int_equal(system(text), 0);
}

/* The store replaces a corrupt database: another file stands where it was. */
PAST_TEST(a_database_that_was_replaced_is_opened_anew)
{
    char command[512];
    history_answers_put_runs(past);
    assert_int_equal(past_size(past_ask(past, "runs", "")->root, "runs"), 2);
    snprintf(command, sizeof command,
             "VACUUM INTO '%s/new.db'; ATTACH '%s/new.db' AS new; DELETE FROM new.runs WHERE "
             "run_id = 1",
             past->directory, past->directory);
    past_execute(past, command);
    run_shell(past, "rm -f history.db-wal history.db-shm && mv new.db history.db");
    assert_int_equal(past_size(past_ask(past, "runs", "")->root, "runs"), 1);
    run_shell(past, "echo nonsense > bad && mv bad history.db");
    past_refuses(past, ERR_HISTORY_OFF, "the history cannot be read: file is not a database",
                 "runs", "");
    assert_non_null(store_damage(past->store));
}
