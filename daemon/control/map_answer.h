/* SPDX-License-Identifier: MIT */
/* map_answer: the common part of `maps` and `rollout`: parameters, the run and layers they select,
 * and the answer's cells, which are written on a thread of libuv's pool. Loop thread. */
#ifndef DAEMON_CONTROL_MAP_ANSWER_H
#define DAEMON_CONTROL_MAP_ANSWER_H

#include "daemon/control/internal.h"
#include "daemon/state/maps.h"

enum maps_kind {
    MAPS_HEADS,
    MAPS_MEAN,
    MAPS_SUM,
    MAPS_MAX,
    MAPS_WEIGHTED,
    MAPS_IMPORTANCE,
    MAPS_KIND_COUNT
};
extern const char *const maps_kind_name[MAPS_KIND_COUNT];

struct maps_asked {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1], stack[16], site[16];
    uint64_t layer, head; /* UINT64_MAX: not said */
    uint64_t heads;       /* how many, from `head` on; UINT64_MAX: one, or all without `head` */
    uint64_t size;        /* most rows and columns; UINT64_MAX: as they are kept */
    enum maps_kind kind;
    bool packed;
};

/* Returns 0, or ERR_ARGUMENT. */
int maps_read(struct control_request *request, struct maps_asked *ret_asked);
/* The first layer that is meant and has sent something, in the order encoder, decoder; layer; self,
 * cross. NULL when there is none. */
struct stream *maps_find_stream(const struct maps_asked *asked, const struct run *run);
/* Why a layer (NULL: none was found) has no map: a sentence. Returns ERR_NO_MAP. */
int maps_refuse(struct control_request *request, const struct run *run,
                const struct stream *stream);

/* An answer on its way. */
struct picture {
    uv_work_t work;
    struct pending *pending;
    struct map_shelf *shelf;
    uint64_t bytes;           /* charged to the shelf until it is answered */
    struct mpk_writer result; /* begun: all but `values` */
    /* On another thread, before the cells are written: makes them of themselves. Returns 0 or
     * ERR_MEMORY. NULL = they are ready. */
    int (*make)(struct picture *picture);
    float *cells; /* [count][rows][columns] */
    uint32_t count, rows, columns;
    uint32_t keys; /* that are shown */
    uint32_t size; /* most rows and columns of the answer */
    bool single;   /* one map, and no list of maps */
    bool packed;
    bool *here; /* [count]: the others are nil; in the same memory as `cells` */
    int code;
};

/* With cells that are not filled and none here. Returns 0, ERR_AGAIN when as much as maps.memory is
 * on its way already, ERR_ARGUMENT with a sentence when the answer would be larger than clients
 * take, or ERR_MEMORY. */
int picture_new(struct control_request *request, const struct maps_asked *asked,
                const struct run *run, const struct layer_maps *maps, uint32_t count,
                struct picture **ret_picture);
void picture_free(struct picture **picture);
/* Answers with the picture, which is gone then, whatever comes of it. Returns CONTROL_WAIT or
 * ERR_MEMORY. */
int picture_answer(struct control_request *request, struct picture **picture);

/* `job`, `run`, `epoch`, `step`, `queries`, `keys`, `first_query`, `first_key`, `queries_sent`,
 * `keys_sent`, `rows`, `columns`, `labels`, `q_labels`: MAPS_COMMON_KEYS keys of the answer; rows
 * and columns as `asked` says. */
#define MAPS_COMMON_KEYS 14
void maps_put_common(struct mpk_writer *result, const struct maps_asked *asked,
                     const struct run *run, const struct layer_maps *maps);

#endif
