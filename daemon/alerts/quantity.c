/* SPDX-License-Identifier: MIT */
/* Numbers that rules judge and no metric has: of a head among its layer mates, in its own past, or
 * of a layer among the others. rules.def says in one line what each is. Bounds and what they were
 * chosen on are there, too. */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Logits of healthy heads, sharp ones as well, spread by up to 10; of saturated ones by 20 to 1000.
 */
#define SPREAD_SATURATED 12.0
/* Heads that learn turn sharp with up to 6 times the spread they had before (in windows of 32
 * captures and more one of 100 runs has 59, as its logits explode); heads that are saturated at
 * once with 22 times and more. */
#define SPREAD_JUMP 16.0f
/* The spread before is that of the window before, or less: it grows twofold in a window at most,
 * for a fault may begin within one, and not in a window with a jump; random matrices have half of
 * the least. */
#define SPREAD_GROWTH 2.0f
#define SPREAD_LEAST  0.125f
/* Where head_saturated is clear again. */
#define ENTROPY_SHARP 0.4
/* Where logits are not known: below the entropy of healthy sharp heads but the sharpest. */
#define ENTROPY_SATURATED 0.1
/* Random matrices have half of it, and layers that a model does not need lose even that, slowly.
 * What a head with less has lost is told only where next to nothing of it is left, at once. */
#define FOCUS_LEARNED 0.06f
#define FOCUS_LEAST   0.01f
#define FOCUS_GONE    0.0025f
/* So many times counts what is left of it: head_uniform fires where 0.05 are left of what was
 * learned. */
#define FOCUS_DOUBT (0.05 / FOCUS_GONE)
/* Sinks of healthy heads leave more to the other keys, in most heads. */
#define SINK_TAKEN 0.9
/* A layer can have been left behind once another one has this. */
#define FOCUS_OF_OTHERS 0.1

static double mean_of(const struct summary_result *summary, enum metric metric, uint32_t head)
{
    const struct result_stat *stat = summary->stat[metric];
    return stat && stat[head].count > 0 ? stat[head].mean : NAN;
}

static double saturated_entropy(double entropy, double spread)
{
    bool sharp = isnan(spread) ? entropy < ENTROPY_SATURATED : spread >= SPREAD_SATURATED;
    return isnan(entropy) || sharp ? entropy : 1;
}

/* Whether a head is sharp with far more spread than before, which stays what it is then; `*before`
 * 0: not known yet. */
static bool has_jumped(float *before, double entropy, float spread)
{
    if (*before > 0 && entropy < ENTROPY_SHARP && spread > SPREAD_JUMP * *before) {
        return true;
    }
    float most = *before > 0 ? SPREAD_GROWTH * *before : spread;
    *before = isnan(spread) ? *before : fmaxf(SPREAD_LEAST, fminf(spread, most));
    return false;
}

/* Saturation of most heads is the trouble of the layer, which is told once; where most have jumped,
 * the training has. One head that is sharp among others may have learned to align: only its logits
 * tell, by their size or their jump. */
static void put_saturated(struct alert_numbers *numbers, const struct summary_result *summary)
{
    uint32_t by_size = 0, in_all = 0;
    for (uint32_t h = 0; h < numbers->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        double entropy = mean_of(summary, METRIC_ENTROPY_SANS_FIRST, h);
        double spread = mean_of(summary, METRIC_STD_LOGIT, h);
        bool jumped = has_jumped(&head->past.spread, entropy, (float)spread);
        head->saturated_entropy = saturated_entropy(entropy, spread);
        head->saturated_alone = jumped ? entropy : head->saturated_entropy;
        by_size += head->saturated_entropy < 1;
        in_all += head->saturated_alone < 1;
        head->saturated_alone = isnan(spread) ? NAN : head->saturated_alone;
    }
    for (uint32_t h = 0; h < numbers->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        uint32_t alike = head->saturated_entropy < 1 ? by_size : in_all;
        if (2 * alike > numbers->heads && !isnan(head->saturated_alone)) {
            head->saturated_alone = 1;
        }
    }
}

static double focus_of(const struct summary_result *summary, uint32_t head)
{
    return 1 - mean_of(summary, METRIC_ENTROPY_NORMALIZED, head);
}

/* One window is noise: `kept` is the largest that two windows on end had. Below FOCUS_LEARNED it
 * halves in each window, until the head is uniform at once. */
static double lost_focus(struct alert_past *past, double focus)
{
    if (isnan(focus)) {
        return NAN;
    }
    float now = (float)focus, of_two = fminf(past->before, now);
    past->before = now;
    if (past->kept >= FOCUS_LEARNED) {
        past->kept = fmaxf(past->kept, of_two);
    } else if (now >= FOCUS_GONE * past->kept) {
        past->kept = fmaxf(past->kept / 2, of_two);
    }
    if (past->kept < FOCUS_LEAST) {
        return NAN;
    }
    double left = focus / (double)past->kept;
    return fmax(0, 1 - (past->kept < FOCUS_LEARNED ? FOCUS_DOUBT : 1) * left);
}

static double written_by(const struct summary_result *summary, uint32_t head)
{
    double written = mean_of(summary, METRIC_WRITE_NORM, head);
    return isnan(written) ? mean_of(summary, METRIC_WV_WO_SPECTRAL_NORM, head) : written;
}

static int compare_numbers(const void *a, const void *b)
{
    double one = *(const double *)a, other = *(const double *)b;
    return one < other ? -1 : one > other;
}

/* The median of those that are numbers, the lower one of two; NaN without any. Sorts them. */
static double median_of(double *numbers, uint32_t count)
{
    uint32_t known = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!isnan(numbers[i])) {
            numbers[known++] = numbers[i];
        }
    }
    qsort(numbers, known, sizeof *numbers, compare_numbers);
    return known ? numbers[(known - 1) / 2] : NAN;
}

/* `room` is for as many numbers as there are heads. */
static void put_written_shares(struct alert_numbers *numbers, const struct summary_result *summary,
                               double *room)
{
    for (uint32_t h = 0; h < summary->heads; h++) {
        room[h] = written_by(summary, h);
    }
    double median = median_of(room, summary->heads);
    for (uint32_t h = 0; h < summary->heads; h++) {
        numbers->head[h].written_share = median > 0 ? written_by(summary, h) / median : NAN;
    }
}

/* NaN unless both are known. */
static double twin(const struct summary_result *summary, uint32_t head)
{
    double q = mean_of(summary, METRIC_WQ_CORRELATION_MAX, head);
    double v = mean_of(summary, METRIC_WV_CORRELATION_MAX, head);
    return isnan(q) || isnan(v) ? NAN : fmin(q, v);
}

static double later_keys(struct alerts *alerts, const struct summary_result *summary)
{
    double most = NAN;
    if (summary->layer.id.stack != STACK_DECODER || summary->layer.id.site != SITE_SELF) {
        return NAN;
    }
    alerts->causal = alerts->causal || summary->layer.causal;
    for (uint32_t h = 0; h < summary->heads && alerts->causal; h++) {
        most = fmax(most, mean_of(summary, METRIC_NEXT_TOKEN, h));
    }
    return most;
}

/* The model's heads */

static void count_sinks(struct alerts *alerts, const struct summary_result *summary)
{
    for (uint32_t h = 0; h < summary->heads; h++) {
        double first = mean_of(summary, METRIC_FIRST_TOKEN, h);
        alerts->sinks += first > SINK_TAKEN ? 1 : 0;
        alerts->sinkable += isnan(first) ? 0 : 1;
    }
}

double alert_sink_share(const struct alerts *alerts)
{
    return alerts->sinkable > 0 ? (double)alerts->sinks / alerts->sinkable : NAN;
}

/* Where NaN began */

/* The order in which a forward pass comes to them. */
static bool is_earlier(struct layer_id one, struct layer_id other)
{
    if (one.stack != other.stack) {
        return one.stack == STACK_ENCODER;
    }
    return one.layer != other.layer ? one.layer < other.layer : one.site < other.site;
}

/* Rows that are invalid in one head make all invalid in the layers behind it, and from the next
 * step on everywhere. So the head with the largest share was first; of layers with as large a share
 * the first one. Heads that share it cannot be told apart. */
static void find_origin(struct alert_origin *origin, const struct summary_result *summary)
{
    double most = 0;
    int32_t head = -1;
    bool alike = true;
    for (uint32_t h = 0; h < summary->heads && summary->invalid_share; h++) {
        double share = summary->invalid_share[h];
        alike = alike && share == summary->invalid_share[0];
        if (share >= most && share > 0) {
            head = share > most ? (int32_t)h : -1;
            most = share;
        }
    }
    struct layer_id id = summary->layer.id;
    alike = alike && (origin->heads == 0 || (origin->everywhere && most == origin->share));
    if (most > origin->share ||
        (most > 0 && most == origin->share && is_earlier(id, origin->layer))) {
        origin->layer = id;
        origin->head = head;
        origin->share = most;
    }
    origin->heads += summary->heads;
    origin->everywhere = alike && origin->heads > 1 && most > 0;
}

/* Windows */

int alert_numbers_reserve(struct alert_layer *layer, uint32_t heads)
{
    if (layer->numbers && layer->numbers->heads == heads) {
        return 0;
    }
    free(layer->numbers);
    layer->numbers = calloc(1, sizeof *layer->numbers + heads * sizeof layer->numbers->head[0]);
    if (!layer->numbers) {
        return ERR_MEMORY;
    }
    layer->numbers->heads = heads;
    return 0;
}

int alert_numbers_take(struct alerts *alerts, struct alert_layer *layer,
                       const struct summary_result *summary)
{
    double *room = malloc((summary->heads + 1) * sizeof *room);
    if (!room || alert_numbers_reserve(layer, summary->heads) != 0) {
        free(room);
        return ERR_MEMORY;
    }
    struct alert_numbers *numbers = layer->numbers;
    double focus = NAN;
    for (uint32_t h = 0; h < summary->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        double of_head = focus_of(summary, h);
        head->lost_focus = lost_focus(&head->past, of_head);
        head->twin = twin(summary, h);
        focus = fmax(focus, of_head);
    }
    put_saturated(numbers, summary);
    put_written_shares(numbers, summary, room);
    free(room);
    alerts->focus_now = fmax(alerts->focus_now, focus);
    numbers->focus_share = alerts->focus >= FOCUS_OF_OTHERS ? focus / alerts->focus : NAN;
    numbers->later_keys = later_keys(alerts, summary);
    count_sinks(alerts, summary);
    find_origin(&alerts->found, summary);
    return 0;
}

double alert_origin_value(struct alerts *alerts)
{
    struct alert_origin found = alerts->found;
    alerts->found = (struct alert_origin){.share = 0};
    if (alerts->origin.share == 0 && found.share > 0) {
        found.after = alerts->origin.after;
        found.before = alerts->newest.step;
        alerts->origin = found;
    }
    return found.share;
}

void alert_numbers_end(struct alerts *alerts)
{
    alerts->focus = alerts->focus_now;
    alerts->focus_now = 0;
    alerts->sinks = alerts->sinkable = 0;
}
