/* SPDX-License-Identifier: MIT */
/* lane: the ROUTER socket of the reliable lane: what each of its senders may have on its way, what
 * it has sent, and what it is told. PROTOCOL.md, "The reliable lane", has the rules.
 *
 * The ingest thread owns it, and works it off with the SUB socket. The loop and the thread of the
 * history hand back what it promised, by lane_return and lane_settle. */
#ifndef DAEMON_INGEST_LANE_H
#define DAEMON_INGEST_LANE_H

#include "config/config.h"
#include "daemon/base/keys.h"
#include "daemon/base/promise.h"
#include "daemon/base/stats.h"

struct lane;
struct message;

/* Binds the socket, and writes the address it got back to *config. Returns 0, or -1 with a sentence
 * in reterr (CONFIG_ERROR_MAX bytes). `config` and `stats` outlive the lane. */
int lane_new(void *zmq_context, struct keyring *keys, struct config *config, struct stats *stats,
             struct lane **ret_lane, char *reterr);
/* Closes the socket: nobody is answered any more. Idempotent. */
void lane_close(struct lane *lane);
/* When nothing that it promised can come back any more. Accepts NULL. */
void lane_free(struct lane **lane);

/* Any thread. Each returns whether the ingest thread must be woken. */

/* A message of this peer is freed: its `bytes` may be sent again. */
bool lane_return(struct lane *lane, struct lane_peer *peer, uint64_t bytes);
/* These are to be answered. Takes them over. */
bool lane_settle(struct lane *lane, struct promises *promises);
/* Has the next lane_go_on tell those whom promises are owed why these are not kept now: `why` stays
 * valid. Nobody hears it twice in a row. */
void lane_say_wait(struct lane *lane, const char *why);
/* Warns of promises that nobody keeps any more, if there are any; after lane_close. */
void lane_log_unanswered(struct lane *lane);

/* Loop thread: what a sender has sent behind a message that has no place, for now, has none either
 * until it joins again: it would take the place of what comes again. Heeds the code of a promise,
 * which may be another one. */
void lane_pass_over(const struct promise *promise);
/* Loop thread: whether this one is behind such a message: 0, or its code. `promise` may be NULL. */
int lane_is_behind(const struct promise *promise);

/* Ingest thread. */

/* Receives what is here, up to one message that is to be taken, which has a promise and a peer.
 * Returns 0 with *ret_message, which is NULL when there may be more but others come first;
 * ERR_AGAIN when there is none, ERR_CLOSED when the context ended. */
int lane_receive(struct lane *lane, struct message **ret_message);
/* Whether a message may be taken now: none of its sender waits before it, and there is room for its
 * promise. */
bool lane_is_open(struct lane *lane, const struct message *message);
/* Keeps a message, behind those of its sender that wait already. */
void lane_wait(struct lane *lane, struct message *message);
/* Takes out the oldest message of each sender that waits, and calls `take` with it, as long as that
 * returns true; else the message waits on. */
void lane_retry(struct lane *lane, bool (*take)(void *data, struct message *message), void *data);
/* The message is not taken, and never will be: answers so. */
void lane_refuse(struct lane *lane, struct message *message, int code);
/* Sends what is to be said. Returns whether something waits: then call again soon. */
bool lane_go_on(struct lane *lane);

#endif
