/* SPDX-License-Identifier: MIT */
/* Any frames as what two trainers send on the reliable lane, and any order in
 * which attnd is done with it. A message that is taken has a promise of its sender's, within its
 * credit; each promise is answered as it was settled, or not at all if nobody can say; and nothing
 * is left in the end.
 *
 * A byte says what is done (enum step) and by whom (`& 8`), the bytes after it with what. The lane
 * goes on from one input to the next. */
#include "tests/fuzz/fuzz.h"

#include "daemon/base/endpoint.h"
#include "daemon/base/log.h"
#include "daemon/ingest/lane_internal.h"
#include "daemon/ingest/message.h"
#include "proto/err.h"
#include "proto/mpk.h"

#include <string.h>

enum {
    PEERS = 2,
    STEPS_MAX = 64,
    KEPT = 64,
    FRAMES = 8,
    LEAVES = 1,
    CREDIT = 65536,
    CHARGE = 4096
};
enum step { MESSAGE, RAW, JOIN, FREE_OLDEST, SETTLE, RETRY, SPEAK, STEPS = 8 };

static struct config config;
static struct stats stats;
static void *context;
static struct lane *lane;
static void *peers[PEERS];
static struct message *kept[KEPT]; /* taken, and not freed; the oldest one first */
static struct promises promised;
static bool is_open;
static uint64_t told, dropped; /* promises: answered, and settled so that they are not */

static bool gate(void *data)
{
    (void)data;
    return is_open;
}

static uint64_t charge_of(const struct message *message)
{
    return message->bytes > CHARGE ? message->bytes : CHARGE;
}

/* Goes on as ingest does. Returns whether there was room. */
static bool take_message(void *data, struct message *message)
{
    uint64_t held = 0;
    (void)data;
    if (!is_open || kept[KEPT - 1]) {
        return false;
    }
    REQUIRE(message->promise && message->promise->peer == message->peer && message->promise->id);
    int i = 0;
    for (; kept[i]; i++) {
        held += kept[i]->peer == message->peer ? charge_of(kept[i]) : 0;
    }
    REQUIRE(held == 0 || held + charge_of(message) <= CREDIT);
    kept[i] = message;
    promises_add(&promised, message->promise);
    message->promise = NULL;
    return true;
}

static void refuse(struct message *message, int code)
{
    lane_refuse(lane, message, code);
    lane_return(lane, message->peer, message->bytes);
    message_free(&message);
}

static void receive_all(void)
{
    struct message *message;
    const char *key;
    uint32_t turns = 0;
    for (int code; (code = lane_receive(lane, &message)) != ERR_AGAIN; turns++) {
        REQUIRE(code == 0 && turns < 1000);
        if (!message) {
            continue;
        }
        int wrong = message_check(message, &config, &key);
        if (wrong && message->bytes % 2) { /* as ingest does with all that are wrong */
            refuse(message, wrong);
        } else if (!lane_is_open(lane, message) || !take_message(NULL, message)) {
            lane_wait(lane, message);
        }
    }
}

static void send_frame(void *peer, const void *data, size_t size, bool more)
{
    REQUIRE(zmq_send(peer, data, size, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) >= 0);
}

static void send_raw(struct fuzz_input *input, void *peer)
{
    uint32_t count = 1 + fuzz_take(input, 1) % FRAMES;
    for (uint32_t i = 0; i < count; i++) {
        size_t size = fuzz_take(input, 1 + (i > 1));
        size = size < input->left ? size : input->left;
        send_frame(peer, input->at, size, i + 1 < count);
        input->at += size;
        input->left -= size;
    }
}

static void send_message(struct fuzz_input *input, void *peer)
{
    static const char payload[2 * CREDIT];
    uint64_t id = fuzz_take(input, 1);
    send_frame(peer, &id, sizeof id, true);
    send_frame(peer, payload, (size_t)fuzz_take(input, 1) << 9, false);
}

static void hear_answers(const msgpack_object *list)
{
    if (list) {
        REQUIRE(list->type == MSGPACK_OBJECT_ARRAY && list->via.array.size > 0);
        told += list->via.array.size;
    }
}

static void hear(void *peer)
{
    static char answer[65536];
    int size;
    while ((size = zmq_recv(peer, answer, sizeof answer, ZMQ_DONTWAIT)) >= 0) {
        static const char *const names[] = {"credit", "ack", "refused"};
        const msgpack_object *values[3];
        const char *twice;
        struct mpk_doc doc;
        uint64_t credit;
        REQUIRE(mpk_parse(answer, (size_t)size, &mpk_header_limits, &doc) == 0);
        REQUIRE(mpk_collect(doc.root, names, 3, values, &twice) == 0);
        REQUIRE(!values[0] || mpk_get_u64(values[0], UINT32_MAX, &credit) == 0);
        hear_answers(values[1]);
        hear_answers(values[2]);
        mpk_doc_clear(&doc);
    }
}

static void speak(void)
{
    (void)lane_go_on(lane);
    for (int i = 0; i < PEERS; i++) {
        hear(peers[i]);
    }
}

static void join(int which)
{
    const int no_limit = 0;
    void *peer = peers[which] = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(peer, ZMQ_LINGER, &no_limit, sizeof no_limit);
    zmq_setsockopt(peer, ZMQ_SNDHWM, &no_limit, sizeof no_limit);
    REQUIRE(zmq_connect(peer, config.reliable_endpoint.text) == 0);
}

static void free_oldest(void)
{
    if (kept[0]) {
        lane_return(lane, kept[0]->peer, kept[0]->bytes);
        message_free(&kept[0]);
        memmove(kept, kept + 1, (KEPT - 1) * sizeof kept[0]);
        kept[KEPT - 1] = NULL;
    }
}

static void settle_oldest(int code)
{
    struct promises settled = {0};
    struct promise *promise = promises_take(&promised);
    if (promise) {
        promise->code = code;
        dropped += code == ERR_AGAIN || code == ERR_MEMORY;
        promises_add(&settled, promise);
        lane_settle(lane, &settled);
    }
}

static void fuzz_lane_step(struct fuzz_input *input)
{
    static const int codes[] = {0, 0, ERR_AGAIN, ERR_MEMORY, ERR_TOPIC, ERR_SEQ_DUPLICATE};
    static const uint64_t none;
    uint32_t what = fuzz_take(input, 1);
    int which = what >> 3 & 1;
    is_open = !(what & 16);
    switch ((enum step)(what % STEPS)) {
    case MESSAGE:
        send_message(input, peers[which]);
        break;
    case RAW:
        send_raw(input, peers[which]);
        break;
    case JOIN:
        send_frame(peers[which], &none, sizeof none, false);
        break;
    case FREE_OLDEST:
        free_oldest();
        break;
    case SETTLE:
        settle_oldest(codes[fuzz_take(input, 1) % (sizeof codes / sizeof codes[0])]);
        break;
    case RETRY:
        lane_retry(lane, take_message, NULL);
        break;
    default:
        speak();
    }
    receive_all();
}

/* As if it were new. */
static void finish(void)
{
    is_open = true;
    do {
        while (kept[0]) {
            free_oldest();
        }
        while (promised.first) {
            settle_oldest(0);
        }
        speak();
        lane_retry(lane, take_message, NULL);
        receive_all();
    } while (kept[0] || promised.first);
    while (lane_go_on(lane)) {
    }
    speak();
    uint64_t received = stats_get(&stats, COUNT_RELIABLE_RECEIVED);
    uint64_t refused = stats_get(&stats, COUNT_RELIABLE_REFUSED);
    uint64_t acknowledged = stats_get(&stats, COUNT_RELIABLE_ACKNOWLEDGED);
    REQUIRE(received == refused + acknowledged + dropped);
    REQUIRE(atomic_load(&lane->waiting) == 0);
    REQUIRE(told == refused + acknowledged);
}

static void fuzz_lane_start(void)
{
    char error[CONFIG_ERROR_MAX] = "";
    fuzz_block_signals();
    log_setup(LOG_ERROR, false);
    config_defaults(&config);
    strcpy(config.reliable_endpoint.text, "inproc://reliable");
    config.ingest_budget = 16 * CREDIT;
    context = endpoint_context_new();
    REQUIRE(lane_new(context, NULL, &config, &stats, &lane, error) == 0);
    lane->is_open = gate;
    for (int i = 0; i < PEERS; i++) {
        join(i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input input = {data, len};
    if (!lane) {
        fuzz_lane_start();
    }
    for (int i = 0; i < STEPS_MAX && input.left > 0; i++) {
        fuzz_lane_step(&input);
    }
    finish();
    return 0;
}
