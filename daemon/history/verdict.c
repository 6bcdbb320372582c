/* SPDX-License-Identifier: MIT */
/* verdict: the alerts of a run that were not resolved, in the order of those in memory
 * (alerts_each), as the method of control answers it. */
#include "daemon/history/find.h"

#include "proto/mpk.h"

int history_verdict(struct query *query)
{
    struct found_run run;
    int code = find_run(query, query->params.job, query->params.run, &run);
    if (code) {
        return code;
    }
    mpk_put_map(query->result, 8);
    put_run(query, &run);
    put_text(query, "state", job_state_name(run.state));
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
    if (!code) {
        code = put_rows(query, statement, "alerts", query->params.limit, history_put_alert);
    }
    sqlite3_finalize(statement);
    return code;
}
