/* SPDX-License-Identifier: MIT */
/* live: the maps that a running attnd keeps: the newest of each layer, of one sample, pooled when
 * they are large. All heads of a layer are fetched at once, so that they are of one step while the
 * job goes on; one by one only when the answer would be too large. */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/cli.h"
#include "proto/err.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"

#include <stdlib.h>
#include <string.h>

/* attnd does not say of which dtype a message was: the coarsest. */
#define LIVE_TOLERANCE 2e-2

struct live {
    struct cli cli; /* the request's, with a connection of its own */
    struct rpc rpc;
    const char *job;
    /* what was fetched last */
    size_t layer; /* SIZE_MAX = nothing */
    uint32_t first_head, heads;
    float *values; /* [heads][rows][columns]; owned */
};

static void free_live(void *own)
{
    struct live *live = own;
    free(live->values);
    rpc_close(&live->rpc);
    free(live);
}

/* Calling ------------------------------------------------------------------------------------- */

/* The message that the other commands print on err, as a sentence without the program's name. */
static int live_explain(struct live *live, enum rpc_status status, const struct rpc_reply *reply,
                        char *reterr)
{
    char text[SOURCE_ERROR_MAX] = "";
    struct cli cli = live->cli;
    cli.err = fmemopen(text, sizeof text - 1, "w"); /* the last byte stays 0 */
    if (!cli.err) {
        memory_short();
    }
    int code = cli_explain(&cli, status, reply);
    fclose(cli.err);
    text[strcspn(text, "\n")] = '\0';
    bool named = strncmp(text, "attnctl: ", strlen("attnctl: ")) == 0;
    return source_fail(reterr, code, "%s", text + (named ? strlen("attnctl: ") : 0));
}

/* `head` UINT32_MAX: all of them. */
static enum rpc_status call_maps(struct live *live, const struct source *source, struct layer_id id,
                                 uint32_t head, struct rpc_reply *ret_reply)
{
    struct ask ask;
    ask_init(&ask);
    ask_text(&ask, "job", live->job);
    ask_text(&ask, "run", source->run);
    ask_text(&ask, "stack", stack_name(id.stack));
    ask_number(&ask, "layer", id.layer);
    ask_text(&ask, "site", site_name(id.site));
    mpk_pair_bool(&ask.params, "packed", true);
    if (head != UINT32_MAX) {
        ask_number(&ask, "head", head);
    }
    return ask_call(&live->rpc, "maps", &ask, ret_reply);
}

/* Answers ------------------------------------------------------------------------------------- */

/* The layer's description without its heads; false when attnd does not make sense. */
static bool live_read_layer(const msgpack_object *result, struct source_layer *layer)
{
    const msgpack_object *tier = mpk_find(result, "tier");
    layer->tier = mpk_is_str(tier, "qk")     ? MESSAGE_QK
                  : mpk_is_str(tier, "rows") ? MESSAGE_ROWS
                                             : MESSAGE_ATTENTION;
    field_text(result, "module", layer->module, sizeof layer->module);
    layer->batch = 1;
    layer->causal = field_bool(result, "causal");
    layer->epoch = mpk_find_u64(result, "epoch");
    layer->step = mpk_find_u64(result, "step");
    layer->queries = (uint32_t)mpk_find_u64(result, "queries");
    layer->keys = (uint32_t)mpk_find_u64(result, "keys");
    layer->rows = (uint32_t)mpk_find_u64(result, "rows");
    layer->columns = (uint32_t)mpk_find_u64(result, "columns");
    layer->first_sample = (uint32_t)mpk_find_u64(result, "sample");
    layer->whole_batch = (uint32_t)mpk_find_u64(result, "batch");
    layer->q_offset = (uint32_t)mpk_find_u64(result, "q_offset");
    layer->tolerance = LIVE_TOLERANCE;
    return layer->rows > 0 && layer->columns > 0 && layer->rows <= layer->queries &&
           layer->columns <= layer->keys;
}

/* Maps ---------------------------------------------------------------------------------------- */

static int keep_values(struct live *live, struct source *source, size_t index, uint32_t first_head,
                       uint32_t heads, const msgpack_object *result, char *reterr)
{
    struct source_layer *layer = &source->layers[index], now = *layer;
    if (!live_read_layer(result, &now)) {
        return source_fail(reterr, CLI_FINDING, "what attnd says of its maps makes no sense");
    }
    const msgpack_object *values = mpk_find(result, "values");
    size_t bytes;
    bool same = now.queries == layer->queries && now.keys == layer->keys &&
                now.rows == layer->rows && now.columns == layer->columns;
    if (!same || !values || values->type != MSGPACK_OBJECT_BIN ||
        __builtin_mul_overflow((size_t)now.rows * now.columns, heads * sizeof(float), &bytes) ||
        values->via.bin.size != bytes) {
        return source_fail(reterr, CLI_FINDING,
                           "the maps of %s changed their size while they were read: ask again",
                           PLACE_LAYER(layer->id));
    }
    live->values = memory_grow(live->values, 1, bytes);
    memcpy(live->values, values->via.bin.ptr, bytes);
    live->layer = index;
    live->first_head = first_head;
    live->heads = heads;
    *layer = now;
    return CLI_OK;
}

/* All heads, or when that is too much, this one. */
static int fetch(struct live *live, struct source *source, size_t index, uint32_t head,
                 char *reterr)
{
    struct rpc_reply reply;
    struct source_layer *layer = &source->layers[index];
    uint32_t heads = layer->heads;
    live->layer = SIZE_MAX;
    enum rpc_status status = call_maps(live, source, layer->id, UINT32_MAX, &reply);
    if (status == RPC_REFUSED && strcmp(reply.code, err_slug(ERR_ARGUMENT)) == 0) {
        heads = 1;
        status = call_maps(live, source, layer->id, head, &reply);
    }
    if (status != RPC_OK) {
        return live_explain(live, status, &reply, reterr);
    }
    int code = keep_values(live, source, index, heads == 1 ? head : 0, heads, reply.result, reterr);
    rpc_reply_clear(&reply);
    return code;
}

static int live_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                     const struct sink *sink, char *reterr)
{
    struct live *live = source->own;
    (void)sample;
    if (live->layer != layer || head < live->first_head || head - live->first_head >= live->heads) {
        int code = fetch(live, source, layer, head, reterr);
        if (code != CLI_OK) {
            return code;
        }
    }
    const struct source_layer *l = &source->layers[layer];
    const float *map = live->values + (size_t)(head - live->first_head) * l->rows * l->columns;
    for (uint32_t r = 0; r < l->rows; r++) {
        sink->visit(sink->data, r, map + (size_t)r * l->columns);
    }
    return CLI_OK;
}

/* Opening ------------------------------------------------------------------------------------- */

/* Asks for one head's map to learn the shape of a layer. *ret_any is false when there is no map of
 * it: then reterr says why. */
static int live_add_layer(struct live *live, struct source *source, const msgpack_object *map,
                          bool *ret_any, char *reterr)
{
    struct rpc_reply reply;
    struct source_layer layer = {0};
    *ret_any = false;
    layer.id.stack = mpk_is_str(mpk_find(map, "stack"), "encoder") ? STACK_ENCODER : STACK_DECODER;
    layer.id.site = mpk_is_str(mpk_find(map, "site"), "cross") ? SITE_CROSS : SITE_SELF;
    layer.id.layer = (uint32_t)mpk_find_u64(map, "layer");
    layer.heads = (uint32_t)mpk_find_u64(map, "heads");
    if (layer.heads == 0 || layer.heads > HEADS_TOTAL_MAX) {
        return CLI_OK;
    }
    enum rpc_status status = call_maps(live, source, layer.id, 0, &reply);
    if (status != RPC_OK) {
        int code = live_explain(live, status, &reply, reterr);
        bool none = status == RPC_REFUSED && strcmp(reply.code, err_slug(ERR_NO_MAP)) == 0;
        return none ? CLI_OK : code;
    }
    *ret_any = live_read_layer(reply.result, &layer);
    if (*ret_any) {
        size_t at = source->layer_count++; /* at its place in the order */
        for (; at > 0 && place_compare(layer.id, source->layers[at - 1].id) < 0; at--) {
            source->layers[at] = source->layers[at - 1];
        }
        labels_add_list(&layer.labels, mpk_find(reply.result, "labels"));
        source->layers[at] = layer;
    }
    rpc_reply_clear(&reply);
    return CLI_OK;
}

static int live_add_layers(struct live *live, struct source *source, const msgpack_object *run,
                           char *reterr)
{
    const msgpack_object *layers = mpk_find(run, "layers");
    uint32_t count = mpk_items(layers);
    char why[SOURCE_ERROR_MAX] = "";
    int code = CLI_OK;
    field_text(run, "run", source->run, sizeof source->run);
    source->layers = memory_new(count + 1, sizeof *source->layers);
    for (uint32_t i = 0; i < count && code == CLI_OK; i++) {
        bool any;
        code = live_add_layer(live, source, &layers->via.array.ptr[i], &any, reterr);
        if (code == CLI_OK && !any && !*why) {
            snprintf(why, sizeof why, "%s", reterr);
        }
    }
    if (code != CLI_OK || source->layer_count > 0) {
        return code;
    }
    return source_fail(reterr, CLI_FINDING, "%s", *why ? why : "attnd has no layer of this job");
}

int source_open_daemon(const struct source_request *request, struct source *source, char *reterr)
{
    static const struct source_ops ops = {live_rows, NULL, free_live};
    struct rpc_reply reply;
    if (request->at_step) {
        return source_fail(reterr, CLI_USAGE,
                           "--step: a running attnd has the newest maps only; attnctl record keeps "
                           "all of them in a file");
    }
    struct live *live = memory_new(1, sizeof *live);
    live->cli = *request->cli;
    live->job = request->job;
    live->layer = SIZE_MAX;
    live->cli.rpc = &live->rpc;
    enum rpc_status status = cli_open(request->cli->args, &live->rpc);
    if (status != RPC_OK) {
        int code = live_explain(live, status, &reply, reterr);
        free(live);
        return code;
    }
    source->kind = SOURCE_DAEMON;
    source->ops = &ops;
    source->own = live;
    status = rpc_call(&live->rpc, "jobs", NULL, &reply);
    if (status != RPC_OK) {
        return live_explain(live, status, &reply, reterr);
    }
    const msgpack_object *run = field_run(reply.result, request->job, request->run);
    int code;
    if (run) {
        code = live_add_layers(live, source, run, reterr);
    } else if (request->run) {
        code = source_fail(reterr, CLI_FINDING,
                           "attnd knows no run %.32s of a job '%.80s' (see attnctl jobs)",
                           request->run, request->job);
    } else {
        code = source_fail(reterr, CLI_FINDING, "no such job: '%.80s' (see attnctl jobs)",
                           request->job);
    }
    rpc_reply_clear(&reply);
    return code;
}
