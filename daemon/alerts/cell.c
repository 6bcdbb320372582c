/* SPDX-License-Identifier: MIT */
/* Each rule has a cell for what it judges by itself: a head, a layer, the run. A capture moves it,
 * or a window where windows alone have what the rule judges:
 *
 *            holds in `for` captures
 *      clear ------------------------> firing
 *        ^                               |
 *        +-------------------------------+
 *               back at `clear`
 *
 * A value between bound and `clear` changes nothing: a capture is one sample, and noise about the
 * bound would end each row of captures. Cells are made when a layer first has what a rule judges,
 * and are found by position: alerts have an array per rule and layer, and a hash of layers. */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t alert_layer_size(const struct alerts *alerts)
{
    return sizeof(struct alert_layer) + alerts->rule_count * sizeof(struct alert_cells);
}

struct alert_layer *alert_layer_get(struct alerts *alerts, struct layer_id id)
{
    uint32_t key = header_layer_key(id);
    struct alert_layer *layer = NULL;
    HASH_FIND(hh, alerts->layers, &key, sizeof key, layer);
    if (layer) {
        return layer;
    }
    layer = calloc(1, alert_layer_size(alerts));
    if (!layer) {
        return NULL;
    }
    layer->key = key;
    layer->id = id;
    HASH_ADD(hh, alerts->layers, key, sizeof layer->key, layer);
    if (!layer->hh.tbl) {
        free(layer);
        return NULL;
    }
    /* The rules that apply to the layer; the run is judged apart. */
    char name[LAYER_NAME_MAX];
    layer_name(layer->id, name);
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        layer->cells[i].applies =
            !rule_is_of_run(alerts->rules[i]) && fnmatch(alerts->rules[i]->layer, name, 0) == 0;
    }
    return layer;
}

void alert_cells_free(struct alert_cells *cells)
{
    free(cells->cell);
    free(cells->past);
    *cells = (struct alert_cells){
        .applies = cells->applies, .judged = cells->judged, .newest = cells->newest};
}

int alert_cells_get(struct alert_cells *cells, const struct rule *rule, uint32_t count)
{
    if (cells->count == count) {
        return 0;
    }
    alert_cells_free(cells);
    struct alert_cell *cell = calloc(count, sizeof *cell);
    bool rate = rule_is_rate(rule);
    double *past = rate ? calloc((size_t)count * rule->within, sizeof *past) : NULL;
    if (!cell || (rate && !past)) {
        free(cell);
        free(past);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        cell[i].well = ALERT_FROM_START;
    }
    cells->cell = cell;
    cells->past = past;
    cells->count = count;
    return 0;
}

static void free_layer_cells(struct alerts *alerts, struct alert_layer *layer)
{
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        alert_cells_free(&layer->cells[i]);
    }
}

void alerts_forget(struct alerts *alerts)
{
    struct alert_layer *layer, *next;
    HASH_ITER(hh, alerts->layers, layer, next)
    {
        HASH_DEL(alerts->layers, layer);
        free_layer_cells(alerts, layer);
        free(layer->numbers);
        free(layer);
    }
    free_layer_cells(alerts, alerts->whole);
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        alerts->whole->cells[i].judged = alerts->whole->cells[i].newest = 0;
    }
    memset(alerts->gathered, 0, sizeof alerts->gathered);
    alerts->origin = (struct alert_origin){.share = 0};
    alerts->taken = false;
    alerts->focus = alerts->focus_now = 0;
    alerts->sinks = alerts->sinkable = 0;
    alerts->masks = alerts->masks_now = (struct alert_masks){0};
    alerts->judged.any = alerts->windows_to.any = false;
    alerts->begun = ALERT_FROM_START;
    loss_init(&alerts->loss);
    alerts->told = alerts->held_back = alerts->windows = alerts->captures = 0;
}

/* Judging */

/* The number that the condition compares: the value, or its change; NaN while the earlier value is
 * unknown. */
static double compared(const struct rule *rule, struct alert_cells *cells, uint32_t index,
                       double value)
{
    struct alert_cell *cell = &cells->cell[index];
    if (!rule_is_rate(rule)) {
        return value;
    }
    double *past = cells->past + (size_t)index * rule->within;
    double then = cell->past_count == rule->within ? past[cell->past_next] : NAN;
    past[cell->past_next] = value;
    cell->past_next = (uint8_t)((cell->past_next + 1u) % rule->within);
    cell->past_count = (uint8_t)(cell->past_count + (cell->past_count < rule->within));
    double more = rule_is_worse_low(rule) ? then : value;
    double less = rule_is_worse_low(rule) ? value : then;
    if (rule_compares(rule) == RULE_RATIO) {
        return less > 0 ? more / less : NAN;
    }
    return more - less;
}

/* The loss is logged when the training likes, and matrices come when they do: as windows go. */
static bool is_of_windows(const struct rule *rule)
{
    return rule_is_of_windows(rule) || rule_is_of_loss(rule);
}

uint32_t alerts_clock(const struct alerts *alerts, const struct rule *rule)
{
    return is_of_windows(rule) ? alerts->windows : alerts->captures;
}

static uint32_t alerts_weight(const struct alerts *alerts, const struct rule *rule)
{
    return is_of_windows(rule) || rule_is_of_sketches(rule) ? 1 : alerts->weight;
}

static uint32_t alert_sum(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

void alert_cells_judge(const struct alerts *alerts, const struct rule *rule,
                       struct alert_cells *cells, uint32_t index, double value)
{
    struct alert_cell *cell = &cells->cell[index];
    double x = isnan(value) ? value : compared(rule, cells, index, value);
    bool below = rule_is_floor(rule);
    if (isnan(x)) {
        return;
    }
    const uint32_t clock = alerts_clock(alerts, rule), weight = alerts_weight(alerts, rule);
    if (cells->judged == 0 || cells->newest != clock) {
        cells->judged = alert_sum(cells->judged, weight);
        cells->newest = clock;
    }
    cell->value = x;
    if (below ? x < rule->bound : x > rule->bound) {
        if (!rule->after_clear || cell->armed) {
            if (cell->held == 0 && !cell->firing) {
                cell->passed = cell->well;
                cell->failed = alerts->newest.step;
                if (rule->metric == RULE_LOSS_RISEN && alerts->loss.ill != LOSS_NEVER) {
                    cell->passed = alerts->loss.well; /* it is known late that a loss stays up */
                    cell->failed = alerts->loss.ill;
                }
            }
            cell->held = alert_sum(cell->held, weight);
            cell->firing = cell->firing || cell->held >= rule->times;
        }
    } else {
        if (below ? x >= rule->clear : x <= rule->clear) {
            cell->held = 0;
            cell->armed = true;
            cell->firing = false;
        }
        cell->well = cell->firing ? cell->well : alerts->after;
    }
    cell->told = cell->told && !(cell->at_end && cell->firing); /* the run goes on: told anew */
    cell->at_end = false;
}

/* Older numbers pass no check: so many captures, or windows, as matrices come once an epoch, or
 * each 1000 steps; and captures of a layer. */
#define CAPTURES_NEWEST 4
#define WINDOWS_NEWEST  2
#define LAYERS_NEWEST   16

static bool could_fire(const struct alerts *alerts, uint32_t index, const struct alert_cells *cells)
{
    const struct rule *rule = alerts->rules[index];
    uint32_t most = alerts->weight > CAPTURES_NEWEST ? alerts->weight : CAPTURES_NEWEST;
    most = is_of_windows(rule) ? WINDOWS_NEWEST : most;
    return cells->judged >= rule->times && alerts_clock(alerts, rule) - cells->newest <= most;
}

bool alerts_has_judged(const struct alerts *alerts, uint32_t index)
{
    /* Silence is judged by the clock: it counts with the first window, whenever the clock ticks. */
    bool judged = alerts->rules[index]->metric == RULE_SILENCE
                      ? alerts->judged.any
                      : could_fire(alerts, index, &alerts->whole->cells[index]);
    for (struct alert_layer *layer = alerts->layers; layer && !judged; layer = layer->hh.next) {
        judged = could_fire(alerts, index, &layer->cells[index]);
    }
    return judged;
}

bool alerts_measured(const struct alerts *alerts, struct layer_id id, bool ended)
{
    uint32_t key = header_layer_key(id);
    const struct alert_layer *layer;
    HASH_FIND(hh, alerts->layers, &key, sizeof key, layer);
    uint32_t most = 2 * alerts->weight > LAYERS_NEWEST ? 2 * alerts->weight : LAYERS_NEWEST;
    if (!layer || !layer->numbers) {
        return !ended && alerts->captures <= most;
    }
    return alerts->captures - layer->measured <= most;
}
