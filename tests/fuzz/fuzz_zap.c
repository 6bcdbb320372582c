/* SPDX-License-Identifier: MIT */
/* Any frames as a request of ZeroMQ's to the handler of keys, of whom nobody but ZeroMQ asks: but
 * what is in them comes from whoever connects. Each is answered, with the number of the request;
 * and only a key of the list gets in, at a socket that its role is for.
 *
 * A byte says how many frames; each has a byte of what it is, a length and its bytes: 0, or the
 * public key of the role 1 to 4 as it is in force, or a frame of a good request. */
#include "tests/fuzz/fuzz.h"

#include "daemon/base/endpoint.h"
#include "daemon/base/keys.h"
#include "daemon/base/log.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FRAMES = 7, FRAMES_MAX = 10, KEY_BYTES = 32, FRAME_MAX = 320 };
enum { PUBLISH, READ, PLAN, ADMIN, ROLES };

struct fuzz_frame {
    uint8_t data[FRAME_MAX];
    size_t size;
};

static const char *const roles[ROLES] = {"publish", "read", "plan", "admin"};
static const char *const good[FRAMES] = {"1.0", "1", "ingest", "127.0.0.1", "", "CURVE", NULL};
static uint8_t keys_of[ROLES][KEY_BYTES];
static struct stats stats;
static struct keyring *keys;
static void *context, *asker;

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    REQUIRE(file && fputs(text, file) >= 0 && fclose(file) == 0 && chmod(path, 0600) == 0);
}

static void make_list(char *list, size_t size)
{
    size_t at = 0;
    for (int role = 0; role < ROLES; role++) {
        char public[KEY_LENGTH + 1], secret[KEY_LENGTH + 1];
        memset(keys_of[role], 1 + role, KEY_BYTES);
        REQUIRE(zmq_z85_encode(secret, keys_of[role], KEY_BYTES));
        REQUIRE(zmq_curve_public(public, secret) == 0);
        REQUIRE(zmq_z85_decode(keys_of[role], public));
        at += (size_t)snprintf(list + at, size - at, "%s %s *\n", public, roles[role]);
    }
}

static void fuzz_zap_start(void)
{
    static struct config config;
    char directory[] = "/tmp/attnd-fuzz-XXXXXX", error[CONFIG_ERROR_MAX] = "", list[1024];
    char public[KEY_LENGTH + 1], secret[KEY_LENGTH + 1];
    fuzz_block_signals();
    log_setup(LOG_ERROR, false);
    config_defaults(&config);
    REQUIRE(mkdtemp(directory) && zmq_curve_keypair(public, secret) == 0);
    snprintf(config.keys_server.text, CONFIG_TEXT_MAX, "%s/key", directory);
    snprintf(config.keys_access.text, CONFIG_TEXT_MAX, "%s/access", directory);
    make_list(list, sizeof list);
    REQUIRE(key_write(config.keys_server.text, public, secret, error) == 0);
    write_file(config.keys_access.text, list);
    context = endpoint_context_new();
    REQUIRE(keys_new(context, &config, &stats, &keys, error) == 0);
    unlink(config.keys_server.text);
    unlink(config.keys_access.text);
    rmdir(directory);
    asker = zmq_socket(context, ZMQ_DEALER);
    REQUIRE(asker && zmq_connect(asker, "inproc://zeromq.zap.01") == 0);
}

static void read_frame(struct fuzz_input *input, uint32_t index, struct fuzz_frame *ret_frame)
{
    uint32_t what = fuzz_take(input, 1), role = what - 1;
    *ret_frame = (struct fuzz_frame){.size = 0};
    if (what > 0 && role < ROLES) {
        ret_frame->size = KEY_BYTES;
        memcpy(ret_frame->data, keys_of[role], KEY_BYTES);
    } else if (what == 5 && index < FRAMES && good[index]) {
        ret_frame->size = strlen(good[index]);
        memcpy(ret_frame->data, good[index], ret_frame->size);
    } else {
        size_t size = fuzz_take(input, 1) + (what & 64);
        ret_frame->size = size < input->left ? size : input->left;
        memcpy(ret_frame->data, input->at, ret_frame->size);
        input->at += ret_frame->size;
        input->left -= ret_frame->size;
    }
}

/* Up to a NUL, as the handler reads them. */
static bool has_text(const struct fuzz_frame *frame, const char *text)
{
    return strcmp((const char *)frame->data, text) == 0;
}

/* Two are for those who publish, one is for both, and all others are for those who read. */
static bool is_role_for(int role, const struct fuzz_frame *socket)
{
    bool is_ingest = has_text(socket, "ingest") || has_text(socket, "reliable");
    return has_text(socket, "control") || role == ADMIN || is_ingest == (role == PUBLISH);
}

static bool is_to_be_admitted(const struct fuzz_frame *frames, uint32_t count)
{
    bool admitted = false;
    if (count != FRAMES || !has_text(&frames[0], "1.0") || !has_text(&frames[5], "CURVE") ||
        frames[6].size != KEY_BYTES) {
        return false;
    }
    for (int role = 0; role < ROLES; role++) {
        admitted = admitted || (memcmp(frames[6].data, keys_of[role], KEY_BYTES) == 0 &&
                                is_role_for(role, &frames[2]));
    }
    return admitted;
}

static void hear(struct fuzz_frame *ret_frame, bool more)
{
    int is_more = 0, size = zmq_recv(asker, ret_frame->data, FRAME_MAX, 0);
    size_t room = sizeof is_more;
    REQUIRE(size >= 0 && size < FRAME_MAX);
    ret_frame->size = (size_t)size;
    ret_frame->data[size] = '\0';
    REQUIRE(zmq_getsockopt(asker, ZMQ_RCVMORE, &is_more, &room) == 0 && (is_more != 0) == more);
}

static void ask(const struct fuzz_frame *frames, uint32_t count)
{
    struct fuzz_frame answer[1 + 6];
    bool admitted = is_to_be_admitted(frames, count);
    uint64_t before = stats_get(&stats, COUNT_KEYS_REFUSED);
    char public[KEY_LENGTH + 1] = "";
    REQUIRE(zmq_send(asker, "", 0, ZMQ_SNDMORE) == 0);
    for (uint32_t i = 0; i < count; i++) {
        REQUIRE(zmq_send(asker, frames[i].data, frames[i].size, i + 1 < count ? ZMQ_SNDMORE : 0) >=
                0);
    }
    for (int i = 0; i < 7; i++) {
        hear(&answer[i], i < 6);
    }
    REQUIRE(answer[0].size == 0 && has_text(&answer[1], "1.0") && (answer[6].size > 0) == admitted);
    REQUIRE(count < 2 ? answer[2].size == 0
                      : answer[2].size == strnlen((const char *)frames[1].data, 255) &&
                            memcmp(answer[2].data, frames[1].data, answer[2].size) == 0);
    REQUIRE(has_text(&answer[3], admitted ? "200" : "400"));
    REQUIRE(!admitted || zmq_z85_encode(public, frames[6].data, KEY_BYTES));
    REQUIRE(has_text(&answer[5], public));
    REQUIRE(stats_get(&stats, COUNT_KEYS_REFUSED) == before + !admitted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_frame frames[FRAMES_MAX];
    struct fuzz_input input = {data, len};
    if (!keys) {
        fuzz_zap_start();
    }
    uint32_t count = 1 + fuzz_take(&input, 1) % FRAMES_MAX;
    for (uint32_t i = 0; i < count; i++) {
        read_frame(&input, i, &frames[i]);
    }
    ask(frames, count);
    return 0;
}
