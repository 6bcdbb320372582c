/* SPDX-License-Identifier: MIT */
/* capture_layer: a layer in a capture: of each head the mean of every metric, and how many values
 * are behind it. Loop thread. */
#ifndef DAEMON_STATE_CAPTURE_LAYER_H
#define DAEMON_STATE_CAPTURE_LAYER_H

#include "daemon/ingest/message.h"
#include "workers/measure.h"

/* The messages that a rank has sent of a layer. */
struct capture_share {
    uint32_t rank, messages; /* rank: its index in the run */
};

/* A layer in a capture. The arrays of heads are one block; `counts` is NULL while all heads have
 * the same counts, as they do where each message has all of them. */
struct capture_layer {
    struct layer_id id;
    uint32_t heads;
    uint32_t messages;           /* 0: the layer is not in this capture */
    uint32_t keys;               /* of its newest message */
    uint64_t rows, invalid_rows; /* sound ones; others */
    double row_sum_error;        /* NaN: none was measured */
    uint32_t slots, extremes;
    uint8_t slot_of[METRIC_MATRIX_FIRST], extreme_of[METRIC_MATRIX_FIRST]; /* + 1; 0: none */
    uint32_t *count;              /* [slots] values behind the mean of a head: rows, or messages */
    uint32_t *counts;             /* [slots][heads], instead of `count`; owned */
    float *mean;                  /* [slots][heads]; NaN: none */
    float *low, *high;            /* [extremes][heads]; NaN: none */
    uint64_t *of, *invalid;       /* [heads] rows; those that are not sound */
    struct capture_share *shares; /* by rank, ascending; owned */
    uint32_t share_count, share_room;
    void *block; /* owned */
};

/* Sees to a layer with room for the metrics `on`, of which `wants` keep their smallest and largest
 * value: *place, made where there is none, with what is in it already. Returns 0 or ERR_MEMORY:
 * *place is unchanged. */
int capture_layer_get(struct capture_layer **place, struct layer_id id, uint32_t heads,
                      const bool on[METRIC_MATRIX_FIRST], const bool wants[METRIC_MATRIX_FIRST]);
void capture_layer_free(struct capture_layer **layer);
/* No message is in it. Keeps its memory. */
void capture_layer_clear(struct capture_layer *layer);
uint64_t capture_layer_bytes(const struct capture_layer *layer);
/* The bytes of a layer with so many heads, all metrics and extremes, and counts of each head. */
uint64_t capture_layer_most(uint32_t heads);

/* Gives each head counts of its own. Returns 0 or ERR_MEMORY. */
int capture_layer_split(struct capture_layer *layer);
/* The rank's share, made where it has none. NULL when out of memory. */
struct capture_share *capture_layer_share(struct capture_layer *layer, uint32_t rank);
/* Whether the message has all heads of its layer, with as many values of each; else split. */
bool capture_layer_is_even(const struct message *message, const struct measured *measured);
/* Adds a message. The layer has its metrics. */
void capture_layer_add(struct capture_layer *layer, const struct message *message,
                       const struct measured *measured);

/* NaN: there is none. */
double capture_layer_mean(const struct capture_layer *layer, enum metric metric, uint32_t head);
double capture_layer_low(const struct capture_layer *layer, enum metric metric, uint32_t head);
double capture_layer_high(const struct capture_layer *layer, enum metric metric, uint32_t head);
/* Values behind the mean. */
uint32_t capture_layer_count(const struct capture_layer *layer, enum metric metric, uint32_t head);
double capture_layer_invalid_share(const struct capture_layer *layer, uint32_t head);

#endif
