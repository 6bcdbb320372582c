/* SPDX-License-Identifier: MIT */
/* result_internal: the parts that several result maps share, as keys and values appended to a
 * writer. Private to proto/. A `_count` says how many keys the part of the same name will write. */
#ifndef PROTO_RESULT_INTERNAL_H
#define PROTO_RESULT_INTERNAL_H

#include "proto/result.h"

enum { PART_COMMON_PAIRS = 7, PART_LAYER_ID_PAIRS = 3, PART_LAYER_PAIRS = 9 };

/* One key and its value. */
void part_text(struct mpk_writer *writer, const char *key, const char *text);
void part_number(struct mpk_writer *writer, const char *key, uint64_t number);
void part_flag(struct mpk_writer *writer, const char *key, bool flag);
void part_real(struct mpk_writer *writer, const char *key, double number);
/* A list of numbers, and a list of `rows` lists. */
void part_list(struct mpk_writer *writer, const char *key, const double *list, uint32_t length);
void part_matrix(struct mpk_writer *writer, const char *key, const double *matrix, uint32_t rows,
                 uint32_t columns);
/* The values of one head's vector as a list. */
void part_vector_row(struct mpk_writer *writer, enum vector vector, const double *row);

void part_common(struct mpk_writer *writer, const char *kind, const struct result_common *common);
void part_layer_id(struct mpk_writer *writer, struct layer_id id);
/* One key, when the module is known. */
uint32_t part_module_count(const char *module);
void part_module(struct mpk_writer *writer, const char *module);
/* One key, when the rows are a sample. */
uint32_t part_rows_of_count(const struct result_layer *layer);
/* PART_LAYER_PAIRS keys, the module's and that of rows_of; part_layer_state, without the identity
 * and the module, PART_LAYER_ID_PAIRS fewer. */
void part_layer(struct mpk_writer *writer, const struct result_layer *layer);
void part_layer_state(struct mpk_writer *writer, const struct result_layer *layer);
void part_dropped(struct mpk_writer *writer, const struct reason_count *dropped, uint32_t count);

/* `top_pairs` and `head_top_pairs`. */
uint32_t part_pairs_count(const struct result_pairs *pairs);
void part_pairs(struct mpk_writer *writer, const struct result_pairs *pairs, uint32_t heads);

/* PART_SIMILARITY_PAIRS keys, when there is a similarity. */
enum { PART_SIMILARITY_PAIRS = 4 };
void part_similarity(struct mpk_writer *writer, const struct result_similarity *similarity,
                     uint32_t heads);

/* A list of names, nil where a head has none. */
void part_pattern(struct mpk_writer *writer, const char *key, const enum pattern *pattern,
                  uint32_t heads);

/* The map under `weights`. */
void part_weights(struct mpk_writer *writer, const struct weights_result *weights);

#endif
