/* SPDX-License-Identifier: MIT */
/* Collected as [head][statistic][window]. Chunks are read once each, for the windows in them that
 * are wanted. */
#include "daemon/history/values.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The column of a statistic that is asked for. */
double *series_column(struct value_series *series, uint32_t head, int statistic)
{
    size_t at = (size_t)head * series->statistics + (size_t)series->slot[statistic];
    return series->value + at * series->rows.count;
}

/* Statistics are in the order of the struct's members. */
static double number_in(const struct result_stat *stat, int statistic)
{
    double number;
#define IS_OF(member, statistic)                                                                   \
    _Static_assert(offsetof(struct result_stat, member) == (statistic) * sizeof(double), #member)
    IS_OF(mean, STATISTIC_MEAN);
    IS_OF(std, STATISTIC_STD);
    IS_OF(min, STATISTIC_MIN);
    IS_OF(max, STATISTIC_MAX);
    IS_OF(p10, STATISTIC_P10);
    IS_OF(p50, STATISTIC_P50);
    IS_OF(p90, STATISTIC_P90);
    IS_OF(p99, STATISTIC_P99);
    IS_OF(last, STATISTIC_LAST);
    memcpy(&number, (const char *)stat + (size_t)statistic * sizeof number, sizeof number);
    return statistic == STATISTIC_NUMBER ? (double)stat->count : number;
}

/* The numbers of rows from..to, stats[i] being that of row from + i. */
static void set_stats(struct value_series *series, uint32_t head, uint32_t from, uint32_t to,
                      const struct result_stat *stats)
{
    for (int s = 0; s < STATISTIC_COUNT; s++) {
        double *out = series->slot[s] >= 0 ? series_column(series, head, s) : NULL;
        for (uint32_t i = from; out && i < to; i++) {
            out[i] = number_in(&stats[i - from], s);
        }
    }
    for (uint32_t i = from; i < to && !series->any; i++) {
        series->any = stats[i - from].count > 0 || !isnan(stats[i - from].last);
    }
}

static int reset_values(struct value_series *series)
{
    size_t count = (size_t)series->heads * series->statistics * series->rows.count;
    free(series->value);
    series->value = malloc((count + !count) * sizeof *series->value);
    if (!series->value) {
        return ERR_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        series->value[i] = NAN;
    }
    for (uint32_t head = 0; head < series->heads && series->slot[STATISTIC_NUMBER] >= 0; head++) {
        memset(series_column(series, head, STATISTIC_NUMBER), 0,
               series->rows.count * sizeof *series->value);
    }
    series->any = false;
    return 0;
}

/* The numbers of one chunk's row of `series`, for the rows of the answer from..to. */
static int history_values_add_chunk(struct value_series *series, sqlite3_stmt *statement,
                                    uint32_t from, uint32_t to)
{
    struct result_stat stats[SERIES_WINDOWS_MAX], shown[SERIES_WINDOWS_MAX];
    const struct window_row *row = &series->rows.row[from];
    int head = sqlite3_column_int(statement, 0);
    const void *data = sqlite3_column_blob(statement, 1);
    int code =
        series_decode(data, (size_t)sqlite3_column_bytes(statement, 1), row->chunk_count, stats);
    uint32_t at = head < 0 ? 0 : (uint32_t)head - series->head_first;
    if (code || at >= series->heads) {
        return code;
    }
    for (uint32_t i = from; i < to; i++, row++) {
        shown[i - from] = stats[row->index];
    }
    set_stats(series, at, from, to, shown);
    return 0;
}

/* Rows that follow one another and are in the same chunk. */
static uint32_t chunk_end(const struct window_rows *rows, uint32_t from)
{
    uint32_t to = from + 1;
    while (to < rows->count && to - from < SERIES_WINDOWS_MAX &&
           rows->row[to].chunk_id == rows->row[from].chunk_id) {
        to++;
    }
    return to;
}

static int history_values_read_chunks(struct query *query, struct value_series *series)
{
    sqlite3_stmt *statement;
    int first = series->of_layer ? -1 : (int)series->head_first;
    int code = query_open(query,
                          "SELECT head, data FROM series WHERE chunk_id = ?1 AND metric_id ="
                          " (SELECT metric_id FROM metrics WHERE name = ?2)"
                          " AND head BETWEEN ?3 AND ?4",
                          &statement,
                          SQL(sql_u64(0), sql_text(series->metric), sql_i64(first),
                              sql_i64(first + (int)series->heads - 1)));
    for (uint32_t from = 0, to; !code && from < series->rows.count; from = to) {
        to = series->rows.row[from].chunk_id ? chunk_end(&series->rows, from) : from + 1;
        if (series->rows.row[from].chunk_id) {
            sqlite3_reset(statement);
            sqlite3_bind_int64(statement, 1, (sqlite3_int64)series->rows.row[from].chunk_id);
            while (!code && (code = query_next(query, statement)) == 1) {
                code = history_values_add_chunk(series, statement, from, to);
            }
        }
        code = code ? code : query_check(query);
    }
    sqlite3_finalize(statement);
    return code;
}

/* Whether it is of heads, and of nothing for which a histogram would have to be read. */
static bool is_of_moments(const struct value_series *series)
{
    const int *slot = series->slot;
    return series->number >= 0 && !number_is_of_layer(series->number) && slot[STATISTIC_P10] < 0 &&
           slot[STATISTIC_P50] < 0 && slot[STATISTIC_P90] < 0 && slot[STATISTIC_P99] < 0;
}

static int history_values_add_state(struct value_series *series, const struct layer_state *state,
                                    uint32_t row)
{
    bool of_moments = is_of_moments(series);
    int code = 0;
    if (series->number < 0 || !number_in_state(state, series->number)) {
        return 0;
    }
    for (uint32_t i = 0; !code && i < series->heads && series->head_first + i < state->heads; i++) {
        struct result_stat stat;
        uint32_t head = series->head_first + i;
        if (of_moments) {
            stat = layer_state_stat_of_moments(state, series->number, head);
        } else {
            code = number_stat(state, series->number, head, &stat);
        }
        if (!code) {
            set_stats(series, i, row, row + 1, &stat);
        }
    }
    return code;
}

int series_read(struct query *query, struct value_series *series, uint32_t count)
{
    int code = 0;
    for (uint32_t i = 0; !code && i < count; i++) {
        code = reset_values(&series[i]);
        code = code ? code : history_values_read_chunks(query, &series[i]);
    }
    if (code) {
        return code;
    }
    sqlite3_stmt *statement;
    code = query_open(query, "SELECT bytes, data FROM states WHERE window_id = ?1", &statement,
                      SQL(sql_u64(0)));
    for (uint32_t row = 0; !code && row < series->rows.count; row++) {
        if (!series->rows.row[row].chunk_id) {
            struct layer_state *state = NULL;
            sqlite3_reset(statement);
            sqlite3_bind_int64(statement, 1, (sqlite3_int64)series->rows.row[row].window_id);
            code = query_next(query, statement);
            if (code == 1) {
                int number =
                    is_of_moments(series) ? METRIC_COUNT : series->number; /* of no histogram */
                code = state_read(statement, 0, count == 1 ? &number : NULL, &state);
            }
            for (uint32_t i = 0; !code && state && i < count; i++) {
                code = history_values_add_state(&series[i], state, row);
            }
            layer_state_free(&state);
            code = code ? code : query_check(query);
        }
    }
    sqlite3_finalize(statement);
    return code;
}

void series_choose(struct value_series *series, unsigned statistics)
{
    series->statistics = 0;
    for (int i = 0; i < STATISTIC_COUNT; i++) {
        series->slot[i] = statistics & 1u << i ? (int)series->statistics++ : -1;
    }
}

void series_clear(struct value_series *series)
{
    windows_free(&series->rows);
    free(series->value);
    series->value = NULL;
}

/* Windows in an answer */

int put_windows(struct query *query, const struct window_rows *rows)
{
    static const char *const names[] = {"first", "last", "epoch", "step", "time_ns"};
    uint32_t count = rows->count;
    uint64_t *numbers = malloc((count + !count) * sizeof *numbers);
    if (!numbers) {
        return ERR_MEMORY;
    }
    mpk_pair_map(query->result, "windows", WINDOW_COLUMNS);
    for (int c = 0; c < WINDOW_COLUMNS - 1; c++) {
        for (uint32_t i = 0; i < count; i++) {
            const struct series_window *window = &rows->row[i].window;
            const uint64_t of_window[] = {window->first, window->last, window->epoch, window->step,
                                          window->time_ns};
            numbers[i] = of_window[c];
        }
        mpk_put_str(query->result, names[c]);
        if (query->params.packed) {
            mpk_put_bin(query->result, numbers, count * sizeof *numbers);
            continue;
        }
        mpk_put_array(query->result, count);
        for (uint32_t i = 0; i < count; i++) {
            mpk_put_u64(query->result, numbers[i]);
        }
    }
    free(numbers);
    mpk_pair_array(query->result, "partial", count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_bool(query->result, rows->row[i].window.partial);
    }
    return 0;
}
