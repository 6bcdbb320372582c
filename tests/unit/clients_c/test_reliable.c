/* SPDX-License-Identifier: MIT */
/* The reliable lane, against an attnd that answers what it is told to. */
#include "tests/unit/proto/support.h"

#include "tests/unit/clients_c/peer.h"

#include "clients/c/src/reliable.h"

#include <string.h>

enum { BOUND = 1000, PAYLOAD = 600 };

static const struct key_client no_keys;
static struct topic *const some_topic = (struct topic *)(void *)&no_keys; /* only compared */

struct attnd {
    void *context, *router;
    zmq_msg_t client; /* its routing id */
    uint64_t settled;
    struct warner warner;
    struct reliable lane;
};

static void count_settled(void *sender, const struct kept *entry, bool lost)
{
    struct attnd *attnd = sender;

    assert_ptr_equal(entry->topic, some_topic);
    assert_false(lost);
    attnd->settled++;
}

static void attnd_open(struct attnd *attnd)
{
    *attnd = (struct attnd){.context = zmq_ctx_new()};
    attnd->router = zmq_socket(attnd->context, ZMQ_ROUTER);
    assert_int_equal(zmq_bind(attnd->router, "inproc://lane"), 0);
    zmq_msg_init(&attnd->client);
    attnd->lane.events = (struct kept_events){.settled = count_settled, .sender = attnd};
    attnd->lane.warner = &attnd->warner;
    attnd->lane.bytes_max = BOUND;
    attnd->lane.context = attnd->context;
    attnd->lane.keys = &no_keys;
}

static void attnd_close(struct attnd *attnd)
{
    reliable_close(&attnd->lane);
    zmq_msg_close(&attnd->client);
    zmq_close(attnd->router);
    zmq_ctx_term(attnd->context);
}

/* Takes in one message, of which it looks at the id alone. */
static void expect_number(struct attnd *attnd, uint64_t number)
{
    zmq_pollitem_t item = {.socket = attnd->router, .events = ZMQ_POLLIN};
    zmq_msg_t frame;

    assert_int_equal(zmq_poll(&item, 1, PEER_WAIT_MS), 1);
    assert_true(zmq_msg_recv(&attnd->client, attnd->router, 0) >= 0);
    zmq_msg_init(&frame);
    assert_int_equal(zmq_msg_recv(&frame, attnd->router, 0), 8);
    assert_memory_equal(zmq_msg_data(&frame), &number, sizeof number);
    while (zmq_msg_more(&frame)) {
        assert_true(zmq_msg_recv(&frame, attnd->router, 0) >= 0);
    }
    zmq_msg_close(&frame);
}

static void say_frame(struct attnd *attnd, const struct bytes *frame, bool more)
{
    assert_true(zmq_send(attnd->router, frame->data, frame->len, more ? ZMQ_SNDMORE : 0) >= 0);
}

static void address_client(struct attnd *attnd)
{
    zmq_msg_t to;

    zmq_msg_init(&to);
    zmq_msg_copy(&to, &attnd->client);
    assert_true(zmq_msg_send(&to, attnd->router, ZMQ_SNDMORE) >= 0);
}

/* {"ack": [number], "credit": credit} */
static struct bytes answer_of(uint64_t number, uint64_t credit)
{
    struct mpk_writer writer;

    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    mpk_put_str(&writer, "ack");
    mpk_put_array(&writer, 1);
    mpk_put_u64(&writer, number);
    mpk_pair_u64(&writer, "credit", credit);
    return bytes_written(&writer);
}

static void answer(struct attnd *attnd, uint64_t number, uint64_t credit)
{
    struct bytes frame = answer_of(number, credit);

    address_client(attnd);
    say_frame(attnd, &frame, false);
    bytes_free(&frame);
    reliable_tend(&attnd->lane);
}

/* {"repeated": [number], "ack": [number]} */
static void answer_repeated(struct attnd *attnd, uint64_t number)
{
    static const char *const lists[] = {"repeated", "ack"};
    struct mpk_writer writer;
    struct bytes frame;

    mpk_writer_init(&writer);
    mpk_put_map(&writer, 2);
    for (int i = 0; i < 2; i++) {
        mpk_put_str(&writer, lists[i]);
        mpk_put_array(&writer, 1);
        mpk_put_u64(&writer, number);
    }
    frame = bytes_written(&writer);
    address_client(attnd);
    say_frame(attnd, &frame, false);
    bytes_free(&frame);
    reliable_tend(&attnd->lane);
}

static int keep(struct attnd *attnd)
{
    struct wire_message message = {.topic = some_topic};
    zmq_msg_t topic, header;
    int rc;

    message.header.type = MESSAGE_ATTENTION;
    message.header.tensor_count = 1;
    message.bytes = PAYLOAD;
    assert_int_equal(zmq_msg_init_size(&message.tensors[0], PAYLOAD), 0);
    memset(zmq_msg_data(&message.tensors[0]), 0, PAYLOAD);
    zmq_msg_init(&topic);
    zmq_msg_init(&header);
    rc = reliable_keep(&attnd->lane, &message, &topic, &header, true);
    zmq_msg_close(&message.tensors[0]);
    zmq_msg_close(&topic);
    zmq_msg_close(&header);
    return rc;
}

static void join(struct attnd *attnd)
{
    reliable_announce(&attnd->lane, "inproc://lane");
    expect_number(attnd, 0);
}

/* A ROUTER whose send failed in its middle writes what follows behind it: answers to others. */
static void test_what_has_several_frames_is_no_answer(void **state)
{
    struct attnd attnd;
    struct bytes good = answer_of(1, 1 << 20);

    (void)state;
    attnd_open(&attnd);
    join(&attnd);
    answer(&attnd, 0, 1 << 16);
    assert_int_equal(attnd.lane.credit, 1 << 16);
    assert_int_equal(keep(&attnd), 0);
    reliable_tend(&attnd.lane);
    expect_number(&attnd, 1);
    for (int frames = 2; frames <= 4; frames++) {
        address_client(&attnd);
        for (int i = 1; i <= frames; i++) {
            say_frame(&attnd, &good, i < frames);
        }
    }
    reliable_tend(&attnd.lane);
    assert_int_equal(attnd.settled, 0);
    assert_int_equal(attnd.lane.tensors, 1);
    assert_int_equal(attnd.lane.credit, (1 << 16) - 4096);
    answer(&attnd, 1, 4096); /* the next that is one counts */
    assert_int_equal(attnd.settled, 1);
    assert_int_equal(attnd.lane.tensors, 0);
    assert_int_equal(attnd.lane.credit, 1 << 16);
    bytes_free(&good);
    attnd_close(&attnd);
}

static void test_messages_that_attnd_has_lost_are_sent_again_by_a_new_connection(void **state)
{
    struct attnd attnd;
    struct mpk_writer writer;
    struct bytes again;

    (void)state;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_bool(&writer, "again", true);
    again = bytes_written(&writer);
    attnd_open(&attnd);
    join(&attnd);
    answer(&attnd, 0, 1 << 16);
    assert_int_equal(keep(&attnd), 0);
    reliable_tend(&attnd.lane);
    expect_number(&attnd, 1);
    address_client(&attnd);
    say_frame(&attnd, &again, false);
    reliable_tend(&attnd.lane);
    assert_null(attnd.lane.socket);
    assert_true(attnd.lane.again_ms > 0);
    attnd.lane.again_ms = 1; /* the pause is over */
    reliable_tend(&attnd.lane);
    expect_number(&attnd, 0);
    answer(&attnd, 0, 1 << 16);
    expect_number(&attnd, 1);
    answer(&attnd, 1, 4096);
    assert_int_equal(attnd.settled, 1);
    bytes_free(&again);
    attnd_close(&attnd);
}

/* A message that may have been there before the connection ended counts once one has come that
 * cannot have been. */
static void test_what_another_process_sent_in_its_place_counts_as_refused(void **state)
{
    static const uint64_t refused[] = {0, 0, 0, 3, 4, 5};
    struct attnd attnd;

    (void)state;
    attnd_open(&attnd);
    join(&attnd);
    answer(&attnd, 0, 1 << 20);
    for (uint64_t number = 1; number <= 5; number++) {
        bool again = number != 3 && number != 5;

        assert_int_equal(keep(&attnd), 0);
        reliable_tend(&attnd.lane);
        expect_number(&attnd, number);
        if (again) {
            reliable_announce(&attnd.lane, "");
            join(&attnd);
            answer(&attnd, 0, 1 << 20);
            expect_number(&attnd, number);
        }
        answer_repeated(&attnd, number);
        assert_int_equal(attnd.settled, number);
        assert_int_equal(attnd.lane.refused, refused[number]);
        assert_int_equal(warner_has_said(&attnd.warner, WARNING_REPEATED), number >= 3);
        assert_false(warner_has_said(&attnd.warner, WARNING_REFUSED));
    }
    attnd_close(&attnd);
}

static void test_what_finds_no_room_waits_for_an_attnd_that_is_back(void **state)
{
    struct attnd attnd;

    (void)state;
    attnd_open(&attnd);
    join(&attnd);
    answer(&attnd, 0, 1 << 16);
    assert_int_equal(keep(&attnd), 0);
    assert_false(reliable_must_wait(&attnd.lane, BOUND - PAYLOAD));
    assert_true(reliable_must_wait(&attnd.lane, PAYLOAD));
    reliable_announce(&attnd.lane, "");
    assert_false(reliable_must_wait(&attnd.lane, PAYLOAD));
    assert_int_equal(keep(&attnd), ATTN_E_DROPPED);
    attnd.lane.answered_ms = 0;
    reliable_announce(&attnd.lane, "inproc://lane");
    assert_true(reliable_must_wait(&attnd.lane, PAYLOAD));
    attnd.lane.answered_ms = 0; /* so long it took to answer */
    assert_false(reliable_must_wait(&attnd.lane, PAYLOAD));
    expect_number(&attnd, 0);
    answer(&attnd, 0, 1 << 16);
    assert_true(reliable_must_wait(&attnd.lane, PAYLOAD));
    attnd.lane.answered_ms = 0; /* it takes, and acknowledges nothing */
    answer(&attnd, 0, 1 << 16);
    assert_false(reliable_must_wait(&attnd.lane, PAYLOAD));
    attnd_close(&attnd);
}

static void keep_sentence(void *context, const char *sentence)
{
    snprintf(context, 512, "%s", sentence);
}

/* A terminal would take orders from it: ESC, a bell, and CSI in one character. */
static void test_control_characters_of_an_answer_are_not_told(void **state)
{
    char said[512] = "";
    struct attnd attnd;
    struct mpk_writer writer;
    struct bytes frame;

    (void)state;
    attnd_open(&attnd);
    attnd.warner.say = keep_sentence;
    attnd.warner.context = said;
    join(&attnd);
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_str(&writer, "waits",
                 "\x1b]0;\a\xc2\x9b"
                 "2J\n\xc3\xa9\xff");
    frame = bytes_written(&writer);
    address_client(&attnd);
    say_frame(&attnd, &frame, false);
    bytes_free(&frame);
    reliable_tend(&attnd.lane);
    assert_non_null(strstr(said, "(?]0;??2J?\xc3\xa9?)"));
    attnd_close(&attnd);
}

static void test_the_end_tells_what_attnd_may_have(void **state)
{
    char said[512] = "";
    struct attnd attnd;

    (void)state;
    attnd_open(&attnd);
    attnd.warner.say = keep_sentence;
    attnd.warner.context = said;
    join(&attnd);
    answer(&attnd, 0, 1 << 16);
    assert_int_equal(keep(&attnd), 0);
    reliable_tend(&attnd.lane);
    expect_number(&attnd, 1);
    reliable_tell_end(&attnd.lane, false, 2000);
    assert_non_null(
        strstr(said, "attnd did not acknowledge 1 messages within 2 s of the end (linger): "
                     "they count as dropped, though it has been sent 1 of them and may have them"));
    attnd_close(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control_characters_of_an_answer_are_not_told),
        cmocka_unit_test(test_the_end_tells_what_attnd_may_have),
        cmocka_unit_test(test_what_has_several_frames_is_no_answer),
        cmocka_unit_test(test_messages_that_attnd_has_lost_are_sent_again_by_a_new_connection),
        cmocka_unit_test(test_what_another_process_sent_in_its_place_counts_as_refused),
        cmocka_unit_test(test_what_finds_no_room_waits_for_an_attnd_that_is_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
