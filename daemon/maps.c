/* SPDX-License-Identifier: MIT */
#include "maps.h"

#include "measure.h"
#include "mpk.h"

#include <stdlib.h>
#include <string.h>

/* Labels */

static size_t texts_size(const msgpack_object_array *texts)
{
    size_t size = 0;
    for (uint32_t i = 0; i < texts->size; i++)
        size += texts->ptr[i].via.str.size + 1;
    return size;
}

/* One after the other; what a text has after a NUL is cut off. */
static void copy_texts(const msgpack_object_array *texts, char *to)
{
    for (uint32_t i = 0; i < texts->size; i++) {
        const msgpack_object_str *text = &texts->ptr[i].via.str;
        size_t length = strnlen(text->ptr, text->size);
        memcpy(to, text->ptr, length);
        to[length] = '\0';
        to += length + 1;
    }
}

/* The header was decoded before, so the list is one of texts. */
char *labels_copy(struct message *message, uint32_t *ret_count)
{
    struct mpk_doc doc;
    char *labels = NULL;
    *ret_count = 0;
    if (mpk_parse(zmq_msg_data(&message->frames[1]), zmq_msg_size(&message->frames[1]),
                  &mpk_header_limits, &doc) != 0)
        return NULL;
    const msgpack_object *found = mpk_find(doc.root, "labels");
    if (found && found->type == MSGPACK_OBJECT_ARRAY && found->via.array.size > 0)
        labels = malloc(texts_size(&found->via.array));
    if (labels) {
        copy_texts(&found->via.array, labels);
        *ret_count = found->via.array.size;
    }
    mpk_doc_clear(&doc);
    return labels;
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

static void layer_maps_free(struct layer_maps *maps)
{
    head_maps_free(&maps->maps);
    free(maps->importance);
    free(maps->labels);
    free(maps);
}

void maps_remove(struct layer_maps **place)
{
    struct layer_maps *maps = *place;
    *place = NULL;
    if (!maps)
        return;
    take_off(maps);
    layer_maps_free(maps);
}

static double *copy_importance(const struct measured *measured)
{
    const double *importance = measured->value[METRIC_IMPORTANCE];
    double *copy = importance ? malloc(measured->heads * sizeof *copy) : NULL;
    if (copy)
        memcpy(copy, importance, measured->heads * sizeof *copy);
    return copy;
}

static uint64_t size_of(const struct layer_maps *maps)
{
    const struct head_maps *m = maps->maps;
    uint64_t labels = 0;
    for (uint32_t i = 0; i < maps->label_count; i++)
        labels += strlen(maps->labels + labels) + 1;
    return sizeof *maps + labels + head_maps_bytes(m->heads, m->rows, m->columns, UINT32_MAX) +
           (maps->importance ? m->heads * sizeof(double) : 0);
}

static struct layer_maps *layer_maps_new(struct message *message)
{
    const struct header *header = &message->header;
    struct layer_maps *maps = calloc(1, sizeof *maps);
    if (!maps)
        return NULL;
    *maps = (struct layer_maps){
        .maps = message->head_maps,
        .type = header->type,
        .epoch = header->epoch,
        .step = header->step,
        .time_ns = header->time_ns,
        .q_offset = header->q_offset,
        .causal = header->causal,
        .importance = copy_importance(message->measured),
        .labels = message->labels,
        .label_count = message->label_count,
    };
    message->head_maps = NULL;
    message->labels = NULL;
    maps->bytes = size_of(maps);
    return maps;
}

void maps_put(struct map_shelf *shelf, struct layer_maps **place, struct message *message)
{
    if (!message->head_maps)
        return;
    struct layer_maps *maps = layer_maps_new(message);
    maps_remove(place);
    if (!maps)
        return;
    maps->place = place;
    *place = maps;
    put_on(shelf, maps);
    while (shelf->bytes > shelf->limit && shelf->stalest)
        maps_remove(shelf->stalest->place);
}
