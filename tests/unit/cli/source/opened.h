/* SPDX-License-Identifier: MIT */
/* opened: a source of maps that a test opens, and its file. */
#ifndef TESTS_UNIT_CLI_SOURCE_OPENED_H
#define TESTS_UNIT_CLI_SOURCE_OPENED_H

#include "tests/unit/unit.h"

#include "clients/cli/source/source.h"

struct fixture {
    char directory[64], path[128], error[SOURCE_ERROR_MAX];
    struct source_request request;
    struct source *source;
    char *file;
};

int opened_set_up(void **state);
int opened_tear_down(void **state);
#define SOURCE_TEST(name) TEST_OF(name, struct fixture *f, opened_set_up, opened_tear_down)

void opened_open(struct fixture *f);
/* Opening fails; the error without the file's name, which is the test's own. */
void opened_expect_refusal(struct fixture *f, int code, const char *part);
void opened_expect_labels_refused(struct fixture *f, const char *why);
const struct source_layer *opened_layer(struct fixture *f, size_t index);

#endif
