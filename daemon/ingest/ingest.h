/* SPDX-License-Identifier: MIT */
/* ingest: the thread that owns the SUB socket and the reliable lane (lane.h): receives, validates,
 * and posts to the loop.
 *
 * It blocks in zmq_poll; an idle daemon has no wake-ups here. It never stops reading: ZeroMQ may
 * queue without a limit (endpoint.c says why), and a connection that nobody reads would break.
 * While the bytes in flight exceed the budget, or its payer's share of it, tensors are thrown away
 * as they come, and their messages are dropped as over_budget; those of the reliable lane wait,
 * which their senders' credit bounds. Memory may hold the budget (messages and what computing them
 * takes), plus one message, plus a reserve of 32 MiB for events and for the numbers of what is
 * dropped, plus that credit.
 */
#ifndef DAEMON_INGEST_INGEST_H
#define DAEMON_INGEST_INGEST_H

#include "daemon/ingest/lane.h"
#include "daemon/ingest/plan.h"
#include "daemon/base/pulse.h"
#include "daemon/ingest/work.h"

struct ingest;
struct ingest_share;

/* Binds the socket, subscribes to the plans and to what is received, and writes the address it got
 * back to *config; without a context there is no socket, only ingest_take. Returns 0, or -1 with a
 * sentence in reterr (CONFIG_ERROR_MAX bytes). `config`, `machine`, `inbox` and `stats` outlive the
 * ingest; *plans is taken over in any case. */
int ingest_new(void *zmq_context, struct keyring *keys, struct config *config,
               const struct machine *machine, struct inbox *inbox, struct stats *stats,
               struct plan_prefixes **plans, struct ingest **ret_ingest, char *reterr);

/* Before the start: takes the lane over, to work it off as well. `may_promise` is asked, by the
 * thread, before each message of the lane is taken. */
void ingest_set_lane(struct ingest *ingest, struct lane **lane, bool (*may_promise)(void *data),
                     void *data);

/* Starts the thread, which has a copy of the config. Returns as above. */
int ingest_start(struct ingest *ingest, char *reterr);

/* Takes one message over as if it had been received. Returns 0 when it is posted with its tensors.
 * For ingests that were not started. */
int ingest_take(struct ingest *ingest, struct message *message);
/* Whether there is room for the next message, whatever it is. */
bool ingest_is_open(struct ingest *ingest);

/* Any thread: a message posted as NOTE_ARRIVED, or a refusal, was freed, or a part of it; `cost`
 * may be admitted again: from the reserve, which refusals are in, or from the budget. `share`: the
 * message's or the refusal's; not used afterwards. */
void ingest_release(struct ingest *ingest, struct ingest_share *share, uint64_t cost,
                    bool reserved);

/* Any thread: a message of this peer of the lane was freed. */
void ingest_return(struct ingest *ingest, struct lane_peer *peer, uint64_t bytes);
/* Any thread: these promises are to be answered. Takes them over; `data` is the ingest. */
void ingest_settle(void *data, struct promises *promises);
/* Any thread: why the promises cannot be kept now, for those whom they are owed; a text that stays.
 * `data` is the ingest. */
void ingest_say_wait(void *data, const char *why);
/* After ingest_join, when it is not freed: warns of promises that nobody keeps any more. */
void ingest_log_unanswered(struct ingest *ingest);

/* Any thread: these are the plans for trainers from now on; new ones are announced before old ones
 * are withdrawn. Soon, by the thread; of several calls the last one counts. Takes *plans over. */
void ingest_subscribe(struct ingest *ingest, struct plan_prefixes **plans);

/* The loop: the list of keys was read again. */
void ingest_follow_keys(struct ingest *ingest);

/* The loop: binds again, in the thread, when trainers no longer find a socket at its endpoint; that
 * of the lane counts when there is one. */
void ingest_keep(struct ingest *ingest, const char *endpoint, const char *lane_endpoint);

/* The thread's turns: each time it wakes up, and with each message. Lives as long as the ingest. */
const struct pulse *ingest_pulse(const struct ingest *ingest);
/* Any thread: asks for a turn. `data` is the ingest. */
void ingest_ask(void *data);

/* Bytes counted against the budget now. */
uint64_t ingest_in_flight(struct ingest *ingest);

/* Asks the thread to read what is already here, post NOTE_STOPPED and end. */
void ingest_stop(struct ingest *ingest);

/* Joins the thread (ingest_stop first) and closes the socket. Idempotent. */
void ingest_join(struct ingest *ingest);
/* Joins, and frees, when nobody calls ingest_settle any more; its NOTE_STOPPED must have been read,
 * or never will be. Accepts NULL. */
void ingest_free(struct ingest **ingest);

#endif
