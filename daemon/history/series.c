/* SPDX-License-Identifier: MIT */
/* history: one metric of a layer over its windows, of one head or of all.
 *
 * The numbers are collected as [head][statistic][window], of the statistics that are asked for
 * only, then written column by column. A number that a window does not have is NaN, with a count of
 * 0. An answer has at most VALUES_MAX values, so that a client's limits on elements and bytes hold;
 * `more` says that windows were left out. */
#include "daemon/history/values.h"

#include <endian.h>
#include <math.h>
#include <string.h>

#define VALUES_MAX (3u << 20)

static const char *const default_metrics[] = {"entropy_normalized", "max_logit", "spectral_norm",
                                              "qk_spectral_norm"};

/* The question */

static int choose_heads(struct query *query, struct value_series *series)
{
    bool asked = query->params.given & PARAM_HEAD;
    series->of_layer = series->number >= 0 && number_is_of_layer(series->number);
    if (series->of_layer && asked) {
        return query_fail(query, ERR_ARGUMENT, "%s is a number of the layer: head does not apply",
                          series->metric);
    }
    if (asked && query->params.head >= series->layer.heads) {
        return query_fail(query, ERR_ARGUMENT, "the layer has no head %llu (valid: 0 to %u)",
                          (unsigned long long)query->params.head,
                          (unsigned)(series->layer.heads - 1));
    }
    series->head_first = asked ? (uint32_t)query->params.head : 0;
    series->heads = asked || series->of_layer ? 1 : series->layer.heads;
    return 0;
}

/* Windows that an answer may have: what was asked for, unless that is too many values. */
static uint32_t window_limit(const struct query *query, const struct value_series *series)
{
    uint64_t per_window = WINDOW_COLUMNS + (uint64_t)series->heads * series->statistics;
    uint64_t most = VALUES_MAX / per_window;
    most = most > 0 ? most : 1;
    return (uint32_t)(query->params.limit < most ? query->params.limit : most);
}

/* Says which numbers there are. */
static int history_series_refuse_metric(struct query *query, const struct value_series *series)
{
    bool has[NUMBER_COUNT];
    char layer[LAYER_NAME_MAX], name[NUMBER_NAME_MAX];
    int code = windows_numbers(query, &series->layer, &series->track, has);
    if (code) {
        return code;
    }
    layer_name(series->layer.layer, layer);
    query_fail(query, ERR_NO_HISTORY, "%s has no '%s' in these windows; it has", layer,
               series->metric);
    for (int i = 0; i < NUMBER_COUNT; i++) {
        size_t used = strlen(query->detail);
        number_name(i, name);
        if (has[i] && used + strlen(name) + 8 < HISTORY_DETAIL_MAX) {
            snprintf(query->detail + used, HISTORY_DETAIL_MAX - used, " %s", name);
        }
    }
    return ERR_NO_HISTORY;
}

static int history_series_read_series(struct query *query, struct value_series *series)
{
    bool asked = query->params.given & PARAM_METRIC;
    int count = asked ? 1 : (int)(sizeof default_metrics / sizeof default_metrics[0]);
    int code = 0;
    series_choose(series, query->params.statistics);
    for (int i = 0; !code && i < count && !series->any; i++) {
        /* The windows and a metric's numbers in them. */
        const char *metric = asked ? query->params.metric : default_metrics[i];
        series->metric = metric;
        series->number = number_find(metric);
        code = choose_heads(query, series);
        windows_free(&series->rows);
        if (!code) {
            code = windows_read(query, &series->layer, &series->track, window_limit(query, series),
                                &series->rows);
        }
        code = code ? code : series_read(query, series, 1);
    }
    if (!code && series->rows.count == 0) {
        char layer[LAYER_NAME_MAX], track[TRACK_TEXT_MAX];
        layer_name(series->layer.layer, layer);
        track_text(&series->track.track, track);
        return query_fail(query, ERR_NO_HISTORY, "%s has no window of %s in this range", layer,
                          track);
    }
    return code || series->any ? code : history_series_refuse_metric(query, series);
}

/* The rows of the newest window, and of how many they are. Without a state of it that can be read
 * both stay 0: an old window has none any more, and the numbers of a chunk are answered as ever. */
static int history_series_count_rows(struct query *query, const struct value_series *series,
                                     uint64_t *ret_rows, uint64_t *ret_of)
{
    struct layer_state *state = NULL;
    sqlite3_stmt *statement;
    uint64_t last = series->rows.row[series->rows.count - 1].window.last;
    int code = query_open(query,
                          "SELECT bytes, data FROM windows JOIN states USING (window_id)"
                          " WHERE layer_id = ?1 AND track_id = ?2 AND last = ?3",
                          &statement,
                          SQL(sql_u64(series->layer.id), sql_u64(series->track.id), sql_u64(last)));
    code = code ? code : query_next(query, statement);
    if (code == 1) {
        code = state_read(statement, 0, &(const int){METRIC_COUNT}, &state); /* of no histogram */
    }
    sqlite3_finalize(statement);
    if (state) {
        *ret_rows = state->rows;
        *ret_of = state->rows_of;
    }
    layer_state_free(&state);
    if (code == ERR_STORE_FORMAT || code == ERR_HISTORY_OFF) {
        query->detail[0] = '\0';
        return 0;
    }
    return code;
}

/* The answer */

static void history_series_put_column(struct query *query, const double *numbers, uint32_t count,
                                      int statistic)
{
    if (query->params.packed) {
        mpk_put_bin(query->result, numbers, count * sizeof *numbers);
        return;
    }
    mpk_put_array(query->result, count);
    if (statistic != STATISTIC_NUMBER) {
        /* As mpk_put_f64 each, but in blocks: a long history has a million of them. */
        enum { BLOCK = 256 };
        uint8_t bytes[9 * BLOCK];
        for (uint32_t from = 0, to; from < count; from = to) {
            uint8_t *at = bytes;
            to = count - from < BLOCK ? count : from + BLOCK;
            for (uint32_t i = from; i < to; i++) {
                uint64_t bits;
                memcpy(&bits, &numbers[i], sizeof bits);
                bits = htobe64(bits);
                *at++ = isfinite(numbers[i]) ? 0xcb : 0xc0; /* float 64, nil */
                memcpy(at, &bits, sizeof bits);
                at += isfinite(numbers[i]) ? sizeof bits : 0;
            }
            mpk_put_raw(query->result, bytes, (size_t)(at - bytes));
        }
    }
    for (uint32_t i = 0; statistic == STATISTIC_NUMBER && i < count; i++) {
        mpk_put_u64(query->result, (uint64_t)numbers[i]);
    }
}

int history_series(struct query *query)
{
    struct value_series series = {.heads = 0};
    uint64_t rows = 0, of = 0;
    int code = find_asked(query, &series.run, &series.layer, &series.track);
    code = code ? code : history_series_read_series(query, &series);
    code = code ? code : history_series_count_rows(query, &series, &rows, &of);
    if (!code) {
        mpk_put_map(query->result, 10u + (of > 0) + (of > rows));
        put_run(query, &series.run);
        put_text(query, "metric", series.metric);
        put_track(query, &series.track);
        mpk_pair_array(query->result, "heads", series.heads);
        for (uint32_t i = 0; i < series.heads; i++) {
            mpk_put_map(query->result, put_layer_count(&series.layer) + 1);
            put_layer(query, &series.layer);
            mpk_pair_u64_or_nil(query->result, "head", !series.of_layer, series.head_first + i);
        }
        mpk_pair_bool(query->result, "more", series.rows.more);
        if (of > 0) {
            mpk_pair_u64(query->result, "rows", rows);
        }
        if (of > rows) {
            mpk_pair_u64(query->result, "rows_of", of);
        }
        code = put_windows(query, &series.rows);
        mpk_pair_map(query->result, "values", series.statistics);
        for (int i = 0; i < STATISTIC_COUNT; i++) {
            if (series.slot[i] >= 0) {
                bool one = series.of_layer || (query->params.given & PARAM_HEAD);
                mpk_put_str(query->result, statistic_name[i]);
                if (!one) {
                    mpk_put_array(query->result, series.heads);
                }
                for (uint32_t head = 0; head < series.heads; head++) {
                    history_series_put_column(query, series_column(&series, head, i),
                                              series.rows.count, i);
                }
            }
        }
    }
    series_clear(&series);
    return code;
}
