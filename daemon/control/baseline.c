/* SPDX-License-Identifier: MIT */
#include "daemon/control/baseline.h"

#include "daemon/control/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* An answer of `states`: at most 64 MiB of them, and what stands between. */
static const struct mpk_limits answer_limits = {80u << 20, 2, 4096};

struct pinning {
    struct registry *registry;
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    struct layer_id layer;
    uint32_t track;
    baseline_done *done;
    void *data;
};

/* States */

static void baseline_free_states(struct layer_state **states, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        layer_state_free(&states[i]);
    }
    free(states);
}

static int baseline_read_states(const msgpack_object_array *list, uint32_t heads,
                                struct layer_state ***ret_states)
{
    struct layer_state **states = calloc(list->size + 1u, sizeof *states);
    int code = states ? 0 : ERR_MEMORY;
    for (uint32_t i = 0; !code && i < list->size; i++) {
        const msgpack_object_bin *bytes = &list->ptr[i].via.bin;
        code = layer_state_unpack(bytes->ptr, bytes->size, &states[i]);
        if (!code && states[i]->heads != heads) {
            code = ERR_HEADS_CHANGED;
        }
    }
    if (code && states) {
        baseline_free_states(states, list->size);
    } else if (!code) {
        *ret_states = states;
    }
    return code;
}

static int pin_states(struct run *run, struct stream *stream, uint32_t track,
                      const msgpack_object_array *list)
{
    struct drift_rule rule = run_drift_rule(run->config);
    struct layer_track *layer = &stream->tracks[track];
    struct layer_state **states;
    int code = baseline_read_states(list, stream->heads, &states);
    if (code) {
        return code;
    }
    if (!layer->drift) {
        layer->drift = drift_new(&rule, stream->heads);
    }
    code = layer->drift
               ? drift_pin(layer->drift, (const struct layer_state *const *)states, list->size)
               : ERR_MEMORY;
    baseline_free_states(states, list->size);
    if (layer->drift) {
        run_charge_drift(run, layer);
    }
    layer->drift_unsaved = layer->drift_unsaved || !code;
    run->unsaved = run->unsaved || !code;
    return code;
}

static int control_baseline_pin(const struct pinning *pinning, const struct mpk_writer *result)
{
    struct mpk_doc doc;
    char hex[2 * RUN_BYTES + 1];
    run_hex(pinning->run, hex);
    struct run *run = registry_find(pinning->registry, pinning->job, hex);
    struct stream *stream = run ? stream_find(run->streams, pinning->layer) : NULL;
    if (!stream) {
        return ERR_RUN_UNKNOWN;
    }
    int code = mpk_parse(result->buffer.data, result->buffer.size, &answer_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = pin_states(run, stream, pinning->track, &doc.root->via.array);
    mpk_doc_clear(&doc);
    return code;
}

static void on_states(void *data, int code, const char *detail, const struct mpk_writer *result)
{
    struct pinning *pinning = data;
    code = code ? code : control_baseline_pin(pinning, result);
    pinning->done(pinning->data, code, detail);
    free(pinning);
}

/* Asking */

int baseline_pin(struct history *history, struct registry *registry, const struct config *config,
                 const struct run *run, const struct stream *stream, uint32_t track,
                 const struct baseline_source *source, baseline_done *done, void *data)
{
    struct pinning *pinning = calloc(1, sizeof *pinning);
    if (!pinning) {
        return ERR_MEMORY;
    }
    *pinning = (struct pinning){
        .registry = registry, .layer = stream->id, .track = track, .done = done, .data = data};
    memcpy(pinning->run, run->id, RUN_BYTES);
    snprintf(pinning->job, sizeof pinning->job, "%s", run->job);
    struct mpk_writer params;
    mpk_writer_init(&params);
    const struct window_rule *rule = &run->tracks[track].window.rule;
    char window[96];
    snprintf(window, sizeof window, "%" PRIu64 " %ss every %" PRIu64, rule->length,
             window_unit_name(rule->unit), rule->every);
    mpk_put_map(&params, 7);
    mpk_pair_str(&params, "job", run->job);
    mpk_pair_str(&params, "run", source->run);
    mpk_pair_str(&params, "stack", stack_name(stream->id.stack));
    mpk_pair_u64(&params, "layer", stream->id.layer);
    mpk_pair_str(&params, "site", site_name(stream->id.site));
    mpk_pair_str(&params, "window", window);
    if (source->has_last) {
        mpk_pair_u64(&params, "last", source->last);
    } else {
        mpk_pair_u64(&params, "windows", config->drift_windows);
    }
    int code = mpk_writer_ok(&params)
                   ? history_ask(history, HISTORY_OWN, "states", params.buffer.data,
                                 params.buffer.size, on_states, pinning)
                   : ERR_MEMORY;
    mpk_writer_clear(&params);
    if (code) {
        free(pinning);
    }
    return code;
}

/* baseline: compares an ongoing run with other windows from now on: its first ones ("first"), those
 * of another run of the job (its digits), or the one that ends with a unit ({"last": unit}).
 * Primary windows. Layers are pinned one after the other, because their states are large; layers
 * without such a window in the history keep their baseline. */

struct baseline_job {
    struct pending *pending;
    const struct control_view *view;
    char name[JOB_NAME_MAX + 1];
    char run[2 * RUN_BYTES + 1]; /* all digits */
    struct baseline_source source;
    uint32_t next; /* index of the stream that is next */
    uint32_t pinned, missing;
    int code; /* of the last that was missing */
    char detail[CONTROL_DETAIL_MAX];
};

static void control_baseline_finish(struct baseline_job *job)
{
    struct mpk_writer result;
    mpk_writer_init(&result);
    mpk_put_map(&result, 3);
    mpk_pair_str(&result, "run", job->run);
    mpk_pair_u64(&result, "pinned", job->pinned);
    mpk_pair_u64(&result, "missing", job->missing);
    int code = job->pinned > 0 ? 0 : job->code;
    if (!code && !mpk_writer_ok(&result)) {
        code = ERR_MEMORY;
    }
    pending_answer(&job->pending, code, job->detail, &result);
    mpk_writer_clear(&result);
    free(job);
}

static void control_baseline_note_missing(struct baseline_job *job, int code, const char *detail)
{
    job->missing++;
    job->code = code;
    snprintf(job->detail, sizeof job->detail, "%s", detail);
}

static void pin_next(struct baseline_job *job);

static void control_baseline_on_pinned(void *data, int code, const char *detail)
{
    struct baseline_job *job = data;
    if (code) {
        control_baseline_note_missing(job, code, detail);
    } else {
        job->pinned++;
    }
    if (code == ERR_CLOSED) {
        control_baseline_finish(job);
    } else {
        pin_next(job);
    }
}

static void pin_next(struct baseline_job *job)
{
    const struct control_view *view = job->view;
    struct run *run = registry_find(view->registry, job->name, job->run);
    struct stream *stream = NULL; /* the first that is measured, from `next` on */
    for (struct stream *s = run ? run->streams : NULL; s; s = s->hh.next) {
        if (s->measured && s->index >= job->next && (!stream || s->index < stream->index)) {
            stream = s;
        }
    }
    if (!stream) {
        control_baseline_finish(job);
        return;
    }
    job->next = stream->index + 1;
    int code = baseline_pin(view->history, view->registry, view->config, run, stream, 0,
                            &job->source, control_baseline_on_pinned, job);
    if (!code) {
        return;
    }
    control_baseline_note_missing(job, code, "");
    control_baseline_finish(job);
}

/* The parameters */

static bool read_to(struct control_request *request, struct baseline_job *job)
{
    const msgpack_object *to = request_param(request, "to");
    char text[2 * RUN_BYTES + 1];
    memcpy(job->source.run, job->run, sizeof job->run);
    if (to && to->type == MSGPACK_OBJECT_MAP) {
        const msgpack_object *last = mpk_find(to, "last");
        job->source.has_last = true;
        if (last && to->via.map.size == 1 && mpk_get_u64(last, INT64_MAX, &job->source.last) == 0) {
            return true;
        }
    } else if (string_param(request, "to", "first", text, sizeof text)) {
        if (!to || strcmp(text, "first") == 0) {
            return true;
        }
        snprintf(job->source.run, sizeof job->source.run, "%s", text);
        if (*text && text[strspn(text, "0123456789abcdef")] == '\0') {
            return true;
        }
    }
    request_refuse(request, "to", "first, the first digits of a run, {last: unit}");
    return false;
}

static int read_params(struct control_request *request, struct baseline_job *job)
{
    char prefix[2 * RUN_BYTES + 1] = "";
    if (!string_param(request, "job", NULL, job->name, sizeof job->name) ||
        !string_param(request, "run", "", prefix, sizeof prefix)) {
        return ERR_ARGUMENT;
    }
    struct run *run = NULL;
    int code = request_find_run(request, job->name, prefix, &run);
    if (code) {
        return code;
    }
    run_hex(run->id, job->run);
    return read_to(request, job) ? 0 : ERR_ARGUMENT;
}

int method_baseline(struct control_request *request)
{
    struct baseline_job *job = calloc(1, sizeof *job);
    if (!job) {
        return ERR_MEMORY;
    }
    job->view = request->view;
    job->code = ERR_NO_HISTORY;
    int code = read_params(request, job);
    if (!code) {
        job->pending = request_defer(request);
        code = job->pending ? 0 : ERR_MEMORY;
    }
    if (code) {
        free(job);
        return code;
    }
    pin_next(job);
    return CONTROL_WAIT;
}
