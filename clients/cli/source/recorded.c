/* SPDX-License-Identifier: MIT */
/* recorded: maps in a recording. Its headers are read once to find the newest messages of each
 * layer, or those of the requested step; their places in the file are kept, and a message is read
 * again for its map.
 *
 * Heads that are split over ranks come in several messages of one step: all are pieces of the
 * layer. Where ranks have the same heads of other data, the lowest rank counts. */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/system.h"
#include "proto/playback.h"
#include "proto/result.h"
#include "proto/utf8.h"
#include "workers/linear/spectrum.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One message. */
struct recorded_piece {
    uint64_t at; /* in the file */
    uint32_t first_head, heads, rank;
};

struct recorded_layer {
    struct source_layer layer;
    uint32_t microbatch;
    struct recorded_piece *pieces; /* [piece_count]; owned */
    uint32_t piece_count;
};

struct recording {
    struct playback playback;
    struct recorded_layer *layers; /* [layer_count]; owned */
    size_t layer_count, layer_room;
    /* the message that is in memory */
    uint64_t loaded; /* its place; 0 = none is */
    struct recorded message;
    struct header header;
    /* while it is read through */
    const struct source_request *request;
    uint8_t (*runs)[RUN_BYTES]; /* [run_count]; owned; those that were seen, the newest last */
    size_t run_count;
    uint64_t step_before, step_behind; /* nearest to the one that is asked for; UINT64_MAX = none */
    uint64_t maps;                     /* messages with a map */
};

static void clear_layers(struct recording *recording)
{
    for (size_t i = 0; i < recording->layer_count; i++) {
        free(recording->layers[i].pieces);
    }
    recording->layer_count = 0;
}

static void free_recording(void *own)
{
    struct recording *recording = own;
    clear_layers(recording);
    free(recording->layers);
    free(recording->runs);
    header_clear(&recording->header);
    playback_close(&recording->playback);
    free(recording);
}

/* Messages ------------------------------------------------------------------------------------ */

/* Whether a message carries a whole map of attention that can be read: q_stride is 0 in other
 * types, above 1 of a sample of rows. On true the header is the caller's to clear. */
static bool recorded_decode(const struct recorded *message, struct header *ret_header)
{
    const char *key;
    size_t bytes[RECORDING_FRAMES_MAX];
    if (message->frame_count < 2 ||
        header_decode(message->frames[1].data, message->frames[1].size, ret_header, &key) != 0) {
        return false;
    }
    for (uint32_t i = 2; i < message->frame_count; i++) {
        bytes[i - 2] = message->frames[i].size;
    }
    if (ret_header->q_stride == 1 &&
        header_check_frames(ret_header, bytes, message->frame_count - 2) == 0) {
        return true;
    }
    header_clear(ret_header);
    return false;
}

static const void *recorded_frame_of(const struct recording *recording, enum tensor_role role)
{
    uint32_t frame = header_frame_of(&recording->header, role);
    return frame ? recording->message.frames[frame].data : NULL;
}

static enum dtype recorded_dtype_of(const struct header *header, enum tensor_role role)
{
    uint32_t frame = header_frame_of(header, role);
    return frame ? header->tensors[frame - 2].dtype : DTYPE_F32;
}

#define CHANGED "the recording was changed while it was read"

static int recorded_load(struct recording *recording, uint64_t at, char *reterr)
{
    char error[PLAYBACK_ERROR_MAX] = "";
    if (recording->loaded == at) {
        return CLI_OK;
    }
    recording->loaded = 0;
    header_clear(&recording->header);
    playback_seek(&recording->playback, at);
    if (playback_next(&recording->playback, &recording->message, error) == PLAYBACK_MESSAGE &&
        recorded_decode(&recording->message, &recording->header)) {
        recording->loaded = at;
        return CLI_OK;
    }
    return source_fail(reterr, CLI_USAGE, "%s", *error ? error : CHANGED);
}

/* Maps ---------------------------------------------------------------------------------------- */

/* The message in memory, as the engine sees it. */
static struct attention recorded_attention(const struct recording *recording)
{
    const struct header *h = &recording->header;
    return (struct attention){
        .weights = recorded_frame_of(recording, TENSOR_WEIGHTS),
        .dtype = recorded_dtype_of(h, TENSOR_WEIGHTS),
        .qk = {.q = recorded_frame_of(recording, TENSOR_Q),
               .k = recorded_frame_of(recording, TENSOR_K),
               .q_dtype = recorded_dtype_of(h, TENSOR_Q),
               .k_dtype = recorded_dtype_of(h, TENSOR_K),
               .kv_heads = h->kv_heads,
               .head_dim = h->head_dim,
               .scale = h->scale,
               .softcap = h->softcap},
        .batch = h->batch,
        .heads = h->heads,
        .queries = h->queries,
        .keys = h->keys,
        .self = h->layer.site == SITE_SELF,
        .q_offset = h->q_offset,
        .causal = h->causal,
        .window = h->window,
        .q_len = h->q_len,
        .k_len = h->k_len,
        .mask = recorded_frame_of(recording, TENSOR_MASK),
        .documents = recorded_frame_of(recording, TENSOR_DOCUMENTS),
    };
}

static bool is_alike(const struct header *header, const struct source_layer *layer)
{
    return header->type == layer->tier && header->batch == layer->batch &&
           header->heads_total == layer->heads && header->queries == layer->queries &&
           header->keys == layer->keys;
}

/* A file that is written again meanwhile may have another message at the same place. */
static int recorded_load_piece(struct recording *recording, const struct recorded_layer *layer,
                               const struct recorded_piece *piece, char *reterr)
{
    int code = recorded_load(recording, piece->at, reterr);
    const struct header *header = &recording->header;
    bool same = place_compare(header->layer, layer->layer.id) == 0 &&
                is_alike(header, &layer->layer) && header->head_offset == piece->first_head &&
                header->heads == piece->heads;
    return code == CLI_OK && !same ? source_fail(reterr, CLI_USAGE, CHANGED) : code;
}

static int recording_trim(struct source *source, size_t layer, uint32_t sample, char *reterr)
{
    struct recording *recording = source->own;
    const struct recorded_layer *from = &recording->layers[layer];
    struct source_layer *l = &source->layers[layer];
    int code = recorded_load_piece(recording, from, &from->pieces[0], reterr);
    if (code != CLI_OK) {
        return code;
    }
    struct attention a = recorded_attention(recording);
    struct attention_extent shown = attention_extent(&a, sample);
    *l = from->layer;
    if (shown.query == shown.query_end || shown.key == shown.key_end) {
        return source_fail(reterr, CLI_USAGE,
                           "--sample: sample %" PRIu32 " of %s is all padding (--padding shows it)",
                           sample, PLACE_LAYER(l->id));
    }
    uint64_t position = (uint64_t)l->q_offset + shown.query;
    l->first_query = shown.query;
    l->first_key = shown.key;
    l->rows = l->queries = shown.query_end - shown.query;
    l->columns = l->keys = shown.key_end - shown.key;
    l->padding_queries = a.queries - l->queries;
    l->padding_keys = a.keys - l->keys;
    if (a.self) {
        l->q_offset = position > shown.key ? (uint32_t)(position - shown.key) : 0;
    }
    return CLI_OK;
}

static int recording_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                          const struct sink *sink, char *reterr)
{
    struct recording *recording = source->own;
    const struct recorded_layer *l = &recording->layers[layer];
    for (uint32_t i = 0; i < l->piece_count; i++) {
        const struct recorded_piece *piece = &l->pieces[i];
        if (head < piece->first_head || head - piece->first_head >= piece->heads) {
            continue;
        }
        int code = recorded_load_piece(recording, l, piece, reterr);
        if (code != CLI_OK) {
            return code;
        }
        struct attention a = recorded_attention(recording);
        source_give(&a, &source->layers[layer], sample, head - piece->first_head, sink);
        return CLI_OK;
    }
    return source_fail(reterr, CLI_USAGE,
                       "the recording has no head %" PRIu32 " of %s at step %" PRIu64
                       ": heads come in slices over ranks",
                       head, PLACE_LAYER(l->layer.id), l->layer.step);
}

/* Choosing messages --------------------------------------------------------------------------- */

/* Whether the run is the one that is looked at. A new one is, unless another was requested; then
 * everything of earlier ones is forgotten. */
static bool choose_run(struct recording *recording, const struct header *header)
{
    char hex[2 * RUN_BYTES + 1];
    const char *wanted = recording->request->run ? recording->request->run : "";
    run_hex(header->run, hex);
    if (strncmp(hex, wanted, strlen(wanted)) != 0) {
        return false;
    }
    for (size_t i = 0; i < recording->run_count; i++) {
        if (memcmp(recording->runs[i], header->run, RUN_BYTES) == 0) {
            return i + 1 == recording->run_count;
        }
    }
    recording->runs =
        memory_grow(recording->runs, recording->run_count + 1, sizeof *recording->runs);
    memcpy(recording->runs[recording->run_count++], header->run, RUN_BYTES);
    clear_layers(recording);
    recording->maps = 0;
    recording->step_before = recording->step_behind = UINT64_MAX;
    return true;
}

static struct recorded_layer *recorded_find_layer(struct recording *recording, struct layer_id id)
{
    for (size_t i = 0; i < recording->layer_count; i++) {
        if (place_compare(recording->layers[i].layer.id, id) == 0) {
            return &recording->layers[i];
        }
    }
    if (recording->layer_count == recording->layer_room) {
        size_t room = recording->layer_room ? 2 * recording->layer_room : 16;
        recording->layers = memory_grow(recording->layers, room, sizeof *recording->layers);
        recording->layer_room = room;
    }
    struct recorded_layer *layer = &recording->layers[recording->layer_count++];
    *layer = (struct recorded_layer){.layer = {.id = id}};
    return layer;
}

static void take_map(struct recording *recording, const struct header *header, uint64_t at)
{
    struct recorded_layer *layer = recorded_find_layer(recording, header->layer);
    /* Tells which of two messages came later in training. */
    const uint64_t new[] = {header->epoch, header->step, header->microbatch};
    const uint64_t old[] = {layer->layer.epoch, layer->layer.step, layer->microbatch};
    int order = layer->piece_count > 0 ? 0 : 1;
    for (int i = 0; i < 3 && order == 0; i++) {
        order = (new[i] > old[i]) - (new[i] < old[i]);
    }
    if (order == 0 && !is_alike(header, &layer->layer)) {
        order = header->rank < layer->pieces[0].rank ? 1 : -1;
    }
    if (order < 0) {
        return;
    }
    if (order > 0) {
        layer->layer = (struct source_layer){
            .id = header->layer,
            .tier = header->type,
            .batch = header->batch,
            .heads = header->heads_total,
            .queries = header->queries,
            .keys = header->keys,
            .rows = header->queries,
            .columns = header->keys,
            .causal = header->causal,
            .q_offset = header->q_offset,
            .epoch = header->epoch,
            .step = header->step,
            .tolerance = header->dropout || header->learned_sink
                             ? INFINITY
                             : attention_tolerance(recorded_dtype_of(header, TENSOR_WEIGHTS)),
        };
        strcpy(layer->layer.module, header->module);
        utf8_make_plain(layer->layer.module, strlen(layer->layer.module));
        layer->microbatch = header->microbatch;
        layer->piece_count = 0;
    }
    /* Adds a message of the step that the layer has. */
    struct recorded_piece piece = {at, header->head_offset, header->heads, header->rank};
    for (uint32_t i = 0; i < layer->piece_count; i++) {
        struct recorded_piece *other = &layer->pieces[i];
        if (piece.first_head >= other->first_head + other->heads ||
            other->first_head >= piece.first_head + piece.heads) {
            continue;
        }
        /* some of the same heads */
        if (piece.rank < other->rank && other->first_head == piece.first_head &&
            other->heads == piece.heads) {
            *other = piece;
        }
        return;
    }
    layer->pieces = memory_grow(layer->pieces, layer->piece_count + 1, sizeof *layer->pieces);
    layer->pieces[layer->piece_count++] = piece;
}

static bool recorded_is_wanted(struct recording *recording, uint64_t step)
{
    const struct source_request *request = recording->request;
    recording->maps++;
    if (!request->at_step || step == request->step) {
        return true;
    }
    if (step < request->step &&
        (recording->step_before == UINT64_MAX || step > recording->step_before)) {
        recording->step_before = step;
    }
    if (step > request->step && step < recording->step_behind) {
        recording->step_behind = step;
    }
    return false;
}

static void recorded_take_message(struct recording *recording, const struct recorded *message,
                                  uint64_t at)
{
    struct header header;
    if (!recorded_decode(message, &header)) {
        return;
    }
    if (choose_run(recording, &header) && recorded_is_wanted(recording, header.step)) {
        take_map(recording, &header, at);
    }
    header_clear(&header);
}

/* Opening ------------------------------------------------------------------------------------- */

static int read_through(struct recording *recording, char *reterr)
{
    for (;;) {
        char error[PLAYBACK_ERROR_MAX];
        uint64_t at = recording->playback.at;
        switch (playback_skim(&recording->playback, &recording->message, error)) {
        case PLAYBACK_MESSAGE:
            recorded_take_message(recording, &recording->message, at);
            break;
        case PLAYBACK_END:
        case PLAYBACK_CUT: /* the recorder may still be at it */
            return CLI_OK;
        default:
            return source_fail(reterr, CLI_USAGE, "%s", error);
        }
    }
}

static int by_id(const void *a, const void *b)
{
    return place_compare(((const struct recorded_layer *)a)->layer.id,
                         ((const struct recorded_layer *)b)->layer.id);
}

static int recorded_fill_layers(struct recording *recording, struct source *source, char *reterr)
{
    if (recording->layer_count == 0) {
        const char *path = recording->playback.path;
        if (recording->maps > 0) {
            char nearest[64];
            uint64_t before = recording->step_before, behind = recording->step_behind;
            bool both = before != UINT64_MAX && behind != UINT64_MAX;
            snprintf(nearest, sizeof nearest, both ? "%" PRIu64 ", %" PRIu64 : "%" PRIu64,
                     before != UINT64_MAX ? before : behind, behind);
            return source_fail(reterr, CLI_USAGE,
                               "--step: %.300s has no map of step %" PRIu64 " (the nearest: %s)",
                               recording->playback.path, recording->request->step, nearest);
        }
        if (recording->request->run) {
            return source_fail(reterr, CLI_USAGE, "--run: %.300s has no map of a run %.32s...",
                               path, recording->request->run);
        }
        return source_fail(reterr, CLI_USAGE,
                           "%.300s: %" PRIu64
                           " messages, but no whole map of attention nor its queries and keys",
                           path, recording->playback.messages);
    }
    source->layers = memory_new(recording->layer_count, sizeof *source->layers);
    qsort(recording->layers, recording->layer_count, sizeof *recording->layers, by_id);
    for (size_t i = 0; i < recording->layer_count; i++) {
        struct recorded_layer *layer = &recording->layers[i];
        const struct recorded *message = &recording->message;
        char error[PLAYBACK_ERROR_MAX];
        struct mpk_doc doc;
        playback_seek(&recording->playback, layer->pieces[0].at);
        if (playback_skim(&recording->playback, &recording->message, error) == PLAYBACK_MESSAGE &&
            message->frame_count > 1 &&
            mpk_parse(message->frames[1].data, message->frames[1].size, &mpk_header_limits, &doc) ==
                0) {
            labels_add_list(&layer->layer.labels, mpk_find(doc.root, "labels"));
            mpk_doc_clear(&doc);
        }
        source->layers[i] = layer->layer;
    }
    source->layer_count = recording->layer_count;
    run_hex(recording->runs[recording->run_count - 1], source->run);
    return CLI_OK;
}

int source_open_recording(const struct source_request *request, struct source *source, char *reterr)
{
    static const struct source_ops ops = {recording_rows, recording_trim, free_recording};
    struct recording *recording = memory_new(1, sizeof *recording);
    char error[PLAYBACK_ERROR_MAX];
    *recording = (struct recording){
        .playback = {.fd = -1},
        .request = request,
        .step_before = UINT64_MAX,
        .step_behind = UINT64_MAX,
    };
    source->kind = SOURCE_RECORDING;
    source->ops = &ops;
    source->own = recording;
    spectrum_global_init();
    if (playback_open(request->files[0], &recording->playback, error) != 0) {
        return source_fail(reterr, CLI_USAGE, "%s", error);
    }
    int code = read_through(recording, reterr);
    if (code == CLI_OK) {
        code = recorded_fill_layers(recording, source, reterr);
    }
    recording->request = NULL;
    return code;
}
