/* SPDX-License-Identifier: MIT */
/* history: what the history takes, on a file of its own.
 *
 *     history write [LAYERS HEADS WINDOWS STATES MAX_MIB]
 *     history read [WINDOWS HEADS REPEAT]
 *
 * write: how many head-metric values a second the store takes, all of it included: commits, chunks
 * and retention. A model of LAYERS x HEADS closes WINDOWS windows one after the other, as fast as
 * the store can follow; each layer's window is one record with the state of real attention maps.
 * One JSON line: values per second, seconds in all, the longest time from submitting a window to
 * having it committed, bytes in the file per value.
 *
 * read: how long questions to a long history take, from asking on the loop thread to the answer
 * there. A layer of HEADS heads has WINDOWS windows; one JSON line per question with the median and
 * the slowest of REPEAT answers, the processor time of one, and the bytes of the answer. */
#include "daemon/history/history.h"
#include "daemon/state/layer_state.h"
#include "daemon/store/store.h"
#include "tests/bench/bench.h"
#include "tests/unit/daemon/state/measured.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* States that are prepared; windows take turns at them. */
#define VARIANTS 16
/* Buckets per histogram: the default of window.buckets. */
#define BUCKETS 48
/* Windows submitted and not committed, at most. */
#define AHEAD_MAX 1000

struct variant {
    struct mpk_writer packed;
    uint64_t values; /* head-metric values with a number */
};

struct bench {
    struct config config;
    struct stats stats;
    struct store *store;
    struct history *history;
    uv_loop_t loop;
    char directory[64];
    struct variant variant[VARIANTS];
    uint32_t variants, ahead; /* used of VARIANTS and of AHEAD_MAX */
    uint32_t layers, heads, windows, messages, repeat;
    uint64_t submitted;
    double submitted_at[AHEAD_MAX]; /* ring */
    uint64_t seen;                  /* committed, of which the waits are known */
    double longest;
    bool answered;
    size_t bytes; /* of the answer */
};

/* The state of some real maps of this many samples each. */
static void history_prepare(struct bench *bench, uint32_t i, uint32_t batch)
{
    struct variant *variant = &bench->variant[i];
    struct layer_state *state = layer_state_new(bench->heads, BUCKETS);
    bench_must(state, "out of memory");
    for (uint64_t k = 0; k < bench->messages; k++) {
        struct measured_options options = {.batch = batch,
                                           .heads = bench->heads,
                                           .size = 32,
                                           .sharpness = 1.0,
                                           .seed = (uint64_t)i * bench->messages + k};
        struct measured_message *message = measured_message_new(&options, k + 1);
        bench_must(message, "out of memory");
        const struct measured *measured = measure_result(message->measure);
        bench_must(!layer_state_add(state, &message->message, measured), "out of memory");
        measured_message_free(&message);
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < bench->heads; h++) {
            variant->values += layer_state_moments(state, m, h).n > 0;
        }
    }
    mpk_writer_init(&variant->packed);
    bench_must(!layer_state_pack(state, &variant->packed), "out of memory");
    layer_state_free(&state);
}

static void history_open_store(struct bench *bench)
{
    const char *root = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char error[CONFIG_ERROR_MAX];
    const char *reason = "";
    struct config *config = &bench->config;
    snprintf(bench->directory, sizeof bench->directory, "%s/attnd-history-XXXXXX", root);
    bench_must(mkdtemp(bench->directory), "no temporary directory");
    snprintf(config->history_path.text, sizeof config->history_path.text, "%s/history.db",
             bench->directory);
    bench_must(!config_check(config, error), error);
    bench_must(!store_new(config, &bench->stats, &bench->store), "out of memory");
    bench_must(store_path(bench->store, &reason), reason);
}

static void history_remove_all(struct bench *bench)
{
    char command[128];
    store_free(&bench->store);
    snprintf(command, sizeof command, "rm -r %s", bench->directory);
    bench_must(system(command) == 0, "cannot remove the directory");
    for (uint32_t i = 0; i < bench->variants; i++) {
        mpk_writer_clear(&bench->variant[i].packed);
    }
}

/* Notes how long the windows committed since took. Returns how many are not. */
static uint64_t history_see(struct bench *bench)
{
    uint64_t stored = stats_get(&bench->stats, COUNT_STORED);
    double at = bench_seconds(CLOCK_MONOTONIC);
    bench_must(!stats_get(&bench->stats, COUNT_STORE_DROPPED), "a window could not be stored");
    for (; bench->seen < stored; bench->seen++) {
        double wait = at - bench->submitted_at[bench->seen % AHEAD_MAX];
        bench->longest = wait > bench->longest ? wait : bench->longest;
    }
    return bench->submitted - stored;
}

/* Returns how many values it has. */
static uint64_t history_submit(struct bench *bench, uint64_t number, uint32_t layer)
{
    static const uint8_t run_id[RUN_BYTES] = {1, 2, 3};
    const struct variant *variant = &bench->variant[(number + layer) % bench->variants];
    const struct store_run run = {
        .job = "bench", .run = run_id, .state = JOB_ACTIVE, .world = 1, .epoch = number};
    const struct store_window window = {
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .heads = bench->heads,
        .window = {WINDOW_EPOCH, number, number, 1, 1, false},
        .final = true,
        .epoch = number,
        .step = number * 10,
        .time_ns = 1700000000000000000 + number * 1000000007,
        .messages = bench->messages,
        .state = variant->packed.buffer.data,
        .state_size = variant->packed.buffer.size,
    };
    struct store_batch *batch = batch_new(&run);
    bench_must(batch && !batch_window(batch, &window), "out of memory");
    while (history_see(bench) >= bench->ahead) {
        usleep(1000);
    }
    bench->submitted_at[bench->submitted++ % AHEAD_MAX] = bench_seconds(CLOCK_MONOTONIC);
    bench_must(store_submit(bench->store, &batch), "a batch was refused");
    return variant->values;
}

/* Submits all windows; returns how many values they have. */
static uint64_t history_submit_all(struct bench *bench)
{
    uint64_t values = 0;
    for (uint32_t w = 0; w < bench->windows; w++) {
        for (uint32_t l = 0; l < bench->layers; l++) {
            values += history_submit(bench, w, l);
        }
    }
    while (history_see(bench) > 0) {
        usleep(1000);
    }
    return values;
}

static void history_write(struct bench *bench)
{
    struct stat file;
    double begin = bench_seconds(CLOCK_MONOTONIC);
    double values = (double)history_submit_all(bench);
    double committed = bench_seconds(CLOCK_MONOTONIC) - begin;
    store_free(&bench->store);
    double closed = bench_seconds(CLOCK_MONOTONIC) - begin;
    bench_must(stat(bench->config.history_path.text, &file) == 0, "no file");
    printf("{\"bench\": \"history_write\", \"layers\": %u, \"heads\": %u, \"windows\": %u, "
           "\"values\": %.0f, \"values_per_s\": %.0f, \"seconds\": %.2f, \"seconds_closed\": %.2f, "
           "\"longest_commit_s\": %.3f, \"state_bytes\": %zu, \"file_bytes_per_value\": %.1f, "
           "\"removed\": %llu}\n",
           bench->layers, bench->heads, bench->windows, values, values / closed, committed, closed,
           bench->longest, bench->variant[0].packed.buffer.size, (double)file.st_size / values,
           (unsigned long long)stats_get(&bench->stats, COUNT_STORE_REMOVED));
}

static void history_on_answered(void *data, int code, const char *detail,
                                const struct mpk_writer *result)
{
    struct bench *bench = data;
    bench_must(code == 0, *detail ? detail : err_text(code));
    bench->answered = true;
    bench->bytes = result->buffer.size;
}

/* `params`: an encoded map. */
static void history_measure(struct bench *bench, const char *name, const char *method,
                            const struct mpk_writer *params)
{
    double *seconds = bench_have(calloc(bench->repeat, sizeof *seconds));
    double cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t i = 0; i < bench->repeat; i++) {
        double begin = bench_seconds(CLOCK_MONOTONIC);
        bench->answered = false;
        bench_must(!history_ask(bench->history, HISTORY_OWN, method, params->buffer.data,
                                params->buffer.size, history_on_answered, bench),
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

static void history_measure_series(struct bench *bench, const char *name, bool packed,
                                   bool only_mean, bool all_heads, uint64_t limit)
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
    history_measure(bench, name, "history", &params);
    mpk_writer_clear(&params);
}

static void history_measure_grid(struct bench *bench, const char *name, uint64_t points)
{
    struct mpk_writer params;
    mpk_writer_init(&params);
    mpk_put_map(&params, 3);
    mpk_pair_str(&params, "job", "bench");
    mpk_pair_u64(&params, "points", points);
    mpk_pair_bool(&params, "packed", true);
    history_measure(bench, name, "grid", &params);
    mpk_writer_clear(&params);
}

static void history_read(struct bench *bench)
{
    char error[CONFIG_ERROR_MAX] = "";
    uv_loop_init(&bench->loop);
    bench_must(!history_new(&bench->loop, &bench->config, bench->store, &bench->history, error),
               error);
    history_submit_all(bench);
    usleep(2000000); /* chunks that are still being made */
    history_measure_series(bench, "one head, all windows, numbers", false, false, false, 200000);
    history_measure_series(bench, "one head, all windows, packed", true, false, false, 200000);
    history_measure_series(bench, "one head, all windows, means", false, true, false, 200000);
    history_measure_series(bench, "one head, newest 1000", false, false, false, 1000);
    history_measure_series(bench, "all heads, newest 1000, means", false, true, true, 1000);
    history_measure_grid(bench, "all heads, 200 of all windows", 200);
    history_measure_grid(bench, "all heads, 2000 of all windows", 2000);
    history_close(&bench->history);
    uv_run(&bench->loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    uint32_t number[] = {32, 32, 200, 1000, 4096}, read[] = {100000, 4, 21};
    bool reads = argc > 1 && strcmp(argv[1], "read") == 0;
    uint32_t *option = reads ? read : number;
    for (int i = 2; i < argc && i < (reads ? 5 : 7); i++) {
        option[i - 2] = (uint32_t)strtoul(argv[i], NULL, 10);
    }
    config_defaults(&bench.config);
    if (reads) {
        bench.layers = bench.messages = 1;
        bench.windows = read[0];
        bench.heads = read[1];
        bench.repeat = read[2];
        bench.variants = 16;
        bench.ahead = 1000;
    } else {
        bench.layers = number[0];
        bench.heads = number[1];
        bench.windows = number[2];
        bench.config.history_states = number[3];
        bench.config.history_max_size = (uint64_t)number[4] << 20;
        bench.messages = 16;
        bench.variants = 8;
        bench.ahead = 256;
    }
    for (uint32_t i = 0; i < bench.variants; i++) {
        history_prepare(&bench, i, reads ? 1 : 2);
    }
    history_open_store(&bench);
    (reads ? history_read : history_write)(&bench);
    history_remove_all(&bench);
    return 0;
}
