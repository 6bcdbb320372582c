/* SPDX-License-Identifier: MIT */
/* Publishes a small message of each step by libattn, all by the reliable lane, and says what became
 * of them: lines on standard output, each written at once.
 *
 *   keep_publishing ADDRESS JOB RUN COUNT PAUSE_US LINGER_MS
 *
 * RUN is 32 hexadecimal digits. "P 3 K 2 D 0 R 0": three steps were published, the first two of
 * them are kept or acknowledged, none was dropped, and none refused by attnd; "X 2": the third was
 * not published. After COUNT steps it waits for the end of its input, and ends. */
#include <attn/attn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void tell(attn_publisher *publisher, unsigned published, attn_publisher_counts *counts)
{
    attn_publisher_stats(publisher, counts);
    printf("P %u K %llu D %llu R %llu\n", published,
           (unsigned long long)(counts->sent + counts->unacknowledged),
           (unsigned long long)counts->dropped, (unsigned long long)counts->refused);
    fflush(stdout);
}

static int publish_steps(attn_publisher *publisher, unsigned count, unsigned pause_us)
{
    static const float weight = 1;
    attn_publisher_counts counts;
    attn_attention attention;
    unsigned refused = 0;

    attn_attention_default(&attention);
    attention.stack = ATTN_DECODER;
    attention.weights = &weight;
    attention.batch = attention.heads = attention.queries = attention.keys = 1;
    for (unsigned step = 0; step < count; step++) {
        attn_set_position(publisher, 0, step);
        if (attn_publish_attention(publisher, &attention) != ATTN_OK) {
            printf("X %u\n", step);
            refused++;
        }
        tell(publisher, step + 1, &counts);
        usleep(pause_us);
    }
    do {
        usleep(10000);
        tell(publisher, count, &counts);
    } while (counts.sent + counts.unacknowledged + counts.dropped + refused < count);
    return getchar() == EOF ? 0 : 1;
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
    uint8_t run[16];
    int rc;

    if (argc != 7 || strlen(argv[3]) != 32) {
        return 2;
    }
    for (size_t i = 0; i < sizeof run; i++) {
        char pair[3] = {argv[3][2 * i], argv[3][2 * i + 1], '\0'};

        run[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    attn_publisher_options_default(&options);
    options.address = argv[1];
    options.job = argv[2];
    options.warn = warn;
    options.run = run;
    options.reliable = ATTN_RELIABLE_ALL;
    options.linger_ms = (uint32_t)strtoul(argv[6], NULL, 10);
    if (attn_publisher_new(&options, &publisher) != ATTN_OK) {
        return 1;
    }
    rc = attn_publisher_wait(publisher, 60000) != ATTN_OK
             ? 1
             : publish_steps(publisher, (unsigned)strtoul(argv[4], NULL, 10),
                             (unsigned)strtoul(argv[5], NULL, 10));
    attn_publisher_free(&publisher);
    return rc;
}
