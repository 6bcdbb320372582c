/* SPDX-License-Identifier: MIT */
#include "daemon/run/live.h"

#include "proto/result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Copies [heads][width] numbers to their place among [heads_total][width] NaNs. Returns what
 * follows. */
static double *spread_one(const struct header *header, const double **numbers, size_t width,
                          double *to)
{
    size_t total = header->heads_total * width;
    for (size_t i = 0; i < total; i++) {
        to[i] = NAN;
    }
    memcpy(to + header->head_offset * width, *numbers, header->heads * width * sizeof *to);
    *numbers = to;
    return to + total;
}

/* Points the arrays of a slice of the heads into a new buffer, which is returned; NULL when out of
 * memory. A slice has no numbers across heads. */
static double *live_spread(const struct header *header, struct layer_numbers *numbers)
{
    size_t total = header->heads_total;
    size_t count = total * (METRIC_COUNT + VECTORS_WIDTH);
    double *buffer = malloc(count * sizeof *buffer + total * sizeof(enum pattern));
    double *next = buffer;
    if (!buffer) {
        return NULL;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        if (numbers->value[m]) {
            next = spread_one(header, &numbers->value[m], 1, next);
        }
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        if (numbers->vector[v]) {
            next = spread_one(header, &numbers->vector[v], vector_info[v].width, next);
        }
    }
    if (numbers->pattern) {
        enum pattern *patterns = (enum pattern *)(void *)(buffer + count);
        for (size_t h = 0; h < total; h++) {
            patterns[h] = PATTERN_NONE;
        }
        memcpy(patterns + header->head_offset, numbers->pattern, header->heads * sizeof *patterns);
        numbers->pattern = patterns;
    }
    numbers->heads = header->heads_total;
    return buffer;
}

static void live_put(struct run *run, const struct stream *stream, struct live_result *live)
{
    static const uint32_t track[MESSAGE_EVENT] = {
        [MESSAGE_WEIGHTS] = LIVE_PROJECTIONS, [MESSAGE_SKETCH] = LIVE_SKETCHES};
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    live->layer.module = stream ? stream->module : NULL;
    mpk_writer_init(&writer);
    live_encode(live, &writer);
    if (mpk_writer_ok(&writer)) {
        topic_layer("live", run->job, live->layer.id, topic);
        run->sink->put(run->sink->data, run, topic, track[live->layer.tier], &writer, RESULT_OTHER);
    }
    mpk_writer_clear(&writer);
}

void live_publish_sketch(struct run *run, const struct stream *stream,
                         const struct sketch_capture *capture, const void *numbers, size_t size)
{
    struct live_result live = {
        .common = {run->job, run->id, capture->epoch, capture->step, capture->time_ns},
        .layer = {.id = stream->id, .row_sum_error = NAN, .tier = MESSAGE_SKETCH},
        .rank = (uint32_t)capture->rank,
        .sketch = numbers,
        .sketch_size = size,
    };
    live_put(run, stream, &live);
}

void live_publish(struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    double *buffer = NULL;
    const struct measured *measured = message->measured;
    struct live_result live = {
        .common = {header->job, header->run, header->epoch, header->step, header->time_ns},
        .layer = {.id = header->layer,
                  .shape = {header->batch, header->heads, header->queries, header->keys},
                  .causal = header->causal,
                  .rows = measured->rows,
                  .rows_of = header_rows_of(header, measured->rows),
                  .invalid_rows = measured->invalid_rows,
                  .row_sum_error = measured->row_sum_error,
                  .tier = header->type},
        .rank = header->rank,
    };
    measured_numbers(measured, &live.numbers);
    if (header->heads_total != header->heads) {
        buffer = live_spread(header, &live.numbers);
        if (!buffer) {
            return;
        }
    }
    live_put(run, stream_find(run->streams, header->layer), &live);
    free(buffer);
}
