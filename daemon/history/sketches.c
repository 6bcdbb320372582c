/* SPDX-License-Identifier: MIT */
/* sketches: how the weights of heads moved from capture to capture, as it was published. */
#include "daemon/history/find.h"

#include <stdlib.h>

/* nil for what cannot be read. */
static void history_put_sketch(struct query *query, sqlite3_stmt *statement)
{
    static const char *const keys[] = {"epoch", "step", "time_ns"};
    struct layer_id id = {.stack = (enum stack)column_choice(statement, 0, 2),
                          .layer = (uint32_t)column_u64(statement, 1),
                          .site = (enum site)column_choice(statement, 2, 2)};
    uint64_t bytes = column_u64(statement, 6);
    uint8_t *numbers = NULL;
    mpk_put_map(query->result, 7);
    put_text(query, "stack", stack_name(id.stack));
    put_u64(query, "layer", id.layer);
    put_text(query, "site", site_name(id.site));
    for (int i = 0; i < 3; i++) {
        put_u64(query, keys[i], column_u64(statement, 3 + i));
    }
    mpk_put_str(query->result, "sketch");
    if (column_inflate(statement, 7, bytes, &numbers) == 0 &&
        mpk_check(numbers, bytes, &mpk_result_limits) == 0) {
        mpk_put_raw(query->result, numbers, bytes);
    } else {
        mpk_put_nil(query->result);
    }
    free(numbers);
}

int history_sketches(struct query *query)
{
    const struct history_params *params = &query->params;
    struct asked_layer asked = find_asked_layer(query);
    struct found_run run;
    sqlite3_stmt *statement;
    int code = find_run(query, params->job, params->run, &run);
    if (code) {
        return code;
    }
    code = query_open(query,
                      "SELECT stack, layer, site, epoch, step, time_ns, bytes, data FROM sketches"
                      " WHERE run_id = ?1 AND (stack = ?2 OR ?2 = ?5) AND (layer = ?3 OR ?3 = ?5)"
                      " AND (site = ?4 OR ?4 = ?5) AND step BETWEEN ?6 AND ?7"
                      " ORDER BY epoch DESC, step DESC, stack, layer, site LIMIT ?8",
                      &statement,
                      SQL(sql_u64(run.id), sql_u64(asked.stack), sql_u64(asked.layer),
                          sql_u64(asked.site), sql_u64(ASKED_ANY), sql_u64(params->from),
                          sql_u64(params->to), sql_u64(params->limit + 1)));
    mpk_put_map(query->result, 4);
    put_run(query, &run);
    code = code ? code : put_rows(query, statement, "sketches", params->limit, history_put_sketch);
    sqlite3_finalize(statement);
    return code;
}
