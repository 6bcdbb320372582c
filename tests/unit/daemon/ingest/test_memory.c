/* SPDX-License-Identifier: MIT */
/* The daemon's end over a pair of sockets: what a trainer may lend, what it may name, and that
 * everything is given back. */
#include "tests/unit/heap.h"
#include "tests/unit/unit.h"

#include "daemon/ingest/memory.h"
#include "proto/err.h"
#include "proto/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEALS  MEMORY_SEALS
#define MIB    (1 << 20)
#define TENSOR 131072

struct memory_fixture {
    char directory[64];
    struct config config;
    struct stats stats;
    struct memory *memory;
    struct memory_greeting greeting;
    int peer;
    int descriptors; /* before */
};

static int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;
    assert_non_null(directory);
    while (readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count;
}

static int count_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        count += strstr(line, "memfd:attnd-test") != NULL;
    }
    fclose(maps);
    return count;
}

/* A trainer that has been greeted; returns its end. */
static int join(struct memory_fixture *f, struct memory_greeting *ret_greeting)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
    memory_adopt(f->memory, ends[0]);
    assert_int_equal(recv(ends[1], ret_greeting, sizeof *ret_greeting, 0), sizeof *ret_greeting);
    return ends[1];
}

static void memory_begin(struct memory_fixture *f)
{
    *f = (struct memory_fixture){.directory = "/tmp/attnd-unit-XXXXXX"};
    f->descriptors = count_descriptors();
    config_defaults(&f->config);
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->config.ingest_endpoint.text, sizeof f->config.ingest_endpoint.text,
             "ipc://%s/ingest", f->directory);
    f->config.ingest_memory = 16 * MIB;
    f->memory = memory_new(&f->config, &f->stats);
    assert_non_null(f->memory);
    f->peer = join(f, &f->greeting);
}

static void memory_end(struct memory_fixture *f)
{
    memory_free(&f->memory);
    close(f->peer);
    assert_int_equal(rmdir(f->directory), 0);       /* the socket's file has gone */
    while (count_descriptors() != f->descriptors) { /* a thread closes some of them */
        usleep(1000);
    }
    assert_int_equal(count_mappings(), 0);
}

#define MEMORY_TEST(name) TEST_IN(name, struct memory_fixture, f, memory_begin, memory_end)

static int make_buffer(size_t bytes, int seals)
{
    int fd = memfd_create("attnd-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_true(bytes == 0 || posix_fallocate(fd, 0, (off_t)bytes) == 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Sends a packet with `count` descriptors, which are all `fd`. */
static void say(int peer, const void *data, size_t bytes, int fd, size_t count)
{
    char control[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (size_t i = 0; i < count; i++) {
            memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
        }
    }
    assert_int_equal(sendmsg(peer, &message, 0), bytes);
}

/* Lends what `fd` is, which it closes. */
static void lend(struct memory_fixture *f, int peer, uint32_t number, int fd)
{
    const struct memory_record record = {MEMORY_LEND, number};
    say(peer, &record, sizeof record, fd, 1);
    close(fd);
    memory_turn(f->memory);
}

/* The next thing that attnd says: its kind; 0 when there is nothing, -1 when it has hung up. */
static int heard(int peer)
{
    struct memory_record record = {0};
    ssize_t bytes = recv(peer, &record, sizeof record, 0);
    return bytes < 0 ? 0 : bytes == 0 ? -1 : (int)record.kind;
}

/* A message of one tensor that a reference stands for. */
static struct message *make_message(const struct memory_greeting *greeting, uint32_t buffer,
                                    uint64_t offset, uint64_t bytes)
{
    struct memory_reference reference = {.buffer = buffer, .offset = offset, .bytes = bytes};
    memcpy(reference.token, greeting->token, sizeof reference.token);
    const struct recording_frame frames[] = {{"t", 1}, {"h", 1}, {&reference, sizeof reference}};
    struct message *message;
    assert_int_equal(message_copy(frames, 3, &message), 0);
    return message;
}

MEMORY_TEST(a_tensor_is_read_where_it_is)
{
    int fd = make_buffer(MIB, 0);
    char *own = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    lend(f, f->peer, 3, fd);
    assert_int_equal(heard(f->peer), MEMORY_FREE);
    struct message *message = make_message(&f->greeting, 3, 4096, TENSOR);
    memory_borrow(f->memory, message);
    assert_int_equal(zmq_msg_size(&message->frames[2]), TENSOR);
    assert_int_equal(message->bytes, 2 + TENSOR);
    own[4096] = 7;
    assert_int_equal(*(char *)zmq_msg_data(&message->frames[2]), 7);
    assert_int_equal(heard(f->peer), 0);
    message_free(&message);
    assert_int_equal(heard(f->peer), MEMORY_FREE);
    munmap(own, MIB);
}

MEMORY_TEST(a_closed_connection_is_known_until_its_messages_are_read)
{
    struct memory_greeting greeting;
    int peer = join(f, &greeting);
    lend(f, peer, 0, make_buffer(MIB, SEALS));
    close(peer);
    memory_turn(f->memory);
    struct message *message = make_message(&greeting, 0, 0, TENSOR);
    memory_borrow(f->memory, message);
    assert_int_equal(message->borrowed, 1 << 2);
    while (memory_idle_ms(f->memory, -1) >= 0 && memory_idle_ms(f->memory, -1) < 5000) {
        usleep(10000);
        memory_turn(f->memory);
    }
    assert_int_equal(count_mappings(), 1); /* the message is in it */
    message_free(&message);
    assert_int_equal(count_mappings(), 0);
}

static void assert_refused(struct memory_fixture *f, int fd)
{
    struct memory_greeting greeting;
    int peer = join(f, &greeting);
    lend(f, peer, 0, fd);
    assert_int_equal(heard(peer), -1);
    close(peer);
}

MEMORY_TEST(only_sealed_memfds_are_taken)
{
    assert_refused(f, make_buffer(MIB, 0));
    assert_refused(f, make_buffer(MIB, SEALS & ~F_SEAL_SHRINK));
    assert_refused(f, make_buffer(MIB, SEALS & ~F_SEAL_GROW));
    assert_refused(f, make_buffer(MIB, SEALS & ~F_SEAL_FUTURE_WRITE));
    assert_refused(f, make_buffer(0, SEALS));
    assert_refused(f, open("/dev/null", O_RDWR | O_CLOEXEC));
    assert_refused(f, open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    assert_refused(f, socket(AF_UNIX, SOCK_STREAM, 0));
}

/* attnd would fill them, at its own cost. */
MEMORY_TEST(memory_with_holes_is_not_taken)
{
    int fd = make_buffer(MIB, 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, MIB / 2, 4096), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    assert_refused(f, fd);
    fd = make_buffer(MIB, 0); /* with as many blocks beyond its end as it lacks */
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, MIB), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, MIB, MIB), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    assert_refused(f, fd);
    fd = make_buffer(MIB, SEALS);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, MIB), -1);
    close(fd);
}

/* A socket whose last close waits until its peer, which it returns, has read all; for an hour. */
static int make_lingering(int *ret_peer)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 3600};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    static const char bytes[65536];
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    *ret_peer = accept(listener, NULL, NULL);
    assert_true(*ret_peer >= 0);
    close(listener);
    while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    return fd;
}

/* Nor do those that it leaves in the connection, or sends too many of. */
MEMORY_TEST(a_descriptor_that_takes_long_to_close_holds_nobody_up)
{
    const struct memory_record record = {MEMORY_LEND, 0};
    struct memory_greeting greeting;
    int ends[3];
    assert_refused(f, make_lingering(&ends[0]));
    for (size_t i = 1; i < 3; i++) {
        int peer = join(f, &greeting), fd = make_lingering(&ends[i]);
        say(peer, &record, i == 1 ? 4 : sizeof record, fd, i == 1 ? 8 : 2);
        say(peer, &record, sizeof record, fd, 1); /* after its end */
        close(fd);
        memory_turn(f->memory);
        assert_int_equal(heard(peer), -1);
        close(peer);
    }
    for (size_t i = 0; i < 3; i++) {
        close(ends[i]);
    }
}

MEMORY_TEST(packets_that_are_no_records_end_the_connection)
{
    const uint32_t numbers[][3] = {
        {MEMORY_LEND, MEMORY_BUFFERS_MAX}, {MEMORY_TAKE_BACK, 0}, {9, 0}, {MEMORY_FREE, 0}};
    for (size_t i = 0; i < 4 + 4; i++) {
        struct memory_greeting greeting;
        int peer = join(f, &greeting), fd = make_buffer(MIB, SEALS);
        size_t bytes = i == 4 ? 4 : i == 5 ? 12 : 8, count = i == 6 ? 2 : i == 7 ? 8 : i == 0;
        const uint32_t *record = i < 4 ? numbers[i] : (const uint32_t[]){MEMORY_LEND, 0, 0};
        say(peer, record, bytes, fd, i < 4 ? count : count > 0 ? count : 1);
        close(fd);
        memory_turn(f->memory);
        assert_int_equal(heard(peer), -1);
        close(peer);
    }
}

MEMORY_TEST(memory_is_bounded_by_connection_and_in_all)
{
    struct memory_greeting greeting;
    lend(f, f->peer, 0, make_buffer(3 * MIB, SEALS));
    assert_int_equal(heard(f->peer), MEMORY_FREE);
    lend(f, f->peer, 1, make_buffer(2 * MIB, SEALS));
    assert_int_equal(heard(f->peer), MEMORY_REFUSED);
    int others[4];
    for (int i = 0; i < 4; i++) { /* 3 of 16 MiB are taken: the last has 1 */
        others[i] = join(f, &greeting);
        lend(f, others[i], 0, make_buffer(4 * MIB, SEALS));
        assert_int_equal(heard(others[i]), i < 3 ? MEMORY_FREE : MEMORY_REFUSED);
    }
    const struct memory_record back = {MEMORY_TAKE_BACK, 0};
    say(others[0], &back, sizeof back, -1, 0);
    memory_turn(f->memory);
    lend(f, others[3], 0, make_buffer(4 * MIB, SEALS));
    assert_int_equal(heard(others[3]), MEMORY_FREE);
    for (int i = 0; i < 4; i++) {
        close(others[i]);
    }
}

MEMORY_TEST(references_stay_within_a_free_buffer_of_their_sender)
{
    const struct {
        uint32_t buffer;
        uint64_t offset, bytes;
    } wrong[] = {
        {1, 0, TENSOR},      {MEMORY_BUFFERS_MAX, 0, TENSOR}, {0, 1, TENSOR},
        {0, MIB, TENSOR},    {0, UINT64_MAX - 63, TENSOR},    {0, MIB - TENSOR + 64, TENSOR},
        {0, 64, UINT64_MAX}, {0, 0, MEMORY_TENSOR_MIN - 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct memory_greeting greeting;
        int peer = join(f, &greeting);
        lend(f, peer, 0, make_buffer(MIB, SEALS));
        assert_int_equal(heard(peer), MEMORY_FREE);
        struct message *message =
            make_message(&greeting, wrong[i].buffer, wrong[i].offset, wrong[i].bytes);
        memory_borrow(f->memory, message);
        assert_int_equal(message->borrowed, 0);
        assert_int_equal(heard(peer), -1);
        message_free(&message);
        close(peer);
    }
}

MEMORY_TEST(a_buffer_is_in_one_message_at_a_time)
{
    lend(f, f->peer, 0, make_buffer(MIB, SEALS));
    OWNED(message_free) struct message *first = make_message(&f->greeting, 0, 0, TENSOR);
    OWNED(message_free) struct message *second = make_message(&f->greeting, 0, 0, TENSOR);
    memory_borrow(f->memory, first);
    memory_borrow(f->memory, second);
    assert_int_equal(first->borrowed, 1 << 2);
    assert_int_equal(second->borrowed, 0);
}

MEMORY_TEST(a_token_that_is_nobodys_names_nothing)
{
    struct memory_greeting guessed = f->greeting;
    guessed.token[15] ^= 1;
    lend(f, f->peer, 0, make_buffer(MIB, SEALS));
    assert_int_equal(heard(f->peer), MEMORY_FREE);
    OWNED(message_free) struct message *message = make_message(&guessed, 0, 0, TENSOR);
    memory_borrow(f->memory, message);
    assert_int_equal(message->borrowed, 0);
    assert_int_equal(heard(f->peer), 0);
}

MEMORY_TEST(a_peer_that_reads_nothing_is_cut_off)
{
    struct memory_greeting greeting;
    struct pollfd end = {.fd = join(f, &greeting), .events = POLLRDHUP};
    int messages = 0;
    lend(f, end.fd, 0, make_buffer(MIB, SEALS));
    for (; poll(&end, 1, 0) == 0 && messages < 100000; messages++) {
        OWNED(message_free) struct message *message = make_message(&greeting, 0, 0, TENSOR);
        memory_borrow(f->memory, message);
    }
    assert_in_range(messages, MEMORY_BUFFERS_MAX, 99999);
    close(end.fd);
}

MEMORY_TEST(a_socket_whose_file_has_gone_is_made_again)
{
    char path[80];
    snprintf(path, sizeof path, "%s/memory", f->directory);
    assert_false(memory_is_lost(f->memory));
    assert_int_equal(unlink(path), 0);
    assert_true(memory_is_lost(f->memory));
    memory_keep(f->memory);
    assert_false(memory_is_lost(f->memory));
    assert_int_equal(access(path, F_OK), 0);
}

MEMORY_TEST(connections_are_bounded)
{
    struct memory_greeting greeting;
    int peers[MEMORY_CONNECTIONS_MAX - 1], ends[2];
    for (int i = 0; i < MEMORY_CONNECTIONS_MAX - 1; i++) {
        peers[i] = join(f, &greeting);
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    memory_adopt(f->memory, ends[0]);
    assert_int_equal(recv(ends[1], &greeting, sizeof greeting, 0), 0);
    close(ends[1]);
    for (int i = 0; i < MEMORY_CONNECTIONS_MAX - 1; i++) {
        close(peers[i]);
    }
}

TEST(the_socket_lies_beside_ingest)
{
    char path[MEMORY_PATH_MAX], long_name[200] = "ipc:///";
    assert_true(memory_path("ipc:///run/attnd/ingest", path));
    assert_string_equal(path, "/run/attnd/memory");
    assert_true(memory_path("ipc:///ingest", path));
    assert_string_equal(path, "/memory");
    assert_true(memory_path("ipc:///run/attnd/in", path)); /* others may be there as well */
    assert_string_equal(path, "/run/attnd/in.memory");
    assert_false(memory_path("ipc:///run/attnd/", path));
    assert_false(memory_path("ipc://ingest", path));
    assert_false(memory_path("ipc://@ingest", path));
    assert_false(memory_path("tcp://127.0.0.1:5570", path));
    assert_false(memory_path("inproc:///ingest", path));
    memset(long_name + 7, 'a', 150);
    assert_false(memory_path(long_name, path));
    strcpy(long_name + 157, "/ingest");
    assert_false(memory_path(long_name, path));
}

/* A record of one that could not be taken reaches nobody, as long as its descriptor is open. */
MEMORY_TEST(without_memory_a_connection_is_not_watched)
{
    const struct memory_record back = {MEMORY_TAKE_BACK, 0};
    close(f->peer);
    memory_turn(f->memory); /* nobody is left: the next one needs a table */
    unsigned failures = 0;
    for (bool failed = true; failed; failures += failed) {
        int ends[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
        int same = dup(ends[0]);
        heap_fail_at(failures + 1);
        memory_adopt(f->memory, ends[0]);
        failed = heap_has_failed();
        heap_fail_at(0);
        struct pollfd epoll = {.fd = memory_fd(f->memory), .events = POLLIN};
        (void)!send(ends[1], &back, sizeof back, MSG_NOSIGNAL);
        int watched = poll(&epoll, 1, 0);
        close(same);
        f->peer = failed ? -1 : ends[1];
        if (failed) {
            close(ends[1]);
        }
        assert_int_equal(watched, !failed);
    }
    assert_true(failures > 1); /* its own, and the table's */
}
