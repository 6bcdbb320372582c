/* SPDX-License-Identifier: MIT */
/* ingest: the thread that owns the SUB socket: receives, validates, and posts to the loop.
 *
 * It blocks in zmq_poll; an idle daemon has no wake-ups here. While the bytes in flight exceed the
 * budget it stops reading, so that losses move to the publishers, where they are cheap and counted;
 * it goes on servicing the socket meanwhile, because a SUB passes its subscriptions on only while
 * somebody looks. What can be in memory: the budget (messages and what computing them takes), plus
 * one message, plus per connection ingest.receive_queue messages that ZeroMQ holds (its high-water
 * mark counts messages, not bytes).
 */
#ifndef DAEMON_INGEST_H
#define DAEMON_INGEST_H

#include "config.h"
#include "inbox.h"
#include "message.h"
#include "plan.h"
#include "pulse.h"
#include "stats.h"
#include "work.h"

struct ingest;

/* Binds the socket, subscribes to the plans and to what is received, and writes the address it got
 * back to *config. Returns 0, or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes). `config`,
 * `machine`, `inbox` and `stats` outlive the ingest; *plans is taken over in any case. */
int ingest_new(void *zmq_context, struct config *config, const struct machine *machine,
               struct inbox *inbox, struct stats *stats, struct plan_prefixes **plans,
               struct ingest **ret_ingest, char *reterr);

/* Starts the thread, which reads *config: nobody writes to it from here on. Returns as above. */
int ingest_start(struct ingest *ingest, char *reterr);

/* Any thread: a message posted as NOTE_ARRIVED was freed, its `cost` may be admitted again. */
void ingest_release(struct ingest *ingest, uint64_t cost);

/* Any thread: from now on these are the plans that trainers are told, the new ones before the old
 * ones are taken back. Soon, by the thread; of several calls the last one counts. Takes *plans
 * over. */
void ingest_subscribe(struct ingest *ingest, struct plan_prefixes **plans);

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
/* Joins, and frees; its NOTE_STOPPED must have been read, or never will be. Accepts NULL. */
void ingest_free(struct ingest **ingest);

#endif
