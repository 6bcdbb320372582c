/* SPDX-License-Identifier: MIT */
/* A training loop without the training: two decoder layers of four heads, three epochs of ten
 * steps, and attention that gets more focused as time goes on. Prints the summaries that come back.
 *
 *   publish [ingest endpoint [results endpoint [milliseconds to wait for the daemon]]]
 *
 * Build: cc publish.c $(pkg-config --cflags --libs attn) -lm */
#include <attn/attn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 2, HEADS = 4, BATCH = 2, TOKENS = 32, EPOCHS = 3, STEPS = 10 };

static float weights[BATCH][HEADS][TOKENS][TOKENS];

/* A row of causal attention: softmax over keys 0..query of scores that fall with the distance. */
static void fill_row(float *row, int query, double sharpness)
{
    double sum = 0;

    for (int key = 0; key <= query; key++)
        sum += exp(-sharpness * (query - key));
    for (int key = 0; key < TOKENS; key++)
        row[key] = key <= query ? (float)(exp(-sharpness * (query - key)) / sum) : 0.0F;
}

static void compute_attention(int layer, int step)
{
    for (int sample = 0; sample < BATCH; sample++) {
        for (int head = 0; head < HEADS; head++) {
            double sharpness = 0.02 * (head + 1) * (layer + 1) * (1 + step / 10.0);

            for (int query = 0; query < TOKENS; query++)
                fill_row(weights[sample][head][query], query, sharpness);
        }
    }
}

static void publish_layer(attn_publisher *publisher, int layer, int step)
{
    attn_attention attention;

    /* Costs nothing while nobody looks at this layer. */
    if (!attn_publisher_wants(publisher, ATTN_DECODER, (uint32_t)layer, ATTN_SELF))
        return;
    compute_attention(layer, step);
    attn_attention_default(&attention);
    attention.stack = ATTN_DECODER;
    attention.layer = (uint32_t)layer;
    attention.site = ATTN_SELF;
    attention.weights = weights;
    attention.dtype = ATTN_F32;
    attention.batch = BATCH;
    attention.heads = HEADS;
    attention.queries = TOKENS;
    attention.keys = TOKENS;
    attention.causal = true;
    attn_publish_attention(publisher, &attention); /* a lost message is counted, not our concern */
}

static void train(attn_publisher *publisher)
{
    int step = 0;

    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        for (int i = 0; i < STEPS; i++, step++) {
            attn_set_position(publisher, (uint64_t)epoch, (uint64_t)step);
            for (int layer = 0; layer < LAYERS; layer++)
                publish_layer(publisher, layer, step);
        }
        attn_epoch_end(publisher);
    }
}

static void print_summary(const attn_result *result)
{
    uint64_t epoch = 0;

    attn_result_u64(result, "epoch", &epoch);
    printf("%s epoch %llu entropy", attn_result_topic(result), (unsigned long long)epoch);
    for (uint32_t head = 0; head < attn_result_heads(result); head++) {
        double entropy;

        if (attn_result_stat(result, "entropy", "mean", head, &entropy) == 0)
            printf(" %.3f", entropy);
    }
    printf("\n");
}

/* Every layer once per epoch; gives up after two seconds of silence. */
static int print_summaries(attn_subscriber *subscriber)
{
    int seen = 0;
    attn_result *result;

    while (seen < LAYERS * EPOCHS && attn_subscriber_next(subscriber, 2000, &result) == 0) {
        print_summary(result);
        attn_result_free(&result);
        seen++;
    }
    return seen;
}

static void introduce(attn_publisher *publisher)
{
    attn_layer layers[LAYERS];

    for (int i = 0; i < LAYERS; i++) {
        layers[i].stack = ATTN_DECODER;
        layers[i].layer = (uint32_t)i;
        layers[i].site = ATTN_SELF;
        layers[i].heads = HEADS;
    }
    attn_hello(publisher, layers, LAYERS);
}

static int run(attn_publisher *publisher, attn_subscriber *subscriber, int wait_ms)
{
    attn_publisher_counts counts;
    bool daemon;

    introduce(publisher);
    daemon = attn_publisher_wait(publisher, wait_ms) == 0;
    if (!daemon)
        printf("no daemon: training goes on without\n");
    train(publisher);
    attn_publisher_stats(publisher, &counts);
    printf("sent %llu, skipped %llu, dropped %llu\n", (unsigned long long)counts.sent,
           (unsigned long long)counts.skipped, (unsigned long long)counts.dropped);
    return daemon && print_summaries(subscriber) == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    attn_publisher_options to;
    attn_subscriber_options from;
    attn_publisher *publisher = NULL;
    attn_subscriber *subscriber = NULL;
    int rc;

    attn_publisher_options_default(&to);
    attn_subscriber_options_default(&from);
    to.job = "example-c";
    from.prefix = "summary/example-c/";
    if (argc > 1)
        to.endpoint = argv[1];
    if (argc > 2)
        from.endpoint = argv[2];
    rc = attn_publisher_new(&to, &publisher);
    if (rc == 0)
        rc = attn_subscriber_new(&from, &subscriber);
    if (rc == 0)
        rc = run(publisher, subscriber, argc > 3 ? atoi(argv[3]) : 2000);
    else
        fprintf(stderr, "publish: %s\n", attn_strerror(rc));
    attn_subscriber_free(&subscriber);
    attn_publisher_free(&publisher);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
