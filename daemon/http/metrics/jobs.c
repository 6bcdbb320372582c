/* SPDX-License-Identifier: MIT */
/* Writes the run of each job that `monitor` answers. */
#include "daemon/http/metrics/internal.h"

#include "config/access.h"

#include <stdio.h>
#include <string.h>

#define LABELS_MAX (4 * JOB_NAME_MAX)

/* The next job in sight from *at on, which moves on, with its label; NULL behind the last. */
static const msgpack_object *metrics_jobs_next(const struct metrics_view *view, uint32_t *at,
                                               char ret_labels[LABELS_MAX])
{
    const msgpack_object *jobs = mpk_find(view->monitor, "jobs");
    while (*at < mpk_items(jobs)) {
        const msgpack_object *job = &jobs->via.array.ptr[(*at)++];
        char name[JOB_NAME_MAX + 1];
        mpk_find_text(job, "job", name, sizeof name);
        if (access_jobs_match(view->jobs, name)) {
            *ret_labels = '\0';
            metrics_label(ret_labels, LABELS_MAX, "job", name);
            return job;
        }
    }
    return NULL;
}

static const struct {
    struct family family;
    const char *key;
} numbers[] = {
    {{"attnd_training_epoch", FAMILY_GAUGE, "Epoch of the newest message."}, "epoch"},
    {{"attnd_training_step", FAMILY_GAUGE, "Step of the newest message."}, "step"},
    {{"attnd_training_ranks", FAMILY_GAUGE, "Ranks that have been heard of."}, "ranks"},
    {{"attnd_training_ranks_announced", FAMILY_GAUGE, "Ranks that the job says it has."}, "world"},
    {{"attnd_training_layers_unmeasured", FAMILY_GAUGE,
      "Layers that the plan takes and no numbers came of in the last windows, 8 at most."},
     "unmeasured"},
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

/* The newest run, its state, one of which is 1, and when it was heard. */
static void metrics_jobs_put_runs(struct metrics_text *text, const struct metrics_view *view)
{
    static const char *const states[] = {"active", "idle", "no_news", "ended", "failed"};
    static const struct family named = {"attnd_training", FAMILY_INFO,
                                        "The newest run of the job."},
                               in_state = {"attnd_training_state", FAMILY_GAUGE,
                                           "1 for the state that the newest run is in."},
                               heard = {"attnd_training_last_message_timestamp_seconds",
                                        FAMILY_GAUGE, "When attnd last heard of the newest run."};
    char run[64], state[16], labels[LABELS_MAX], more[LABELS_MAX + 128];
    const msgpack_object *job;
    metrics_head(text, &named);
    for (uint32_t i = 0; (job = metrics_jobs_next(view, &i, labels));) {
        mpk_find_text(job, "run", run, sizeof run);
        strcpy(more, labels);
        metrics_label(more, sizeof more, "run", run);
        metrics_count(text, &named, more, 1);
    }
    metrics_head(text, &in_state);
    for (uint32_t i = 0; (job = metrics_jobs_next(view, &i, labels));) {
        mpk_find_text(job, "state", state, sizeof state);
        for (size_t s = 0; s < sizeof states / sizeof states[0]; s++) {
            strcpy(more, labels);
            metrics_label(more, sizeof more, "state", states[s]);
            metrics_count(text, &in_state, more, strcmp(state, states[s]) == 0);
        }
    }
    metrics_head(text, &heard);
    for (uint32_t i = 0; (job = metrics_jobs_next(view, &i, labels));) {
        uint64_t heard_ms = mpk_find_u64(job, "heard_ns") / 1000000;
        metrics_real(text, &heard, labels, (double)heard_ms / 1e3);
    }
}

static void metrics_jobs_put_dropped(struct metrics_text *text, const struct metrics_view *view)
{
    static const struct family family = {"attnd_training_messages_dropped", FAMILY_COUNTER,
                                         "Messages of the newest run that were not used, by "
                                         "reason; source: by the publisher itself; "
                                         "repeated: no loss, but sent again."};
    char labels[LABELS_MAX], with_reason[LABELS_MAX + 128];
    const msgpack_object *job;
    metrics_head(text, &family);
    for (uint32_t at = 0; (job = metrics_jobs_next(view, &at, labels));) {
        const msgpack_object *dropped = mpk_find(job, "dropped");
        for (uint32_t i = 0; i < mpk_pairs(dropped); i++) {
            const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
            char reason[64];
            uint64_t count;
            if (pair->key.type != MSGPACK_OBJECT_STR ||
                mpk_get_u64(&pair->val, UINT64_MAX, &count) != 0) {
                continue;
            }
            snprintf(reason, sizeof reason, "%.*s", (int)pair->key.via.str.size,
                     pair->key.via.str.ptr);
            strcpy(with_reason, labels);
            metrics_label(with_reason, sizeof with_reason, "reason", reason);
            metrics_count(text, &family, with_reason, count);
        }
    }
}

/* The alerts of one state. */
static void metrics_jobs_put_alerts(struct metrics_text *text, const struct metrics_view *view,
                                    const struct family *family, const char *state)
{
    char name[128], severity[32], labels[LABELS_MAX], all[LABELS_MAX + 512];
    const msgpack_object *job;
    metrics_head(text, family);
    for (uint32_t at = 0; (job = metrics_jobs_next(view, &at, labels));) {
        const msgpack_object *firing = mpk_find(job, "firing");
        for (uint32_t i = 0; i < mpk_items(firing); i++) {
            const msgpack_object *rule = &firing->via.array.ptr[i];
            if (!mpk_is_str(mpk_find(rule, "state"), state)) {
                continue;
            }
            mpk_find_text(rule, "rule", name, sizeof name);
            mpk_find_text(rule, "severity", severity, sizeof severity);
            strcpy(all, labels);
            metrics_label(all, sizeof all, "rule", name);
            metrics_label(all, sizeof all, "severity", severity);
            metrics_count(text, family, all, mpk_find_u64(rule, "count"));
        }
    }
}

void metrics_put_jobs(struct metrics_text *text, const struct metrics_view *view)
{
    static const struct family firing = {"attnd_alerts_firing", FAMILY_GAUGE,
                                         "Places where an alert rule of attnd holds now; none: "
                                         "no line."},
                               at_end = {"attnd_alerts_firing_at_end", FAMILY_GAUGE,
                                         "Places where an alert rule held when the newest run "
                                         "ended or went idle; none: no line."};
    metrics_jobs_put_runs(text, view);
    char labels[LABELS_MAX];
    const msgpack_object *job;
    for (size_t n = 0; n < sizeof numbers / sizeof numbers[0]; n++) {
        metrics_head(text, &numbers[n].family);
        for (uint32_t i = 0; (job = metrics_jobs_next(view, &i, labels));) {
            metrics_count(text, &numbers[n].family, labels, mpk_find_u64(job, numbers[n].key));
        }
    }
    metrics_jobs_put_dropped(text, view);
    metrics_jobs_put_alerts(text, view, &firing, "firing");
    metrics_jobs_put_alerts(text, view, &at_end, "firing_at_end");
}
