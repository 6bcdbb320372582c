/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/history/past.h"

#include "daemon/base/clock.h"

#include <sqlite3.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(60000000000)
#define ROWS        12 /* values per head and metric */

void past_open(struct past *past, void (*setting)(struct config *config))
{
    char error[CONFIG_ERROR_MAX] = "";
    *past = (struct past){.directory = "/tmp/attnd-past-XXXXXX"};
    assert_non_null(mkdtemp(past->directory));
    config_defaults(&past->config);
    snprintf(past->config.history_path.text, sizeof past->config.history_path.text, "%s/history.db",
             past->directory);
    past->config.history_commit = 10000000;
    if (setting) {
        setting(&past->config);
    }
    assert_int_equal(store_new(&past->config, &past->stats, &past->store), 0);
    uv_loop_init(&past->loop);
    assert_int_equal(history_new(&past->loop, &past->config, past->store, &past->history, error),
                     0);
}

void past_close(struct past *past)
{
    char command[128];
    for (int i = 0; i < PAST_ANSWERS; i++) {
        past_forget(&past->answers[i]);
    }
    history_close(&past->history);
    uv_run(&past->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&past->loop), 0);
    store_free(&past->store);
    snprintf(command, sizeof command, "rm -r %s", past->directory);
    assert_int_equal(system(command), 0);
    config_clear(&past->config);
}

void past_begin(struct past *past)
{
    past_open(past, NULL);
}

/* States */

struct past_window past_window_of(const char *job, uint8_t run, uint32_t layer, uint32_t heads,
                                  uint64_t last)
{
    return (struct past_window){
        .job = job,
        .run = run,
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .heads = heads,
        .unit = WINDOW_EPOCH,
        .length = 1,
        .every = 1,
        .last = last,
    };
}

static uint64_t past_next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static const int metrics[] = {METRIC_ENTROPY, METRIC_ENTROPY_NORMALIZED, METRIC_FIRST_TOKEN,
                              METRIC_VARIANCE};
enum { METRICS = sizeof metrics / sizeof metrics[0] };

/* A message with one row, or one value, per head and metric. */
static void add_message(struct layer_state *state, const struct past_window *window, int i)
{
    struct head_block *blocks = calloc(window->heads, sizeof *blocks);
    double *values = calloc((size_t)METRICS * window->heads, sizeof *values);
    struct message message = {.header = {.type = MESSAGE_ATTENTION,
                                         .heads = window->heads,
                                         .q_stride = window->stride,
                                         .epoch = window->last,
                                         .step = window->last * 10,
                                         .microbatch = (uint32_t)i,
                                         .time_ns = window->last * 1000}};
    struct measured measured = {.heads = window->heads,
                                .rows = window->heads,
                                .head = blocks,
                                .row_sum_error = NAN,
                                .sink_rate = i == ROWS - 1 ? 0.25 + window->shift : NAN};
    assert_true(blocks && values);
    for (int k = 0; k < METRICS; k++) {
        measured.value[metrics[k]] = values + (size_t)k * window->heads;
        for (uint32_t h = 0; h < window->heads; h++) {
            /* Value i of a head and metric. */
            int metric = metrics[k];
            uint64_t seed = window->seed + window->last * 1000003u + h * 101u + (uint64_t)metric;
            for (int drawn = 0; drawn < i; drawn++) {
                past_next_random(&seed);
            }
            double x = (double)(past_next_random(&seed) % 1000000) / 1e6 + h + window->shift;
            measured.value[metrics[k]][h] = x;
            if (metrics[k] < METRIC_ROW_COUNT) {
                assert_int_equal(dist_add(&blocks[h].row[metrics[k]], x), 0);
            }
        }
    }
    assert_int_equal(layer_state_add(state, &message, &measured), 0);
    for (int k = 0; k < METRICS; k++) {
        for (uint32_t h = 0; h < window->heads && metrics[k] < METRIC_ROW_COUNT; h++) {
            dist_clear(&blocks[h].row[metrics[k]]);
        }
    }
    free(blocks);
    free(values);
}

struct layer_state *past_state(const struct past_window *window)
{
    struct layer_state *state = layer_state_new(window->heads, PAST_BUCKETS);
    assert_non_null(state);
    for (int i = 0; i < ROWS; i++) {
        add_message(state, window, i);
    }
    return state;
}

void past_put_batch(struct past *past, const struct past_window *window,
                    int (*fill)(struct store_batch *batch, const void *data), const void *data)
{
    uint8_t run_id[RUN_BYTES];
    memset(run_id, window->run, sizeof run_id);
    const struct store_run run = {window->job,
                                  run_id,
                                  window->state,
                                  1,
                                  window->last,
                                  window->last * 10,
                                  window->last * 1000 + 1};
    struct store_batch *batch = batch_new(&run);
    assert_non_null(batch);
    assert_int_equal(fill(batch, data), 0);
    assert_true(store_submit(past->store, &batch));
    past->submitted++;
}

static int fill_window(struct store_batch *batch, const void *data)
{
    return batch_window(batch, data);
}

void past_put(struct past *past, const struct past_window *window)
{
    OWNED(layer_state_free) struct layer_state *state = past_state(window);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    mpk_writer_init(&packed);
    assert_int_equal(layer_state_pack(state, &packed), 0);
    uint64_t back = window->last < window->length - 1 ? window->last : window->length - 1;
    const struct store_window record = {
        .layer = window->layer,
        .module = window->module,
        .heads = window->heads,
        .window = {window->unit, window->last - back, window->last, window->length, window->every,
                   window->partial},
        .final = true,
        .epoch = state->epoch,
        .step = state->step,
        .time_ns = state->time_ns,
        .messages = 1,
        .state = packed.buffer.data,
        .state_size = packed.buffer.size,
    };
    past_put_batch(past, window, fill_window, &record);
}

void past_put_all(struct past *past, struct past_window window)
{
    uint64_t last = window.last;
    for (window.last = 0; window.last <= last; window.last++) {
        past_put(past, &window);
    }
}

static int fill_alert(struct store_batch *batch, const void *data)
{
    return batch_alert(batch, data);
}

void past_put_alert(struct past *past, const struct past_window *window,
                    const struct alert_result *alert)
{
    past_put_batch(past, window, fill_alert, alert);
}

/* The database */

static sqlite3 *open_own(struct past *past)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(past->config.history_path.text, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 60000);
    return db;
}

void past_execute(struct past *past, const char *sql)
{
    sqlite3 *db = open_own(past);
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) {
        fail_msg("%s: %s", sql, message);
    }
    sqlite3_close(db);
}

uint64_t past_number(struct past *past, const char *sql)
{
    sqlite3 *db = open_own(past);
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    uint64_t number = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

void past_settle(struct past *past, uint64_t in_chunks)
{
    uint64_t deadline = clock_monotonic_ns() + PATIENCE_NS;
    while (stats_get(&past->stats, COUNT_STORED) < past->submitted ||
           past_number(past, "SELECT count(*) FROM windows WHERE chunk_id IS NOT NULL") <
               in_chunks) {
        assert_int_equal(stats_get(&past->stats, COUNT_STORE_DROPPED), 0);
        if (clock_monotonic_ns() > deadline) {
            fail_msg("the store did not settle");
        }
        usleep(1000);
    }
}

/* Questions */

static void past_on_answered(void *data, int code, const char *detail,
                             const struct mpk_writer *result)
{
    static unsigned order;
    struct past_answer *answer = data;
    answer->answered = true;
    answer->order = ++order;
    answer->code = code;
    snprintf(answer->detail, sizeof answer->detail, "%s", detail);
    mpk_writer_init(&answer->result);
    if (code) {
        return;
    }
    mpk_put_raw(&answer->result, result->buffer.data, result->buffer.size);
    assert_true(mpk_writer_ok(&answer->result));
    assert_int_equal(mpk_parse(answer->result.buffer.data, answer->result.buffer.size,
                               &mpk_result_limits, &answer->doc),
                     0);
    answer->root = answer->doc.root;
}

void past_wait_for(struct past *past, struct past_answer *answer)
{
    while (!answer->answered) {
        uv_run(&past->loop, UV_RUN_ONCE);
    }
}

static const struct past_answer *past_ask_with(struct past *past, const char *method,
                                               const char *keys, va_list args)
{
    OWNED(mpk_writer_clear) struct mpk_writer params;
    struct past_answer *answer = &past->answers[past->asked++ % PAST_ANSWERS];
    past_forget(answer);
    mpk_writer_init(&params);
    uint32_t count = 0;
    for (const char *at = keys; *at; at++) {
        count += *at == ':' ? 1 : 0;
    }
    mpk_put_map(&params, count);
    while (*keys) {
        char key[32];
        size_t length = strcspn(keys, ":");
        snprintf(key, sizeof key, "%.*s", (int)length, keys);
        mpk_put_str(&params, key);
        char type = keys[length + 1];
        if (type == 's') {
            mpk_put_str(&params, va_arg(args, const char *));
        } else if (type == 'u') {
            mpk_put_u64(&params, va_arg(args, uint64_t));
        } else if (type == 'b') {
            mpk_put_bool(&params, va_arg(args, int));
        } else {
            mpk_put_array(&params, 1);
            mpk_put_str(&params, va_arg(args, const char *));
        }
        keys += length + 2;
        keys += strspn(keys, " ");
    }
    assert_int_equal(history_ask(past->history, HISTORY_OWN, method, params.buffer.data,
                                 params.buffer.size, past_on_answered, answer),
                     0);
    assert_false(answer->answered);
    past_wait_for(past, answer);
    return answer;
}

const struct past_answer *past_ask(struct past *past, const char *method, const char *keys, ...)
{
    va_list args;
    va_start(args, keys);
    const struct past_answer *answer = past_ask_with(past, method, keys, args);
    va_end(args);
    return answer;
}

void past_refuses(struct past *past, int code, const char *detail, const char *method,
                  const char *keys, ...)
{
    va_list args;
    va_start(args, keys);
    const struct past_answer *answer = past_ask_with(past, method, keys, args);
    va_end(args);
    assert_string_equal(answer->detail, detail);
    assert_int_equal(answer->code, code);
}

int past_send_for(struct past *past, uint64_t asker, struct past_answer *answer, const char *method)
{
    *answer = (struct past_answer){.answered = false};
    return history_ask(past->history, asker, method, "\x80", 1, past_on_answered, answer);
}

int past_send(struct past *past, struct past_answer *answer, const char *method)
{
    return past_send_for(past, HISTORY_OWN, answer, method);
}

void past_forget(struct past_answer *answer)
{
    if (answer->root) {
        mpk_doc_clear(&answer->doc);
    }
    mpk_writer_clear(&answer->result);
    *answer = (struct past_answer){.answered = false};
}

/* Parts of answers */

__attribute__((format(printf, 2, 0))) static const msgpack_object *past_walk(
    const msgpack_object *from, const char *path, va_list args)
{
    char text[128], *save;
    vsnprintf(text, sizeof text, path, args);
    for (char *key = strtok_r(text, ".", &save); key && from; key = strtok_r(NULL, ".", &save)) {
        if (from->type != MSGPACK_OBJECT_ARRAY) {
            from = mpk_find(from, key);
            continue;
        }
        unsigned long index = strtoul(key, NULL, 10);
        if (index >= from->via.array.size) {
            fail_msg("%s: there are %u, not %lu", path, from->via.array.size, index + 1);
        }
        from = &from->via.array.ptr[index];
    }
    return from;
}

/* `got` is the part of the answer that the caller's path names. */
#define PAST_WALK(got)                                                                             \
    va_list args;                                                                                  \
    va_start(args, path);                                                                          \
    const msgpack_object *got = past_walk(from, path, args);                                       \
    va_end(args)

const msgpack_object *past_get(const msgpack_object *from, const char *path, ...)
{
    PAST_WALK(got);
    return got;
}

double past_f64(const msgpack_object *from, const char *path, ...)
{
    double number = 0;
    PAST_WALK(got);
    if (!got || mpk_get_f64(got, &number) != 0) {
        fail_msg("%s is no number", path);
    }
    return number;
}

uint64_t past_u64(const msgpack_object *from, const char *path, ...)
{
    uint64_t number = 0;
    PAST_WALK(got);
    if (!got || mpk_get_u64(got, UINT64_MAX, &number) != 0) {
        fail_msg("%s is no whole number", path);
    }
    return number;
}

bool past_bool(const msgpack_object *from, const char *path, ...)
{
    bool value = false;
    PAST_WALK(got);
    if (!got || mpk_get_bool(got, &value) != 0) {
        fail_msg("%s is neither true nor false", path);
    }
    return value;
}

const char *past_text(const msgpack_object *from, const char *path, ...)
{
    static char text[1024];
    PAST_WALK(got);
    if (!got || got->type != MSGPACK_OBJECT_STR) {
        fail_msg("%s is no text", path);
    }
    snprintf(text, sizeof text, "%.*s", (int)got->via.str.size, got->via.str.ptr);
    return text;
}

uint32_t past_size(const msgpack_object *from, const char *path, ...)
{
    PAST_WALK(got);
    if (!got || (got->type != MSGPACK_OBJECT_ARRAY && got->type != MSGPACK_OBJECT_MAP)) {
        fail_msg("%s is neither a list nor a map", path);
    }
    return got->type == MSGPACK_OBJECT_MAP ? got->via.map.size : got->via.array.size;
}
