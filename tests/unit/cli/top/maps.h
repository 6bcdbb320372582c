/* SPDX-License-Identifier: MIT */
/* top_maps: answers of attnd for the tests of attnctl top, made by the encoders that attnd has; and
 * what is on a screen, as text. */
#ifndef TESTS_UNIT_CLI_TOP_MAPS_H
#define TESTS_UNIT_CLI_TOP_MAPS_H

#include "tests/unit/unit.h"

#include "clients/cli/top/internal.h"
#include "proto/result.h"

/* An answer that is parsed as it would be; must not be moved. */
struct answer {
    struct mpk_writer writer;
    struct mpk_doc doc;
};
void answer_begin(struct answer *answer);
const msgpack_object *answer_end(struct answer *answer);
void answer_free(struct answer *answer);

/* "00", "01", ...: the run in all of these, by its last byte. */
extern uint8_t maps_run[RUN_BYTES];
/* The module of the layers that are given; NULL = not known. */
extern const char *maps_module;

/* `monitor` of one job, or of none when `job` is NULL. */
struct monitor {
    const char *job;
    const char *second;   /* another job; NULL = none */
    const char *severity; /* of an alert that fires in that one; NULL = none */
    uint64_t received, lost, dropped, summaries, alerts, step;
    double uptime_s;
};
void put_monitor(struct mpk_writer *writer, const struct monitor *monitor);
void give_monitor(struct model *model, const struct monitor *monitor, int64_t now_ms);

/* `live` of one layer: entropy_normalized is base + head / 100, confidence 1 - that. */
void put_live(struct mpk_writer *writer, uint32_t layer, uint32_t heads, double base,
              uint64_t step);
void give_live(struct model *model, uint32_t layer, uint32_t heads, double base, uint64_t step);
/* `grid` of `windows` windows: value = base + layer + head / 10 + window / 100. */
void give_grid(struct model *model, const char *metric, uint32_t layers, uint32_t heads,
               uint32_t windows);
/* `verdict` of a run that has ended, of the window to step 29, worst first; head -1: of the layer
 * as a whole. */
struct verdict_given {
    uint32_t layer;
    int32_t head;
    enum alert_severity severity;
};
void give_verdict(struct model *model, const struct verdict_given *given, uint32_t count);

/* A model of job gpt-small, 2 decoder layers of 4 heads, after all of the above. */
struct model *model_of_two_layers(void);

/* A test with such a model. */
int model_set_up(void **state);
int model_tear_down(void **state);
#define MODEL_TEST(name) TEST_OF(name, struct model *model, model_set_up, model_tear_down)

/* Draws 'model' at this size. */
void draw(struct model *model, struct screen *screen, int width, int height);
/* The whole screen contains the text; otherwise it is shown and the test fails. */
void assert_shows(const struct screen *screen, const char *text);
void assert_shows_not(const struct screen *screen, const char *text);
void assert_row(const struct screen *screen, int row, const char *text);

#endif
