/* SPDX-License-Identifier: MIT */
/* Any bytes as what two trainers do on the same-host lane: packets with descriptors of every kind,
 * references in messages that are kept and freed in any order, connections that end. Whatever
 * comes: a frame that was borrowed can be read to its end, it is of the buffer that its sender has
 * lent, and nothing is left when all is closed.
 *
 * A byte says what is done and by whom (`& 8`), the bytes after it with what. */
#include "tests/fuzz/fuzz.h"

#include "daemon/base/log.h"
#include "daemon/ingest/memory.h"
#include "proto/memory.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEERS = 2, KEPT = 4, STEPS_MAX = 64, BUFFER_BYTES = 3 * 65536 };
enum step { PACKET, RECORD, MESSAGE, FREE_OLDEST, LEAVE, READ, STEPS };
enum descriptor { NONE, SEALED, UNSEALED, OTHER, DESCRIPTORS };

struct fuzz_peer {
    int fd;
    struct memory_greeting greeting;
};

static char directory[] = "/tmp/attnd-fuzz-XXXXXX";
static struct config config;
static struct stats stats;
static struct memory *memory;
static struct fuzz_peer peers[PEERS];
static struct message *kept[KEPT];
static int descriptors[DESCRIPTORS] = {-1, -1, -1, -1};
static char *own; /* the sealed one, as a trainer sees it */

static void join(struct fuzz_peer *peer)
{
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    memory_adopt(memory, ends[0]);
    peer->fd = ends[1];
    REQUIRE(recv(peer->fd, &peer->greeting, sizeof peer->greeting, 0) ==
            (ssize_t)sizeof peer->greeting);
}

static void fuzz_memory_end(void)
{
    rmdir(directory);
}

static void fuzz_memory_start(void)
{
    log_setup(LOG_ERROR, false);
    config_defaults(&config);
    REQUIRE(mkdtemp(directory));
    atexit(fuzz_memory_end);
    snprintf(config.ingest_endpoint.text, sizeof config.ingest_endpoint.text, "ipc://%s/ingest",
             directory);
    config.ingest_memory = 20 * BUFFER_BYTES;
    descriptors[SEALED] = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    descriptors[UNSEALED] = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    descriptors[OTHER] = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = SEALED; i <= UNSEALED; i++) {
        REQUIRE(posix_fallocate(descriptors[i], 0, BUFFER_BYTES) == 0);
    }
    own = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[SEALED], 0);
    REQUIRE(own != MAP_FAILED);
    REQUIRE(fcntl(descriptors[SEALED], F_ADD_SEALS, MEMORY_SEALS) == 0);
    for (uint32_t i = 0; i < BUFFER_BYTES; i += sizeof i) {
        memcpy(own + i, &i, sizeof i);
    }
}

/* A connection that has been closed takes nothing. */
static void say(const struct fuzz_peer *peer, const void *data, size_t bytes, int fd, size_t count)
{
    char control[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(count * sizeof fd);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof fd);
        for (size_t i = 0; i < count; i++) {
            memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
        }
    }
    (void)sendmsg(peer->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    memory_turn(memory);
}

static void say_packet(struct fuzz_input *input, const struct fuzz_peer *peer)
{
    uint32_t how = fuzz_take(input, 1);
    size_t bytes = how & 31;
    bytes = bytes < input->left ? bytes : input->left;
    say(peer, input->at, bytes, descriptors[how >> 5 & 3], how >> 7 ? 3 : 1);
    input->at += bytes;
    input->left -= bytes;
}

static void say_record(struct fuzz_input *input, const struct fuzz_peer *peer)
{
    struct memory_record record = {.kind = fuzz_take(input, 1), .buffer = fuzz_take(input, 1)};
    say(peer, &record, sizeof record, record.kind == MEMORY_LEND ? descriptors[SEALED] : -1, 1);
}

static void free_oldest(void)
{
    message_free(&kept[0]);
    memmove(kept, kept + 1, (KEPT - 1) * sizeof kept[0]);
    kept[KEPT - 1] = NULL;
}

static void look_at(struct message *message, const struct memory_reference *references)
{
    for (uint32_t i = 2; i < message->frame_count; i++) {
        size_t size = zmq_msg_size(&message->frames[i]);
        const char *data = zmq_msg_data(&message->frames[i]);
        bool borrowed = message->borrowed & 1u << i;
        REQUIRE(borrowed == (size != sizeof *references));
        if (borrowed) {
            const struct memory_reference *reference = &references[i - 2];
            REQUIRE(size == reference->bytes);
            REQUIRE(memcmp(data, own + reference->offset, 64) == 0);
            REQUIRE(memcmp(data + size - 64, own + reference->offset + size - 64, 64) == 0);
        }
    }
}

static void receive(struct fuzz_input *input, const struct fuzz_peer *peer)
{
    struct memory_reference references[3];
    struct recording_frame frames[5] = {{"t", 1}, {"h", 1}};
    struct message *message = NULL;
    uint32_t count = 1 + fuzz_take(input, 1) % 3;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t how = fuzz_take(input, 1);
        references[i] = (struct memory_reference){.buffer = fuzz_take(input, 1),
                                                  .zero = how & 1,
                                                  .offset = fuzz_take(input, 4),
                                                  .bytes = fuzz_take(input, 4)};
        if (how & 2) {
            references[i].offset <<= 32;
        }
        if (how & 4) {
            references[i].bytes = ~references[i].bytes;
        }
        memcpy(references[i].token, peer->greeting.token, sizeof references[i].token);
        references[i].token[3] ^= (uint8_t)(how >> 7);
        frames[2 + i] = (struct recording_frame){&references[i], sizeof references[i]};
    }
    REQUIRE(message_copy(frames, 2 + count, &message) == 0);
    memory_borrow(memory, message);
    look_at(message, references);
    for (uint32_t i = 0; i < message->frame_count; i++) {
        bytes += zmq_msg_size(&message->frames[i]);
    }
    REQUIRE(message->bytes == bytes);
    free_oldest();
    kept[KEPT - 1] = message;
}

static void fuzz_memory_step(struct fuzz_input *input)
{
    uint32_t what = fuzz_take(input, 1);
    struct fuzz_peer *peer = &peers[what >> 3 & 1];
    char said[64];
    switch ((enum step)((what & 7) % STEPS)) {
    case PACKET:
        say_packet(input, peer);
        break;
    case RECORD:
        say_record(input, peer);
        break;
    case MESSAGE:
        receive(input, peer);
        break;
    case FREE_OLDEST:
        free_oldest();
        break;
    case LEAVE:
        close(peer->fd);
        memory_turn(memory);
        join(peer);
        break;
    default:
        while (recv(peer->fd, said, sizeof said, 0) > 0) {
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input input = {data, len};
    if (!own) {
        fuzz_memory_start();
    }
    int before = dup(descriptors[OTHER]);
    close(before);
    memory = memory_new(&config, &stats);
    REQUIRE(memory);
    for (int i = 0; i < PEERS; i++) {
        join(&peers[i]);
    }
    for (int i = 0; i < STEPS_MAX && input.left > 0; i++) {
        fuzz_memory_step(&input);
    }
    memory_free(&memory);
    for (int i = 0; i < KEPT; i++) {
        free_oldest();
    }
    for (int i = 0; i < PEERS; i++) {
        close(peers[i].fd);
    }
    int after = dup(descriptors[OTHER]);
    close(after);
    REQUIRE(after == before); /* the lowest number that is free: none was left open */
    return 0;
}
