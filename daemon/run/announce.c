/* SPDX-License-Identifier: MIT */
#include "daemon/run/announce.h"

#include "daemon/run/checkpoint.h"
#include "daemon/base/log.h"

static void log_alert(const struct run *run, const struct alert_result *event)
{
    bool calm = event->state == ALERT_RESOLVED || event->severity == ALERT_INFO;
    log_event(calm ? LOG_INFO : LOG_WARNING, "alert", LOG_STR("job", run->job),
              LOG_STR("rule", event->rule), LOG_STR("state", alert_state_name(event->state)),
              LOG_STR("severity", alert_severity_name(event->severity)),
              LOG_STR("message", event->message));
}

static void announce_on_event(void *data, const struct alert_result *event)
{
    struct announcer *announcer = data;
    struct run *run = announcer->run;
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    alert_encode(event, &writer);
    topic_job("alert", run->job, topic);
    run->sink->put(run->sink->data, run, topic, 0, &writer, RESULT_ALERT);
    mpk_writer_clear(&writer);
    if (announcer->batch && batch_alert(announcer->batch, event) != 0) {
        log_event(LOG_ERROR, "alert_not_kept", LOG_STR("rule", event->rule));
    }
    stats_add(run->sink->stats, COUNT_ALERTS, 1);
    announcer->events++;
    log_alert(run, event);
}

static void announce_on_overflow(void *data, uint32_t events)
{
    struct announcer *announcer = data;
    stats_add(announcer->run->sink->stats, COUNT_ALERTS_DROPPED, events);
    log_event(LOG_WARNING, "alerts_dropped", LOG_STR("job", announcer->run->job),
              LOG_NUM("count", events));
}

struct alert_sink announce_sink(struct announcer *announcer)
{
    announcer->run->alerts_unsaved = true;
    return (struct alert_sink){announce_on_event, announce_on_overflow, announcer};
}

struct result_common announce_common(const struct run *run)
{
    return (struct result_common){run->job, run->id, run->epoch, run->step, run->time_ns};
}

/* Outside of a closing window events make a batch of their own. */
static void announce_submit(struct announcer *announcer)
{
    if (announcer->batch && announcer->events > 0) {
        store_submit(announcer->run->sink->store, &announcer->batch);
    }
    batch_free(&announcer->batch);
}

void announce_silence(struct run *run, uint64_t now_ns)
{
    struct announcer announcer = {.run = run};
    struct alert_sink sink = {announce_on_event, announce_on_overflow, &announcer};
    struct result_common common = announce_common(run);
    double silent_s = now_ns > run->last_ns ? (double)(now_ns - run->last_ns) / 1e9 : 0;
    if (!run->alerts || run->state == JOB_ENDED) {
        return;
    }
    announcer.batch = checkpoint_begin(run);
    alerts_silence(run->alerts, &common, silent_s, &sink);
    run->alerts_unsaved = run->alerts_unsaved || announcer.events > 0;
    announce_submit(&announcer);
}

void announce_end(struct run *run)
{
    struct announcer announcer = {.run = run};
    struct alert_sink sink = announce_sink(&announcer);
    struct result_common common = announce_common(run);
    if (!run->alerts) {
        return;
    }
    announcer.batch = checkpoint_begin(run);
    alerts_end(run->alerts, &common, &sink);
    announce_submit(&announcer);
}
