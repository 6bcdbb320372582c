/* SPDX-License-Identifier: MIT */
/* A trainer by libattn with large and small tensors, all of which change with every message.
 *
 *   lend ADDRESS JOB MESSAGES      0 = until it is killed
 *
 * Waits for room before each message; exits with 1 when one is not taken. */
#include <attn/attn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 2, HEADS = 2, TOKENS = 160, DIM = 128, PATIENCE_MS = 60000 };

static float weights[BATCH][HEADS][TOKENS][TOKENS], q[BATCH][HEADS][TOKENS][DIM];
static int32_t tokens[BATCH][TOKENS];
static uint8_t mask[BATCH][TOKENS][TOKENS];

static float lend_random(void)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 16777216.0f;
}

static void change_all(void)
{
    for (int row = 0; row < BATCH * HEADS * TOKENS; row++) {
        float *at = &weights[0][0][0][0] + row * TOKENS, sum = 0;

        for (int key = 0; key < TOKENS; key++) {
            sum += at[key] = lend_random();
        }
        for (int key = 0; key < TOKENS; key++) {
            at[key] /= sum;
        }
    }
    for (int i = 0; i < BATCH * HEADS * TOKENS * DIM; i++) {
        (&q[0][0][0][0])[i] = lend_random() - 0.5f;
    }
    for (int i = 0; i < BATCH * TOKENS; i++) {
        (&tokens[0][0])[i] = (int32_t)(100 * lend_random());
    }
    memset(mask, 1, sizeof mask);
}

/* Until everything is sent, so that nothing is dropped. */
static int lend_settle(attn_publisher *publisher)
{
    const struct timespec pause = {.tv_nsec = 200000};
    attn_publisher_counts counts;

    for (int i = 0; i < 5 * PATIENCE_MS; i++) {
        attn_publisher_stats(publisher, &counts);
        if (counts.queued == 0) {
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return 1;
}

static int lend_publish(attn_publisher *publisher, uint64_t step)
{
    const attn_attention attention = {.stack = ATTN_DECODER,
                                      .weights = weights,
                                      .batch = BATCH,
                                      .heads = HEADS,
                                      .queries = TOKENS,
                                      .keys = TOKENS,
                                      .mask = &mask[0][0][0],
                                      .tokens = &tokens[0][0]};
    const attn_qk qk = {.stack = ATTN_DECODER,
                        .layer = 1,
                        .q = q,
                        .k = q,
                        .v = q,
                        .batch = BATCH,
                        .heads = HEADS,
                        .queries = TOKENS,
                        .keys = TOKENS,
                        .head_dim = DIM,
                        .causal = true};

    change_all();
    attn_set_position(publisher, 0, step);
    return step % 2 ? attn_publish_qk(publisher, &qk)
                    : attn_publish_attention(publisher, &attention);
}

static void warn(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "%s\n", sentence);
}

int main(int argc, char **argv)
{
    attn_publisher_options options;
    attn_publisher *publisher;
    uint64_t messages = argc == 4 ? strtoull(argv[3], NULL, 10) : 0;
    int failed = 0;

    if (argc != 4) {
        fputs("usage: lend ADDRESS JOB MESSAGES\n", stderr);
        return 2;
    }
    attn_publisher_options_default(&options);
    options.address = argv[1];
    options.job = argv[2];
    options.warn = warn;
    options.max_queued_bytes = 64 << 20; /* ZeroMQ may hold 64 messages */
    options.linger_ms = PATIENCE_MS;
    if (attn_publisher_new(&options, &publisher) != 0) {
        return 1;
    }
    failed = attn_publisher_wait(publisher, PATIENCE_MS) != 0;
    for (uint64_t step = 0; !failed && (messages == 0 || step < messages); step++) {
        int rc = lend_publish(publisher, step);

        failed = messages > 0 ? rc < 0 || lend_settle(publisher) != 0 : lend_settle(publisher);
    }
    attn_publisher_free(&publisher);
    return failed;
}
