/* SPDX-License-Identifier: MIT */
/* A set is written anew, slot by slot. A writer writes what was there and what is added, with one
 * sum for all histograms in turn, or two sets; sums unpack everything once, at the first set, and
 * pack it once, at the end. */
#include "daemon/state/stat_set.h"

#include "daemon/base/block_bytes.h"
#include "daemon/state/stat_set_internal.h"
#include "proto/err.h"

#include <stdlib.h>

/* Memory */

/* Slack, so that a set that grows a little is not moved each time: one byte in 32, and what the
 * heap gives anyway. */
static uint32_t capacity_for(uint32_t size)
{
    return (uint32_t)block_bytes(size + size / 32) - 8;
}

void stat_set_clear(struct stat_set *set)
{
    free(set->bytes);
    *set = (struct stat_set){0};
}

uint64_t stat_set_bytes(const struct stat_set *set)
{
    return block_bytes(set->capacity);
}

int stat_set_assign(struct stat_set *set, const uint8_t *bytes, uint32_t size)
{
    if (size > set->capacity) {
        /* Nothing of the old contents is wanted: no realloc, which would copy them. */
        uint8_t *grown = malloc(capacity_for(size));
        if (!grown) {
            return ERR_MEMORY;
        }
        free(set->bytes);
        set->bytes = grown;
        set->capacity = capacity_for(size);
    }
    if (size > 0) {
        memcpy(set->bytes, bytes, size);
    }
    set->size = size;
    return 0;
}

/* Reading */

void stat_reader_init(struct stat_reader *reader, const struct stat_set *set)
{
    *reader = (struct stat_reader){0};
    if (set->size > 0) {
        memcpy(&reader->left, set->bytes, sizeof reader->left);
        reader->at = set->bytes + sizeof reader->left;
    }
}

bool stat_read(struct stat_reader *reader, uint32_t *ret_slot, struct stat_record *ret_stat)
{
    uint32_t slot = stat_take_slot(&reader->left);
    if (slot == STAT_SLOTS) {
        return false;
    }
    reader->at = stat_read_record(reader->at, slot < STAT_HISTS, ret_stat);
    *ret_slot = slot;
    return true;
}

static const struct stat_record nothing = {.last = NAN};

struct stat_record stat_find(const struct stat_set *set, uint32_t slot)
{
    struct stat_reader reader;
    struct stat_record stat;
    uint32_t at;
    stat_reader_init(&reader, set);
    while (stat_mask_has(&reader.left, slot) && stat_read(&reader, &at, &stat)) {
        if (at == slot) {
            return stat;
        }
    }
    return nothing;
}

int stat_dist(const struct stat_record *stat, struct dist *dist)
{
    int code = 0;
    dist->hist.used = dist->hist.halvings = 0;
    if (stat->hist) {
        code = hist_bytes_read(stat->hist, stat->hist_size, &dist->hist);
    } else if (stat->moments.n > 0) {
        struct bucket bucket = {hist_key(stat->moments.mean), stat_saturated(stat->moments.n)};
        code = hist_merge_list(&dist->hist, &bucket, 1);
    }
    if (!code) {
        dist->moments = stat->moments;
    }
    return code;
}

/* Adding values */

struct stat_writer {
    uint32_t buckets;
    struct hist_sum sum;
    struct hist_pair hists;
    uint8_t bytes[]; /* room for any set */
};

struct stat_writer *stat_writer_new(uint32_t buckets)
{
    struct stat_writer *writer = malloc(sizeof *writer + stat_set_size_max(buckets));
    if (writer) {
        writer->buckets = buckets;
        memset(&writer->sum, 0, sizeof writer->sum);
    }
    return writer;
}

void stat_writer_free(struct stat_writer **writer)
{
    free(*writer);
    *writer = NULL;
}

/* Numbers that values can have; rounding may push a mean past its bounds. */
static bool moments_are_sound(const struct moments *m)
{
    double slack = 1e-6 * fmax(fabs(m->min), fabs(m->max));
    return m->n == 0 ||
           (m->min >= -STAT_VALUE_MOST && m->max <= STAT_VALUE_MOST && m->min <= m->max &&
            m->mean >= m->min - slack && m->mean <= m->max + slack && m->m2 >= 0);
}

static bool value_exists(double value)
{
    return fabs(value) <= STAT_VALUE_MOST;
}

/* Whether something is added to the number, besides its newest value. */
static bool adds(const struct stat_input *input)
{
    return input->rows ? input->rows->moments.n > 0 && moments_are_sound(&input->rows->moments)
                       : value_exists(input->value);
}

static uint8_t *write_unchanged(uint8_t *to, const struct stat_record *old)
{
    size_t size = (size_t)(old->end - old->begin);
    memcpy(to, old->begin, size);
    return to + size;
}

/* `old` is empty when there was nothing. */
static uint8_t *write_sum(uint8_t *to, const struct stat_record *old,
                          const struct stat_input *input, bool has_hist, struct stat_writer *writer)
{
    struct moments moments = old->moments;
    struct stat_hist_source hist = {.bytes = old->hist, .size = old->hist_size};
    double newest = value_exists(input->value) ? input->value : NAN;
    double last = input->newest ? newest : old->last;
    if (adds(input)) {
        if (input->rows) {
            moments_merge(&moments, &input->rows->moments);
        } else {
            moments_add(&moments, input->value);
        }
        hist = (struct stat_hist_source){.limit = writer->buckets};
        if (has_hist) {
            stat_add_hist(&writer->sum, old);
            if (input->rows) {
                hist_sum_add(&writer->sum, &input->rows->hist);
            } else {
                hist_sum_add_value(&writer->sum, input->value, 1);
            }
            hist.sum = &writer->sum;
        }
    }
    return stat_write(to, &moments, last, &hist);
}

static bool says_nothing(const struct stat_input *input)
{
    return !adds(input) && (!input->newest || !value_exists(input->value));
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
        struct stat_record stat = nothing;
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

/* Adding one set */

/* A set that is read slot by slot, and the leaders that have a newest value in it. */
struct stat_side {
    struct stat_reader reader;
    struct stat_mask there, has_turn;
    struct stat_record stat; /* of the slot; empty when it is not there */
};

static struct stat_side side_of(const struct stat_set *set)
{
    struct stat_side side = {.has_turn = {{0}}};
    stat_reader_init(&side.reader, set);
    side.there = side.reader.left;
    return side;
}

/* Leaders come before the others of their group. */
static void side_read(struct stat_side *side, uint32_t slot, uint32_t leader)
{
    if (!stat_mask_has(&side->there, slot)) {
        side->stat = nothing;
        return;
    }
    side->reader.at = stat_read_record(side->reader.at, slot < STAT_HISTS, &side->stat);
    if (slot == leader && !isnan(side->stat.last)) {
        stat_mask_set(&side->has_turn, slot);
    }
}

static bool side_has_turn(const struct stat_side *side, uint32_t leader)
{
    return leader == STAT_SLOTS || stat_mask_has(&side->has_turn, leader);
}

/* One value is made at the resolution of the other side's histogram. */
static struct hist_span side_hist(const struct stat_side *side, int number,
                                  const struct stat_side *other, struct hist_pair *hists)
{
    const struct stat_record *stat = &side->stat;
    if (stat->hist) {
        return (struct hist_span){stat->hist, stat->hist_size};
    }
    uint32_t halvings = other->stat.hist ? other->stat.hist[0] : 0;
    return stat->moments.n > 0 ? hist_pair_single(hists, number, stat->moments.mean,
                                                  stat_saturated(stat->moments.n), halvings)
                               : (struct hist_span){NULL, 0};
}

int stat_set_merge(struct stat_set *set, const struct stat_set *from, bool newer,
                   const uint8_t leader[STAT_SLOTS], struct stat_writer *writer)
{
    struct stat_side old = side_of(set), more = side_of(from);
    struct stat_mask all, written = {{0}};
    uint8_t *to = writer->bytes + sizeof written;
    for (uint32_t w = 0; w < STAT_WORDS; w++) {
        all.bits[w] = old.there.bits[w] | more.there.bits[w];
    }
    for (uint32_t slot = stat_take_slot(&all); slot < STAT_SLOTS; slot = stat_take_slot(&all)) {
        side_read(&old, slot, leader[slot]);
        side_read(&more, slot, leader[slot]);
        struct moments moments = old.stat.moments;
        moments_merge(&moments, &more.stat.moments);
        double last = newer && side_has_turn(&more, leader[slot]) ? more.stat.last
                      : side_has_turn(&old, leader[slot])         ? old.stat.last
                                                                  : NAN;
        if (moments.n == 0 && isnan(last)) {
            continue;
        }
        struct hist_span hist = {NULL, 0};
        if (slot < STAT_HISTS) {
            hist = hist_pair_sum(&writer->hists, side_hist(&old, 0, &more, &writer->hists),
                                 side_hist(&more, 1, &old, &writer->hists), writer->buckets);
        }
        to = stat_write(to, &moments, last,
                        &(struct stat_hist_source){.bytes = hist.bytes, .size = hist.size});
        stat_mask_set(&written, slot);
    }
    return stat_set_store(set, writer->bytes, &written, to);
}

/* Adding sets */

struct stat_sums {
    uint32_t buckets;
    const uint8_t *leader;
    struct stat_mask mask; /* slots in use */
    struct moments moments[STAT_SLOTS];
    double last[STAT_SLOTS];
    struct hist_sum *hist[STAT_HISTS]; /* owned; NULL until there is one */
    uint8_t bytes[];                   /* room for any set */
};

struct stat_sums *stat_sums_new(uint32_t buckets, const uint8_t leader[STAT_SLOTS])
{
    struct stat_sums *sums = malloc(sizeof *sums + stat_set_size_max(buckets));
    if (!sums) {
        return NULL;
    }
    *sums = (struct stat_sums){.buckets = buckets, .leader = leader};
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        sums->last[slot] = NAN;
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

static void forget_group(struct stat_sums *sums, uint32_t leader)
{
    for (uint32_t slot = leader; slot < STAT_SLOTS && sums->leader[slot] == leader; slot++) {
        sums->last[slot] = NAN;
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
        /* The numbers that every set has; a group's are forgotten when its leader turns up. */
        for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
            if (sums->leader[slot] == STAT_SLOTS) {
                sums->last[slot] = NAN;
            }
        }
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
            /* Leaders come before the others of their group. */
            uint32_t leader = sums->leader[slot];
            if (slot == leader && !isnan(stat.last)) {
                forget_group(sums, leader);
                stat_mask_set(&has_turn, slot);
            }
            if (leader == STAT_SLOTS || stat_mask_has(&has_turn, leader)) {
                sums->last[slot] = stat.last;
            }
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

/* Checking what came from outside */

/* Whether the numbers of a record lie before `end`; the histogram's size too. */
static bool numbers_fit(const uint8_t *at, const uint8_t *end, bool has_hist, size_t *ret_bytes)
{
    static const uint8_t last_bytes[] = {
        [LAST_NONE] = 0, [LAST_IS_MEAN] = 0, [LAST_F32] = 4, [LAST_F64] = 8};
    if (at == end) {
        return false;
    }
    uint32_t flags = *at;
    size_t bytes = 1 + stat_count_bytes(flags);
    if ((size_t)(end - at) < bytes) {
        return false;
    }
    const uint8_t *count = at + 1;
    bool some = stat_load_count(&count, stat_count_bytes(flags)) > 0;
    if (some) {
        bytes += flags & FLAG_MEAN_F32 ? 4 : 8;
    }
    if (some && !(flags & FLAG_SAME)) {
        bytes += flags & FLAG_RANGE_F32 ? 16 : 24;
    }
    bytes += last_bytes[stat_last_of(flags)];
    if (has_hist && !(flags & FLAG_SAME)) {
        bytes += flags & FLAG_LONG ? 2 : 1;
    }
    *ret_bytes = bytes;
    /* Without values all of none are the same; and a mean that is none cannot be the newest. */
    return (size_t)(end - at) >= bytes &&
           (some || ((flags & FLAG_SAME) && stat_last_of(flags) != LAST_IS_MEAN));
}

/* There are as many counts as values, or one of them is saturated, and all are within their bounds.
 */
static bool hist_fits(const struct stat_record *stat, uint32_t buckets)
{
    struct hist_extent extent;
    if (!hist_bytes_check(stat->hist, stat->hist_size, &extent)) {
        return false;
    }
    const struct moments *m = &stat->moments;
    uint32_t halvings = stat->hist[0];
    int32_t lowest = hist_key_halve(hist_key(m->min), 0, halvings),
            highest = hist_key_halve(hist_key(m->max), 0, halvings);
    bool may_cut = halvings == HIST_HALVINGS_MAX; /* small ones count as zero */
    lowest = may_cut && lowest > 0 ? 0 : lowest;
    highest = may_cut && highest < 0 ? 0 : highest;
    return extent.used <= (buckets > HIST_LIMIT_MIN ? buckets : HIST_LIMIT_MIN) &&
           extent.lowest >= lowest && extent.highest <= highest && extent.total <= m->n &&
           (extent.total == m->n || extent.total >= UINT32_MAX);
}

static const uint8_t *check_record(const uint8_t *at, const uint8_t *end, bool has_hist,
                                   bool looks_into, uint32_t buckets)
{
    struct stat_record stat;
    size_t bytes;
    if (!numbers_fit(at, end, has_hist, &bytes)) {
        return NULL;
    }
    /* All that this looks at is there; it does not look into the histogram. */
    const uint8_t *after = stat_read_record(at, has_hist, &stat);
    if ((size_t)(end - at) - bytes < stat.hist_size || stat.hist_size > hist_bytes_max(buckets) ||
        !moments_are_sound(&stat.moments) || !(isnan(stat.last) || value_exists(stat.last))) {
        return NULL;
    }
    return !stat.hist || !looks_into || hist_fits(&stat, buckets) ? after : NULL;
}

bool stat_set_check(const uint8_t *bytes, size_t size, uint32_t buckets,
                    const struct stat_mask *slots)
{
    struct stat_mask mask;
    if (size == 0) {
        return true;
    }
    if (size < sizeof mask || size > UINT32_MAX / 2) {
        return false;
    }
    memcpy(&mask, bytes, sizeof mask);
    const uint8_t *at = bytes + sizeof mask, *end = bytes + size;
    for (uint32_t slot = stat_take_slot(&mask); slot < STAT_SLOTS; slot = stat_take_slot(&mask)) {
        bool looks_into = !slots || stat_mask_has(slots, slot);
        at = check_record(at, end, slot < STAT_HISTS, looks_into, buckets);
        if (!at) {
            return false;
        }
    }
    return at == end;
}
