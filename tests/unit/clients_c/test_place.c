/* SPDX-License-Identifier: MIT */
/* Daemons that nobody named: they are looked for, come late, go, and come back. */
#include "tests/unit/proto/support.h"

#include "tests/unit/clients_c/publishing.h"

#include <sys/stat.h>
#include <unistd.h>

#include <zmq.h>

/* Longer than the pause between two looks. */
#define LOOKED_MS 1300

static char runtime[] = "/tmp/attn-place-XXXXXX", place[64], ingest[80], results[80];

static int place_set_up(void **state)
{
    (void)state;
    strcpy(runtime + strlen(runtime) - 6, "XXXXXX");
    assert_non_null(mkdtemp(runtime));
    snprintf(place, sizeof place, "%s/attnd", runtime);
    snprintf(ingest, sizeof ingest, "ipc://%s/ingest", place);
    snprintf(results, sizeof results, "ipc://%s/publish", place);
    assert_int_equal(mkdir(place, 0700), 0);
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    unsetenv("ATTND_ADDRESS");
    return 0;
}

static int place_tear_down(void **state)
{
    (void)state;
    unlink(ingest + strlen("ipc://"));
    unlink(results + strlen("ipc://"));
    rmdir(place);
    rmdir(runtime);
    return 0;
}

#define PLACE_TEST(name) TEST_WITH(name, place_set_up, place_tear_down)

static attn_publisher *homeless_publisher(void)
{
    attn_publisher_options options = options_for(NULL);

    return publisher_with(&options);
}

/* In the next `ms` nobody is met. */
static void assert_alone(attn_publisher *publisher, const struct peer *peer, uint64_t ms)
{
    uint64_t end = now_ms() + ms;

    while (now_ms() < end) {
        peer_service(peer);
        assert_int_equal(attn_publisher_wait(publisher, 10), ATTN_E_TIMEOUT);
    }
}

PLACE_TEST(a_daemon_may_come_late_and_come_back)
{
    OWNED(attn_publisher_free) attn_publisher *publisher = homeless_publisher();
    struct peer peer;

    assert_int_equal(attn_publisher_wait(publisher, 1), ATTN_E_TIMEOUT);
    for (int life = 0; life < 3; life++) {
        peer = peer_open(ZMQ_SUB, ingest, 0);
        peer_subscribe(&peer, "");
        meet(publisher, &peer);
        assert_int_equal(publish(publisher, 0), 0);
        expect_tensor(&peer, 0, (uint64_t)life);
        peer_close(&peer);
        wait_until_wanted(publisher, NULL, 0, false);
    }
}

/* The place of a daemon that has gone becomes somebody else's. */
PLACE_TEST(a_place_is_trusted_anew_at_every_connection)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, ingest, 0);
    OWNED(attn_publisher_free) attn_publisher *publisher = homeless_publisher();

    peer_subscribe(&peer, "");
    meet(publisher, &peer);
    peer_close(&peer);
    wait_until_wanted(publisher, NULL, 0, false);
    assert_int_equal(chmod(place, 0777), 0);
    peer = peer_open(ZMQ_SUB, ingest, 0);
    peer_subscribe(&peer, "");
    assert_alone(publisher, &peer, LOOKED_MS);
    assert_int_equal(chmod(place, 0700), 0);
    meet(publisher, &peer);
}

/* The user answers for a directory that they named: it is not judged. */
PLACE_TEST(an_address_is_where_it_says)
{
    attn_publisher_options options = options_for(NULL);
    attn_publisher *publisher;
    struct peer peer;

    setenv("XDG_RUNTIME_DIR", "/nowhere", 1);
    assert_int_equal(chmod(place, 0777), 0);
    options.address = place;
    publisher = publisher_with(&options);
    peer = peer_open(ZMQ_SUB, ingest, 0);
    peer_subscribe(&peer, "");
    meet(publisher, &peer);
    attn_publisher_free(&publisher);
    setenv("ATTND_ADDRESS", place, 1);
    publisher = homeless_publisher();
    meet(publisher, &peer);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

PLACE_TEST(what_is_no_address_is_refused)
{
    attn_publisher_options options = options_for(NULL);
    attn_subscriber_options reading;
    attn_publisher *publisher;
    attn_subscriber *subscriber;
    attn_control *control;

    attn_subscriber_options_default(&reading);
    options.address = reading.address = "localhost:5570";
    assert_int_equal(attn_publisher_new(&options, &publisher), ATTN_E_ARGUMENT);
    assert_int_equal(attn_subscriber_new(&reading, &subscriber), ATTN_E_ARGUMENT);
    assert_int_equal(attn_control_new_at("localhost:5570", 10, &control), ATTN_E_ARGUMENT);
    options.address = reading.address = place;
    options.endpoint = reading.endpoint = ingest;
    assert_int_equal(attn_publisher_new(&options, &publisher), ATTN_E_ARGUMENT);
    assert_int_equal(attn_subscriber_new(&reading, &subscriber), ATTN_E_ARGUMENT);
    setenv("ATTND_ADDRESS", "attnd", 1);
    options = options_for(NULL);
    assert_int_equal(attn_publisher_new(&options, &publisher), ATTN_E_ARGUMENT);
}

static void place_say(const struct peer *peer, const char *topic)
{
    static const char map[] = {(char)0x81, (char)0xa1, 'v', 1};
    const struct frame frames[] = {{topic, strlen(topic)}, {map, sizeof map}, {NULL, 0}};

    peer_send(peer, frames);
}

/* The last results of a daemon that ended are read, however late. */
PLACE_TEST(a_reader_loses_nothing_and_finds_the_next_daemon)
{
    attn_subscriber_options options;
    OWNED(attn_subscriber_free) attn_subscriber *subscriber;
    attn_result *result;

    attn_subscriber_options_default(&options);
    assert_int_equal(attn_subscriber_new(&options, &subscriber), 0);
    assert_int_equal(attn_subscriber_next(subscriber, 1, &result), ATTN_E_TIMEOUT);
    for (int life = 0; life < 3; life++) {
        struct peer peer = peer_open(ZMQ_XPUB, results, 0);
        char notice[32];
        int linger_ms = PEER_WAIT_MS, size = -1;
        uint64_t deadline = now_ms() + PEER_WAIT_MS;

        while (size < 0) { /* connecting takes a reader that reads */
            assert_true(now_ms() < deadline);
            assert_int_equal(attn_subscriber_next(subscriber, 10, &result), ATTN_E_TIMEOUT);
            size = zmq_recv(peer.socket, notice, sizeof notice, ZMQ_DONTWAIT);
        }
        for (int i = 0; i < 3; i++) {
            place_say(&peer, "summary/a/");
        }
        zmq_setsockopt(peer.socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        peer_close(&peer);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(attn_subscriber_next(subscriber, PEER_WAIT_MS, &result), 0);
            attn_result_free(&result);
        }
    }
}
