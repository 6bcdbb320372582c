/* SPDX-License-Identifier: MIT */
/* How attnctl top asks: nothing waits, nothing is asked twice, and an attnd that is silent is
 * noticed and found again. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/top/internal.h"
#include "tests/unit/cli/top/maps.h"
#include "tests/unit/mpk_text.h"

#include <stdatomic.h>
#include <unistd.h>

/* Between the fake's thread and the test. */
static atomic_int monitors, lives, silent, holds_live;
static const char *_Atomic refused_as; /* code of the refusal of `monitor` of a run; NULL = none */

/* Answers `monitor`, each with one more message than the one before, `live` and `verdict`; nothing
 * at all while it is silent. */
static void top_asker_answer(const struct fake *fake, const char *method, uint64_t id,
                             const msgpack_object *params, struct mpk_writer *reply)
{
    int count = atomic_load(&monitors);
    (void)fake;
    if (strcmp(method, "monitor") == 0) {
        atomic_fetch_add(&monitors, 1);
    }
    if (atomic_load(&silent)) {
        return;
    }
    if (atomic_load(&refused_as) && mpk_find(params, "run") && strcmp(method, "monitor") == 0) {
        fake_put_error(reply, id, atomic_load(&refused_as), "not now");
    } else if (strcmp(method, "monitor") == 0) {
        fake_put_ok(reply, id);
        put_monitor(reply, &(struct monitor){.job = "gpt-small",
                                             .second = "other",
                                             .received = (uint64_t)count,
                                             .uptime_s = 9 + count});
    } else if (strcmp(method, "live") == 0) {
        atomic_fetch_add(&lives, 1);
        while (atomic_load(&holds_live) == 1) {
            usleep(1000);
        }
        if (atomic_load(&holds_live) == 2) {
            return;
        }
        fake_put_ok(reply, id);
        put_live(reply, 0, 4, 0.2, 10);
    } else if (strcmp(method, "verdict") == 0) {
        fake_put_ok(reply, id);
        mpk_text(reply, "{'alerts': [], 'checks': {'judged': 5}}");
    } else {
        fake_put_error(reply, id, "history_off", "there is no history");
    }
}

struct world {
    struct fake fake;
    struct rpc rpc;
    struct asker asker;
    struct model *model;
};

static int top_asker_set_up(void **state)
{
    static struct world world;
    *state = &world;
    return 0;
}

static void top_asker_start(struct world *world, int timeout_ms)
{
    atomic_store(&monitors, 0);
    atomic_store(&lives, 0);
    atomic_store(&silent, 0);
    atomic_store(&holds_live, 0);
    atomic_store(&refused_as, NULL);
    fake_start(&world->fake, top_asker_answer);
    assert_int_equal(rpc_open(world->fake.endpoint, NULL, timeout_ms, &world->rpc), RPC_OK);
    asker_init(&world->asker, &world->rpc, 0);
    world->model = model_new();
}

static int top_asker_stop(void **state)
{
    struct world *world = *state;
    model_free(&world->model);
    rpc_close(&world->rpc);
    fake_stop(&world->fake);
    return 0;
}

/* Begins with top_asker_start. */
#define ASKER_TEST(name) TEST_OF(name, struct world *world, top_asker_set_up, top_asker_stop)

/* Turns until an answer has come. */
static void top_asker_turn(struct world *world, int64_t now_ms)
{
    for (int i = 0; i < 60000; i++) {
        if (asker_turn(&world->asker, world->model, now_ms)) {
            return;
        }
        usleep(1000);
    }
    fail_msg("no answer came");
}

static void turn_until(struct world *world, int64_t now_ms, const atomic_int *counter, int value)
{
    for (int i = 0; i < 60000 && atomic_load(counter) < value; i++) {
        asker_turn(&world->asker, world->model, now_ms);
        usleep(1000);
    }
    assert_int_equal(atomic_load(counter), value);
}

ASKER_TEST(answers_fill_the_model)
{
    top_asker_start(world, 5000);
    const struct opened *opened = &world->model->opened;
    model_open(world->model, "gpt-small", NULL);
    asker_tick(&world->asker, world->model, 1000);
    for (int i = 0; i < 50 && opened->layer_count == 0; i++) {
        top_asker_turn(world, 1000);
    }
    assert_true(opened->known);
    assert_int_equal(opened->layer_count, 1);
    assert_true(opened->layers[0].now[0] == 0.2);
}

ASKER_TEST(silence_is_noticed_and_ends)
{
    top_asker_start(world, 2000);
    atomic_store(&silent, 1);
    asker_tick(&world->asker, world->model, 1000);
    turn_until(world, 1000, &monitors, 1);
    asker_tick(&world->asker, world->model, 2000);
    assert_true(world->model->silent_since_ms < 0); /* not late yet */
    assert_int_equal(asker_late_ms(&world->asker), 3000);
    asker_tick(&world->asker, world->model, 3000);
    assert_int_equal(world->model->silent_since_ms, 0); /* since it was last heard */
    turn_until(world, 3000, &monitors, 2);              /* by a new connection */
    atomic_store(&silent, 0);
    asker_tick(&world->asker, world->model, 5000);
    for (int i = 0; i < 50 && world->model->silent_since_ms >= 0; i++) {
        top_asker_turn(world, 5100);
    }
    assert_true(world->model->health.known);
    assert_int_equal(world->asker.heard_ms, 5100);
    assert_true(asker_late_ms(&world->asker) == INT64_MAX);
}

/* Nobody named it, it was gone, and another one came elsewhere. */
ASKER_TEST(another_attnd_is_found)
{
    top_asker_start(world, 2000);
    rpc_close(&world->rpc);
    setenv("XDG_RUNTIME_DIR", world->fake.runtime, 1);
    unsetenv("ATTND_ADDRESS");
    assert_int_equal(rpc_open(NULL, NULL, 2000, &world->rpc), RPC_OK);
    fake_stop(&world->fake);
    fake_start(&world->fake, top_asker_answer);
    setenv("XDG_RUNTIME_DIR", world->fake.runtime, 1);
    asker_tick(&world->asker, world->model, 1000);
    asker_tick(&world->asker, world->model, 3000);
    turn_until(world, 3000, &monitors, 1);
    assert_string_equal(world->rpc.endpoint, world->fake.endpoint);
    unsetenv("XDG_RUNTIME_DIR");
}

ASKER_TEST(a_kind_is_asked_again_only_when_it_is_late)
{
    top_asker_start(world, 2000);
    atomic_store(&holds_live, 2);
    model_open(world->model, "gpt-small", NULL);
    for (int64_t now = 1000; now <= 2400; now += 200) {
        asker_tick(&world->asker, world->model, now); /* each monitor says that the job moved on */
        top_asker_turn(world, now);
    }
    turn_until(world, 2400, &lives, 1);
    assert_true(world->model->moved);
    asker_tick(&world->asker, world->model, 100000);
    turn_until(world, 100000, &lives, 2);
}

ASKER_TEST(what_a_stall_left_unanswered_is_asked_again)
{
    top_asker_start(world, 2000);
    model_free(&world->model);
    world->model = model_of_two_layers();
    atomic_store(&silent, 1);
    asker_tick(&world->asker, world->model, 1000);
    asker_turn(&world->asker, world->model, 1000);
    assert_false(world->model->moved || world->asker.owes_past[ASKER_GRID]);
    assert_true(world->asker.asked[ASKER_VERDICT].id && world->asker.asked[ASKER_LIVE].id);
    asker_tick(&world->asker, world->model, 3000);
    assert_true(world->model->moved && world->asker.owes_past[ASKER_GRID] &&
                world->asker.owes_past[ASKER_VERDICT] && world->asker.owes_past[ASKER_LOG]);
}

ASKER_TEST(what_cannot_be_sent_is_still_needed)
{
    top_asker_start(world, 2000);
    void *socket = world->rpc.socket;
    model_free(&world->model);
    world->model = model_of_two_layers();
    world->rpc.socket = NULL; /* the connection could not be made anew */
    asker_turn(&world->asker, world->model, 1000);
    world->rpc.socket = socket;
    assert_true(world->model->moved && world->asker.owes_past[ASKER_VERDICT]);
}

ASKER_TEST(rows_in_view_are_asked_about_once)
{
    top_asker_start(world, 60000);
    world->model->list_rows = 20;
    asker_tick(&world->asker, world->model, 1000);
    while (world->model->row_count == 0 || world->model->rows[1].asked_ms == 0 ||
           world->asker.asked[ASKER_ROW_VERDICT].id || world->asker.asked[ASKER_ROW_LOG].id) {
        asker_turn(&world->asker, world->model, 1000);
        usleep(1000);
    }
    assert_int_equal(world->model->rows[0].asked_ms, 1000);
    assert_int_equal(world->model->rows[1].asked_ms, 1000);
    asker_turn(&world->asker, world->model, 1000);
    assert_int_equal(world->asker.asked[ASKER_ROW_VERDICT].id, 0);
}

ASKER_TEST(an_answer_about_a_run_that_a_row_no_longer_shows_is_dropped)
{
    top_asker_start(world, 60000);
    world->model->list_rows = 1;
    for (int same = 0; same < 2; same++) {
        asker_tick(&world->asker, world->model, 1000);
        struct run_row *row = NULL;
        do { /* what is asked about is of the run that the answer to `monitor` has named */
            top_asker_turn(world, 1000 + 10000 * same);
            row = model_row(world->model, world->asker.row_job);
        } while (world->asker.asked[ASKER_ROW_VERDICT].id == 0 ||
                 world->asker.asked[ASKER_MONITOR].id != 0 ||
                 strcmp(world->asker.row_run, row->run) != 0);
        if (!same) {
            strcpy(row->run, "ff");
        }
        world->model->paused = true; /* nothing else is asked */
        while (world->asker.asked[ASKER_ROW_VERDICT].id != 0) {
            top_asker_turn(world, 1000);
        }
        assert_int_equal(row->known, same);
        assert_int_equal(row->checks, 5 * same);
        world->model->paused = false;
    }
}

ASKER_TEST(an_answer_about_the_job_before_is_dropped)
{
    top_asker_start(world, 60000);
    atomic_store(&holds_live, 1);
    model_open(world->model, "gpt-small", NULL);
    asker_tick(&world->asker, world->model, 1000);
    turn_until(world, 1000, &lives, 1);
    model_open(world->model, "other", NULL);
    world->model->paused = true; /* nothing else is asked */
    atomic_store(&holds_live, 0);
    while (world->asker.asked[ASKER_LIVE].id != 0) {
        top_asker_turn(world, 1000);
    }
    assert_int_equal(world->model->opened.layer_count, 0);
}

/* Ticks, takes the answer to `monitor` and draws. */
static void top_asker_look(struct world *world, struct screen *screen, int64_t now_ms)
{
    asker_tick(&world->asker, world->model, now_ms);
    while (world->asker.asked[ASKER_MONITOR].id != 0) {
        top_asker_turn(world, now_ms);
    }
    draw(world->model, screen, 120, 24);
}

ASKER_TEST(only_a_run_that_is_gone_gives_way_to_the_newest)
{
    top_asker_start(world, 60000);
    struct screen screen = {.unicode = true};
    model_open(world->model, "gpt-small", "1234567890ab");
    atomic_store(&refused_as, "busy");
    top_asker_look(world, &screen, 1000);
    assert_string_equal(world->model->opened.run, "1234567890ab");
    assert_row(&screen, 1, " not now");
    atomic_store(&refused_as, NULL);
    top_asker_look(world, &screen, 1200);
    assert_shows_not(&screen, "not now");
    assert_shows_not(&screen, "gone");
    atomic_store(&refused_as, "run_unknown");
    top_asker_look(world, &screen, 1400);
    assert_null(world->model->opened.run);
    top_asker_look(world, &screen, 1600);
    assert_shows(
        &screen,
        "gpt-small  active  epoch 3 step 0  run abcdef01  4 ranks  (the run asked for is gone)");
    screen_free(&screen);
}
