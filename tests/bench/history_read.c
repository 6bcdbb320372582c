/* SPDX-License-Identifier: MIT */
/* history_read: how long questions to a long history take, from asking on the loop thread to the
 * answer there. A layer of HEADS heads has WINDOWS windows; one JSON line per question with the
 * median and the slowest of REPEAT answers, the processor time of one, and the bytes of the answer.
 *
 *     history_read [WINDOWS HEADS REPEAT] */
#include "daemon/history/history.h"
#include "daemon/state/layer_state.h"
#include "tests/bench/bench.h"
#include "tests/unit/daemon/state/measured.h"
#include "daemon/store/store.h"

#include <string.h>
#include <unistd.h>

#define VARIANTS 16

struct bench {
    struct mpk_writer states[VARIANTS];
    struct config config;
    struct stats stats;
    struct store *store;
    struct history *history;
    uv_loop_t loop;
    char directory[64];
    uint32_t windows, heads, repeat;
    bool answered;
    size_t bytes;
};

/* The state of a few real maps; windows take turns at them. */
static void history_read_pack_state(uint32_t heads, uint64_t number, struct mpk_writer *packed)
{
    struct layer_state *state = layer_state_new(heads, 48);
    struct measured_options options = {
        .batch = 1, .heads = heads, .size = 32, .sharpness = 1.0, .seed = number};
    struct measured_message *message = measured_message_new(&options, 1);
    bench_must(state && message, "out of memory");
    bench_must(!layer_state_add(state, &message->message, measure_result(message->measure)),
               "out of memory");
    bench_must(!layer_state_pack(state, packed), "out of memory");
    measured_message_free(&message);
    layer_state_free(&state);
}

static void wait_stored(struct bench *bench, uint64_t windows)
{
    while (stats_get(&bench->stats, COUNT_STORED) < windows) {
        bench_must(!stats_get(&bench->stats, COUNT_STORE_DROPPED), "a window could not be stored");
        usleep(1000);
    }
}

static void history_read_submit(struct bench *bench, uint64_t number)
{
    static const uint8_t run_id[RUN_BYTES] = {1, 2, 3};
    const struct store_run run = {"bench", run_id, JOB_ACTIVE, 1, number, number * 10, number};
    const struct mpk_writer *packed = &bench->states[number % VARIANTS];
    const struct store_window window = {
        .layer = {STACK_DECODER, 0, SITE_SELF},
        .heads = bench->heads,
        .window = {WINDOW_EPOCH, number, number, 1, 1, false},
        .final = true,
        .epoch = number,
        .step = number * 10,
        .time_ns = 1700000000000000000 + number * 1000000007,
        .messages = 1,
        .state = packed->buffer.data,
        .state_size = packed->buffer.size,
    };
    struct store_batch *batch = batch_new(&run);
    bench_must(batch && !batch_window(batch, &window), "out of memory");
    wait_stored(bench, number < 1000 ? 0 : number - 1000);
    bench_must(store_submit(bench->store, &batch), "a batch was refused");
}

static void open_all(struct bench *bench)
{
    const char *reason = "";
    char error[CONFIG_ERROR_MAX] = "";
    snprintf(bench->directory, sizeof bench->directory, "/tmp/attnd-read-XXXXXX");
    bench_must(mkdtemp(bench->directory), "no temporary directory");
    config_defaults(&bench->config);
    snprintf(bench->config.history_path.text, sizeof bench->config.history_path.text,
             "%s/history.db", bench->directory);
    bench_must(!store_new(&bench->config, &bench->stats, &bench->store), "out of memory");
    bench_must(store_path(bench->store, &reason), reason);
    uv_loop_init(&bench->loop);
    bench_must(!history_new(&bench->loop, &bench->config, bench->store, &bench->history, error),
               error);
}

static void history_read_close_all(struct bench *bench)
{
    char command[128];
    history_close(&bench->history);
    uv_run(&bench->loop, UV_RUN_DEFAULT);
    store_free(&bench->store);
    snprintf(command, sizeof command, "rm -r %s", bench->directory);
    bench_must(system(command) == 0, "cannot remove the directory");
}

static void history_read_on_answered(void *data, int code, const char *detail,
                                     const struct mpk_writer *result)
{
    struct bench *bench = data;
    bench_must(code == 0, *detail ? detail : err_text(code));
    bench->answered = true;
    bench->bytes = result->buffer.size;
}

/* `params`: an encoded map. */
static void history_read_measure(struct bench *bench, const char *name, const char *method,
                                 const struct mpk_writer *params)
{
    double *seconds = bench_have(calloc(bench->repeat, sizeof *seconds));
    double cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t i = 0; i < bench->repeat; i++) {
        double begin = bench_seconds(CLOCK_MONOTONIC);
        bench->answered = false;
        bench_must(!history_ask(bench->history, HISTORY_OWN, method, params->buffer.data,
                                params->buffer.size, history_read_on_answered, bench),
                   "not taken");
        while (!bench->answered) {
            uv_run(&bench->loop, UV_RUN_ONCE);
        }
        seconds[i] = bench_seconds(CLOCK_MONOTONIC) - begin;
    }
    cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double median = bench_median(seconds, bench->repeat);
    printf("{\"bench\": \"history_read\", \"question\": \"%s\", \"windows\": %u, \"heads\": %u, "
           "\"median_ms\": %.2f, \"slowest_ms\": %.2f, \"cpu_ms\": %.2f, \"bytes\": %zu}\n",
           name, bench->windows, bench->heads, median * 1e3, seconds[bench->repeat - 1] * 1e3,
           cpu / bench->repeat * 1e3, bench->bytes);
    free(seconds);
}

static void measure_series(struct bench *bench, const char *name, bool packed, bool only_mean,
                           bool all_heads, uint64_t limit)
{
    struct mpk_writer params;
    mpk_writer_init(&params);
    mpk_put_map(&params, 4u - all_heads + only_mean);
    mpk_pair_str(&params, "job", "bench");
    mpk_pair_u64(&params, "limit", limit);
    mpk_pair_bool(&params, "packed", packed);
    if (!all_heads) {
        mpk_pair_u64(&params, "head", 0);
    }
    if (only_mean) {
        mpk_pair_array(&params, "statistics", 1);
        mpk_put_str(&params, "mean");
    }
    history_read_measure(bench, name, "history", &params);
    mpk_writer_clear(&params);
}

static void measure_grid(struct bench *bench, const char *name, uint64_t points)
{
    struct mpk_writer params;
    mpk_writer_init(&params);
    mpk_put_map(&params, 3);
    mpk_pair_str(&params, "job", "bench");
    mpk_pair_u64(&params, "points", points);
    mpk_pair_bool(&params, "packed", true);
    history_read_measure(bench, name, "grid", &params);
    mpk_writer_clear(&params);
}

int main(int argc, char **argv)
{
    struct bench bench = {.windows = argc > 1 ? (uint32_t)atoi(argv[1]) : 100000,
                          .heads = argc > 2 ? (uint32_t)atoi(argv[2]) : 4,
                          .repeat = argc > 3 ? (uint32_t)atoi(argv[3]) : 21};
    for (uint64_t i = 0; i < VARIANTS; i++) {
        mpk_writer_init(&bench.states[i]);
        history_read_pack_state(bench.heads, i, &bench.states[i]);
    }
    open_all(&bench);
    for (uint64_t i = 0; i < bench.windows; i++) {
        history_read_submit(&bench, i);
    }
    wait_stored(&bench, bench.windows);
    usleep(2000000); /* chunks that are still being made */
    measure_series(&bench, "one head, all windows, numbers", false, false, false, 200000);
    measure_series(&bench, "one head, all windows, packed", true, false, false, 200000);
    measure_series(&bench, "one head, all windows, means", false, true, false, 200000);
    measure_series(&bench, "one head, newest 1000", false, false, false, 1000);
    measure_series(&bench, "all heads, newest 1000, means", false, true, true, 1000);
    measure_grid(&bench, "all heads, 200 of all windows", 200);
    measure_grid(&bench, "all heads, 2000 of all windows", 2000);
    history_read_close_all(&bench);
    for (int i = 0; i < VARIANTS; i++) {
        mpk_writer_clear(&bench.states[i]);
    }
    return 0;
}
