/* SPDX-License-Identifier: MIT */
/* Sequences only move on, so what a message waits for is looked at once: `reached` remembers how
 * far. */
#include "daemon/run/hold.h"

#include "daemon/base/clock.h"
#include "daemon/run/stream.h"

#include <assert.h>
#include <stdlib.h>

/* The messages of a rank. */
struct hold {
    struct hold *next;
    uint32_t rank;
    uint32_t reached; /* how many topics that the first one waits for are there */
    struct message *first, **last;
};

static bool hold_has_come(struct run *run, uint32_t rank, const struct topic_position *position)
{
    const struct stream *stream = stream_find(run->streams, position->layer);
    uint32_t index = window_find_rank(&run->tracks[0].window, rank);
    return position->seq == 0 ||
           (stream && sequences_reached(&stream->sequences, index, position->seq));
}

/* Whether a message may go that no other one is before. */
static bool hold_is_over(struct run *run, const struct message *message, uint32_t *reached,
                         uint64_t now_ns)
{
    const struct header *header = &message->header;
    while (*reached < header->after_count &&
           hold_has_come(run, header->rank, &header->after[*reached])) {
        ++*reached;
    }
    return *reached == header->after_count ||
           clock_since_ns(message->received_ns, now_ns) >= run->config->window_timeout;
}

static struct hold **hold_find(struct run *run, uint32_t rank)
{
    struct hold **link = &run->holds;
    while (*link && (*link)->rank != rank) {
        link = &(*link)->next;
    }
    return link;
}

int hold_put(struct run *run, struct message *message, uint64_t now_ns)
{
    uint32_t reached = 0;
    struct hold **link = hold_find(run, message->header.rank), *hold = *link;
    if (!message->header.reliable || (message->code && !hold)) {
        return 0;
    }
    if (!hold) {
        if (run->hold_count >= run->config->limits_ranks ||
            hold_is_over(run, message, &reached, now_ns)) {
            return 0;
        }
        hold = calloc(1, sizeof *hold);
        if (!hold) {
            return ERR_MEMORY;
        }
        hold->rank = message->header.rank;
        hold->reached = reached;
        hold->last = &hold->first;
        *link = hold;
        run->hold_count++;
    }
    message->run = run;
    assert(message->stage == STAGE_POSTED);
    message->stage = STAGE_HELD;
    message->queued_next = NULL;
    *hold->last = message;
    hold->last = &message->queued_next;
    run->held++;
    run->held_ns = run->held_ns ? run->held_ns : message->received_ns;
    run_heard(run, header_is_beat(&message->header), now_ns);
    return 1;
}

static struct message *hold_take_first(struct run *run, struct hold **link)
{
    struct hold *hold = *link;
    struct message *message = hold->first;
    hold->first = message->queued_next;
    message->stage = STAGE_POSTED;
    hold->reached = 0;
    assert(run->held > 0);
    run->held--;
    if (!hold->first) {
        *link = hold->next;
        free(hold);
        run->hold_count--;
    }
    if (message->received_ns == run->held_ns) {
        run->held_ns = 0;
        for (const struct hold *other = run->holds; other; other = other->next) {
            uint64_t received_ns = other->first->received_ns;
            run->held_ns = run->held_ns && run->held_ns < received_ns ? run->held_ns : received_ns;
        }
    }
    return message;
}

struct message *hold_take(struct run *run, uint64_t now_ns)
{
    for (struct hold **link = &run->holds; *link; link = &(*link)->next) {
        if (hold_is_over(run, (*link)->first, &(*link)->reached, now_ns)) {
            return hold_take_first(run, link);
        }
    }
    return NULL;
}
