/* SPDX-License-Identifier: MIT */
/* alerts: the alerts that fired, were resolved and fired at the end, newest first, as the maps that
 * were published. */
#include "daemon/history/find.h"

#include "config/rules.h"
#include "proto/mpk.h"

#include <math.h>
#include <string.h>

static double column_real(sqlite3_stmt *statement, int column)
{
    return sqlite3_column_type(statement, column) == SQLITE_NULL
               ? NAN
               : sqlite3_column_double(statement, column);
}

#define HISTORY_ALERTS                                                                             \
    "SELECT job, run, alerts.epoch, alerts.step, alerts.time_ns, rule, severity, alerts.state,"    \
    " metric, stack, layer, site, head, value, bound, since_after, since_step, message,"           \
    " (SELECT module FROM layers WHERE layers.run_id = alerts.run_id AND"                          \
    "  layers.stack = alerts.stack AND layers.layer = alerts.layer AND"                            \
    "  layers.site = alerts.site)"                                                                 \
    " FROM alerts JOIN runs USING (run_id)"

/* Its columns. */
enum {
    JOB,
    RUN,
    EPOCH,
    STEP,
    TIME,
    RULE,
    SEVERITY,
    STATE,
    METRIC,
    STACK,
    LAYER,
    SITE,
    HEAD,
    VALUE,
    BOUND,
    SINCE_AFTER,
    SINCE_STEP,
    MESSAGE,
    MODULE
};

/* The map of an alert. */
static void history_put_alert(struct query *query, sqlite3_stmt *statement)
{
    uint8_t run[RUN_BYTES];
    column_run(statement, RUN, run);
    const char *module = column_text(statement, MODULE);
    struct alert_result alert = {
        .common = {column_text(statement, JOB), run, column_u64(statement, EPOCH),
                   column_u64(statement, STEP), column_u64(statement, TIME)},
        .rule = column_text(statement, RULE),
        .severity = (enum alert_severity)column_choice(statement, SEVERITY, ALERT_CRITICAL + 1),
        .state = (enum alert_state)column_choice(statement, STATE, ALERT_STATE_COUNT),
        .metric = column_text(statement, METRIC),
        .has_layer = sqlite3_column_type(statement, STACK) != SQLITE_NULL,
        .layer = {(enum stack)column_choice(statement, STACK, 2),
                  (uint32_t)column_u64(statement, LAYER),
                  (enum site)column_choice(statement, SITE, 2)},
        .module = module_path_valid(module, strlen(module)) ? module : NULL,
        .head = (int32_t)sqlite3_column_int(statement, HEAD),
        .value = column_real(statement, VALUE),
        .bound = column_real(statement, BOUND),
        .since_after = sqlite3_column_type(statement, SINCE_AFTER) == SQLITE_NULL
                           ? ALERT_FROM_START
                           : column_u64(statement, SINCE_AFTER),
        .since_step = column_u64(statement, SINCE_STEP),
        .message = column_text(statement, MESSAGE),
        .why = rule_why(column_text(statement, RULE), column_text(statement, METRIC)),
        .advice = rule_advice(column_text(statement, RULE), column_text(statement, METRIC)),
    };
    alert_encode(&alert, query->result);
}

/* The value of an enum by its name; -1 for "". */
static int history_alerts_severity_of(const char *name)
{
    int severity = *name ? ALERT_CRITICAL : -1;
    while (severity > 0 && strcmp(name, alert_severity_name((enum alert_severity)severity)) != 0) {
        severity--;
    }
    return severity;
}

static int history_alerts_state_of(const char *name)
{
    int state = *name ? ALERT_STATE_COUNT - 1 : -1;
    while (state > 0 && strcmp(name, alert_state_name((enum alert_state)state)) != 0) {
        state--;
    }
    return state;
}

int history_alerts(struct query *query)
{
    const struct history_params *params = &query->params;
    struct found_run run = {.id = 0};
    sqlite3_stmt *statement;
    int code = 0;
    if (*params->run && !*params->job) {
        return query_fail(query, ERR_ARGUMENT, "run needs a job");
    }
    if (*params->job) {
        code = find_run(query, params->job, params->run, &run);
    }
    if (!code) {
        /* run_id 0 = of any run. */
        code = query_open(
            query,
            HISTORY_ALERTS " WHERE (run_id = ?1 OR ?1 = 0) AND (job = ?2 OR ?2 = '') AND job != ''"
                           " AND (rule = ?3 OR ?3 = '')"
                           " AND alerts.step BETWEEN ?4 AND ?5 AND (severity = ?7 OR ?7 < 0)"
                           " AND (alerts.state = ?8 OR ?8 < 0) AND jobs_match(?9, job)"
                           " ORDER BY alert_id DESC LIMIT ?6",
            &statement,
            SQL(sql_u64(*params->run ? run.id : 0), sql_text(params->job), sql_text(params->rule),
                sql_u64(params->from), sql_u64(params->to), sql_u64(params->limit + 1),
                sql_i64(history_alerts_severity_of(params->severity)),
                sql_i64(history_alerts_state_of(params->state)), sql_text(params->jobs)));
    }
    if (code) {
        return code;
    }
    mpk_put_map(query->result, 2);
    code = put_rows(query, statement, "alerts", params->limit, history_put_alert);
    sqlite3_finalize(statement);
    return code;
}

/* verdict: the alerts of a run that were not resolved, in the order of those in memory
 * (alerts_each), as the method of control answers it. */
int history_verdict(struct query *query)
{
    struct found_run run;
    int code = find_run(query, query->params.job, query->params.run, &run);
    if (code) {
        return code;
    }
    mpk_put_map(query->result, 7 + put_state_count(run.state));
    put_run(query, &run);
    put_state(query, run.state, &run.failure);
    put_u64(query, "epoch", run.epoch);
    put_u64(query, "step", run.step);
    mpk_pair_nil(query->result, "checks");
    /* An alert is what was said of it last. */
    sqlite3_stmt *statement;
    code = query_open(
        query,
        HISTORY_ALERTS " WHERE run_id = ?1 AND alerts.state <> ?2 AND NOT EXISTS"
                       " (SELECT 1 FROM alerts AS later WHERE later.run_id = ?1"
                       "  AND later.alert_id > alerts.alert_id AND later.rule = alerts.rule"
                       "  AND later.head = alerts.head AND later.stack IS alerts.stack"
                       "  AND later.layer IS alerts.layer AND later.site IS alerts.site)"
                       " ORDER BY severity DESC, rule_place(rule), rule, abs(value - bound) DESC, "
                       "alert_id LIMIT ?3",
        &statement,
        SQL(sql_u64(run.id), sql_u64(ALERT_RESOLVED), sql_u64(query->params.limit + 1)));
    code =
        code ? code : put_rows(query, statement, "alerts", query->params.limit, history_put_alert);
    sqlite3_finalize(statement);
    return code;
}
