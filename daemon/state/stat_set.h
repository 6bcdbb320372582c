/* SPDX-License-Identifier: MIT */
/* stat_set: the statistics of many numbers (the metrics of a head) in as few bytes as possible:
 * moments, the newest value, a histogram. Merging sets and splitting values over them obeys
 * workers/stats/dist.h: counts, min, max and histograms bit for bit.
 *
 * A number has a slot; those from STAT_HISTS on have no histogram. A set is for reading: it is
 * changed by writing it anew, with the memory of a stat_writer or of a stat_sums. One owner at a
 * time. */
#ifndef DAEMON_STATE_STAT_SET_H
#define DAEMON_STATE_STAT_SET_H

#include "workers/stats/dist.h"

#include <stdbool.h>

#define STAT_HISTS 64
#define STAT_SLOTS 128
#define STAT_WORDS (STAT_SLOTS / 64)

/* The magnitude of values: sums of larger ones are not numbers. */
#define STAT_VALUE_MOST 1e300

/* Bit per slot. */
struct stat_mask {
    uint64_t bits[STAT_WORDS];
};

static inline void stat_mask_set(struct stat_mask *mask, uint32_t slot)
{
    mask->bits[slot / 64] |= 1ull << slot % 64;
}

static inline bool stat_mask_has(const struct stat_mask *mask, uint32_t slot)
{
    return mask->bits[slot / 64] >> slot % 64 & 1;
}

/* A zeroed struct is empty. */
struct stat_set {
    uint8_t *bytes; /* owned */
    uint32_t size, capacity;
};

void stat_set_clear(struct stat_set *set);
/* Memory that it takes, the allocator's included. */
uint64_t stat_set_bytes(const struct stat_set *set);
/* Takes a copy of bytes that are already a set. Returns 0 or ERR_MEMORY, then without effect. */
int stat_set_assign(struct stat_set *set, const uint8_t *bytes, uint32_t size);
/* Whether bytes[size] are a set whose histograms have at most `buckets`. Only the histograms
 * of `slots` are looked into, and only they may be read then; NULL: all. The others are no larger,
 * either. */
bool stat_set_check(const uint8_t *bytes, size_t size, uint32_t buckets,
                    const struct stat_mask *slots);

/* Reading */

/* One number's statistics. */
struct stat_record {
    struct moments moments;
    double last;         /* NaN: there is none */
    const uint8_t *hist; /* in the set; NULL when all values are the same, or there is none */
    uint32_t hist_size;
    const uint8_t *begin, *end; /* its bytes in the set */
};

struct stat_reader {
    const uint8_t *at;
    struct stat_mask left; /* slots to come */
};

void stat_reader_init(struct stat_reader *reader, const struct stat_set *set);
/* The next number, by ascending slots; false after the last. */
bool stat_read(struct stat_reader *reader, uint32_t *ret_slot, struct stat_record *ret_stat);
/* The number in a slot; empty, with a NaN, when there is none. */
struct stat_record stat_find(const struct stat_set *set, uint32_t slot);
/* Its distribution, into one that has had other contents. Returns 0 or ERR_MEMORY. */
int stat_dist(const struct stat_record *stat, struct dist *dist);

/* Adding values */

/* The contribution of a message to a number. */
struct stat_input {
    double value;            /* beyond STAT_VALUE_MOST as NaN; added when there are no rows */
    const struct dist *rows; /* added if all are within STAT_VALUE_MOST; NULL = there are none */
    bool newest;             /* `value` is the newest, even if NaN */
};

struct stat_writer;

/* For histograms of at most `buckets`. NULL when out of memory. */
struct stat_writer *stat_writer_new(uint32_t buckets);
void stat_writer_free(struct stat_writer **writer);
/* Adds inputs[slot] of the slots in the mask. Returns 0 or ERR_MEMORY, then without effect. */
int stat_set_add(struct stat_set *set, const struct stat_input inputs[STAT_SLOTS],
                 struct stat_mask mask, struct stat_writer *writer);
/* Gives each number to its new slot, slots[old]; those from STAT_SLOTS on are left out. A number
 * with a histogram must go to where there is one. As above. */
int stat_set_move(struct stat_set *set, const uint8_t slots[STAT_SLOTS],
                  struct stat_writer *writer);

/* Adding sets
 *
 * Numbers that are measured together have the newest value together: leader[slot] is the first slot
 * of its group, and a set without a newest value there has none of the group; STAT_SLOTS: a group
 * of its own that every set has. `newer`: the newest values of what is added replace those so far.
 */

/* Adds one set to another: several are faster by sums. Returns 0 or ERR_MEMORY, then without
 * effect. */
int stat_set_merge(struct stat_set *set, const struct stat_set *from, bool newer,
                   const uint8_t leader[STAT_SLOTS], struct stat_writer *writer);

struct stat_sums;

/* Borrows `leader`. NULL when out of memory. */
struct stat_sums *stat_sums_new(uint32_t buckets, const uint8_t leader[STAT_SLOTS]);
void stat_sums_free(struct stat_sums **sums);
/* Adds a set. Returns 0 or ERR_MEMORY (the sums are then only good for freeing). */
int stat_sums_add(struct stat_sums *sums, const struct stat_set *set, bool newer);
/* Writes the sum to a set, and begins anew. Returns 0 or ERR_MEMORY, as above. */
int stat_sums_take(struct stat_sums *sums, struct stat_set *set);

#endif
