/* SPDX-License-Identifier: MIT */
/* field: reads a result map by name, with defaults for missing fields, and text that is safe to
 * print. A newer attnd may add keys and an older one lack some; neither is an error. Pure; any
 * thread. */
#ifndef CLIENTS_CLI_BASE_FIELD_H
#define CLIENTS_CLI_BASE_FIELD_H

#include "proto/mpk.h"

/* The text of a key, "" when it is not there; shortened to fit, '?' for control characters. Returns
 * ret_text, as all do here that write a text. */
const char *field_text(const msgpack_object *map, const char *key, char *ret_text, size_t size);
/* The same in memory of its own, as FIELD_LAYER and others below: good as long as the block that
 * the macro stands in. */
#define FIELD_TEXT_MAX       512
#define FIELD_TEXT(map, key) field_text(map, key, (char[FIELD_TEXT_MAX]){""}, FIELD_TEXT_MAX)

/* Whether a key is `true`. */
bool field_bool(const msgpack_object *map, const char *key);

/* Element `index` of an array; NULL when it is not there. */
const msgpack_object *field_at(const msgpack_object *array, uint32_t index);
/* The same as a number: mpk_number. */
double field_item(const msgpack_object *array, uint32_t index);

/* A result's numbers for one metric: an array over the heads, or one value of the layer
 * (`sink_rate`). Summaries give the means, patterns the newest values. NULL when it is not there,
 * or is a list per head. */
const msgpack_object *field_metric(const msgpack_object *map, const char *name);

/* Calls `visit` with every name that field_metric knows in this result. */
void field_each_metric(const msgpack_object *map, void (*visit)(void *data, const char *name),
                       void *data);

/* Longest name of a metric. */
#define FIELD_NAME_MAX 96

/* The metric to show when nobody asked for one: what people look at first, of what at least one of
 * the results has. False = there is none. */
bool field_choose_metric(const msgpack_object *maps, uint32_t count, char ret_name[FIELD_NAME_MAX]);

/* Columns of what field_metric gave, and one of them: NULL when it is not there. */
uint32_t field_columns(const msgpack_object *value);
const msgpack_object *field_column(const msgpack_object *value, uint32_t index);

/* An upper bound of the standard error of a head's mean over `rows` rows, whose standard deviation
 * is `std`, where the rows of the result are a sample (KERNELS.md): std / sqrt(rows). NaN where all
 * rows were taken, and for a metric that has no mean of rows. */
double field_standard_error(const msgpack_object *map, const char *metric, double std, double rows);

/* The sum of a map's whole numbers: {"late": 3, "shape": 1} is 4. */
uint64_t field_sum(const msgpack_object *map);
/* The sum of `dropped` in a map, and `received`, without what came again on the reliable lane. */
uint64_t field_dropped(const msgpack_object *map);
uint64_t field_received(const msgpack_object *map);

/* Any scalar as text: numbers, true, false, "-" for nil, strings like field_text; containers as
 * their size. */
const char *field_show(const msgpack_object *value, char *ret_text, size_t size);
#define FIELD_VALUE(value) field_show(value, (char[FIELD_NAME_MAX]){""}, FIELD_NAME_MAX)

/* Puts '?' in the place of what JSON and CSV would have to escape. */
void field_unquote(char *text);

/* "decoder.3.self" of a layer result; "-" when it names no layer. */
#define LAYER_TEXT_MAX 64
const char *field_layer(const msgpack_object *map, char ret_text[LAYER_TEXT_MAX]);
#define FIELD_LAYER(map) field_layer(map, (char[LAYER_TEXT_MAX]){""})
/* The same with ".h2" when it is about a head. */
const char *field_place(const msgpack_object *map, char ret_text[LAYER_TEXT_MAX]);
#define FIELD_PLACE(map) field_place(map, (char[LAYER_TEXT_MAX]){""})
/* The run of a job, in a list with the newest first, that its name and the first digits of a run
 * (NULL: none) mean (PROTOCOL.md, section 4); NULL when it is not there. */
const msgpack_object *field_run(const msgpack_object *runs, const char *job, const char *run);
/* Whether a node of a fleet is for somebody to see to: "silent", "behind", "trouble", "refused". */
bool field_node_is_late(const msgpack_object *node);

/* Whether nothing more is to come of a run, by its `state`. */
bool field_is_over(const msgpack_object *run);

/* When an alert began, for people: "between steps 142 and 144", "from the start"; and the first
 * step that failed. */
#define FIELD_SINCE_MAX 64
const char *field_alert_since(const msgpack_object *alert, char ret_text[FIELD_SINCE_MAX]);
#define FIELD_SINCE(alert) field_alert_since(alert, (char[FIELD_SINCE_MAX]){""})
uint64_t field_began(const msgpack_object *alert);

/* The state of an alert, for people: "firing at end". */
#define FIELD_STATE_MAX 16
const char *field_alert_state(const msgpack_object *alert, char ret_text[FIELD_STATE_MAX]);
#define FIELD_STATE(alert) field_alert_state(alert, (char[FIELD_STATE_MAX]){""})

#endif
