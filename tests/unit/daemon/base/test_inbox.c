/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/inbox.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

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
        inbox_post(&poster->fixture->inbox, &numbered->note);
    }
    return NULL;
}

static void test_notes_of_each_poster_arrive_in_order(void **state)
{
    struct inbox_fixture f = {.in_order = true};
    struct poster posters[POSTERS];
    (void)state;
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

static void test_unread_notes_are_read_when_it_closes(void **state)
{
    struct inbox_fixture f = {.in_order = true};
    (void)state;
    uv_loop_init(&f.loop);
    inbox_init(&f.inbox, &f.loop, inbox_on_note, &f);
    struct numbered *numbered = calloc(1, sizeof *numbered);
    inbox_post(&f.inbox, &numbered->note);
    assert_int_equal(inbox_depth(&f.inbox), 1);
    inbox_close(&f.inbox);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(f.read, 1);
    assert_int_equal(uv_loop_close(&f.loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notes_of_each_poster_arrive_in_order),
        cmocka_unit_test(test_unread_notes_are_read_when_it_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
