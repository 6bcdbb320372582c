/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/store/schema.h"

static sqlite3 *open_file(struct store_fixture *fixture)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
    return db;
}

static enum schema_verdict store_schema_apply(struct store_fixture *fixture,
                                              const struct schema *schema, int *code)
{
    sqlite3 *db = open_file(fixture);
    enum schema_verdict verdict = schema_apply(db, schema, code);
    sqlite3_close(db);
    return verdict;
}

static void test_an_empty_file_gets_the_newest_version(void **state)
{
    struct store_fixture *fixture = *state;
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
    assert_int_equal(ask(fixture, "SELECT user_version FROM pragma_user_version"),
                     schema_current.version);
    assert_int_equal(ask(fixture, "SELECT application_id FROM pragma_application_id"),
                     SCHEMA_APPLICATION);
    assert_int_equal(ask(fixture, "SELECT auto_vacuum FROM pragma_auto_vacuum"), 2);
    assert_int_equal(ask(fixture, "SELECT count(*) FROM windows"), 0);
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_READY);
}

static const char *const two_migrations[] = {
    "CREATE TABLE a(x); INSERT INTO a VALUES(1);",
    "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 5; CREATE TABLE b(z);",
};
static const struct schema old_schema = {two_migrations, 1}, new_schema = {two_migrations, 2};

static void test_an_older_version_is_migrated_and_keeps_its_rows(void **state)
{
    struct store_fixture *fixture = *state;
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_READY);
    assert_int_equal(ask(fixture, "SELECT user_version FROM pragma_user_version"), 1);
    assert_int_equal(store_schema_apply(fixture, &new_schema, &code), SCHEMA_READY);
    assert_int_equal(ask(fixture, "SELECT user_version FROM pragma_user_version"), 2);
    assert_int_equal(ask(fixture, "SELECT x + y FROM a"), 6);
}

static void test_a_newer_version_is_left_alone(void **state)
{
    struct store_fixture *fixture = *state;
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &new_schema, &code), SCHEMA_READY);
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_NEWER);
    assert_int_equal(ask(fixture, "SELECT user_version FROM pragma_user_version"), 2);
}

static void test_a_migration_that_fails_changes_nothing(void **state)
{
    static const char *const broken[] = {
        "CREATE TABLE a(x); INSERT INTO a VALUES(1);",
        "INSERT INTO a VALUES(2); CREATE TABLE a(x);",
    };
    const struct schema broken_schema = {broken, 2};
    struct store_fixture *fixture = *state;
    int code = 0;
    assert_int_equal(store_schema_apply(fixture, &old_schema, &code), SCHEMA_READY);
    assert_int_equal(store_schema_apply(fixture, &broken_schema, &code), SCHEMA_FAILED);
    assert_int_equal(code, SQLITE_ERROR);
    assert_int_equal(ask(fixture, "SELECT count(*) FROM a"), 1);
    assert_int_equal(ask(fixture, "SELECT user_version FROM pragma_user_version"), 1);
}

static void test_store_schema_a_database_of_another_program_is_left_alone(void **state)
{
    struct store_fixture *fixture = *state;
    int code = 0;
    change(fixture, "CREATE TABLE mine(x)");
    assert_int_equal(store_schema_apply(fixture, &schema_current, &code), SCHEMA_FOREIGN);
    assert_int_equal(ask(fixture, "SELECT count(*) FROM sqlite_schema"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_empty_file_gets_the_newest_version, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_an_older_version_is_migrated_and_keeps_its_rows,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_newer_version_is_left_alone, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_migration_that_fails_changes_nothing, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(
            test_store_schema_a_database_of_another_program_is_left_alone, fixture_setup,
            fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
