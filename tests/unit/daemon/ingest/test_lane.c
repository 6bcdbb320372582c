/* SPDX-License-Identifier: MIT */
/* The reliable lane without the ingest thread: credit, answers, and what waits. */
#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "daemon/base/endpoint.h"
#include "daemon/ingest/lane_internal.h"
#include "daemon/ingest/message.h"
#include "proto/err.h"
#include "proto/mpk.h"
#include "tests/unit/heap.h"

#include <errno.h>
#include <zmq.h>

#define CREDIT UINT64_C(65536)
/* A message takes so much of it at least. */
#define CHARGE  UINT64_C(4096)
#define WAIT_MS 60000

#define TRAINERS 100

/* libzmq's memory: the n-th time from now on that sending needs some, there is none. The names are
 * the linker's. */
int __real_zmq_send(void *socket, const void *data, size_t bytes, int flags);
int __real_zmq_msg_init_size(zmq_msg_t *frame, size_t bytes);
int __wrap_zmq_send(void *socket, const void *data, size_t bytes, int flags);
int __wrap_zmq_msg_init_size(zmq_msg_t *frame, size_t bytes);

static unsigned sends_left;

static bool send_fails(void)
{
    errno = ENOMEM;
    return sends_left > 0 && --sends_left == 0;
}

int __wrap_zmq_send(void *socket, const void *data, size_t bytes, int flags)
{
    return send_fails() ? -1 : __real_zmq_send(socket, data, bytes, flags);
}

int __wrap_zmq_msg_init_size(zmq_msg_t *frame, size_t bytes)
{
    return send_fails() ? -1 : __real_zmq_msg_init_size(frame, bytes);
}

struct lane_fixture {
    void *zmq, *dealer, *others[TRAINERS];
    struct config config;
    struct stats stats;
    struct lane *lane;
};

static void lane_begin(struct lane_fixture *f)
{
    char error[CONFIG_ERROR_MAX] = "";
    config_defaults(&f->config);
    strcpy(f->config.reliable_endpoint.text, "inproc://reliable");
    f->config.ingest_budget = 16 * CREDIT;
    f->zmq = endpoint_context_new();
    assert_int_equal(lane_new(f->zmq, NULL, &f->config, &f->stats, &f->lane, error), 0);
    f->dealer = zmq_socket(f->zmq, ZMQ_DEALER);
    assert_int_equal(zmq_connect(f->dealer, f->config.reliable_endpoint.text), 0);
}

static void lane_end(struct lane_fixture *f)
{
    int now = 0;
    zmq_setsockopt(f->dealer, ZMQ_LINGER, &now, sizeof now);
    zmq_close(f->dealer);
    for (int i = 0; i < TRAINERS; i++) {
        zmq_close(f->others[i]);
    }
    lane_free(&f->lane);
    zmq_ctx_term(f->zmq);
}

#define LANE_TEST(name) TEST_IN(name, struct lane_fixture, f, lane_begin, lane_end)

/* A message of one frame of `bytes` bytes; 0: only the id. */
static void lane_put(struct lane_fixture *f, uint64_t id, size_t bytes)
{
    static char payload[2 * CREDIT];
    uint8_t number[8];
    for (int i = 0; i < 8; i++) {
        number[i] = (uint8_t)(id >> 8 * i);
    }
    assert_true(zmq_send(f->dealer, number, sizeof number, bytes ? ZMQ_SNDMORE : 0) >= 0);
    if (bytes) {
        assert_true(zmq_send(f->dealer, payload, bytes, 0) >= 0);
    }
}

/* Receives a message that is to be taken; NULL: there is none. */
static struct message *lane_get(struct lane_fixture *f)
{
    zmq_pollitem_t item = {.socket = f->lane->socket, .events = ZMQ_POLLIN};
    struct message *message = NULL;
    assert_true(zmq_poll(&item, 1, WAIT_MS) == 1);
    int code = lane_receive(f->lane, &message);
    assert_true(code == 0 || code == ERR_AGAIN);
    return message;
}

/* Sends one that is taken. */
static struct message *lane_put_message(struct lane_fixture *f, uint64_t id, size_t bytes)
{
    lane_put(f, id, bytes);
    struct message *message = lane_get(f);
    assert_non_null(message);
    return message;
}

struct lane_heard {
    uint64_t credit;
    uint32_t acks, refusals, repeated;
    bool again;
    char reason[32]; /* of the last refusal */
    char waits[32];
};

/* The next answer. */
static struct lane_heard lane_hear(struct lane_fixture *f)
{
    static const struct mpk_limits limits = {.bytes = 65536, .elements = 20000, .depth = 4};
    struct lane_heard heard = {.credit = 0};
    char answer[65536];
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    zmq_pollitem_t item = {.socket = f->dealer, .events = ZMQ_POLLIN};
    assert_true(zmq_poll(&item, 1, WAIT_MS) == 1);
    int more = 0, size = zmq_recv(f->dealer, answer, sizeof answer, 0);
    size_t more_size = sizeof more;
    assert_true(size > 0);
    assert_int_equal(zmq_getsockopt(f->dealer, ZMQ_RCVMORE, &more, &more_size), 0);
    assert_false(more);
    assert_int_equal(mpk_parse(answer, (size_t)size, &limits, &doc), 0);
    const msgpack_object *credit = mpk_find(doc.root, "credit"), *ack = mpk_find(doc.root, "ack"),
                         *refused = mpk_find(doc.root, "refused"),
                         *repeated = mpk_find(doc.root, "repeated");
    heard.credit = credit ? credit->via.u64 : 0;
    heard.acks = ack ? ack->via.array.size : 0;
    heard.refusals = refused ? refused->via.array.size : 0;
    heard.repeated = repeated ? repeated->via.array.size : 0;
    heard.again = mpk_find(doc.root, "again") && mpk_find(doc.root, "again")->via.boolean;
    const msgpack_object *waits = mpk_find(doc.root, "waits");
    if (waits) {
        snprintf(heard.waits, sizeof heard.waits, "%.*s", (int)waits->via.str.size,
                 waits->via.str.ptr);
    }
    if (refused) {
        const msgpack_object_str *reason = &refused->via.array.ptr[0].via.array.ptr[1].via.str;
        snprintf(heard.reason, sizeof heard.reason, "%.*s", (int)reason->size, reason->ptr);
    }
    return heard;
}

/* The next answer, after a turn of the lane. */
static struct lane_heard lane_turn(struct lane_fixture *f)
{
    lane_go_on(f->lane);
    return lane_hear(f);
}

/* And once these are settled. */
static struct lane_heard lane_settled(struct lane_fixture *f, struct promises *promises)
{
    lane_settle(f->lane, promises);
    return lane_turn(f);
}

static bool is_silent(struct lane_fixture *f)
{
    zmq_pollitem_t item = {.socket = f->dealer, .events = ZMQ_POLLIN};
    return zmq_poll(&item, 1, 0) == 0;
}

/* It is taken, and freed. */
static struct promises lane_done(struct lane_fixture *f, struct message *message)
{
    struct promises promises = {0};
    promises_add(&promises, message->promise);
    message->promise = NULL;
    lane_return(f->lane, message->peer, message->bytes);
    message_free(&message);
    return promises;
}

static void lane_refuse_and_free(struct lane_fixture *f, struct message *message, int code)
{
    lane_refuse(f->lane, message, code);
    lane_return(f->lane, message->peer, message->bytes);
    message_free(&message);
}

static void lane_join_as_trainer(struct lane_fixture *f)
{
    lane_put(f, 0, 0);
    assert_null(lane_get(f));
    assert_int_equal(lane_turn(f).credit, CREDIT);
}

static void lane_begin_joined(struct lane_fixture *f)
{
    lane_begin(f);
    lane_join_as_trainer(f);
}

/* With a trainer that has joined. */
#define TRAINER_TEST(name) TEST_IN(name, struct lane_fixture, f, lane_begin_joined, lane_end)

TRAINER_TEST(a_message_gives_its_bytes_back_and_is_answered_later)
{
    struct message *message = lane_put_message(f, 7, 1000);
    assert_int_equal(message->promise->id, 7);
    lane_go_on(f->lane);
    assert_true(is_silent(f));
    struct promises promises = lane_done(f, message);
    struct lane_heard heard = lane_turn(f);
    assert_int_equal(heard.credit, CHARGE);
    assert_int_equal(heard.acks, 0);
    assert_true(lane_settle(f->lane, &promises));
    heard = lane_turn(f);
    assert_int_equal(heard.credit, 0);
    assert_int_equal(heard.acks, 1);
    assert_int_equal(stats_get(&f->stats, COUNT_RELIABLE_ACKNOWLEDGED), 1);
}

/* Once, until something is acknowledged again; and nobody else is told. */
TRAINER_TEST(whoever_is_owed_an_answer_hears_why_there_is_none)
{
    lane_say_wait(f->lane, "no room");
    lane_go_on(f->lane);
    assert_true(is_silent(f));
    for (uint64_t id = 1; id <= 2; id++) {
        lane_put(f, id, 1000);
        struct message *message = lane_get(f);
        struct promises promises = lane_done(f, message);
        assert_int_equal(lane_turn(f).credit, CHARGE);
        for (int times = 0; times < 2; times++) {
            assert_true(is_silent(f));
            lane_say_wait(f->lane, "no room");
            lane_go_on(f->lane);
            assert_string_equal(times ? "no room" : lane_hear(f).waits, "no room");
        }
        struct lane_heard heard = lane_settled(f, &promises);
        assert_int_equal(heard.acks, 1);
        assert_string_equal(heard.waits, "");
    }
}

TRAINER_TEST(what_exceeds_the_credit_is_dropped)
{
    struct message *message = lane_put_message(f, 1, 2 * CREDIT); /* alone it may be larger */
    lane_put(f, 2, 1);
    assert_null(lane_get(f));
    assert_int_equal(stats_dropped(&f->stats, err_index(ERR_OVER_CREDIT)), 1);
    OWNED(promises_free) struct promises promises = lane_done(f, message);
    assert_int_equal(lane_settled(f, &promises).credit, 2 * CREDIT);
    message = lane_put_message(f, 3, CREDIT);
    promises = lane_done(f, message);
}

/* Told in quarters of it, and when nothing is left: answers stay few. */
TRAINER_TEST(credit_is_told_in_quarters)
{
    struct message *message[8];
    struct promises promises = {0};
    for (uint64_t i = 0; i < 8; i++) {
        message[i] = lane_put_message(f, i + 1, CREDIT / 8);
    }
    uint64_t told = 0;
    for (int i = 0; i < 8; i++) {
        struct promises one = lane_done(f, message[i]);
        promises_move(&promises, &one);
        lane_go_on(f->lane);
        if (i % 2 == 0) {
            assert_true(is_silent(f));
        } else {
            told += lane_hear(f).credit;
        }
    }
    assert_int_equal(told, CREDIT);
    assert_int_equal(lane_settled(f, &promises).acks, 8);
}

TRAINER_TEST(a_refusal_has_its_reason)
{
    struct message *message = lane_put_message(f, 5, 10);
    lane_refuse_and_free(f, message, ERR_KEY);
    struct lane_heard heard = lane_turn(f);
    assert_int_equal(heard.refusals, 1);
    assert_string_equal(heard.reason, "key");
    assert_int_equal(heard.credit, CHARGE);
}

/* When that is saved, and whatever the reason; what is not saved is sent again. */
TRAINER_TEST(what_is_dropped_in_its_turn_is_refused)
{
    static const int codes[] = {ERR_LATE, ERR_MEMORY, ERR_REPEATED, ERR_LATE};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        bool saved = i < 3, refused = i < 2;
        struct message *message = lane_put_message(f, i + 1, 10);
        promise_took(message->promise, codes[i]);
        struct promises promises = lane_done(f, message);
        promises_mark(&promises, saved ? 0 : ERR_AGAIN);
        lane_turn(f); /* its credit */
        struct lane_heard heard = lane_settled(f, &promises);
        assert_int_equal(heard.refusals, refused);
        assert_int_equal(heard.acks, saved && !refused);
        assert_int_equal(heard.repeated, codes[i] == ERR_REPEATED);
        assert_int_equal(heard.again, !saved);
        if (refused) {
            assert_string_equal(heard.reason, err_slug(codes[i]));
        }
    }
}

/* By both lists of one answer, and no longer. */
TRAINER_TEST(what_is_repeated_is_acknowledged_too)
{
    static const int codes[] = {0, ERR_REPEATED, ERR_LATE, ERR_REPEATED};
    struct promises promises = {0};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct message *message = lane_put_message(f, i + 1, 10);
        promise_took(message->promise, codes[i]);
        struct promises one = lane_done(f, message);
        promises_move(&promises, &one);
    }
    lane_turn(f); /* its credit */
    struct lane_heard heard = lane_settled(f, &promises);
    assert_int_equal(heard.acks, 3);
    assert_int_equal(heard.repeated, 2);
    assert_int_equal(heard.refusals, 1);
    assert_true(is_silent(f));
    assert_int_equal(stats_get(&f->stats, COUNT_RELIABLE_ACKNOWLEDGED), 3);
}

/* Nobody can say what becomes of it: nor is anything taken that came behind it. */
LANE_TEST(what_failed_for_the_moment_is_asked_for_again)
{
    static const int codes[] = {ERR_MEMORY, ERR_AGAIN, ERR_HISTORY_UNREAD};
    for (size_t i = 0; i < 3; i++) {
        lane_join_as_trainer(f);
        struct message *message = lane_put_message(f, 5, 10);
        assert_int_equal(lane_is_behind(message->promise), 0);
        lane_refuse_and_free(f, message, codes[i]);
        struct lane_heard heard = lane_turn(f);
        assert_int_equal(heard.refusals + heard.acks, 0);
        assert_int_equal(heard.credit, CHARGE);
        assert_true(heard.again);
        lane_go_on(f->lane);
        assert_true(is_silent(f)); /* once */
        lane_put(f, 6, 10);
        assert_null(lane_get(f));
    }
}

/* The loop has them before it is known. */
TRAINER_TEST(what_is_behind_a_message_to_come_again_is_so_until_its_sender_joins)
{
    struct message *messages[3];
    for (uint64_t i = 0; i < 3; i++) {
        messages[i] = lane_put_message(f, 5 + i, 10);
        messages[i]->promise->code = i == 0 ? ERR_LATE : ERR_HISTORY_UNREAD;
        assert_int_equal(lane_is_behind(messages[i]->promise), i == 2 ? ERR_HISTORY_UNREAD : 0);
        lane_pass_over(messages[i]->promise);
    }
    lane_put(f, 0, 0);
    OWNED(message_free) struct message *after = lane_put_message(f, 8, 10);
    assert_int_equal(lane_is_behind(after->promise), 0);
    for (int i = 0; i < 3; i++) {
        message_free(&messages[i]);
    }
}

LANE_TEST(a_trainer_that_there_is_no_memory_for_is_to_come_again)
{
    lane_put(f, 0, 0);
    heap_fail_at(1);
    assert_null(lane_get(f));
    assert_true(heap_has_failed());
    heap_fail_at(0);
    assert_true(lane_hear(f).again);
    lane_join_as_trainer(f);
}

static bool take_one(void *data, struct message *message)
{
    struct message **taken = data;
    if (*taken) {
        return false;
    }
    *taken = message;
    return true;
}

/* However much a peer sends that is none of these, the caller has its turn again, and the messages
 * behind it theirs; one answer is for all joins. */
LANE_TEST(a_flood_of_joins_holds_nobody_up)
{
    struct message *message = NULL;
    int joins = 500, turns = 0;
    for (int i = 0; i < joins; i++) {
        lane_put(f, 0, 0);
    }
    lane_put(f, 1, 10);
    for (; !message; turns++) {
        message = lane_get(f);
    }
    assert_in_range(turns, 4, joins);
    assert_int_equal(lane_turn(f).credit, CREDIT - CHARGE);
    assert_true(is_silent(f));
    struct promises promises = lane_done(f, message);
    promises_free(&promises);
}

/* So that what waits costs about as much as its sender has credit, however small it is. */
TRAINER_TEST(small_messages_take_credit_as_well)
{
    uint64_t taken = 0, all = CREDIT / CHARGE + 3;
    for (uint64_t i = 1; i <= all; i++) {
        lane_put(f, i, 10);
        struct message *message = lane_get(f);
        if (message) {
            lane_wait(f->lane, message);
            taken++;
        }
    }
    assert_int_equal(taken, CREDIT / CHARGE);
    assert_int_equal(stats_dropped(&f->stats, err_index(ERR_OVER_CREDIT)), all - taken);
}

TRAINER_TEST(messages_wait_in_their_order)
{
    OWNED(promises_free) struct promises promises = {0};
    for (uint64_t i = 1; i < 4; i++) {
        struct message *message = lane_put_message(f, i, 100);
        assert_int_equal(lane_is_open(f->lane, message), i == 1);
        lane_wait(f->lane, message);
    }
    assert_true(lane_go_on(f->lane));
    assert_in_range(atomic_load(&f->lane->waiting), 3 * sizeof(struct message), CREDIT);
    for (uint64_t i = 1; i < 4; i++) {
        struct message *taken = NULL;
        lane_retry(f->lane, take_one, &taken);
        assert_non_null(taken);
        assert_int_equal(taken->promise->id, i);
        struct promises one = lane_done(f, taken);
        promises_move(&promises, &one);
    }
    assert_false(lane_go_on(f->lane));
    assert_int_equal(atomic_load(&f->lane->waiting), 0);
}

/* A trainer that has gone is not waited for, and what it was owed is thrown away. */
TRAINER_TEST(a_peer_that_has_gone_is_forgotten)
{
    struct message *message = lane_put_message(f, 1, 100);
    zmq_close(f->dealer);
    f->dealer = zmq_socket(f->zmq, ZMQ_DEALER);
    assert_int_equal(zmq_connect(f->dealer, f->config.reliable_endpoint.text), 0);
    lane_join_as_trainer(f); /* the end of the other one was read before */
    struct promises promises = lane_done(f, message);
    lane_settle(f->lane, &promises);
    assert_false(lane_go_on(f->lane));
    assert_true(is_silent(f));
    assert_int_equal(stats_get(&f->stats, COUNT_RELIABLE_ACKNOWLEDGED), 1);
}

/* A trainer of its own, in place of another one, and the credit that it gets. */
static uint64_t lane_join_another(struct lane_fixture *f, int index)
{
    int now = 0;
    void *own = f->dealer;
    zmq_close(f->others[index]);
    f->others[index] = f->dealer = zmq_socket(f->zmq, ZMQ_DEALER);
    zmq_setsockopt(f->dealer, ZMQ_LINGER, &now, sizeof now);
    zmq_connect(f->dealer, f->config.reliable_endpoint.text);
    lane_put(f, 0, 0);
    struct message *message = lane_get(f);
    uint64_t credit = lane_turn(f).credit;
    f->dealer = own;
    assert_null(message);
    return credit;
}

/* However many there are, they may have no more on their way than there is room for, and nobody is
 * left out; those who go leave theirs to others, also when they have nothing to be told. */
LANE_TEST(credit_is_shared_out)
{
    uint64_t first = 0, all = 0, credit = 0;
    char error[CONFIG_ERROR_MAX] = "";
    lane_free(&f->lane);
    strcpy(f->config.reliable_endpoint.text, "inproc://shared");
    f->config.ingest_budget = 64 * CREDIT;
    assert_int_equal(lane_new(f->zmq, NULL, &f->config, &f->stats, &f->lane, error), 0);
    for (int i = 0; i < TRAINERS; i++) {
        credit = lane_join_another(f, i);
        assert_in_range(credit, CREDIT, 32 * CREDIT);
        first = first ? first : credit;
        all += credit;
    }
    assert_int_equal(first, 4 * CREDIT);
    assert_in_range(all, 64 * CREDIT, (64 + TRAINERS) * CREDIT);
    for (int i = 0; i < TRAINERS; i++) {
        zmq_close(f->others[i]);
        f->others[i] = NULL;
    }
    uint64_t until = clock_monotonic_ns() + WAIT_MS * UINT64_C(1000000);
    while ((credit = lane_join_another(f, 0)) < first) {
        assert_true(clock_monotonic_ns() < until);
        zmq_poll(NULL, 0, 10); /* sockets end on another thread */
    }
}

/* Without memory for an answer it comes later: nobody gets another one's, or counts as gone. */
LANE_TEST(an_answer_without_memory_comes_later)
{
    void *own = f->dealer;
    lane_join_as_trainer(f);
    assert_int_equal(lane_join_another(f, 0), CREDIT);
    for (unsigned nth = 1; !sends_left; nth++) {
        for (int i = 0; i < 2; i++) {
            f->dealer = i ? f->others[0] : own;
            struct message *message = lane_put_message(f, nth, CREDIT);
            struct promises promises = lane_done(f, message);
            promises.first->code = i ? ERR_KEY : 0;
            lane_settle(f->lane, &promises);
        }
        sends_left = nth;
        lane_go_on(f->lane);
        assert_int_equal(lane_go_on(f->lane), false);
        for (int i = 0; i < 2; i++) {
            f->dealer = i ? f->others[0] : own;
            struct lane_heard heard = lane_hear(f);
            assert_int_equal(heard.acks, !i);
            assert_int_equal(heard.refusals, i);
            assert_int_equal(heard.credit, CREDIT);
        }
    }
    f->dealer = own;
    sends_left = 0;
}
