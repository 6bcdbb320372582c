/* SPDX-License-Identifier: MIT */
/* result_internal: the parts that several result maps share, as keys and values appended to a
 * writer. Private to proto/. */
#ifndef PROTO_RESULT_INTERNAL_H
#define PROTO_RESULT_INTERNAL_H

#include "proto/result.h"

/* A list of numbers, and a list of `rows` lists. */
void part_list(struct mpk_writer *writer, const char *key, const double *list, uint32_t length);
void part_matrix(struct mpk_writer *writer, const char *key, const double *matrix, uint32_t rows,
                 uint32_t columns);
/* The values of one head's vector as a list. */
void part_vector_row(struct mpk_writer *writer, enum vector vector, const double *row);

void part_common(struct mpk_writer *writer, const char *kind, const struct result_common *common);
void part_layer_id(struct mpk_writer *writer, struct layer_id id);
/* One key, when the module is known. */
void part_module(struct mpk_writer *writer, const char *module);
/* part_layer_state: without the identity and the module. */
void part_layer(struct mpk_writer *writer, const struct result_layer *layer);
void part_layer_state(struct mpk_writer *writer, const struct result_layer *layer);
void part_dropped(struct mpk_writer *writer, const struct reason_count *dropped, uint32_t count);

/* `top_pairs` and `head_top_pairs`. */
void part_pairs(struct mpk_writer *writer, const struct result_pairs *pairs, uint32_t heads);

/* When there is a similarity: its keys, and with `key` a map of them under that. */
void part_similarity(struct mpk_writer *writer, const char *key,
                     const struct result_similarity *similarity, uint32_t heads);

/* A list of names, nil where a head has none. */
void part_pattern(struct mpk_writer *writer, const char *key, const enum pattern *pattern,
                  uint32_t heads);

/* The map under `weights`; NULL: there is none. */
void part_weights(struct mpk_writer *writer, const struct weights_result *weights);

#endif
