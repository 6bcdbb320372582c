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

static void result_put_layers(struct mpk_writer *writer, const struct layer_info *layers,
                              uint32_t count)
{
    mpk_put_str(writer, "layers");
    mpk_put_array(writer, count);
    for (uint32_t i = 0; i < count; i++) {
        struct mpk_open layer = mpk_open(writer, NULL);

        part_layer_id(writer, layers[i].id);
        part_module(writer, layers[i].module);
        part_number(writer, "heads", layers[i].heads);
        mpk_close_map(writer, &layer);
    }
}

void job_encode(const struct job_result *job, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);

    part_common(writer, "job", &job->common);
    part_text(writer, "state", job_state_name(job->state));
    part_number(writer, "heard_ns", job->heard_ns);
    part_number(writer, "world", job->world);
    part_number(writer, "ranks", job->ranks);
    result_put_layers(writer, job->layers, job->layer_count);
    part_number(writer, "received", job->received);
    part_number(writer, "processed", job->processed);
    part_number(writer, "lost", job->lost);
    part_dropped(writer, job->dropped, job->dropped_count);
    part_flag(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

void log_encode(const struct log_result *log, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);

    part_common(writer, "log", &log->common);
    mpk_put_str(writer, "values");
    named_put(log->values, writer);
    part_flag(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}
