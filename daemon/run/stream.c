/* SPDX-License-Identifier: MIT */
#include "daemon/run/stream.h"

#include <stdlib.h>
#include <string.h>

struct stream *stream_find(struct stream *streams, struct layer_id id)
{
    uint32_t key = header_layer_key(id);
    struct stream *stream = NULL;
    HASH_FIND(hh, streams, &key, sizeof key, stream);
    return stream;
}

static void stream_free(struct stream *stream, uint32_t tracks)
{
    for (uint32_t t = 0; stream->tracks && t < tracks; t++) {
        drift_free(&stream->tracks[t].drift);
        sequences_clear(&stream->tracks[t].restored);
    }
    maps_clear(&stream->maps);
    sketch_free(&stream->sketch);
    sequences_clear(&stream->sequences);
    sequences_clear(&stream->reliable);
    promises_free(&stream->promises);
    free(stream->spectrum_next);
    free(stream->module);
    free(stream->tracks);
    free(stream);
}

struct stream *stream_add(struct stream **streams, struct layer_id id, uint32_t heads,
                          uint32_t tracks, uint64_t now_ns)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        return NULL;
    }
    *stream = (struct stream){.key = header_layer_key(id),
                              .index = HASH_COUNT(*streams),
                              .id = id,
                              .heads = heads,
                              .last_ns = now_ns};
    stream->tracks = calloc(tracks, sizeof *stream->tracks);
    for (uint32_t t = 0; stream->tracks && t < tracks; t++) {
        stream->tracks[t].unsaved = true;
    }
    if (stream->tracks) {
        HASH_ADD(hh, *streams, key, sizeof stream->key, stream);
    }
    if (!stream->tracks || !stream->hh.tbl) {
        stream_free(stream, tracks);
        return NULL;
    }
    return stream;
}

uint64_t stream_bytes(uint32_t tracks)
{
    return sizeof(struct stream) + MODULE_MAX + tracks * sizeof(struct layer_track);
}

void stream_free_all(struct stream **streams, uint32_t tracks)
{
    struct stream *stream, *next;
    HASH_ITER(hh, *streams, stream, next)
    {
        HASH_DEL(*streams, stream);
        stream_free(stream, tracks);
    }
}

bool stream_set_module(struct stream *stream, const char *module, size_t len)
{
    const char *known = stream->module;
    bool same = known && strlen(known) == len && memcmp(known, module, len) == 0;
    char *copy = same ? NULL : strndup(module, len);
    if (!copy) {
        return false;
    }
    free(stream->module);
    stream->module = copy;
    return true;
}

void stream_set_heads(struct stream *stream, uint32_t heads)
{
    if (stream->heads != heads) {
        free(stream->spectrum_next);
        stream->spectrum_next = NULL;
        stream->heads = heads;
    }
}

uint32_t stream_spectrum_turn(const struct stream *stream, uint32_t head_offset)
{
    bool known = stream && stream->spectrum_next && head_offset < stream->heads;
    return known ? stream->spectrum_next[head_offset] : 0;
}

/* Without memory turns begin with the first head: no harm. */
void stream_end_spectrum_turn(struct stream *stream, uint32_t head_offset, uint32_t next)
{
    if (!stream->spectrum_next) {
        stream->spectrum_next = calloc(stream->heads, sizeof *stream->spectrum_next);
    }
    if (stream->spectrum_next) {
        stream->spectrum_next[head_offset] = next;
    }
}

void counts_merge(struct counts *into, const struct counts *from)
{
    into->received += from->received;
    into->processed += from->processed;
    tally_merge(&into->tally, &from->tally);
}
