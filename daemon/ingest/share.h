/* SPDX-License-Identifier: MIT */
/* share: what each payer has in flight in ingest, and which payer a message counts for: the key of
 * its sender, when that may publish some jobs only; else the job that its process named first of
 * those that it has in flight. So whoever names more jobs has no more room. Over TCP, and where the
 * kernel does not tell the process (of another container), a connection stands for it.
 *
 * Whoever pays, the messages of a job stay in one line of the inbox, that of the share of this job
 * or key. The ingest thread's, but for `held`. */
#ifndef DAEMON_INGEST_SHARE_H
#define DAEMON_INGEST_SHARE_H

#include "daemon/base/hash.h"
#include "daemon/ingest/message.h"

struct ingest_share {
    char payer[JOB_NAME_MAX + 1]; /* a key or a job */
    _Atomic uint64_t held[2];     /* of the budget, of the reserve; any thread */
    uint64_t scratch;             /* the most that one of its messages needs */
    struct inbox_line line;       /* messages of the job or key that the loop has not read */
    bool idle;                    /* nothing is held, and it is about to be freed */
    UT_hash_handle hh;
};

/* One that has only its inbox is empty. */
struct shares {
    struct inbox *inbox;
    struct ingest_share *by_payer;
    struct share_source *sources;
    _Atomic uint64_t scratch; /* of all shares; any thread reads it */
};

/* That of the key or job which the message names, whoever pays; NULL: there is none. */
struct ingest_share *share_find(const struct shares *shares, const struct message *message);
/* The same, made when there is none. Frees those with nothing in flight. `*ret_payer`: the one that
 * pays. Returns NULL when out of memory. */
struct ingest_share *share_put(struct shares *shares, struct message *message,
                               struct ingest_share **ret_payer);
void share_free_all(struct shares *shares);

#endif
