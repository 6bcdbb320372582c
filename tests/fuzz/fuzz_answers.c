/* SPDX-License-Identifier: MIT */
/* Any bytes as what an attnd answers to a client in C on the reliable lane, while that publishes.
 * Each message is sent once on a connection, in order and whole, is settled at most once and only
 * after it was sent; no more is sent than the credit that it knows of, but for one message that is
 * alone; what has several frames is no answer; and messages wait for room as long as answers come.
 *
 * A byte says what is done (enum step), the bytes after it with what. The connection goes on from
 * one input to the next. */
#include "tests/fuzz/fuzz.h"

#include "clients/c/src/reliable.h"
#include "clients/c/src/socket.h"
#include "proto/mpk.h"

#include <stdbool.h>
#include <string.h>

enum { MESSAGES = 32, STEPS_MAX = 64, BOUND = 65536, ANSWER_MAX = 4096 };
enum { WAIT_MS = 5000 }; /* as in reliable.c */
enum step { PUBLISH, ANSWER, RAW, CREDIT, PIECES, SILENCE, STEPS };

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* A message of a number: 1 and on. */
struct fuzz_message {
    uint64_t bytes;
    uint32_t tensors;
    bool sent, settled;
};

static struct reliable lane;
static struct warner warner;
static uint64_t warned;
static const struct key_client no_keys;
static struct fuzz_message messages[1 + MESSAGES];
static uint64_t kept, settled, newest_sent;
static uint64_t owed_ms; /* from when on messages may wait for room, at the earliest; 0: never */
static void *context, *router;
static uint8_t routing[256];
static int routing_size;

static uint32_t take(struct fuzz_input *input, unsigned bytes)
{
    uint32_t number = 0;
    for (unsigned i = 0; i < bytes && input->left > 0; i++, input->at++, input->left--) {
        number |= (uint32_t)*input->at << 8 * i;
    }
    return number;
}

static void on_settled(void *sender, const struct kept *entry, bool lost)
{
    REQUIRE(sender == &lane && !lost);
    REQUIRE(entry->number >= 1 && entry->number <= kept);
    REQUIRE(messages[entry->number].sent && !messages[entry->number].settled);
    messages[entry->number].settled = true;
    settled++;
}

static void on_denied(void *sender)
{
    REQUIRE(sender == &lane);
}

static void on_warning(void *nobody, const char *sentence)
{
    REQUIRE(!nobody && strlen(sentence) < 1000);
    warned++;
}

/* Returns whether there was one, and its number: 0 = a client that joins. */
static bool receive(uint64_t *ret_number)
{
    zmq_msg_t frame;
    uint64_t bytes = 0;
    uint32_t count = 0;
    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, router, ZMQ_DONTWAIT) < 0) {
        return false;
    }
    routing_size = (int)zmq_msg_size(&frame);
    memcpy(routing, zmq_msg_data(&frame), zmq_msg_size(&frame));
    REQUIRE(zmq_msg_recv(&frame, router, ZMQ_DONTWAIT) == 8);
    memcpy(ret_number, zmq_msg_data(&frame), 8);
    while (zmq_msg_more(&frame)) {
        REQUIRE(zmq_msg_recv(&frame, router, ZMQ_DONTWAIT) >= 0);
        bytes += zmq_msg_size(&frame);
        count++;
    }
    zmq_msg_close(&frame);
    REQUIRE(*ret_number <= kept);
    REQUIRE(*ret_number
                ? count == 2 + messages[*ret_number].tensors && bytes == messages[*ret_number].bytes
                : count == 0);
    return true;
}

static void tend(void)
{
    uint64_t number, before = settled, now = socket_now_ms();
    bool joined = lane.first_credit > 0;
    reliable_tend(&lane);
    REQUIRE(lane.socket);
    if (settled > before || (!joined && lane.first_credit > 0)) {
        owed_ms = now;
    }
    REQUIRE(lane.answered_ms >= owed_ms);
    while (receive(&number)) {
        if (number == 0) {
            newest_sent = 0;
            continue;
        }
        REQUIRE(number > newest_sent && !messages[number].settled);
        REQUIRE(lane.first_credit > 0);
        newest_sent = number;
        messages[number].sent = true;
    }
    if (lane.credit < 0) { /* the newest was too large, and went when there was all the credit */
        uint64_t bytes = messages[newest_sent].bytes;
        REQUIRE(lane.credit + (int64_t)(bytes > CHARGE_MIN ? bytes : CHARGE_MIN) >=
                lane.first_credit);
    }
    REQUIRE(lane.unacknowledged == kept - settled && (lane.bytes == 0) == (kept == settled));
    REQUIRE(lane.refused <= 2 * kept); /* each as one that is repeated, and as it is settled */
}

static void publish(struct fuzz_input *input)
{
    uint32_t how = take(input, 1);
    struct wire_message message = {.topic = (struct topic *)(void *)&lane};
    struct fuzz_message *said = &messages[kept + 1];
    zmq_msg_t topic, header;
    if (kept == MESSAGES) {
        return;
    }
    message.header.type = how & 1 ? MESSAGE_EVENT : MESSAGE_ATTENTION;
    message.header.tensor_count = how >> 1 & 3;
    zmq_msg_init_size(&topic, 1 + (how >> 3 & 7));
    zmq_msg_init_size(&header, 1 + (how >> 6));
    for (uint32_t i = 0; i < message.header.tensor_count; i++) {
        size_t size = (size_t)take(input, 1) << 6;
        REQUIRE(zmq_msg_init_size(&message.tensors[i], size) == 0);
        message.bytes += size;
    }
    uint64_t bytes = message.bytes + zmq_msg_size(&topic) + zmq_msg_size(&header);
    uint64_t now = socket_now_ms();
    bool lacks = lane.bytes + bytes > BOUND, waits = reliable_must_wait(&lane, bytes);
    REQUIRE(waits == lane.awaited && (lacks || !waits));
    REQUIRE(waits || !lacks || socket_now_ms() >= owed_ms + WAIT_MS);
    REQUIRE(!waits || now < lane.answered_ms + WAIT_MS);
    if (lane.bytes == 0) {
        owed_ms = now;
    }
    if (reliable_keep(&lane, &message, &topic, &header, true) == 0) {
        *said = (struct fuzz_message){.bytes = bytes, .tensors = message.header.tensor_count};
        kept++;
    } else {
        REQUIRE(lane.bytes + bytes > BOUND && lane.full);
    }
    for (uint32_t i = 0; i < message.header.tensor_count; i++) {
        zmq_msg_close(&message.tensors[i]);
    }
    zmq_msg_close(&topic);
    zmq_msg_close(&header);
}

static void say(const void *data, size_t size)
{
    REQUIRE(zmq_send(router, routing, (size_t)routing_size, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0);
    REQUIRE(zmq_send(router, data, size, ZMQ_DONTWAIT) >= 0);
}

/* Each a number of a message; of the lists of what is acknowledged, refused, and repeated. */
static void answer(struct fuzz_input *input)
{
    uint32_t how = take(input, 1), acks = how & 7, refusals = how >> 3 & 7, repeats = how >> 6;
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 3);
    mpk_put_str(&writer, "ack");
    mpk_put_array(&writer, acks);
    for (uint32_t i = 0; i < acks; i++) {
        mpk_put_u64(&writer, take(input, 1));
    }
    mpk_put_str(&writer, "refused");
    mpk_put_array(&writer, refusals);
    for (uint32_t i = 0; i < refusals; i++) {
        mpk_put_array(&writer, 2);
        mpk_put_u64(&writer, take(input, 1));
        mpk_put_str(&writer, "topic");
    }
    mpk_put_str(&writer, "repeated");
    mpk_put_array(&writer, repeats);
    for (uint32_t i = 0; i < repeats; i++) {
        mpk_put_u64(&writer, take(input, 1));
    }
    REQUIRE(mpk_writer_ok(&writer));
    say(writer.buffer.data, writer.buffer.size);
    mpk_writer_clear(&writer);
}

static void say_credit(uint64_t credit)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_u64(&writer, "credit", credit);
    say(writer.buffer.data, writer.buffer.size);
    mpk_writer_clear(&writer);
}

static void say_raw(struct fuzz_input *input)
{
    size_t size = take(input, 2) % ANSWER_MAX;
    size = size < input->left ? size : input->left;
    say(input->at, size);
    input->at += size;
    input->left -= size;
}

static void put_ack(struct mpk_writer *writer, uint64_t number)
{
    mpk_writer_init(writer);
    mpk_put_map(writer, 1);
    mpk_put_str(writer, "ack");
    mpk_put_array(writer, 1);
    mpk_put_u64(writer, number);
}

/* Frames that would be answers, each alone. */
static void say_pieces(struct fuzz_input *input)
{
    uint32_t count = 2 + take(input, 1) % 3;
    uint64_t before = settled;
    REQUIRE(zmq_send(router, routing, (size_t)routing_size, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0);
    for (uint32_t i = 1; i <= count; i++) {
        struct mpk_writer writer;
        put_ack(&writer, take(input, 1));
        REQUIRE(zmq_send(router, writer.buffer.data, writer.buffer.size,
                         ZMQ_DONTWAIT | (i < count ? ZMQ_SNDMORE : 0)) >= 0);
        mpk_writer_clear(&writer);
    }
    tend();
    REQUIRE(settled == before);
}

static void fuzz_answers_step(struct fuzz_input *input)
{
    switch ((enum step)(take(input, 1) % STEPS)) {
    case PUBLISH:
        publish(input);
        break;
    case ANSWER:
        answer(input);
        break;
    case RAW:
        say_raw(input);
        break;
    case PIECES:
        say_pieces(input);
        break;
    case SILENCE: /* for longer than messages wait */
        lane.answered_ms = owed_ms = 0;
        break;
    default:
        say_credit(take(input, 4));
    }
    tend();
}

static void acknowledge(uint64_t number)
{
    struct mpk_writer writer;
    put_ack(&writer, number);
    say(writer.buffer.data, writer.buffer.size);
    mpk_writer_clear(&writer);
}

/* As if it were new. */
static void settle_all(void)
{
    say_credit(INT32_MAX);
    tend();
    for (uint64_t i = 1; i <= kept; i++) {
        if (!messages[i].settled) {
            REQUIRE(messages[i].sent);
            acknowledge(i);
        }
    }
    tend();
    REQUIRE(!lane.own.first && settled == kept && lane.bytes == 0 && lane.tensors == 0);
    REQUIRE(lane.spool_errors == 0 && lane.spooled == 0 && lane.left_bytes == 0);
    for (int i = 0; i < KEPT_BUCKETS; i++) {
        REQUIRE(!lane.sent[i]);
    }
    REQUIRE(warned <= 3); /* of one that is refused, of one that is repeated, and of no room */
    warned = warner.said = 0;
    lane.number = lane.refused = kept = settled = newest_sent = 0;
    lane.credit = lane.first_credit = 0;
    lane.joined = lane.full = lane.awaited = false;
}

static void fuzz_answers_start(void)
{
    const int no_limit = 0;
    fuzz_block_signals();
    context = zmq_ctx_new();
    router = zmq_socket(context, ZMQ_ROUTER);
    REQUIRE(zmq_setsockopt(router, ZMQ_SNDHWM, &no_limit, sizeof no_limit) == 0);
    REQUIRE(zmq_setsockopt(router, ZMQ_RCVHWM, &no_limit, sizeof no_limit) == 0);
    REQUIRE(zmq_bind(router, "inproc://answers") == 0);
    lane.events = (struct kept_events){on_settled, on_denied, &lane};
    lane.bytes_max = BOUND;
    lane.warner = &warner;
    warner.say = on_warning;
    lane.context = context;
    lane.keys = &no_keys;
    reliable_announce(&lane, "inproc://answers");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input input = {data, len};
    if (!context) {
        fuzz_answers_start();
    }
    tend();
    for (int i = 0; i < STEPS_MAX && input.left > 0; i++) {
        fuzz_answers_step(&input);
    }
    settle_all();
    return 0;
}
