/* SPDX-License-Identifier: MIT */
#include "daemon/run/tick.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/run/assembly.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/judging.h"

/* Baselines and sketches of layers that nothing has been heard of for long; they are in the
 * history, and come back with the next start of attnd. */
static void tick_evict(struct run *run, uint64_t now_ns)
{
    if (run->budget.used <= run->kept_bytes) { /* no layer has one */
        return;
    }
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        if (clock_since_ns(stream->last_ns, now_ns) < TICK_STREAM_IDLE_NS) {
            continue;
        }
        for (uint32_t t = 0; t < run->track_count; t++) {
            struct layer_track *layer = &stream->tracks[t];
            if (!layer->drift || (layer->drift_unsaved && run->sink->store)) {
                continue;
            }
            run_free_drift(run, layer);
            stats_add(run->sink->stats, COUNT_EVICTED, 1);
        }
        if (stream->sketch && !stream->sketch->is_open &&
            !(stream->tracks[0].unsaved && run->sink->store)) {
            sketch_free(&stream->sketch);
            stats_add(run->sink->stats, COUNT_EVICTED, 1);
        }
    }
}

bool tick_wanted(const struct run *run)
{
    bool news = run->state != JOB_ENDED && !run->merged && !run->no_news;
    uint64_t stays = run_kept_bytes(run) + (run->captures ? run->captures->bytes : 0);
    return run->held > 0 || run->state == JOB_ACTIVE || news ||
           (run->state == JOB_IDLE && run->budget.used > stays);
}

void tick_run(struct run *run, uint64_t now_ns)
{
    uint64_t time_ns = run_time_ns(run, now_ns);
    if (run->deleting) {
        return;
    }
    for (uint32_t t = 0; t < run->track_count; t++) {
        window_settle_byes(&run->tracks[t].window, time_ns);
    }
    assembly_give_up(run, now_ns);
    /* It went off, for good: nobody waits for it. */
    const char *reason;
    if (run->reliable && run->sink->store && !store_path(run->sink->store, &reason)) {
        checkpoint_give_up(run);
    }
    closing_settle(run, time_ns);
    if (run_closes(run)) {
        return;
    }
    closing_show_quiet(run, time_ns);
    if (run->state == JOB_ACTIVE && !run_busy(run) &&
        clock_since_ns(run->last_ns, now_ns) >= run->config->limits_idle) {
        closing_go_idle(run); /* what fails is tried again with the next tick */
    }
    run_look_for_news(run, now_ns);
    judging_of_silence(run, now_ns);
    tick_evict(run, now_ns);
    if (run->dirty) {
        run_publish_job(run);
    }
}
