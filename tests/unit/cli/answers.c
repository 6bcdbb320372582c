/* SPDX-License-Identifier: MIT */
#include "tests/unit/cli/answers.h"

#include <math.h>

static const uint8_t answers_run[RUN_BYTES] = {0xab, 0xcd, 0xef, 0x01, 0x23};

struct result_common answers_common(uint64_t epoch, uint64_t step)
{
    return (struct result_common){"gpt-small", answers_run, epoch, step, 1};
}

void answers_job(struct mpk_writer *reply)
{
    static const struct reason_count dropped[] = {{"late", 2}, {"repeated", 4}, {"shape", 1}};
    struct job_result job = {
        .common = answers_common(3, 1200),
        .state = JOB_ACTIVE,
        .world = 4,
        .ranks = 2,
        .received = 640,
        .processed = 637,
        .lost = 5,
        .dropped = dropped,
        .dropped_count = 3, /* what was repeated is no loss */
    };
    job_encode(&job, reply);
}

void answers_summary(struct mpk_writer *reply, struct layer_id id, double base)
{
    struct result_stat stat[12];
    for (int head = 0; head < 12; head++) {
        stat[head] = (struct result_stat){.mean = head == 1 ? NAN : base + head / 100.0};
    }
    struct summary_result summary = {
        .common = answers_common(3, 1200),
        .layer = {.id = id, .shape = {4, 12, 16, 16}},
        .window = {.unit = WINDOW_EPOCH, .first = 2, .last = 3, .length = 2, .every = 1},
        .ranks = 1,
        .messages = 40,
        .lost = 1,
        .heads = 12,
    };
    struct result_stat singular_values[12 * SINGULAR_VALUES_MAX] = {{0}};
    struct result_stat sink = {.mean = base / 2};
    enum pattern pattern[12];
    for (int head = 0; head < 12; head++) {
        pattern[head] = head == 1   ? PATTERN_NONE
                        : head == 3 ? PATTERN_DUPLICATE_TOKEN
                                    : PATTERN_LOCAL;
    }
    summary.pattern = pattern;
    summary.sink_rate = &sink;
    summary.stat[METRIC_ENTROPY_NORMALIZED] = stat;
    summary.vector[VECTOR_SINGULAR_VALUES] = singular_values;
    summary_encode(&summary, reply);
}
