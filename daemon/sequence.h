/* SPDX-License-Identifier: MIT */
/* sequence: what one publisher has sent on one topic, and what that says about losses. Pure.
 *
 * A gap in seq is a message that was sent and never arrived; `dropped` is what the publisher gave
 * up itself and did not number. The first message seen may have any seq: attnd may have started in
 * the middle of a run, and what was sent before is nobody's loss. */
#ifndef DAEMON_SEQUENCE_H
#define DAEMON_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

struct sequence {
    uint64_t seen;    /* 0 or 1; whole numbers only: it is stored as it is */
    uint64_t first;   /* the first seq seen */
    uint64_t next;    /* the seq to come */
    uint64_t dropped; /* as last reported by the publisher */
};

/* One sequence per rank index of a topic, grown on demand. A zeroed struct is empty. */
struct sequences {
    struct sequence *of_rank; /* owned */
    uint32_t count;
};

struct losses {
    uint64_t lost;    /* sent, never arrived */
    uint64_t source;  /* dropped by the publisher since its last message */
    bool joined_late; /* the first message seen is not the first that was sent */
};

/* Takes the next message in. Returns 0, ERR_SEQ_DUPLICATE, ERR_SEQ_ORDER (both without effect) or
 * ERR_MEMORY. */
int sequences_next(struct sequences *sequences, uint32_t rank_index, uint64_t seq, uint64_t dropped,
                   struct losses *ret_losses);
/* Whether sequences_next would refuse this number as one that was seen, or goes backwards. */
bool sequences_passed(const struct sequences *sequences, uint32_t rank_index, uint64_t seq);
/* For a copy `older` of these sequences: what came in between, of all ranks together. */
uint64_t sequences_since(const struct sequences *sequences, const struct sequences *older);
/* Takes over the newer numbers, rank by rank. Returns 0 or ERR_MEMORY. */
int sequences_merge(struct sequences *into, const struct sequences *from);
void sequences_clear(struct sequences *sequences);

#endif
