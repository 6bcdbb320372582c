/* SPDX-License-Identifier: MIT */
/* baseline: compares an ongoing run with other windows from now on: its first ones ("first"), those
 * of another run of the job (its digits), or the one that ends with a unit ({"last": unit}).
 * Primary windows. Layers are pinned one after the other, because their states are large; layers
 * without such a window in the history keep their baseline. */
#include "daemon/control/baseline.h"
#include "daemon/control/internal.h"

#include <stdlib.h>
#include <string.h>

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
    const msgpack_object *to = mpk_find(request->params, "to");
    char text[2 * RUN_BYTES + 1];
    memcpy(job->source.run, job->run, sizeof job->run);
    if (to && to->type == MSGPACK_OBJECT_MAP) {
        const msgpack_object *last = mpk_find(to, "last");
        job->source.has_last = true;
        if (last && to->via.map.size == 1 && mpk_get_u64(last, INT64_MAX, &job->source.last) == 0) {
            return true;
        }
    } else if (string_param(request, "to", "first", text, sizeof text)) {
        if (!to || to->type == MSGPACK_OBJECT_NIL || strcmp(text, "first") == 0) {
            return true;
        }
        snprintf(job->source.run, sizeof job->source.run, "%s", text);
        if (*text && text[strspn(text, "0123456789abcdef")] == '\0') {
            return true;
        }
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX,
             "to is not accepted (valid: first, the first digits of a run, {last: unit})");
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
