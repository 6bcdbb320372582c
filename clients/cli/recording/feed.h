/* SPDX-License-Identifier: MIT */
/* feed: sends a recording to attnd and waits until attnd has processed it. One thread. */
#ifndef CLIENTS_CLI_RECORDING_FEED_H
#define CLIENTS_CLI_RECORDING_FEED_H

#include "clients/cli/base/cli.h"
#include "proto/playback.h"
#include "clients/cli/recording/sender.h"

/* More reasons than attnd has. */
#define FEED_REASONS_MAX 128

struct feed_reason {
    char name[64]; /* printable */
    uint64_t count;
};

/* The counters of attnd. */
struct feed_counts {
    uint64_t received, processed, in_flight;
    uint64_t in_flight_bytes, admitted_bytes;
    uint64_t budget_bytes; /* 0: attnd is of a version that stops reading instead of dropping */
    uint64_t dropped;      /* for all reasons */
    struct feed_reason reasons[FEED_REASONS_MAX];
    uint32_t reason_count;
};

/* Asks for the counters; a failure is explained on err. Returns CLI_OK or the exit code. */
int feed_count(struct cli *cli, struct feed_counts *ret_counts);

/* The counters from `before` on, in place. */
void feed_subtract(struct feed_counts *counts, const struct feed_counts *before);
uint64_t feed_dropped(const struct feed_counts *counts, const char *reason);
/* "late 2, shape 1", or as the inside of a JSON map. */
void feed_print_dropped(const struct feed_counts *counts, bool json, FILE *out);

/* Opens the sender; a failure is explained on err. Returns CLI_OK or the exit code. */
int feed_open(struct cli *cli, void *context, const char *endpoint, struct sender *ret_sender);

/* Sends every message that can be read: `rhythm` times as fast as recorded, or at once with 0; but
 * never so fast that more than half of attnd's budget is in flight, beyond which it would drop.
 * A last record that is cut short is only mentioned on err. Returns CLI_OK, or
 * the exit code after explaining on err. */
int feed_send(struct cli *cli, struct playback *playback, struct sender *sender, double rhythm);

/* Waits until attnd has received `messages` more than `before` and has computed them all, and tells
 * what it has counted since then. Gives up when nothing changes for long. Returns CLI_OK or the
 * exit code. */
int feed_settle(struct cli *cli, const struct feed_counts *before, uint64_t messages,
                struct feed_counts *ret_since);

#endif
