/* SPDX-License-Identifier: MIT */
/* Means combine as those of all numbers do (workers/stats/dist.h), by the pairwise update, so that
 * the same parts in the same order give the same bits. */
#include "daemon/state/rank_entropy.h"

#include "daemon/base/block_bytes.h"
#include "daemon/state/stat_set.h"
#include "proto/err.h"
#include "proto/header.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MOST (UINT64_C(1) << 53)

enum { RANK_ENTROPY_KEYS = 4, RANK_ENTROPY_HEAD_BYTES = sizeof(uint64_t) + sizeof(double) };

static void rank_entropy_free_one(struct rank_means *means)
{
    free(means->rows);
    *means = (struct rank_means){0};
}

void rank_entropy_clear(struct rank_entropy *entropy)
{
    for (uint32_t i = 0; i < entropy->count; i++) {
        rank_entropy_free_one(&entropy->means[i]);
    }
    free(entropy->means);
    *entropy = (struct rank_entropy){0};
}

uint64_t rank_entropy_bytes(const struct rank_entropy *entropy)
{
    uint64_t bytes = block_bytes((uint64_t)entropy->count * sizeof *entropy->means);
    for (uint32_t i = 0; i < entropy->count; i++) {
        bytes += block_bytes((uint64_t)entropy->means[i].heads * RANK_ENTROPY_HEAD_BYTES);
    }
    return bytes;
}

/* Heads from `first` on, what was there included. */
static int rank_entropy_widen(struct rank_means *means, uint32_t first, uint32_t heads)
{
    uint32_t end = first + heads, had = means->first, had_heads = means->heads;
    if (had_heads > 0) {
        first = first < had ? first : had;
        end = end > had + had_heads ? end : had + had_heads;
    }
    if (end - first == had_heads) {
        return 0;
    }
    heads = end - first;
    uint64_t *rows = calloc(heads, RANK_ENTROPY_HEAD_BYTES);
    if (!rows) {
        return ERR_MEMORY;
    }
    double *mean = (double *)(rows + heads);
    if (had_heads > 0) {
        memcpy(rows + (had - first), means->rows, had_heads * sizeof *rows);
        memcpy(mean + (had - first), means->mean, had_heads * sizeof *mean);
    }
    free(means->rows);
    *means = (struct rank_means){means->rank, first, heads, rows, mean};
    return 0;
}

/* Puts an empty rank at its place; the last one goes when there are too many. */
static int rank_entropy_insert(struct rank_entropy *entropy, uint32_t place, uint32_t rank)
{
    struct rank_means *means = entropy->means;
    if (entropy->count == RANK_ENTROPY_MAX) {
        rank_entropy_free_one(&means[--entropy->count]);
    } else {
        means = realloc(means, (entropy->count + 1) * sizeof *means);
        if (!means) {
            return ERR_MEMORY;
        }
        entropy->means = means;
    }
    memmove(&means[place + 1], &means[place], (entropy->count - place) * sizeof *means);
    means[place] = (struct rank_means){.rank = rank};
    entropy->count++;
    return 0;
}

int rank_entropy_add(struct rank_entropy *entropy, uint32_t rank, uint32_t first, uint32_t heads,
                     const uint64_t *rows, const double *mean)
{
    for (; heads > 0 && !rows[heads - 1]; heads--) {
    }
    for (; heads > 0 && !rows[0]; heads--, first++, rows++, mean++) {
    }
    /* The place of the rank is that of the first that is not below it. */
    uint32_t place = 0, high = entropy->count;
    while (place < high) {
        uint32_t middle = place + (high - place) / 2;
        if (entropy->means[middle].rank < rank) {
            place = middle + 1;
        } else {
            high = middle;
        }
    }
    if (heads == 0 || place == RANK_ENTROPY_MAX) {
        return 0;
    }
    if (place == entropy->count || entropy->means[place].rank != rank) {
        struct rank_means made = {.rank = rank};
        int code = rank_entropy_widen(&made, first, heads);
        if (!code) {
            code = rank_entropy_insert(entropy, place, rank);
        }
        if (code) {
            rank_entropy_free_one(&made);
            return code;
        }
        entropy->means[place] = made;
    }
    struct rank_means *into = &entropy->means[place];
    int code = rank_entropy_widen(into, first, heads);
    for (uint32_t i = 0; i < heads && !code; i++) {
        uint32_t h = first - into->first + i;
        into->rows[h] += rows[i];
        if (rows[i] > 0) {
            into->mean[h] += (mean[i] - into->mean[h]) * ((double)rows[i] / (double)into->rows[h]);
        }
    }
    return code;
}

int rank_entropy_merge(struct rank_entropy *into, const struct rank_entropy *from, uint32_t heads)
{
    int code = 0;
    for (uint32_t i = 0; i < from->count && !code; i++) {
        const struct rank_means *means = &from->means[i];
        uint32_t left = means->first < heads ? heads - means->first : 0;
        code =
            rank_entropy_add(into, means->rank, means->first,
                             means->heads < left ? means->heads : left, means->rows, means->mean);
    }
    return code;
}

/* Writing */

void rank_entropy_pack(const struct rank_entropy *entropy, struct mpk_writer *writer)
{
    mpk_put_array(writer, entropy->count);
    for (uint32_t i = 0; i < entropy->count; i++) {
        const struct rank_means *means = &entropy->means[i];
        bool differ = false;
        for (uint32_t h = 1; h < means->heads; h++) {
            differ = differ || means->rows[h] != means->rows[0];
        }
        mpk_put_array(writer, RANK_ENTROPY_KEYS);
        mpk_put_u64(writer, means->rank);
        mpk_put_u64(writer, means->first);
        if (differ) {
            mpk_put_bin(writer, means->rows, means->heads * sizeof *means->rows);
        } else {
            mpk_put_u64(writer, means->rows[0]);
        }
        mpk_put_bin(writer, means->mean, means->heads * sizeof *means->mean);
    }
}

/* Reading */

static int rank_entropy_get_rows(const msgpack_object *value, struct rank_means *means)
{
    uint64_t same = 0;
    bool differ = value->type == MSGPACK_OBJECT_BIN;
    if (differ ? value->via.bin.size != means->heads * sizeof *means->rows
               : mpk_get_u64(value, ROWS_MOST, &same) != 0) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < means->heads; h++) {
        means->rows[h] = same;
    }
    if (differ) {
        memcpy(means->rows, value->via.bin.ptr, value->via.bin.size);
    }
    return 0;
}

static bool rank_entropy_is_sound(const struct rank_means *means)
{
    bool sound = means->rows[0] > 0 && means->rows[means->heads - 1] > 0;
    for (uint32_t h = 0; h < means->heads; h++) {
        bool empty = means->rows[h] == 0;
        sound = sound && means->rows[h] <= ROWS_MOST && fabs(means->mean[h]) <= STAT_VALUE_MOST &&
                (!empty || (means->mean[h] == 0 && !signbit(means->mean[h])));
    }
    return sound;
}

static int rank_entropy_get(const msgpack_object *one, uint32_t heads, struct rank_means *means)
{
    const msgpack_object *value = one->via.array.ptr;
    uint64_t rank, first;
    if (mpk_items(one) != RANK_ENTROPY_KEYS || mpk_get_u64(&value[0], WORLD_MAX - 1, &rank) != 0 ||
        mpk_get_u64(&value[1], heads - 1, &first) != 0 || value[3].type != MSGPACK_OBJECT_BIN) {
        return ERR_STORE_FORMAT;
    }
    size_t size = value[3].via.bin.size, count = size / sizeof *means->mean;
    if (count == 0 || size % sizeof *means->mean != 0 || count > heads - first) {
        return ERR_STORE_FORMAT;
    }
    int code = rank_entropy_widen(means, (uint32_t)first, (uint32_t)count);
    if (!code) {
        means->rank = (uint32_t)rank;
        memcpy(means->mean, value[3].via.bin.ptr, size);
        code = rank_entropy_get_rows(&value[2], means);
    }
    return code || rank_entropy_is_sound(means) ? code : ERR_STORE_FORMAT;
}

int rank_entropy_unpack(const msgpack_object *list, uint32_t heads, struct rank_entropy *entropy)
{
    uint32_t count = mpk_items(list);
    if (count == 0 || count > RANK_ENTROPY_MAX) {
        return ERR_STORE_FORMAT;
    }
    entropy->means = calloc(count, sizeof *entropy->means);
    int code = entropy->means ? 0 : ERR_MEMORY;
    for (uint32_t i = 0; i < count && !code; i++) {
        struct rank_means *means = &entropy->means[i];
        code = rank_entropy_get(&list->via.array.ptr[i], heads, means);
        entropy->count++;
        if (!code && i > 0 && means[-1].rank >= means->rank) {
            code = ERR_STORE_FORMAT;
        }
    }
    return code;
}
