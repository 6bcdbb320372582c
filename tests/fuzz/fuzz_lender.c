/* SPDX-License-Identifier: MIT */
/* Any packets as what an attnd says on the same-host lane to a client in C, which copies and names
 * tensors meanwhile. Nobody is given a buffer that attnd may be reading; no more is lent than attnd
 * and the client allow; what is named is there; and nothing is left when the client is closed.
 *
 * A byte says what is done (enum step), the bytes after it with what. */
#include "tests/fuzz/fuzz.h"

#include "clients/c/src/lender.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { STEPS_MAX = 64, HELD = 4, UNIT = 65536, BYTES_MAX = 8 * UNIT };
enum step { TAKE, GIVE, NAME, TEND, RECORD, GREET, RAW, LEAVE, STEPS };

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* A buffer as attnd knows it. */
struct fuzz_buffer {
    char *data; /* NULL: it is not lent */
    uint64_t bytes;
    bool away; /* named, and attnd has not said that it is free */
};

struct fuzz_held {
    struct lent *lent; /* NULL: nothing */
    char *data;
    bool named;
};

static char directory[64], endpoint[80], path[80];
static int listener;
static struct lender *lender;
static int attnd; /* its end of the connection, or -1 */
static struct memory_greeting greeting;
static bool greeted;
static struct fuzz_buffer buffers[MEMORY_BUFFERS_MAX];
static struct fuzz_held held[HELD];

static uint32_t take(struct fuzz_input *input, unsigned bytes)
{
    uint32_t number = 0;
    for (unsigned i = 0; i < bytes && input->left > 0; i++, input->at++, input->left--) {
        number |= (uint32_t)*input->at << 8 * i;
    }
    return number;
}

static void fuzz_lender_end(void)
{
    unlink(path);
    rmdir(directory);
}

static void fuzz_lender_start(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(directory, "/tmp/attnd-fuzz-XXXXXX");
    REQUIRE(mkdtemp(directory));
    snprintf(endpoint, sizeof endpoint, "ipc://%s/ingest", directory);
    snprintf(path, sizeof path, "%s/memory", directory);
    atexit(fuzz_lender_end);
    strcpy(address.sun_path, path);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(listen(listener, 8) == 0);
}

static void forget(struct fuzz_buffer *buffer)
{
    if (buffer->data) {
        munmap(buffer->data, buffer->bytes);
    }
    *buffer = (struct fuzz_buffer){.data = NULL};
}

static void hang_up(void)
{
    if (attnd >= 0) {
        close(attnd);
    }
    attnd = -1;
    greeted = false;
    for (int i = 0; i < MEMORY_BUFFERS_MAX; i++) {
        forget(&buffers[i]);
    }
}

static void know(const struct memory_record *record, int fd)
{
    struct stat status;
    struct fuzz_buffer *buffer = &buffers[record->buffer];
    uint64_t bytes = 0;
    uint32_t count = 0;
    REQUIRE(record->buffer < greeting.buffers_max && !buffer->data && fstat(fd, &status) == 0);
    REQUIRE(fcntl(fd, F_GET_SEALS) == MEMORY_SEALS);
    buffer->bytes = (uint64_t)status.st_size;
    buffer->data = mmap(NULL, buffer->bytes, PROT_READ, MAP_SHARED, fd, 0);
    REQUIRE(buffer->data != MAP_FAILED);
    buffer->away = true;
    for (int i = 0; i < MEMORY_BUFFERS_MAX; i++) {
        count += buffers[i].data != NULL;
        bytes += buffers[i].bytes;
    }
    REQUIRE(count <= greeting.buffers_max && bytes <= greeting.bytes_max && bytes <= BYTES_MAX);
    close(fd);
}

/* Returns whether there was a packet. */
static bool hear_packet(void)
{
    struct memory_record record;
    struct iovec part = {.iov_base = &record, .iov_len = sizeof record};
    char control[CMSG_SPACE(sizeof(int))];
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(attnd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (size <= 0) {
        return false;
    }
    REQUIRE(size == (ssize_t)sizeof record && greeted && record.buffer < MEMORY_BUFFERS_MAX);
    if (c) {
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    }
    REQUIRE((fd >= 0) == (record.kind == MEMORY_LEND));
    if (fd >= 0) {
        know(&record, fd);
    } else {
        REQUIRE(record.kind == MEMORY_TAKE_BACK && buffers[record.buffer].data);
        forget(&buffers[record.buffer]);
    }
    return true;
}

static void tend(bool known)
{
    lender_tend(lender, endpoint, known);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        hang_up();
        attnd = fd;
    }
    while (attnd >= 0 && hear_packet()) {
    }
    if (lender_descriptor(lender) < 0) {
        hang_up();
    }
}

static void say(const void *data, size_t size)
{
    if (attnd >= 0) {
        (void)send(attnd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static void say_record(uint32_t kind, uint32_t number)
{
    const struct memory_record record = {kind, number};
    say(&record, sizeof record);
    if (greeted && number < MEMORY_BUFFERS_MAX && kind == MEMORY_FREE) {
        buffers[number].away = false;
    } else if (greeted && number < MEMORY_BUFFERS_MAX && kind == MEMORY_REFUSED &&
               buffers[number].away) {
        forget(&buffers[number]);
    }
}

static void greet(struct fuzz_input *input)
{
    uint32_t how = take(input, 1);
    struct memory_greeting said = {.magic = MEMORY_MAGIC,
                                   .version = MEMORY_VERSION + (how >> 7),
                                   .buffers_max = take(input, 1),
                                   .bytes_max = (uint64_t)take(input, 1) * UNIT / 4};
    said.magic[0] ^= (char)(how >> 6 & 1);
    said.bytes_max |= how & 32 ? UINT64_MAX << 32 : 0;
    memset(said.token, (int)how, sizeof said.token);
    say(&said, sizeof said);
    if (attnd >= 0 && !greeted && how < 64) {
        greeting = said;
        greeted = true;
    }
    tend(true);
}

static void say_raw(struct fuzz_input *input)
{
    size_t size = take(input, 1) % 64;
    size = size < input->left ? size : input->left;
    say(input->at, size);
    input->at += size;
    input->left -= size;
    lender_tend(lender, endpoint, true);
    hang_up(); /* whatever it was */
}

static void take_buffer(struct fuzz_held *place, uint64_t bytes)
{
    void *data;
    if (!place->lent) {
        struct lent *lent = lender_take(lender, bytes, &data);
        for (int i = 0; lent && i < HELD; i++) {
            REQUIRE(held[i].lent != lent && held[i].data != data);
        }
        *place = (struct fuzz_held){lent, lent ? data : NULL, false};
        if (lent) {
            memset(data, (int)bytes, 64);
        }
    }
}

static void name_buffer(struct fuzz_held *place, bool sent)
{
    struct memory_reference reference;
    if (!place->lent || place->named) {
        return;
    }
    bool known = lender_name(place->lent, place->data, UNIT + 1, &reference);
    place->named = true;
    if (known && greeted && attnd >= 0) {
        struct fuzz_buffer *buffer = &buffers[reference.buffer % MEMORY_BUFFERS_MAX];
        REQUIRE(buffer->data && !buffer->away && reference.offset == 0 && reference.zero == 0);
        REQUIRE(memcmp(reference.token, greeting.token, sizeof reference.token) == 0);
        REQUIRE(reference.bytes <= buffer->bytes);
        REQUIRE(memcmp(buffer->data, place->data, 64) == 0);
        buffer->away = sent;
    }
    if (!sent) {
        lender_not_sent(place->lent);
    }
}

static void give(struct fuzz_held *place)
{
    if (place->lent) {
        lender_give(place->lent);
    }
    *place = (struct fuzz_held){NULL, NULL, false};
}

static void fuzz_lender_step(struct fuzz_input *input)
{
    uint32_t what = take(input, 1), how = what / STEPS;
    struct fuzz_held *place = &held[how % HELD];
    switch ((enum step)(what % STEPS)) {
    case TAKE:
        take_buffer(place, UNIT + 1 + (how / HELD) * UNIT / 2);
        break;
    case GIVE:
        give(place);
        break;
    case NAME:
        name_buffer(place, how < 24);
        break;
    case TEND:
        tend(how < 24);
        break;
    case RECORD:
        say_record(how % 6, take(input, 1));
        break;
    case GREET:
        greet(input);
        break;
    case RAW:
        say_raw(input);
        break;
    default:
        hang_up();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input input = {data, len};
    if (!*directory) {
        fuzz_lender_start();
    }
    int before = dup(listener);
    close(before);
    attnd = -1;
    lender = lender_new(BYTES_MAX);
    REQUIRE(lender);
    for (int i = 0; i < STEPS_MAX && input.left > 0; i++) {
        fuzz_lender_step(&input);
    }
    for (int i = 0; i < HELD; i++) {
        give(&held[i]);
    }
    lender_free(&lender);
    tend(false); /* nobody */
    hang_up();
    int after = dup(listener);
    close(after);
    REQUIRE(after == before); /* the lowest number that is free: none was left open */
    return 0;
}
