/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/store/schema.h"

static enum schema_verdict store_schema_apply(struct store_fixture *fixture,
                                              const struct schema *schema, int *code)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
    enum schema_verdict verdict = schema_apply(db, schema, code);
    sqlite3_close(db);
    return verdict;
}

STORE_TEST(an_empty_file_gets_the_newest_version)
{
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_answer(fixture, schema_current.version, "SELECT user_version FROM pragma_user_version");
    assert_answer(fixture, SCHEMA_APPLICATION, "SELECT application_id FROM pragma_application_id");
    assert_answer(fixture, 2, "SELECT auto_vacuum FROM pragma_auto_vacuum");
    assert_answer(fixture, 0, "SELECT count(*) FROM windows");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
}

static const char *const two_migrations[] = {
    "CREATE TABLE a(x); INSERT INTO a VALUES(1);",
    "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 5; CREATE TABLE b(z);",
};
static const struct schema old_schema = {two_migrations, 1}, new_schema = {two_migrations, 2};

STORE_TEST(an_older_version_is_migrated_and_keeps_its_rows)
{
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_READY);
    assert_answer(fixture, 1, "SELECT user_version FROM pragma_user_version");
    assert_int_equal(store_schema_apply(fixture, &new_schema, &code), SCHEMA_READY);
    assert_answer(fixture, 2, "SELECT user_version FROM pragma_user_version");
    assert_answer(fixture, 6, "SELECT x + y FROM a");
}

/* Version 3 added the modules of layers. */
STORE_TEST(layers_of_version_2_stay_without_a_module)
{
    const struct schema version_2 = {schema_current.migration, 2};
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &version_2, &code), SCHEMA_READY);
    change(fixture, "INSERT INTO layers(run_id, stack, layer, site, heads) VALUES(1, 1, 5, 0, 4)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_answer(fixture, 5, "SELECT layer FROM layers WHERE heads = 4 AND module IS NULL");
}

/* Version 4 added what trainings report. */
STORE_TEST(runs_of_version_3_stay_without_settings)
{
    const struct schema version_3 = {schema_current.migration, 3};
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &version_3, &code), SCHEMA_READY);
    change(fixture, "INSERT INTO runs(job, run, state, world, first_ns, last_ns, epoch, step,"
                    " stored) VALUES('j', x'07', 0, 1, 0, 0, 0, 6, 0)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_answer(fixture, 6, "SELECT step FROM runs WHERE settings IS NULL");
    assert_answer(fixture, 0, "SELECT count(*) FROM log_points JOIN logs USING(log_id)");
}

/* Version 5 made the bound of an alert the one that was crossed, and an end no resolution. */
STORE_TEST(alerts_of_version_4_that_an_end_resolved_fired_at_the_end)
{
    const struct schema version_4 = {schema_current.migration, 4};
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &version_4, &code), SCHEMA_READY);
    change(fixture,
           "INSERT INTO alerts(run_id, epoch, step, time_ns, rule, severity, state, metric, stack,"
           " layer, site, head, value, bound, since_epoch, since_step, message, stored) VALUES"
           " (1, 0, 6, 0, 'low', 2, 0, 'm', 1, 0, 0, 1, 0.05, 0.1, 0, 5, 'm is 0.05', 0),"
           " (1, 0, 7, 0, 'low', 2, 0, 'm', 1, 0, 0, 2, 0.04, 0.1, 0, 5, 'm is 0.04', 0),"
           " (1, 0, 8, 0, 'low', 2, 1, 'm', 1, 0, 0, 1, 0.2, 0.15, 0, 5, 'm is 0.2 again', 0),"
           " (1, 0, 9, 0, 'low', 2, 1, 'm', 1, 0, 0, 2, NULL, 0.15, 0, 5,"
           "  'm of head 2: the run has ended', 0),"
           " (1, 0, 9, 0, 'silence', 1, 1, 's', NULL, NULL, NULL, -1, NULL, 60, 0, 5,"
           "  'the run has ended', 0)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_answer(fixture, 4, "SELECT count(*) FROM alerts WHERE rule = 'low' AND bound = 0.1");
    assert_answer(fixture, 2,
                  "SELECT head FROM alerts WHERE state = 2 AND value = 0.04 AND"
                  " message LIKE 'm of head 2 %when the run ended'");
    assert_answer(fixture, 2, "SELECT count(*) FROM alerts WHERE state = 1");
}

/* Version 13 added what people say of runs. */
STORE_TEST(runs_of_version_12_stay_without_a_name)
{
    const struct schema version_12 = {schema_current.migration, 12};
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &version_12, &code), SCHEMA_READY);
    change(fixture, "INSERT INTO runs(job, run, state, world, first_ns, last_ns, epoch, step,"
                    " stored) VALUES('j', x'07', 0, 1, 0, 0, 0, 6, 0)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_answer(fixture, 6,
                  "SELECT step FROM runs WHERE name = '' AND notes = '' AND tags = ''"
                  " AND star = 0 AND archived = 0");
}

STORE_TEST(a_newer_version_is_left_alone)
{
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &new_schema, &code), SCHEMA_READY);
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_NEWER);
    assert_answer(fixture, 2, "SELECT user_version FROM pragma_user_version");
}

STORE_TEST(a_migration_that_fails_changes_nothing)
{
    static const char *const broken[] = {
        "CREATE TABLE a(x); INSERT INTO a VALUES(1);",
        "INSERT INTO a VALUES(2); CREATE TABLE a(x);",
    };
    const struct schema broken_schema = {broken, 2};
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_READY);
    assert_int_equal(store_schema_apply(fixture, &broken_schema, &code), SCHEMA_FAILED);
    assert_int_equal(code, SQLITE_ERROR);
    assert_answer(fixture, 1, "SELECT count(*) FROM a");
    assert_answer(fixture, 1, "SELECT user_version FROM pragma_user_version");
}

STORE_TEST(store_schema_a_database_of_another_program_is_left_alone)
{
    int code = 0;
    change(fixture, "CREATE TABLE mine(x)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_FOREIGN);
    assert_answer(fixture, 1, "SELECT count(*) FROM sqlite_schema");
}
