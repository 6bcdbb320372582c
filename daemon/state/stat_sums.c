/* SPDX-License-Identifier: MIT */
/* Many sets added up: everything is unpacked once, at the first set, and packed once, at the end.
 */
#include "proto/err.h"
#include "daemon/state/stat_set_internal.h"

#include <stdlib.h>

struct stat_sums {
    uint32_t buckets;
    const uint8_t *leader;
    struct stat_mask mask; /* slots in use */
    struct moments moments[STAT_SLOTS];
    double last[STAT_SLOTS];
    struct hist_sum *hist[STAT_HISTS]; /* owned; NULL until there is one */
    uint8_t *bytes;                    /* room for any set */
};

struct stat_sums *stat_sums_new(uint32_t buckets, const uint8_t leader[STAT_SLOTS])
{
    struct stat_sums *sums = calloc(1, sizeof *sums);
    if (!sums) {
        return NULL;
    }
    sums->buckets = buckets;
    sums->leader = leader;
    sums->bytes = malloc(stat_set_size_max(buckets));
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        sums->last[slot] = NAN;
    }
    if (!sums->bytes) {
        stat_sums_free(&sums);
    }
    return sums;
}

void stat_sums_free(struct stat_sums **sums_p)
{
    struct stat_sums *sums = *sums_p;
    if (!sums) {
        return;
    }
    for (uint32_t slot = 0; slot < STAT_HISTS; slot++) {
        free(sums->hist[slot]);
    }
    free(sums->bytes);
    free(sums);
    *sums_p = NULL;
}

static int reserve_hists(struct stat_sums *sums, struct stat_mask mask)
{
    for (uint64_t left = mask.bits[0]; left != 0; left &= left - 1) {
        struct hist_sum **hist = &sums->hist[__builtin_ctzll(left)];
        if (!*hist) {
            *hist = calloc(1, sizeof **hist);
        }
        if (!*hist) {
            return ERR_MEMORY;
        }
    }
    return 0;
}

/* Those that every set has; a group's are forgotten when its leader turns up. */
static void forget_last(struct stat_sums *sums)
{
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        if (sums->leader[slot] == STAT_SLOTS) {
            sums->last[slot] = NAN;
        }
    }
}

static void forget_group(struct stat_sums *sums, uint32_t leader)
{
    for (uint32_t slot = leader; slot < STAT_SLOTS && sums->leader[slot] == leader; slot++) {
        sums->last[slot] = NAN;
    }
}

/* Leaders come before the others of their group. */
static void take_last(struct stat_sums *sums, uint32_t slot, double last,
                      struct stat_mask *has_turn)
{
    uint32_t leader = sums->leader[slot];
    if (slot == leader && !isnan(last)) {
        forget_group(sums, leader);
        stat_mask_set(has_turn, slot);
    }
    if (leader == STAT_SLOTS || stat_mask_has(has_turn, leader)) {
        sums->last[slot] = last;
    }
}

int stat_sums_add(struct stat_sums *sums, const struct stat_set *set, bool newer)
{
    struct stat_reader reader;
    struct stat_mask has_turn = {{0}};
    struct stat_record stat;
    stat_reader_init(&reader, set);
    if (reserve_hists(sums, reader.left) != 0) {
        return ERR_MEMORY;
    }
    for (uint32_t w = 0; w < STAT_WORDS; w++) {
        sums->mask.bits[w] |= reader.left.bits[w];
    }
    if (newer) {
        forget_last(sums);
    }
    for (uint32_t slot = stat_take_slot(&reader.left); slot < STAT_SLOTS;
         slot = stat_take_slot(&reader.left)) {
        bool has_hist = slot < STAT_HISTS;
        reader.at = stat_read_record(reader.at, has_hist, &stat);
        moments_merge(&sums->moments[slot], &stat.moments);
        if (has_hist) {
            stat_add_hist(sums->hist[slot], &stat);
        }
        if (newer) {
            take_last(sums, slot, stat.last, &has_turn);
        }
    }
    return 0;
}

int stat_sums_take(struct stat_sums *sums, struct stat_set *set)
{
    struct stat_mask written = {{0}}, left = sums->mask;
    uint8_t *to = sums->bytes + sizeof written;
    for (uint32_t slot = stat_take_slot(&left); slot < STAT_SLOTS; slot = stat_take_slot(&left)) {
        struct stat_hist_source hist = {.sum = slot < STAT_HISTS ? sums->hist[slot] : NULL,
                                        .limit = sums->buckets};
        if (sums->moments[slot].n > 0 || !isnan(sums->last[slot])) {
            to = stat_write(to, &sums->moments[slot], sums->last[slot], &hist);
            stat_mask_set(&written, slot);
        }
        sums->moments[slot] = (struct moments){0};
        sums->last[slot] = NAN;
    }
    sums->mask = (struct stat_mask){{0}};
    return stat_set_store(set, sums->bytes, &written, to);
}
