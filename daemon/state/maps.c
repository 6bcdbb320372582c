/* SPDX-License-Identifier: MIT */
#include "daemon/state/maps.h"

#include "daemon/base/block_bytes.h"
#include "workers/measure.h"

#include <stdlib.h>
#include <string.h>

/* Asking */

/* Whether it is a slice of the step that is asked about, and was not asked for. */
static bool is_another(const struct map_place *place, const struct header *header)
{
    return place->asked && place->asked_first && header_map_heads(header) < header->heads_total &&
           place->asked_epoch == header->epoch && place->asked_step == header->step &&
           place->asked_microbatch == header->microbatch &&
           place->asked_heads == header->heads_total && !place->asked_first[header->head_offset];
}

bool maps_wanted(struct map_place *place, const struct header *header, uint64_t every_ns,
                 uint64_t now_ns)
{
    if (!is_another(place, header)) {
        if (place->asked && now_ns - place->asked_ns < every_ns) {
            return false;
        }
        /* Begins a round, in which no slice has been asked for. */
        free(place->asked_first);
        place->asked_first = NULL;
        place->asked = true;
        place->asked_ns = now_ns;
        place->asked_epoch = header->epoch;
        place->asked_step = header->step;
        place->asked_microbatch = header->microbatch;
        place->asked_heads = header->heads_total;
        if (header_map_heads(header) < header->heads_total) {
            place->asked_first = calloc(header->heads_total, sizeof *place->asked_first);
        }
    }
    if (place->asked_first) {
        place->asked_first[header->head_offset] = true;
    }
    return true;
}

/* The shelf */

static void take_off(struct layer_maps *maps)
{
    struct map_shelf *shelf = maps->shelf;
    *(maps->newer ? &maps->newer->staler : &shelf->newest) = maps->staler;
    *(maps->staler ? &maps->staler->newer : &shelf->stalest) = maps->newer;
    shelf->bytes -= maps->bytes;
}

static void put_on(struct map_shelf *shelf, struct layer_maps *maps)
{
    maps->shelf = shelf;
    maps->newer = NULL;
    maps->staler = shelf->newest;
    *(shelf->newest ? &shelf->newest->newer : &shelf->stalest) = maps;
    shelf->newest = maps;
    shelf->bytes += maps->bytes;
}

static void layer_maps_remove(struct layer_maps **place)
{
    struct layer_maps *maps = *place;
    *place = NULL;
    if (!maps) {
        return;
    }
    if (maps->shelf) {
        take_off(maps);
    }
    while (maps->slices) {
        struct map_slice *slice = maps->slices;
        maps->slices = slice->next;
        head_maps_free(&slice->maps);
        free(slice->importance);
        free(slice);
    }
    free(maps->labels);
    free(maps->q_labels);
    free(maps);
}

static void maps_move(struct layer_maps **from, struct layer_maps **to)
{
    layer_maps_remove(to);
    *to = *from;
    *from = NULL;
    if (*to) {
        (*to)->place = to;
    }
}

void maps_clear(struct map_place *place)
{
    layer_maps_remove(&place->shown);
    layer_maps_remove(&place->coming);
    free(place->asked_first);
    *place = (struct map_place){.shown = NULL};
}

/* Putting */

static uint64_t labels_bytes(const char *labels, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += strlen(labels + bytes) + 1;
    }
    return labels ? block_bytes(bytes) : 0;
}

/* Takes the maps of the message. */
static struct map_slice *slice_new(struct message *message, const double *importance)
{
    struct map_slice *slice = calloc(1, sizeof *slice);
    if (!slice) {
        return NULL;
    }
    slice->maps = message->head_maps;
    slice->first = message->header.head_offset;
    message->head_maps = NULL;
    if (importance) {
        slice->importance = malloc(slice->maps->heads * sizeof *importance);
    }
    if (slice->importance) {
        memcpy(slice->importance, importance, slice->maps->heads * sizeof *importance);
    }
    return slice;
}

/* Where the first query stands that is shown: among the keys of self-attention, which begin where
 * padding before them ends. */
static uint32_t offset_shown(const struct header *header, const struct head_maps *maps)
{
    uint64_t position = (uint64_t)header->q_offset + maps->first_query;
    if (header->layer.site != SITE_SELF) {
        return header->q_offset;
    }
    return position > maps->first_key ? (uint32_t)(position - maps->first_key) : 0;
}

/* Makes an empty one for the message's layer and step; takes its labels, which are of the first
 * sample. */
static struct layer_maps *layer_maps_new(struct message *message)
{
    const struct header *header = &message->header;
    struct layer_maps *maps = calloc(1, sizeof *maps);
    if (!maps) {
        return NULL;
    }
    *maps = (struct layer_maps){
        .heads = header->heads_total,
        .type = header->type,
        .epoch = header->epoch,
        .step = header->step,
        .time_ns = header->time_ns,
        .microbatch = header->microbatch,
        .sample = (uint32_t)header_sample_number(header, message->head_maps->sample),
        .batch = header->whole_batch,
        .q_offset = offset_shown(header, message->head_maps),
        .causal = header->causal,
        .labels = message->labels,
        .q_labels = message->q_labels,
        .label_count = message->label_count,
        .q_label_count = message->q_label_count,
    };
    message->labels = message->q_labels = NULL;
    maps->bytes = block_bytes(sizeof *maps) + labels_bytes(maps->labels, maps->label_count) +
                  labels_bytes(maps->q_labels, maps->q_label_count);
    return maps;
}

static bool belongs(const struct layer_maps *maps, const struct message *message)
{
    const struct header *header = &message->header;
    const struct head_maps *new = message->head_maps, *old = maps ? maps_shape(maps) : NULL;
    return maps && maps->here < maps->heads && maps->heads == header->heads_total &&
           maps->type == header->type && maps->epoch == header->epoch &&
           maps->step == header->step && maps->microbatch == header->microbatch &&
           old->sample == new->sample && old->queries == new->queries && old->keys == new->keys &&
           old->first_query == new->first_query && old->first_key == new->first_key;
}

/* Where a slice goes: before the first that begins after it. NULL when it has a head that is
 * here. */
static struct map_slice **link_for(struct layer_maps *maps, uint32_t first, uint32_t heads)
{
    struct map_slice **link = &maps->slices;
    uint32_t end = 0;
    while (*link && (*link)->first < first) {
        end = (*link)->first + (*link)->maps->heads;
        link = &(*link)->next;
    }
    return end > first || (*link && (*link)->first < first + heads) ? NULL : link;
}

/* Adds the message's heads; false when they are here already, or there is no memory. Maps on the
 * shelf are moved to its newest end. */
static bool add_slice(struct layer_maps *maps, struct message *message, const double *importance)
{
    struct map_slice **link =
        link_for(maps, message->header.head_offset, message->head_maps->heads);
    struct map_slice *slice = link ? slice_new(message, importance) : NULL;
    if (!slice) {
        return false;
    }
    if (maps->shelf) {
        take_off(maps);
    }
    slice->next = *link;
    *link = slice;
    maps->here += slice->maps->heads;
    const struct head_maps *m = slice->maps;
    maps->bytes += block_bytes(sizeof *slice) +
                   block_bytes(head_maps_bytes(m->heads, m->rows, m->columns, UINT32_MAX)) +
                   (slice->importance ? block_bytes(m->heads * sizeof *slice->importance) : 0);
    if (maps->shelf) {
        put_on(maps->shelf, maps);
    }
    return true;
}

/* A new step begins: what came of the one before is all there will be. */
static bool maps_begin(struct map_shelf *shelf, struct map_place *place, struct message *message,
                       const double *importance)
{
    struct layer_maps *maps = layer_maps_new(message);
    if (!maps || !add_slice(maps, message, importance)) {
        layer_maps_remove(&maps);
        place->missing = MAPS_NO_MEMORY;
        return false;
    }
    if (place->coming) {
        maps_move(&place->coming, &place->shown);
    }
    place->coming = maps;
    maps->place = &place->coming;
    put_on(shelf, maps);
    return true;
}

void maps_put(struct map_shelf *shelf, struct map_place *place, struct message *message,
              const double *importance, uint32_t qk_max_size)
{
    if (!message->wants_head_maps && header_map_heads(&message->header) > 0) {
        return;
    }
    if (!message->head_maps) {
        bool too_long = message->header.queries > qk_max_size || message->header.keys > qk_max_size;
        if (message->header.q_stride > 1) {
            place->missing = MAPS_SAMPLED;
        } else if (header_brings_maps(&message->header) && place->missing == MAPS_NEVER_CAME) {
            place->missing = MAPS_NOT_SENT;
        } else if (message->header.type == MESSAGE_QK) {
            place->missing = too_long ? MAPS_TOO_LONG : MAPS_TOO_COSTLY;
        }
        return;
    }
    struct layer_maps *begun = belongs(place->shown, message)    ? place->shown
                               : belongs(place->coming, message) ? place->coming
                                                                 : NULL;
    bool put = begun ? add_slice(begun, message, importance)
                     : maps_begin(shelf, place, message, importance);
    if (!put) {
        return;
    }
    if (place->coming && (place->coming->here == place->coming->heads || !place->shown)) {
        maps_move(&place->coming, &place->shown);
    }
    place->missing = MAPS_EVICTED; /* should they be missing later */
    /* A map that is too large for the shelf by itself costs no other layer its maps. `place` is of
     * the newest that is there. */
    if (shelf->newest->bytes > shelf->limit) {
        layer_maps_remove(shelf->newest->place);
        place->missing = MAPS_TOO_LARGE;
    }
    while (shelf->bytes > shelf->limit) {
        layer_maps_remove(shelf->stalest->place);
    }
}

const struct map_slice *maps_find(const struct layer_maps *maps, uint32_t head)
{
    for (const struct map_slice *slice = maps->slices; slice; slice = slice->next) {
        if (head >= slice->first && head - slice->first < slice->maps->heads) {
            return slice;
        }
    }
    return NULL;
}
