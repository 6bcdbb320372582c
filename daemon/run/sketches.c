/* SPDX-License-Identifier: MIT */
#include "daemon/run/sketches.h"

#include "daemon/base/log.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/judging.h"
#include "daemon/run/live.h"
#include "daemon/state/sketch_judge.h"
#include "proto/err.h"

#include <stdlib.h>

/* Returns 0 or ERR_MEMORY: the history has not got it. */
static int sketches_keep(struct run *run, const struct stream *stream, const void *numbers,
                         size_t size)
{
    const struct sketch_capture *capture = &stream->sketch->capture;
    struct store_batch *batch = checkpoint_begin(run);
    if (!batch) {
        return run->sink->store ? ERR_MEMORY : 0;
    }
    const struct store_sketch sketch = {.layer = stream->id,
                                        .epoch = capture->epoch,
                                        .step = capture->step,
                                        .time_ns = capture->time_ns,
                                        .numbers = numbers,
                                        .numbers_size = size};
    int code = batch_sketch(batch, &sketch);
    if (code) {
        store_count_lost(run->sink->store, batch);
        batch_free(&batch);
    } else {
        store_submit(run->sink->store, &batch);
    }
    return code;
}

/* How far the median layer has turned in its newest capture, matrix by matrix. Returns 0 or
 * ERR_MEMORY. */
static int sketches_median(const struct run *run, struct sketch_median ret_median[PROJECTION_COUNT])
{
    size_t streams = HASH_COUNT(run->streams);
    float *low = malloc((2 * streams + 1) * sizeof *low), *high = low + streams;
    for (int p = 0; p < PROJECTION_COUNT && low; p++) {
        uint32_t count = 0;
        for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
            const struct sketch *sketch = stream->sketch;
            if (sketch && sketch->matrix[p].heads) {
                low[count] = sketch->matrix[p].median.low;
                high[count++] = sketch->matrix[p].median.high;
            }
        }
        ret_median[p].low = sketch_median_of(low, count).low;
        ret_median[p].high = sketch_median_of(high, count).high;
    }
    free(low);
    return low ? 0 : ERR_MEMORY;
}

static void sketches_judge(struct run *run, struct stream *stream)
{
    struct sketch_median median[PROJECTION_COUNT];
    struct sketch_judged judged;
    int code = sketch_measure(stream->sketch);
    code = code ? code : sketches_median(run, median);
    code = code ? code : sketch_judge(stream->sketch, median, &judged);
    if (code) {
        log_event(LOG_ERROR, "sketch_not_judged", LOG_STR("job", run->job));
        return;
    }
    if (run->alerts) {
        judging_of_sketch(run, stream, &judged);
    }
    sketch_judged_clear(&judged);
}

static void sketches_finish(struct run *run, struct stream *stream)
{
    struct mpk_writer writer;
    sketches_judge(run, stream);
    mpk_writer_init(&writer);
    sketch_finish(stream->sketch, &writer);
    run->unsaved = stream->tracks[0].unsaved = true;
    int code = mpk_writer_ok(&writer) ? 0 : ERR_MEMORY;
    if (!code) {
        const void *numbers = writer.buffer.data;
        live_publish_sketch(run, stream, &stream->sketch->capture, numbers, writer.buffer.size);
        code = sketches_keep(run, stream, numbers, writer.buffer.size);
    }
    if (code) {
        log_event(LOG_ERROR, "sketch_not_kept", LOG_STR("job", run->job),
                  LOG_NUM("layer", stream->id.layer), LOG_STR("reason", err_slug(code)));
    }
    mpk_writer_clear(&writer);
}

int sketches_take(struct run *run, struct stream *stream, struct message *message)
{
    if (!stream->sketch) {
        stream->sketch = sketch_new(&run->budget);
    }
    if (!stream->sketch) {
        return ERR_MEMORY;
    }
    if (sketch_is_passed(stream->sketch, &message->header)) {
        sketches_finish(run, stream);
    }
    int code = sketch_put(stream->sketch, message);
    if (!code && sketch_is_whole(stream->sketch, run->tracks[0].window.world)) {
        sketches_finish(run, stream);
    }
    return code;
}

void sketches_close(struct run *run, struct stream *stream, const struct window_part *part)
{
    const struct window *window = &run->tracks[0].window;
    const struct sketch *sketch = stream->sketch;
    if (sketch && sketch->is_open &&
        window_unit_of(window, sketch->capture.epoch, sketch->capture.step,
                       sketch->capture.received_ns) /
                window->rule.part <=
            part->index) {
        sketches_finish(run, stream);
    }
}

void sketches_finish_all(struct run *run)
{
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        if (stream->sketch && stream->sketch->is_open) {
            sketches_finish(run, stream);
        }
    }
}
