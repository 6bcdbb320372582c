/* SPDX-License-Identifier: MIT */
/* Rows as messages of the stream, and what hubs ask of them. A row that is larger than what a
 * server takes goes in pieces; when a server with another bound is connected, all of it goes anew.
 */
#include "daemon/fleet/uplink_internal.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FLIGHT_ROWS  512
#define FLIGHT_BYTES (UINT64_C(16) << 20)
/* Rows between two looks at answers and questions. */
#define ROWS_PER_TURN 32
#define GONE_MAX      32
/* max_payload is for headers and data. */
#define HEADERS_MAX  512
#define PAUSE_MIN_NS UINT64_C(100000000)
#define PAUSE_MAX_NS UINT64_C(5000000000)
#define REFUSED_NS   UINT64_C(10000000000)
/* A hub says it with each sign of life: a refusal that is older than this is over. */
#define REFUSED_SHOWN_NS UINT64_C(15000000000)

void uplink_pause(struct uplink *uplink, uint64_t now)
{
    uint64_t longer = 2 * uplink->pause_ns;
    uplink->pause_ns = longer < PAUSE_MIN_NS   ? PAUSE_MIN_NS
                       : longer > PAUSE_MAX_NS ? PAUSE_MAX_NS
                                               : longer;
    if (uplink->paused_until_ns < now + uplink->pause_ns) {
        uplink->paused_until_ns = now + uplink->pause_ns;
    }
}

void uplink_mark(struct uplink *uplink, uint64_t now)
{
    if (uplink->taken_count == 0) {
        return;
    }
    crash_point("uplink_acknowledged");
    if (outbox_take(uplink->store, uplink->outbox.opened, uplink->taken, uplink->taken_count) !=
        0) {
        for (size_t i = 0; i < uplink->taken_count; i++) {
            if (uplink->taken[i].seq <= uplink->cursor) {
                uplink->cursor = uplink->taken[i].seq - 1;
            }
        }
        uplink_pause(uplink, now);
    }
    uplink->taken_count = 0;
}

/* Publishing */

/* Returns whether it was handed over. */
static bool uplink_put(struct uplink *uplink, const char *subject, const char *id, const char *key,
                       const char *value, const char *piece, const void *data, size_t size)
{
    char instance[LINK_ID_DIGITS + 1];
    natsMsg *message = NULL;
    jsPubOptions options;
    link_id_text(uplink->beat.instance, instance);
    jsPubOptions_Init(&options);
    options.MaxWait = LINK_WAIT_MS;
    options.MsgId = id;
    bool put = natsMsg_Create(&message, subject, NULL, data, (int)size) == NATS_OK &&
               natsMsgHeader_Set(message, "Attnd-Instance", instance) == NATS_OK &&
               natsMsgHeader_Set(message, key, value) == NATS_OK &&
               (!piece || natsMsgHeader_Set(message, "Attnd-Piece", piece) == NATS_OK) &&
               js_PublishMsgAsync(uplink->js, &message, &options) == NATS_OK;
    natsMsg_Destroy(message);
    return put;
}

/* Hands the pieces over that were not acknowledged. The row is in `uplink->row`. */
static bool uplink_put_row(struct uplink *uplink, const struct flight_row *flying,
                           uint64_t piece_bytes)
{
    const struct outbox_row *row = &uplink->row;
    char subject[96], id[96], seq[24], piece[32], run[2 * RUN_BYTES + 1];
    run_hex(row->run, run);
    snprintf(subject, sizeof subject, "attnd.part.%s.%s", uplink->node, run);
    snprintf(seq, sizeof seq, "%" PRIu64, row->seq);
    for (uint32_t i = 0; i < flying->pieces; i++) {
        uint64_t at = i * piece_bytes, left = row->size - at;
        if (flying->done[i]) {
            continue;
        }
        snprintf(id, sizeof id, "%s:%" PRIu64 ":%" PRIu32 ":%" PRIu64, uplink->node, row->seq,
                 i + 1, row->turn);
        snprintf(piece, sizeof piece, "%" PRIu32 "/%" PRIu32, i + 1, flying->pieces);
        if (!uplink_put(uplink, subject, id, "Attnd-Seq", seq, flying->pieces > 1 ? piece : NULL,
                        row->body + at, left < piece_bytes ? left : piece_bytes)) {
            return false;
        }
    }
    return true;
}

/* Reads the first unsent row after `after`, and makes it fly. Returns whether to go on. */
static bool uplink_send_next(struct uplink *uplink, uint64_t after, struct flight_row *failed,
                             uint64_t now)
{
    uint64_t seq = failed ? failed->seq : 0;
    int found = outbox_next(uplink->store, uplink->outbox.opened, after, &uplink->row);
    struct outbox_row *row = &uplink->row;
    if (failed && (found == 0 || (found > 0 && row->seq != seq))) {
        flight_remove(&uplink->flight, seq); /* it fell out, or is taken */
        return true;
    }
    if (found <= 0) {
        return false;
    }
    /* All of a row that a message holds; else a power of two, so that two servers whose bounds cut
     * a row in other places cut it in other numbers of pieces: hubs tell pieces apart by that. */
    int64_t most = natsConnection_GetMaxPayload(uplink->connection) - HEADERS_MAX;
    uint64_t bytes = HEADERS_MAX;
    while (most >= 2 * (int64_t)bytes) {
        bytes *= 2;
    }
    uint64_t piece_bytes = most > 0 && row->size <= (uint64_t)most ? (uint64_t)most : bytes;
    uint64_t pieces = row->size / piece_bytes + (row->size % piece_bytes > 0 || row->size == 0);
    struct flight_row *flying = flight_find(&uplink->flight, row->seq);
    bool again = flying || row->turn > 0;
    if (flying && (flying->turn != row->turn || flying->pieces != pieces)) {
        flight_remove(&uplink->flight,
                      row->seq); /* a hub asked, or another server has other bounds */
        flying = NULL;
    } else if (flying && !failed) {
        uplink->cursor = row->seq; /* it is on its way */
        return true;
    }
    if (!flying) {
        flying = flight_add(&uplink->flight, row->seq, row->turn, row->size, (uint32_t)pieces);
    }
    if (!flying) {
        return false;
    }
    flying->failed = false;
    flying->put_ns = now;
    if (!failed) {
        uplink->cursor = row->seq;
    }
    if (!uplink_put_row(uplink, flying, piece_bytes)) {
        flying->failed = true;
        uplink_pause(uplink, now);
        return false;
    }
    uplink->sent++;
    uplink->resent += again;
    crash_point("uplink_published");
    return true;
}

bool uplink_send(struct uplink *uplink, uint64_t now)
{
    if (now < uplink->paused_until_ns || now < uplink->refused_until_ns) {
        return false;
    }
    for (int i = 0; i < ROWS_PER_TURN; i++) {
        struct flight_row *failed = flight_failed(&uplink->flight);
        bool full = uplink->flight.count >= FLIGHT_ROWS || uplink->flight.bytes >= FLIGHT_BYTES;
        if (full && !failed) {
            return false;
        }
        if (!uplink_send_next(uplink, failed ? failed->seq - 1 : uplink->cursor, failed, now)) {
            return false;
        }
    }
    return true;
}

/* Questions */

/* Without effect where `first` is beyond `last`. */
static void uplink_say_range(struct uplink *uplink, const char *key, uint64_t first, uint64_t last)
{
    char subject[96], id[128], value[64];
    if (first > last) {
        return;
    }
    snprintf(subject, sizeof subject, "attnd.part.%s.%032d", uplink->node, 0);
    snprintf(value, sizeof value, "%" PRIu64 "-%" PRIu64, first, last);
    snprintf(id, sizeof id, "%s:gone:%s:%" PRIu64 ":%" PRIu64, uplink->node, value, clock_wall_ns(),
             uplink->gone++);
    uplink_put(uplink, subject, id, key, value, NULL, "", 0); /* else a hub asks again */
}

void uplink_say_skipped(struct uplink *uplink)
{
    const struct outbox_range *skipped = &uplink->outbox.skipped;
    uplink_say_range(uplink, "Attnd-Skipped", skipped->first, skipped->last);
}

/* Goes on with what a hub lacks. Returns whether there is more of it. */
static bool uplink_again(struct uplink *uplink)
{
    struct outbox_range gone[GONE_MAX];
    for (int slice = 0; slice < SLICES_PER_TURN && uplink->asked.first <= uplink->asked.last;
         slice++) {
        if (uplink->asked.first <= uplink->cursor) {
            uplink->cursor = uplink->asked.first > 0 ? uplink->asked.first - 1 : 0;
        }
        int count =
            outbox_again(uplink->store, uplink->outbox.opened, &uplink->asked, gone, GONE_MAX);
        if (count < 0) {
            uplink->asked = (struct outbox_range){1, 0}; /* it comes again */
            return false;
        }
        for (int i = 0; i < count; i++) {
            /* Rows that are not there: those that were, and numbers that never were any of this
             * history. */
            const struct outbox_range *range = &gone[i];
            const struct outbox_range *skipped = &uplink->outbox.skipped;
            if (range->last < skipped->first || range->first > skipped->last) {
                uplink_say_range(uplink, "Attnd-Gone", range->first, range->last);
                continue;
            }
            uplink_say_range(uplink, "Attnd-Gone", range->first, skipped->first - 1);
            uplink_say_skipped(uplink);
            uplink_say_range(uplink, "Attnd-Gone", skipped->last + 1, range->last);
        }
    }
    return uplink->asked.first <= uplink->asked.last;
}

bool uplink_take_asks(struct uplink *uplink, uint64_t now)
{
    struct fleet_ask ask;
    if (*uplink->refused && now >= uplink->refused_shown_ns) {
        *uplink->refused = '\0';
        memset(uplink->refusals, 0, sizeof uplink->refusals);
        log_event(LOG_INFO, "fleet_accepted", LOG_STR("url", link_url(uplink->link)));
    }
    if (uplink->asked.first <= uplink->asked.last) {
        return uplink_again(uplink);
    }
    pthread_mutex_lock(&uplink->lock);
    bool any = uplink->ask_count > 0;
    if (any) {
        ask = uplink->asks[0];
        memmove(uplink->asks, uplink->asks + 1, --uplink->ask_count * sizeof ask);
    }
    pthread_mutex_unlock(&uplink->lock);
    if (!any) {
        return false;
    }
    if (*ask.refused) {
        bool known = false;
        for (uint32_t i = 0; i < REFUSALS_MAX; i++) { /* of several hubs, each for a reason */
            known = known || strcmp(uplink->refusals[i], ask.refused) == 0;
        }
        if (!known) {
            strcpy(uplink->refusals[uplink->refusal_count++ % REFUSALS_MAX], ask.refused);
            log_event(LOG_ERROR, "fleet_refused", LOG_STR("hub", ask.hub),
                      LOG_STR("reason", ask.refused));
        }
        snprintf(uplink->refused, sizeof uplink->refused, "%s", ask.refused);
        uplink->refused_until_ns = ask.pause ? now + REFUSED_NS : uplink->refused_until_ns;
        uplink->refused_shown_ns = now + REFUSED_SHOWN_NS;
    } else if (ask.from > 0 && ask.from <= ask.to) {
        log_event(LOG_INFO, "fleet_asked_again", LOG_STR("hub", ask.hub), LOG_NUM("from", ask.from),
                  LOG_NUM("to", ask.to));
        uplink_mark(uplink, now); /* what is taken already is asked for */
        uplink->asked = (struct outbox_range){ask.from, ask.to};
    }
    return true;
}
