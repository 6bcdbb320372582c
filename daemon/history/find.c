/* SPDX-License-Identifier: MIT */
#include "daemon/history/find.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Runs, layers and tracks that a sentence names at most. */
#define NAMED_MAX 6

/* Sentences */

/* A list in query->detail: "a, b, c, ...". */
static void history_find_add_name(struct query *query, int index, const char *name)
{
    size_t used = strlen(query->detail);
    const char *separator = index > 0 ? ", " : "";
    if (index <= NAMED_MAX) {
        snprintf(query->detail + used, HISTORY_DETAIL_MAX - used, "%s%s", separator,
                 index < NAMED_MAX ? name : "...");
    }
}

void track_text(const struct history_track *track, char ret_text[TRACK_TEXT_MAX])
{
    const char *s = track->length == 1 ? "" : "s";
    int used = snprintf(ret_text, TRACK_TEXT_MAX, "%" PRIu64 " %s%s", track->length,
                        window_unit_name(track->unit), s);
    if (track->every != track->length) {
        snprintf(ret_text + used, TRACK_TEXT_MAX - (size_t)used, " every %" PRIu64, track->every);
    }
}

/* Runs */

enum job_state column_state(sqlite3_stmt *row, int state, int failure, struct failure *ret_failure)
{
    enum job_state shown = (enum job_state)column_choice(row, state, JOB_STATE_COUNT);
    const void *data = sqlite3_column_blob(row, failure);
    struct mpk_doc doc;
    *ret_failure = (struct failure){.type = "?"}; /* what a damaged database says */
    if (shown == JOB_FAILED && data &&
        mpk_parse(data, (size_t)sqlite3_column_bytes(row, failure), &mpk_header_limits, &doc) ==
            0) {
        failure_read(doc.root, ret_failure);
        mpk_doc_clear(&doc);
    }
    return shown;
}

uint32_t put_state_count(enum job_state state)
{
    return 1U + (state == JOB_FAILED);
}

void put_state(struct query *query, enum job_state state, const struct failure *failure)
{
    put_text(query, "state", job_state_name(state));
    if (state == JOB_FAILED) {
        mpk_put_str(query->result, "failure");
        failure_put(failure, query->result);
    }
}

static void history_find_read_run(sqlite3_stmt *statement, const char *job, struct found_run *run)
{
    *run = (struct found_run){.id = column_u64(statement, 0),
                              .world = (uint32_t)column_u64(statement, 3),
                              .first_ns = column_u64(statement, 4),
                              .last_ns = column_u64(statement, 5),
                              .epoch = column_u64(statement, 6),
                              .step = column_u64(statement, 7)};
    run->state = column_state(statement, 2, 8, &run->failure);
    column_run(statement, 1, run->run);
    run_hex(run->run, run->hex);
    snprintf(run->job, sizeof run->job, "%s", job);
}

/* Looks at all runs of the job, in the order of find_run; keeps the first that fits. */
static int scan_runs(struct query *query, sqlite3_stmt *statement, const char *job,
                     const char *prefix, struct found_run *ret_run, int *ret_runs, int *ret_matches)
{
    int rc;
    *ret_runs = *ret_matches = 0;
    while ((rc = query_next(query, statement)) == 1) {
        struct found_run run;
        history_find_read_run(statement, job, &run);
        if (strncmp(run.hex, prefix, strlen(prefix)) == 0 && ++*ret_matches == 1) {
            *ret_run = run;
        }
        ++*ret_runs;
        if (!*prefix) {
            return 0;
        }
    }
    return rc;
}

int find_run(struct query *query, const char *job, const char *prefix, struct found_run *ret_run)
{
    sqlite3_stmt *statement;
    int runs = 0, matches = 0;
    int code = query_open(query,
                          "SELECT run_id, run, state, world, first_ns, last_ns, epoch, step,"
                          " failure"
                          " FROM runs WHERE job = ?1 ORDER BY state = ?2 DESC,"
                          " CASE WHEN state = ?2 THEN run_id ELSE last_ns END DESC, run_id DESC",
                          &statement, SQL(sql_text(job), sql_u64(JOB_ACTIVE)));
    if (code) {
        return code;
    }
    code = scan_runs(query, statement, job, prefix, ret_run, &runs, &matches);
    if (!code && runs == 0) {
        code = ERR_JOB_UNKNOWN;
    } else if (!code && matches != 1) {
        if (matches > 1) {
            query_fail(query, ERR_RUN_UNKNOWN, "run '%s' may be any of ", prefix);
        } else {
            query_fail(query, ERR_RUN_UNKNOWN, "no run of %s begins with '%s'; there are ", job,
                       prefix);
        }
        const char *beginning = matches > 1 ? prefix : "";
        int index = 0;
        sqlite3_reset(statement);
        while (query_next(query, statement) == 1) {
            struct found_run run;
            history_find_read_run(statement, job, &run);
            if (strncmp(run.hex, beginning, strlen(beginning)) == 0) {
                history_find_add_name(query, index++, run.hex);
            }
        }
        code = ERR_RUN_UNKNOWN;
    }
    sqlite3_finalize(statement);
    return code;
}

/* Layers */

int find_no_window(struct query *query, const struct found_run *run, const char *also)
{
    bool ended = job_state_is_over(run->state);
    return query_fail(query, ERR_NO_HISTORY, "run %.8s of %s has no window in the history%s%s: %s",
                      run->hex, run->job, ended ? "" : " yet", also,
                      ended ? "it has ended" : "it comes when the first one closes");
}

struct asked_layer find_asked_layer(const struct query *query)
{
    const struct history_params *params = &query->params;
    return (struct asked_layer){
        .stack = !*params->stack                                         ? ASKED_ANY
                 : strcmp(params->stack, stack_name(STACK_ENCODER)) == 0 ? STACK_ENCODER
                                                                         : STACK_DECODER,
        .site = !*params->site                                    ? ASKED_ANY
                : strcmp(params->site, site_name(SITE_SELF)) == 0 ? SITE_SELF
                                                                  : SITE_CROSS,
        .layer = params->given & PARAM_LAYER ? params->layer : ASKED_ANY,
    };
}

int open_layers(struct query *query, const struct found_run *run, sqlite3_stmt **ret_statement)
{
    struct asked_layer asked = find_asked_layer(query);
    return query_open(query,
                      "SELECT layer_id, stack, layer, site, heads, module FROM layers"
                      " WHERE run_id = ?1 AND (stack = ?2 OR ?2 = ?5)"
                      " AND (layer = ?3 OR ?3 = ?5) AND (site = ?4 OR ?4 = ?5)"
                      " ORDER BY stack, layer, site",
                      ret_statement,
                      SQL(sql_u64(run->id), sql_u64(asked.stack), sql_u64(asked.layer),
                          sql_u64(asked.site), sql_u64(ASKED_ANY)));
}

struct found_layer found_layer(sqlite3_stmt *statement)
{
    struct found_layer layer = {
        .id = column_u64(statement, 0),
        .layer = {(enum stack)column_choice(statement, 1, 2), (uint32_t)column_u64(statement, 2),
                  (enum site)column_choice(statement, 3, 2)},
        .heads = column_choice(statement, 4, LAYER_HEADS_MAX + 1),
    };
    const char *module = column_text(statement, 5);
    if (module_path_valid(module, strlen(module))) {
        strcpy(layer.module, module);
    }
    return layer;
}

static int first_layer(struct query *query, const struct found_run *run,
                       struct found_layer *ret_layer)
{
    sqlite3_stmt *statement;
    int code = open_layers(query, run, &statement);
    if (code) {
        return code;
    }
    code = query_next(query, statement);
    if (code == 1) {
        *ret_layer = found_layer(statement);
    }
    sqlite3_finalize(statement);
    return code == 1 ? 0 : code ? code : ERR_NO_HISTORY;
}

int find_layer(struct query *query, const struct found_run *run, struct found_layer *ret_layer)
{
    int code = first_layer(query, run, ret_layer);
    if (code != ERR_NO_HISTORY) {
        return code;
    }
    /* Names the layers that there are. */
    sqlite3_stmt *statement;
    int index = 0;
    query->params.stack[0] = query->params.site[0] = '\0';
    query->params.given &= ~(unsigned)PARAM_LAYER;
    code = open_layers(query, run, &statement);
    if (code) {
        return code;
    }
    query_fail(query, ERR_NO_HISTORY, "run %.8s of %s has no such layer; it has ", run->hex,
               run->job);
    while (query_next(query, statement) == 1) {
        struct found_layer layer = found_layer(statement);
        char text[LAYER_NAME_MAX];
        layer_name(layer.layer, text);
        history_find_add_name(query, index++, text);
    }
    sqlite3_finalize(statement);
    return index > 0 ? ERR_NO_HISTORY : find_no_window(query, run, "");
}

/* Tracks */

/* How well it is the one that was asked for, or else the one that rules judge: 2 surely, 1 if there
 * is none such: one that the config does not have is what its run has asked for. */
static int history_find_rate(const struct query *query, const struct history_track *track)
{
    const struct history_track *asked = &query->params.track;
    if (query->params.given & PARAM_WINDOW) {
        return track->unit == asked->unit && track->length == asked->length &&
                       track->every == asked->every
                   ? 2
                   : 0;
    }
    int index = config_window_find(query->config, (int)track->unit, track->length, track->every);
    return index == 0 ? 2 : index < 0;
}

struct history_track column_track(sqlite3_stmt *row, int column)
{
    return (struct history_track){(enum window_unit)column_choice(row, column, WINDOW_SECOND + 1),
                                  column_u64(row, column + 1), column_u64(row, column + 2)};
}

static int refuse_track(struct query *query, const struct found_layer *layer,
                        sqlite3_stmt *statement, int tracks)
{
    char wanted[TRACK_TEXT_MAX], text[TRACK_TEXT_MAX], name[LAYER_NAME_MAX];
    track_text(&query->params.track, wanted);
    layer_name(layer->layer, name);
    if (tracks == 0) {
        return query_fail(query, ERR_NO_HISTORY, "%s has no window in the history yet", name);
    }
    query_fail(query, ERR_NO_HISTORY, "%s has no windows of %s; it has those of ", name, wanted);
    sqlite3_reset(statement);
    for (int index = 0; query_next(query, statement) == 1; index++) {
        struct history_track track = column_track(statement, 1);
        track_text(&track, text);
        history_find_add_name(query, index, text);
    }
    return ERR_NO_HISTORY;
}

int find_track(struct query *query, const struct found_layer *layer, struct found_track *ret_track)
{
    bool asked = query->params.given & PARAM_WINDOW;
    struct found_track first = {.id = 0};
    sqlite3_stmt *statement;
    /* Tracks in which the layer has windows, the one with the newest window first. */
    int best = -1, tracks = 0;
    int code =
        query_open(query,
                   "SELECT track_id, unit, length, every,"
                   " (SELECT window_id FROM windows WHERE layer_id = ?1"
                   "  AND windows.track_id = tracks.track_id ORDER BY last DESC LIMIT 1) AS newest"
                   " FROM tracks WHERE newest IS NOT NULL ORDER BY newest DESC",
                   &statement, SQL(sql_u64(layer->id)));
    if (code) {
        return code;
    }
    while (best < 2 && (code = query_next(query, statement)) == 1) {
        struct found_track track = {column_u64(statement, 0), column_track(statement, 1)};
        int rate = history_find_rate(query, &track.track);
        tracks++;
        if (rate > best) {
            first = track;
            best = rate;
        }
    }
    if (code >= 0) {
        bool usable = best == 2 || (tracks > 0 && !asked);
        code = usable ? 0 : refuse_track(query, layer, statement, tracks);
        *ret_track = first;
    }
    sqlite3_finalize(statement);
    return code;
}

int find_asked(struct query *query, struct found_run *ret_run, struct found_layer *ret_layer,
               struct found_track *ret_track)
{
    int code = find_run(query, query->params.job, query->params.run, ret_run);
    code = code ? code : find_layer(query, ret_run, ret_layer);
    return code ? code : find_track(query, ret_layer, ret_track);
}

/* Answers */

void put_text(struct query *query, const char *key, const char *text)
{
    mpk_pair_str(query->result, key, text);
}

void put_u64(struct query *query, const char *key, uint64_t number)
{
    mpk_pair_u64(query->result, key, number);
}

void put_run(struct query *query, const struct found_run *run)
{
    put_text(query, "job", run->job);
    put_text(query, "run", run->hex);
}

void put_track(struct query *query, const struct found_track *track)
{
    put_text(query, "unit", window_unit_name(track->track.unit));
    put_u64(query, "length", track->track.length);
    put_u64(query, "every", track->track.every);
}

uint32_t put_layer_count(const struct found_layer *layer)
{
    return 3 + (layer->module[0] != '\0');
}

void put_layer(struct query *query, const struct found_layer *layer)
{
    put_text(query, "stack", stack_name(layer->layer.stack));
    put_u64(query, "layer", layer->layer.layer);
    put_text(query, "site", site_name(layer->layer.site));
    if (layer->module[0]) {
        put_text(query, "module", layer->module);
    }
}

int put_rows(struct query *query, sqlite3_stmt *statement, const char *key, uint64_t limit,
             void (*put)(struct query *query, sqlite3_stmt *statement))
{
    struct mpk_open rows = mpk_open(query->result, key);
    int code;
    for (uint64_t count = 0; (code = query_next(query, statement)) == 1 && count < limit; count++) {
        put(query, statement);
    }
    mpk_close_array(query->result, &rows);
    mpk_pair_bool(query->result, "more", code == 1);
    return code < 0 ? code : mpk_writer_ok(query->result) ? 0 : ERR_MEMORY;
}
