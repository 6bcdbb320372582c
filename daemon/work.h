/* SPDX-License-Identifier: MIT */
/* work: the computation of one message, cut into jobs for the pool, and its result.
 *
 * A message becomes at most WORK_BLOCKS_MAX row blocks and WORK_SPECTRA_MAX groups of heads whose
 * spectra * are wanted. Jobs share nothing. A message with a slice of the model's heads has no
 * across-head numbers (importance, aggregate, top pairs): they need all heads. The last one to
 * finish merges their results and posts the message to the loop. */
#ifndef DAEMON_WORK_H
#define DAEMON_WORK_H

#include "block.h"
#include "config.h"
#include "inbox.h"
#include "message.h"
#include "pool.h"
#include "spectrum.h"

/* Together 64, the smallest `workers.queue`: so every message fits an empty queue. */
#define WORK_BLOCKS_MAX  32
#define WORK_SPECTRA_MAX 32

/* One message's numbers. Arrays are [heads], NULL when the group is off. */
struct measured {
    const struct block *rows; /* the row statistics */
    double *value[METRIC_COUNT];
    bool has_aggregate;
    double aggregate[BLOCK_MAPS][MAP_STAT_COUNT];
    double *singular_values; /* [heads][SINGULAR_VALUES_MAX] */
};

struct work;

/* Bytes that computing a message takes at most, besides its frames: what is admitted with it. */
uint64_t work_cost(const struct header *header, const struct config *config);

/* Prepares the jobs. Sets message->work. Returns 0 or ERR_MEMORY. */
int work_new(struct message *message, const struct config *config, struct inbox *done);
/* Submits all jobs, or none with ERR_AGAIN. Loop thread. */
int work_submit(struct work *work, struct pool *pool);
/* After NOTE_DONE: the numbers, borrowed until work_free. Returns 0 or ERR_MEMORY.
 */
int work_finish(struct work *work, struct measured *ret_measured);
void work_free(struct work **work);

#endif
