/* SPDX-License-Identifier: MIT */
/* A packet socket (SOCK_SEQPACKET): a record comes whole or not at all, so that no peer can leave
 * half of one here. Every answer fits the socket's own buffer when the peer reads what it is told;
 * a peer that does not is cut off, and nothing is ever queued for it.
 *
 * Seals keep the size of a memfd as it is and its pages where they are: none of the mapping can go
 * away (SIGBUS), and no hole can be made in it. One that has holes is not taken: the kernel fills
 * them when they are read, at the cost of attnd. All pages are therefore there, and the lender's.
 * Where the kernel promises no more memory than it has (vm.overcommit_memory = 2) there is no lane
 * all the same: it drops a clean page rather than swap it. Huge pages can run out: tmpfs alone is
 * taken.
 *
 * References: the table of connections holds a peer, each of its buffers another one; the peer's
 * table holds a buffer, each frame that points into it another one. A buffer is unmapped, and a
 * descriptor closed, with the last; closer.h does that for what is no memfd, and for connections.
 * When a connection ends its buffers stay known for LEFT_NS: messages that name them are still on
 * their way. */
#include "daemon/ingest/memory.h"

#include "daemon/base/clock.h"
#include "daemon/base/endpoint.h"
#include "daemon/base/hash.h"
#include "daemon/base/log.h"
#include "daemon/ingest/closer.h"
#include "proto/err.h"
#include "proto/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <zmq.h>

/* Records of one connection, and connections, that are read in one turn. */
#define RECORDS_PER_TURN 32
#define EVENTS_PER_TURN  64
#define BACKLOG          64
/* That one record can have (SCM_MAX_FD): those without room the kernel would close here. */
#define DESCRIPTORS_MAX 253
/* How long a connection may last without a buffer. */
#define EMPTY_NS UINT64_C(10000000000)
/* How long the buffers of a connection that has ended are kept for messages on their way. */
#define LEFT_NS UINT64_C(2000000000)
/* After which connections are taken again when no descriptor was left. */
#define RETRY_NS UINT64_C(1000000000)
#define NEVER_NS UINT64_MAX

struct memory_buffer {
    struct memory_peer *peer;
    uint32_t id;
    char *data;
    size_t bytes;
    uint64_t message;            /* the last that named it */
    _Atomic uint32_t references; /* the peer's table, and frames */
    _Atomic uint32_t uses;       /* frames */
};

struct memory_peer {
    struct memory *memory;
    int fd;
    _Atomic uint32_t references; /* the table of connections, and buffers */
    _Atomic uint64_t bytes;      /* mapped for it */
    uint8_t token[MEMORY_TOKEN_BYTES];
    struct memory_buffer *buffers[MEMORY_BUFFERS_MAX];
    uint32_t buffer_count;
    uint64_t until_ns; /* forgotten then */
    UT_hash_handle hh;
};

struct memory {
    char path[MEMORY_PATH_MAX];
    int listener, epoll;
    _Atomic uint64_t inode;         /* of the socket's file */
    bool for_group;                 /* others than the user may get as far as the socket */
    uint64_t listen_ns;             /* 0: connections are taken now */
    uint64_t bytes_max, bytes_each; /* of all buffers, of those of a connection */
    uint64_t messages;              /* that were looked at */
    struct memory_peer *peers;      /* by token */
    _Atomic uint64_t bytes;         /* mapped */
    _Atomic uint32_t references;    /* the owner, and peers */
    int closer;
    uint64_t refused; /* connections and buffers, for the log */
    struct stats *stats;
};

static void memory_log_refused(struct memory *memory, const char *reason)
{
    if (log_is_round(memory->refused++)) {
        log_event(LOG_WARNING, "memory_refused", LOG_STR("reason", reason),
                  LOG_NUM("count", memory->refused));
    }
}

/* References */

static void memory_unref(struct memory *memory)
{
    if (atomic_fetch_sub(&memory->references, 1) == 1) {
        if (memory->closer >= 0) {
            closer_stop(memory->closer);
        }
        free(memory);
    }
}

static void memory_unref_peer(struct memory_peer *peer)
{
    if (atomic_fetch_sub(&peer->references, 1) == 1) {
        closer_close(peer->memory->closer, peer->fd);
        memory_unref(peer->memory);
        free(peer);
    }
}

static void memory_unref_buffer(struct memory_buffer *buffer)
{
    struct memory_peer *peer = buffer->peer;
    if (atomic_fetch_sub(&buffer->references, 1) == 1) {
        munmap(buffer->data, buffer->bytes);
        atomic_fetch_sub(&peer->bytes, buffer->bytes);
        atomic_fetch_sub(&peer->memory->bytes, buffer->bytes);
        free(buffer);
        memory_unref_peer(peer);
    }
}

/* Any thread. */
static void memory_say(struct memory_peer *peer, enum memory_record_kind kind, uint32_t buffer)
{
    struct memory_record record = {kind, buffer};
    if (send(peer->fd, &record, sizeof record, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        shutdown(peer->fd, SHUT_RDWR); /* it does not read, or has left: the thread will notice */
    }
}

/* A frame is closed: any thread. */
static void memory_on_frame_gone(void *data, void *hint)
{
    struct memory_buffer *buffer = hint;
    (void)data;
    if (atomic_fetch_sub(&buffer->uses, 1) == 1) {
        memory_say(buffer->peer, MEMORY_FREE, buffer->id);
    }
    memory_unref_buffer(buffer);
}

/* Connections */

static void memory_take_back(struct memory_peer *peer, uint32_t id)
{
    struct memory_buffer *buffer = peer->buffers[id];
    if (buffer) {
        peer->buffers[id] = NULL;
        peer->buffer_count--;
        memory_unref_buffer(buffer);
    }
}

static void memory_forget(struct memory_peer *peer)
{
    HASH_DEL(peer->memory->peers, peer);
    shutdown(peer->fd, SHUT_RDWR);
    epoll_ctl(peer->memory->epoll, EPOLL_CTL_DEL, peer->fd, NULL);
    for (uint32_t i = 0; i < MEMORY_BUFFERS_MAX; i++) {
        memory_take_back(peer, i);
    }
    memory_unref_peer(peer);
}

/* It breaks the rules. */
static void memory_expel(struct memory_peer *peer, const char *reason)
{
    memory_log_refused(peer->memory, reason);
    memory_forget(peer);
}

static void memory_on_left(struct memory_peer *peer)
{
    if (peer->buffer_count == 0) {
        memory_forget(peer);
        return;
    }
    peer->until_ns = clock_monotonic_ns() + LEFT_NS;
    epoll_ctl(peer->memory->epoll, EPOLL_CTL_DEL, peer->fd, NULL);
}

static bool memory_watch(struct memory *memory, int fd, void *whose)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = whose};
    return epoll_ctl(memory->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool memory_greet(const struct memory_peer *peer)
{
    struct memory_greeting greeting = {.version = MEMORY_VERSION,
                                       .buffers_max = MEMORY_BUFFERS_MAX,
                                       .bytes_max = peer->memory->bytes_each};
    memcpy(greeting.magic, MEMORY_MAGIC, sizeof greeting.magic);
    memcpy(greeting.token, peer->token, sizeof greeting.token);
    return send(peer->fd, &greeting, sizeof greeting, MSG_DONTWAIT | MSG_NOSIGNAL) ==
           (ssize_t)sizeof greeting;
}

static bool memory_add_peer(struct memory *memory, struct memory_peer *peer)
{
    struct memory_peer *same = NULL;
    if (getrandom(peer->token, sizeof peer->token, 0) != (ssize_t)sizeof peer->token) {
        return false;
    }
    HASH_FIND(hh, memory->peers, peer->token, sizeof peer->token, same);
    if (same || !memory_greet(peer)) {
        return false;
    }
    HASH_ADD(hh, memory->peers, token, sizeof peer->token, peer);
    return peer->hh.tbl != NULL;
}

void memory_adopt(struct memory *memory, int fd)
{
    bool full = HASH_COUNT(memory->peers) >= MEMORY_CONNECTIONS_MAX;
    struct memory_peer *peer = full ? NULL : calloc(1, sizeof *peer);
    if (!peer) {
        memory_log_refused(memory, full ? "too many connections" : err_text(ERR_MEMORY));
        shutdown(fd, SHUT_RDWR);
        closer_close(memory->closer, fd);
        return;
    }
    *peer = (struct memory_peer){.memory = memory, .fd = fd, .references = 1};
    peer->until_ns = clock_monotonic_ns() + EMPTY_NS;
    atomic_fetch_add(&memory->references, 1);
    if (!memory_add_peer(memory, peer)) {
        memory_unref_peer(peer);
    } else if (!memory_watch(memory, fd, peer)) {
        memory_forget(peer);
    }
}

/* The modes of the directory and of the socket say who may connect at all. */
static bool memory_trusts(const struct memory *memory, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0 || memory->for_group);
}

/* Records */

/* Why a descriptor cannot be lent; NULL: it can. Seals first: they do not change any more. */
static const char *memory_why_not(int fd, size_t *ret_bytes)
{
    struct stat status;
    struct statfs system;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & MEMORY_SEALS) != MEMORY_SEALS) {
        return "a buffer that is no sealed memfd";
    }
    if (fstat(fd, &status) != 0 || fstatfs(fd, &system) != 0 || !S_ISREG(status.st_mode) ||
        system.f_type != TMPFS_MAGIC || status.st_size < 1) {
        return "a buffer of another kind";
    }
    /* Blocks beyond its end, which would count as well, go first. */
    if (ftruncate(fd, status.st_size) != 0 || fstat(fd, &status) != 0 ||
        status.st_blocks * 512 < status.st_size) {
        return "a buffer with holes";
    }
    *ret_bytes = (size_t)status.st_size;
    return NULL;
}

/* Maps it, if there is room. */
static struct memory_buffer *memory_map(struct memory_peer *peer, int fd, size_t bytes)
{
    struct memory *memory = peer->memory;
    uint64_t each = atomic_load(&peer->bytes), all = atomic_load(&memory->bytes);
    if (bytes > memory->bytes_each || each > memory->bytes_each - bytes ||
        bytes > memory->bytes_max || all > memory->bytes_max - bytes) {
        return NULL;
    }
    struct memory_buffer *buffer = calloc(1, sizeof *buffer);
    void *data = buffer ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (data == MAP_FAILED) {
        free(buffer);
        return NULL;
    }
    *buffer = (struct memory_buffer){.peer = peer, .data = data, .bytes = bytes, .references = 1};
    atomic_fetch_add(&peer->references, 1);
    atomic_fetch_add(&peer->bytes, bytes);
    atomic_fetch_add(&memory->bytes, bytes);
    return buffer;
}

/* Returns why the peer breaks the rules, or NULL. The descriptor stays the caller's. */
static const char *memory_lend(struct memory_peer *peer, uint32_t id, int fd)
{
    size_t bytes = 0;
    const char *why = memory_why_not(fd, &bytes);
    if (why || peer->buffers[id]) {
        return why ? why : "a buffer that is lent already";
    }
    struct memory_buffer *buffer = memory_map(peer, fd, bytes);
    if (!buffer) {
        memory_say(peer, MEMORY_REFUSED, id);
        return NULL;
    }
    buffer->id = id;
    peer->buffers[id] = buffer;
    peer->buffer_count++;
    peer->until_ns = NEVER_NS;
    memory_say(peer, MEMORY_FREE, id);
    return NULL;
}

static const char *memory_obey(struct memory_peer *peer, const struct memory_record *record, int fd)
{
    if (record->buffer >= MEMORY_BUFFERS_MAX) {
        return "a number of a buffer that is too large";
    }
    if (record->kind == MEMORY_LEND) {
        return memory_lend(peer, record->buffer, fd);
    }
    if (record->kind != MEMORY_TAKE_BACK || fd >= 0 || !peer->buffers[record->buffer]) {
        return "a record that makes no sense";
    }
    memory_take_back(peer, record->buffer);
    if (peer->buffer_count == 0) {
        peer->until_ns = clock_monotonic_ns() + EMPTY_NS;
    }
    return NULL;
}

/* The descriptor that came along, or -1; others are closed, and *ret_count counts them all. */
static int memory_descriptor(struct memory *memory, struct msghdr *header, unsigned *ret_count)
{
    int found = -1;
    *ret_count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if ((*ret_count)++ == 0) {
                found = fd;
            } else {
                closer_close(memory->closer, fd);
            }
        }
    }
    return found;
}

/* One record. Whether there may be another one, and the peer is still there. */
static bool memory_read(struct memory_peer *peer)
{
    union {
        struct cmsghdr header; /* for its alignment */
        char room[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct memory_record record;
    struct iovec part = {.iov_base = &record, .iov_len = sizeof record};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    unsigned descriptors;
    ssize_t bytes = recvmsg(peer->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
        return errno == EINTR;
    }
    if (bytes < 0) {
        memory_on_left(peer);
        return false;
    }
    int fd = memory_descriptor(peer->memory, &message, &descriptors);
    const char *why = "a packet that is no record";
    if (bytes == 0 && descriptors == 0) {
        memory_on_left(peer);
        return false;
    }
    if (bytes == (ssize_t)sizeof record && descriptors <= 1 &&
        !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        why = memory_obey(peer, &record, fd);
    }
    if (fd >= 0 && why) {
        closer_close(peer->memory->closer, fd);
    } else if (fd >= 0) {
        close(fd); /* a sealed memfd */
    }
    if (why) {
        memory_expel(peer, why);
    }
    return !why;
}

static void memory_read_some(struct memory_peer *peer)
{
    for (int i = 0; i < RECORDS_PER_TURN && memory_read(peer); i++) {
    }
}

void memory_turn(struct memory *memory)
{
    struct epoll_event events[EVENTS_PER_TURN];
    int count = memory ? epoll_wait(memory->epoll, events, EVENTS_PER_TURN, 0) : 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == memory) {
            int fd = accept4(memory->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0 && memory_trusts(memory, fd)) {
                memory_adopt(memory, fd);
            } else if (fd >= 0) {
                memory_log_refused(memory, "another user");
                closer_close(memory->closer, fd);
            } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                memory_log_refused(memory, strerror(errno));
                epoll_ctl(memory->epoll, EPOLL_CTL_DEL, memory->listener, NULL);
                memory->listen_ns = clock_monotonic_ns() + RETRY_NS;
            }
        } else {
            memory_read_some(events[i].data.ptr);
        }
    }
    if (memory) {
        uint64_t now = clock_monotonic_ns();
        struct memory_peer *peer, *next;
        HASH_ITER(hh, memory->peers, peer, next)
        {
            if (peer->until_ns <= now) {
                memory_forget(peer);
            }
        }
        if (memory->listen_ns && memory->listen_ns <= now) {
            memory->listen_ns = memory_watch(memory, memory->listener, memory) ? 0 : now + RETRY_NS;
        }
    }
}

int memory_idle_ms(const struct memory *memory, int most_ms)
{
    uint64_t until = memory && memory->listen_ns ? memory->listen_ns : NEVER_NS;
    uint64_t now = clock_monotonic_ns();
    for (const struct memory_peer *peer = memory ? memory->peers : NULL; peer;
         peer = peer->hh.next) {
        until = peer->until_ns < until ? peer->until_ns : until;
    }
    if (until == NEVER_NS) {
        return most_ms;
    }
    int idle_ms = until > now ? (int)((until - now) / 1000000) + 1 : 0;
    return most_ms >= 0 && most_ms < idle_ms ? most_ms : idle_ms;
}

int memory_fd(const struct memory *memory)
{
    return memory ? memory->epoll : -1;
}

/* Messages */

/* The bytes that a reference names, as a frame. Whether they are there. */
static bool memory_resolve(struct memory_peer *peer, const struct memory_reference *reference,
                           zmq_msg_t *frame)
{
    struct memory_buffer *buffer =
        reference->buffer < MEMORY_BUFFERS_MAX ? peer->buffers[reference->buffer] : NULL;
    bool busy = buffer && atomic_load(&buffer->uses) > 0 &&
                buffer->message != peer->memory->messages; /* another message is in it */
    if (!buffer || busy || reference->zero != 0 || reference->bytes < MEMORY_TENSOR_MIN ||
        reference->offset % MEMORY_ALIGNMENT != 0 || reference->offset > buffer->bytes ||
        reference->bytes > buffer->bytes - reference->offset) {
        return false;
    }
    zmq_msg_t there;
    if (zmq_msg_init_data(&there, buffer->data + reference->offset, reference->bytes,
                          memory_on_frame_gone, buffer) != 0) {
        return false;
    }
    buffer->message = peer->memory->messages;
    atomic_fetch_add(&buffer->references, 1);
    atomic_fetch_add(&buffer->uses, 1);
    zmq_msg_move(frame, &there);
    return true;
}

void memory_borrow(struct memory *memory, struct message *message)
{
    if (!memory) {
        return;
    }
    memory->messages++;
    for (uint32_t i = 2; i < message->frame_count; i++) {
        struct memory_reference reference;
        struct memory_peer *peer = NULL;
        zmq_msg_t *frame = &message->frames[i];
        if (zmq_msg_size(frame) != sizeof reference) {
            continue;
        }
        memcpy(&reference, zmq_msg_data(frame), sizeof reference);
        HASH_FIND(hh, memory->peers, reference.token, sizeof reference.token, peer);
        if (!peer) {
            continue;
        }
        if (!memory_resolve(peer, &reference, frame)) {
            memory_expel(peer, "a message that names what is not in a free buffer");
            continue;
        }
        message->bytes += reference.bytes - sizeof reference;
        message->cost += reference.bytes - sizeof reference;
        message->borrowed |= 1u << i;
    }
    if (message->borrowed) {
        stats_add(memory->stats, COUNT_SHARED, 1);
    }
}

/* Life */

static int memory_listen(struct memory *memory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    strcpy(address.sun_path, memory->path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    if (lstat(memory->path, &status) == 0 && S_ISSOCK(status.st_mode)) {
        unlink(memory->path); /* ingest is ours, so nobody listens here */
    }
    mode_t mode = endpoint_mode(memory->path);
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        chmod(memory->path, mode) != 0 || lstat(memory->path, &status) != 0 ||
        listen(fd, BACKLOG) != 0 || !memory_watch(memory, fd, memory)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    memory->listener = fd;
    memory->listen_ns = 0;
    atomic_store(&memory->inode, status.st_ino);
    memory->for_group = mode & S_IRGRP;
    log_event(LOG_INFO, "memory_on", LOG_STR("path", memory->path));
    return 0;
}

/* Whether the kernel may refuse a page of a mapping: then reading is no longer safe. */
static bool memory_is_strict(void)
{
    char mode = '0';
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!read(fd, &mode, 1);
        close(fd);
    }
    return mode == '2';
}

struct memory *memory_new(const struct config *config, struct stats *stats)
{
    char path[MEMORY_PATH_MAX];
    bool has_path = memory_path(config->ingest_endpoint.text, path);
    const char *off = config->ingest_memory == 0 ? "ingest.memory is 0"
                      : !has_path                ? "ingest.endpoint is no absolute path"
                      : memory_is_strict()       ? "vm.overcommit_memory is 2"
                                                 : NULL;
    if (off) {
        log_event(LOG_INFO, "memory_off", LOG_STR("reason", off));
        return NULL;
    }
    struct memory *memory = calloc(1, sizeof *memory);
    if (!memory) {
        return NULL;
    }
    strcpy(memory->path, path);
    memory->listener = memory->closer = -1;
    memory->references = 1;
    memory->stats = stats;
    memory->bytes_max = config->ingest_memory;
    memory->bytes_each = config->ingest_memory / CONFIG_MEMORY_SHARE;
    memory->epoll = epoll_create1(EPOLL_CLOEXEC);
    errno = memory->epoll < 0 ? errno : closer_start(&memory->closer);
    if (errno || memory_listen(memory) != 0) {
        log_event(LOG_WARNING, "memory_off", LOG_STR("path", path),
                  LOG_STR("reason", strerror(errno)));
        memory_free(&memory);
    }
    return memory;
}

bool memory_is_lost(const struct memory *memory)
{
    struct stat status;
    return memory &&
           (lstat(memory->path, &status) != 0 || status.st_ino != atomic_load(&memory->inode));
}

void memory_keep(struct memory *memory)
{
    if (!memory || (memory->listener >= 0 && !memory_is_lost(memory))) {
        return;
    }
    if (memory->listener >= 0) {
        close(memory->listener); /* leaves epoll by itself */
        memory->listener = -1;
    }
    if (memory_listen(memory) != 0) {
        memory->listen_ns = 0;
        memory_log_refused(memory, strerror(errno));
    }
}

void memory_free(struct memory **memory_p)
{
    struct memory *memory = *memory_p;
    struct memory_peer *peer, *next;
    if (!memory) {
        return;
    }
    HASH_ITER(hh, memory->peers, peer, next)
    {
        memory_forget(peer);
    }
    if (memory->listener >= 0 && !memory_is_lost(memory)) {
        unlink(memory->path);
    }
    if (memory->listener >= 0) {
        close(memory->listener);
    }
    if (memory->epoll >= 0) {
        close(memory->epoll);
    }
    memory_unref(memory);
    *memory_p = NULL;
}
