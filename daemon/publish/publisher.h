/* SPDX-License-Identifier: MIT */
/* publisher: the XPUB socket that results go out on, and the last value of each topic for late
 * subscribers.
 *
 * A new subscription makes the last values of the topics it matches go out once more, marked
 * `snapshot: true`. ZeroMQ cannot send to one subscriber only, so the others on that topic see the
 * repeat too and skip it by the mark. Subscriptions that come faster than SNAPSHOT_MS are answered
 * together, each value once. A subscriber that is too slow loses messages once publish.send_queue
 * of them are waiting for it; ZeroMQ does not tell how many. One that does not read is cut off
 * when what waits in all is half of publish.budget. Never blocks. Loop thread only. */
#ifndef DAEMON_PUBLISH_PUBLISHER_H
#define DAEMON_PUBLISH_PUBLISHER_H

#include "config/config.h"
#include "daemon/base/keys.h"
#include "proto/mpk.h"
#include "daemon/base/stats.h"

#include <uv.h>

struct publisher;

/* Binds publish.endpoint, and writes the address it got back to *config. Returns 0, or -1 with a
 * sentence in reterr (CONFIG_ERROR_MAX bytes). */
int publisher_new(uv_loop_t *loop, void *zmq_context, struct keyring *keys, struct config *config,
                  struct stats *stats, struct publisher **ret_publisher, char *reterr);

/* Sends an encoded result of a run[RUN_BYTES] and keeps it as the last value of the topic and the
 * track (the window rule of a summary; else 0): a late subscriber gets the newest summary of every
 * track. The value of another run of the job on the topic is kept for publisher_each alone: runs of
 * one name may go on side by side. Takes the writer's buffer: the writer is empty afterwards. When
 * a quarter of publish.budget is used up, those of other runs go first, and summaries stay longest.
 */
void publisher_put(struct publisher *publisher, const uint8_t *run, const char *topic,
                   uint32_t track, struct mpk_writer *writer, bool is_summary);
/* Keeps a summary that went out before a restart as a last value, and sends it to nobody. A value
 * that the topic has already is of a newer run. Takes the writer's buffer. Returns whether there is
 * room for more. */
bool publisher_recall(struct publisher *publisher, const uint8_t *run, const char *topic,
                      uint32_t track, struct mpk_writer *writer);
/* Sends an encoded result, which is no last value: it says that something has happened. Returns
 * whether there is something that could be kept as one. */
bool publisher_send(struct publisher *publisher, const char *topic,
                    const struct mpk_writer *writer);

/* Forgets the last values of a job. Accepts NULL. */
void publisher_forget_job(struct publisher *publisher, const char *job);

/* Calls `visit` for each last value, of every run, whose topic begins with `prefix`. */
void publisher_each(const struct publisher *publisher, const char *prefix,
                    void (*visit)(void *data, const char *topic, const uint8_t *run, uint32_t track,
                                  const void *value, size_t size),
                    void *data);

/* Whether the topic and the track have a last value of the run. */
bool publisher_has(const struct publisher *publisher, const uint8_t *run, const char *topic,
                   uint32_t track);

/* Ends the connections of all subscribers that came with keys; those who still may come back. */
void publisher_renew(struct publisher *publisher);
/* Binds again when clients no longer find the socket. */
void publisher_keep(struct publisher *publisher);

/* Stops; the memory is freed once the loop has run the close callbacks. Accepts NULL. */
void publisher_close(struct publisher **publisher);

#endif
