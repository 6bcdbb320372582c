/* SPDX-License-Identifier: MIT */
/* A rule about heads has a cell per head in alerts.c, which says since when and whether it fires.
 * For rules about layers and the run the same is done here head by head, in cells that nobody is
 * told about. Beside each cell is what a level and a slope need of the last windows.
 *
 * Not the distance from a baseline: what is far from the beginning may be healthy, and what began
 * badly is not. Bounds of rules are where people have decided that something is wrong. */
#include "daemon/alerts/trouble_internal.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The constants of the definition, and TROUBLE_SLOPE_WINDOWS */
enum {
    HELD_WINDOWS = 3, /* one odd window is noise; as many as the slowest default rule waits for */
    SLOPE_LEAST = 3,  /* two points always fit a line */
};
#define AHEAD_WINDOWS 10.0  /* a bound farther away is nobody's concern yet */
#define FRACTION_MAX  0.99  /* keeps a score below the next severity */
#define NO_SOUND_ROW  0.995 /* worse than any number there is */
#define ORIGIN        0.999 /* and this made the others so */
#define BEYOND        0.5   /* where scores of heads that stay beyond a bound begin */
#define LISTED        0.1   /* heads with less are not worth naming */
/* The smallest changes that say something, where that is not the metric's resolution. */
#define RESOLUTION_JS     0.01 /* nats */
#define RESOLUTION_SHIFT  1.0  /* the unit that a shift counts in is a resolution already */
#define RESOLUTION_FACTOR 0.1
#define RESOLUTION_SHARE  0.01

bool trouble_counts(const struct rule *rule)
{
    return rule_is_of_heads(rule) || rule->metric == RULE_INVALID_SHARE;
}

/* Layers */

static size_t trouble_layer_size(const struct alerts *alerts)
{
    return sizeof(struct trouble_layer) + alerts->rule_count * sizeof(struct trouble_rule);
}

struct trouble_layer *trouble_find(const struct alerts *alerts, struct layer_id id)
{
    uint32_t key = alert_layer_pack(id);
    struct trouble_layer *layer = NULL;
    HASH_FIND(hh, alerts->trouble, &key, sizeof key, layer);
    return layer;
}

struct trouble_layer *trouble_get(struct alerts *alerts, struct layer_id id)
{
    struct trouble_layer *layer = trouble_find(alerts, id);
    if (layer) {
        return layer;
    }
    layer = calloc(1, trouble_layer_size(alerts));
    if (!layer) {
        return NULL;
    }
    layer->key = alert_layer_pack(id);
    HASH_ADD(hh, alerts->trouble, key, sizeof layer->key, layer);
    if (!layer->hh.tbl) {
        free(layer);
        return NULL;
    }
    return layer;
}

static void trouble_free_rule(struct trouble_rule *cells)
{
    free(cells->cell);
    cells->cell = NULL;
    cells->count = 0;
    alert_cells_free(&cells->own);
}

void trouble_set_newest(struct trouble_layer *layer, struct result_trouble *newest)
{
    free(layer->newest);
    layer->newest = newest;
}

void trouble_forget(struct alerts *alerts, struct trouble_layer *layer)
{
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        trouble_free_rule(&layer->rules[i]);
    }
}

void trouble_end(struct alerts *alerts)
{
    for (struct trouble_layer *layer = alerts->trouble; layer; layer = layer->hh.next) {
        trouble_forget(alerts, layer);
    }
}

void trouble_free(struct alerts *alerts)
{
    struct trouble_layer *layer, *next;
    trouble_end(alerts);
    HASH_ITER(hh, alerts->trouble, layer, next)
    {
        HASH_DEL(alerts->trouble, layer);
        trouble_set_newest(layer, NULL);
        free(layer);
    }
}

const struct result_trouble *trouble_newest(const struct alerts *alerts, struct layer_id id)
{
    const struct trouble_layer *layer = trouble_find(alerts, id);
    return layer ? layer->newest : NULL;
}

uint32_t trouble_each(const struct alerts *alerts,
                      void (*visit)(void *data, struct layer_id id,
                                    const struct result_trouble *trouble),
                      void *data)
{
    uint32_t count = 0;
    for (const struct trouble_layer *layer = alerts->trouble; layer; layer = layer->hh.next) {
        if (layer->newest) {
            visit(data, alert_layer_unpack(layer->key), layer->newest);
            count++;
        }
    }
    return count;
}

int trouble_reserve(struct trouble_rule *cells, const struct rule *rule, uint32_t heads)
{
    if (cells->count != heads) {
        trouble_free_rule(cells);
        cells->cell = calloc(heads, sizeof *cells->cell);
        if (!cells->cell) {
            return ERR_MEMORY;
        }
        cells->count = heads;
    }
    return rule->each == RULE_EACH_HEAD ? 0 : alert_cells_get(&cells->own, rule, heads);
}

/* Levels */

/* A rule's numbers, turned so that more is worse. */
struct trouble_scale {
    double sign;
    double clear, bound, end; /* end: INFINITY where there is none */
    double unit;              /* of the distance beyond a bound without an end behind it */
    double resolution;
};

static double trouble_resolution(const struct rule *rule, const struct summary_result *summary)
{
    uint32_t keys = summary->layer.shape[3];
    double metric =
        rule->metric < METRIC_COUNT ? metric_info[rule->metric].resolution : RESOLUTION_SHARE;
    if (rule->condition == RULE_GROWS_BY) {
        return RESOLUTION_FACTOR;
    }
    if (rule->statistic == RULE_JS) {
        return RESOLUTION_JS;
    }
    if (rule->statistic > RULE_DELTA) {
        return RESOLUTION_SHIFT;
    }
    return rule->per_key && keys ? metric / keys : metric;
}

static struct trouble_scale trouble_scale(const struct rule *rule,
                                          const struct summary_result *summary)
{
    bool below = rule->condition == RULE_BELOW;
    double minimum, maximum, sign = below ? -1 : 1;
    rule_values(rule, &minimum, &maximum);
    double end = below ? -minimum : maximum;
    if (rule->condition == RULE_FALLS_BY || rule->condition == RULE_RISES_BY) {
        end = maximum - minimum;
    } else if (rule->condition == RULE_GROWS_BY) {
        end = INFINITY;
    }
    struct trouble_scale scale = {.sign = sign,
                                  .clear = sign * rule->clear,
                                  .bound = sign * rule->bound,
                                  .end = end,
                                  .resolution = trouble_resolution(rule, summary)};
    double gap = scale.bound - scale.clear;
    scale.unit = gap > 0 ? gap : scale.resolution;
    return scale;
}

static bool trouble_is_beyond(const struct trouble_scale *scale, double x)
{
    return scale->sign * x > scale->bound;
}

static double trouble_level(const struct trouble_scale *scale, double x)
{
    double y = scale->sign * x, beyond = y - scale->bound, room = scale->end - scale->bound;
    if (beyond > 0 && isfinite(room) && room > 0) {
        return 1 + fmin(beyond / room, 1);
    }
    if (beyond > 0) {
        return isinf(beyond) ? 2 : 1 + beyond / (beyond + scale->unit);
    }
    return y > scale->clear ? (y - scale->clear) / (scale->bound - scale->clear) : 0;
}

/* Per window, by least squares; NaN when there are too few. */
static double trouble_slope(const struct trouble_cell *cell)
{
    double n = cell->count, middle = (n - 1) / 2, sum = 0, squares = 0;
    if (cell->count < SLOPE_LEAST) {
        return NAN;
    }
    for (int i = 0; i < cell->count; i++) {
        double t = middle - i; /* the newest is first */
        sum += t * cell->past[i];
        squares += t * t;
    }
    return sum / squares;
}

/* Windows to the bound; NaN when it is not under way to it. */
static double trouble_eta(const struct trouble_scale *scale, const struct trouble_cell *cell,
                          double slope)
{
    double speed = scale->sign * slope;
    bool moves = isfinite(speed) && speed * (cell->count - 1) > scale->resolution;
    double way = scale->bound - scale->sign * cell->past[0];
    return moves && way >= 0 ? way / speed : NAN;
}

/* Scores */

struct trouble_found {
    double score;
    enum trouble_state state;
};

/* By one rule, which fires for the head's layer, or for the run, or not. */
static struct trouble_found trouble_weigh(const struct rule *rule,
                                          const struct trouble_scale *scale,
                                          const struct trouble_cell *cell,
                                          const struct alert_cell *own, bool fires)
{
    bool of_head = rule->each == RULE_EACH_HEAD, any = cell->count > 0, stays = any;
    double held = any ? INFINITY : 0;
    if (rule->after_clear && !own->armed) {
        return (struct trouble_found){0, TROUBLE_APPROACHING};
    }
    for (int i = 0; i < cell->count && i < HELD_WINDOWS; i++) {
        held = fmin(held, trouble_level(scale, cell->past[i]));
        stays = stays && trouble_is_beyond(scale, cell->past[i]);
    }
    if (of_head ? own->firing : fires && any && trouble_is_beyond(scale, cell->past[0])) {
        bool none = rule->metric == RULE_INVALID_SHARE && own->value >= 1;
        double fraction = none ? NO_SOUND_ROW : fmin(FRACTION_MAX, fmax(held - 1, 0));
        return (struct trouble_found){1 + rule->severity + fraction, TROUBLE_FIRING};
    }
    if (!any) {
        return (struct trouble_found){0, TROUBLE_APPROACHING};
    }
    if (!of_head && stays) {
        return (struct trouble_found){BEYOND + (1 - BEYOND) * fmin(FRACTION_MAX, held - 1),
                                      TROUBLE_BEYOND};
    }
    double eta = trouble_eta(scale, cell, trouble_slope(cell));
    double approach = fmin(trouble_level(scale, cell->past[0]), 1);
    if (!isnan(eta)) {
        approach = fmax(approach, 1 - eta / AHEAD_WINDOWS);
    }
    return (struct trouble_found){BEYOND * fmin(FRACTION_MAX, approach), TROUBLE_APPROACHING};
}

/* One more window of a head that has a number in it. */
static void trouble_push(struct trouble_cell *cell, double x)
{
    memmove(cell->past + 1, cell->past, sizeof cell->past - sizeof cell->past[0]);
    cell->past[0] = x;
    cell->count = (uint8_t)(cell->count + (cell->count < TROUBLE_SLOPE_WINDOWS));
}

/* Since when, and for how many windows. */
static void trouble_age(const struct alerts *alerts, struct trouble_cell *cell,
                        const struct alert_cell *own, double score)
{
    enum trouble_mode mode = own->held > 0 || own->firing ? TROUBLE_MODE_OUTSIDE
                             : score >= LISTED            ? TROUBLE_MODE_UNDER_WAY
                                                          : TROUBLE_MODE_NONE;
    if (mode != cell->mode) {
        cell->since_epoch = alerts->newest.epoch;
        cell->since_step = alerts->newest.step;
        cell->windows = 0;
    }
    cell->mode = (uint8_t)mode;
    cell->windows += cell->windows < UINT32_MAX;
}

/* A head for which a rule has a cell, since its condition holds. */
static struct trouble_head trouble_head_of(const struct rule *rule, const struct alert_cell *own,
                                           uint32_t head, const struct trouble_found *found)
{
    return (struct trouble_head){
        .head = head,
        .score = found->score,
        .state = found->state,
        .severity = (enum alert_severity)rule->severity,
        .rule = rule->name,
        .metric = rule_metric_name(rule->metric),
        .statistic = rule_statistic_name(rule->statistic),
        .condition = rule_condition_name(rule->condition),
        .value = own->value,
        .bound = rule->bound,
        .slope = NAN,
        .eta = NAN,
        .since_epoch = own->since_epoch,
        .since_step = own->since_step,
        .windows = own->held,
    };
}

static void trouble_describe(const struct rule *rule, const struct trouble_scale *scale,
                             const struct trouble_cell *cell, const struct alert_cell *own,
                             uint32_t head, const struct trouble_found *found,
                             struct trouble_head *ret_head)
{
    *ret_head = trouble_head_of(rule, own, head, found);
    ret_head->slope = trouble_slope(cell);
    ret_head->eta = trouble_eta(scale, cell, ret_head->slope);
    ret_head->since_epoch = cell->since_epoch;
    ret_head->since_step = cell->since_step;
    ret_head->windows = cell->windows;
}

/* Rules come in their order, which says more of two that fire and are as severe. */
static bool trouble_is_worse(const struct trouble_found *found, const struct trouble_head *worst)
{
    bool both = found->state == TROUBLE_FIRING && worst->score >= 1;
    return both ? floor(found->score) > floor(worst->score) : found->score > worst->score;
}

/* Moves the cells of one rule, and notes where it is the worst so far. */
static int trouble_judge(struct alerts *alerts, uint32_t index, struct alert_layer *judged,
                         struct trouble_rule *cells, const struct summary_result *summary,
                         struct trouble_head *worst)
{
    const struct rule *rule = alerts->rules[index];
    const struct trouble_scale scale = trouble_scale(rule, summary);
    const struct alert_cells *place =
        rule->each == RULE_EACH_RUN ? &alerts->whole->cells[index] : &judged->cells[index];
    bool of_head = rule->each == RULE_EACH_HEAD, has = alert_has(summary, rule);
    bool fires = !of_head && place->count > 0 && place->cell[0].firing;
    int code = has ? trouble_reserve(cells, rule, summary->heads) : 0;
    const struct alert_cells *by_head = of_head ? place : &cells->own;
    if (code || cells->count != summary->heads || by_head->count != summary->heads) {
        return code;
    }
    for (uint32_t h = 0; h < summary->heads; h++) {
        struct trouble_cell *cell = &cells->cell[h];
        const struct alert_cell *own = &by_head->cell[h];
        if (has && !of_head) {
            alert_cells_judge(alerts, rule, &cells->own, h,
                              alert_head_value(judged, summary, rule, h));
        }
        bool fresh = has && own->fresh;
        if (fresh) {
            trouble_push(cell, own->value);
        }
        struct trouble_found found = trouble_weigh(rule, &scale, cell, own, fires);
        if (fresh) {
            trouble_age(alerts, cell, own, found.score);
        }
        if (trouble_is_worse(&found, &worst[h])) {
            trouble_describe(rule, &scale, cell, own, h, &found, &worst[h]);
        }
    }
    return 0;
}

/* The head in which rows became invalid first is worse than all others. */
static void trouble_note_origin(const struct alerts *alerts, struct layer_id id,
                                struct trouble_head *worst, uint32_t heads)
{
    const struct alert_origin *origin = &alerts->origin;
    bool here = origin->share > 0 && !origin->everywhere && origin->head >= 0 &&
                (uint32_t)origin->head < heads &&
                alert_layer_pack(origin->layer) == alert_layer_pack(id);
    for (uint32_t i = 0; i < alerts->rule_count && here; i++) {
        const struct rule *rule = alerts->rules[i];
        const struct alert_cells *cells = &alerts->whole->cells[i];
        if (rule->metric == RULE_INVALID_ORIGIN && cells->count > 0 && cells->cell[0].firing) {
            const struct trouble_found found = {1 + rule->severity + ORIGIN, TROUBLE_FIRING};
            worst[origin->head] =
                trouble_head_of(rule, cells->cell, (uint32_t)origin->head, &found);
        }
    }
}

static int trouble_compare(const void *a, const void *b)
{
    const struct trouble_head *one = a, *other = b;
    if (one->score != other->score) {
        return one->score > other->score ? -1 : 1;
    }
    return one->head < other->head ? -1 : one->head > other->head;
}

/* One block with the scores of all heads and those that are worth naming; NULL when out of memory.
 */
static struct result_trouble *trouble_list(const struct summary_result *summary,
                                           const struct trouble_head *worst)
{
    uint32_t count = 0;
    for (uint32_t h = 0; h < summary->heads; h++) {
        count += worst[h].score >= LISTED;
    }
    size_t bytes = sizeof(struct result_trouble) + summary->heads * sizeof(double) +
                   count * sizeof(struct trouble_head);
    struct result_trouble *list = malloc(bytes);
    if (!list) {
        return NULL;
    }
    double *score = (double *)(list + 1);
    struct trouble_head *named = (struct trouble_head *)(score + summary->heads);
    *list = (struct result_trouble){.epoch = summary->common.epoch,
                                    .step = summary->common.step,
                                    .heads = summary->heads,
                                    .score = score,
                                    .worst = named,
                                    .count = count};
    for (uint32_t h = 0, i = 0; h < summary->heads; h++) {
        score[h] = worst[h].score;
        if (score[h] >= LISTED) {
            named[i++] = worst[h];
        }
    }
    qsort(named, count, sizeof *named, trouble_compare);
    return list;
}

int trouble_layer(struct alerts *alerts, const struct summary_result *summary,
                  const struct result_trouble **ret_trouble)
{
    struct alert_layer *judged = alert_layer_get(alerts, summary->layer.id);
    struct trouble_layer *layer = trouble_get(alerts, summary->layer.id);
    struct trouble_head *worst = calloc(summary->heads + 1, sizeof *worst);
    struct result_trouble *list = NULL;
    int code = judged && layer && worst ? 0 : ERR_MEMORY;
    for (uint32_t i = 0; i < alerts->rule_count && !code; i++) {
        if (trouble_counts(alerts->rules[i]) && judged->cells[i].applies) {
            code = trouble_judge(alerts, i, judged, &layer->rules[i], summary, worst);
        }
    }
    if (!code) {
        trouble_note_origin(alerts, summary->layer.id, worst, summary->heads);
        list = trouble_list(summary, worst);
        code = list ? 0 : ERR_MEMORY;
    }
    if (!code) {
        trouble_set_newest(layer, list);
        *ret_trouble = list;
    }
    free(worst);
    return code;
}
