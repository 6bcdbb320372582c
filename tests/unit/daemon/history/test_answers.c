/* SPDX-License-Identifier: MIT */
/* Maps, alerts, comparisons; and how questions wait, end and fail. */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "daemon/base/clock.h"
#include "daemon/history/params.h"

static struct past_window history_answers_window_of(const char *job, uint8_t run, uint32_t layer,
                                                    uint64_t last)
{
    return (struct past_window){
        .job = job,
        .run = run,
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .heads = 2,
        .unit = WINDOW_EPOCH,
        .length = 1,
        .every = 1,
        .last = last,
    };
}

static int history_answers_set_up(void **state)
{
    static struct past past;
    past_open(&past, NULL);
    *state = &past;
    return 0;
}

static int history_answers_tear_down(void **state)
{
    past_close(*state);
    return 0;
}

#define ANSWERS_TEST(name)                                                                         \
    TEST_OF(name, struct past *past, history_answers_set_up, history_answers_tear_down)

static const msgpack_object *history_answers_item(const msgpack_object *list, uint32_t index)
{
    assert_non_null(list);
    assert_int_equal(list->type, MSGPACK_OBJECT_ARRAY);
    assert_true(index < list->via.array.size);
    return &list->via.array.ptr[index];
}

static double history_answers_number(const msgpack_object *map, const char *key)
{
    double value = 0;
    const msgpack_object *found = mpk_find(map, key);
    assert_non_null(found);
    assert_int_equal(mpk_get_f64(found, &value), 0);
    return value;
}

static void history_answers_assert_text(const msgpack_object *map, const char *key,
                                        const char *text)
{
    assert_true(mpk_is_str(mpk_find(map, key), text));
}

/* Maps */

static int history_answers_fill_map(struct store_batch *batch, const void *data)
{
    return batch_map(batch, data);
}

static void history_answers_put_map(struct past *past, uint64_t last, const uint16_t *values)
{
    struct past_window window = history_answers_window_of("gpt", 1, 0, last);
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

ANSWERS_TEST(a_map_is_the_newest_or_the_one_that_is_named)
{
    /* 1, 0.5, 0.333, 0, the least there is, -2 */
    static const uint16_t newest[6] = {0x3c00, 0x3800, 0x3555, 0, 1, 0xc000}, older[6] = {0x3c00};
    static const double values[6] = {1, 0.5, 0x1.554p-2, 0, 0x1p-24, -2};
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_map(past, 3, older);
    history_answers_put_map(past, 4, newest);
    past_settle(past, 0);
    past_ask(past, &answer, "map", "job:s", "gpt");
    assert_int_equal(answer.code, 0);
    assert_true(history_answers_number(answer.root, "last") == 4 &&
                history_answers_number(answer.root, "queries") == 20);
    for (uint32_t i = 0; i < 6; i++) {
        double value = NAN;
        mpk_get_f64(history_answers_item(
                        history_answers_item(mpk_find(answer.root, "values"), i / 3), i % 3),
                    &value);
        assert_true(value == values[i]);
    }
    past_forget(&answer);
    past_ask(past, &answer, "map", "job:s last:u packed:b", "gpt", UINT64_C(3), 1);
    const msgpack_object *bytes = mpk_find(answer.root, "values");
    assert_int_equal(bytes->type, MSGPACK_OBJECT_BIN);
    assert_int_equal(bytes->via.bin.size, sizeof older);
    assert_memory_equal(bytes->via.bin.ptr, older, sizeof older);
    past_forget(&answer);
    past_ask(past, &answer, "map", "job:s last:u", "gpt", UINT64_C(5));
    assert_int_equal(answer.code, ERR_NO_HISTORY);
    assert_string_equal(answer.detail, "there is no map of a window that ends there");
}

/* Alerts */

static int fill_alert(struct store_batch *batch, const void *data)
{
    return batch_alert(batch, data);
}

static void history_answers_put_alert(struct past *past, const char *job, uint64_t step,
                                      const char *rule, enum alert_severity severity,
                                      enum alert_state event)
{
    struct past_window window = history_answers_window_of(job, 1, 0, 1);
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
        .since_epoch = 1,
        .since_step = step - 1,
        .message = "words",
    };
    past_put_batch(past, &window, fill_alert, &alert);
}

static uint32_t alerts_in(struct past *past, const char *keys, const char *a, const char *b)
{
    OWNED(past_forget) struct past_answer answer;
    past_ask(past, &answer, "alerts", keys, a, b);
    assert_int_equal(answer.code, 0);
    uint32_t count = mpk_find(answer.root, "alerts")->via.array.size;
    return count;
}

static void history_answers_put_alerts(struct past *past)
{
    history_answers_put_alert(past, "gpt", 1, "collapse", ALERT_CRITICAL, ALERT_FIRING);
    history_answers_put_alert(past, "gpt", 2, "growth", ALERT_WARNING, ALERT_FIRING);
    history_answers_put_alert(past, "gpt", 3, "collapse", ALERT_CRITICAL, ALERT_RESOLVED);
    history_answers_put_alert(past, "bert", 4, "growth", ALERT_WARNING, ALERT_FIRING);
    past_settle(past, 0);
}

ANSWERS_TEST(alerts_are_the_maps_that_were_published_newest_first)
{
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_alerts(past);
    past_ask(past, &answer, "alerts", "");
    const msgpack_object *list = mpk_find(answer.root, "alerts");
    assert_int_equal(list->via.array.size, 4);
    history_answers_assert_text(history_answers_item(list, 0), "job", "bert");
    assert_int_equal(mpk_find(history_answers_item(list, 0), "head")->type, MSGPACK_OBJECT_NIL);
    assert_int_equal(mpk_find(history_answers_item(list, 0), "value")->type, MSGPACK_OBJECT_NIL);
    const msgpack_object *second = history_answers_item(list, 1);
    history_answers_assert_text(second, "kind", "alert");
    history_answers_assert_text(second, "rule", "collapse");
    history_answers_assert_text(second, "severity", "critical");
    history_answers_assert_text(second, "state", "resolved");
    history_answers_assert_text(second, "run", "01010101010101010101010101010101");
    assert_true(history_answers_number(second, "head") == 2 &&
                history_answers_number(second, "value") == 0.25);
    assert_true(history_answers_number(mpk_find(second, "since"), "step") == 2);
}

ANSWERS_TEST(alerts_are_chosen_by_what_they_are)
{
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_alerts(past);
    assert_int_equal(alerts_in(past, "job:s", "gpt", NULL), 3);
    assert_int_equal(alerts_in(past, "job:s rule:s", "gpt", "collapse"), 2);
    assert_int_equal(alerts_in(past, "severity:s", "warning", NULL), 2);
    assert_int_equal(alerts_in(past, "severity:s", "info", NULL), 0);
    assert_int_equal(alerts_in(past, "severity:s state:s", "critical", "firing"), 1);
    assert_int_equal(alerts_in(past, "job:s run:s", "gpt", "0101"), 3);
    past_ask(past, &answer, "alerts", "from:u to:u limit:u", UINT64_C(2), UINT64_C(4), UINT64_C(2));
    assert_int_equal(mpk_find(answer.root, "alerts")->via.array.size, 2);
    assert_true(mpk_find(answer.root, "more")->via.boolean);
    past_forget(&answer);
    past_ask(past, &answer, "alerts", "run:s", "01");
    assert_string_equal(answer.detail, "run needs a job");
    past_forget(&answer);
    past_ask(past, &answer, "alerts", "severity:s", "dire");
    assert_string_equal(answer.detail, "severity is not accepted (valid: info, warning, critical)");
}

/* Comparisons */

/* Two layers in run 1; in run 2 layer 0 is shifted, layer 1 is another draw of the same, and there
 * is a layer 2. */
static void history_answers_put_runs(struct past *past)
{
    for (uint8_t run = 1; run <= 2; run++) {
        for (uint32_t layer = 0; layer < 1u + run; layer++) {
            struct past_window window = history_answers_window_of("gpt", run, layer, 4);
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
        struct past_window window = history_answers_window_of("gpt", run, layer, 0);
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
    assert_int_equal(mpk_find(head, "metrics")->via.map.size, 3);
    for (int i = 0; i < 3; i++) {
        double js = expected_js((uint32_t)history_answers_number(head, "layer"),
                                (uint32_t)history_answers_number(head, "head"), metrics[i]);
        const msgpack_object *metric =
            mpk_find(mpk_find(head, "metrics"), metric_info[metrics[i]].name);
        assert_true(fabs(history_answers_number(metric, "js") - js) < 1e-12);
        assert_true(history_answers_number(metric, "delta") ==
                    history_answers_number(metric, "mean_b") -
                        history_answers_number(metric, "mean_a"));
        sum += js;
    }
    assert_true(fabs(history_answers_number(head, "distance") - sum / 3) < 1e-12);
}

ANSWERS_TEST(heads_are_ranked_by_their_divergence)
{
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_runs(past);
    past_ask(past, &answer, "compare", "job:s run:s run_b:s", "gpt", "01", "02");
    assert_int_equal(answer.code, 0);
    const msgpack_object *heads = mpk_find(answer.root, "heads");
    assert_int_equal(heads->via.array.size, 4);
    assert_true(history_answers_number(history_answers_item(heads, 0), "layer") == 0 &&
                history_answers_number(history_answers_item(heads, 1), "layer") == 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_head(history_answers_item(heads, i));
        assert_true(i == 0 ||
                    history_answers_number(history_answers_item(heads, i), "distance") <=
                        history_answers_number(history_answers_item(heads, i - 1), "distance"));
    }
    assert_int_equal(mpk_find(answer.root, "only_a")->via.array.size, 0);
    assert_int_equal(mpk_find(answer.root, "only_b")->via.array.size, 2);
    assert_true(history_answers_number(history_answers_item(mpk_find(answer.root, "only_b"), 0),
                                       "layer") == 2);
    assert_true(history_answers_number(mpk_find(answer.root, "a"), "windows") == 5);
}

ANSWERS_TEST(a_comparison_is_symmetric)
{
    OWNED(past_forget) struct past_answer there, back;
    history_answers_put_runs(past);
    past_ask(past, &there, "compare", "job:s run:s run_b:s", "gpt", "01", "02");
    past_ask(past, &back, "compare", "job:s run:s run_b:s", "gpt", "02", "01");
    for (uint32_t i = 0; i < 4; i++) {
        const msgpack_object *a = history_answers_item(mpk_find(there.root, "heads"), i);
        const msgpack_object *b = history_answers_item(mpk_find(back.root, "heads"), i);
        assert_true(history_answers_number(a, "distance") == history_answers_number(b, "distance"));
        assert_true(history_answers_number(mpk_find(mpk_find(a, "metrics"), "entropy"), "delta") ==
                    -history_answers_number(mpk_find(mpk_find(b, "metrics"), "entropy"), "delta"));
    }
}

ANSWERS_TEST(a_run_is_at_no_distance_from_itself)
{
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_runs(past);
    past_ask(past, &answer, "compare", "job:s run:s run_b:s", "gpt", "02", "02");
    const msgpack_object *heads = mpk_find(answer.root, "heads");
    assert_int_equal(heads->via.array.size, 6);
    for (uint32_t i = 0; i < 6; i++) { /* ties in the order of layers and heads */
        assert_true(history_answers_number(history_answers_item(heads, i), "distance") == 0);
        assert_true(history_answers_number(history_answers_item(heads, i), "layer") == i / 2);
        assert_true(history_answers_number(history_answers_item(heads, i), "head") == i % 2);
    }
}

ANSWERS_TEST(a_comparison_can_be_narrowed_down)
{
    OWNED(past_forget) struct past_answer answer;
    history_answers_put_runs(past);
    past_ask(past, &answer, "compare", "job:s run:s run_b:s metric:s limit:u windows:u", "gpt",
             "01", "02", "entropy", UINT64_C(1), UINT64_C(2));
    const msgpack_object *heads = mpk_find(answer.root, "heads");
    assert_int_equal(heads->via.array.size, 1);
    assert_int_equal(mpk_find(history_answers_item(heads, 0), "metrics")->via.map.size, 1);
    assert_true(history_answers_number(mpk_find(answer.root, "a"), "first") == 3);
    assert_true(history_answers_number(mpk_find(answer.root, "a"), "windows") == 2);
    assert_true(mpk_find(answer.root, "more")->via.boolean);
    past_forget(&answer);
    past_ask(past, &answer, "compare", "job:s metric:s", "gpt", "variance");
    assert_string_equal(answer.detail,
                        "metric is not accepted (valid: those with one value per attention row, "
                        "such as entropy)");
    past_forget(&answer);
    past_ask(past, &answer, "compare", "job:s run:s run_b:s from:u", "gpt", "01", "02",
             UINT64_C(9));
    assert_int_equal(answer.code, ERR_NO_HISTORY);
    assert_string_equal(answer.detail,
                        "run 01010101 of gpt has no window with histograms in this range");
}

/* Waiting */

ANSWERS_TEST(too_many_questions_are_refused_and_the_others_answered)
{
    static struct past_answer answers[HISTORY_WAITING_MAX + 1];
    int taken = 0;
    while (taken <= HISTORY_WAITING_MAX && past_send(past, &answers[taken], "runs") == 0) {
        taken++;
    }
    assert_int_equal(taken, HISTORY_WAITING_MAX);
    assert_int_equal(past_send(past, &answers[taken], "runs"), ERR_AGAIN);
    for (int i = 0; i < taken; i++) {
        while (!answers[i].answered) {
            uv_run(&past->loop, UV_RUN_ONCE);
        }
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

ANSWERS_TEST(who_asks_much_leaves_room_and_turns_to_others)
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
    OWNED(past_forget) struct past_answer answer;
    past_open(&past, be_quick);
    history_answers_put_runs(&past);
    past_ask(&past, &answer, "compare", "job:s", "gpt");
    assert_int_equal(answer.code, ERR_QUERY_TIME);
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
ANSWERS_TEST(a_log_has_a_series_per_name_of_its_run)
{
    struct past_window windows[] = {history_answers_window_of("gpt", 0xa1, 0, 3),
                                    history_answers_window_of("gpt", 0xb2, 0, 3)};
    const struct store_point points[] = {{"loss", 0, 10, 1, 2.5},
                                         {"loss", 1, 20, 2, NAN},
                                         {"<b>lr", 0, 10, 1, 0.125},
                                         {"loss", 0, 7, 3, 9.0}};
    OWNED(past_forget) struct past_answer answer;
    for (int i = 0; i < 4; i++) {
        past_put_batch(past, &windows[i == 3], fill_point, &points[i]);
    }
    past_put_batch(past, &windows[1], fill_settings, NULL);
    past_settle(past, 0);
    past_ask(past, &answer, "log", "job:s run:s", "gpt", "a1");
    const msgpack_object *series = mpk_find(answer.root, "series");
    assert_int_equal(series->via.array.size, 2);
    const msgpack_object *loss = history_answers_item(series, 0);
    assert_true(mpk_is_str(mpk_find(loss, "name"), "loss"));
    assert_int_equal(history_answers_item(mpk_find(loss, "step"), 1)->via.u64, 20);
    assert_int_equal(history_answers_item(mpk_find(loss, "epoch"), 1)->via.u64, 1);
    assert_int_equal(history_answers_item(mpk_find(loss, "time_ns"), 1)->via.u64, 2);
    assert_true(history_answers_item(mpk_find(loss, "value"), 0)->via.f64 == 2.5);
    assert_int_equal(history_answers_item(mpk_find(loss, "value"), 1)->type, MSGPACK_OBJECT_NIL);
    assert_true(mpk_is_str(mpk_find(history_answers_item(series, 1), "name"), "<b>lr"));
    past_forget(&answer);
    past_ask(past, &answer, "log", "job:s", "gpt"); /* the newest run */
    series = mpk_find(answer.root, "series");
    assert_int_equal(series->via.array.size, 1);
    loss = mpk_find(history_answers_item(series, 0), "value");
    assert_true(history_answers_item(loss, 0)->via.f64 == 9.0);
    past_forget(&answer);
    past_ask(past, &answer, "runs", "");
    const msgpack_object *runs = mpk_find(answer.root, "runs");
    const msgpack_object *settings = mpk_find(history_answers_item(runs, 0), "settings");
    assert_true(mpk_is_str(mpk_find(settings, "model"), "gpt2"));
    assert_int_equal(mpk_find(history_answers_item(runs, 1), "settings")->via.map.size, 0);
}

ANSWERS_TEST(a_run_without_a_log_has_no_series_and_an_unknown_job_is_refused)
{
    struct past_window window = history_answers_window_of("gpt", 0xa1, 0, 3);
    OWNED(past_forget) struct past_answer answer;
    past_put(past, &window);
    past_settle(past, 0);
    past_ask(past, &answer, "log", "job:s", "gpt");
    assert_int_equal(mpk_find(answer.root, "series")->via.array.size, 0);
    past_forget(&answer);
    past_ask(past, &answer, "log", "job:s", "bert");
    assert_int_equal(answer.code, ERR_JOB_UNKNOWN);
    past_forget(&answer);
    past_ask(past, &answer, "log", "");
    assert_int_equal(answer.code, ERR_ARGUMENT);
    assert_string_equal(answer.detail, "job is missing");
}

/* The store replaces a corrupt database: another file stands where it was. */
ANSWERS_TEST(a_database_that_was_replaced_is_opened_anew)
{
    struct past_answer answer;
    char command[512];
    history_answers_put_runs(past);
    past_ask(past, &answer, "runs", "");
    assert_int_equal(mpk_find(answer.root, "runs")->via.array.size, 2);
    past_forget(&answer);
    snprintf(command, sizeof command,
             "VACUUM INTO '%s/new.db'; ATTACH '%s/new.db' AS new; DELETE FROM new.runs WHERE "
             "run_id = 1",
             past->directory, past->directory);
    past_execute(past, command);
    snprintf(command, sizeof command,
             "cd %s && rm -f history.db-wal history.db-shm && mv new.db history.db",
             past->directory);
    assert_int_equal(system(command), 0);
    past_ask(past, &answer, "runs", "");
    assert_int_equal(mpk_find(answer.root, "runs")->via.array.size, 1);
    past_forget(&answer);
    snprintf(command, sizeof command, "cd %s && echo nonsense > bad && mv bad history.db",
             past->directory);
    assert_int_equal(system(command), 0);
    past_ask(past, &answer, "runs", "");
    assert_int_equal(answer.code, ERR_HISTORY_OFF);
    assert_string_equal(answer.detail, "the history cannot be read: file is not a database");
    past_forget(&answer);
    assert_non_null(store_damage(past->store));
}
