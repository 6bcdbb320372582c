/* SPDX-License-Identifier: MIT */
/* trained: a run in a registry that has seen some steps of measured attention: two layers of two
 * heads, whose maps become sharp at the end, so that alerts fire. */
#ifndef TESTS_FUZZ_TRAINED_H
#define TESTS_FUZZ_TRAINED_H

#include "daemon/run/queue.h"
#include "daemon/run/registry.h"

#define TRAINED_STEPS 16

/* Windows of two steps, and of eight every four. */
void trained_config(struct config *ret_config);
/* A clock that begins at 1000 s. */
void trained_fill(struct registry *registry, const char *job);

#endif
