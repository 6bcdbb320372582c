/* SPDX-License-Identifier: MIT */
/* fuzz: what every fuzz_<name>.c defines; libFuzzer or replay.c calls it. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* No signal comes in between, as in the threads that talk by ZeroMQ. libFuzzer does not notice a
 * hang then; who waits for its end does. */
static inline void fuzz_block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

/* The bytes that are not used yet. */
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* The next number, of this length in bytes, low bytes first; bytes beyond the input are 0. */
static inline uint32_t fuzz_take(struct fuzz_input *input, unsigned bytes)
{
    uint32_t number = 0;
    for (unsigned i = 0; i < bytes && input->left > 0; i++, input->at++, input->left--) {
        number |= (uint32_t)*input->at << 8 * i;
    }
    return number;
}

/* An invariant, in every build. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
