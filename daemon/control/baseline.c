/* SPDX-License-Identifier: MIT */
#include "daemon/control/baseline.h"

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
    if (!code) {
        code = control_baseline_pin(pinning, result);
    }
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
