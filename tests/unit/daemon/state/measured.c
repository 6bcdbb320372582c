/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/state/measured.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

static double measured_random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

/* Near enough: a sum of uniform numbers of variance 1. */
static double measured_random_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += measured_random_unit(state) - 0.5;
    }
    return sum * sqrt(3);
}

static void measured_fill_row(float *row, uint32_t keys, double sharpness, uint64_t *state)
{
    double sum = 0;
    for (uint32_t j = 0; j < keys; j++) {
        double x = exp(sharpness * measured_random_normal(state));
        row[j] = (float)x;
        sum += x;
    }
    for (uint32_t j = 0; j < keys; j++) {
        row[j] = (float)(row[j] / sum);
    }
}

static float *measured_make_maps(const struct measured_options *options)
{
    size_t rows = (size_t)options->batch * options->heads * options->size;
    uint64_t state = options->seed * 7919 + 1;
    float *maps = malloc(rows * options->size * sizeof *maps);
    for (size_t r = 0; maps && r < rows; r++) {
        size_t head = r / options->size % options->heads;
        bool sound = r % options->size >= head * options->invalid;
        double sharpness = sound ? options->sharpness * (double)(head + 1) / options->heads : NAN;
        measured_fill_row(maps + r * options->size, options->size, sharpness, &state);
    }
    return maps;
}

static struct measure_plan measured_plan_of(const struct measured_options *options)
{
    return (struct measure_plan){
        .group = {[METRIC_GROUP_CORE] = true,
                  [METRIC_GROUP_IMPORTANCE] = true,
                  [METRIC_GROUP_PAIRS] = true,
                  [METRIC_GROUP_SIMILARITY] = options->everything,
                  [METRIC_GROUP_SPECTRUM] = !options->without_spectra},
        .threads = 1,
        .whole = true,
        .head_pairs = options->everything,
        .top_pairs = 10,
        .local_window = 8,
        .redundant_js = 0.05,
        .spectrum_max_size = 512,
        .spectrum_effort = SPECTRUM_FULL,
        .weights_max_size = 64,
        .eigenvalues_max_size = 64,
        .block_entries = 1 << 20,
        .isa = isa_best(),
    };
}

static int measured_run(struct measure *measure)
{
    struct scratch scratch = {0};
    for (uint32_t i = 0; i < measure_jobs(measure); i++) {
        measure_run(measure, i, &scratch);
    }
    int code = measure_finish(measure, &scratch);
    scratch_clear(&scratch);
    return code;
}

static void measured_describe(struct message *message, const struct attention *a, uint64_t step)
{
    message->header = (struct header){
        .type = MESSAGE_ATTENTION,
        .step = step,
        .time_ns = 1000 + step,
        .batch = a->batch,
        .heads = a->heads,
        .queries = a->queries,
        .keys = a->keys,
        .heads_total = a->heads,
    };
}

static struct attention measured_shape_of(const struct measured_options *options, const float *maps)
{
    return (struct attention){.weights = maps,
                              .dtype = DTYPE_F32,
                              .batch = options->batch,
                              .heads = options->heads,
                              .queries = options->size,
                              .keys = options->size,
                              .self = true};
}

static double test_measured_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double measured_seconds(const struct measured_options *options, int times)
{
    float *maps = measured_make_maps(options);
    struct attention a = measured_shape_of(options, maps);
    struct measure_plan plan = measured_plan_of(options);
    double fastest = 0;
    for (int i = 0; maps && i < times; i++) {
        struct measure *measure = NULL;
        double begin = test_measured_seconds();
        bool good = measure_new(&a, &plan, &measure) == 0 && measured_run(measure) == 0;
        double took = test_measured_seconds() - begin;
        fastest = good && (fastest == 0 || took < fastest) ? took : fastest;
        measure_free(&measure);
    }
    free(maps);
    return fastest;
}

struct measured_message *measured_message_new(const struct measured_options *options, uint64_t step)
{
    struct measured_message *message = calloc(1, sizeof *message);
    float *maps = measured_make_maps(options);
    struct attention a = measured_shape_of(options, maps);
    struct measure_plan plan = measured_plan_of(options);
    if (!message || !maps || measure_new(&a, &plan, &message->measure) != 0 ||
        measured_run(message->measure) != 0) {
        measured_message_free(&message);
    } else {
        measured_describe(&message->message, &a, step);
    }
    free(maps);
    return message;
}

struct measured_message *measured_weights_new(uint32_t heads, uint64_t step)
{
    enum { WIDTH = 4 };
    struct measured_message *message = calloc(1, sizeof *message);
    uint32_t side = heads * WIDTH;
    float *numbers = calloc((size_t)side * side, sizeof *numbers);
    for (uint32_t i = 0; numbers && i < side * side; i++) {
        numbers[i] = sinf((float)i);
    }
    struct weights weights = {
        .heads = heads, .kv_heads = heads, .head_dim = WIDTH, .isa = isa_best()};
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        weights.matrix[p] = (struct projection_matrix){
            .data = numbers, .dtype = DTYPE_F32, .out = side, .in = side};
    }
    struct measured_options options = {0};
    struct measure_plan plan = measured_plan_of(&options);
    if (!message || !numbers || measure_new_weights(&weights, &plan, &message->measure) != 0 ||
        measured_run(message->measure) != 0) {
        measured_message_free(&message);
    } else {
        struct attention shape = {.batch = 1, .heads = heads, .queries = 1, .keys = 1};
        measured_describe(&message->message, &shape, step);
        message->message.header.type = MESSAGE_WEIGHTS;
    }
    free(numbers);
    return message;
}

void measured_message_free(struct measured_message **message_p)
{
    struct measured_message *message = *message_p;
    if (message && message->measure) {
        measure_free(&message->measure);
    }
    free(message);
    *message_p = NULL;
}
