/* SPDX-License-Identifier: MIT */
/* A hub keeps and forgets things in its file, has bounds for all of them, and survives damage. */
#include "tests/unit/daemon/fleet/fixture.h"

static void run_sql(struct place *place, const char *text)
{
    parts_begin(&place->hub.parts);
    assert_int_equal(sqlite3_exec(place->hub.parts.sql.db, text, NULL, NULL, NULL), SQLITE_OK);
}

static int64_t count_rows(struct place *place, const char *table)
{
    char text[128];
    sqlite3_stmt *statement;
    snprintf(text, sizeof text, "SELECT count(*) FROM %s", table);
    assert_int_equal(sqlite3_prepare_v2(place->hub.parts.sql.db, text, -1, &statement, NULL), 0);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return count;
}

static void forget(struct place *place)
{
    place->hub.forget_ns = 0;
    hub_forget(&place->hub);
}

/* Everything came, and was heard of, in 1970. */
static void pass_years(struct place *place)
{
    run_sql(place, "UPDATE parts SET stored = 1; UPDATE closed SET stored = 1;"
                   "UPDATE said SET stored = 1; UPDATE runs SET heard = 1");
    for (struct hub_run *run = place->hub.runs; run; run = run->next) {
        run->heard_s = 1;
    }
    for (struct hub_node *node = place->hub.nodes; node; node = node->next) {
        node->used_s = 1;
    }
}

HUB_TEST(a_run_of_long_ago_is_forgotten_but_not_merged_anew)
{
    for (uint64_t part = 0; part < 3; part++) {
        send_windows(place, part);
    }
    assert_int_equal(merge_all(place), 3);
    pass_years(place);
    run_sql(place, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 10005)"
                   "INSERT INTO runs(job, run, heard, forgotten) SELECT 'old', i, 1, i FROM n;"
                   "INSERT INTO floors SELECT run_id, 1, 1 FROM runs WHERE forgotten > 0");
    forget(place);
    assert_int_equal(count_rows(place, "runs"), 10000);
    assert_int_equal(count_rows(place, "floors"), 10000);
    static const char *const tables[] = {"parts", "closed", "merged", "progress", "said", "nodes"};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        assert_int_equal(count_rows(place, tables[i]), 0);
    }
    assert_null(place->hub.runs);
    assert_null(place->hub.nodes);
    assert_int_equal(place->hub.members, 0);
    const struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, place->seq[0]}};
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    for (int again = 0; again < 2; again++) {
        send_window(place, 0, 1); /* late, and it knows of no other node */
        pass_time(place, place->config.window_rank_grace + SECOND);
        assert_int_equal(merge_all(place), 0);
        reopen_hub(place);
    }
    send_window(place, 0, 3);
    pass_time(place, place->config.window_rank_grace + SECOND);
    assert_int_equal(merge_all(place), 1); /* the training goes on */
    assert_int_equal(place->merged[3]->part, 3);
}

HUB_TEST(rows_without_parts_go_too)
{
    for (uint64_t part = 0; part < 1000; part++) {
        send_closed(place, 0, part);
    }
    assert_int_equal(place->hub.runs->tracks[0].window_count, 1000);
    run_sql(place, "UPDATE closed SET stored = 1 WHERE part < 990");
    for (int i = 0; i < 5; i++) {
        forget(place);
    }
    assert_int_equal(count_rows(place, "closed"), 10);
    assert_int_equal(place->hub.runs->tracks[0].window_count, 10);
    assert_int_equal(place->hub.runs->tracks[0].floor, 990);
    assert_int_equal(hub_raise_floor(&place->hub.runs->tracks[0], 992), 2);
}

HUB_TEST(pieces_are_bounded_in_bytes)
{
    struct hub *hub = &place->hub;
    static char data[10000];
    const uint64_t most = 64 * sizeof data;
    place->config.fleet_outbox = HUB_PIECES_PART * most;
    for (uint64_t seq = 1; seq <= 200; seq++) { /* the second never comes */
        assert_int_equal(send_row(place, 0, seq, data, sizeof data, 1, 2), HUB_TAKE);
        if (hub->forget_ns == 0) {
            forget(place);
        }
        assert_true((uint64_t)count_rows(place, "pieces") <= most / sizeof data);
    }
    assert_true(count_rows(place, "pieces WHERE seq = 200") == 1);
    assert_false(seen_has(&hub->nodes->seen, 1)); /* it is asked for again */
    assert_int_equal(send_row(place, 0, 201, data, sizeof data, 1, 100000), HUB_TAKE);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* no row is so large */
    assert_true(seen_has(&hub->nodes->seen, 201));
}

HUB_TEST(what_is_said_is_bounded_in_bytes)
{
    static const char settings[1000];
    struct fleet_body body = new_body(FLEET_RUN, 0);
    place->config.fleet_outbox = HUB_SAID_PART * UINT64_C(100000);
    body.settings = settings;
    body.settings_size = sizeof settings;
    for (int i = 0; i < 300; i++) {
        send_body(place, 0, &body, 1);
        if (place->hub.forget_ns == 0) {
            forget(place);
        }
    }
    assert_in_range(count_rows(place, "said"), 50, 100);
    assert_int_equal(count_rows(place, "said WHERE seq = 300"), 1);
}

HUB_TEST(layers_of_a_run_are_bounded)
{
    send_window(place, 0, 0);
    struct hub_run *run = place->hub.runs;
    run->layers = realloc(run->layers, HUB_LAYERS_MAX * sizeof *run->layers);
    memset(run->layers, 0xff, HUB_LAYERS_MAX * sizeof *run->layers);
    run->layer_count = HUB_LAYERS_MAX;
    send_part_of(place, 0, 1, HEADS, BUCKETS);
    assert_int_equal(place->hub.counts[HUB_POISONED], 1);
}

/* Parts that were closed above a row that never comes, until it does. */
HUB_TEST(rows_above_a_hole_are_bounded)
{
    struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, 1}};
    place->seq[0] = 1;
    for (uint64_t part = 0; part < 3 * HUB_WAITING_MAX; part++) {
        send_closed(place, 0, part);
    }
    struct hub_run *run = place->hub.runs;
    const struct hub_progress *progress = &run->members[0]->tracks[0];
    assert_int_equal(progress->waiting_count, HUB_WAITING_MAX);
    assert_int_equal(hub_behind(&place->hub, run, run->members[0]), 3 * HUB_WAITING_MAX);
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    assert_int_equal(hub_behind(&place->hub, run, run->members[0]), 0);
    assert_int_equal(progress->next, 3 * HUB_WAITING_MAX);
}

HUB_TEST(runs_and_nodes_are_bounded)
{
    struct hub *hub = &place->hub;
    uint8_t other[RUN_BYTES] = {0};
    place->config.limits_jobs = place->config.limits_runs = 2;
    struct fleet_body body = new_body(FLEET_CLOSED, 0);
    body.run = other;
    for (uint8_t i = 0; i < 4 + HUB_RUNS_MORE + 1; i++) {
        other[0] = i;
        send_body(place, 0, &body, 1);
    }
    assert_int_equal(count_rows(place, "runs"), 4 + HUB_RUNS_MORE);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* all of the others go on */
    hub->runs->heard_s = 1;
    pass_time(place, SECOND);
    body = new_body(FLEET_RUN, 0);
    body.run = other;
    send_body(place, 0, &body, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* instead of the idle one */
    other[0]++;
    send_body(place, 0, &body, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 1); /* instead of one that has closed nothing */
    assert_int_equal(count_rows(place, "runs WHERE forgotten = 0"), 4 + HUB_RUNS_MORE);
    uint8_t id[FLEET_ID_BYTES] = {9};
    for (uint32_t i = 1; i < HUB_NODES_MAX; i++) {
        memcpy(id + 1, &i, sizeof i);
        assert_non_null(hub_find_node(hub, id));
    }
    id[0] = 8;
    assert_null(hub_find_node(hub, id)); /* all of them were heard of just now */
    hub->nodes->used_s -= 60;            /* takes part in runs */
    assert_null(hub_find_node(hub, id));
    hub->nodes->next->used_s -= 60;
    assert_non_null(hub_find_node(hub, id));
    assert_int_equal(count_rows(place, "nodes"), HUB_NODES_MAX);
}

/* Runs of different jobs may have the same id. */
HUB_TEST(runs_are_found_by_job_and_id)
{
    static const char *const jobs[] = {"ab", "a", "b", "abc"};
    struct hub *hub = &place->hub;
    struct fleet_beat_run named = {.world = 1};
    int64_t rows[4];
    memcpy(named.run, run_id, RUN_BYTES);
    struct hub_node *node = hub_find_node(hub, (const uint8_t[FLEET_ID_BYTES]){1});
    node->runs = malloc(sizeof named);
    *node->runs = named;
    node->run_count = 1;
    for (int i = 0; i < 4; i++) {
        struct hub_run *run = hub_find_run(hub, jobs[i], strlen(jobs[i]), run_id);
        assert_int_equal(run->member_count, 1); /* the node has named it */
        rows[i] = run->row;
    }
    hub_forget_run(hub, hub_run_of(hub, rows[1]));
    for (int i = 0; i < 4; i++) {
        struct hub_run *run = hub_known_run(hub, jobs[i], strlen(jobs[i]), run_id);
        assert_ptr_equal(run, hub_run_of(hub, rows[i]));
        assert_true(i == 1 ? !run : run && strcmp(run->job, jobs[i]) == 0);
    }
    assert_null(hub_known_run(hub, "ab", 2, (const uint8_t[RUN_BYTES]){8}));
    assert_int_equal(hub->run_count, 3);
}

/* Each window is back before the next one is looked for. */
HUB_TEST(each_run_has_its_turn)
{
    uint8_t ids[3][RUN_BYTES] = {{1}, {2}, {3}};
    for (uint64_t part = 0; part < 4; part++) {
        for (int i = 0; i < 3; i++) {
            struct fleet_body body = new_body(FLEET_CLOSED, part);
            body.next_before = part;
            body.run = ids[i];
            send_body(place, 0, &body, 1);
        }
    }
    for (uint32_t i = 0; i < 12; i++) {
        for (int turn = 0; turn < 2; turn++) { /* begins, and ends */
            hub_merge_step(&place->hub);
        }
        read_inbox(place);
        assert_int_equal(place->merged_count, i + 1);
        hub_merge_done(&place->hub, place->merged[i]);
        assert_int_equal(place->merged[i]->run[0], 3 - i % 3);
        assert_int_equal(place->merged[i]->part, i / 3);
    }
    assert_false(hub_merge_step(&place->hub));
}

HUB_TEST(what_is_said_is_told_once_and_in_order_of_a_run)
{
    struct fleet_body body = new_body(FLEET_RUN, 0);
    uint8_t other[RUN_BYTES] = {1};
    body.settings = "\x80";
    body.settings_size = 1;
    send_body(place, 0, &body, 2);
    body.run = other;
    send_body(place, 0, &body, 1);
    merge_until_idle(place);
    assert_int_equal(place->merged_count, 2);
    assert_memory_equal(place->merged[0]->run, other, RUN_BYTES);
    place->merged[0]->code = ERR_RUN_LIMIT; /* that does not hold up the other run */
    hub_merge_done(&place->hub, place->merged[0]);
    hub_merge_done(&place->hub, place->merged[1]);
    assert_int_equal(merge_all(place), 0);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, other)->refused, ERR_RUN_LIMIT);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, run_id)->refused, 0);
    pass_time(place, 10 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(hub_find_run(&place->hub, "job", 3, other)->refused, 0);
    assert_int_equal(count_rows(place, "said WHERE told"), 2);
}

HUB_TEST(a_part_that_is_damaged_is_left_out)
{
    static const char *const damages[] = {"x'00'", "substr(state, 1, length(state) / 2)"};
    for (uint64_t part = 0; part < 2; part++) {
        char text[128];
        send_windows(place, part);
        snprintf(text, sizeof text, "UPDATE parts SET state = %s WHERE node_id = 2 AND part = %d",
                 damages[part], (int)part);
        run_sql(place, text);
        assert_int_equal(merge_all(place), 1);
        const struct merged *merged = place->merged[part];
        assert_true(merged->partial && merged->layers[0].state);
        assert_int_equal(merged->missing_count, 1);
        assert_string_equal(merged->missing[0].reason, "one of its parts is damaged");
        assert_int_equal(place->hub.counts[HUB_POISONED], part + 1);
    }
}

/* As many changes came before and after the memory was read again. */
HUB_TEST(a_window_that_was_with_the_loop_meanwhile_has_changed)
{
    send_windows(place, 0);
    merge_until_idle(place);
    parts_commit(&place->hub.parts);
    place->hub.parts.code = SQLITE_IOERR; /* one that could not read is tried again */
    assert_int_equal(hub_load(&place->hub, 0), 0);
    send_window(place, 0, 0);
    send_window(place, 1, 0);
    send_part_of(place, 2, 0, HEADS, BUCKETS);
    hub_merge_done(&place->hub, place->merged[0]);
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->revision, 1);
}

HUB_TEST(a_file_that_is_damaged_is_begun_anew)
{
    struct hub *hub = &place->hub;
    char page[4096] = "";
    send_window(place, 0, 0);
    hub_take_save(hub);
    assert_int_equal(parts_commit(&hub->parts), 0);
    memcpy(hub->id, "hub's id", FLEET_ID_BYTES);
    sqlite3_exec(hub->parts.sql.db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    FILE *file = fopen(place->parts, "r+");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    for (long at = ftell(file) / 4096; at > 1; at--) { /* all pages but the first two */
        fseek(file, at * 4096, SEEK_SET);
        fwrite(page, sizeof page, 1, file);
    }
    fclose(file);
    sqlite3_db_release_memory(hub->parts.sql.db); /* they are read again */
    assert_int_equal(hub_load(hub, 0), 0);
    assert_null(hub->nodes);
    assert_int_equal(count_rows(place, "meta"), 2);
    place->seq[0] = 0;
    send_windows(place, 0);
    assert_int_equal(merge_all(place), 1);
}
