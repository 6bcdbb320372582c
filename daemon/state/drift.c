/* SPDX-License-Identifier: MIT */
/* drift: a window is taken in two steps, so that out of memory nothing has happened.
 *
 *     plan    of each metric: room for cells that are new, the baseline's histograms with this
 *             window in them, and the numbers of drift_result with js
 *     commit  the cells learn or move, and what was planned takes the place of what there was
 *
 * The baseline's histograms of a metric are kept packed (packed_hists.h), all heads in one piece: a
 * new baseline is written once, after that the piece is only read. */
#include "daemon/state/drift.h"

#include "daemon/state/drift_internal.h"
#include "proto/err.h"

#include <stdlib.h>

#define FLOOR_RELATIVE 0x1p-20
#define FLOOR          0x1p-40
/* Larger means are taken for none, so that no square overflows. */
#define MEAN_MAX 0x1p+500

struct drift *drift_new(const struct drift_rule *rule, uint32_t heads)
{
    struct drift *drift = calloc(1, sizeof *drift);
    if (!drift) {
        return NULL;
    }
    drift->rule = *rule;
    drift->windows = rule->windows;
    drift->heads = heads;
    return drift;
}

void drift_result_clear(struct drift *drift)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        free(drift->result[m]);
        drift->result[m] = NULL;
    }
}

void drift_free(struct drift **drift_p)
{
    struct drift *drift = *drift_p;
    if (!drift) {
        return;
    }
    drift_result_clear(drift);
    for (int m = 0; m < METRIC_COUNT; m++) {
        free(drift->cell[m]);
    }
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        packed_hists_clear(&drift->hists[m]);
    }
    free(drift);
    *drift_p = NULL;
}

uint32_t drift_heads(const struct drift *drift)
{
    return drift->heads;
}

uint64_t drift_bytes(const struct drift *drift)
{
    uint64_t bytes = sizeof *drift;
    for (int m = 0; m < METRIC_COUNT; m++) {
        bytes += drift->cell[m] ? (uint64_t)drift->heads * sizeof *drift->cell[m] : 0;
        bytes += drift->result[m] ? (uint64_t)drift->heads * sizeof *drift->result[m] : 0;
    }
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        bytes += drift->hists[m].capacity;
    }
    return bytes;
}

bool drift_may_learn(const struct drift *drift, const struct result_window *window)
{
    return !window->partial && (!drift->begun || window->first > drift->last);
}

const struct result_drift *drift_result(const struct drift *drift, int metric)
{
    return drift->result[metric];
}

/* One cell */

/* Whether it would learn a value. */
static bool learns(const struct drift *drift, const struct drift_cell *cell)
{
    return !drift->pinned && cell->count < drift->windows;
}

/* NaN for one window. */
static double std_of(const struct drift_cell *cell)
{
    return cell->count >= 2 ? sqrt(cell->m2 / (cell->count - 1)) : NAN;
}

/* The value of uniform attention; NaN where that depends on the number of keys. */
static double uniform_of(int metric)
{
    bool normalized = metric == METRIC_ENTROPY_NORMALIZED || metric == METRIC_ENTROPY_SANS_FIRST;
    return normalized ? metric_info[metric].maximum : NAN;
}

/* Whether the block rises or falls by more than it scatters around its line. A fall that ends
 * within the block scatters, too: scatter excuses twice the grain at most. */
static bool drift_cell_slopes(const struct drift_cell *cell, int metric)
{
    double n = cell->count, square = n * (n * n - 1) / 12; /* sum of (i - mean of i)^2 */
    if (n < 2) {
        return false;
    }
    double grain = metric_grain((enum metric)metric, cell->mean);
    double explained = cell->trend / sqrt(square);
    double left = fmax(cell->m2 - explained * explained, 0);
    double scatter = n > 2 ? 2 * sqrt(left / (n - 2)) : 0;
    return fabs(cell->trend) / square * (n - 1) > fmin(fmax(scatter, grain), 2 * grain);
}

static void drift_cell_complete(struct drift_cell *cell)
{
    cell->level = cell->mean;
    cell->level_count = cell->count;
}

/* The cell after one more window of its block, by Welford. */
static struct drift_cell drift_learn(const struct drift *drift, int metric, struct drift_cell cell,
                                     double x)
{
    double delta = x - cell.mean;
    cell.count++;
    cell.mean += delta / cell.count;
    cell.m2 += delta * (x - cell.mean);
    cell.trend +=
        cell.count / 2.0 * (x - cell.mean); /* i is so far from the mean of those before */
    if (cell.count < drift->windows) {
        return cell;
    }
    if (drift_cell_slopes(&cell, metric)) {
        double change = cell.change;
        cell = drift_cell_empty();
        cell.change = change;
        return cell;
    }
    drift_cell_complete(&cell);
    if (!isnan(cell.change) && !isnan(uniform_of(metric))) {
        cell.mean = uniform_of(metric);
    }
    return cell;
}

/* Adds to one of the sums; returns whether it exceeds the threshold. */
static bool drift_add_up(struct drift_cell *cell, enum drift_side side, double off, uint64_t last,
                         const struct drift_rule *rule)
{
    double sum = (double)cell->sum[side] + off - rule->tolerance;
    if (!(sum > 0)) {
        cell->sum[side] = 0;
        return false;
    }
    if (!(cell->sum[side] > 0)) {
        cell->since[side] = (double)last;
    }
    cell->sum[side] = (float)sum;
    return sum > rule->threshold;
}

static void drift_move(struct drift_cell *cell, double x, uint64_t last,
                       const struct drift_rule *rule)
{
    double scale = fmax(std_of(cell), fmax(fabs(cell->mean) * FLOOR_RELATIVE, FLOOR));
    if (cell->count < 2) {
        return;
    }
    double off = (x - cell->level) / scale;
    bool up = drift_add_up(cell, DRIFT_UP, off, last, rule);
    bool down = drift_add_up(cell, DRIFT_DOWN, -off, last, rule);
    if (up || down) {
        cell->change = cell->since[up ? DRIFT_UP : DRIFT_DOWN];
        cell->sum[DRIFT_UP] = cell->sum[DRIFT_DOWN] = 0;
        cell->level = x;
        cell->level_count = 1;
        return;
    }
    cell->level_count += cell->level_count < UINT32_MAX;
    cell->level += (x - cell->level) / cell->level_count;
}

/* Planning */

/* The effect of a window on one metric; owned. */
struct drift_plan {
    struct drift_cell *cell; /* when they are new */
    struct result_drift *result;
    bool learns; /* `hists` are the new ones */
    struct packed_hists hists;
};

static struct drift_cell *new_cells(uint32_t heads)
{
    struct drift_cell *cell = calloc(heads, sizeof *cell);
    for (uint32_t h = 0; cell && h < heads; h++) {
        cell[h] = drift_cell_empty();
    }
    return cell;
}

/* How a head's rows diverge from its baseline, which is read on from the cursor. */
static int drift_compare_rows(const struct layer_state *state, int metric, uint32_t head,
                              struct packed_cursor *cursor, double *ret_js)
{
    struct dist baseline = {0}, window = {0};
    int code = packed_hists_next(cursor, &baseline);
    if (!code && head < state->heads) {
        code = layer_state_dist(state, metric, head, &window);
    }
    if (!code) {
        *ret_js = dist_js(&baseline, &window);
    }
    dist_clear(&baseline);
    dist_clear(&window);
    return code;
}

static struct packed_cursor begin_of(const struct packed_hists *hists)
{
    return (struct packed_cursor){hists->bytes, hists->bytes ? hists->bytes + hists->size : NULL};
}

/* All but `change`, which commit adds. */
static int plan_result(const struct drift *drift, const struct layer_state *state,
                       const double *mean, int metric, bool any_ready, struct drift_plan *plan)
{
    plan->result = malloc(drift->heads * sizeof *plan->result);
    if (!plan->result) {
        return ERR_MEMORY;
    }
    for (uint32_t h = 0; h < drift->heads; h++) {
        /* Says how far a window's mean is from the baseline. */
        double x = mean[h];
        const struct drift_cell *cell = drift->cell[metric] ? &drift->cell[metric][h] : NULL;
        double baseline = drift->pinned ? NAN : uniform_of(metric), std = NAN;
        if (cell && drift_cell_ready(drift, cell)) {
            baseline = cell->mean;
            std = std_of(cell);
        }
        double delta = x - baseline;
        plan->result[h] = (struct result_drift){
            .delta = delta,
            .shift = delta / fmax(std, metric_grain((enum metric)metric, baseline)),
            .js = NAN,
            .change = NAN};
    }
    if (metric >= METRIC_ROW_COUNT || !any_ready) {
        return 0;
    }
    struct packed_cursor cursor = begin_of(&drift->hists[metric]);
    int code = 0;
    for (uint32_t h = 0; h < drift->heads && !code; h++) {
        if (drift_cell_ready(drift, &drift->cell[metric][h])) {
            code = drift_compare_rows(state, metric, h, &cursor, &plan->result[h].js);
        } else {
            code = packed_hists_next(&cursor, NULL);
        }
    }
    return code;
}

/* A head's block with this window; without any when it is forgotten. */
static int drift_add_rows(const struct drift *drift, const struct layer_state *state, double x,
                          int metric, uint32_t head, const struct drift_cell *cell,
                          struct packed_cursor *cursor, struct packed_hists *into)
{
    struct dist block = {0}, window = {0};
    int code = cursor->at < cursor->end ? packed_hists_next(cursor, &block) : 0;
    if (!code && !isnan(x)) {
        code = layer_state_dist(state, metric, head, &window);
    }
    if (!code) {
        code = dist_merge(&block, &window);
    }
    if (!code && !isnan(x) && drift_learn(drift, metric, *cell, x).count == 0) {
        dist_clear(&block);
    }
    if (!code) {
        dist_limit(&block, drift->rule.buckets);
        code = packed_hists_add(into, &block.hist);
    }
    dist_clear(&block);
    dist_clear(&window);
    return code;
}

static int copy_rows(struct packed_cursor *cursor, struct packed_hists *into)
{
    const uint8_t *from = cursor->at;
    int code = packed_hists_next(cursor, NULL);
    return code ? code : packed_hists_copy(into, from, (size_t)(cursor->at - from));
}

static int plan_metric(const struct drift *drift, const struct layer_state *state,
                       const double *mean, int metric, bool learn_it, struct drift_plan *plan)
{
    const struct drift_cell *cell = drift->cell[metric];
    bool has = false, any_ready = false, any_learns = !cell; /* new ones do */
    for (uint32_t h = 0; h < drift->heads; h++) {
        has = has || !isnan(mean[h]);
        any_ready = any_ready || (cell && drift_cell_ready(drift, &cell[h]));
        any_learns = any_learns || learns(drift, &cell[h]);
    }
    bool uniform = has && !drift->pinned && !isnan(uniform_of(metric));
    int code = uniform || any_ready ? plan_result(drift, state, mean, metric, any_ready, plan) : 0;
    if (!code && !cell && learn_it && has && !drift->pinned) {
        cell = plan->cell = new_cells(drift->heads);
        code = cell ? 0 : ERR_MEMORY;
    }
    if (code || !cell) {
        return code;
    }
    plan->learns = learn_it && has && any_learns;
    if (plan->learns && metric < METRIC_ROW_COUNT) {
        struct packed_cursor cursor = begin_of(&drift->hists[metric]);
        for (uint32_t h = 0; h < drift->heads && !code; h++) {
            code = learns(drift, &cell[h]) ? drift_add_rows(drift, state, mean[h], metric, h,
                                                            &cell[h], &cursor, &plan->hists)
                                           : copy_rows(&cursor, &plan->hists);
        }
        packed_hists_trim(&plan->hists);
    }
    return code;
}

/* Committing */

static void commit_cell(const struct drift *drift, int metric, struct drift_cell *cell, double x,
                        uint64_t last)
{
    if (isnan(x)) {
        return;
    }
    if (learns(drift, cell)) {
        if (cell->count == 0) {
            cell->since[DRIFT_UP] = (double)last;
        }
        double began = isnan(cell->change) ? cell->since[DRIFT_UP] : cell->change;
        *cell = drift_learn(drift, metric, *cell, x);
        cell->change = cell->count == 0 ? began : cell->change;
        if (drift_cell_ready(drift, cell)) {
            cell->since[DRIFT_DOWN] = (double)last;
        }
    } else if (drift_cell_ready(drift, cell)) {
        drift_move(cell, x, last, &drift->rule);
    }
}

static void drift_take_plan(struct drift *drift, int metric, struct drift_plan *plan)
{
    if (plan->cell) {
        drift->cell[metric] = plan->cell;
    }
    if (plan->learns && metric < METRIC_ROW_COUNT) {
        packed_hists_clear(&drift->hists[metric]);
        drift->hists[metric] = plan->hists;
    }
    free(drift->result[metric]);
    drift->result[metric] = plan->result;
    *plan = (struct drift_plan){0};
}

static void commit_metric(struct drift *drift, const double *mean, int metric, uint64_t last,
                          bool learn_it)
{
    struct drift_cell *cell = drift->cell[metric];
    struct result_drift *result = drift->result[metric];
    for (uint32_t h = 0; cell && h < drift->heads; h++) {
        if (learn_it) {
            commit_cell(drift, metric, &cell[h], mean[h], last);
        }
        if (result) {
            result[h].change = cell[h].change;
        }
    }
}

int drift_window(struct drift *drift, const struct layer_state *state, uint64_t last, bool learn_it)
{
    struct drift_plan plans[METRIC_COUNT] = {{0}};
    /* The window's means [METRIC_COUNT][heads]; NaN where a head has no value. */
    struct moments moments[METRIC_COUNT];
    double *means = malloc((size_t)METRIC_COUNT * drift->heads * sizeof *means);
    for (uint32_t h = 0; means && h < drift->heads; h++) {
        if (h < state->heads) {
            layer_state_all_moments(state, h, moments);
        }
        for (int m = 0; m < METRIC_COUNT; m++) {
            double mean = h < state->heads ? moments_mean(&moments[m]) : NAN;
            means[(size_t)m * drift->heads + h] = fabs(mean) <= MEAN_MAX ? mean : NAN;
        }
    }
    int code = means ? 0 : ERR_MEMORY;
    for (int m = 0; m < METRIC_COUNT && !code; m++) {
        code = plan_metric(drift, state, means + (size_t)m * drift->heads, m, learn_it, &plans[m]);
    }
    for (int m = 0; m < METRIC_COUNT && !code; m++) {
        drift_take_plan(drift, m, &plans[m]);
        commit_metric(drift, means + (size_t)m * drift->heads, m, last, learn_it);
    }
    free(means);
    if (!code && learn_it) {
        drift->begun = true;
        drift->last = last;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        free(plans[m].cell);
        free(plans[m].result);
        packed_hists_clear(&plans[m].hists);
    }
    return code;
}

/* Whether the newest window, which ends with this unit, completed the baseline: a sum that began
 * with it is above 0, and a test that started over with it has a level of one window. */
static bool drift_cell_is_new(const struct drift *drift, const struct drift_cell *cell,
                              uint64_t last)
{
    return drift_cell_ready(drift, cell) && cell->level_count == cell->count &&
           cell->since[DRIFT_DOWN] == (double)last && !(cell->sum[DRIFT_DOWN] > 0);
}

int drift_window_again(struct drift *drift, const struct layer_state *state, uint64_t last)
{
    bool learned = drift->begun && drift->last == last && !drift->pinned;
    for (int m = 0; m < METRIC_COUNT && learned; m++) {
        for (uint32_t h = 0; drift->cell[m] && h < drift->heads; h++) {
            if (drift_cell_is_new(drift, &drift->cell[m][h], last)) {
                drift->cell[m][h].count = 0;
            }
        }
    }
    return drift_window(drift, state, last, false);
}

int drift_pin(struct drift *drift, const struct layer_state *const *states, uint32_t count)
{
    struct drift *given = drift_new(&drift->rule, drift->heads);
    int code = given ? 0 : ERR_MEMORY;
    if (given) {
        given->windows = count + 1;
    }
    for (uint32_t i = 0; i < count && !code; i++) {
        code = drift_window(given, states[i], 0, true);
    }
    if (!code) {
        /* Ends what is one window short of being judged: windows that are given are not. */
        given->windows--;
        for (int m = 0; m < METRIC_COUNT; m++) {
            for (uint32_t h = 0; given->cell[m] && h < given->heads; h++) {
                drift_cell_complete(&given->cell[m][h]);
            }
        }
        /* The baseline and the detection move over; what was here goes with `given`. */
        struct drift before = *drift;
        *drift = *given;
        *given = before;
        drift->begun = before.begun;
        drift->last = before.last;
        drift->pinned = true;
        drift_result_clear(drift);
    }
    drift_free(&given);
    return code;
}
