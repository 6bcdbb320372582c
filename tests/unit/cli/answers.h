/* SPDX-License-Identifier: MIT */
/* answers: results of a job gpt-small, for a fake attnd to answer or to publish. */
#ifndef TESTS_UNIT_CLI_ANSWERS_H
#define TESTS_UNIT_CLI_ANSWERS_H

#include "proto/result.h"

struct result_common answers_common(uint64_t epoch, uint64_t step);
/* A map each. */
void answers_job(struct mpk_writer *reply);
/* 12 heads have base + head / 100, but head 1 has no number. */
void answers_summary(struct mpk_writer *reply, struct layer_id id, double base);

#endif
