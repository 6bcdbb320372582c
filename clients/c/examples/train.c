/* SPDX-License-Identifier: MIT */
/* A one-layer attention model that learns by gradients written by hand to say which token came
 * before, with attnd attached: look for attn_. Its heads turn to the previous token meanwhile.
 *
 *   train [--address ADDRESS] [milliseconds to wait for attnd [epochs]]
 *
 * Prints a line of JSON per epoch: the loss, and each head's mean entropy in nats over the steps
 * that the job asks to be looked at. Without attnd it trains all the same.
 *
 * Build: cc train.c $(pkg-config --cflags --libs attn) -lm */
#include <attn/attn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 8, HEADS = 2, TOKENS = 16, WIDTH = 16, DIM = 8, WORDS = 8, STEPS = 100, EVERY = 5 };
enum { Q, K, V, PROJECTIONS };

/* Only floats: a gradient, and what Adam remembers of it, has the same shape. */
struct parameters {
    float word[WORDS][WIDTH], place[TOKENS][WIDTH];
    float in[PROJECTIONS][HEADS][WIDTH][DIM], out[HEADS][DIM][WORDS];
};

/* The values of one sample that the forward pass leaves for the backward pass, or the gradient by
 * them. */
struct pass {
    float x[TOKENS][WIDTH], in[PROJECTIONS][HEADS][TOKENS][DIM];
    float mixed[HEADS][TOKENS][DIM], logits[TOKENS][WORDS];
};

static struct parameters model, gradient, mean, square;
static int words[BATCH][TOKENS];
static float weights[BATCH][HEADS][TOKENS][TOKENS]; /* what attnd is shown */

static uint32_t train_random_bits(void)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* ---- the model ---- */

/* to[n][m] += from[n][k] * by[k][m] */
static void train_multiply(int n, int k, int m, const float *from, const float *by, float *to)
{
    for (int i = 0; i < n; i++) {
        for (int l = 0; l < k; l++) {
            for (int j = 0; j < m; j++) {
                to[i * m + j] += from[i * k + l] * by[l * m + j];
            }
        }
    }
}

/* The gradients by `from` and `by`, from that by `to`. */
static void multiply_back(int n, int k, int m, const float *from, const float *by, const float *to,
                          float *by_from, float *by_by)
{
    for (int i = 0; i < n; i++) {
        for (int l = 0; l < k; l++) {
            for (int j = 0; j < m; j++) {
                by_by[l * m + j] += from[i * k + l] * to[i * m + j];
                by_from[i * k + l] += to[i * m + j] * by[l * m + j];
            }
        }
    }
}

static float train_dot(const float *a, const float *b)
{
    float sum = 0;

    for (int i = 0; i < DIM; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static void train_softmax(float *row, int count)
{
    float largest = row[0], sum = 0;

    for (int i = 1; i < count; i++) {
        largest = fmaxf(largest, row[i]);
    }
    for (int i = 0; i < count; i++) {
        sum += row[i] = expf(row[i] - largest);
    }
    for (int i = 0; i < count; i++) {
        row[i] /= sum;
    }
}

/* One head: a[query][key] stays 0 beyond the query. */
static void attend(struct pass *p, int head, float a[TOKENS][TOKENS])
{
    for (int i = 0; i < TOKENS; i++) {
        for (int j = 0; j <= i; j++) {
            a[i][j] = train_dot(p->in[Q][head][i], p->in[K][head][j]) / sqrtf(DIM);
        }
        train_softmax(a[i], i + 1);
        train_multiply(1, i + 1, DIM, a[i], p->in[V][head][0], p->mixed[head][i]);
    }
}

static void attend_back(const struct pass *p, struct pass *by, int head, float a[TOKENS][TOKENS])
{
    for (int i = 0; i < TOKENS; i++) {
        float by_weight[TOKENS], sum = 0;

        for (int j = 0; j <= i; j++) {
            sum += a[i][j] * (by_weight[j] = train_dot(by->mixed[head][i], p->in[V][head][j]));
        }
        for (int j = 0; j <= i; j++) {
            for (int d = 0; d < DIM; d++) {
                float by_score = a[i][j] * (by_weight[j] - sum) / sqrtf(DIM);

                by->in[Q][head][i][d] += by_score * p->in[K][head][j][d];
                by->in[K][head][j][d] += by_score * p->in[Q][head][i][d];
                by->in[V][head][j][d] += a[i][j] * by->mixed[head][i][d];
            }
        }
    }
}

static void forward(int sample, struct pass *p)
{
    for (int i = 0; i < TOKENS; i++) {
        for (int d = 0; d < WIDTH; d++) {
            p->x[i][d] = model.word[words[sample][i]][d] + model.place[i][d];
        }
    }
    for (int h = 0; h < HEADS; h++) {
        for (int n = 0; n < PROJECTIONS; n++) {
            train_multiply(TOKENS, WIDTH, DIM, p->x[0], model.in[n][h][0], p->in[n][h][0]);
        }
        attend(p, h, weights[sample][h]);
        train_multiply(TOKENS, DIM, WORDS, p->mixed[h][0], model.out[h][0], p->logits[0]);
    }
}

/* The loss in nats per token, and the gradient by the logits. */
static float train_judge(int sample, const struct pass *p, struct pass *by)
{
    float loss = 0;

    for (int i = 1; i < TOKENS; i++) {
        memcpy(by->logits[i], p->logits[i], sizeof by->logits[i]);
        train_softmax(by->logits[i], WORDS);
        loss -= logf(by->logits[i][words[sample][i - 1]]) / (TOKENS - 1);
        by->logits[i][words[sample][i - 1]] -= 1;
    }
    return loss;
}

static void backward(int sample, const struct pass *p, struct pass *by)
{
    struct parameters *g = &gradient, *m = &model;

    for (int h = 0; h < HEADS; h++) {
        multiply_back(TOKENS, DIM, WORDS, p->mixed[h][0], m->out[h][0], by->logits[0],
                      by->mixed[h][0], g->out[h][0]);
        attend_back(p, by, h, weights[sample][h]);
        for (int n = 0; n < PROJECTIONS; n++) {
            multiply_back(TOKENS, WIDTH, DIM, p->x[0], m->in[n][h][0], by->in[n][h][0], by->x[0],
                          g->in[n][h][0]);
        }
    }
    for (int i = 0; i < TOKENS; i++) {
        for (int d = 0; d < WIDTH; d++) {
            g->word[words[sample][i]][d] += by->x[i][d];
            g->place[i][d] += by->x[i][d];
        }
    }
}

/* Adam. */
static void train_update(int step)
{
    float *at = (float *)&model, *g = (float *)&gradient, *m = (float *)&mean,
          *v = (float *)&square;
    double whole_m = 1 - pow(0.9, step + 1), whole_v = 1 - pow(0.99, step + 1);

    for (size_t i = 0; i < sizeof model / sizeof(float); i++) {
        m[i] = 0.9F * m[i] + 0.1F * g[i];
        v[i] = 0.99F * v[i] + 0.01F * g[i] * g[i];
        at[i] -= (float)(0.01 * m[i] / whole_m / (sqrt(v[i] / whole_v) + 1e-8));
    }
}

/* One batch of new sequences. Returns the loss. */
static float train_step(int step)
{
    float loss = 0;

    memset(&gradient, 0, sizeof gradient);
    for (int sample = 0; sample < BATCH; sample++) {
        struct pass pass = {0}, by = {0};

        for (int i = 0; i < TOKENS; i++) {
            words[sample][i] = (int)(train_random_bits() % WORDS);
        }
        forward(sample, &pass);
        loss += train_judge(sample, &pass, &by) / (float)BATCH;
        backward(sample, &pass, &by);
    }
    train_update(step);
    return loss;
}

/* The entropy of a head in the step that was just done. */
static double train_entropy(int head)
{
    double sum = 0;

    for (int row = 0; row < BATCH * TOKENS; row++) {
        for (int j = 0; j < TOKENS; j++) {
            double a = weights[row / TOKENS][head][row % TOKENS][j];

            sum -= a > 0 ? a * log(a) : 0;
        }
    }
    return sum / (BATCH * TOKENS);
}

/* ---- attnd ---- */

static void train_warn(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "train: %s\n", sentence);
}

static attn_publisher *attach(const char *address, int wait_ms)
{
    static const attn_layer layers[] = {{ATTN_DECODER, 0, ATTN_SELF, HEADS}};
    attn_publisher_options options;
    attn_publisher *publisher;
    char why[1024];

    attn_publisher_options_default(&options);
    options.job = "example-c";
    options.every = EVERY; /* until attnd is told otherwise about this job */
    options.samples = 0;
    options.address = address; /* NULL: attnd is looked for */
    options.warn = train_warn;
    if (attn_publisher_new(&options, &publisher) != 0) {
        fprintf(stderr, "train: no publisher: is %s an address?\n",
                address ? address : "$ATTND_ADDRESS");
        exit(EXIT_FAILURE);
    }
    attn_hello(publisher, layers, 1);
    if (attn_publisher_wait(publisher, wait_ms) != 0) {
        attn_check_address(address, why, sizeof why);
        fprintf(stderr, "train: no attnd yet, training begins without%s%s\n", *why ? ": " : "",
                why);
    }
    return publisher;
}

/* The library counts the result, so the training ignores it. */
static void train_show(attn_publisher *publisher)
{
    attn_attention attention;
    attn_plan plan;

    if (!attn_publisher_wants(publisher, ATTN_DECODER, 0, ATTN_SELF)) {
        return;
    }
    attn_publisher_plan(publisher, &plan);
    attn_attention_default(&attention);
    attention.stack = ATTN_DECODER;
    attention.weights = weights;
    attention.batch = BATCH;
    attention.heads = HEADS;
    attention.queries = attention.keys = TOKENS;
    attention.causal = true;
    attention.plan = &plan;
    attn_publish_attention(publisher, &attention);
}

static void train_epoch(attn_publisher *publisher, int epoch)
{
    double loss = 0, mean_entropy[HEADS] = {0};

    for (int step = epoch * STEPS; step < (epoch + 1) * STEPS; step++) {
        attn_set_position(publisher, (uint64_t)epoch, (uint64_t)step);
        loss += train_step(step) / (float)STEPS;
        train_show(publisher);
        for (int h = 0; step % EVERY == 0 && h < HEADS; h++) {
            mean_entropy[h] += train_entropy(h) * (double)EVERY / (double)STEPS;
        }
    }
    attn_epoch_end(publisher);
    printf("{\"epoch\": %d, \"loss\": %.6f, \"entropy\": [%.9f, %.9f]}\n", epoch, loss,
           mean_entropy[0], mean_entropy[1]);
}

int main(int argc, char **argv)
{
    bool named = argc > 2 && strcmp(argv[1], "--address") == 0;
    attn_publisher *publisher;

    argc -= named ? 2 : 0;
    argv += named ? 2 : 0;
    publisher = attach(named ? argv[0] : NULL, argc > 1 ? atoi(argv[1]) : 2000);

    for (size_t i = 0; i < sizeof model / sizeof(float); i++) {
        ((float *)&model)[i] = ((float)train_random_bits() / (1 << 23) - 1) / 4;
    }
    for (int epoch = 0; epoch < (argc > 2 ? atoi(argv[2]) : 6); epoch++) {
        train_epoch(publisher, epoch);
    }
    attn_publisher_free(&publisher);
    return EXIT_SUCCESS;
}
