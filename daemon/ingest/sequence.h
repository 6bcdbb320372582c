/* SPDX-License-Identifier: MIT */
/* sequence: the messages of one publisher on one topic, and the losses that their numbers show.
 * Pure.
 *
 * A gap in seq is a message that was sent and did not arrive; `dropped` is what the publisher gave
 * up itself and did not number. The first message seen may have any seq: attnd may have started in
 * the middle of a run, and what was sent before is nobody's loss.
 *
 * Numbers come from outside and may be forged, or come late:
 *
 *     next            taken
 *     up to SEQUENCE_GAP_MAX beyond next   taken; what lies between is lost, until it comes
 *     in one of the last SEQUENCE_GAPS gaps   taken, and no longer lost (`found`): it was late,
 *                     because a broken connection is read out after its successor has begun
 *     up to SEQUENCE_GAP_MAX below next    refused: it was taken before
 *     any other       refused, and remembered: the next message that follows it shows that the
 *                     publisher goes on there, and it is believed from then on. The position that
 *                     it had is remembered in turn, so a forged number costs one message at most.
 *
 * A jump to another position counts no losses: nobody knows what lies between. */
#ifndef DAEMON_INGEST_SEQUENCE_H
#define DAEMON_INGEST_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

/* More than any connection and both its ends can hold of one topic, in messages of 1 KiB: 1 GiB. */
#define SEQUENCE_GAP_MAX (UINT64_C(1) << 20)
/* A publisher may give up more than that while nobody listens; beyond this it is not believed. */
#define SEQUENCE_DROPPED_MAX (UINT64_C(1) << 32)
#define SEQUENCE_GAPS        2

enum sequence_seen {
    SEQUENCE_UNSEEN,
    SEQUENCE_SEEN,
    SEQUENCE_RESTORED, /* seen before attnd was started again, and not since */
};

struct sequence {
    uint64_t seen;    /* enum sequence_seen; whole numbers only: it is stored as it is */
    uint64_t first;   /* the first seq seen */
    uint64_t next;    /* the seq to come */
    uint64_t dropped; /* as last reported by the publisher */
};

/* Doubts about a rank. Not stored: no late message outlives a restart of attnd. */
struct sequence_doubt {
    struct {
        uint64_t from, to; /* `to` excluded; empty: none */
    } gap[SEQUENCE_GAPS];  /* newest first */
    uint64_t other;        /* the seq to come if the publisher is elsewhere; 0: it is not */
};

/* One sequence per rank index of a topic, grown on demand. A zeroed struct is empty. */
struct sequences {
    struct sequence *of_rank;     /* owned */
    struct sequence_doubt *doubt; /* [doubt_count] of the first ranks; owned, NULL without doubts */
    uint32_t count, doubt_count;
};

struct losses {
    uint64_t lost;    /* sent, did not arrive */
    uint64_t found;   /* 1: this message was counted as lost before */
    uint64_t source;  /* dropped by the publisher since its last message */
    uint64_t known;   /* of these: an event has told of them before (drop_totals, below) */
    bool joined_late; /* the first message seen, or seen since attnd was started again, is not the
                         next that was sent */
};

/* Bytes of a rank, with its doubts. */
#define SEQUENCE_BYTES (sizeof(struct sequence) + sizeof(struct sequence_doubt))

/* The `count` that the sequences have with a message of this rank. */
uint32_t sequences_count_with(const struct sequences *sequences, uint32_t rank_index);
/* Takes the next message in. Returns 0, ERR_SEQ_DUPLICATE, ERR_SEQ_ORDER (both count no losses) or
 * ERR_MEMORY. */
int sequences_next(struct sequences *sequences, uint32_t rank_index, uint64_t seq, uint64_t dropped,
                   struct losses *ret_losses);
/* Whether sequences_next would refuse this number as one that was taken before. */
bool sequences_passed(const struct sequences *sequences, uint32_t rank_index, uint64_t seq);
/* Whether this number begins the sequence or continues it: it is neither passed, nor late, nor
 * in doubt. */
bool sequences_goes_on(const struct sequences *sequences, uint32_t rank_index, uint64_t seq);
/* Whether the messages below this number have come, or are known to be lost. */
bool sequences_reached(const struct sequences *sequences, uint32_t rank_index, uint64_t seq);
/* For a copy `older` of these sequences: what came in between, of all ranks together. */
uint64_t sequences_since(const struct sequences *sequences, const struct sequences *older);
/* Takes over the newer numbers, rank by rank. Returns 0 or ERR_MEMORY. */
int sequences_merge(struct sequences *into, const struct sequences *from);
/* They were saved by an attnd that has ended. */
void sequences_restored(struct sequences *sequences);
void sequences_clear(struct sequences *sequences);

/* drop_totals: publishers report their own drops twice: each tensor message has the total of its
 * topic so far, and each event the total of the rank, of all topics together. Here both become one
 * truth: what an event tells first counts for the run alone, until messages of the layers tell
 * where it belongs. Pure. */

/* Whole numbers only: it is stored as it is. One of `unplaced` and `ahead` is 0. */
struct drop_total {
    uint64_t heard;    /* 0 or 1: an event has told */
    uint64_t told;     /* by the last event */
    uint64_t unplaced; /* of these: no topic has told of them yet */
    uint64_t ahead;    /* how many more topics have told of */
};

/* One per rank index, grown on demand. A zeroed struct is empty. */
struct drop_totals {
    struct drop_total *of_rank; /* owned */
    uint32_t count;
};

/* An event tells the rank's total. The first one that is heard says what is nobody's loss, unless
 * it is the first that was sent (`from_start`): attnd joined in the middle. Sets *ret_new to what
 * was not known before. Returns 0 or ERR_MEMORY. */
int drop_totals_event(struct drop_totals *totals, uint32_t rank_index, uint64_t total,
                      bool from_start, uint64_t *ret_new);
/* A topic tells of `dropped` more. Sets *ret_known to how many of them an event has told of before:
 * they belong to this topic now. Returns 0 or ERR_MEMORY. */
int drop_totals_topic(struct drop_totals *totals, uint32_t rank_index, uint64_t dropped,
                      uint64_t *ret_known);
void drop_totals_clear(struct drop_totals *totals);

#endif
