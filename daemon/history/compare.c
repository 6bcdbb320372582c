/* SPDX-License-Identifier: MIT */
/* compare: ranks heads by how differently they behave in two runs.
 *
 * Each run contributes its newest `windows` windows (20 unless given) that end in from..to and
 * still have their histograms, pooled per head and metric. The distance of a head is
 *
 *     D(h) = 1/|M| sum over m in M of JS(P_m, Q_m),   M: row metrics that both runs have of it,
 *
 * where P and Q are the pooled histograms as distributions and JS is the Jensen-Shannon divergence
 * with the natural logarithm: symmetric, 0 for the same distribution, ln 2 when they share no
 * bucket. Pooling is exact, so a run is at 0 from itself. Only metrics with one value per row
 * count: of the others a window has too few values for a histogram to mean anything. Heads are
 * sorted by distance, then by layer and head; what only one run has is listed apart.
 *
 * Where the rows of a run are a sample, its means have a standard error of at most std /
 * sqrt(count) (KERNELS.md). Each run draws its rows by itself, so the squares of both add up.
 *
 * One layer of either run is in memory at a time, and TOGETHER_MAX of its windows. */
#include "daemon/base/grow.h"
#include "daemon/history/windows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOWS_DEFAULT 20
#define LAYERS_MAX      4096
/* States that are merged at once, which is faster than one after the other. */
#define TOGETHER_MAX 32

struct compare_side {
    struct found_run run;
    struct found_layer *layers;
    uint32_t layer_count;
    bool *matched;        /* [layer_count]; the other run has it too */
    uint32_t windows;     /* most that were pooled for a layer */
    uint64_t first, last; /* units they cover */
    uint64_t rows, of;    /* that were pooled; of how many they are */
    bool noted;           /* else there are none */
};

struct difference {
    double js, mean[2];
    double error; /* of the difference of the means; NaN = all rows were taken */
};

struct head_distance {
    const struct found_layer *layer; /* of the first run */
    uint32_t head;
    double distance;
    struct difference metric[METRIC_ROW_COUNT]; /* js NaN = not compared */
};

struct comparison {
    struct compare_side side[2];
    int only; /* this metric; -1 = all of rows */
    struct head_distance *heads;
    uint32_t count, room;
};

/* Reading */

static int history_compare_read_layers(struct query *query, struct compare_side *side)
{
    sqlite3_stmt *statement;
    int code = open_layers(query, &side->run, &statement);
    side->layers = malloc(LAYERS_MAX * sizeof *side->layers);
    side->matched = calloc(LAYERS_MAX, sizeof *side->matched);
    if (!code && (!side->layers || !side->matched)) {
        code = ERR_MEMORY;
    }
    while (!code && side->layer_count < LAYERS_MAX && (code = query_next(query, statement)) == 1) {
        side->layers[side->layer_count++] = found_layer(statement);
        code = 0;
    }
    sqlite3_finalize(statement);
    return code;
}

static void history_compare_free_states(struct layer_state **states, uint32_t *count)
{
    while (*count > 0) {
        layer_state_free(&states[--*count]);
    }
}

/* Merges what has been collected, and the pool, in order, into the pool. */
static int merge_collected(struct layer_state **states, uint32_t *count,
                           struct layer_state **ret_pool)
{
    int code = 0;
    uint32_t first = 0;
    if (*count > 0 && !*ret_pool) {
        *ret_pool = states[0];
        states[0] = NULL;
        first = 1;
    }
    if (*count > first) {
        code = layer_state_merge_all(*ret_pool, (const struct layer_state *const *)states + first,
                                     *count - first);
    }
    history_compare_free_states(states, count);
    return code;
}

/* Merges the states of a statement's rows, the newest first: first, last, bytes, data. Windows that
 * share units with a newer one are left out, and what the layer was with other numbers of heads. */
static int pool_rows(struct query *query, sqlite3_stmt *statement, struct compare_side *side,
                     uint64_t wanted, struct layer_state **ret_pool)
{
    struct layer_state *states[TOGETHER_MAX];
    uint32_t windows = 0, count = 0, heads = 0;
    uint64_t oldest = 0; /* the first unit in the pool */
    int code = 0;
    while (!code && windows < wanted && (code = query_next(query, statement)) == 1) {
        uint64_t first = column_u64(statement, 0), last = column_u64(statement, 1);
        code = 0;
        if (windows > 0 && last >= oldest) {
            continue;
        }
        code = state_read(statement, 2, NULL, &states[count]);
        if (code) {
            break;
        }
        if (windows > 0 && states[count]->heads != heads) {
            layer_state_free(&states[count]);
            continue;
        }
        heads = states[count++]->heads;
        windows++;
        oldest = first;
        side->first = !side->noted || first < side->first ? first : side->first;
        side->last = !side->noted || last > side->last ? last : side->last;
        side->noted = true;
        if (count == TOGETHER_MAX) {
            code = merge_collected(states, &count, ret_pool);
        }
        code = code ? code : query_check(query);
    }
    code = code ? code : merge_collected(states, &count, ret_pool);
    history_compare_free_states(states, &count);
    side->windows = windows > side->windows ? windows : side->windows;
    return code;
}

/* The layer's windows as one state; NULL when none has its state. */
static int pool_layer(struct query *query, struct compare_side *side,
                      const struct found_layer *layer, struct layer_state **ret_pool)
{
    const struct history_params *params = &query->params;
    uint64_t windows = params->given & PARAM_COUNT ? params->count : WINDOWS_DEFAULT;
    struct found_track track;
    sqlite3_stmt *statement = NULL;
    int code = find_track(query, layer, &track);
    *ret_pool = NULL;
    if (code == ERR_NO_HISTORY) {
        return 0;
    }
    if (!code) {
        code = query_open(
            query,
            "SELECT first, last, bytes, data FROM windows JOIN states USING (window_id)"
            " WHERE layer_id = ?1 AND track_id = ?2 AND last BETWEEN ?3 AND ?4"
            " ORDER BY last DESC",
            &statement,
            SQL(sql_u64(layer->id), sql_u64(track.id), sql_u64(params->from), sql_u64(params->to)));
    }
    if (!code) {
        code = pool_rows(query, statement, side, windows, ret_pool);
    }
    if (code) {
        layer_state_free(ret_pool);
    }
    sqlite3_finalize(statement);
    return code;
}

/* Comparing */

/* The standard error of the difference of two means, at most. */
static double difference_error(const struct layer_state *const pool[2], const struct dist dist[2])
{
    double squares = 0;
    bool sampled = false;
    for (int i = 0; i < 2; i++) {
        if (pool[i]->rows_of > pool[i]->rows) {
            squares += moments_variance(&dist[i].moments) / (double)dist[i].moments.n;
            sampled = true;
        }
    }
    return sampled ? sqrt(squares) : NAN;
}

static int compare_metric(const struct layer_state *const pool[2], int metric, uint32_t head,
                          struct difference *ret_difference)
{
    struct dist dist[2] = {{.moments = {0}}, {.moments = {0}}};
    int code = layer_state_dist(pool[0], metric, head, &dist[0]);
    code = code ? code : layer_state_dist(pool[1], metric, head, &dist[1]);
    if (!code) {
        *ret_difference =
            (struct difference){dist_js(&dist[0], &dist[1]),
                                {moments_mean(&dist[0].moments), moments_mean(&dist[1].moments)},
                                difference_error(pool, dist)};
    }
    dist_clear(&dist[0]);
    dist_clear(&dist[1]);
    return code;
}

static int compare_pools(struct comparison *comparison, const struct found_layer *layer,
                         const struct layer_state *const pool[2])
{
    uint32_t heads = pool[0]->heads < pool[1]->heads ? pool[0]->heads : pool[1]->heads;
    for (uint32_t head = 0; head < heads; head++) {
        if (!grow(&comparison->heads, comparison->count, &comparison->room,
                  sizeof *comparison->heads)) {
            return ERR_MEMORY;
        }
        struct head_distance *distance = &comparison->heads[comparison->count];
        distance->layer = layer;
        distance->head = head;
        double sum = 0;
        int compared = 0;
        for (int m = 0; m < METRIC_ROW_COUNT; m++) {
            struct difference *difference = &distance->metric[m];
            *difference = (struct difference){NAN, {NAN, NAN}, NAN};
            if (comparison->only >= 0 && comparison->only != m) {
                continue;
            }
            int code = compare_metric(pool, m, head, difference);
            if (code) {
                return code;
            }
            if (!isnan(difference->js)) {
                sum += difference->js;
                compared++;
            }
        }
        distance->distance = sum / compared;
        comparison->count += compared > 0;
    }
    return 0;
}

static int compare_layer(struct query *query, struct comparison *comparison,
                         const struct found_layer *a, const struct found_layer *b)
{
    struct layer_state *pool[2] = {NULL, NULL};
    int code = pool_layer(query, &comparison->side[0], a, &pool[0]);
    code = code ? code : pool_layer(query, &comparison->side[1], b, &pool[1]);
    if (!code && pool[0] && pool[1]) {
        code = compare_pools(comparison, a, (const struct layer_state *const[2]){pool[0], pool[1]});
        for (int i = 0; i < 2; i++) {
            comparison->side[i].rows += pool[i]->rows;
            comparison->side[i].of += pool[i]->rows_of;
        }
    }
    layer_state_free(&pool[0]);
    layer_state_free(&pool[1]);
    return code;
}

static uint32_t find_same(const struct compare_side *side, struct layer_id id)
{
    uint32_t i = 0;
    while (i < side->layer_count &&
           header_layer_key(side->layers[i].layer) != header_layer_key(id)) {
        i++;
    }
    return i;
}

/* Layers that both have, but not in the same windows, or no histograms of them any more. Both sides
 * have been pooled. */
static int check_pooled(struct query *query, const struct compare_side *side,
                        const struct compare_side *other)
{
    struct found_track track;
    char has[HISTORY_DETAIL_MAX];
    uint32_t shared = 0;
    if (side->windows > 0) {
        return 0;
    }
    while (!side->matched[shared]) {
        shared++;
    }
    int code = find_track(query, &side->layers[shared], &track);
    if (code == ERR_NO_HISTORY) {
        snprintf(has, sizeof has, "%s", query->detail);
        return query_fail(query, code, "run %.8s of %s has not the windows of run %.8s of %s: %s",
                          side->run.hex, side->run.job, other->run.hex, other->run.job, has);
    }
    if (code) {
        return code;
    }
    return query_fail(query, ERR_NO_HISTORY,
                      "run %.8s of %s has no window with histograms in this range%s", side->run.hex,
                      side->run.job, other->windows == 0 ? ", nor has the other" : "");
}

/* Answering */

static uint64_t history_compare_place(const struct head_distance *distance)
{
    const struct layer_id *id = &distance->layer->layer;
    return (uint64_t)id->stack << 60 | (uint64_t)id->layer << 40 | (uint64_t)id->site << 32 |
           distance->head;
}

static int compare_distances(const void *left, const void *right)
{
    const struct head_distance *a = left, *b = right;
    if (a->distance != b->distance) {
        return a->distance > b->distance ? -1 : 1;
    }
    uint64_t x = history_compare_place(a), y = history_compare_place(b);
    return (x > y) - (x < y);
}

static void history_compare_put_side(struct query *query, const char *key,
                                     const struct compare_side *side)
{
    bool sampled = side->of > side->rows;
    mpk_pair_map(query->result, key, 6u + sampled);
    put_run(query, &side->run);
    put_u64(query, "windows", side->windows);
    put_u64(query, "first", side->first);
    put_u64(query, "last", side->last);
    put_u64(query, "rows", side->rows);
    if (sampled) {
        put_u64(query, "rows_of", side->of);
    }
}

/* Heads of layers that the other run has not, or that go beyond its heads. */
static void put_alone(struct query *query, const char *key, const struct compare_side *side,
                      const struct compare_side *other)
{
    struct mpk_open alone = mpk_open(query->result, key);
    for (uint32_t i = 0; i < side->layer_count; i++) {
        const struct found_layer *layer = &side->layers[i];
        uint32_t shared =
            side->matched[i] ? other->layers[find_same(other, layer->layer)].heads : 0;
        for (uint32_t head = shared; head < layer->heads; head++) {
            mpk_put_map(query->result, put_layer_count(layer) + 1);
            put_layer(query, layer);
            put_u64(query, "head", head);
        }
    }
    mpk_close_array(query->result, &alone);
}

static void history_compare_put_comparison(struct query *query, struct comparison *comparison)
{
    uint64_t limit = query->params.limit;
    uint32_t shown = comparison->count < limit ? comparison->count : (uint32_t)limit;
    if (comparison->count > 1) {
        qsort(comparison->heads, comparison->count, sizeof *comparison->heads, compare_distances);
    }
    mpk_put_map(query->result, 6);
    history_compare_put_side(query, "a", &comparison->side[0]);
    history_compare_put_side(query, "b", &comparison->side[1]);
    mpk_pair_array(query->result, "heads", shown);
    for (uint32_t i = 0; i < shown; i++) {
        const struct head_distance *distance = &comparison->heads[i];
        mpk_put_map(query->result, put_layer_count(distance->layer) + 3);
        put_layer(query, distance->layer);
        put_u64(query, "head", distance->head);
        mpk_pair_f64(query->result, "distance", distance->distance);
        struct mpk_open metrics = mpk_open(query->result, "metrics");
        for (int m = 0; m < METRIC_ROW_COUNT; m++) {
            const struct difference *difference = &distance->metric[m];
            if (isnan(difference->js)) {
                continue;
            }
            bool sampled = !isnan(difference->error);
            mpk_pair_map(query->result, metric_info[m].name, 4u + sampled);
            mpk_pair_f64(query->result, "js", difference->js);
            mpk_pair_f64(query->result, "mean_a", difference->mean[0]);
            mpk_pair_f64(query->result, "mean_b", difference->mean[1]);
            mpk_pair_f64(query->result, "delta", difference->mean[1] - difference->mean[0]);
            if (sampled) {
                mpk_pair_f64(query->result, "delta_error", difference->error);
            }
        }
        mpk_close_map(query->result, &metrics);
    }
    put_alone(query, "only_a", &comparison->side[0], &comparison->side[1]);
    put_alone(query, "only_b", &comparison->side[1], &comparison->side[0]);
    mpk_pair_bool(query->result, "more", shown < comparison->count);
}

static int history_compare_choose_metric(struct query *query, int *ret_only)
{
    const char *name = query->params.metric;
    unsigned metric = metric_find(name);
    *ret_only = metric < METRIC_ROW_COUNT ? (int)metric : -1;
    if (*name && *ret_only < 0) {
        return query_fail(query, ERR_ARGUMENT,
                          "metric is not accepted: %s (valid: those with one value per attention "
                          "row, such as entropy)",
                          name);
    }
    return 0;
}

static int read_sides(struct query *query, struct comparison *comparison)
{
    const struct history_params *params = &query->params;
    struct compare_side *a = &comparison->side[0], *b = &comparison->side[1];
    const char *job_b = *params->job_b ? params->job_b : params->job;
    int code = find_run(query, params->job, params->run, &a->run);
    code = code ? code : find_run(query, job_b, params->run_b, &b->run);
    if (code == ERR_JOB_UNKNOWN && *a->run.job) { /* the second: a refusal names the first */
        code = query_fail(query, ERR_NO_HISTORY, "the history has no run of %s", job_b);
    }
    code = code ? code : history_compare_read_layers(query, a);
    code = code ? code : history_compare_read_layers(query, b);
    if (code) {
        return code;
    }
    if (a->layer_count == 0 || b->layer_count == 0) {
        return find_no_window(query, a->layer_count == 0 ? &a->run : &b->run,
                              a->layer_count == b->layer_count ? ", nor has the other" : "");
    }
    /* Both runs in the same windows: those of the first layer of the first. */
    struct found_track track;
    code = find_track(query, &a->layers[0], &track);
    if (code == ERR_NO_HISTORY) {
        char has[HISTORY_DETAIL_MAX];
        snprintf(has, sizeof has, "%s", query->detail);
        return query_fail(query, code, "run %.8s of %s: %s", a->run.hex, a->run.job, has);
    }
    if (code) {
        return code;
    }
    query->params.track = track.track;
    query->params.given |= PARAM_WINDOW;
    return 0;
}

int history_compare(struct query *query)
{
    struct comparison comparison = {.count = 0};
    int code = history_compare_choose_metric(query, &comparison.only);
    code = code ? code : read_sides(query, &comparison);
    if (!code) {
        struct compare_side *a = &comparison.side[0], *b = &comparison.side[1];
        bool shared = false;
        code = 0;
        for (uint32_t i = 0; !code && i < a->layer_count; i++) {
            uint32_t j = find_same(b, a->layers[i].layer);
            if (j == b->layer_count) {
                continue;
            }
            a->matched[i] = b->matched[j] = shared = true;
            code = compare_layer(query, &comparison, &a->layers[i], &b->layers[j]);
        }
        if (!code && shared) {
            code = check_pooled(query, a, b);
        }
        if (!code && shared) {
            code = check_pooled(query, b, a);
        }
    }
    query->detail[0] = code ? query->detail[0] : '\0';
    if (!code) {
        history_compare_put_comparison(query, &comparison);
    }
    for (int i = 0; i < 2; i++) {
        free(comparison.side[i].layers);
        free(comparison.side[i].matched);
    }
    free(comparison.heads);
    return code;
}
