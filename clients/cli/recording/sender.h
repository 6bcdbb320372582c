/* SPDX-License-Identifier: MIT */
/* sender: gives recorded messages to attnd as a training job does, but waits for room instead of
 * dropping. Gives way to Ctrl-C (interrupt.h). One thread. */
#ifndef CLIENTS_CLI_RECORDING_SENDER_H
#define CLIENTS_CLI_RECORDING_SENDER_H

#include "clients/c/src/prefixes.h"
#include "proto/recording.h"

struct sender {
    void *socket;
    struct prefixes wanted;
    uint64_t sent, bytes;
    uint64_t unwanted; /* attnd has not subscribed to their topics: not sent */
};

enum sender_status {
    SENDER_OK,
    SENDER_ENDPOINT, /* it is not one */
    SENDER_NOBODY,   /* nobody subscribed in time */
    SENDER_GONE,     /* who had subscribed went away, or takes nothing for STALL_S */
    SENDER_INTERRUPTED,
    SENDER_MEMORY,
};

/* Connects, and waits until attnd has subscribed. On failure nothing is left to close. */
enum sender_status sender_open(void *context, const char *endpoint, int timeout_ms,
                               struct sender *ret_sender);

/* One message, as it is. After anything but SENDER_OK the rest must not be sent. */
enum sender_status sender_send(struct sender *sender, const struct recording_frame *frames,
                               uint32_t count);

/* Waits, and notices when attnd goes away meanwhile. */
enum sender_status sender_pause(struct sender *sender, uint64_t ns);

/* Messages still under way are thrown away: see first that attnd has them. Accepts a closed one. */
void sender_close(struct sender *sender);

#endif
