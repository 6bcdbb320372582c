/* SPDX-License-Identifier: MIT */
/* Writing a set anew: slot by slot, what was there and what is added, with one sum for all
 * histograms in turn. */
#include "proto/err.h"
#include "daemon/state/stat_set_internal.h"

#include <stdlib.h>

struct stat_writer {
    uint32_t buckets;
    uint8_t *bytes; /* room for any set */
    struct hist_sum sum;
};

struct stat_writer *stat_writer_new(uint32_t buckets)
{
    struct stat_writer *writer = calloc(1, sizeof *writer);
    if (!writer) {
        return NULL;
    }
    writer->buckets = buckets;
    writer->bytes = malloc(stat_set_size_max(buckets));
    if (!writer->bytes) {
        stat_writer_free(&writer);
    }
    return writer;
}

void stat_writer_free(struct stat_writer **writer)
{
    if (*writer) {
        free((*writer)->bytes);
    }
    free(*writer);
    *writer = NULL;
}

/* Whether something is added to the number, besides its newest value. */
static bool adds(const struct stat_input *input)
{
    return input->rows ? input->rows->moments.n > 0 : isfinite(input->value);
}

static uint8_t *write_unchanged(uint8_t *to, const struct stat_record *old)
{
    size_t size = (size_t)(old->end - old->begin);
    memcpy(to, old->begin, size);
    return to + size;
}

static void sum_up(struct hist_sum *sum, const struct stat_record *old,
                   const struct stat_input *input)
{
    stat_add_hist(sum, old);
    if (input->rows) {
        hist_sum_add(sum, &input->rows->hist);
    } else {
        hist_sum_add_value(sum, input->value, 1);
    }
}

/* `old` is empty when there was nothing. */
static uint8_t *write_sum(uint8_t *to, const struct stat_record *old,
                          const struct stat_input *input, bool has_hist, struct stat_writer *writer)
{
    struct moments moments = old->moments;
    struct stat_hist_source hist = {.bytes = old->hist, .size = old->hist_size};
    double last = input->newest ? input->value : old->last;
    if (adds(input)) {
        if (input->rows) {
            moments_merge(&moments, &input->rows->moments);
        } else {
            moments_add(&moments, input->value);
        }
        hist = (struct stat_hist_source){.limit = writer->buckets};
        if (has_hist) {
            sum_up(&writer->sum, old, input);
            hist.sum = &writer->sum;
        }
    }
    return stat_write(to, &moments, last, &hist);
}

static const struct stat_record no_stat = {.last = NAN};

static bool says_nothing(const struct stat_input *input)
{
    return !adds(input) && (!input->newest || isnan(input->value));
}

int stat_set_add(struct stat_set *set, const struct stat_input inputs[STAT_SLOTS],
                 struct stat_mask mask, struct stat_writer *writer)
{
    struct stat_reader reader;
    stat_reader_init(&reader, set);
    struct stat_mask old = reader.left, all, written = {{0}};
    uint8_t *to = writer->bytes + sizeof written;
    for (uint32_t w = 0; w < STAT_WORDS; w++) {
        all.bits[w] = old.bits[w] | mask.bits[w];
    }
    for (uint32_t slot = stat_take_slot(&all); slot < STAT_SLOTS; slot = stat_take_slot(&all)) {
        struct stat_record stat = no_stat;
        bool has_hist = slot < STAT_HISTS, was_there = stat_mask_has(&old, slot);
        if (was_there) {
            reader.at = stat_read_record(reader.at, has_hist, &stat);
        }
        if (!stat_mask_has(&mask, slot)) {
            to = write_unchanged(to, &stat);
        } else if (was_there || !says_nothing(&inputs[slot])) {
            to = write_sum(to, &stat, &inputs[slot], has_hist, writer);
        } else {
            continue;
        }
        stat_mask_set(&written, slot);
    }
    return stat_set_store(set, writer->bytes, &written, to);
}

int stat_set_move(struct stat_set *set, const uint8_t slots[STAT_SLOTS], struct stat_writer *writer)
{
    struct stat_reader reader;
    struct stat_record stats[STAT_SLOTS], stat;
    struct stat_mask left, written = {{0}};
    uint8_t *to = writer->bytes + sizeof written;
    uint32_t slot;
    stat_reader_init(&reader, set);
    while (stat_read(&reader, &slot, &stat)) {
        if (slots[slot] >= STAT_SLOTS) {
            continue;
        }
        stats[slots[slot]] = stat;
        stat_mask_set(&written, slots[slot]);
    }
    left = written;
    for (slot = stat_take_slot(&left); slot < STAT_SLOTS; slot = stat_take_slot(&left)) {
        to = write_unchanged(to, &stats[slot]);
    }
    return stat_set_store(set, writer->bytes, &written, to);
}
