/* SPDX-License-Identifier: MIT */
/* Windows of one layer by their numbers, judged by rules of a config, for the tests of trouble. One
 * at a time. */
#ifndef TESTS_UNIT_DAEMON_ALERTS_TROUBLE_FIXTURE_H
#define TESTS_UNIT_DAEMON_ALERTS_TROUBLE_FIXTURE_H

#include "config/rules.h"
#include "daemon/alerts/trouble.h"

#define FIXTURE_HEADS_MAX 4096

struct trouble_fixture {
    struct config config;
    struct alerts *alerts;
    struct alert_sink sink;
    uint32_t events;
    uint64_t window;
    const struct result_trouble *trouble;
    struct result_stat stat[METRIC_COUNT][FIXTURE_HEADS_MAX];
    double invalid_share[FIXTURE_HEADS_MAX];
    struct summary_result summary;
};

/* Rules as lines of YAML below `rules:`; the defaults are off, unless there are no lines. */
struct trouble_fixture *trouble_start(const char *rules);
void trouble_stop(struct trouble_fixture *f);

/* Begins a window of decoder.3.self; numbers are then given metric by metric, NaN for none. */
void trouble_begin(struct trouble_fixture *f, uint32_t heads);
void trouble_put(struct trouble_fixture *f, int metric, const double *values);
/* The shares of unsound rows, of as many rows in each head. */
void trouble_put_invalid(struct trouble_fixture *f, const double *shares);
void trouble_end_window(struct trouble_fixture *f);
/* All three. */
void trouble_give(struct trouble_fixture *f, int metric, uint32_t heads, const double *values);

#endif
