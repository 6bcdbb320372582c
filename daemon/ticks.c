/* SPDX-License-Identifier: MIT */
/* The loop thread hears notes of other threads, and a tick every second while a job is active,
 * which closes and shows windows. */
#include "daemon/arenas.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/internal.h"

#include <stdlib.h>
#include <string.h>

#define TICK_MS 1000
/* Memory goes back once in TICKS_PER_TRIM ticks, and when they end. */
#define TICKS_PER_TRIM 60

/* The trainers hear of it from the ingest thread. */
int ticks_announce_plans(void *data)
{
    struct daemon *daemon = data;
    struct plan_prefixes *prefixes = plans_prefixes(daemon->plans);
    if (!prefixes) {
        return ERR_MEMORY;
    }
    ingest_subscribe(daemon->ingest, &prefixes);
    return 0;
}

void ticks_limit_costs(struct daemon *daemon)
{
    const struct registry *registry = daemon->registry;
    struct plan_cost *costs = malloc((registry_jobs(registry) + 1) * sizeof *costs);
    const char *job = NULL, *without;
    uint32_t count = 0;
    if (!costs) {
        return; /* the next time */
    }
    for (const struct run *run = NULL; (run = registry_next(registry, run));) {
        bool is_first = !job || strcmp(job, run->job) != 0;
        job = run->job;
        const struct capture_cost *cost = is_first ? registry_cost(registry, job) : NULL;
        if (cost) {
            costs[count++] = (struct plan_cost){
                job, cost_ratio(cost), config_for_job(&daemon->reload.plans, job)->plan_cost_max};
        }
    }
    if (plans_limit_costs(daemon->plans, costs, count, &without) &&
        ticks_announce_plans(daemon) != 0) {
        log_event(LOG_ERROR, "plans_not_announced", LOG_STR("reason", err_slug(ERR_MEMORY)));
    }
    if (without && !daemon->cost_unbounded) {
        daemon->cost_unbounded = true;
        log_event(LOG_WARNING, "cost_unbounded", LOG_STR("job", without),
                  LOG_NUM("bounded", PLANS_LENGTHENED_MAX));
    }
    free(costs);
}

static void ticks_tell_runs(struct daemon *daemon)
{
    struct fleet_beat_run runs[FLEET_RUNS_MAX];
    uint32_t count = 0;
    uint64_t now_ns = inbox_now_ns(&daemon->inbox);
    if (!daemon->fleet) {
        return;
    }
    for (const struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        if (run->state != JOB_ACTIVE || count == FLEET_RUNS_MAX) {
            continue;
        }
        struct fleet_beat_run *said = &runs[count++];
        memcpy(said->run, run->id, RUN_BYTES);
        said->silent_ns = clock_since_ns(run->last_ns, now_ns);
        said->world = run->tracks[0].window.world;
        said->ranks = run->tracks[0].window.rank_count;
    }
    fleet_tell_runs(daemon->fleet, runs, count);
}

static void ticks_on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    bool wanted = registry_tick(daemon->registry, inbox_now_ns(&daemon->inbox));
    if (!wanted) {
        uv_timer_stop(timer); /* nobody is training: no wake-ups */
    }
    if (!wanted || ++daemon->ticks % TICKS_PER_TRIM == 0) {
        arenas_trim();
    }
    messages_give_up(daemon);
    ticks_limit_costs(daemon);
    ticks_tell_runs(daemon);
    control_settle(daemon->control);
}

void ticks_start(struct daemon *daemon)
{
    if (!daemon->finished && !uv_is_active((const uv_handle_t *)&daemon->tick)) {
        uv_timer_start(&daemon->tick, ticks_on_tick, TICK_MS, TICK_MS);
        rounds_start(daemon);
    }
}

/* Notes */

static void ticks_on_refused(struct daemon *daemon, struct refusal *refusal)
{
    struct ingest_share *share = refusal->share;
    registry_refused(daemon->registry, refusal->job, refusal->code);
    free(refusal);
    ingest_release(daemon->ingest, share, sizeof *refusal, true);
}

/* After the end: nobody is there to publish for. */
static void ticks_discard(struct note *note)
{
    struct message *message = (struct message *)note;
    if (note->kind == NOTE_REFUSED) {
        free(note);
    } else if (note->kind == NOTE_MERGED) {
        struct merged *merged = (struct merged *)note;
        merged_free(&merged);
    } else if (note->kind != NOTE_STOPPED) {
        work_free(&message->work);
        message_free(&message);
    }
}

void ticks_on_note(void *data, struct note *note)
{
    struct daemon *daemon = data;
    if (daemon->finished) {
        ticks_discard(note);
        return;
    }
    switch (note->kind) {
    case NOTE_ARRIVED:
        ticks_start(daemon);
        messages_on_arrived(daemon, (struct message *)note);
        break;
    case NOTE_DONE:
        messages_on_done(daemon, (struct message *)note);
        break;
    case NOTE_REFUSED:
        ticks_on_refused(daemon, (struct refusal *)note);
        break;
    case NOTE_MERGED:
        ticks_start(daemon);
        merging_take(daemon, (struct merged *)note);
        break;
    case NOTE_STOPPED:
        daemon->ingest_stopped = true;
        break;
    }
    control_settle(daemon->control);
    messages_stop_if_drained(daemon);
}
