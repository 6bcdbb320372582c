/* SPDX-License-Identifier: MIT */
#include "daemon/state/detail.h"

#include "daemon/base/block_bytes.h"
#include "proto/err.h"
#include "daemon/state/stored.h"

#include <stdlib.h>
#include <string.h>

/* A detail as a MessagePack map: lists and matrices as binaries, in the layout of their structs. */
_Static_assert(sizeof(struct pair) == 16, "u32, u32, f64 without a hole");
_Static_assert(sizeof(struct redundant_pair) == 16, "u32, u32, f64 without a hole");
_Static_assert(sizeof(struct spectrum) % sizeof(double) == 0, "numbers only");

/* Numbers of a projection that are not lists. */
#define PROJECTION_NUMBERS 3

/* One reference; NULL when out of memory. */
static struct detail *detail_empty(void)
{
    struct detail *detail = calloc(1, sizeof *detail);
    if (detail) {
        detail->references = 1;
        detail->bytes = block_bytes(sizeof *detail);
    }
    return detail;
}

/* Writing */

static void detail_pack_put_projection(const struct projection_result *p, struct mpk_writer *writer)
{
    if (!p->present) {
        mpk_put_nil(writer);
        return;
    }
    const double numbers[PROJECTION_NUMBERS] = {p->eigenvalue_min, p->eigenvalue_max,
                                                p->correlation_mean};
    mpk_put_map(writer, 5);
    stored_put(writer, "whole", &p->whole, 1, sizeof p->whole);
    stored_put(writer, "numbers", numbers, PROJECTION_NUMBERS, sizeof numbers[0]);
    mpk_pair_u64(writer, "heads", p->heads);
    stored_put(writer, "head", p->head, p->heads, sizeof *p->head);
    stored_put(writer, "correlation", p->correlation, (uint64_t)p->heads * p->heads,
               sizeof *p->correlation);
}

void detail_pack(const struct detail *detail, uint32_t heads, struct mpk_writer *writer)
{
    if (!detail) {
        mpk_put_nil(writer);
        return;
    }
    const struct result_pairs *pairs = &detail->pairs;
    const struct result_similarity *similarity = &detail->similarity;
    uint64_t square = (uint64_t)heads * heads;
    mpk_put_map(writer, 11);
    mpk_pair_u64(writer, "pair_count", pairs->count);
    stored_put(writer, "pairs", pairs->pairs, pairs->count, sizeof *pairs->pairs);
    mpk_pair_u64(writer, "head_limit", pairs->head_limit);
    stored_put(writer, "head_pairs", pairs->head_pairs, (uint64_t)heads * pairs->head_limit,
               sizeof *pairs->head_pairs);
    stored_put(writer, "head_count", pairs->head_count, heads, sizeof *pairs->head_count);
    stored_put(writer, "cosine", similarity->cosine, square, sizeof *similarity->cosine);
    stored_put(writer, "js", similarity->js, square, sizeof *similarity->js);
    mpk_pair_u64(writer, "redundant_count", similarity->redundant_count);
    stored_put(writer, "redundant", similarity->redundant, similarity->redundant_count,
               sizeof *similarity->redundant);
    mpk_pair_u64(writer, "redundant_total", similarity->redundant_total);
    const struct weights_result *weights = detail->weights;
    mpk_put_str(writer, "weights");
    if (!weights) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_map(writer, (int)PROJECTION_COUNT + CIRCUIT_COUNT + 1);
    mpk_pair_u64(writer, "heads", weights->heads);
    for (int i = 0; i < PROJECTION_COUNT; i++) {
        mpk_put_str(writer, projection_name[i]);
        detail_pack_put_projection(&weights->projection[i], writer);
    }
    for (int i = 0; i < CIRCUIT_COUNT; i++) {
        stored_put(writer, circuit_name[i], weights->circuit[i], weights->heads,
                   sizeof *weights->circuit[i]);
    }
}

/* Reading */

/* Adds to the memory of the detail what it copies. */
static void detail_pack_copy(struct detail *detail, struct stored *in, const char *key,
                             uint64_t count, size_t size, void *ret_copy)
{
    void *copy = NULL;
    stored_copy(in, key, count, size, &copy);
    if (copy) {
        memcpy(ret_copy, &copy, sizeof copy);
        detail->bytes += block_bytes(count * size);
    }
}

static int get_projection(struct detail *detail, const msgpack_object *map,
                          struct projection_result *p)
{
    double numbers[PROJECTION_NUMBERS];
    struct stored in = {map, 0};
    if (!map || map->type == MSGPACK_OBJECT_NIL) {
        return map ? 0 : ERR_STORE_FORMAT;
    }
    stored_fill(&in, "whole", &p->whole, sizeof p->whole);
    stored_fill(&in, "numbers", numbers, sizeof numbers);
    stored_u32(&in, "heads", UINT32_MAX, &p->heads);
    detail_pack_copy(detail, &in, "head", p->heads, sizeof *p->head, &p->head);
    detail_pack_copy(detail, &in, "correlation", (uint64_t)p->heads * p->heads,
                     sizeof *p->correlation, &p->correlation);
    if (in.code) {
        return in.code;
    }
    p->present = true;
    p->eigenvalue_min = numbers[0];
    p->eigenvalue_max = numbers[1];
    p->correlation_mean = numbers[2];
    return p->heads > 0 && (!p->head || !p->correlation) ? ERR_STORE_FORMAT : 0;
}

static int get_weights(struct detail *detail, const msgpack_object *map)
{
    struct stored in = {map, 0};
    if (!map || map->type == MSGPACK_OBJECT_NIL) {
        return map ? 0 : ERR_STORE_FORMAT;
    }
    struct weights_result *to = detail->weights = calloc(1, sizeof *to);
    if (!to) {
        return ERR_MEMORY;
    }
    detail->bytes += block_bytes(sizeof *to);
    stored_u32(&in, "heads", UINT32_MAX, &to->heads);
    for (int i = 0; i < PROJECTION_COUNT && !in.code; i++) {
        in.code = get_projection(detail, mpk_find(map, projection_name[i]), &to->projection[i]);
    }
    for (int i = 0; i < CIRCUIT_COUNT; i++) {
        detail_pack_copy(detail, &in, circuit_name[i], to->heads, sizeof *to->circuit[i],
                         &to->circuit[i]);
    }
    return in.code;
}

int detail_unpack(const msgpack_object *map, uint32_t heads, struct detail **ret_detail)
{
    *ret_detail = NULL;
    if (!map || map->type == MSGPACK_OBJECT_NIL) {
        return map ? 0 : ERR_STORE_FORMAT;
    }
    struct detail *detail = detail_empty();
    if (!detail) {
        return ERR_MEMORY;
    }
    struct stored in = {map, 0};
    struct result_pairs *pairs = &detail->pairs;
    stored_u32(&in, "pair_count", TOP_PAIRS_MAX, &pairs->count);
    detail_pack_copy(detail, &in, "pairs", pairs->count, sizeof *pairs->pairs, &pairs->pairs);
    stored_u32(&in, "head_limit", TOP_PAIRS_MAX, &pairs->head_limit);
    detail_pack_copy(detail, &in, "head_pairs", (uint64_t)heads * pairs->head_limit,
                     sizeof *pairs->head_pairs, &pairs->head_pairs);
    detail_pack_copy(detail, &in, "head_count", heads, sizeof *pairs->head_count,
                     &pairs->head_count);
    stored_note(&in, !pairs->head_pairs == !pairs->head_count ? 0 : ERR_STORE_FORMAT);
    for (uint32_t h = 0; pairs->head_count && h < heads; h++) {
        stored_note(&in, pairs->head_count[h] > pairs->head_limit ? ERR_STORE_FORMAT : 0);
    }
    struct result_similarity *to = &detail->similarity;
    uint64_t square = (uint64_t)heads * heads;
    detail_pack_copy(detail, &in, "cosine", square, sizeof *to->cosine, &to->cosine);
    detail_pack_copy(detail, &in, "js", square, sizeof *to->js, &to->js);
    stored_note(&in, !to->cosine == !to->js ? 0 : ERR_STORE_FORMAT);
    stored_u32(&in, "redundant_count", REDUNDANT_PAIRS_MAX, &to->redundant_count);
    detail_pack_copy(detail, &in, "redundant", to->redundant_count, sizeof *to->redundant,
                     &to->redundant);
    stored_u32(&in, "redundant_total", UINT32_MAX, &to->redundant_total);
    stored_note(&in, !to->redundant_count || to->redundant ? 0 : ERR_STORE_FORMAT);
    if (!in.code) {
        in.code = get_weights(detail, mpk_find(map, "weights"));
    }
    if (in.code) {
        detail_release(&detail);
    } else {
        *ret_detail = detail;
    }
    return in.code;
}

/* Puts a copy that counts towards the bytes in place of what the pointer at `pointer` borrows; NULL
 * stays NULL. Clears *ok when out of memory. */
static void detail_own(struct detail *detail, bool *ok, void *pointer, size_t count, size_t size)
{
    const void *from;
    memcpy(&from, pointer, sizeof from);
    bool some = from && count > 0;
    void *to = some && *ok ? malloc(count * size) : NULL;
    if (to) {
        memcpy(to, from, count * size);
        detail->bytes += block_bytes(count * size);
    }
    *ok = *ok && (to || !some);
    memcpy(pointer, &to, sizeof to);
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
    *to = *from;
    for (int i = 0; i < PROJECTION_COUNT; i++) {
        struct projection_result *p = &to->projection[i];
        detail_own(detail, ok, &p->head, p->heads, sizeof *p->head);
        detail_own(detail, ok, &p->correlation, (size_t)p->heads * p->heads,
                   sizeof *p->correlation);
    }
    for (int i = 0; i < CIRCUIT_COUNT; i++) {
        detail_own(detail, ok, &to->circuit[i], to->heads, sizeof *to->circuit[i]);
    }
}

struct detail *detail_new(const struct measured *measured)
{
    struct detail *detail = detail_empty();
    if (!detail) {
        return NULL;
    }
    bool ok = true;
    size_t heads = measured->heads;
    struct layer_numbers numbers;
    measured_numbers(measured, &numbers);
    struct result_pairs *pairs = &detail->pairs;
    struct result_similarity *similar = &detail->similarity;
    *pairs = numbers.pairs;
    *similar = numbers.similarity;
    detail_own(detail, &ok, &pairs->pairs, pairs->count, sizeof *pairs->pairs);
    detail_own(detail, &ok, &pairs->head_pairs, heads * pairs->head_limit,
               sizeof *pairs->head_pairs);
    detail_own(detail, &ok, &pairs->head_count, heads, sizeof *pairs->head_count);
    detail_own(detail, &ok, &similar->cosine, heads * heads, sizeof *similar->cosine);
    detail_own(detail, &ok, &similar->js, heads * heads, sizeof *similar->js);
    detail_own(detail, &ok, &similar->redundant, similar->redundant_count,
               sizeof *similar->redundant);
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
    struct detail *detail = detail_empty();
    if (!detail) {
        return NULL;
    }
    bool ok = true;
    detail->epoch = header->epoch;
    detail->step = header->step;
    detail->time_ns = header->time_ns;
    detail->map = *map;
    detail_own(detail, &ok, &detail->map.values, (size_t)map->rows * map->columns,
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
