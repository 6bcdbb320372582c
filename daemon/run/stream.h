/* SPDX-License-Identifier: MIT */
/* stream: one attention layer of a run: its identity, its messages so far, and the data of each
 * window rule of the run (track.h) besides its states. Loop thread only. */
#ifndef DAEMON_RUN_STREAM_H
#define DAEMON_RUN_STREAM_H

#include "daemon/state/drift.h"
#include "daemon/base/promise.h"
#include "daemon/base/hash.h"
#include "proto/header.h"
#include "daemon/state/maps.h"
#include "daemon/state/position.h"
#include "daemon/state/sketch.h"
#include "daemon/ingest/sequence.h"
#include "daemon/state/tally.h"

struct message;

/* The messages that were taken in: received = processed + the tally's drops. */
struct counts {
    uint64_t received, processed;
    struct tally tally;
};

/* A layer in one track. */
struct layer_track {
    struct tally pending; /* since its last message, for the window of its next one */
    struct drift *drift;  /* owned; NULL before its first window */
    uint64_t drift_bytes; /* charged to the run's budget */
    bool unsaved;         /* something came since the last checkpoint */
    bool drift_unsaved;
    bool forwarded;            /* its state in the part that closes is in the batch (forward.h) */
    struct sequences restored; /* while checkpoints are read: what this track has */
};

/* The parts of a layer's matrices that wait for the others. */
struct assembly {
    struct message *first; /* in the order of arrival, by queued_next; owned */
    uint64_t entries;      /* of the matrices, that they have together */
    uint32_t count;
};

struct stream {
    uint32_t key; /* packed layer_id */
    uint32_t index;
    struct layer_id id;
    char *module;   /* path of the module that attends, the newest that was said; owned, NULL =
                       none yet */
    uint32_t heads; /* of the model; fixed with the first tensor, a hello only announces it */
    bool measured;  /* a tensor has come */
    uint32_t *spectrum_next; /* [heads] by head_offset of a message: the one of its heads that the
                                next one's spectra begin with; owned, NULL until there is one */
    uint64_t mapped_part;    /* 1 + the last part that a map was asked for in; 0 = none */
    struct map_place maps;   /* the newest of its heads */
    struct sequences sequences;
    struct sequences reliable; /* of the reliable lane */
    struct promises promises;  /* of its messages, for the batch that saves it in all tracks */
    struct assembly assembly;
    struct sketch *sketch;       /* owned; NULL = none yet */
    struct position projections; /* of the newest matrices that were published */
    struct counts counts;
    uint64_t last_ns;           /* when it was last heard of */
    struct layer_track *tracks; /* [of the run]; owned */
    UT_hash_handle hh;
};

/* NULL when there is none. */
struct stream *stream_find(struct stream *streams, struct layer_id id);
/* Adds one to the table `*streams`. NULL when out of memory. */
struct stream *stream_add(struct stream **streams, struct layer_id id, uint32_t heads,
                          uint32_t tracks, uint64_t now_ns);
/* Bytes that a layer takes before its first message: its stream, its path, its tracks. */
uint64_t stream_bytes(uint32_t tracks);
void stream_free_all(struct stream **streams, uint32_t tracks);

/* Takes a path that module_path_valid accepts. Returns whether it is another one; without memory
 * the old one stays. */
bool stream_set_module(struct stream *stream, const char *module, size_t len);

/* Another number of heads begins its turns anew. */
void stream_set_heads(struct stream *stream, uint32_t heads);
/* The head, of those of a message that begins with head_offset, that its spectra begin with. */
uint32_t stream_spectrum_turn(const struct stream *stream, uint32_t head_offset);
void stream_end_spectrum_turn(struct stream *stream, uint32_t head_offset, uint32_t next);

void counts_merge(struct counts *into, const struct counts *from);

#endif
