/* SPDX-License-Identifier: MIT */
/* measured: messages with random attention maps, measured by the real kernels. */
#ifndef TESTS_UNIT_DAEMON_STATE_MEASURED_H
#define TESTS_UNIT_DAEMON_STATE_MEASURED_H

#include "workers/measure.h"
#include "daemon/ingest/message.h"

struct measured_options {
    uint32_t batch, heads, size; /* [batch, heads, size, size] */
    double sharpness;            /* of softmax(sharpness * normal); each head has a multiple */
    bool everything;             /* similarity and head pairs as well; else what is on by default */
    bool without_spectra;
    uint32_t invalid; /* the first h * invalid rows of head h are NaN */
    uint64_t seed;
};

struct measured_message {
    struct message message;
    struct measure *measure;
};

/* NULL when out of memory. Its step is `step`, its rank 0. */
struct measured_message *measured_message_new(const struct measured_options *options,
                                              uint64_t step);
/* Processor time of one measurement, the fastest of some; 0 when out of memory. */
double measured_seconds(const struct measured_options *options, int times);
/* One of tier weights, with this many heads. */
struct measured_message *measured_weights_new(uint32_t heads, uint64_t step);
void measured_message_free(struct measured_message **message);

#endif
