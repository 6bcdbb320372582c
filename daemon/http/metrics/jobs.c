/* SPDX-License-Identifier: MIT */
/* Writes the newest run of each job, as `monitor` answers it. */
#include "daemon/http/metrics/internal.h"

#include "config/access.h"

#include <stdio.h>
#include <string.h>

#define LABELS_MAX (4 * JOB_NAME_MAX)

typedef void put_job(struct metrics_text *text, const struct family *family, const char *labels,
                     const msgpack_object *job);

static void each_job(struct metrics_text *text, const struct family *family,
                     const struct metrics_view *view, put_job *put)
{
    const msgpack_object *jobs = mpk_find(view->monitor, "jobs");
    uint32_t count = jobs && jobs->type == MSGPACK_OBJECT_ARRAY ? jobs->via.array.size : 0;
    metrics_head(text, family);
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *job = &jobs->via.array.ptr[i];
        char name[JOB_NAME_MAX + 1], labels[LABELS_MAX];
        mpk_find_text(job, "job", name, sizeof name);
        metrics_label(labels, sizeof labels, "job", name);
        if (access_jobs_match(view->jobs, name)) {
            put(text, family, labels, job);
        }
    }
}

static const struct {
    struct family family;
    const char *key;
} numbers[] = {
    {{"attnd_training_epoch", FAMILY_GAUGE, "Epoch of the newest message."}, "epoch"},
    {{"attnd_training_step", FAMILY_GAUGE, "Step of the newest message."}, "step"},
    {{"attnd_training_ranks", FAMILY_GAUGE, "Ranks that have been heard of."}, "ranks"},
    {{"attnd_training_ranks_announced", FAMILY_GAUGE, "Ranks that the job says it has."}, "world"},
    {{"attnd_training_messages_received", FAMILY_COUNTER,
      "Messages of the newest run, with those that came again (dropped as repeated)."},
     "received"},
    {{"attnd_training_messages_processed", FAMILY_COUNTER,
      "Messages of the newest run that were used."},
     "processed"},
    {{"attnd_training_messages_lost", FAMILY_COUNTER,
      "Messages of the newest run that did not arrive in their order: gaps in sequence numbers."},
     "gaps"},
};

static const char *metrics_jobs_key_of(const struct family *family)
{
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (family == &numbers[i].family) {
            return numbers[i].key;
        }
    }
    return "";
}

static void metrics_jobs_put_number(struct metrics_text *text, const struct family *family,
                                    const char *labels, const msgpack_object *job)
{
    metrics_count(text, family, labels, mpk_find_u64(job, metrics_jobs_key_of(family)));
}

static void put_heard(struct metrics_text *text, const struct family *family, const char *labels,
                      const msgpack_object *job)
{
    metrics_real(text, family, labels, (double)(mpk_find_u64(job, "heard_ns") / 1000000) / 1e3);
}

/* One of the states is 1. */
static void metrics_jobs_put_state(struct metrics_text *text, const struct family *family,
                                   const char *labels, const msgpack_object *job)
{
    static const char *const states[] = {"active", "idle", "ended"};
    char state[16], with_state[LABELS_MAX + 32];
    mpk_find_text(job, "state", state, sizeof state);
    for (int i = 0; i < 3; i++) {
        snprintf(with_state, sizeof with_state, "%s,state=\"%s\"", labels, states[i]);
        metrics_count(text, family, with_state, strcmp(state, states[i]) == 0);
    }
}

static void metrics_jobs_put_run(struct metrics_text *text, const struct family *family,
                                 const char *labels, const msgpack_object *job)
{
    char run[64], with_run[LABELS_MAX + 128];
    size_t used = (size_t)snprintf(with_run, sizeof with_run, "%s,", labels);
    mpk_find_text(job, "run", run, sizeof run);
    metrics_label(with_run + used, sizeof with_run - used, "run", run);
    metrics_count(text, family, with_run, 1);
}

static void metrics_jobs_put_dropped(struct metrics_text *text, const struct family *family,
                                     const char *labels, const msgpack_object *job)
{
    const msgpack_object *dropped = mpk_find(job, "dropped");
    for (uint32_t i = 0;
         dropped && dropped->type == MSGPACK_OBJECT_MAP && i < dropped->via.map.size; i++) {
        const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
        char reason[64] = "", with_reason[LABELS_MAX + 128];
        uint64_t count = 0;
        size_t used = (size_t)snprintf(with_reason, sizeof with_reason, "%s,", labels);
        if (pair->key.type != MSGPACK_OBJECT_STR ||
            mpk_get_u64(&pair->val, UINT64_MAX, &count) != 0) {
            continue;
        }
        snprintf(reason, sizeof reason, "%.*s", (int)pair->key.via.str.size, pair->key.via.str.ptr);
        metrics_label(with_reason + used, sizeof with_reason - used, "reason", reason);
        metrics_count(text, family, with_reason, count);
    }
}

/* The alerts of one state. */
static void metrics_jobs_put_alerts(struct metrics_text *text, const struct family *family,
                                    const char *labels, const msgpack_object *job,
                                    const char *state)
{
    const msgpack_object *firing = mpk_find(job, "firing");
    for (uint32_t i = 0;
         firing && firing->type == MSGPACK_OBJECT_ARRAY && i < firing->via.array.size; i++) {
        const msgpack_object *rule = &firing->via.array.ptr[i];
        char name[128], severity[32], all[LABELS_MAX + 512];
        size_t used = (size_t)snprintf(all, sizeof all, "%s,", labels);
        if (!mpk_is_str(mpk_find(rule, "state"), state)) {
            continue;
        }
        mpk_find_text(rule, "rule", name, sizeof name);
        mpk_find_text(rule, "severity", severity, sizeof severity);
        used += metrics_label(all + used, sizeof all - used, "rule", name);
        all[used++] = ',';
        metrics_label(all + used, sizeof all - used, "severity", severity);
        metrics_count(text, family, all, mpk_find_u64(rule, "count"));
    }
}

static void metrics_jobs_put_firing(struct metrics_text *text, const struct family *family,
                                    const char *labels, const msgpack_object *job)
{
    metrics_jobs_put_alerts(text, family, labels, job, "firing");
}

static void metrics_jobs_put_at_end(struct metrics_text *text, const struct family *family,
                                    const char *labels, const msgpack_object *job)
{
    metrics_jobs_put_alerts(text, family, labels, job, "firing_at_end");
}

void metrics_put_jobs(struct metrics_text *text, const struct metrics_view *view)
{
    static const struct family run = {"attnd_training", FAMILY_INFO, "The newest run of the job."},
                               state = {"attnd_training_state", FAMILY_GAUGE,
                                        "1 for the state that the newest run is in."},
                               heard = {"attnd_training_last_message_timestamp_seconds",
                                        FAMILY_GAUGE, "When attnd last heard of the newest run."},
                               dropped = {"attnd_training_messages_dropped", FAMILY_COUNTER,
                                          "Messages of the newest run that were not used, by "
                                          "reason; source: by the publisher itself; "
                                          "repeated: no loss, but sent again."},
                               firing = {"attnd_alerts_firing", FAMILY_GAUGE,
                                         "Places where an alert rule of attnd holds now; none: "
                                         "no line."},
                               at_end = {"attnd_alerts_firing_at_end", FAMILY_GAUGE,
                                         "Places where an alert rule held when the newest run "
                                         "ended or went idle; none: no line."};
    each_job(text, &run, view, metrics_jobs_put_run);
    each_job(text, &state, view, metrics_jobs_put_state);
    each_job(text, &heard, view, put_heard);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        each_job(text, &numbers[i].family, view, metrics_jobs_put_number);
    }
    each_job(text, &dropped, view, metrics_jobs_put_dropped);
    each_job(text, &firing, view, metrics_jobs_put_firing);
    each_job(text, &at_end, view, metrics_jobs_put_at_end);
}
