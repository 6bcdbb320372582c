/* SPDX-License-Identifier: MIT */
#include "proto/ranks.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

static struct recorded_rank *ranks_find(struct ranks *ranks, const struct header *header)
{
    for (size_t i = 0; i < ranks->count; i++) {
        size_t index = (ranks->next + i) % ranks->count;
        struct recorded_rank *rank = &ranks->items[index];
        if (rank->rank == header->rank && memcmp(rank->run, header->run, RUN_BYTES) == 0 &&
            strcmp(rank->job, header->job) == 0) {
            ranks->next = index;
            return rank;
        }
    }
    return NULL;
}

/* NULL when out of memory. */
static struct recorded_rank *ranks_add(struct ranks *ranks, const struct header *header)
{
    void *items = realloc(ranks->items, (ranks->count + 1) * sizeof *ranks->items);
    if (!items) {
        return NULL;
    }
    ranks->items = items;
    struct recorded_rank *rank = &ranks->items[ranks->count++];
    *rank = (struct recorded_rank){.rank = header->rank};
    strcpy(rank->job, header->job);
    memcpy(rank->run, header->run, RUN_BYTES);
    return rank;
}

int ranks_note(struct ranks *ranks, const struct recording_frame *frames, uint32_t count)
{
    struct header header;
    const char *key;
    if (count < 2 || header_decode(frames[1].data, frames[1].size, &header, &key) != 0) {
        return 0;
    }
    struct recorded_rank *rank = ranks_find(ranks, &header);
    if (!rank) {
        rank = ranks_add(ranks, &header);
    }
    if (rank) {
        rank->world = header.world;
        rank->epoch = header.epoch;
        rank->step = header.step;
        rank->time_ns = header.time_ns;
        if (header.type == MESSAGE_EVENT) {
            rank->event_seq = header.seq + 1;
            rank->reliable = header.reliable;
            rank->event_dropped = header.dropped;
            rank->bye = rank->bye || header.event == EVENT_BYE;
        }
    }
    header_clear(&header);
    return rank ? 0 : ERR_MEMORY;
}

bool ranks_all_bye(const struct ranks *ranks)
{
    for (size_t i = 0; i < ranks->count; i++) {
        if (!ranks->items[i].bye) {
            return false;
        }
    }
    return ranks->count > 0;
}

void ranks_clear(struct ranks *ranks)
{
    free(ranks->items);
    *ranks = (struct ranks){0};
}
