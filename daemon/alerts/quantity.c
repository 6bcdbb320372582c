/* SPDX-License-Identifier: MIT */
/* Numbers that rules judge and no metric has: of a head among its layer mates, in its own past, or
 * of a layer among the others. rules.def says in one line what each is. Bounds and what they were
 * chosen on are there, too. */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The weight of a key that a mask hides, also by no more than -70. */
#define HIDDEN_WEIGHT 1e-30
/* Beyond the widest tolerance (of f16 and bf16) a sum is off, unless nobody judged it. */
#define ROW_SUM_TOLERANCE 2e-2

static double mean_of(const struct summary_result *summary, enum metric metric, uint32_t head)
{
    const struct result_stat *stat = summary->stat[metric];
    return stat && stat[head].count > 0 ? stat[head].mean : NAN;
}

bool alert_has(const struct summary_result *summary, const struct rule *rule)
{
    if (rule->metric < METRIC_COUNT) {
        return rule->statistic < RULE_DELTA ? summary->stat[rule->metric] != NULL
                                            : summary->drift[rule->metric] != NULL;
    }
    if (rule->metric == RULE_SINK_RATE) {
        return summary->sink_rate != NULL;
    }
    if (rule->metric == RULE_REDUNDANT_SHARE) {
        return summary->similarity.js != NULL;
    }
    if (rule->metric == RULE_RANK_DISTANCE) {
        return !isnan(summary->rank_distance);
    }
    return !rule_is_of_run(rule);
}

static double of_stat(const struct result_stat *stat, enum rule_statistic statistic)
{
    const double numbers[] = {
        [RULE_MEAN] = stat->mean, [RULE_STD] = stat->std, [RULE_MIN] = stat->min,
        [RULE_MAX] = stat->max,   [RULE_P10] = stat->p10, [RULE_P50] = stat->p50,
        [RULE_P90] = stat->p90,   [RULE_P99] = stat->p99, [RULE_LAST] = stat->last,
    };
    return stat->count > 0 ? numbers[statistic] : NAN;
}

double alert_head_value(const struct alert_layer *layer, const struct summary_result *summary,
                        const struct rule *rule, uint32_t head)
{
    const struct alert_head_numbers *numbers = &layer->numbers->head[head];
    switch (rule->metric) {
    case RULE_INVALID_SHARE:
        return summary->invalid_share ? summary->invalid_share[head] : NAN;
    case RULE_SATURATED_ENTROPY:
        return numbers->saturated_entropy;
    case RULE_SATURATED_ALONE:
        return numbers->saturated_alone;
    case RULE_LOST_FOCUS:
        return numbers->lost_focus;
    case RULE_WRITTEN_SHARE:
        return numbers->written_share;
    case RULE_TWIN:
        return numbers->twin;
    default:
        break;
    }
    if (rule->statistic >= RULE_DELTA) {
        const struct result_drift *drift = &summary->drift[rule->metric][head];
        switch (rule->statistic) {
        case RULE_DELTA:
            return drift->delta;
        case RULE_SHIFT:
            return drift->shift;
        case RULE_ABS_SHIFT:
            return fabs(drift->shift);
        default:
            return drift->js;
        }
    }
    double value = of_stat(&summary->stat[rule->metric][head], rule->statistic);
    if (!rule->per_key) {
        return value;
    }
    uint32_t keys = summary->layer.shape[3];
    return keys ? value / keys : NAN;
}

bool alert_is_doubtful(const struct summary_result *summary, const struct rule *rule)
{
    bool is_of_one_key =
        rule->metric == RULE_SATURATED_ENTROPY || rule->metric == RULE_SATURATED_ALONE;
    bool knows = summary->layer.id.site == SITE_CROSS;
    for (uint32_t h = 0; h < summary->heads && is_of_one_key && !knows; h++) {
        knows = !isnan(mean_of(summary, METRIC_INDUCTION, h));
    }
    return is_of_one_key && !knows;
}

static double alert_value_share(double part, double all)
{
    return all > 0 ? part / all : NAN;
}

/* Sums are not judged after dropout and with a learned sink; a summary does not say so, but there
 * only can the largest error be beyond every tolerance while all rows are sound. */
static double row_sum_error(const struct result_layer *layer)
{
    bool judged = layer->invalid_rows > 0 || layer->row_sum_error <= ROW_SUM_TOLERANCE;
    return judged ? layer->row_sum_error : NAN;
}

double alert_layer_value(const struct alert_layer *judged, const struct summary_result *summary,
                         const struct rule *rule)
{
    const struct result_layer *layer = &summary->layer;
    double heads = summary->heads;
    switch (rule->metric) {
    case RULE_SINK_RATE:
        return of_stat(summary->sink_rate, rule->statistic);
    case RULE_REDUNDANT_SHARE:
        return alert_value_share(summary->similarity.redundant_total, heads * (heads - 1) / 2);
    case RULE_INVALID_SHARE:
        return alert_value_share((double)layer->invalid_rows,
                                 (double)layer->rows + (double)layer->invalid_rows);
    case RULE_FOCUS_SHARE:
        return judged->numbers->focus_share;
    case RULE_LATER_KEYS:
        return judged->numbers->later_keys;
    case RULE_RANK_DISTANCE:
        return summary->rank_distance;
    default:
        return row_sum_error(layer);
    }
}

void alert_gather(struct alert_gathered *gathered, uint32_t head, double value)
{
    if (isnan(value)) {
        return;
    }
    if (gathered->count == 0 || value < gathered->min) {
        gathered->min = value;
        gathered->lowest = head;
    }
    if (gathered->count == 0 || value > gathered->max) {
        gathered->max = value;
        gathered->highest = head;
    }
    gathered->sum += value;
    gathered->count++;
}

double alert_gathered_value(const struct alert_gathered *gathered, const struct rule *rule)
{
    if (gathered->count == 0) {
        return NAN;
    }
    if (rule->statistic == RULE_MIN) {
        return gathered->min;
    }
    if (rule->statistic == RULE_MAX) {
        return gathered->max;
    }
    return gathered->sum / (double)gathered->count;
}

int32_t alert_gathered_worst(const struct alert_gathered *gathered, const struct rule *rule)
{
    if (gathered->count == 0 || gathered->min == gathered->max || !rule_is_of_heads(rule)) {
        return -1;
    }
    return (int32_t)(rule_is_worse_low(rule) ? gathered->lowest : gathered->highest);
}

/* Logits of healthy heads, sharp ones as well, spread by up to 10, and by up to 22 late in
 * trainings at high learning rates; those of saturated ones by 20 to 1000. */
#define SPREAD_SATURATED 24.0
/* The past that a head keeps changes by the factors and sums below in so many captures. */
#define CAPTURES_KEPT 16.0f
/* Heads that learn turn sharp with up to 6 times the spread they had before; heads that are
 * saturated at once with 22 times and more. */
#define SPREAD_JUMP 16.0f
/* The spread before grows twofold at most, and not in a capture with a jump; random matrices have
 * half of the least. */
#define SPREAD_GROWTH 2.0f
#define SPREAD_LEAST  0.125f
/* Where head_saturated is clear again, and where entropy_collapse fires. */
#define ENTROPY_SHARP     0.4
#define ENTROPY_COLLAPSED 0.25
/* The largest of these is at most 0.34 in heads that are saturated, and from 0.82 on in heads that
 * look at one key by their role. */
#define ROLE_CLEAR 0.7
static const enum metric role_metrics[] = {METRIC_PREVIOUS_TOKEN, METRIC_NEXT_TOKEN,
                                           METRIC_INDUCTION, METRIC_DUPLICATE_TOKEN};
/* Where logits are not known: below the entropy of healthy sharp heads but the sharpest. */
#define ENTROPY_SATURATED 0.1
/* Random matrices have half of it, and layers that a model does not need lose even that, slowly: a
 * head that had less is told only where next to nothing is left of it at once. */
#define FOCUS_LEARNED 0.06f
#define FOCUS_LEAST   0.01f
#define FOCUS_GONE    0.0025f
/* head_uniform fires where this is left of what was learned; the weight of what is left of so
 * little. */
#define FOCUS_LEFT  0.05f
#define FOCUS_DOUBT ((double)FOCUS_LEFT / (double)FOCUS_GONE)
/* Sinks of healthy heads leave more to the other keys, in most heads. */
#define SINK_TAKEN  0.9f
#define SINK_JUMP   0.4f
#define SINK_GROWTH 0.1f
#define SINK_LEAST  0.001f
/* A layer can have been left behind once another one has this. */
#define FOCUS_OF_OTHERS 0.1

static double saturated_entropy(double entropy, double spread)
{
    bool sharp = isnan(spread) ? entropy < ENTROPY_SATURATED : spread >= SPREAD_SATURATED;
    return isnan(entropy) || sharp ? entropy : 1;
}

/* `*before`, a number of a head before it changed at once, follows its number `now`: up to `most`,
 * and never below `least`, as 0 says that it is not known yet. */
static void follow(float *before, float now, float most, float least)
{
    if (!isnan(now)) {
        *before = fmaxf(least, *before > 0 ? fminf(now, most) : now);
    }
}

/* Whether a head is sharp with far more spread than before, which stays what it is then. `span`: of
 * CAPTURES_KEPT, here and below. */
static bool has_jumped(float *before, double entropy, float spread, float span)
{
    if (*before > 0 && entropy < ENTROPY_SHARP && spread > SPREAD_JUMP * *before) {
        return true;
    }
    follow(before, spread, powf(SPREAD_GROWTH, span) * *before, SPREAD_LEAST);
    return false;
}

static bool has_role(const struct summary_result *summary, uint32_t head)
{
    bool has = false;
    for (size_t i = 0; i < sizeof role_metrics / sizeof role_metrics[0]; i++) {
        has = has || mean_of(summary, role_metrics[i], head) >= ROLE_CLEAR;
    }
    return has;
}

/* One head that is sharp among others may have learned to align: only its logits tell, by their
 * size or their jump. Where the mean of the layer is sharp, entropy_collapse tells it once; where
 * most heads have jumped, the training has. A head with a role counts as one that is not sharp. */
static void put_saturated(struct alert_numbers *numbers, const struct summary_result *summary,
                          float span)
{
    uint32_t sharp = 0;
    double of_layer = 0;
    for (uint32_t h = 0; h < numbers->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        double entropy = has_role(summary, h) ? 1 : mean_of(summary, METRIC_ENTROPY_SANS_FIRST, h);
        double spread = mean_of(summary, METRIC_STD_LOGIT, h);
        bool jumped = has_jumped(&head->past.spread, entropy, (float)spread, span);
        head->saturated_entropy = saturated_entropy(entropy, spread);
        head->is_saturated = jumped || (!isnan(spread) && head->saturated_entropy < ENTROPY_SHARP);
        head->saturated_alone = isnan(spread) ? NAN : jumped ? entropy : head->saturated_entropy;
        sharp += head->saturated_alone < 1;
        of_layer += isnan(head->saturated_entropy) ? 1 : head->saturated_entropy;
    }
    bool is_layers = of_layer < ENTROPY_COLLAPSED * numbers->heads;
    bool most = 2 * sharp > numbers->heads;
    for (uint32_t h = 0; h < numbers->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        bool told = head->saturated_entropy < 1 ? is_layers : most;
        head->saturated_alone = told && !isnan(head->saturated_alone) ? 1 : head->saturated_alone;
    }
}

/* One capture is noise, and some heads come and go: `kept` is the largest that the running mean
 * had, and what is left is the running mean, or less where that is `kept` but for half of it, and
 * next to nothing is left at once, which the running mean does not follow then. Below FOCUS_LEARNED
 * `kept` halves, until the head is uniform at once. */
static double lost_focus(struct alert_past *past, double focus, float span)
{
    float now = (float)focus;
    bool learned = past->kept >= FOCUS_LEARNED;
    bool gone = now < (learned ? FOCUS_LEFT : FOCUS_GONE) * past->kept;
    if (isnan(focus)) {
        return NAN;
    }
    if (!gone || past->running < past->kept / 2) {
        past->running += (now - past->running) * fminf(1, span / 2);
        now = fmaxf(now, past->running);
    }
    if (learned) {
        past->kept = fmaxf(past->kept, past->running);
    } else if (!gone) {
        past->kept = fmaxf(past->kept * powf(2, -span), fminf(past->running, (float)focus));
    }
    if (past->kept < FOCUS_LEAST) {
        return NAN;
    }
    double left = (double)now / (double)past->kept;
    return fmax(0, fmin(1, 1 - (past->kept < FOCUS_LEARNED ? FOCUS_DOUBT : 1) * left));
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

/* The share that is left of the largest norm that the head's W_v W_o had; NaN where it is not
 * known, and where it is 0 for the first time, as some models begin: one that stays there is dead.
 */
static double written_of_before(struct alert_past *past, double norm)
{
    if (isnan(norm)) {
        return NAN;
    }
    bool begins = past->written == 0 && norm == 0;
    past->written = fmaxf(fmaxf(past->written, (float)norm), FLT_MIN);
    return begins ? NAN : norm / (double)past->written;
}

/* NaN unless both are known. */
static double twin(const struct summary_result *summary, uint32_t head)
{
    double q = mean_of(summary, METRIC_WQ_CORRELATION_MAX, head);
    double v = mean_of(summary, METRIC_WV_CORRELATION_MAX, head);
    return isnan(q) || isnan(v) ? NAN : fmin(q, v);
}

/* Whether a mask hides the next token from rows of the layer, by the smallest weight that a head's
 * rows give it: hidden from one of them it is 0 in all heads, however it is hidden: by a causal
 * flag, or by a mask that leaves prefixes or pictures open and hides the rest. A head of a layer
 * without a mask gives it something everywhere, a softmax knows no 0. Such masks are meant: a
 * missing one was lost where others of the same window have theirs, or where the layer had one. */
static enum alert_mask mask_of(const struct summary_result *summary)
{
    const struct result_stat *next = summary->stat[METRIC_NEXT_TOKEN];
    bool from_all = true, blurred = false;
    uint32_t known = 0;
    for (uint32_t h = 0; h < summary->heads && next; h++) {
        if (next[h].count == 0) {
            continue;
        }
        if (next[h].min > HIDDEN_WEIGHT) {
            return ALERT_MASK_NONE;
        }
        known++;
        from_all = from_all && next[h].max <= HIDDEN_WEIGHT;
        blurred = blurred || !(mean_of(summary, METRIC_ENTROPY_NORMALIZED, h) < ENTROPY_COLLAPSED);
    }
    /* Heads that are saturated round the weights of most keys to 0. */
    return known && (from_all || blurred) ? ALERT_MASK_HIDES : ALERT_MASK_UNKNOWN;
}

/* Whether a layer without a mask is the exception among these. Where as many layers are without one
 * as have one, but for a model of two, that is the model's design. */
static bool mask_is_lost(const struct alert_masks *masks)
{
    return masks->hides > masks->none || (masks->hides == 1 && masks->none == 1);
}

/* A layer that hid the next token so often and no more has lost its mask, also where all layers
 * share it; one that comes back is a design that varies, of which the past tells nothing. A capture
 * may have other data than the one before, a window hardly. A restart forgets the past. */
struct alert_mask_rule {
    uint32_t hid, open; /* at least: from the first one on; on end since then */
};
static const struct alert_mask_rule mask_of_windows = {4, 1}, mask_of_captures = {16, 4};

static bool mask_was_there(const struct alert_numbers *numbers, const struct alert_mask_rule *rule)
{
    return numbers->hid >= rule->hid && numbers->open >= rule->open;
}

/* Notes the layer's mask of this capture or window. */
static void take_mask(struct alerts *alerts, struct alert_numbers *numbers,
                      const struct summary_result *summary)
{
    bool decodes = summary->layer.id.stack == STACK_DECODER && summary->layer.id.site == SITE_SELF;
    numbers->mask_before = numbers->mask;
    numbers->mask = decodes ? mask_of(summary) : ALERT_MASK_UNKNOWN;
    alerts->masks_now.hides += numbers->mask == ALERT_MASK_HIDES;
    alerts->masks_now.none += numbers->mask == ALERT_MASK_NONE;
    if (numbers->mask == ALERT_MASK_HIDES) {
        numbers->hid = numbers->opened ? 0 : numbers->hid + 1;
        numbers->open = 0;
    } else if (numbers->mask == ALERT_MASK_NONE) {
        numbers->opened = true;
        numbers->open++;
    }
}

static double later_keys(const struct alert_numbers *numbers, const struct summary_result *summary,
                         bool lost)
{
    double most = NAN;
    for (uint32_t h = 0; h < summary->heads && lost && numbers->mask == ALERT_MASK_NONE; h++) {
        most = fmax(most, mean_of(summary, METRIC_NEXT_TOKEN, h));
    }
    return numbers->mask == ALERT_MASK_HIDES ? 0 : most;
}

/* Layers of a window come one by one: until most of them have, those of the window before tell. */
static bool mask_is_lost_so_far(const struct alerts *alerts, const struct alert_numbers *numbers)
{
    return mask_was_there(numbers, &mask_of_windows) ||
           alerts->masks_now.hides > alerts->masks_now.none ||
           (numbers->mask_before == ALERT_MASK_NONE && mask_is_lost(&alerts->masks));
}

/* The model's heads */

/* Whether the first token has taken all of a head at once: sinks that grow slowly, or that the
 * model came with, are usual. `*before` is what it had, at most SINK_GROWTH more, and stays what it
 * is then. */
static bool is_taken(float *before, float first, float span)
{
    if (*before > 0 && first > SINK_TAKEN && first > *before + SINK_JUMP) {
        return true;
    }
    follow(before, first, *before + SINK_GROWTH * span, SINK_LEAST);
    return false;
}

double alert_sink_share(const struct alerts *alerts)
{
    return alerts->sinkable > 0 ? (double)alerts->sinks / alerts->sinkable : NAN;
}

/* The order in which a forward pass comes to them. */
static bool is_earlier(struct layer_id one, struct layer_id other)
{
    if (one.stack != other.stack) {
        return one.stack == STACK_ENCODER;
    }
    return one.layer != other.layer ? one.layer < other.layer : one.site < other.site;
}

/* Shares of rows are fractions of small numbers. */
#define SAME_SHARE 1e-9

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

static void take_invalid(struct alert_numbers *numbers, const struct summary_result *summary)
{
    numbers->invalid = (struct alert_invalid){.head = -1};
    for (uint32_t h = 0; h < summary->heads; h++) {
        alert_invalid_add(&numbers->invalid, h,
                          summary->invalid_share ? summary->invalid_share[h] : NAN);
    }
}

/* Numbers of matrices, which only windows have. */
static int take_matrices(struct alert_numbers *numbers, const struct summary_result *summary)
{
    double *room = malloc((summary->heads + 1) * sizeof *room);
    uint32_t known = 0;
    if (!room) {
        return ERR_MEMORY;
    }
    for (uint32_t h = 0; h < summary->heads; h++) {
        room[known] = written_by(summary, h);
        known += isnan(room[known]) ? 0 : 1;
    }
    qsort(room, known, sizeof *room, compare_numbers);
    /* The median of those that are numbers, the lower one of two unless that is 0, as where one of
     * two heads is dead from the first step; NaN without any. */
    double median = known ? room[(known - 1) / 2] : NAN;
    median = median == 0 ? room[known / 2] : median;
    free(room);
    for (uint32_t h = 0; h < summary->heads; h++) {
        /* Where half of the heads are dead, or all of them, their own past tells. */
        double of_layer = median > 0 ? written_by(summary, h) / median : NAN;
        double norm = mean_of(summary, METRIC_WV_WO_SPECTRAL_NORM, h);
        numbers->head[h].written_share =
            fmin(of_layer, written_of_before(&numbers->head[h].past, norm));
        numbers->head[h].twin = twin(summary, h);
    }
    return 0;
}

static void take_rows(struct alerts *alerts, struct alert_numbers *numbers,
                      const struct summary_result *summary)
{
    const float span = (float)alerts->weight / CAPTURES_KEPT;
    double learned = NAN; /* the largest focus of heads that are not saturated */
    put_saturated(numbers, summary, span);
    numbers->focus = NAN;
    for (uint32_t h = 0; h < summary->heads; h++) {
        struct alert_head_numbers *head = &numbers->head[h];
        double focus = 1 - mean_of(summary, METRIC_ENTROPY_NORMALIZED, h);
        float first = (float)mean_of(summary, METRIC_FIRST_TOKEN, h);
        head->lost_focus = lost_focus(&head->past, focus, span);
        numbers->focus = fmax(numbers->focus, focus);
        learned = head->is_saturated ? learned : fmax(learned, focus);
        alerts->sinks += is_taken(&head->past.first, first, span);
        alerts->sinkable += isnan(first) ? 0 : 1;
    }
    alerts->focus_now = fmax(alerts->focus_now, learned);
    take_mask(alerts, numbers, summary);
    take_invalid(numbers, summary);
}

static double focus_share(const struct alert_numbers *numbers, double of_model)
{
    return of_model >= FOCUS_OF_OTHERS ? numbers->focus / of_model : NAN;
}

int alert_numbers_take(struct alerts *alerts, struct alert_layer *layer,
                       const struct summary_result *summary, enum alert_by by)
{
    if (alert_numbers_reserve(layer, summary->heads) != 0) {
        return ERR_MEMORY;
    }
    struct alert_numbers *numbers = layer->numbers;
    if (by != ALERTS_OF_WINDOWS) {
        take_rows(alerts, numbers, summary);
        layer->measured = alerts->captures;
    }
    if (by == ALERTS_OF_ALL) {
        /* Layers of the window before tell, until all of this one have come. */
        numbers->focus_share = focus_share(numbers, alerts->focus);
        numbers->later_keys = later_keys(numbers, summary, mask_is_lost_so_far(alerts, numbers));
    }
    alerts->taken = alerts->taken || by != ALERTS_OF_CAPTURES;
    return by == ALERTS_OF_CAPTURES ? 0 : take_matrices(numbers, summary);
}

void alert_numbers_compare(const struct alerts *alerts, struct alert_layer *layer,
                           const struct summary_result *summary)
{
    bool lost =
        mask_was_there(layer->numbers, &mask_of_captures) || mask_is_lost(&alerts->masks_now);
    layer->numbers->later_keys = later_keys(layer->numbers, summary, lost);
    layer->numbers->focus_share = focus_share(layer->numbers, alerts->focus_now);
}

void alert_numbers_begin(struct alerts *alerts)
{
    alerts->masks_now = (struct alert_masks){0};
    alerts->focus_now = 0;
    alerts->sinks = alerts->sinkable = 0;
    for (struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
        if (layer->numbers) {
            layer->numbers->invalid.heads = 0;
        }
    }
}

void alert_numbers_end(struct alerts *alerts, enum alert_by by)
{
    if (!alerts->taken) { /* losses alone were judged */
        return;
    }
    if (by == ALERTS_OF_ALL) {
        alerts->masks = alerts->masks_now;
        alerts->focus = alerts->focus_now;
        alerts->captures += alerts->weight;
        alert_numbers_begin(alerts);
    }
    alerts->windows++;
    alerts->taken = false;
}

/* Where rows became invalid */

void alert_invalid_add(struct alert_invalid *invalid, uint32_t head, double share)
{
    bool first = invalid->heads == 0 || isnan(invalid->most);
    invalid->heads = head < invalid->heads ? invalid->heads : head + 1;
    if (first || share > invalid->most + SAME_SHARE) {
        invalid->head = (int32_t)head;
        invalid->most = share;
    } else if (share >= invalid->most - SAME_SHARE && invalid->head != (int32_t)head) {
        invalid->head = -1;
    }
    invalid->least = first ? share : fmin(invalid->least, share);
}

static const struct alert_invalid *invalid_of(const struct alert_layer *layer)
{
    return layer->numbers && layer->numbers->invalid.heads > 0 ? &layer->numbers->invalid : NULL;
}

double alert_origin_value(struct alerts *alerts)
{
    /* One row that is invalid makes rows of all layers behind it invalid, more and more of them,
     * and from the next step on all rows everywhere. So it began in the first layer, by the order
     * of the forward pass, that has more invalid rows than the heads with the fewest; where all
     * have as many, no capture saw where. Heads of a layer that have as many cannot be told apart.
     */
    struct alert_origin found = {.share = NAN, .everywhere = true}; /* without a window */
    double least = INFINITY;
    uint32_t heads = 0;
    for (struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
        const struct alert_invalid *invalid = invalid_of(layer);
        if (invalid) {
            least = fmin(least, invalid->least);
            heads += invalid->heads;
            found.share = isnan(invalid->most) ? found.share : 0;
        }
    }
    for (struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
        const struct alert_invalid *invalid = invalid_of(layer);
        if (!invalid || !(invalid->most > 0)) {
            continue;
        }
        bool more = invalid->most > least + SAME_SHARE;
        bool first = found.share == 0 || is_earlier(layer->id, found.layer);
        if (more == found.everywhere ? more : first) {
            found = (struct alert_origin){layer->id, invalid->head, invalid->most, !more};
        }
    }
    found.everywhere = found.everywhere && heads > 1;
    if (alerts->origin.share == 0 && found.share > 0) {
        alerts->origin = found;
    }
    return found.share;
}
