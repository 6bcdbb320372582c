/* SPDX-License-Identifier: MIT */
/* fleet_example: answers of the method `fleet`, as a node and a hub in trouble give them. */
#ifndef TESTS_UNIT_FLEET_EXAMPLE_H
#define TESTS_UNIT_FLEET_EXAMPLE_H

#include "proto/mpk.h"

void fleet_example_off(struct mpk_writer *writer);
/* Without a connection, and refused. */
void fleet_example_node(struct mpk_writer *writer);
/* Three nodes: one well, of which nothing was heard yet, one silent, one refused; a run that waits,
 * with partial windows. */
void fleet_example_hub(struct mpk_writer *writer);

#endif
