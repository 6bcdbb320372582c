/* SPDX-License-Identifier: MIT */
/* history: how many head-metric values a second the store takes, all of it included: commits,
 * chunks and retention. A model of LAYERS x HEADS closes WINDOWS windows one after the other, as
 * fast as the store can follow; each layer's window is one record with the state of real attention
 * maps. One JSON line: values per second, seconds in all, the longest time from submitting a window
 * to having it committed, bytes in the file per value.
 *
 *     history write [LAYERS HEADS WINDOWS STATES MAX_MIB] */
#include "daemon/state/layer_state.h"
#include "tests/bench/bench.h"
#include "tests/unit/daemon/state/measured.h"
#include "daemon/store/store.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* States that are prepared; windows take turns at them. */
#define VARIANTS 8
/* Messages pooled in each; buckets per histogram: the default of window.buckets. */
#define MESSAGES 16
#define BUCKETS  48
/* Windows submitted and not committed. */
#define AHEAD_MAX 256

struct variant {
    struct mpk_writer packed;
    uint64_t values; /* head-metric values with a number */
};

static void history_prepare(struct variant *variant, uint32_t heads, uint64_t seed)
{
    struct layer_state *state = layer_state_new(heads, BUCKETS);
    bench_must(state, "out of memory");
    for (uint64_t i = 0; i < MESSAGES; i++) {
        struct measured_options options = {
            .batch = 2, .heads = heads, .size = 32, .sharpness = 1.0, .seed = seed * MESSAGES + i};
        struct measured_message *message = measured_message_new(&options, i + 1);
        bench_must(message, "out of memory");
        const struct measured *measured = measure_result(message->measure);
        bench_must(!layer_state_add(state, &message->message, measured), "out of memory");
        measured_message_free(&message);
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < heads; h++) {
            variant->values += layer_state_moments(state, m, h).n > 0;
        }
    }
    mpk_writer_init(&variant->packed);
    bench_must(!layer_state_pack(state, &variant->packed), "out of memory");
    layer_state_free(&state);
}

/* The history under test, in a directory of its own. */
struct bench {
    struct stats stats;
    struct store *store;
    char directory[64], path[128];
    struct variant variant[VARIANTS];
    uint32_t layers, heads, windows;
    uint64_t submitted;
    double submitted_at[AHEAD_MAX]; /* ring */
    uint64_t seen;                  /* committed, of which the waits are known */
    double longest;
};

static void history_open_store(struct bench *bench, uint64_t states, uint64_t max_mib)
{
    const char *root = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char error[CONFIG_ERROR_MAX];
    const char *reason = "";
    struct config config;
    snprintf(bench->directory, sizeof bench->directory, "%s/attnd-history-XXXXXX", root);
    bench_must(mkdtemp(bench->directory), "no temporary directory");
    snprintf(bench->path, sizeof bench->path, "%s/history.db", bench->directory);
    config_defaults(&config);
    snprintf(config.history_path.text, sizeof config.history_path.text, "%s", bench->path);
    config.history_states = states;
    config.history_max_size = max_mib << 20;
    bench_must(!config_check(&config, error), error);
    bench_must(!store_new(&config, &bench->stats, &bench->store), "out of memory");
    bench_must(store_path(bench->store, &reason), reason);
}

/* Notes how long the windows committed since took. */
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

static uint64_t history_submit(struct bench *bench, uint64_t number, uint32_t layer)
{
    static const uint8_t run_id[RUN_BYTES] = {1, 2, 3};
    const struct variant *variant = &bench->variant[(number + layer) % VARIANTS];
    const struct store_run run = {
        .job = "bench", .run = run_id, .state = JOB_ACTIVE, .world = 1, .epoch = number};
    const struct store_window window = {
        .layer = {STACK_DECODER, layer, SITE_SELF},
        .heads = bench->heads,
        .window = {WINDOW_EPOCH, number, number, 1, 1, false},
        .final = true,
        .epoch = number,
        .step = number * 100,
        .time_ns = 1700000000000000000 + number * 1000000007,
        .messages = MESSAGES,
        .state = variant->packed.buffer.data,
        .state_size = variant->packed.buffer.size,
    };
    struct store_batch *batch = batch_new(&run);
    bench_must(batch && !batch_window(batch, &window), "out of memory");
    while (history_see(bench) >= AHEAD_MAX) {
        usleep(1000);
    }
    bench->submitted_at[bench->submitted++ % AHEAD_MAX] = bench_seconds(CLOCK_MONOTONIC);
    bench_must(store_submit(bench->store, &batch), "a batch was refused");
    return variant->values;
}

static uint64_t history_file_bytes(const struct bench *bench)
{
    struct stat file;
    return stat(bench->path, &file) ? 0 : (uint64_t)file.st_size;
}

static void history_remove_all(const struct bench *bench)
{
    const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    char path[160];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        snprintf(path, sizeof path, "%s%s", bench->path, suffixes[i]);
        remove(path);
    }
    rmdir(bench->directory);
}

static void write_windows(struct bench *bench)
{
    uint64_t values = 0;
    double begin = bench_seconds(CLOCK_MONOTONIC);
    for (uint32_t w = 0; w < bench->windows; w++) {
        for (uint32_t l = 0; l < bench->layers; l++) {
            values += history_submit(bench, w, l);
        }
    }
    while (history_see(bench) > 0) {
        usleep(1000);
    }
    double committed = bench_seconds(CLOCK_MONOTONIC) - begin;
    store_free(&bench->store);
    double closed = bench_seconds(CLOCK_MONOTONIC) - begin;
    printf("{\"bench\": \"history_write\", \"layers\": %u, \"heads\": %u, \"windows\": %u, "
           "\"values\": %llu, \"values_per_s\": %.0f, \"seconds\": %.2f, \"seconds_closed\": %.2f, "
           "\"longest_commit_s\": %.3f, \"state_bytes\": %zu, \"file_bytes_per_value\": %.1f, "
           "\"removed\": %llu}\n",
           bench->layers, bench->heads, bench->windows, (unsigned long long)values,
           (double)values / closed, committed, closed, bench->longest,
           bench->variant[0].packed.buffer.size, (double)history_file_bytes(bench) / (double)values,
           (unsigned long long)stats_get(&bench->stats, COUNT_STORE_REMOVED));
}

static uint32_t bench_history_number(int argc, char **argv, int at, uint32_t otherwise)
{
    return argc > at ? (uint32_t)strtoul(argv[at], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    bench.layers = bench_history_number(argc, argv, 2, 32);
    bench.heads = bench_history_number(argc, argv, 3, 32);
    bench.windows = bench_history_number(argc, argv, 4, 200);
    for (uint64_t i = 0; i < VARIANTS; i++) {
        history_prepare(&bench.variant[i], bench.heads, i);
    }
    history_open_store(&bench, bench_history_number(argc, argv, 5, 1000),
                       bench_history_number(argc, argv, 6, 4096));
    write_windows(&bench);
    history_remove_all(&bench);
    for (int i = 0; i < VARIANTS; i++) {
        mpk_writer_clear(&bench.variant[i].packed);
    }
    return 0;
}
