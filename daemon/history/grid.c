/* SPDX-License-Identifier: MIT */
/* grid: one statistic of one metric, of all layers and heads of a run, over its windows: what a
 * picture of the whole run needs.
 *
 * The windows are the union over the layers. When there are more than `points`, evenly chosen ones
 * are meant, first and last included; the others' numbers are not read. An answer has at most
 * VALUES_MAX values. */
#include "daemon/history/values.h"

#include <math.h>
#include <stdlib.h>

#define VALUES_MAX (3u << 20)

struct grid {
    struct found_run run;
    struct found_track track;
    struct found_layer *layers;
    uint32_t layer_count;
    struct window_rows windows; /* of all layers; then those that are shown */
    uint32_t total;             /* before they were chosen */
    const char *metric;
    struct mpk_writer encoded; /* of the layers */
    uint32_t encoded_count;
    bool any;
};

/* Windows */

static uint64_t last_of(const struct window_rows *rows, uint32_t i)
{
    return i < rows->count ? rows->row[i].window.last : UINT64_MAX;
}

/* Adds what `into` does not have; both are ascending and stay so. Returns 0 or ERR_MEMORY. */
static int unite(struct window_rows *into, const struct window_rows *from)
{
    uint32_t room = into->count + from->count, count = 0, i = 0, j = 0;
    struct window_row *row = malloc((room + !room) * sizeof *row);
    if (!row) {
        return ERR_MEMORY;
    }
    while (i < into->count || j < from->count) {
        bool same = i < into->count && j < from->count && last_of(into, i) == last_of(from, j);
        bool mine = i < into->count && last_of(into, i) <= last_of(from, j);
        row[count++] = mine ? into->row[i++] : from->row[j++];
        j += same;
    }
    free(into->row);
    into->row = row;
    into->count = count;
    into->room = room;
    return 0;
}

static int read_rows(struct query *query, const struct found_layer *layer,
                     struct found_track *track, struct window_rows *ret_rows)
{
    int code = find_track(query, layer, track);
    return code ? code : windows_read(query, layer, track, HISTORY_LIMIT_MAX, ret_rows);
}

/* A layer without windows of this kind is left out. */
static int add_windows(struct query *query, struct grid *grid, const struct found_layer *layer)
{
    struct window_rows rows = {.count = 0};
    struct found_track track;
    int code = read_rows(query, layer, &track, &rows);
    if (code) {
        return code == ERR_NO_HISTORY ? 0 : code;
    }
    if (grid->windows.count == 0) {
        grid->track = track;
    }
    code = unite(&grid->windows, &rows);
    windows_free(&rows);
    return code ? code : query_check(query);
}

static uint32_t points_of(const struct query *query, const struct grid *grid)
{
    uint64_t heads = 1, points = query->params.points;
    for (uint32_t i = 0; i < grid->layer_count; i++) {
        heads += grid->layers[i].heads;
    }
    uint64_t most = VALUES_MAX / heads;
    points = points < most ? points : most;
    return points < 2 ? 2 : (uint32_t)points;
}

static int history_grid_read_windows(struct query *query, struct grid *grid)
{
    int code = 0;
    for (uint32_t i = 0; !code && i < grid->layer_count; i++) {
        code = add_windows(query, grid, &grid->layers[i]);
    }
    if (!code && grid->windows.count == 0) {
        return query_fail(query, ERR_NO_HISTORY, "the run has no window in this range");
    }
    grid->total = grid->windows.count;
    struct window_rows *rows = &grid->windows;
    uint32_t points = points_of(query, grid);
    if (rows->count > points) {
        for (uint32_t i = 0; i < points; i++) {
            rows->row[i] = rows->row[(uint64_t)i * (rows->count - 1) / (points - 1)];
        }
        rows->count = points;
    }
    return code;
}

/* Layers */

static void put_f32(struct mpk_writer *writer, const double *numbers, size_t count)
{
    float *less = malloc((count + !count) * sizeof *less);
    for (size_t i = 0; less && i < count; i++) {
        less[i] = (float)numbers[i];
    }
    if (less) {
        mpk_put_bin(writer, less, count * sizeof *less);
    } else {
        writer->failed = true;
    }
    free(less);
}

static int history_grid_put_grid_layer(struct query *query, struct grid *grid,
                                       struct value_series *series)
{
    struct mpk_writer *writer = &grid->encoded, *result = query->result;
    query->result = writer;
    mpk_put_map(writer, put_layer_count(&series->layer) + 2);
    put_layer(query, &series->layer);
    query->result = result;
    mpk_pair_u64(writer, "heads", series->heads);
    mpk_put_str(writer, "values");
    grid->encoded_count++;
    int statistic = __builtin_ctz(query->params.statistics);
    uint32_t count = grid->windows.count;
    double *numbers = malloc(((size_t)series->heads * count + 1) * sizeof *numbers);
    if (!numbers) {
        return ERR_MEMORY;
    }
    for (uint32_t head = 0; head < series->heads; head++) {
        /* One head's numbers over the windows that are shown; NaN where it has none. */
        uint32_t i = 0;
        for (uint32_t j = 0; j < grid->windows.count; j++) {
            bool has = last_of(&series->rows, i) == last_of(&grid->windows, j);
            numbers[(size_t)head * count + j] =
                has ? series_column(series, head, statistic)[i] : NAN;
            i += has;
        }
    }
    if (query->params.packed) {
        put_f32(&grid->encoded, numbers, (size_t)series->heads * count);
    } else {
        mpk_put_array(&grid->encoded, series->heads);
        for (uint32_t head = 0; head < series->heads; head++) {
            mpk_put_array(&grid->encoded, count);
            for (uint32_t i = 0; i < count; i++) {
                mpk_put_f64(&grid->encoded, numbers[(size_t)head * count + i]);
            }
        }
    }
    free(numbers);
    return 0;
}

static int history_grid_read_layer(struct query *query, struct grid *grid,
                                   const struct found_layer *layer)
{
    struct value_series series = {.layer = *layer, .metric = grid->metric};
    int code = read_rows(query, layer, &series.track, &series.rows);
    if (code) {
        return code == ERR_NO_HISTORY ? 0 : code;
    }
    /* Leaves those rows that are shown. */
    uint32_t count = 0;
    for (uint32_t i = 0, j = 0; i < series.rows.count && j < grid->windows.count;) {
        uint64_t mine = last_of(&series.rows, i), wanted = last_of(&grid->windows, j);
        if (mine == wanted) {
            series.rows.row[count++] = series.rows.row[i];
        }
        i += mine <= wanted;
        j += mine >= wanted;
    }
    series.rows.count = count;
    series.number = number_find(grid->metric);
    series.of_layer = series.number >= 0 && number_is_of_layer(series.number);
    series.heads = series.of_layer ? 1 : layer->heads;
    series_choose(&series, query->params.statistics);
    code = series_read(query, &series, 1);
    if (!code && series.any) {
        code = history_grid_put_grid_layer(query, grid, &series);
    }
    grid->any |= series.any;
    series_clear(&series);
    return code;
}

int history_grid(struct query *query)
{
    bool asked = query->params.given & PARAM_METRIC;
    struct grid grid = {.metric = asked ? query->params.metric : "entropy_normalized"};
    if (!(query->params.given & PARAM_STATISTIC)) {
        query->params.statistics = 1u << STATISTIC_MEAN;
    }
    mpk_writer_init(&grid.encoded);
    int code = find_run(query, query->params.job, query->params.run, &grid.run);
    code = code ? code : layers_read(query, &grid.run, &grid.layers, &grid.layer_count);
    code = code ? code : history_grid_read_windows(query, &grid);
    for (uint32_t i = 0; !code && i < grid.layer_count; i++) {
        code = history_grid_read_layer(query, &grid, &grid.layers[i]);
    }
    if (!code && !grid.any) {
        code = query_fail(query, ERR_NO_HISTORY, "no layer has '%s' in these windows", grid.metric);
    }
    code = code && !*query->detail && code == ERR_NO_HISTORY
               ? query_fail(query, code, "the run has no windows")
               : code;
    if (!code) {
        int statistic = __builtin_ctz(query->params.statistics);
        mpk_put_map(query->result, 10);
        put_run(query, &grid.run);
        put_text(query, "metric", grid.metric);
        put_text(query, "statistic", statistic_name[statistic]);
        put_track(query, &grid.track);
        put_u64(query, "total", grid.total);
        code = put_windows(query, &grid.windows);
        mpk_pair_array(query->result, "layers", grid.encoded_count);
        mpk_put_raw(query->result, grid.encoded.buffer.data, grid.encoded.buffer.size);
        code = code || mpk_writer_ok(&grid.encoded) ? code : ERR_MEMORY;
    }
    mpk_writer_clear(&grid.encoded);
    windows_free(&grid.windows);
    free(grid.layers);
    return code;
}
