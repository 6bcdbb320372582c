/* SPDX-License-Identifier: MIT */
/* A hub's runs on the loop: windows that its thread has merged close here as if they were this
 * attnd's own, and what trainings log on their nodes is kept and published once more. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/internal.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/judging.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The track with this rule; NULL: the config has none, or the run is cut in another way. */
static struct track *merging_find_track(struct run *run, const struct merged *merged)
{
    struct config_window window = {(enum config_unit)merged->unit, merged->length, merged->every};
    if (config_window_find(run->config, (int)window.unit, window.length, window.every) == 0) {
        run_cut(run, merged->length / CONFIG_WINDOW_CAPTURES); /* as the nodes do */
    }
    return run_find_track(run, &window);
}

/* Values that were logged together: one event. */
struct merging_log {
    struct log_result result;
    struct named_values values;
    struct named_value value[LOG_VALUES_MAX];
    char name[LOG_VALUES_MAX][NAMED_NAME_MAX + 1];
    uint32_t rank; /* the first one of the node: which one has logged is not known */
};

static void merging_publish_log(struct run *run, struct merging_log *log, struct store_batch *batch)
{
    if (log->values.count > 0) {
        log->values.list = log->value;
        log->result.values = &log->values;
        judging_of_log(run, &log->result, log->rank, batch);
        run_publish_log(run, &log->result);
        log->values.count = 0;
    }
}

/* The hub has checked them. */
static int merging_add_point(struct run *run, struct store_batch *batch, const msgpack_object *item,
                             struct merging_log *log)
{
    struct fleet_point point;
    if (fleet_point_decode(item, &point) != 0) {
        return 0;
    }
    struct result_common *common = &log->result.common;
    if (log->values.count == LOG_VALUES_MAX || common->step != point.step ||
        common->time_ns != point.time_ns) {
        merging_publish_log(run, log, batch);
    }
    *common = (struct result_common){run->job, run->id, point.epoch, point.step, point.time_ns};
    uint32_t i = log->values.count++;
    snprintf(log->name[i], sizeof log->name[i], "%.*s", (int)point.name_size, point.name);
    log->value[i] = (struct named_value){.name = log->name[i],
                                         .kind = isnan(point.value) ? NAMED_NONE : NAMED_NUMBER,
                                         .number = point.value};
    return batch ? batch_point(batch, &(struct store_point){.name = log->name[i],
                                                            .epoch = point.epoch,
                                                            .step = point.step,
                                                            .time_ns = point.time_ns,
                                                            .value = point.value})
                 : 0;
}

/* Settings and logged values, in one batch. */
static int merging_take_body(struct run *run, const struct merged *merged)
{
    struct merging_log log = {.values = {.count = 0}};
    struct mpk_doc doc;
    struct fleet_body body;
    int code = mpk_parse(merged->body, merged->body_size, &fleet_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : 0;
    }
    struct store_batch *batch = checkpoint_begin(run);
    code = batch || !run->sink->store ? 0 : ERR_MEMORY;
    if (!code && fleet_body_decode(doc.root, &body) == 0 && body.kind == FLEET_RUN) {
        if (body.failure.type[0] && !run->failure.type[0]) {
            run->failure = body.failure;
            run->unsaved = true;
            run_publish_job(run);
        }
        const msgpack_object_array *ranks = &body.ranks_found->via.array;
        log.rank = ranks->size > 0 ? (uint32_t)ranks->ptr[0].via.u64 : 0;
        for (uint32_t i = 0; i < body.points_found->via.array.size && !code; i++) {
            code = merging_add_point(run, batch, &body.points_found->via.array.ptr[i], &log);
        }
        merging_publish_log(run, &log, batch);
        if (!code && body.settings && batch) {
            code = batch_settings(batch, body.settings, body.settings_size);
        }
        if (!code && batch && (body.settings || body.points_found->via.array.size > 0) &&
            !store_submit(run->sink->store, &batch)) {
            code = ERR_AGAIN;
        }
    }
    batch_free(&batch);
    mpk_doc_clear(&doc);
    return code;
}

void merging_end(void *data, struct run *run, struct merged *merged, int code)
{
    struct daemon *daemon = data;
    if (!code && merged->body) {
        code = merging_take_body(run, merged);
    }
    if (!code && merged->state == JOB_ENDED) {
        closing_settle(run, clock_monotonic_ns());
    }
    if (code && code != ERR_CLOSED && log_is_round(daemon->put_off++)) {
        log_event(LOG_WARNING, "merged_window_put_off", LOG_STR("job", merged->job),
                  LOG_NUM("part", merged->part), LOG_STR("reason", err_slug(code)));
    }
    merged->code = code;
    fleet_merged(daemon->fleet, &merged);
    merged_free(&merged);
}

void merging_take(struct daemon *daemon, struct merged *merged)
{
    uint64_t now_ns = clock_monotonic_ns();
    struct run *run = NULL;
    int code =
        daemon->stopping ? ERR_CLOSED : registry_merge(daemon->registry, merged, now_ns, &run);
    struct track *track = !code && merged->has_window ? merging_find_track(run, merged) : NULL;
    if (track) {
        code = closing_merged(run, track, merged, now_ns);
    }
    if (!track || code) {
        merging_end(daemon, run, merged, code); /* else it is told when the window is out */
    }
}
