/* SPDX-License-Identifier: MIT */
#include "daemon/state/packed_hists.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_MIN 64
#define NUMBER_BYTES 5 /* of a number of 32 bits in groups of 7 */
#define HEAD_BYTES   (3 * NUMBER_BYTES)
#define BUCKET_BYTES (2 * NUMBER_BYTES)
#define CONTINUES    0x80u
#define GROUP        7

void packed_hists_clear(struct packed_hists *packed)
{
    free(packed->bytes);
    *packed = (struct packed_hists){0};
}

static int packed_hists_reserve(struct packed_hists *packed, size_t more)
{
    size_t capacity = packed->capacity > 0 ? packed->capacity : CAPACITY_MIN;
    while (capacity - packed->size < more) {
        capacity *= 2;
    }
    if (capacity == packed->capacity) {
        return 0;
    }
    uint8_t *grown = realloc(packed->bytes, capacity);
    if (!grown) {
        return ERR_MEMORY;
    }
    packed->bytes = grown;
    packed->capacity = capacity;
    return 0;
}

void packed_hists_trim(struct packed_hists *packed)
{
    uint8_t *trimmed = packed->size > 0 ? realloc(packed->bytes, packed->size) : NULL;
    if (!trimmed) {
        return;
    }
    packed->bytes = trimmed;
    packed->capacity = packed->size;
}

int packed_hists_copy(struct packed_hists *packed, const uint8_t *bytes, size_t size)
{
    if (size == 0) {
        return 0;
    }
    int code = packed_hists_reserve(packed, size);
    if (code) {
        return code;
    }
    memcpy(packed->bytes + packed->size, bytes, size);
    packed->size += size;
    return 0;
}

static void packed_hists_put(struct packed_hists *packed, uint32_t number)
{
    for (; number >= CONTINUES; number >>= GROUP) {
        packed->bytes[packed->size++] = (uint8_t)(number | CONTINUES);
    }
    packed->bytes[packed->size++] = (uint8_t)number;
}

/* Small numbers of either sign as small numbers. */
static uint32_t zigzag(int32_t key)
{
    return key < 0 ? 2 * (uint32_t)(-(key + 1)) + 1 : 2 * (uint32_t)key;
}

static int32_t unzigzag(uint32_t number)
{
    return number % 2 ? -(int32_t)(number / 2) - 1 : (int32_t)(number / 2);
}

int packed_hists_add(struct packed_hists *packed, const struct hist *hist)
{
    int code = packed_hists_reserve(packed, HEAD_BYTES + (size_t)hist->used * BUCKET_BYTES);
    if (code) {
        return code;
    }
    packed_hists_put(packed, hist->used);
    if (hist->used > 0) {
        packed_hists_put(packed, hist->halvings);
    }
    for (uint32_t i = 0; i < hist->used; i++) {
        int32_t key = hist->buckets[i].key;
        packed_hists_put(packed,
                         i == 0 ? zigzag(key) : (uint32_t)(key - hist->buckets[i - 1].key - 1));
        packed_hists_put(packed, hist->buckets[i].count);
    }
    return 0;
}

static bool packed_hists_get(struct packed_cursor *cursor, uint32_t max, uint32_t *ret_number)
{
    uint64_t number = 0;
    for (unsigned shift = 0; shift < NUMBER_BYTES * GROUP && cursor->at < cursor->end;
         shift += GROUP) {
        uint8_t byte = *cursor->at++;
        number |= (uint64_t)(byte % CONTINUES) << shift;
        if (byte < CONTINUES) {
            *ret_number = (uint32_t)number;
            return number <= max;
        }
    }
    return false;
}

/* Into `dist`, which has room for them, or nowhere. */
static bool get_buckets(struct packed_cursor *cursor, uint32_t used, uint32_t halvings,
                        struct dist *dist)
{
    int32_t key = 0, most = hist_key_max(halvings);
    for (uint32_t i = 0; i < used; i++) {
        uint32_t number, count;
        if (!packed_hists_get(cursor, 2 * HIST_KEYS, &number) ||
            !packed_hists_get(cursor, UINT32_MAX, &count)) {
            return false;
        }
        key = i == 0 ? unzigzag(number) : key + (int32_t)number + 1;
        if (count == 0 || key < -most || key > most) {
            return false;
        }
        if (dist) {
            dist->hist.buckets[i] = (struct bucket){key, count};
            dist->moments.n += count;
        }
    }
    return true;
}

int packed_hists_next(struct packed_cursor *cursor, struct dist *ret_dist)
{
    uint32_t used, halvings = 0;
    struct dist dist = {0};
    if (!packed_hists_get(cursor, HIST_KEYS, &used) ||
        (used > 0 && !packed_hists_get(cursor, HIST_HALVINGS_MAX, &halvings))) {
        return ERR_STORE_FORMAT;
    }
    if (used > 0 && ret_dist) {
        dist.hist.buckets = malloc(used * sizeof *dist.hist.buckets);
        if (!dist.hist.buckets) {
            return ERR_MEMORY;
        }
        dist.hist.used = dist.hist.capacity = used;
        dist.hist.halvings = halvings;
    }
    if (!get_buckets(cursor, used, halvings, ret_dist ? &dist : NULL)) {
        dist_clear(&dist);
        return ERR_STORE_FORMAT;
    }
    if (ret_dist) {
        *ret_dist = dist;
    }
    return 0;
}
