/* SPDX-License-Identifier: MIT */
#ifndef CLIENTS_CLI_RECORDING_REPLAY_H
#define CLIENTS_CLI_RECORDING_REPLAY_H

#include "clients/cli/base/cli.h"

/* More reasons than attnd has. */
#define REPLAY_REASONS_MAX 128

/* The counters of attnd. */
struct replay_counts {
    uint64_t received, processed, in_flight;
    uint64_t in_flight_bytes, admitted_bytes;
    uint64_t budget_bytes; /* 0: attnd is of a version that stops reading instead of dropping */
    uint64_t dropped;      /* for all reasons */
    struct replay_reason {
        char name[64]; /* printable */
        uint64_t count;
    } reasons[REPLAY_REASONS_MAX];
    uint32_t reason_count;
};

/* "late 2, shape 1", or as the inside of a JSON map. */
void replay_print_dropped(const struct replay_counts *counts, bool json, FILE *out);

#endif
