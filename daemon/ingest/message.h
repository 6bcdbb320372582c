/* SPDX-License-Identifier: MIT */
/* message: one received multipart message, from the socket to the last worker, never copied.
 *
 * The ZeroMQ frames are moved in, the header is decoded once, the tensors are read in place. Owned
 * by one thread at a time: ingest until it is posted, then the loop; while `work` runs, workers
 * read the frames. */
#ifndef DAEMON_INGEST_MESSAGE_H
#define DAEMON_INGEST_MESSAGE_H

#include "workers/base/attention.h"
#include "config/config.h"
#include "workers/maps/head_maps.h"
#include "workers/rows/row_sums.h"
#include "workers/small_maps.h"
#include "proto/header.h"
#include "proto/recording.h"
#include "daemon/base/inbox.h"
#include "daemon/base/promise.h"
#include "daemon/ingest/sequence.h"
#include "workers/linear/weights.h"
#include <zmq.h>

#define MESSAGE_FRAMES_MAX (2 + TENSORS_MAX)

struct ingest_share;
struct measured;
struct run;
struct work;

/*     POSTED --> QUEUED --> FINISHED --> taken in its turn; accounted for, freed
 *      |  ^         |           |
 *      v  |         |           +-- a part of matrices --> PART, until the last part comes
 *      HELD         |           +-- the last part --+
 *                   |                               v
 *                   +-- matrices in one message --> DETACHED --> queue_join; accounted for, freed
 *
 * The loop alone moves a message on, and asserts the arrows (run/queue.c, hold.c, assembly.c). */
enum message_stage {
    STAGE_POSTED,   /* on its way to the loop, or there and without a place */
    STAGE_HELD,     /* waits for messages of the other lane (hold.h) */
    STAGE_QUEUED,   /* has its place in the order of its run, and is computed */
    STAGE_FINISHED, /* no work is left to do: it is taken in its turn */
    STAGE_DETACHED, /* of type weights: taken in its turn before its numbers are there */
    STAGE_PART,     /* of type weights: taken, and waits for the other parts of its matrices, in its
                       layer's assembly or as one of `parts` */
};

struct message {
    struct note note; /* first: the part that travels through the inbox */
    zmq_msg_t frames[MESSAGE_FRAMES_MAX];
    uint32_t frame_count; /* frames held */
    uint32_t frames_seen; /* frames that came; those beyond MESSAGE_FRAMES_MAX were discarded */
    uint32_t borrowed;    /* by frame: it is in memory that the sender lent (memory.h) */
    uint64_t bytes;       /* of all frames that came */
    uint64_t cost;        /* what it counts against the budget: bytes, bookkeeping, computation */
    uint64_t scratch;     /* scratch memory of the largest message, in the same units */
    bool reserved;        /* its cost counts against the reserve instead (ingest.h) */
    struct ingest_share *share; /* its payer's, as long as it costs something */
    struct inbox_line *line;    /* its job's or key's; until it is posted */
    uint64_t received_ns;       /* monotonic clock */
    struct lane_peer *peer;     /* of the reliable lane: to be told when it is freed; NULL = none */
    struct promise *promise;    /* to acknowledge it; owned, NULL = none, or passed on */
    const char *sender;         /* its key, which may publish some jobs only (keys_bounded), in the
                                   first frame; NULL = it may publish all, or has none */
    struct header header;       /* valid when decoded */

    /* the loop's, while the message is worked on */
    struct run *run;
    uint32_t rank_index;
    uint64_t arrival; /* position in the order in which its run took messages */
    enum message_stage stage;
    struct losses losses; /* what its sequence number says was lost before it */
    struct work *work;
    const struct measured *measured; /* its numbers, the work's */
    int code;                        /* why it has none, or is refused */
    uint64_t begun_ns, computed_ns;  /* monotonic; set by workers, 0 = was not computed */
    struct message *next;            /* of its job, waiting for room in the pool */
    struct message *queued_next;     /* of its run, in the order of arrival */
    union {                          /* by message_has_matrices */
        struct {                     /* types attention, qk and rows */
            /* Set before work_new when history.maps is on, on the first message of a layer in a
             * primary window: its map is pooled (workers/rows/map_pool.h), and is layer_state.map
             * afterwards. */
            bool wants_map; /* of rows: takes the map that they bring */
            /* Set before work_new: the maps of its heads are made (maps.h), and its labels
             * copied. */
            bool wants_head_maps;
            struct head_maps *head_maps;   /* made by the work, or brought; owned until maps_put */
            uint32_t small_maps_size;      /* set before work_new: cells a side of the maps of heads
                                              that are made for its window; 0 = none */
            struct small_maps *small_maps; /* made by the work, or of those brought; owned, NULL =
                                              none */
            char *labels, *q_labels;       /* of its keys, of its queries; owned; NULL = none */
            uint32_t label_count, q_label_count;
        };
        struct {                   /* type weights */
            struct message *parts; /* the others of its matrices, which it stands for; owned, by
                                      queued_next */
            char *joined;          /* the matrices that they make together; owned */
            enum dtype joined_dtype[PROJECTION_COUNT];
            /* By track, 1 + index of the part of a window that waits for the numbers; 0 = none. */
            uint64_t awaited[CONFIG_WINDOW_RULES_MAX];
        };
    };
};

static inline bool message_has_matrices(const struct message *message)
{
    return message->header.type == MESSAGE_WEIGHTS;
}

/* A refused message, for the counters of its job. */
struct refusal {
    struct note note;
    char job[JOB_NAME_MAX + 1];
    int code;
    struct ingest_share *share; /* its job's, NULL = nothing of the job is in flight */
};

/* Receives one whole message without waiting. Returns 0 with *ret_message, ERR_AGAIN when there is
 * none, ERR_MEMORY when a message was there but had to be thrown away, ERR_CLOSED when the context
 * ended. */
int message_receive(void *socket, struct message **ret_message);
/* Receives the rest of a message whose first frames were read: it is here already. */
int message_receive_rest(void *socket, struct message **ret_message);
/* One frame of a message whose first frame was read. Returns as zmq_msg_recv. */
int message_receive_frame(zmq_msg_t *frame, void *socket);
/* The same from frames that are copied. Returns 0 or ERR_MEMORY. */
int message_copy(const struct recording_frame *frames, uint32_t count,
                 struct message **ret_message);

/* Decodes the header and checks topic, frames and limits. Returns 0 or the reason to refuse it.
 * *reterr_key as in header_decode. */
int message_check(struct message *message, const struct config *config, const char **reterr_key);

/* Types attention and qk: the tensors as the kernels see them; borrowed from the message. Without
 * one, of the header alone, for estimating the cost: pointers only mark which tensors exist and
 * must not be followed. */
struct attention message_attention(const struct header *header, struct message *message);
/* Type rows: the sums, likewise. */
struct sent_sums message_rows(const struct header *header, struct message *message);
/* The maps that it brings, all but their cells. */
struct head_maps message_brought(const struct header *header);
/* Their cells, in half precision; NULL: it brings none. */
const void *message_cells(struct message *message);
/* Type sketch: the places of its heads in each matrix, as they came. */
struct sent_sketch {
    const char *matrix[PROJECTION_COUNT]; /* [heads, or key heads][SKETCH_PLACES] f32, wherever they
                                             lie; NULL: was not sent */
    const uint8_t *held[PROJECTION_COUNT]; /* the same, u8; NULL: it holds all of them */
};
struct sent_sketch message_sketch(struct message *message);
/* Type weights: the matrices, likewise. */
struct weights message_weights(const struct header *header, struct message *message);
/* Makes it the one that stands for the matrices of which it and `parts` have the blocks, all of
 * them and of one dtype each: message_weights gives them whole. On 0 it owns the parts. Returns 0
 * or ERR_MEMORY. */
int message_join(struct message *message, struct message *parts);

/* The others that it stands for, by queued_next; NULL: none. */
static inline struct message *message_others(const struct message *message)
{
    return message_has_matrices(message) ? message->parts : NULL;
}
/* The one after `part`, of itself and those; NULL: none. */
static inline const struct message *message_after(const struct message *message,
                                                  const struct message *part)
{
    return part == message ? message_others(message) : part->queued_next;
}
/* Fills what it was joined to; frees the frames that came. On a worker, before it is computed. */
void message_gather(struct message *message);

/* Copies the texts of `key`, "labels" or "q_labels", one after the other, each with its NUL: those
 * from `first` on, `most` at most. NULL when it has none or there is no memory. On a worker. */
char *message_labels(struct message *message, const char *key, uint32_t first, uint32_t most,
                     uint32_t *ret_count);

/* Takes the texts of what message->head_maps show, if these are of the sample that texts are of. */
void message_label_maps(struct message *message);

/* Frees the tensors, which nothing may need any more; the header stays. Returns their bytes. */
uint64_t message_free_tensors(struct message *message);
void message_free(struct message **message);

#endif
