/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "daemon/base/inbox.h"

#include <pthread.h>

#define POSTERS 4
#define NOTES   5000

struct numbered {
    struct note note;
    int poster, number;
};

struct inbox_fixture {
    uv_loop_t loop;
    struct inbox inbox;
    int next[POSTERS]; /* the number to come from each poster */
    int read;
    bool in_order;
};

struct poster {
    struct inbox_fixture *fixture;
    int index;
    pthread_t thread;
};

static void inbox_on_note(void *data, struct note *note)
{
    struct inbox_fixture *f = data;
    struct numbered *numbered = (struct numbered *)note;
    f->in_order = f->in_order && numbered->number == f->next[numbered->poster]++;
    free(numbered);
    if (++f->read == POSTERS * NOTES) {
        inbox_close(&f->inbox);
    }
}

static void *post_all(void *data)
{
    struct poster *poster = data;
    for (int i = 0; i < NOTES; i++) {
        struct numbered *numbered = calloc(1, sizeof *numbered);
        numbered->poster = poster->index;
        numbered->number = i;
        inbox_post(&poster->fixture->inbox, NULL, &numbered->note);
    }
    return NULL;
}

TEST(notes_of_each_poster_arrive_in_order)
{
    struct inbox_fixture f = {.in_order = true};
    struct poster posters[POSTERS];
    uv_loop_init(&f.loop);
    assert_int_equal(inbox_init(&f.inbox, &f.loop, inbox_on_note, &f), 0);
    for (int i = 0; i < POSTERS; i++) {
        posters[i] = (struct poster){.fixture = &f, .index = i};
        pthread_create(&posters[i].thread, NULL, post_all, &posters[i]);
    }
    uv_run(&f.loop, UV_RUN_DEFAULT);
    for (int i = 0; i < POSTERS; i++) {
        pthread_join(posters[i].thread, NULL);
    }
    assert_int_equal(f.read, POSTERS * NOTES);
    assert_true(f.in_order);
    assert_int_equal(uv_loop_close(&f.loop), 0);
}

TEST(unread_notes_are_read_when_it_closes)
{
    struct inbox_fixture f = {.in_order = true};
    uv_loop_init(&f.loop);
    inbox_init(&f.inbox, &f.loop, inbox_on_note, &f);
    struct numbered *numbered = calloc(1, sizeof *numbered);
    inbox_post(&f.inbox, NULL, &numbered->note);
    assert_int_equal(inbox_depth(&f.inbox), 1);
    inbox_close(&f.inbox);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(f.read, 1);
    assert_int_equal(uv_loop_close(&f.loop), 0);
}

/* Line 0 has NOTES_SLOW notes, of a fifth of a turn each; then comes the only one of line 1. */
#define NOTES_SLOW 100

static void inbox_on_slow_note(void *data, struct note *note)
{
    struct inbox_fixture *f = data;
    struct numbered *numbered = (struct numbered *)note;
    uint64_t until_ns = clock_monotonic_ns() + 200000;
    while (numbered->poster == 0 && clock_monotonic_ns() < until_ns) {
    }
    f->in_order = f->in_order && numbered->number == f->next[numbered->poster]++;
    if (numbered->poster == 1) {
        assert_in_range(f->read, 0, 7); /* it waited for one turn */
    }
    free(numbered);
    if (++f->read == NOTES_SLOW + 1) {
        inbox_close(&f->inbox);
    }
}

TEST(a_line_of_one_note_waits_for_a_turn_of_a_long_one)
{
    struct inbox_fixture f = {.in_order = true};
    struct inbox_line lines[2] = {0};
    uv_loop_init(&f.loop);
    assert_int_equal(inbox_init(&f.inbox, &f.loop, inbox_on_slow_note, &f), 0);
    for (int i = 0; i <= NOTES_SLOW; i++) {
        struct numbered *numbered = calloc(1, sizeof *numbered);
        numbered->poster = i == NOTES_SLOW;
        numbered->number = i % NOTES_SLOW;
        inbox_post(&f.inbox, &lines[numbered->poster], &numbered->note);
    }
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(f.read, NOTES_SLOW + 1);
    assert_true(f.in_order);
    assert_int_equal(uv_loop_close(&f.loop), 0);
}
