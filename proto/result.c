/* SPDX-License-Identifier: MIT */
/* Keys are written in PROTOCOL.md's order; `snapshot` is last (see result.h). */
#include "proto/result_internal.h"

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_ACTIVE] = "active", [JOB_IDLE] = "idle", [JOB_ENDED] = "ended"};
    return names[state];
}

void result_set_snapshot(void *buf, size_t len, bool snapshot)
{
    ((unsigned char *)buf)[len - 1] = snapshot ? 0xc3 : 0xc2;
}

void job_encode(const struct job_result *job, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "job", &job->common);
    mpk_pair_str(writer, "state", job_state_name(job->state));
    mpk_pair_u64(writer, "heard_ns", job->heard_ns);
    mpk_pair_u64(writer, "world", job->world);
    mpk_pair_u64(writer, "ranks", job->ranks);
    uint32_t count = job->layer_count;
    mpk_pair_array(writer, "layers", count);
    for (uint32_t i = 0; i < count; i++) {
        struct mpk_open layer = mpk_open(writer, NULL);
        part_layer_id(writer, job->layers[i].id);
        part_module(writer, job->layers[i].module);
        mpk_pair_u64(writer, "heads", job->layers[i].heads);
        mpk_close_map(writer, &layer);
    }
    mpk_pair_u64(writer, "received", job->received);
    mpk_pair_u64(writer, "processed", job->processed);
    mpk_pair_u64(writer, "lost", job->lost);
    part_dropped(writer, job->dropped, job->dropped_count);
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

void log_encode(const struct log_result *log, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "log", &log->common);
    mpk_put_str(writer, "values");
    named_put(log->values, writer);
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}
