/* SPDX-License-Identifier: MIT */
/* Memory that is lent, against an attnd that says what it is told to. */
#include "tests/unit/proto/support.h"

#include "clients/c/src/lender.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BYTES = 1 << 20, WAIT_MS = 60000 };

/* attnd's end of the connection. */
struct taker {
    char directory[32], endpoint[64], path[64];
    int listener, fd;
};

static struct taker taker_open(void)
{
    struct taker taker = {.directory = "/tmp/attn-lender-XXXXXX", .fd = -1};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    assert_non_null(mkdtemp(taker.directory));
    snprintf(taker.endpoint, sizeof taker.endpoint, "ipc://%s/ingest", taker.directory);
    snprintf(taker.path, sizeof taker.path, "%s/memory", taker.directory);
    strcpy(address.sun_path, taker.path);
    taker.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(taker.listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(taker.listener, 1), 0);
    return taker;
}

static void taker_close(struct taker *taker)
{
    close(taker->fd);
    close(taker->listener);
    unlink(taker->path);
    rmdir(taker->directory);
}

static void taker_accept(struct taker *taker)
{
    const struct memory_greeting greeting = {
        .magic = MEMORY_MAGIC, .version = MEMORY_VERSION, .buffers_max = 8, .bytes_max = 8 * BYTES};

    taker->fd = accept(taker->listener, NULL, NULL);
    assert_true(taker->fd >= 0);
    assert_int_equal(send(taker->fd, &greeting, sizeof greeting, 0), sizeof greeting);
}

static void taker_say_free(struct taker *taker, uint32_t buffer)
{
    const struct memory_record record = {MEMORY_FREE, buffer};

    assert_int_equal(send(taker->fd, &record, sizeof record, MSG_DONTWAIT), sizeof record);
}

/* A buffer that attnd has been lent and has taken. */
static struct lent *take_lent(struct lender *lender, struct taker *taker, void **ret_data)
{
    struct memory_record record;
    struct pollfd said;

    assert_null(lender_take(lender, BYTES, ret_data));
    lender_tend(lender, taker->endpoint, true);
    taker_accept(taker);
    lender_tend(lender, taker->endpoint, true);
    said = (struct pollfd){.fd = taker->fd, .events = POLLIN};
    assert_int_equal(poll(&said, 1, WAIT_MS), 1);
    assert_int_equal(recv(taker->fd, &record, sizeof record, 0), sizeof record);
    assert_int_equal(record.kind, MEMORY_LEND);
    taker_say_free(taker, record.buffer);
    return lender_take(lender, BYTES, ret_data);
}

/* attnd may have read a message before the call that sends it has returned. */
static void test_free_is_heard_from_the_name_on(void **state)
{
    struct taker taker = taker_open();
    struct lender *lender = lender_new(8 * BYTES);
    struct memory_reference reference;
    void *data, *other;
    struct lent *lent = take_lent(lender, &taker, &data);

    (void)state;
    assert_non_null(lent);
    assert_true(lender_name(lent, data, BYTES, &reference));
    taker_say_free(&taker, reference.buffer);
    assert_null(lender_take(lender, BYTES, &other)); /* hears it, while this one is still held */
    lender_give(lent);
    assert_ptr_equal(lender_take(lender, BYTES, &other), lent);
    /* And without it: the buffer is attnd's, once it is named. */
    assert_true(lender_name(lent, data, BYTES, &reference));
    lender_give(lent);
    assert_null(lender_take(lender, BYTES, &other));
    taker_say_free(&taker, reference.buffer);
    assert_ptr_equal(lender_take(lender, BYTES, &other), lent);
    lender_give(lent);
    lender_free(&lender);
    taker_close(&taker);
}

static void test_what_was_not_sent_is_ours(void **state)
{
    struct taker taker = taker_open();
    struct lender *lender = lender_new(8 * BYTES);
    struct memory_reference reference;
    void *data;
    struct lent *lent = take_lent(lender, &taker, &data);

    (void)state;
    assert_non_null(lent);
    assert_true(lender_name(lent, data, BYTES, &reference));
    lender_not_sent(lent);
    lender_give(lent);
    assert_ptr_equal(lender_take(lender, BYTES, &data), lent);
    lender_give(lent);
    lender_free(&lender);
    taker_close(&taker);
}

/* Whoever says more than an attnd can is left, and so cannot hold up the training. */
static void test_a_flood_ends_the_connection(void **state)
{
    const int room = 1 << 20;
    struct taker taker = taker_open();
    struct lender *lender = lender_new(8 * BYTES);
    struct pollfd ended;
    void *data, *other;
    struct lent *lent = take_lent(lender, &taker, &data);

    (void)state;
    assert_non_null(lent);
    assert_int_equal(setsockopt(taker.fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room), 0);
    for (int i = 0; i < 2 * MEMORY_BUFFERS_MAX; i++) {
        taker_say_free(&taker, 0);
    }
    assert_null(lender_take(lender, BYTES, &other));
    assert_true(lender_descriptor(lender) >= 0);
    for (int i = 0; i < 2 * MEMORY_BUFFERS_MAX + 1; i++) {
        taker_say_free(&taker, 0);
    }
    assert_null(lender_take(lender, BYTES, &other));
    assert_int_equal(lender_descriptor(lender), -1);
    ended = (struct pollfd){.fd = taker.fd};
    assert_int_equal(poll(&ended, 1, WAIT_MS), 1);
    assert_true(ended.revents & POLLHUP);
    memset(data, 1, BYTES); /* whoever holds it may use it on */
    lender_give(lent);
    lender_free(&lender);
    taker_close(&taker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_is_heard_from_the_name_on),
        cmocka_unit_test(test_what_was_not_sent_is_ours),
        cmocka_unit_test(test_a_flood_ends_the_connection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
