/* SPDX-License-Identifier: MIT */
/* maps: the newest maps of the heads of each layer, for people to look at. Kept in memory only,
 * maps.memory of them at most: the stalest make room. Loop thread; maps themselves are made by
 * workers (head_maps.h), or come with sums of rows.
 *
 * A message that has all heads of its layer is a picture by itself. With heads split over ranks,
 * each message is a slice of a layer. Slices of one step belong together: `coming` collects them,
 * and becomes what is shown once it is complete, once the next step's begin to come, or at once
 * when there is nothing else to show. */
#ifndef DAEMON_STATE_MAPS_H
#define DAEMON_STATE_MAPS_H

#include "workers/maps/head_maps.h"
#include "daemon/ingest/message.h"

struct map_shelf;

/* The maps of one message. */
struct map_slice {
    struct head_maps *maps; /* owned */
    uint32_t first;         /* of its heads, in the layer */
    double *importance;     /* [maps->heads]; owned, NULL = not measured: a part of the layer */
    struct map_slice *next; /* with later heads */
};

/* The maps of one layer and step. */
struct layer_maps {
    struct map_slice *slices; /* owned; all of the same shape */
    uint32_t heads, here;     /* of the layer; in the slices */
    enum message_type type;   /* of the messages */
    uint64_t epoch, step, time_ns;
    uint32_t microbatch;
    uint32_t sample, batch; /* its number in the batch of the training, and of how many; 0: nobody
                               has said of how many */
    uint32_t q_offset; /* of the first query shown, in self-attention from the first key shown on */
    bool causal;
    char *labels, *q_labels; /* texts of the keys shown and of the queries, each with its NUL;
                                owned, NULL = none were sent */
    uint32_t label_count, q_label_count;
    uint64_t bytes;
    struct map_shelf *shelf;
    struct layer_maps **place; /* the pointer to this */
    struct layer_maps *newer, *staler;
};

/* All layer_maps of attnd, by age. */
struct map_shelf {
    struct layer_maps *newest, *stalest;
    uint64_t bytes, limit;
    uint64_t
        answering; /* bytes of answers on their way, which take no more than the limit either */
};

/* Why a layer has none. */
enum maps_missing {
    MAPS_NEVER_CAME, /* no message that could have had one */
    MAPS_NOT_SENT,   /* rows came, without maps */
    MAPS_TOO_LONG,   /* queries and keys beyond metrics.qk_maps_max_size */
    MAPS_SAMPLED,    /* a sample of its rows came */
    MAPS_TOO_COSTLY, /* queries and keys of a batch too large to make maps of */
    MAPS_TOO_LARGE,  /* larger than maps.memory */
    MAPS_EVICTED,
    MAPS_NO_MEMORY,
};

/* The maps of a layer, and the time when they are made again. A zeroed struct is empty. */
struct map_place {
    struct layer_maps *shown, *coming; /* owned; NULL = none */
    enum maps_missing missing;         /* when nothing is shown */
    bool asked;
    uint64_t asked_ns, asked_epoch, asked_step;
    uint32_t asked_microbatch, asked_heads;
    bool *asked_first; /* [asked_heads]: a slice that begins there was asked; owned */
};

/* Whether this message's maps shall be made; it is taken as asked then. At most every `every_ns` of
 * a layer, except for the other slices of the same step. */
bool maps_wanted(struct map_place *place, const struct header *header, uint64_t every_ns,
                 uint64_t now_ns);
/* Takes over the maps of a message that was asked for them. Existing maps stay when it has none;
 * maps beyond the shelf's limit are removed, the stalest first. `importance` is of the heads of the
 * message; NULL: not measured. */
void maps_put(struct map_shelf *shelf, struct map_place *place, struct message *message,
              const double *importance, uint32_t qk_max_size);
void maps_clear(struct map_place *place);

/* The slice that has a head; NULL when it is not here. */
const struct map_slice *maps_find(const struct layer_maps *maps, uint32_t head);
/* The shape of the whole layer; any slice: they are alike but for their heads. */
static inline const struct head_maps *maps_shape(const struct layer_maps *maps)
{
    return maps->slices->maps;
}

#endif
