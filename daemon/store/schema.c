/* SPDX-License-Identifier: MIT */
#include "daemon/store/schema.h"

#include "daemon/store/sql.h"

#include <stdbool.h>
#include <stdio.h>

static const char version_1[] =
    /* The database about itself. clean: 1 after a clean close, 0 while attnd has it; clock:
     * the newest time that is known to be right (clock.h). */
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"

    /* A run of a job. run: RUN_BYTES bytes; state: enum job_state; first_ns, last_ns: least and
     * greatest time_ns of its batches; epoch, step: of the newest; stored: s since 1970, by the
     * clock of this machine, when it was last written. */
    "CREATE TABLE runs("
    "  run_id INTEGER PRIMARY KEY, job TEXT NOT NULL, run BLOB NOT NULL, state INTEGER NOT NULL,"
    "  world INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,"
    "  epoch INTEGER NOT NULL, step INTEGER NOT NULL, stored INTEGER NOT NULL, UNIQUE(job, run));"

    /* A layer of a run. stack, site: enum stack, enum site. */
    "CREATE TABLE layers("
    "  layer_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, stack INTEGER NOT NULL,"
    "  layer INTEGER NOT NULL, site INTEGER NOT NULL, heads INTEGER NOT NULL,"
    "  UNIQUE(run_id, stack, layer, site));"

    /* A way to cut runs into windows. unit: enum window_unit. */
    "CREATE TABLE tracks("
    "  track_id INTEGER PRIMARY KEY, unit INTEGER NOT NULL, length INTEGER NOT NULL,"
    "  every INTEGER NOT NULL, UNIQUE(unit, length, every));"

    /* A layer's window. first, last: units; epoch, step, time_ns: of its newest message; partial,
     * final: 0 or 1; stored: s since 1970, by the clock of this machine; chunk_id: NULL until its
     * numbers are in a chunk, which only final windows are. */
    "CREATE TABLE windows("
    "  window_id INTEGER PRIMARY KEY, layer_id INTEGER NOT NULL, track_id INTEGER NOT NULL,"
    "  first INTEGER NOT NULL, last INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  step INTEGER NOT NULL, time_ns INTEGER NOT NULL, messages INTEGER NOT NULL,"
    "  lost INTEGER NOT NULL, partial INTEGER NOT NULL, final INTEGER NOT NULL,"
    "  stored INTEGER NOT NULL, chunk_id INTEGER, UNIQUE(layer_id, track_id, last));"
    "CREATE INDEX windows_recent ON windows(layer_id, track_id, final, last)"
    "  WHERE chunk_id IS NULL;"
    "CREATE INDEX windows_recent_age ON windows(stored) WHERE chunk_id IS NULL;"

    /* The state of a window: layer_state_pack. bytes: its size; data is it, or, when that is
     * shorter, it deflated (blob_inflate). */
    "CREATE TABLE states("
    "  window_id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, data BLOB NOT NULL);"

    /* Some windows of a layer, ascending. first: unit where the first begins; last: `last` of the
     * last; count: how many; stored: of the newest; windows: series_windows_decode; bare: 1 when
     * its windows have no states any more. */
    "CREATE TABLE chunks("
    "  chunk_id INTEGER PRIMARY KEY, layer_id INTEGER NOT NULL, track_id INTEGER NOT NULL,"
    "  first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,"
    "  stored INTEGER NOT NULL, bare INTEGER NOT NULL, windows BLOB NOT NULL);"
    "CREATE INDEX chunks_layer ON chunks(layer_id, track_id, last);"
    "CREATE INDEX chunks_states ON chunks(layer_id, track_id, last) WHERE bare = 0;"
    "CREATE INDEX chunks_not_bare ON chunks(chunk_id) WHERE bare = 0;"

    /* name: as in proto/metric.def; and what a layer has as a whole (series.head = -1):
     * "sink_rate" and "aggregate.<map>.<statistic>". */
    "CREATE TABLE metrics(metric_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"

    /* The numbers of one head and metric in the windows of a chunk: series_decode. There is no row
     * when no window of the chunk has a number. */
    "CREATE TABLE series("
    "  series_id INTEGER PRIMARY KEY, chunk_id INTEGER NOT NULL, metric_id INTEGER NOT NULL,"
    "  head INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE(chunk_id, metric_id, head));"

    /* A layer's map in a window. data: [rows][columns] IEEE half precision, little-endian,
     * deflated unless that is longer (blob_inflate to rows * columns * 2 bytes). */
    "CREATE TABLE maps("
    "  map_id INTEGER PRIMARY KEY, layer_id INTEGER NOT NULL, track_id INTEGER NOT NULL,"
    "  first INTEGER NOT NULL, last INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  step INTEGER NOT NULL, time_ns INTEGER NOT NULL, partial INTEGER NOT NULL,"
    "  queries INTEGER NOT NULL, keys INTEGER NOT NULL, rows INTEGER NOT NULL,"
    "  columns INTEGER NOT NULL, stored INTEGER NOT NULL, data BLOB NOT NULL,"
    "  UNIQUE(layer_id, track_id, last));"
    "CREATE INDEX maps_age ON maps(stored);"

    /* Alerts, as they came. severity, state: enums; stack, layer, site: NULL when it is about the
     * run as a whole; head: -1 when about the layer; value, bound: NULL = NaN. */
    "CREATE TABLE alerts("
    "  alert_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  step INTEGER NOT NULL, time_ns INTEGER NOT NULL, rule TEXT NOT NULL,"
    "  severity INTEGER NOT NULL, state INTEGER NOT NULL, metric TEXT NOT NULL, stack INTEGER,"
    "  layer INTEGER, site INTEGER, head INTEGER NOT NULL, value REAL, bound REAL,"
    "  since_epoch INTEGER NOT NULL, since_step INTEGER NOT NULL, message TEXT NOT NULL,"
    "  stored INTEGER NOT NULL);"
    "CREATE INDEX alerts_run ON alerts(run_id, alert_id);"
    /* The same event that comes again, when a run is replayed, is the one that is there. */
    "CREATE UNIQUE INDEX alerts_once ON alerts(run_id, rule, state, epoch, step,"
    "  ifnull(stack, -1), ifnull(layer, -1), ifnull(site, -1), head);"

    /* Values that runs keep for themselves: checkpoints. */
    "CREATE TABLE kept("
    "  run_id INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
    "  PRIMARY KEY(run_id, key)) WITHOUT ROWID;";

/* series.data has the column p10 (series.h): an older attnd cannot read it. */
static const char *const version_2 = "";

/* The path of the module that attends in a layer, the newest; NULL: not known. */
static const char version_3[] = "ALTER TABLE layers ADD COLUMN module TEXT;";

/* settings: of the training, as a MessagePack map; NULL: not known. logs: the names of the numbers
 * that a training reports; shift: steps that differ in the lowest `shift` bits are a bucket, of
 * which few points are kept (write.c); points: how many there are. value: NULL = was not a finite
 * number. */
static const char version_4[] =
    "ALTER TABLE runs ADD COLUMN settings BLOB;"
    "CREATE TABLE logs("
    "  log_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, name TEXT NOT NULL,"
    "  shift INTEGER NOT NULL, points INTEGER NOT NULL, UNIQUE(run_id, name));"
    "CREATE TABLE log_points("
    "  log_id INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  time_ns INTEGER NOT NULL, value REAL, PRIMARY KEY(log_id, step)) WITHOUT ROWID;";

/* The bound of an alert is the one that was crossed, also of one that is resolved, which had the
 * one to return to; and alerts that a run's end resolved fired at its end (ALERT_FIRING_AT_END),
 * with the value that they fired with. */
static const char version_5[] =
    "UPDATE alerts SET bound = coalesce((SELECT bound FROM alerts AS began"
    "  WHERE began.run_id = alerts.run_id AND began.rule = alerts.rule AND began.state = 0"
    "  LIMIT 1), bound) WHERE state = 1;"
    "UPDATE alerts SET state = 2, message = replace(message, ': the run has ended',"
    "  ' was beyond its bound, when the run ended'),"
    " value = (SELECT value FROM alerts AS began"
    "  WHERE began.run_id = alerts.run_id AND began.rule = alerts.rule AND began.state = 0"
    "  AND began.since_epoch = alerts.since_epoch AND began.since_step = alerts.since_step"
    "  AND began.stack IS alerts.stack AND began.layer IS alerts.layer"
    "  AND began.site IS alerts.site AND began.head = alerts.head LIMIT 1)"
    " WHERE state = 1 AND message LIKE '%: the run has ended';";

/* Scores of heads, which attnd wrote up to version 9, here and as a number of heads, and does not
 * read any more. */
static const char version_6[] = "ALTER TABLE layers ADD COLUMN trouble BLOB;";

/* The maps of a layer's heads in a window, beside its mean map: head_data is [heads][head_rows]
 * [head_columns], of head_queries and head_keys, written as data is; NULL: there are none. */
static const char version_7[] = "ALTER TABLE maps ADD COLUMN heads INTEGER;"
                                "ALTER TABLE maps ADD COLUMN head_queries INTEGER;"
                                "ALTER TABLE maps ADD COLUMN head_keys INTEGER;"
                                "ALTER TABLE maps ADD COLUMN head_rows INTEGER;"
                                "ALTER TABLE maps ADD COLUMN head_columns INTEGER;"
                                "ALTER TABLE maps ADD COLUMN head_data BLOB;";

/* States are of their version 2 (PROTOCOL.md, section 6): an older attnd cannot read them. */
static const char *const version_8 = "";

/* Rows that a node sends to hubs (proto/FLEET.md, outbox.h). run: RUN_BYTES bytes; stored, taken: s
 * since 1970 by the clock of this machine, when the row was written and when a server took it; 0:
 * none has; bytes: of the body; turn: how often a hub has asked for it again. Bodies are apart, as
 * rows that are taken change. meta has the node's id (node) and how many rows fell out before a
 * server took them (outbox_lost). */
static const char version_9[] =
    "CREATE TABLE outbox("
    "  seq INTEGER PRIMARY KEY AUTOINCREMENT, run BLOB NOT NULL, stored INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, taken INTEGER NOT NULL, turn INTEGER NOT NULL);"
    "CREATE INDEX outbox_unsent ON outbox(seq) WHERE taken = 0;"
    "CREATE INDEX outbox_taken ON outbox(taken) WHERE taken != 0;"
    "CREATE TABLE outbox_bodies(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);";

/* The numbers of a layer's sketch in a capture. stack, site: enum stack, enum site; time_ns: of its
 * newest message; stored: s since 1970, by the clock of this machine; data: the map `sketch` of
 * `live` (PROTOCOL.md, section 3), of `bytes` bytes, deflated unless that is longer (blob_inflate).
 */
static const char version_10[] =
    "CREATE TABLE sketches("
    "  sketch_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, stack INTEGER NOT NULL,"
    "  layer INTEGER NOT NULL, site INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  step INTEGER NOT NULL, time_ns INTEGER NOT NULL, stored INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, data BLOB NOT NULL,"
    "  UNIQUE(run_id, stack, layer, site, epoch, step));"
    "CREATE INDEX sketches_age ON sketches(stored);";

/* failure: the exception that ended a run, as a MessagePack map (proto/failure.h); NULL: none did.
 * From here on runs.state is as it is shown: JOB_FAILED and JOB_NO_NEWS, too. */
static const char version_11[] = "ALTER TABLE runs ADD COLUMN failure BLOB;";

/* An alert began after step since_after, and not after since_step. since_after: NULL = from the
 * start; 0 where an older attnd did not say. */
static const char version_12[] = "ALTER TABLE alerts ADD COLUMN since_after INTEGER;"
                                 "UPDATE alerts SET since_after = 0;"
                                 "ALTER TABLE alerts DROP COLUMN since_epoch;";

/* People say of a run: its name, a line; notes; tags, words between blanks. star, archived: 0 or 1.
 * From here on a run that is deleted has the job '' and another `run` until its rows have gone, a
 * few at a time (retention.c). */
static const char version_13[] = "ALTER TABLE runs ADD COLUMN name TEXT NOT NULL DEFAULT '';"
                                 "ALTER TABLE runs ADD COLUMN notes TEXT NOT NULL DEFAULT '';"
                                 "ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT '';"
                                 "ALTER TABLE runs ADD COLUMN star INTEGER NOT NULL DEFAULT 0;"
                                 "ALTER TABLE runs ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;";

static const char *const migrations[] = {version_1,  version_2,  version_3, version_4, version_5,
                                         version_6,  version_7,  version_8, version_9, version_10,
                                         version_11, version_12, version_13};

const struct schema schema_current = {migrations, sizeof migrations / sizeof migrations[0]};

static int execute(sqlite3 *db, const char *sql)
{
    int code = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? SQLITE_OK : sqlite3_extended_errcode(db);
}

static int migrate(sqlite3 *db, const struct schema *schema, int64_t version)
{
    int code = execute(db, "BEGIN IMMEDIATE");
    if (code != SQLITE_OK) {
        return code;
    }
    for (int64_t i = version; code == SQLITE_OK && i < schema->version; i++) {
        code = execute(db, schema->migration[i]);
    }
    if (code == SQLITE_OK) {
        char sql[96];
        snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 SCHEMA_APPLICATION, schema->version);
        code = execute(db, sql);
    }
    code = code ? code : execute(db, "COMMIT");
    if (code != SQLITE_OK) {
        execute(db, "ROLLBACK");
    }
    return code;
}

/* The version and identity that a file states. */
struct identity {
    int64_t application, version, tables;
};

static bool store_schema_is_empty(const struct identity *identity)
{
    return !identity->application && !identity->version && !identity->tables;
}

static enum schema_verdict store_schema_judge(const struct identity *identity,
                                              const struct schema *schema)
{
    if (store_schema_is_empty(identity)) {
        return SCHEMA_READY;
    }
    if (identity->application != SCHEMA_APPLICATION || identity->version < 0) {
        return SCHEMA_FOREIGN;
    }
    return identity->version > schema->version ? SCHEMA_NEWER : SCHEMA_READY;
}

enum schema_verdict schema_apply(sqlite3 *db, const struct schema *schema, int *reterr_code)
{
    struct identity identity = {0};
    int code = sql_ask(db, "SELECT count(*) FROM sqlite_schema", &identity.tables);
    code = code ? code : sql_ask(db, "PRAGMA application_id", &identity.application);
    code = code ? code : sql_ask(db, "PRAGMA user_version", &identity.version);
    enum schema_verdict verdict =
        code == SQLITE_OK ? store_schema_judge(&identity, schema) : SCHEMA_FAILED;
    if (verdict == SCHEMA_READY && store_schema_is_empty(&identity)) {
        code = execute(db, "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL");
    }
    if (verdict == SCHEMA_READY && code == SQLITE_OK) {
        code = execute(db, "PRAGMA journal_mode = WAL");
    }
    if (verdict == SCHEMA_READY && code == SQLITE_OK && identity.version < schema->version) {
        code = migrate(db, schema, identity.version);
    }
    if (code == SQLITE_OK) {
        return verdict;
    }
    *reterr_code = code;
    return SCHEMA_FAILED;
}
