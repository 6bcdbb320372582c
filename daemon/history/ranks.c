/* SPDX-License-Identifier: MIT */
/* ranks: the mean entropy of each head by rank in one window of a layer, and which ranks are odd.
 * On a hub the parts of the nodes say it, as long as HISTORY.parts has them, and with them whose a
 * rank is; else the state of the window does, for the ranks that it keeps. */
#include "daemon/base/grow.h"
#include "daemon/history/windows.h"
#include "daemon/state/odd_ranks.h"
#include "proto/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers in an answer; the ranks beyond are left out. */
#define RANKS_CELLS_MAX (1u << 20)
#define RANKS_PATH_MAX  4096
#define RANKS_BUSY_MS   1000

struct ranks_window {
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    uint64_t first, last, epoch, step, time_ns;
    bool partial;
};

/* One node, or the window as a whole. */
struct ranks_of_node {
    uint64_t id;
    char name[FLEET_NAME_MAX + 1]; /* "" = not known */
    struct rank_entropy entropy;
};

struct ranks_found {
    struct ranks_of_node *node; /* [count]; owned */
    uint32_t count, room, heads;
};

static void history_ranks_clear(struct ranks_found *found)
{
    for (uint32_t i = 0; i < found->count; i++) {
        rank_entropy_clear(&found->node[i].entropy);
    }
    free(found->node);
    *found = (struct ranks_found){.count = 0};
}

/* The node of this id, made when there is none; NULL when out of memory. */
static struct ranks_of_node *history_ranks_node(struct ranks_found *found, uint64_t id,
                                                const char *name)
{
    for (uint32_t i = 0; i < found->count; i++) {
        if (found->node[i].id == id) {
            return &found->node[i];
        }
    }
    if (!grow(&found->node, found->count, &found->room, sizeof *found->node)) {
        return NULL;
    }
    struct ranks_of_node *node = &found->node[found->count++];
    *node = (struct ranks_of_node){.id = id};
    snprintf(node->name, sizeof node->name, "%s", name);
    return node;
}

static int history_ranks_add(struct ranks_found *found, uint64_t id, const char *name,
                             const struct layer_state *state)
{
    struct ranks_of_node *node = history_ranks_node(found, id, name);
    int code = node ? layer_state_ranks_entropy(state, state->heads, &node->entropy) : ERR_MEMORY;
    found->heads = state->heads > found->heads ? state->heads : found->heads;
    return code;
}

/* The window and its own state. */

static int history_ranks_read_window(struct query *query, struct ranks_window *window,
                                     struct ranks_found *found)
{
    const struct history_params *params = &query->params;
    uint64_t named = params->given & PARAM_LAST ? 1 : 0;
    struct layer_state *state = NULL;
    sqlite3_stmt *statement;
    int code = query_open(query,
                          "SELECT first, last, epoch, step, time_ns, partial, bytes, data"
                          " FROM windows JOIN states USING (window_id)"
                          " WHERE layer_id = ?1 AND track_id = ?2 AND (last = ?3 OR ?4 = 0)"
                          " ORDER BY last DESC LIMIT 1",
                          &statement,
                          SQL(sql_u64(window->layer.id), sql_u64(window->track.id),
                              sql_u64(named ? params->last : 0), sql_u64(named)));
    code = code ? code : query_next(query, statement);
    if (code == 0) {
        code = query_fail(query, ERR_NO_HISTORY,
                          named ? "the history has no state of a window that ends there"
                                : "the history has no state of a window of this layer yet");
    } else if (code == 1) {
        window->first = column_u64(statement, 0);
        window->last = column_u64(statement, 1);
        window->epoch = column_u64(statement, 2);
        window->step = column_u64(statement, 3);
        window->time_ns = column_u64(statement, 4);
        window->partial = column_u64(statement, 5);
        code = state_read(statement, 6, &(const int){METRIC_ENTROPY}, &state);
    }
    code = code ? code : history_ranks_add(found, 0, "", state);
    layer_state_free(&state);
    sqlite3_finalize(statement);
    return code;
}

/* The nodes' parts */

/* NULL where there is no such file. */
static sqlite3 *history_ranks_open_parts(struct query *query)
{
    const char *history = sqlite3_db_filename(query->db, "main");
    char path[RANKS_PATH_MAX];
    sqlite3 *db = NULL;
    int size = snprintf(path, sizeof path, "%s.parts", history ? history : "");
    if (size < 0 || size >= RANKS_PATH_MAX ||
        sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        sqlite3_close(db);
        return NULL;
    }
    sqlite3_busy_timeout(db, RANKS_BUSY_MS);
    return db;
}

/* Columns: node_id, the name, the state. */
static int history_ranks_add_part(sqlite3_stmt *statement, struct ranks_found *found)
{
    struct layer_state *state = NULL;
    const void *data = sqlite3_column_blob(statement, 2);
    size_t size = (size_t)sqlite3_column_bytes(statement, 2);
    int code =
        data ? layer_state_unpack_metric(data, size, METRIC_ENTROPY, &state) : ERR_STORE_FORMAT;
    if (!code) {
        code = history_ranks_add(found, column_u64(statement, 0), column_text(statement, 1), state);
    }
    layer_state_free(&state);
    return code;
}

static int history_ranks_read_parts(struct query *query, const struct ranks_window *window,
                                    struct ranks_found *found)
{
    const struct history_track *track = &window->track.track;
    const struct layer_id *id = &window->layer.layer;
    uint64_t part = config_window_part(track->length, track->every), units = part ? part : 1;
    struct query parts = *query;
    sqlite3_stmt *statement = NULL;
    char detail[HISTORY_DETAIL_MAX] = "";
    parts.db = history_ranks_open_parts(query);
    if (!parts.db) {
        return 0;
    }
    parts.detail = detail;
    int code = query_open(
        &parts,
        "SELECT parts.node_id, coalesce(nullif(nodes.name, ''), lower(hex(node))), state FROM parts"
        " JOIN nodes USING (node_id) JOIN runs USING (run_id) JOIN tracks USING (track_id)"
        " WHERE job = ?1 AND run = ?2 AND unit = ?3 AND length = ?4 AND every = ?5"
        " AND part BETWEEN ?6 AND ?7 AND layer = ?8 ORDER BY part",
        &statement,
        SQL(sql_text(window->run.job), sql_blob(window->run.run, RUN_BYTES), sql_u64(track->unit),
            sql_u64(track->length), sql_u64(track->every), sql_u64(window->first / units),
            sql_u64(window->last / units), sql_u64(header_layer_key(*id))));
    while (!code && (code = query_next(&parts, statement)) == 1) {
        code = history_ranks_add_part(statement, found);
        code = code == ERR_STORE_FORMAT ? 0 : code;
        code = code ? code : query_check(query);
    }
    sqlite3_finalize(statement);
    sqlite3_close(parts.db);
    if (code != ERR_HISTORY_OFF) {
        return code;
    }
    history_ranks_clear(found); /* a file that cannot be read knows nothing */
    return 0;
}

/* Answers */

static void history_ranks_put(struct query *query, const struct ranks_window *window,
                              const struct ranks_found *found, const struct odd_rank *ranks,
                              uint32_t count)
{
    uint32_t heads = found->heads, most = RANKS_CELLS_MAX / (heads ? heads : 1);
    uint32_t listed = count < most ? count : most;
    mpk_put_map(query->result, put_layer_count(&window->layer) + 16);
    put_run(query, &window->run);
    put_layer(query, &window->layer);
    put_track(query, &window->track);
    put_u64(query, "first", window->first);
    put_u64(query, "last", window->last);
    put_u64(query, "epoch", window->epoch);
    put_u64(query, "step", window->step);
    put_u64(query, "time_ns", window->time_ns);
    mpk_pair_bool(query->result, "partial", window->partial);
    put_text(query, "metric", "entropy");
    put_u64(query, "heads", heads);
    mpk_pair_array(query->result, "ranks", listed);
    for (uint32_t i = 0; i < listed; i++) {
        const struct odd_rank *rank = &ranks[i];
        const char *node = found->node[rank->node].name;
        const struct rank_means *means = rank->means;
        uint64_t rows = 0;
        for (uint32_t j = 0; j < means->heads; j++) {
            rows += means->rows[j];
        }
        mpk_put_map(query->result, 8);
        put_u64(query, "rank", means->rank);
        put_text(query, "node", *node ? node : NULL);
        put_u64(query, "rows", rows);
        mpk_pair_array(query->result, "mean", heads);
        for (uint32_t h = 0; h < heads; h++) {
            bool has = h >= means->first && h - means->first < means->heads &&
                       means->rows[h - means->first] > 0;
            mpk_put_f64(query->result, has ? means->mean[h - means->first] : NAN);
        }
        mpk_pair_f64(query->result, "distance", rank->distance);
        mpk_pair_bool(query->result, "odd", rank->odd);
        mpk_pair_u64_or_nil(query->result, "head", rank->distance >= 0, rank->head);
        mpk_pair_f64(query->result, "median", rank->distance >= 0 ? rank->median : NAN);
    }
    struct mpk_open odd = mpk_open(query->result, "odd");
    for (uint32_t i = 0; i < count; i++) {
        if (ranks[i].odd) {
            mpk_put_u64(query->result, ranks[i].means->rank);
        }
    }
    mpk_close_array(query->result, &odd);
    mpk_pair_bool(query->result, "more", listed < count);
}

static int history_ranks_compare(const void *a, const void *b)
{
    const struct odd_rank *x = a, *y = b;
    if (x->means->rank != y->means->rank) {
        return x->means->rank < y->means->rank ? -1 : 1;
    }
    return (x->node > y->node) - (x->node < y->node);
}

static int history_ranks_answer(struct query *query, const struct ranks_window *window,
                                const struct ranks_found *found)
{
    uint32_t count = 0, heads = found->heads;
    for (uint32_t i = 0; i < found->count; i++) {
        count += found->node[i].entropy.count;
    }
    if (count == 0) {
        return query_fail(query, ERR_NO_HISTORY,
                          "this window does not tell its ranks apart: it has no entropies "
                          "(metrics.core), or an older attnd or client wrote it");
    }
    struct odd_rank *ranks = calloc(count, sizeof *ranks);
    if (!ranks) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0, at = 0; i < found->count; i++) {
        for (uint32_t r = 0; r < found->node[i].entropy.count; r++) {
            ranks[at++] = (struct odd_rank){.means = &found->node[i].entropy.means[r], .node = i};
        }
    }
    qsort(ranks, count, sizeof *ranks, history_ranks_compare);
    int code = odd_ranks_judge(ranks, count, heads);
    if (!code) {
        history_ranks_put(query, window, found, ranks, count);
    }
    free(ranks);
    return code;
}

int history_ranks(struct query *query)
{
    struct ranks_window window = {.first = 0};
    struct ranks_found whole = {.count = 0}, parts = {.count = 0};
    if ((query->params.given & PARAM_METRIC) && strcmp(query->params.metric, "entropy") != 0) {
        return query_fail(query, ERR_ARGUMENT,
                          "metric is not accepted: %s (valid: entropy, which alone is known by "
                          "rank)",
                          query->params.metric);
    }
    int code = find_asked(query, &window.run, &window.layer, &window.track);
    code = code ? code : history_ranks_read_window(query, &window, &whole);
    code = code ? code : history_ranks_read_parts(query, &window, &parts);
    if (!code) {
        code = history_ranks_answer(query, &window, parts.count > 0 ? &parts : &whole);
    }
    history_ranks_clear(&whole);
    history_ranks_clear(&parts);
    return code;
}
