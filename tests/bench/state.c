/* SPDX-License-Identifier: MIT */
/* Measures the memory of a window: bytes per head stream, merging parts of windows, adding a
 * message where a thousand and a million head streams are live, and merging the states that
 * nodes of a fleet send. JSON lines; one thread.
 *
 *   state [bytes|merge|add|given] [buckets=N] [messages=N] [adds=N] [parts=N] [runs=N] [streams=N]
 *
 * Random softmax maps of many temperatures go through the kernels; their results are what is added.
 * Times are processor time of this thread. */
#include "daemon/state/layer_state.h"
#include "tests/bench/bench.h"
#include "tests/unit/daemon/state/measured.h"

#include <malloc.h>
#include <string.h>

struct options {
    const char *only; /* NULL = everything */
    uint32_t buckets, messages, adds, parts, runs, streams;
};

/* Messages of one shape, each of another temperature. */
static struct measured_message **make_pool(uint32_t heads, uint32_t size, uint32_t count)
{
    struct measured_message **pool = calloc(count, sizeof(struct measured_message *));
    bench_must(pool != NULL, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        struct measured_options options = {.batch = 1,
                                           .heads = heads,
                                           .size = size,
                                           .sharpness = 0.5 + 8.0 * (i * 7 % count) / count,
                                           .seed = i + 1};
        pool[i] = measured_message_new(&options, i + 1);
        bench_must(pool[i] != NULL, "out of memory");
    }
    return pool;
}

static void free_pool(struct measured_message **pool, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        measured_message_free(&pool[i]);
    }
    free(pool);
}

static void bench_state_add(struct layer_state *state, const struct measured_message *message)
{
    bench_must(layer_state_add(state, &message->message, measure_result(message->measure)) == 0,
               "adding failed");
}

static struct layer_state **new_states(uint32_t count, uint32_t heads, uint32_t buckets)
{
    struct layer_state **states = calloc(count, sizeof(struct layer_state *));
    bench_must(states != NULL, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        states[i] = layer_state_new(heads, buckets);
        bench_must(states[i] != NULL, "out of memory");
    }
    return states;
}

static void state_free_states(struct layer_state **states, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        layer_state_free(&states[i]);
    }
    free(states);
}

static double worst_error(const struct layer_state *state)
{
    double worst = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < state->heads; h++) {
            struct dist dist;
            bench_must(layer_state_dist(state, m, h, &dist) == 0, "reading failed");
            double error = dist.moments.n > 0 ? dist_quantile_error(&dist) : 0;
            worst = error > worst ? error : worst;
            dist_clear(&dist);
        }
    }
    return worst;
}

/* Counts the heap's bytes for windows of 12-head layers: blocks, their headers, and what lies idle
 * between them. */
static void bench_bytes(const struct options *options)
{
    enum { HEADS = 12, SIZE = 512, LAYERS = 256 };
    struct measured_message **pool = make_pool(HEADS, SIZE, options->messages);
    uint32_t adds = options->adds ? options->adds : options->messages;
    size_t before = mallinfo2().uordblks;
    struct layer_state **states = new_states(LAYERS, HEADS, options->buckets);
    uint64_t claimed = 0;
    for (uint32_t i = 0; i < adds; i++) {
        for (uint32_t l = 0; l < LAYERS; l++) {
            bench_state_add(states[l], pool[(i + l) % options->messages]);
        }
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        claimed += layer_state_bytes(states[l]);
    }
    struct mallinfo2 after = mallinfo2();
    uint64_t stats_bytes = stat_set_bytes(&states[0]->across);
    for (uint32_t h = 0; h < HEADS; h++) {
        stats_bytes += stat_set_bytes(&states[0]->head[h].stats);
    }
    double heads = (double)LAYERS * (double)HEADS;
    double used = (double)(after.uordblks - before);
    printf("{\"bench\": \"state_bytes\", \"shape\": [1, %d, %d, %d], \"messages\": %u, "
           "\"buckets\": %u, \"bytes_per_head\": %.0f, \"stats_per_head\": %.0f, "
           "\"claimed_per_head\": %.0f, \"quantile_error_worst\": %.3f}\n",
           HEADS, SIZE, SIZE, adds, options->buckets, used / heads,
           (double)stats_bytes / (double)HEADS, (double)claimed / heads, worst_error(states[0]));
    state_free_states(states, LAYERS);
    free_pool(pool, options->messages);
}

/* 1,000 parts of a window, a message each, of 32 layers with 32 heads. */
static void bench_merge(const struct options *options)
{
    enum { HEADS = 32, SIZE = 256, LAYERS = 32, POOL = 24 };
    uint32_t per_part = options->messages < POOL ? options->messages : 1;
    struct measured_message **pool = make_pool(HEADS, SIZE, POOL);
    struct layer_state **parts = new_states(LAYERS * options->parts, HEADS, options->buckets);
    uint64_t seed = 1;
    double bytes = 0;
    for (uint32_t i = 0; i < LAYERS * options->parts; i++) {
        for (uint32_t k = 0; k < per_part; k++) {
            bench_state_add(parts[i], pool[(uint32_t)((double)POOL * bench_random(&seed))]);
        }
        bytes += (double)layer_state_bytes(parts[i]);
    }
    for (uint32_t run = 0; run < options->runs; run++) {
        double begin = bench_cpu_seconds();
        uint64_t rows = 0;
        for (uint32_t l = 0; l < LAYERS; l++) {
            struct layer_state *whole = layer_state_new(HEADS, options->buckets);
            const struct layer_state *const *from =
                (const struct layer_state *const *)parts + (size_t)l * options->parts;
            bench_must(whole && layer_state_merge_all(whole, from, options->parts) == 0,
                       "merging failed");
            rows += whole->rows;
            layer_state_free(&whole);
        }
        printf("{\"bench\": \"state_merge\", \"parts\": %u, \"layers\": %d, \"heads\": %d, "
               "\"messages_per_part\": %u, \"buckets\": %u, \"gib\": %.2f, \"seconds\": %.3f, "
               "\"rows\": %llu}\n",
               options->parts, LAYERS, HEADS, per_part, options->buckets, bytes / (1 << 30),
               bench_cpu_seconds() - begin, (unsigned long long)rows);
    }
    state_free_states(parts, LAYERS * options->parts);
    free_pool(pool, POOL);
}

/* Adding a message to a random layer. */

enum { ADD_HEADS = 32, ADD_SIZE = 256, ADD_POOL = 16, ADDS = 2000 };

static double seconds_per_add(struct layer_state **states, uint32_t layers,
                              struct measured_message **pool, uint64_t *seed)
{
    double begin = bench_cpu_seconds();
    for (uint32_t i = 0; i < ADDS; i++) {
        bench_state_add(states[(uint32_t)(layers * bench_random(seed))], pool[i % ADD_POOL]);
    }
    return (bench_cpu_seconds() - begin) / (double)ADDS;
}

/* The kernels' share of a message: everything that is on by default but spectra, which would make
 * the rest look small. */
static double seconds_per_measure(void)
{
    struct measured_options options = {.batch = 1,
                                       .heads = ADD_HEADS,
                                       .size = ADD_SIZE,
                                       .sharpness = 2,
                                       .without_spectra = true,
                                       .seed = 5};
    return measured_seconds(&options, 20);
}

static void bench_add(const struct options *options)
{
    uint32_t few = 1000 / ADD_HEADS + 1, many = options->streams / ADD_HEADS;
    struct measured_message **pool = make_pool(ADD_HEADS, ADD_SIZE, ADD_POOL);
    struct layer_state **small = new_states(few, ADD_HEADS, options->buckets);
    struct layer_state **large = new_states(many, ADD_HEADS, options->buckets);
    double *ratio = calloc(options->runs, sizeof *ratio),
           *base = calloc(options->runs, sizeof *base);
    double kernels = seconds_per_measure();
    uint64_t seed = 1;
    bench_must(ratio && base, "out of memory");
    for (uint32_t k = 0; k < 4; k++) {
        for (uint32_t i = 0; i < few; i++) {
            bench_state_add(small[i], pool[(i + k * 3) % ADD_POOL]);
        }
        for (uint32_t i = 0; i < many; i++) {
            bench_state_add(large[i], pool[(i + k * 3) % ADD_POOL]);
        }
    }
    for (uint32_t run = 0; run < options->runs; run++) {
        base[run] = seconds_per_add(small, few, pool, &seed);
        ratio[run] = seconds_per_add(large, many, pool, &seed) / base[run];
    }
    double add_few = bench_median(base, options->runs);
    double add_many = add_few * bench_median(ratio, options->runs);
    printf("{\"bench\": \"state_add\", \"shape\": [1, %d, %d, %d], \"buckets\": %u, "
           "\"streams\": [%u, %u], \"add_us\": [%.1f, %.1f], \"kernels_us\": %.1f, "
           "\"add_ratio\": %.3f, \"message_ratio\": %.3f}\n",
           ADD_HEADS, ADD_SIZE, ADD_SIZE, options->buckets, few * ADD_HEADS, many * ADD_HEADS,
           1e6 * add_few, 1e6 * add_many, 1e6 * kernels, add_many / add_few,
           (kernels + add_many) / (kernels + add_few));
    free(ratio);
    free(base);
    state_free_states(small, few);
    state_free_states(large, many);
    free_pool(pool, ADD_POOL);
}

/* Packed states, for layers in turn: read, believed and merged as a hub does it. */

enum { GIVEN_HEADS = 32, GIVEN_SIZE = 256, GIVEN_LAYERS = 32, GIVEN_POOL = 24, GIVEN_ROUNDS = 100 };

/* It is of rows alone, which have no spectra. */
static void make_given(struct mpk_writer *packed, uint32_t buckets, uint32_t i)
{
    struct measured_options options = {.batch = 1,
                                       .heads = GIVEN_HEADS,
                                       .size = GIVEN_SIZE,
                                       .sharpness = 0.5 + 8.0 * (i * 7 % GIVEN_POOL) / GIVEN_POOL,
                                       .without_spectra = true,
                                       .seed = i + 1};
    struct measured_message *measured = measured_message_new(&options, i + 1);
    struct layer_state *state = layer_state_new(GIVEN_HEADS, buckets);
    mpk_writer_init(packed);
    bench_must(measured && state, "out of memory");
    bench_state_add(state, measured);
    detail_release(&state->detail);
    bench_must(layer_state_pack(state, packed) == 0, "packing failed");
    layer_state_free(&state);
    measured_message_free(&measured);
}

static void bench_given(const struct options *options)
{
    struct mpk_writer *pool = calloc(GIVEN_POOL, sizeof *pool);
    bench_must(pool != NULL, "out of memory");
    size_t most = 0;
    for (uint32_t i = 0; i < GIVEN_POOL; i++) {
        make_given(&pool[i], options->buckets, i);
        most = pool[i].buffer.size > most ? pool[i].buffer.size : most;
    }
    struct layer_state **layers = new_states(GIVEN_LAYERS, GIVEN_HEADS, options->buckets);
    for (uint32_t run = 0; run < options->runs; run++) {
        double read = 0, merged = 0;
        for (uint32_t i = 0; i < GIVEN_ROUNDS * GIVEN_LAYERS; i++) {
            const msgpack_sbuffer *packed = &pool[i * 7 % GIVEN_POOL].buffer;
            struct layer_state *given = NULL;
            double begin = bench_cpu_seconds();
            bench_must(layer_state_unpack(packed->data, packed->size, &given) == 0,
                       "reading failed");
            double then = bench_cpu_seconds();
            bench_must(layer_state_merge(layers[i % GIVEN_LAYERS], given) == 0, "merging failed");
            layer_state_free(&given);
            read += then - begin;
            merged += bench_cpu_seconds() - then;
        }
        double messages = (double)GIVEN_ROUNDS * GIVEN_LAYERS;
        printf("{\"bench\": \"state_given\", \"heads\": %d, \"buckets\": %u, \"bytes_most\": %zu, "
               "\"read_us\": %.1f, \"merge_us\": %.1f, \"per_second\": %.0f}\n",
               GIVEN_HEADS, options->buckets, most, 1e6 * read / messages, 1e6 * merged / messages,
               messages / (read + merged));
    }
    state_free_states(layers, GIVEN_LAYERS);
    for (uint32_t i = 0; i < GIVEN_POOL; i++) {
        mpk_writer_clear(&pool[i]);
    }
    free(pool);
}

static bool state_take(const char *argument, const char *name, uint32_t *number)
{
    size_t length = strlen(name);
    if (strncmp(argument, name, length) != 0 || argument[length] != '=') {
        return false;
    }
    *number = (uint32_t)strtoul(argument + length + 1, NULL, 10);
    return *number > 0;
}

int main(int argc, char **argv)
{
    struct options options = {
        .buckets = 48, .messages = 50, .parts = 1000, .runs = 5, .streams = 1000000};
    for (int i = 1; i < argc; i++) {
        if (state_take(argv[i], "buckets", &options.buckets) ||
            state_take(argv[i], "messages", &options.messages) ||
            state_take(argv[i], "adds", &options.adds) ||
            state_take(argv[i], "parts", &options.parts) ||
            state_take(argv[i], "runs", &options.runs) ||
            state_take(argv[i], "streams", &options.streams)) {
            continue;
        }
        options.only = argv[i];
    }
    if (!options.only || strcmp(options.only, "bytes") == 0) {
        bench_bytes(&options);
    }
    if (!options.only || strcmp(options.only, "merge") == 0) {
        bench_merge(&options);
    }
    if (!options.only || strcmp(options.only, "add") == 0) {
        bench_add(&options);
    }
    if (!options.only || strcmp(options.only, "given") == 0) {
        bench_given(&options);
    }
    return 0;
}
