/* SPDX-License-Identifier: MIT */
/* run_fixture: a run whose messages have made-up numbers, under a clock that the test turns. */
#ifndef TESTS_UNIT_DAEMON_RUN_FIXTURE_H
#define TESTS_UNIT_DAEMON_RUN_FIXTURE_H

#include "daemon/run/queue.h"
#include "daemon/run/tick.h"

#define S         UINT64_C(1000000000)
#define HEADS     2
#define LAYERS    3
#define RANKS     4
#define SUMMARIES 64

struct run_fixture {
    struct config config;
    struct config_cut cut; /* that a new run gets */
    struct result_sink sink;
    struct stats stats;
    struct state_budget budget;
    struct run *run;
    uint64_t now, seq[LAYERS][RANKS], event_seq[RANKS];
    int summaries, live, alerts, pauses;
    struct {
        uint32_t track;
        void *data;
        size_t size;
    } summary[SUMMARIES]; /* the first ones */
};

/* Windows of four steps, and `also`. */
void fixture_start(struct run_fixture *f, const char *also);
/* The run as it is when nobody has heard of it. */
void fixture_new_run(struct run_fixture *f);
/* A stop without a word. */
void fixture_stop(struct run_fixture *f);
/* The same fixture anew, with windows of `also`. */
void fixture_also(struct run_fixture *f, const char *also);

/* A test with a run that has no other windows than those of four steps. */
void fixture_begin(struct run_fixture *f);
#define RUN_TEST(name) TEST_IN(name, struct run_fixture, f, fixture_begin, fixture_stop)

/* A message and numbers that depend on its step, rank and layer. */
struct sample {
    struct message message;
    struct measured measured;
    struct head_block head[HEADS];
    double value[METRIC_COUNT][HEADS];
};
struct sample *fixture_make(struct run_fixture *f, uint32_t layer, uint32_t rank, uint64_t step);
/* A message of tier weights, from layer 0 and rank 0, without numbers. */
struct sample *fixture_make_weights(struct run_fixture *f, uint64_t step);
bool fixture_queue(struct run_fixture *f, struct sample *sample);
void fixture_finish(struct run_fixture *f, struct sample *sample);
/* Takes what has its turn; returns the code of the last one, or 1 when there was none. */
int fixture_take_all(struct run_fixture *f);

/* A `pause` of the sink: after each layer. */
bool fixture_pause(void *data, struct run *run);

/* One that comes, is computed and taken at once. Returns its code. */
int fixture_send(struct run_fixture *f, uint32_t layer, uint32_t rank, uint64_t step);
int fixture_event(struct run_fixture *f, uint32_t rank, enum event_type event, uint64_t epoch);
/* "I am alive, and so far." */
int fixture_hello(struct run_fixture *f, uint32_t rank, uint64_t step);
/* "I am alive, and have dropped this number so far." */
int fixture_total(struct run_fixture *f, uint32_t rank, uint64_t dropped);

void fixture_assert_same_summaries(const struct run_fixture *a, const struct run_fixture *b);
/* A number of a summary's map, or of the map `map` in it; UINT64_MAX when there is none. */
uint64_t fixture_number(const struct run_fixture *f, int summary, const char *map, const char *key);

#endif
