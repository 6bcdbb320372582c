/* SPDX-License-Identifier: MIT */
/* A capture or window moves the cells of its layers' rules. A cell fires or not whatever was told
 * of it; what was told follows as soon as alerts.per_window allows, so a burst neither floods
 * anybody nor leaves an alert open for ever that was told and is over. */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <assert.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct alerts *alerts_new(const struct config *config, const char *job)
{
    struct alerts *alerts = calloc(1, sizeof *alerts);
    if (!alerts) {
        return NULL;
    }
    for (uint32_t i = 0; i < config_rule_count(config) && config->alerts_enabled; i++) {
        const struct rule *rule = config_rule(config, i);
        if (rule->enabled && fnmatch(rule->job, job, 0) == 0) {
            alerts->rules[alerts->rule_count++] = rule;
        }
    }
    alerts->whole = calloc(1, alert_layer_size(alerts));
    if (!alerts->whole) {
        free(alerts);
        return NULL;
    }
    snprintf(alerts->job, sizeof alerts->job, "%s", job);
    alerts->newest = (struct result_common){.job = alerts->job, .run = alerts->run};
    alerts->per_window = (uint32_t)config->alerts_per_window;
    loss_init(&alerts->loss);
    alert_view_init(&alerts->view, alerts->rules, alerts->rule_count);
    alerts->begun = ALERT_FROM_START;
    alerts->weight = 1;
    return alerts;
}

void alerts_free(struct alerts **alerts)
{
    if (!*alerts) {
        return;
    }
    alerts_forget(*alerts);
    alert_view_clear(&(*alerts)->view);
    free((*alerts)->whole);
    free(*alerts);
    *alerts = NULL;
}

/* Telling */

static enum alert_severity alerts_severity(const struct rule *rule, const struct alert_cell *cell)
{
    enum alert_severity severity = (enum alert_severity)rule->severity;
    return cell->doubtful && severity > ALERT_WARNING ? ALERT_WARNING : severity;
}

static void tell(const struct alerts *alerts, const struct rule *rule,
                 const struct alert_cells *cells, uint32_t index, const struct alert_place *place,
                 enum alert_state state, const struct alert_sink *sink)
{
    const struct alert_cell *cell = &cells->cell[index];
    char message[ALERT_MESSAGE_MAX];
    struct alert_result event = {
        .common = alerts->newest,
        .rule = rule->name,
        .severity = alerts_severity(rule, cell),
        .state = state,
        .metric = rule_metric_name(rule->metric),
        .has_layer = place->has_layer,
        .layer = place->layer,
        .head = place->head,
        .value = cell->value,
        .bound = rule->bound,
        .since_after = cell->passed,
        .since_step = cell->failed,
        .message = message,
        .why = rule_why(rule->name, rule_metric_name(rule->metric)),
        .advice = rule_advice(rule->name, rule_metric_name(rule->metric)),
    };
    if (rule->metric == RULE_LOST_SHARE && alerts->other_heads && state != ALERT_RESOLVED) {
        event.why = "a layer has another number of heads than before, as after heads were removed";
        event.advice = "A layer has one number of heads in a run. End the watch and begin another, "
                       "which is another run.";
    } else if (rule->metric == RULE_INVALID_ORIGIN && state != ALERT_RESOLVED) {
        event.value = alerts->origin.share;
    }
    alert_sentence(alerts, rule, cells, index, place, state, message);
    sink->event(sink->data, &event);
}

/* Judging */

static void judge_and_tell(struct alerts *alerts, const struct rule *rule,
                           struct alert_cells *cells, uint32_t index,
                           const struct alert_place *place, double value,
                           const struct alert_sink *sink)
{
    struct alert_cell *cell = &cells->cell[index];
    alert_cells_judge(alerts, rule, cells, index, value);
    /* Tells what has changed since it was last told, or holds it back. */
    if (cell->firing == cell->told) {
        cell->held_back = false;
        return;
    }
    if (alerts->told >= alerts->per_window) {
        alerts->held_back += !cell->held_back;
        cell->held_back = true;
        return;
    }
    tell(alerts, rule, cells, index, place, cell->firing ? ALERT_FIRING : ALERT_RESOLVED, sink);
    cell->told = cell->firing;
    cell->held_back = false;
    alerts->told++;
}

/* Captures and windows */

/* A window counts as many captures as messages came from each rank, at most: else one of an epoch
 * would make all of its own past forgotten. */
#define WEIGHT_MAX 64

static void alerts_note(struct alerts *alerts, const struct result_common *common)
{
    memcpy(alerts->run, common->run, RUN_BYTES);
    alerts->newest.epoch = common->epoch;
    alerts->newest.step = common->step;
    alerts->newest.time_ns = common->time_ns;
}

static void alerts_gather(struct alert_gathered *gathered, const struct rule *rule,
                          const struct alert_layer *layer, const struct summary_result *summary)
{
    bool of_heads = rule_is_of_heads(rule);
    if (!of_heads) {
        alert_gather(gathered, 0, alert_layer_value(layer, summary, rule));
    }
    for (uint32_t h = 0; h < summary->heads && of_heads; h++) {
        alert_gather(gathered, h, alert_head_value(layer, summary, rule, h));
    }
}

static int alerts_judge_layer(struct alerts *alerts, uint32_t index, struct alert_layer *layer,
                              const struct summary_result *summary, const struct alert_sink *sink)
{
    const struct rule *rule = alerts->rules[index];
    struct alert_cells *cells = &layer->cells[index];
    struct alert_place place = {true, summary->layer.id, -1};
    struct alert_gathered gathered = {0};
    int code = alert_cells_get(cells, rule, 1);
    if (code) {
        return code;
    }
    alerts_gather(&gathered, rule, layer, summary);
    cells->cell[0].doubtful = alert_is_doubtful(summary, rule);
    cells->cell[0].worst = rule->metric == RULE_RANK_DISTANCE
                               ? (int32_t)summary->odd_rank
                               : alert_gathered_worst(&gathered, rule);
    judge_and_tell(alerts, rule, cells, 0, &place, alert_gathered_value(&gathered, rule), sink);
    return 0;
}

/* Whether it is judged by what comes now. */
static bool alerts_is_judged(const struct rule *rule, enum alert_by by)
{
    return !rule_is_of_sketches(rule) && !rule_is_of_loss(rule) && rule->metric != RULE_SILENCE &&
           (by == ALERTS_OF_ALL || rule_is_of_windows(rule) == (by == ALERTS_OF_WINDOWS));
}

/* By all rules that judge heads or layers, or gather them for the run. */
static int alerts_judge(struct alerts *alerts, struct alert_layer *layer,
                        const struct summary_result *summary, enum alert_by by,
                        const struct alert_sink *sink)
{
    int result = 0;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        const struct rule *rule = alerts->rules[i];
        int code = 0;
        if (!layer->cells[i].applies || !alerts_is_judged(rule, by) || !alert_has(summary, rule)) {
            continue;
        }
        if (rule->each == RULE_EACH_RUN) {
            alerts_gather(&alerts->gathered[i], rule, layer, summary);
        } else if (rule->each == RULE_EACH_LAYER) {
            code = alerts_judge_layer(alerts, i, layer, summary, sink);
        } else {
            struct alert_cells *cells = &layer->cells[i];
            bool doubtful = alert_is_doubtful(summary, rule);
            code = alert_cells_get(cells, rule, summary->heads);
            for (uint32_t h = 0; h < summary->heads && !code; h++) {
                struct alert_place place = {true, summary->layer.id, (int32_t)h};
                double value = alert_head_value(layer, summary, rule, h);
                cells->cell[h].doubtful = doubtful;
                judge_and_tell(alerts, rule, cells, h, &place, value, sink);
            }
        }
        result = result ? result : code;
    }
    return result;
}

/* Up to where all was well if this window passes: a fault that was there in its first capture would
 * have failed it, and that came after the end of the newest window that does not overlap. */
static void alerts_note_window(struct alerts *alerts, const struct summary_result *summary)
{
    uint64_t begun = alerts->begun == ALERT_FROM_START ? 0 : alerts->begun;
    if (!alerts->windows_to.any || summary->window.first > alerts->windows_to.last) {
        alerts->windows_to.after = alerts->windows_to.any ? alerts->windows_to.step : begun;
        alerts->windows_to.any = true;
        alerts->windows_to.last = summary->window.last;
        alerts->windows_to.epoch = summary->common.epoch;
        alerts->windows_to.step = summary->common.step;
    }
    alerts->after = alerts->windows_to.after;
}

static void alerts_note_judged(struct alerts *alerts, const struct result_common *common)
{
    alerts->judged = (struct alert_judged){true, common->epoch, common->step};
}

int alerts_layer(struct alerts *alerts, const struct summary_result *summary, enum alert_by by,
                 const struct alert_sink *sink)
{
    uint64_t captures = summary->ranks ? summary->messages / summary->ranks : 0;
    assert(by != ALERTS_OF_CAPTURES);
    alerts_note(alerts, &summary->common);
    alerts_note_window(alerts, summary);
    if (by == ALERTS_OF_ALL) {
        alerts->weight =
            captures > 1 ? (uint32_t)(captures < WEIGHT_MAX ? captures : WEIGHT_MAX) : 1;
        alerts_note_judged(alerts, &summary->common);
    }
    if (alerts->rule_count == 0) {
        return 0;
    }
    struct alert_layer *layer = alert_layer_get(alerts, summary->layer.id);
    int code = layer ? alert_numbers_take(alerts, layer, summary, by) : ERR_MEMORY;
    int judged = layer && layer->numbers ? alerts_judge(alerts, layer, summary, by, sink) : 0;
    return code ? code : judged;
}

/* The share of messages that were lost or dropped. */
static double run_lost_share(struct alerts *alerts, const struct alert_run *run)
{
    double away = (double)run->lost + (double)run->dropped, all = away + (double)run->processed;
    alerts->other_heads = away > 0 ? (double)run->other_heads > away / 2 : alerts->other_heads;
    return all > 0 ? away / all : NAN;
}

static double run_value(struct alerts *alerts, uint32_t index)
{
    if (alerts->rules[index]->metric == RULE_INVALID_ORIGIN) {
        return alert_origin_value(alerts);
    }
    if (alerts->rules[index]->metric == RULE_SINK_SHARE) {
        return alert_sink_share(alerts);
    }
    return alert_gathered_value(&alerts->gathered[index], alerts->rules[index]);
}

/* Where a rule about the run has found something. */
static struct alert_place alerts_run_place(const struct alerts *alerts, const struct rule *rule)
{
    const struct alert_origin *origin = &alerts->origin;
    if (rule->metric != RULE_INVALID_ORIGIN || origin->share == 0 || origin->everywhere) {
        return (struct alert_place){.head = -1};
    }
    return (struct alert_place){true, origin->layer, origin->head};
}

/* A rule about the run. */
static int alerts_judge_run(struct alerts *alerts, uint32_t index, double value,
                            const struct alert_sink *sink)
{
    const struct rule *rule = alerts->rules[index];
    const struct alert_place place = alerts_run_place(alerts, rule);
    struct alert_cells *cells = &alerts->whole->cells[index];
    int code = alert_cells_get(cells, rule, 1);
    if (!code) {
        judge_and_tell(alerts, rule, cells, 0, &place, value, sink);
    }
    if (rule->metric == RULE_INVALID_ORIGIN && value == 0) {
        alerts->origin = (struct alert_origin){.share = 0};
    }
    return code;
}

/* By the rules about the run, of which all layers have been taken. */
static int alerts_judge_runs(struct alerts *alerts, enum alert_by by, const struct alert_sink *sink)
{
    int result = 0;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        const struct rule *rule = alerts->rules[i];
        if (rule->each != RULE_EACH_RUN || rule->metric == RULE_LOST_SHARE ||
            !alerts_is_judged(rule, by)) {
            continue;
        }
        int code = alerts_judge_run(alerts, i, run_value(alerts, i), sink);
        result = result ? result : code;
        alerts->gathered[i] = (struct alert_gathered){0};
    }
    return result;
}

int alerts_run(struct alerts *alerts, const struct alert_run *run, const struct alert_sink *sink)
{
    int result = 0;
    if (alerts->windows_to.any) { /* which ended before */
        struct result_common window = run->common;
        window.epoch = alerts->windows_to.epoch;
        window.step = alerts->windows_to.step;
        alerts_note(alerts, &window);
        alerts->after = alerts->windows_to.after;
        result = alerts_judge_runs(alerts, run->by, sink);
    }
    alerts_note(alerts, &run->common);
    alerts->after = run->common.step;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        bool of_messages = alerts->rules[i]->metric == RULE_LOST_SHARE;
        /* Alerts of the loss that were held back are told now. */
        if (of_messages || rule_is_of_loss(alerts->rules[i])) {
            int code =
                alerts_judge_run(alerts, i, of_messages ? run_lost_share(alerts, run) : NAN, sink);
            result = result ? result : code;
        }
    }
    alert_numbers_end(alerts, run->by);
    if (alerts->held_back) {
        sink->overflow(sink->data, alerts->held_back);
    }
    alerts->told = alerts->held_back = 0;
    return result;
}

/* Captures */

void alerts_want_extremes(const struct alerts *alerts, struct captures *captures)
{
    captures_want_extremes(captures, METRIC_NEXT_TOKEN); /* masks, too */
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        const struct rule *rule = alerts->rules[i];
        bool extreme = rule->statistic == RULE_MIN || rule->statistic == RULE_MAX;
        if (extreme && rule->metric < METRIC_MATRIX_FIRST) {
            captures_want_extremes(captures, (enum metric)rule->metric);
        }
    }
}

int alerts_capture(struct alerts *alerts, const struct result_common *common,
                   const struct capture *capture, const struct alert_sink *sink)
{
    int result = 0;
    alerts_note(alerts, common);
    alerts_note_judged(alerts, common);
    alerts->after = common->step;
    alerts->begun = alerts->begun == ALERT_FROM_START ? common->step : alerts->begun;
    alerts->weight = 1;
    alert_numbers_begin(alerts);
    /* Layers are compared with each other: first all are taken, then each is judged. */
    for (uint32_t i = 0; i < 2 * capture->layer_count && alerts->rule_count > 0; i++) {
        bool judges = i >= capture->layer_count;
        const struct capture_layer *captured =
            capture_find_layer(capture, i % capture->layer_count);
        struct alert_layer *layer = captured ? alert_layer_get(alerts, captured->id) : NULL;
        int code = captured && !layer ? ERR_MEMORY : 0;
        if (layer && !code) {
            code = alert_view_fill(&alerts->view, common, captured);
        }
        if (layer && !code && !judges) {
            code = alert_numbers_take(alerts, layer, &alerts->view.summary, ALERTS_OF_CAPTURES);
        } else if (layer && !code && layer->numbers) {
            alert_numbers_compare(alerts, layer, &alerts->view.summary);
            code = alerts_judge(alerts, layer, &alerts->view.summary, ALERTS_OF_CAPTURES, sink);
        }
        result = result ? result : code;
    }
    int code = alerts_judge_runs(alerts, ALERTS_OF_CAPTURES, sink);
    alerts->captures++;
    return result ? result : code;
}

/* Sketches */

/* By one rule. A head of which nothing tells is as it was. */
static int alerts_judge_sketch(struct alerts *alerts, uint32_t index, struct alert_layer *layer,
                               const struct sketch_judged *sketch, const struct alert_sink *sink)
{
    const struct rule *rule = alerts->rules[index];
    struct alert_cells *cells = &layer->cells[index];
    uint32_t fault = rule->metric - RULE_WEIGHTS_INVALID;
    bool of_layer = rule->metric == RULE_RANKS_APART, by_head = rule->each == RULE_EACH_HEAD;
    const double *value = of_layer ? &sketch->apart : sketch->fault[fault];
    struct alert_gathered all = {0};
    for (uint32_t h = 0; h < (of_layer ? 1 : sketch->heads); h++) {
        alert_gather(&all, h, value[h]);
    }
    int code = alert_cells_get(cells, rule, by_head ? sketch->heads : 1);
    if (code || all.count == 0) {
        return code;
    }
    cells->judged += cells->judged < UINT32_MAX; /* captures */
    cells->newest = alerts->captures;
    for (uint32_t i = 0; i < cells->count; i++) {
        struct alert_place place = {true, layer->id, by_head ? (int32_t)i : -1};
        cells->cell[i].worst =
            by_head ? sketch->matrix[fault][i] : alert_gathered_worst(&all, rule);
        judge_and_tell(alerts, rule, cells, i, &place,
                       by_head ? value[i] : alert_gathered_value(&all, rule), sink);
    }
    return 0;
}

int alerts_sketch(struct alerts *alerts, const struct result_common *common, struct layer_id id,
                  const struct sketch_judged *sketch, const struct alert_sink *sink)
{
    int result = 0;
    struct alert_layer *layer = alerts->rule_count ? alert_layer_get(alerts, id) : NULL;
    if (alerts->rule_count == 0) {
        return 0;
    }
    const struct result_common window = alerts->newest; /* of what the others say */
    alerts_note(alerts, common);
    alerts->after = common->step;
    for (uint32_t i = 0; layer && i < alerts->rule_count; i++) {
        if (layer->cells[i].applies && rule_is_of_sketches(alerts->rules[i])) {
            int code = alerts_judge_sketch(alerts, i, layer, sketch, sink);
            result = result ? result : code;
        }
    }
    alerts->newest = window;
    return layer ? result : ERR_MEMORY;
}

int alerts_log(struct alerts *alerts, const struct log_result *log, uint32_t rank,
               const struct alert_sink *sink, bool *ret_taken)
{
    int result = 0;
    const struct result_common window = alerts->newest; /* of what the others say */
    *ret_taken = loss_take(&alerts->loss, rank, &log->common, log->values);
    if (!*ret_taken) {
        return 0;
    }
    alerts_note(alerts, &log->common);
    alerts->after = log->common.step;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        const struct rule *rule = alerts->rules[i];
        if (rule_is_of_loss(rule)) {
            bool broken = rule->metric == RULE_LOSS_BROKEN;
            int code = alerts_judge_run(
                alerts, i, broken ? loss_broken(&alerts->loss) : loss_risen(&alerts->loss), sink);
            result = result ? result : code;
        }
    }
    alerts->newest = window;
    return result;
}

int alerts_silence(struct alerts *alerts, const struct result_common *common, double silent_s,
                   const struct alert_sink *sink)
{
    int result = 0;
    const struct result_common window = alerts->newest; /* of what the others say */
    alerts_note(alerts, common);
    alerts->after = common->step;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        if (alerts->rules[i]->metric != RULE_SILENCE) {
            continue;
        }
        int code = alerts_judge_run(alerts, i, silent_s, sink);
        result = result ? result : code;
    }
    alerts->newest = window;
    return result;
}

/* All */

/* Does something with a cell and its place. */
typedef void alert_visit(struct alerts *alerts, const struct rule *rule, struct alert_cells *cells,
                         uint32_t index, const struct alert_place *place, void *data);

static void each_cell(struct alerts *alerts, uint32_t index, struct alert_layer *layer,
                      enum alert_severity severity, alert_visit *visit, void *data)
{
    const struct rule *rule = alerts->rules[index];
    struct alert_cells *cells = &layer->cells[index];
    for (uint32_t c = 0; c < cells->count; c++) {
        struct alert_place place = {true, layer->id,
                                    rule->each == RULE_EACH_HEAD ? (int32_t)c : -1};
        if (alerts_severity(rule, &cells->cell[c]) != severity) {
            continue;
        }
        place = layer == alerts->whole ? alerts_run_place(alerts, rule) : place;
        visit(alerts, rule, cells, c, &place, data);
    }
}

/* The worst first: by severity, then in the order of the rules. */
static void each(struct alerts *alerts, alert_visit *visit, void *data)
{
    for (int severity = ALERT_CRITICAL; severity >= ALERT_INFO; severity--) {
        for (uint32_t i = 0; i < alerts->rule_count; i++) {
            for (struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
                each_cell(alerts, i, layer, (enum alert_severity)severity, visit, data);
            }
            each_cell(alerts, i, alerts->whole, (enum alert_severity)severity, visit, data);
        }
    }
}

/* A cell that was told and is clear is told so; one that fires and was never told counts as a
 * change of one more window. */
static void end_cell(struct alerts *alerts, const struct rule *rule, struct alert_cells *cells,
                     uint32_t index, const struct alert_place *place, void *data)
{
    const struct alert_sink *sink = data;
    struct alert_cell *cell = &cells->cell[index];
    if (!cell->firing && cell->told) {
        tell(alerts, rule, cells, index, place, ALERT_RESOLVED, sink);
        cell->told = false;
    }
    if (!cell->firing || cell->at_end || rule->metric == RULE_SILENCE) {
        return;
    }
    cell->at_end = true;
    if (!cell->told && alerts->told >= alerts->per_window) {
        alerts->held_back += !cell->held_back;
        return;
    }
    alerts->told += !cell->told;
    cell->told = true;
    tell(alerts, rule, cells, index, place, ALERT_FIRING_AT_END, sink);
}

void alerts_end(struct alerts *alerts, const struct result_common *common, bool ended,
                const struct alert_sink *sink)
{
    if (ended) {
        alerts_silence(alerts, common, 0, sink);
    }
    struct alert_sink to = *sink;
    alerts_note(alerts, common);
    each(alerts, end_cell, &to);
    if (alerts->held_back) {
        sink->overflow(sink->data, alerts->held_back);
    }
    alerts->told = alerts->held_back = 0;
}

/* A cell that fires. */
struct firing_cell {
    const struct rule *rule;
    const struct alert_cells *cells;
    uint32_t index, found; /* in `cells`; in the order of each() */
    struct alert_place place;
};

struct firing_list {
    uint32_t count, room; /* found; that fit */
    struct firing_cell *cell;
};

static void find_firing(struct alerts *alerts, const struct rule *rule, struct alert_cells *cells,
                        uint32_t index, const struct alert_place *place, void *data)
{
    struct firing_list *list = data;
    (void)alerts;
    if (cells->cell[index].firing && list->count++ < list->room) {
        list->cell[list->count - 1] = (struct firing_cell){rule, cells, index, list->count, *place};
    }
}

/* each() finds the cells of a rule in a row: of them the one farther beyond the bound is worse. */
static int compare_firing(const void *left, const void *right)
{
    const struct firing_cell *a = left, *b = right;
    double beyond = a->cells->cell[a->index].value - b->cells->cell[b->index].value;
    beyond = rule_is_floor(a->rule) ? -beyond : beyond;
    if (a->rule == b->rule && (beyond > 0 || beyond < 0)) {
        return beyond > 0 ? -1 : 1;
    }
    return a->found < b->found ? -1 : 1;
}

int alerts_each(struct alerts *alerts, const struct alert_sink *sink)
{
    struct firing_list list = {.room = 0};
    each(alerts, find_firing, &list);
    if (list.count == 0) { /* as in most runs, which may have a million cells */
        return 0;
    }
    list =
        (struct firing_list){.room = list.count, .cell = calloc(list.count + 1, sizeof *list.cell)};
    if (!list.cell) {
        return ERR_MEMORY;
    }
    each(alerts, find_firing, &list);
    qsort(list.cell, list.count, sizeof *list.cell, compare_firing);
    for (uint32_t i = 0; i < list.count; i++) {
        const struct firing_cell *one = &list.cell[i];
        bool at_end = one->cells->cell[one->index].at_end;
        tell(alerts, one->rule, one->cells, one->index, &one->place,
             at_end ? ALERT_FIRING_AT_END : ALERT_FIRING, sink);
    }
    free(list.cell);
    return 0;
}

bool alerts_judged_to(const struct alerts *alerts, uint64_t *ret_epoch, uint64_t *ret_step)
{
    *ret_epoch = alerts->judged.epoch;
    *ret_step = alerts->judged.step;
    return alerts->judged.any;
}

uint32_t alerts_unjudged(const struct alerts *alerts,
                         void (*visit)(void *data, const struct rule *rule), void *data)
{
    uint32_t judged = 0;
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        if (alerts_has_judged(alerts, i)) {
            judged++;
        } else {
            visit(data, alerts->rules[i]);
        }
    }
    return judged;
}
