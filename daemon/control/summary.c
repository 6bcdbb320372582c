/* SPDX-License-Identifier: MIT */
/* The last values of a run's layers: of `live`, and of `summary`, that of one of the windows the
 * job is cut into: the primary one unless `window` names another, by its number (0: primary, 1: the
 * first of window.also, ...) or as the config does ("100 steps every 10"). */
#include "daemon/control/internal.h"

#include "daemon/history/params.h"
#include "daemon/ingest/plan.h"
#include "daemon/run/live.h"

#include <inttypes.h>
#include <string.h>

/* The filters of a request; empty = any. */
struct value_filter {
    const struct publisher *publisher;
    const char *prefix; /* of the topics */
    char job[JOB_NAME_MAX + 1], stack[16], layer[16], site[16];
    char run[2 * RUN_BYTES + 1]; /* its first digits */
    uint8_t run_id[RUN_BYTES];
    uint32_t track;
    bool falls_back; /* to projection matrices, of a layer that has nothing in `track` */
    uint32_t count;
    struct mpk_writer *result; /* NULL: they are only counted */
};

/* Whether the topic's next segment is `wanted` or anything goes; moves on to the one after. */
static bool segment_matches(const char **topic, const char *wanted)
{
    size_t length = strcspn(*topic, "/");
    bool matches = !*wanted || (strlen(wanted) == length && memcmp(*topic, wanted, length) == 0);
    *topic += length + ((*topic)[length] == '/');
    return matches;
}

static bool control_summary_takes_track(const struct value_filter *filter, const char *topic,
                                        uint32_t track)
{
    return track == filter->track ||
           (filter->falls_back && track == LIVE_PROJECTIONS &&
            !publisher_has(filter->publisher, filter->run_id, topic, filter->track));
}

static void visit_value(void *data, const char *topic, const uint8_t *run, uint32_t track,
                        const void *value, size_t size)
{
    struct value_filter *filter = data;
    if (memcmp(run, filter->run_id, RUN_BYTES) != 0 ||
        !control_summary_takes_track(filter, topic, track)) {
        return;
    }
    topic += strlen(filter->prefix);
    if (!segment_matches(&topic, filter->job) || !segment_matches(&topic, filter->stack) ||
        !segment_matches(&topic, filter->layer) || !segment_matches(&topic, filter->site)) {
        return;
    }
    filter->count++;
    if (filter->result) {
        mpk_put_raw(filter->result, value, size);
    }
}

static bool read_layer_number(const struct control_request *request, struct value_filter *filter)
{
    uint64_t layer = UINT64_MAX;
    bool sound = number_param(request, "layer", 0, LAYER_MAX, &layer);
    if (layer <= LAYER_MAX) {
        snprintf(filter->layer, sizeof filter->layer, "%u", (unsigned)layer);
    }
    return sound;
}

static bool control_summary_read_track(const struct control_request *request, struct run *run,
                                       struct value_filter *filter)
{
    struct history_track asked;
    uint32_t last = run->track_count - 1;
    uint64_t number = filter->track;
    char text[80];
    if (number_param(request, "window", 0, last, &number)) {
        filter->track = (uint32_t)number;
        return true;
    }
    const struct track *found = NULL;
    if (string_param(request, "window", "", text, sizeof text) &&
        history_track_parse(text, &asked)) {
        struct config_window window = {(enum config_unit)asked.unit, asked.length, asked.every};
        found = run_find_track(run, &window);
    }
    if (!found) {
        char valid[96];
        snprintf(valid, sizeof valid,
                 "those of window.unit and window.also, or their number, 0 to %u", (unsigned)last);
        request_refuse(request, "window", valid);
        return false;
    }
    filter->track = found->index;
    return true;
}

/* Results about projection matrices are apart from the newest of attention (live.h), as those of
 * their sketches are, and stand in for those of a layer that has none. */
static bool control_summary_read_tier(const struct control_request *request,
                                      struct value_filter *filter)
{
    char tier[16];
    if (!word_param(request, "tier", "weights, sketch", tier, sizeof tier)) {
        return false;
    }
    filter->track = !*tier                                                  ? filter->track
                    : strcmp(tier, message_type_name(MESSAGE_WEIGHTS)) == 0 ? LIVE_PROJECTIONS
                                                                            : LIVE_SKETCHES;
    return true;
}

static bool control_summary_read_filter(const struct control_request *request,
                                        struct value_filter *filter)
{
    return string_param(request, "job", NULL, filter->job, sizeof filter->job) &&
           string_param(request, "run", "", filter->run, sizeof filter->run) &&
           word_param(request, "stack", "encoder, decoder", filter->stack, sizeof filter->stack) &&
           word_param(request, "site", "self, cross", filter->site, sizeof filter->site) &&
           read_layer_number(request, filter) && control_summary_read_tier(request, filter);
}

/* Nothing captured */

static bool summary_plan_takes_any(const struct plan *plan, const struct run *run)
{
    const struct stream *stream = run->streams;
    while (stream && !plan_takes(plan, stream->id)) {
        stream = stream->hh.next;
    }
    return stream != NULL;
}

/* Why, as far as attnd knows; "" when it does not. */
static void summary_explain_nothing(const struct run *run, const struct plan *plan, char *ret_text,
                                    size_t size)
{
    struct reason_count dropped[TALLY_REASONS_MAX];
    struct counts counts = run_counts(run);
    uint32_t reasons = tally_reasons(&counts.tally, dropped);
    size_t used = 0;
    *ret_text = '\0';
    if (counts.tally.source > 0) {
        snprintf(ret_text, size,
                 "the job dropped all %" PRIu64 " captures itself, because they are larger than "
                 "attnd takes or come faster; its own log says which. Remedy: attnctl plan set "
                 "%s rows=512 (or still fewer), fewer samples, a fused kernel",
                 counts.tally.source, run->job);
    } else if (reasons > 0) {
        used = (size_t)snprintf(ret_text, size, "attnd refused what came:");
        for (uint32_t i = 0; i < reasons && used < size; i++) {
            used += (size_t)snprintf(ret_text + used, size - used, "%s %" PRIu64 " %s",
                                     i ? "," : "", dropped[i].count, dropped[i].reason);
        }
    } else if (counts.tally.lost > 0) {
        snprintf(ret_text, size, "%" PRIu64 " messages were lost on their way", counts.tally.lost);
    } else if (plan->what.every == 0) {
        snprintf(ret_text, size, "its plan captures no step (every=0)");
    } else if (run->streams && !summary_plan_takes_any(plan, run)) {
        snprintf(ret_text, size, "its plan takes none of its layers (layers=%.200s)",
                 plan->what.layers.text);
    }
}

/* A run of which nothing can be shown, now or ever, or nothing of the layer that is asked for.
 * Leaves the detail empty when there is nothing to say but that nothing has been published yet. */
static void summary_describe_nothing(struct control_request *request, const struct run *run,
                                     struct value_filter filter)
{
    char why[400], layers[LAYERS_LIST_MAX];
    bool ended = run->state == JOB_ENDED;
    *filter.stack = *filter.layer = *filter.site = '\0';
    filter.result = NULL;
    publisher_each(filter.publisher, filter.prefix, visit_value, &filter);
    if (filter.count > 0) {
        layers_list(run, layers);
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "nothing has been published of such a layer; the run has %s", layers);
        return;
    }
    for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        if (stream->counts.processed > 0) {
            return;
        }
    }
    if (run->has_other_windows) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "nothing has come since attnd was started again with other windows (window.unit, "
                 "window.length, window.every, window.also); attnctl history %s shows those of "
                 "before",
                 run->job);
        return;
    }
    summary_explain_nothing(run, plans_for(request->view->plans, run->job), why, sizeof why);
    if (ended && !*why) {
        snprintf(why, sizeof why, "it sent no attention");
    }
    if (*why) {
        snprintf(request->detail, CONTROL_DETAIL_MAX, "%s: %s",
                 ended ? "the run has ended and captured nothing" : "nothing is captured so far",
                 why);
    }
}

static int control_summary_answer(struct control_request *request, struct value_filter filter)
{
    if (!control_summary_read_filter(request, &filter)) {
        return ERR_ARGUMENT;
    }
    struct run *run = NULL;
    int code = request_find_run(request, filter.job, filter.run, &run);
    if (!code) {
        memcpy(filter.run_id, run->id, RUN_BYTES);
    }
    if (!code && !control_summary_read_track(request, run, &filter)) {
        code = ERR_ARGUMENT;
    }
    if (code) {
        return code;
    }
    filter.publisher = request->view->publisher;
    filter.result = request->result;
    struct mpk_open values = mpk_open(request->result, NULL);
    publisher_each(filter.publisher, filter.prefix, visit_value, &filter);
    mpk_close_array(request->result, &values);
    if (filter.count == 0) {
        summary_describe_nothing(request, run, filter);
        return ERR_NO_SUMMARY;
    }
    return 0;
}

int method_summary(struct control_request *request)
{
    struct value_filter filter = {.prefix = "summary/"};
    return control_summary_answer(request, filter);
}

int method_live(struct control_request *request)
{
    struct value_filter filter = {.prefix = "live/", .falls_back = true};
    return control_summary_answer(request, filter);
}
