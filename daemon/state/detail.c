/* SPDX-License-Identifier: MIT */
#include "daemon/state/detail.h"

#include "daemon/base/block_bytes.h"

#include <stdlib.h>
#include <string.h>

/* A copy that counts towards the bytes; NULL stays NULL. Clears *ok when out of memory. */
static void *detail_copy(struct detail *detail, bool *ok, const void *from, size_t count,
                         size_t size)
{
    if (!from || !count || !*ok) {
        return NULL;
    }
    void *to = malloc(count * size);
    *ok = to != NULL;
    if (to) {
        memcpy(to, from, count * size);
    }
    detail->bytes += block_bytes(count * size);
    return to;
}

static void copy_similarity(struct detail *detail, bool *ok, const struct result_similarity *from,
                            uint32_t heads)
{
    struct result_similarity *to = &detail->similarity;
    size_t square = (size_t)heads * heads;
    *to = *from;
    to->cosine = detail_copy(detail, ok, from->cosine, square, sizeof *from->cosine);
    to->js = detail_copy(detail, ok, from->js, square, sizeof *from->js);
    to->redundant =
        detail_copy(detail, ok, from->redundant, from->redundant_count, sizeof *from->redundant);
}

static void copy_weights(struct detail *detail, bool *ok, const struct weights_result *from)
{
    struct weights_result *to = calloc(1, sizeof *to);
    detail->weights = to;
    *ok = to != NULL;
    if (!to) {
        return;
    }
    detail->bytes += block_bytes(sizeof *to);
    to->heads = from->heads;
    for (int i = 0; i < PROJECTION_COUNT; i++) {
        size_t heads = from->projection[i].heads;
        to->projection[i] = from->projection[i];
        to->projection[i].head =
            detail_copy(detail, ok, from->projection[i].head, heads, sizeof(struct spectrum));
        to->projection[i].correlation =
            detail_copy(detail, ok, from->projection[i].correlation, heads * heads, sizeof(double));
    }
    for (int i = 0; i < CIRCUIT_COUNT; i++) {
        to->circuit[i] =
            detail_copy(detail, ok, from->circuit[i], from->heads, sizeof(struct spectrum));
    }
}

struct detail *detail_new(const struct measured *measured)
{
    struct detail *detail = calloc(1, sizeof *detail);
    if (!detail) {
        return NULL;
    }
    bool ok = true;
    struct layer_numbers numbers;
    measured_numbers(measured, &numbers);
    detail->references = 1;
    detail->bytes = block_bytes(sizeof *detail);
    struct result_pairs *to = &detail->pairs;
    *to = numbers.pairs;
    to->pairs = detail_copy(detail, &ok, numbers.pairs.pairs, numbers.pairs.count,
                            sizeof *numbers.pairs.pairs);
    to->head_pairs = detail_copy(detail, &ok, numbers.pairs.head_pairs,
                                 (size_t)measured->heads * numbers.pairs.head_limit,
                                 sizeof *numbers.pairs.head_pairs);
    to->head_count = detail_copy(detail, &ok, numbers.pairs.head_count, measured->heads,
                                 sizeof *numbers.pairs.head_count);
    copy_similarity(detail, &ok, &numbers.similarity, measured->heads);
    if (ok && measured->weights) {
        copy_weights(detail, &ok, measured->weights);
    }
    if (!ok) {
        detail_release(&detail);
    }
    return detail;
}

struct detail *detail_map_new(const struct layer_map *map, const struct message *message)
{
    const struct header *header = &message->header;
    struct detail *detail = calloc(1, sizeof *detail);
    if (!detail) {
        return NULL;
    }
    bool ok = true;
    detail->references = 1;
    detail->bytes = sizeof *detail;
    detail->epoch = header->epoch;
    detail->step = header->step;
    detail->time_ns = header->time_ns;
    detail->map = *map;
    detail->map.values = detail_copy(detail, &ok, map->values, (size_t)map->rows * map->columns,
                                     sizeof *map->values);
    if (message->small_maps) {
        detail->small = small_maps_copy(message->small_maps);
        detail->bytes += block_bytes(small_maps_bytes(message->small_maps));
        ok = ok && detail->small;
    }
    if (!ok) {
        detail_release(&detail);
    }
    return detail;
}

struct detail *detail_reference(struct detail *detail)
{
    if (detail) {
        detail->references++;
    }
    return detail;
}

void detail_release(struct detail **detail_p)
{
    struct detail *detail = *detail_p;
    *detail_p = NULL;
    if (!detail || --detail->references > 0) {
        return;
    }
    free((void *)detail->pairs.pairs);
    free((void *)detail->pairs.head_pairs);
    free((void *)detail->pairs.head_count);
    free((void *)detail->similarity.cosine);
    free((void *)detail->similarity.js);
    free((void *)detail->similarity.redundant);
    if (detail->weights) {
        weights_result_clear(detail->weights);
    }
    free(detail->weights);
    free((void *)detail->map.values);
    free(detail->small);
    free(detail);
}
