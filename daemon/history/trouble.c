/* SPDX-License-Identifier: MIT */
/* trouble: that of the newest judged window of each layer of a run, and the alerts about layers and
 * the run that were not resolved, for the method of control: not for clients. */
#include "daemon/history/find.h"

#include <string.h>

/* Columns: as found_layer, then the map. One that is damaged is nil. */
static void history_trouble_put_layer(struct query *query, sqlite3_stmt *statement)
{
    struct found_layer layer = found_layer(statement);
    const void *map = sqlite3_column_blob(statement, 6);
    size_t size = (size_t)sqlite3_column_bytes(statement, 6);
    mpk_put_map(query->result, put_layer_count(&layer) + 1);
    put_layer(query, &layer);
    mpk_put_str(query->result, "trouble");
    if (map && mpk_check(map, size, &mpk_result_limits) == 0) {
        mpk_put_raw(query->result, map, size);
    } else {
        mpk_put_nil(query->result);
    }
}

static int history_trouble_put_layers(struct query *query, const struct found_run *run)
{
    sqlite3_stmt *statement;
    int code = query_open(query,
                          "SELECT layer_id, stack, layer, site, heads, module, trouble FROM layers"
                          " WHERE run_id = ?1 AND trouble IS NOT NULL",
                          &statement, "i", run->id);
    if (!code) {
        code = put_list(query, statement, "layers", UINT64_MAX, history_trouble_put_layer);
    }
    sqlite3_finalize(statement);
    return code;
}

/* An alert is what was said of it last. */
static int history_trouble_put_alerts(struct query *query, const struct found_run *run)
{
    sqlite3_stmt *statement;
    int code = query_open(
        query,
        HISTORY_ALERTS
        " WHERE run_id = ?1 AND head = -1 AND alerts.state <> ?2 AND NOT EXISTS"
        " (SELECT 1 FROM alerts AS later WHERE later.run_id = ?1"
        "  AND later.alert_id > alerts.alert_id AND later.rule = alerts.rule AND later.head = -1"
        "  AND later.stack IS alerts.stack AND later.layer IS alerts.layer"
        "  AND later.site IS alerts.site) ORDER BY alert_id",
        &statement, "ii", run->id, (uint64_t)ALERT_RESOLVED);
    if (!code) {
        code = put_list(query, statement, "alerts", UINT64_MAX, history_put_alert);
    }
    sqlite3_finalize(statement);
    return code;
}

int history_trouble(struct query *query)
{
    struct found_run run;
    int code = find_run(query, query->params.job, query->params.run, &run);
    if (code) {
        return code;
    }
    mpk_put_map(query->result, 5);
    put_run(query, &run);
    put_text(query, "state", job_state_name(run.state));
    code = history_trouble_put_layers(query, &run);
    return code ? code : history_trouble_put_alerts(query, &run);
}
