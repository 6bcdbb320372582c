/* SPDX-License-Identifier: MIT */
/* pairs: a list of the best entries of attention maps, descending. Pure; any thread. */
#ifndef WORKERS_ROWS_PAIRS_H
#define WORKERS_ROWS_PAIRS_H

#include "proto/metric.h"

/* Puts an entry in its place among the `limit` best: larger weight first, ties by lower query, then
 * lower key. Returns the new count. */
uint32_t pairs_offer(struct pair *pairs, uint32_t count, uint32_t limit, struct pair pair);

#endif
