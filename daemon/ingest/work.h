/* SPDX-License-Identifier: MIT */
/* work: the computation of one message (workers/measure.h) as jobs of the pool.
 *
 * Jobs share nothing. The last one to finish brings their results together and posts the message to
 * the loop. */
#ifndef DAEMON_INGEST_WORK_H
#define DAEMON_INGEST_WORK_H

#include "workers/measure.h"
#include "daemon/ingest/message.h"
#include "workers/base/pool.h"

/* The smallest `workers.queue`: so every message fits an empty queue. */
#define WORK_JOBS_MAX (MEASURE_ROW_JOBS_MAX + MEASURE_SPECTRUM_JOBS_MAX)

struct work;

/* A job's messages on their way to the workers, and its share of them. Loop thread. */
struct work_queue {
    struct pool_tenant *tenant;
    struct message *first, **last; /* for which the pool has no room yet */
};

/* Returns 0 or ERR_MEMORY. */
int work_queue_init(struct work_queue *queue);
/* None of its messages may be in the pool. */
void work_queue_clear(struct work_queue *queue);

/* The computing resources: found out once, since the answers come from the system. */
struct machine {
    uint32_t threads; /* workers; by default one per core, at most 8 */
    enum isa isa;
};

/* As the config asks for it. Returns 0 or ERR_ARGUMENT: workers.isa is not on this machine. */
int machine_init(struct machine *machine, const struct config *config);

/* Bytes that computing a message takes at most, besides its frames: what is admitted with it, and
 * scratch, of which the largest of all messages is needed (measure.h). `config` is the job's own
 * (config_for_job), here and below. */
uint64_t work_cost(const struct header *header, const struct config *config,
                   const struct machine *machine, uint64_t *ret_scratch);

/* A message and its computation are admitted together: adds that to its cost. `config` is that of
 * all jobs. Returns 0, or ERR_TOO_LARGE: it never fits. */
int work_price(struct message *message, const struct config *config, const struct machine *machine);

/* Prepares the jobs, whose spectra begin with head spectrum_first, and puts the message in the
 * queue. Sets message->work. `config` is not used after the call. Returns 0 or ERR_MEMORY. */
int work_new(struct message *message, const struct config *config, const struct machine *machine,
             uint32_t spectrum_first, struct work_queue *queue, struct inbox *done);
/* Submits the jobs of the queue's messages as far as the pool has room for them. Loop thread. */
void work_submit(struct work_queue *queue, struct pool *pool);
/* After NOTE_DONE: the numbers, borrowed until work_free. Returns 0, ERR_MEMORY or ERR_ROWS. */
int work_finish(struct work *work, const struct measured **ret_measured);
void work_free(struct work **work);

#endif
