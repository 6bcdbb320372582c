/* SPDX-License-Identifier: MIT */
#include "daemon/fleet/seen.h"

#include "daemon/base/grow.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

/* The first range that ends at or behind the number; `count` when there is none. */
static uint32_t seen_find(const struct seen *seen, uint64_t number)
{
    uint32_t from = 0, to = seen->count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (seen->ranges[middle].last < number) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

bool seen_has(const struct seen *seen, uint64_t number)
{
    uint32_t i = seen_find(seen, number);
    return i < seen->count && seen->ranges[i].first <= number;
}

static void seen_remove(struct seen *seen, uint32_t from, uint32_t to)
{
    memmove(seen->ranges + from, seen->ranges + to, (seen->count - to) * sizeof *seen->ranges);
    seen->count -= to - from;
}

int seen_add(struct seen *seen, uint64_t first, uint64_t last)
{
    if (!grow(&seen->ranges, seen->count, &seen->capacity, sizeof *seen->ranges)) {
        return ERR_MEMORY;
    }
    uint32_t from = seen_find(seen, first - 1), to = from;
    for (; to < seen->count && seen->ranges[to].first <= last + 1; to++) {
        first = seen->ranges[to].first < first ? seen->ranges[to].first : first;
        last = seen->ranges[to].last > last ? seen->ranges[to].last : last;
    }
    if (from == to) {
        memmove(seen->ranges + from + 1, seen->ranges + from,
                (seen->count - from) * sizeof *seen->ranges);
        seen->count++;
    } else {
        seen_remove(seen, from + 1, to);
    }
    seen->ranges[from] = (struct seen_range){first, last};
    if (seen->count > SEEN_RANGES_MAX) {
        /* The range with the fewest numbers, but the first one, from whose end a hub goes on. */
        uint32_t least = 1;
        for (uint32_t i = 2; i < seen->count; i++) {
            const struct seen_range *range = &seen->ranges[i], *before = &seen->ranges[least];
            if (range->last - range->first <= before->last - before->first) {
                least = i;
            }
        }
        seen_remove(seen, least, least + 1);
    }
    return 0;
}

uint64_t seen_low(const struct seen *seen)
{
    return seen->count && seen->ranges[0].first == 1 ? seen->ranges[0].last : 0;
}

bool seen_hole(const struct seen *seen, uint64_t after, uint64_t top, struct seen_range *ret_hole)
{
    uint64_t first = after + 1;
    uint32_t next = seen_find(seen, first);
    if (next < seen->count && seen->ranges[next].first <= first) {
        first = seen->ranges[next++].last + 1;
    }
    uint64_t last = next < seen->count ? seen->ranges[next].first - 1 : top;
    if (first > top) {
        return false;
    }
    *ret_hole = (struct seen_range){first, last < top ? last : top};
    return true;
}

uint64_t seen_lacking(const struct seen *seen, uint64_t top)
{
    uint64_t lacking = top;
    for (uint32_t i = 0; i < seen->count && seen->ranges[i].first <= top; i++) {
        uint64_t last = seen->ranges[i].last < top ? seen->ranges[i].last : top;
        lacking -= last - seen->ranges[i].first + 1;
    }
    return lacking;
}

int seen_load(struct seen *seen, const void *data, size_t size)
{
    uint32_t count = (uint32_t)(size / sizeof *seen->ranges);
    const struct seen_range *from = data;
    struct seen loaded = {.count = 0};
    int code = size % sizeof *seen->ranges != 0 || count > SEEN_RANGES_MAX ? ERR_STORE_FORMAT : 0;
    for (uint32_t i = 0; i < count && !code; i++) {
        struct seen_range range;
        memcpy(&range, from + i, sizeof range);
        bool sound = range.first >= 1 && range.last >= range.first && range.last < UINT64_MAX / 2;
        code = sound ? seen_add(&loaded, range.first, range.last) : ERR_STORE_FORMAT;
    }
    if (code) {
        seen_clear(&loaded);
        return code;
    }
    seen_clear(seen);
    *seen = loaded;
    return 0;
}

void seen_clear(struct seen *seen)
{
    free(seen->ranges);
    *seen = (struct seen){.count = 0};
}
