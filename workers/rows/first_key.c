/* SPDX-License-Identifier: MIT */
/* first_key: by documents the first key that a row of the same number sees. Without them by the
 * blocks that a mask tensor leaves: a block begins at a key that a row begins with, when no row of
 * the sample sees keys on both sides of it.
 *
 * A band has rows that begin one key later each, and nothing begins there. Where all rows are
 * known the next one overlaps; in a sample of them it need not, and a single row does not tell. So
 * a key at which only rows begin that reach back as far as the farthest of the message, as all of
 * a band do, begins no block. */
#include "workers/rows/first_key.h"

#include "proto/err.h"
#include "workers/rows/occurrence.h"

#include <string.h>

#define FIRST_KEY_NONE UINT32_MAX

struct first_key_work {
    const struct attention *a;
    uint32_t *key;   /* [keys + 1] */
    uint32_t *order; /* [2 * keys] */
    uint8_t *begins; /* [keys] */
};

static void first_key_lay(void *data, struct scratch_pieces *m)
{
    struct first_key_work *w = data;
    uint64_t keys = w->a->keys;
    w->key = scratch_carve(m, keys + 1, sizeof *w->key);
    w->order = scratch_carve(m, w->a->documents ? 2 * keys : 0, sizeof *w->order);
    w->begins = scratch_carve(m, keys, sizeof *w->begins);
}

/* The first of the keys [0, end) that mask and documents leave the row; FIRST_KEY_NONE without. */
static uint32_t first_key_begin_of(const struct attention_holes *holes, uint32_t end)
{
    for (uint32_t j = 0; j < end; j++) {
        const uint8_t *seen = memchr(holes->mask + j, 1, end - j);
        if (!seen || holes->none) {
            return FIRST_KEY_NONE;
        }
        j = (uint32_t)(seen - holes->mask);
        if (attention_hole_free(holes, j)) {
            return j;
        }
    }
    return FIRST_KEY_NONE;
}

/* The last of them, of which there are some. */
static uint32_t first_key_last_of(const struct attention_holes *holes, uint32_t end)
{
    while (!attention_hole_free(holes, end - 1)) {
        const uint8_t *seen = memrchr(holes->mask, 1, end - 1);
        end = (uint32_t)(seen - holes->mask) + 1;
    }
    return end - 1;
}

/* One past the last key of a row by length and causal bound. */
static uint32_t first_key_end_of(const struct attention *a, uint32_t b, uint32_t i)
{
    uint32_t begin, end;
    attention_key_range(a, b, i, &begin, &end);
    return end;
}

/* How far back a row reaches that begins at this key. */
static int64_t first_key_reach(const struct attention *a, uint32_t i, uint32_t begin)
{
    return (int64_t)attention_position(a, i) - begin;
}

/* Sets the keys that the rows begin with; returns how far back the farthest reaches. */
static int64_t first_key_set_begins(const struct attention *a, uint32_t *ret_begin)
{
    int64_t farthest = INT64_MIN;
    for (uint32_t b = 0; b < a->batch; b++) {
        uint32_t rows = attention_query_count(a, b), *begin = ret_begin + (size_t)b * a->queries;
        for (uint32_t i = 0; i < a->queries; i++) {
            struct attention_holes holes = attention_row_holes(a, b, i);
            uint32_t end = i < rows ? first_key_end_of(a, b, i) : 0;
            begin[i] = first_key_begin_of(&holes, end);
            if (begin[i] != FIRST_KEY_NONE && first_key_reach(a, i, begin[i]) > farthest) {
                farthest = first_key_reach(a, i, begin[i]);
            }
        }
    }
    return farthest;
}

/* `begin`: the keys that the rows begin with, when there is a mask. */
static void first_key_of_documents(const struct first_key_work *w, uint32_t b, uint32_t *begin)
{
    const struct attention *a = w->a;
    uint32_t *place = w->key, *least = w->order, keys = attention_key_count(a, b);
    occurrence_link(a->documents + (size_t)b * a->keys, a->keys, w->order, place);
    for (uint32_t j = 0; j < a->keys; j++) {
        place[j] = place[j] == OCCURRENCE_NONE ? j : place[place[j]];
        least[j] = !a->mask && j < keys ? j : FIRST_KEY_NONE;
    }
    for (uint32_t i = 0; a->mask && i < a->queries; i++) {
        if (begin[i] != FIRST_KEY_NONE) { /* it has a document */
            uint32_t *of_document = &least[place[attention_position(a, i)]];
            *of_document = begin[i] < *of_document ? begin[i] : *of_document;
        }
    }
    for (uint32_t i = 0; i < a->queries; i++) {
        uint64_t p = attention_position(a, i);
        uint32_t first = p < a->keys ? least[place[p]] : FIRST_KEY_NONE;
        begin[i] = first == FIRST_KEY_NONE ? 0 : first;
    }
}

/* From the keys that the rows of sample b begin with to those that their blocks do. */
static void first_key_of_blocks(const struct first_key_work *w, uint32_t b, int64_t farthest,
                                uint32_t *begin)
{
    const struct attention *a = w->a;
    uint32_t *across = w->key, rows = 0, first = 0; /* rows across the left edge of a key */
    memset(across, 0, ((size_t)a->keys + 1) * sizeof *across);
    memset(w->begins, 0, a->keys);
    for (uint32_t i = 0; i < a->queries; i++) {
        if (begin[i] != FIRST_KEY_NONE) {
            struct attention_holes holes = attention_row_holes(a, b, i);
            across[begin[i] + 1]++;
            across[first_key_last_of(&holes, first_key_end_of(a, b, i)) + 1]--;
            w->begins[begin[i]] |= first_key_reach(a, i, begin[i]) < farthest;
        }
    }
    for (uint32_t j = 0; j < a->keys; j++) {
        rows += across[j];
        first = w->begins[j] && rows == 0 ? j : first;
        across[j] = first;
    }
    for (uint32_t i = 0; i < a->queries; i++) {
        begin[i] = begin[i] == FIRST_KEY_NONE ? 0 : across[begin[i]];
    }
}

int first_key_find(const struct attention *a, struct scratch *scratch, uint32_t *ret_first)
{
    struct first_key_work w = {.a = a};
    int rc = scratch_take_pieces(scratch, first_key_lay, &w);
    if (rc != 0) {
        return rc;
    }
    int64_t farthest = a->mask ? first_key_set_begins(a, ret_first) : 0;
    for (uint32_t b = 0; b < a->batch; b++) {
        uint32_t *first = ret_first + (size_t)b * a->queries;
        if (a->documents) {
            first_key_of_documents(&w, b, first);
        } else {
            first_key_of_blocks(&w, b, farthest, first);
        }
    }
    return 0;
}
