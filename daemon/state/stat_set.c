/* SPDX-License-Identifier: MIT */
#include "daemon/state/stat_set.h"
#include "daemon/base/block_bytes.h"
#include "proto/err.h"
#include "daemon/state/stat_set_internal.h"

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

static const struct stat_record no_stat = {.last = NAN};

struct stat_record stat_find(const struct stat_set *set, uint32_t slot)
{
    struct stat_reader reader;
    struct stat_record stat;
    uint32_t at;
    stat_reader_init(&reader, set);
    while (stat_read(&reader, &at, &stat)) {
        if (at == slot) {
            return stat;
        }
    }
    return no_stat;
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

/* There are as many counts as values, or one of them is saturated. */
static bool hist_fits(const struct stat_record *stat, uint32_t buckets)
{
    uint32_t used;
    uint64_t total;
    if (!hist_bytes_check(stat->hist, stat->hist_size, &used, &total)) {
        return false;
    }
    return used <= (buckets > HIST_LIMIT_MIN ? buckets : HIST_LIMIT_MIN) &&
           total <= stat->moments.n && (total == stat->moments.n || total >= UINT32_MAX);
}

static const uint8_t *check_record(const uint8_t *at, const uint8_t *end, bool has_hist,
                                   uint32_t buckets)
{
    struct stat_record stat;
    size_t bytes;
    if (!numbers_fit(at, end, has_hist, &bytes)) {
        return NULL;
    }
    /* All that this looks at is there; it does not look into the histogram. */
    const uint8_t *after = stat_read_record(at, has_hist, &stat);
    if ((size_t)(end - at) - bytes < stat.hist_size) {
        return NULL;
    }
    return !stat.hist || hist_fits(&stat, buckets) ? after : NULL;
}

bool stat_set_check(const uint8_t *bytes, size_t size, uint32_t buckets)
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
        at = check_record(at, end, slot < STAT_HISTS, buckets);
        if (!at) {
            return false;
        }
    }
    return at == end;
}
