/* SPDX-License-Identifier: MIT */
/* fake: an attnd for the tests of its command line: a ROUTER that answers as it is told, and a PUB.
 * The answering function runs on the fake's own thread: it reads nothing that a test changes
 * meanwhile. */
#ifndef TESTS_UNIT_CLI_FAKE_H
#define TESTS_UNIT_CLI_FAKE_H

#include "tests/unit/unit.h"

#include "proto/mpk.h"

#include <pthread.h>

struct fake;

/* Appends the whole reply frame to an empty writer; leaving it empty means silence. */
typedef void fake_answer(const struct fake *fake, const char *method, uint64_t id,
                         const msgpack_object *params, struct mpk_writer *reply);

struct fake {
    char runtime[32], directory[48], endpoint[64], published[64]; /* directory: runtime/attnd */
    void *context, *router, *pub;
    fake_answer *answer;
    pthread_t thread;
};

void fake_start(struct fake *fake, fake_answer *answer);
void fake_stop(struct fake *fake);

/* [1, id, nil, - the result follows */
void fake_put_ok(struct mpk_writer *reply, uint64_t id);
/* [1, id, {code, message}, nil] */
void fake_put_error(struct mpk_writer *reply, uint64_t id, const char *code, const char *message);

/* Starts `attnctl arguments` with both outputs in the returned pipe. The endpoint is given as an
 * option, unless it is "" or the arguments have an address. */
FILE *attnctl_start(const char *endpoint, const char *arguments);
/* Reads what it says to its end, and checks that and its exit status. */
void attnctl_finish(FILE *pipe, int expected_status, const char *expected_text);

/* Arguments of attnctl, and how it ends. */
struct said {
    const char *arguments;
    int status;
    const char *text;
};
void fake_says(const struct fake *fake, const char *arguments, int status, const char *text);
void fake_says_all(const struct fake *fake, const struct said *said, size_t count);

/* A test with a fake that answers so. $TAIL_FROM is where it publishes. */
#define FAKE_TEST_OF(name, answering)                                                              \
    static int start_##name(void **state)                                                          \
    {                                                                                              \
        return fake_set_up(state, answering);                                                      \
    }                                                                                              \
    TEST_OF(name, struct fake *fake, start_##name, fake_tear_down)
int fake_set_up(void **state, fake_answer *answer);
int fake_tear_down(void **state);

/* A test that is such cases alone: SAYS_OF(its name, answer, {arguments, status, text}...); */
#define SAYS_OF(name, answering, ...)                                                              \
    FAKE_TEST_OF(name, answering)                                                                  \
    {                                                                                              \
        static const struct said said[] = {__VA_ARGS__};                                           \
        fake_says_all(fake, said, sizeof said / sizeof said[0]);                                   \
    }                                                                                              \
    struct said

#endif
