/* SPDX-License-Identifier: MIT */
/* A buffer is free when attnd does not have it (`away`) and nobody here does (`held`). All buffers
 * belong to one connection: when it ends they are forgotten, and one that is still held is unmapped
 * when it is given back. The sending thread makes those that a taker did not find, pages and all,
 * so that the trainer waits neither for the kernel nor for attnd.
 *
 * A child process has a copy of the connection's descriptor, and would keep it open when the
 * trainer is killed: it closes it at once. */
#include "clients/c/src/lender.h"

#include "clients/c/src/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Sizes of buffers are multiples of this. */
#define ROUND_BYTES UINT64_C(65536)
/* A buffer is for what takes at least this part of it. */
#define SLACK 4
/* After a connection that ended. */
#define RETRY_MS 1000
/* After memory that was not taken. */
#define REFUSED_MS 10000
/* No attnd says more between two looks: a buffer has two answers at most, to its loan and to its
 * last name. Whoever does is none, and must not hold up the training. */
#define RECORDS_MAX (2 * MEMORY_BUFFERS_MAX)

struct lent {
    struct lender *lender;
    uint32_t number;
    void *data;
    uint64_t bytes;
    uint64_t used; /* when it was given back, in uses of the lender */
    bool away, held;
    bool forgotten; /* its connection has ended */
};

struct lender {
    pthread_mutex_t lock;
    uint64_t bytes_max;
    int fd;       /* -1: not connected */
    bool greeted; /* and so the rest of this is known */
    uint8_t token[MEMORY_TOKEN_BYTES];
    uint64_t room_max; /* bytes */
    uint32_t count_max;
    struct lent *buffers[MEMORY_BUFFERS_MAX];
    uint64_t bytes, uses;
    uint64_t missed[MEMORY_BUFFERS_MAX]; /* sizes that were asked for in vain */
    uint32_t missed_count;
    uint64_t connect_ms, grow_ms; /* not before */
    char path[MEMORY_PATH_MAX];   /* connected to */
    struct lender *next;          /* of all */
};

/* ---- forks ---- */

static pthread_once_t lender_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lender_list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct lender *lender_list;

static void lender_before_fork(void)
{
    pthread_mutex_lock(&lender_list_lock);
}

static void lender_after_fork(void)
{
    pthread_mutex_unlock(&lender_list_lock);
}

static void lender_after_fork_in_child(void)
{
    for (struct lender *lender = lender_list; lender; lender = lender->next) {
        if (lender->fd >= 0) {
            close(lender->fd);
        }
    }
    lender_list = NULL;
    pthread_mutex_unlock(&lender_list_lock);
}

static void lender_watch_forks(void)
{
    (void)pthread_atfork(lender_before_fork, lender_after_fork, lender_after_fork_in_child);
}

/* Returns what it was. */
static int lender_set_descriptor(struct lender *lender, int fd)
{
    int before;

    pthread_mutex_lock(&lender_list_lock);
    before = lender->fd;
    lender->fd = fd;
    pthread_mutex_unlock(&lender_list_lock);
    return before;
}

/* ---- life ---- */

struct lender *lender_new(uint64_t bytes_max)
{
    struct lender *lender = calloc(1, sizeof *lender);

    if (!lender) {
        return NULL;
    }
    pthread_once(&lender_once, lender_watch_forks);
    pthread_mutex_init(&lender->lock, NULL);
    lender->bytes_max = bytes_max;
    lender->fd = -1;
    pthread_mutex_lock(&lender_list_lock);
    lender->next = lender_list;
    lender_list = lender;
    pthread_mutex_unlock(&lender_list_lock);
    return lender;
}

static void lender_unmap(struct lent *lent)
{
    munmap(lent->data, lent->bytes);
    free(lent);
}

/* The rest under the lock, unless it says otherwise. */

static void lender_drop(struct lent *lent)
{
    struct lender *lender = lent->lender;

    lender->buffers[lent->number] = NULL;
    lender->bytes -= lent->bytes;
    lent->forgotten = true;
    if (!lent->held) {
        lender_unmap(lent);
    }
}

static void lender_end(struct lender *lender)
{
    int fd = lender_set_descriptor(lender, -1);

    if (fd >= 0) {
        close(fd);
    }
    for (uint32_t i = 0; i < MEMORY_BUFFERS_MAX; i++) {
        if (lender->buffers[i]) {
            lender_drop(lender->buffers[i]);
        }
    }
    lender->greeted = false;
    lender->connect_ms = socket_now_ms() + RETRY_MS;
    lender->grow_ms = 0;
}

void lender_free(struct lender **lender_p)
{
    struct lender *lender = *lender_p, **at = &lender_list;

    if (!lender) {
        return;
    }
    lender_end(lender);
    pthread_mutex_lock(&lender_list_lock);
    while (*at && *at != lender) {
        at = &(*at)->next;
    }
    if (*at) {
        *at = lender->next;
    }
    pthread_mutex_unlock(&lender_list_lock);
    pthread_mutex_destroy(&lender->lock);
    free(lender);
    *lender_p = NULL;
}

/* ---- what attnd says ---- */

static void lender_obey(struct lender *lender, const struct memory_record *record)
{
    struct lent *lent =
        record->buffer < MEMORY_BUFFERS_MAX ? lender->buffers[record->buffer] : NULL;

    if (!lent || !lent->away) {
        return;
    }
    if (record->kind == MEMORY_FREE) {
        lent->away = false;
    } else if (record->kind == MEMORY_REFUSED) {
        lender_drop(lent);
        lender->grow_ms = socket_now_ms() + REFUSED_MS;
    }
}

static bool lender_greet(struct lender *lender, const struct memory_greeting *greeting)
{
    if (memcmp(greeting->magic, MEMORY_MAGIC, sizeof greeting->magic) != 0 ||
        greeting->version != MEMORY_VERSION) {
        return false;
    }
    memcpy(lender->token, greeting->token, sizeof lender->token);
    lender->count_max =
        greeting->buffers_max < MEMORY_BUFFERS_MAX ? greeting->buffers_max : MEMORY_BUFFERS_MAX;
    lender->room_max =
        greeting->bytes_max < lender->bytes_max ? greeting->bytes_max : lender->bytes_max;
    lender->greeted = true;
    return true;
}

static void lender_hear(struct lender *lender)
{
    uint32_t heard = 0;

    while (lender->fd >= 0) {
        union {
            struct memory_greeting greeting;
            struct memory_record record;
        } said;
        ssize_t bytes = recv(lender->fd, &said, sizeof said, MSG_DONTWAIT);

        if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (lender->greeted && bytes == (ssize_t)sizeof said.record && heard++ < RECORDS_MAX) {
            lender_obey(lender, &said.record);
        } else if (lender->greeted || bytes != (ssize_t)sizeof said.greeting ||
                   !lender_greet(lender, &said.greeting)) {
            lender_end(lender);
        }
    }
}

/* ---- buffers ---- */

/* One that is free and large enough, and not much too large: the smallest, and of those the one
 * that was used last, whose pages may still be in a cache. */
static struct lent *lender_find(struct lender *lender, uint64_t bytes)
{
    struct lent *found = NULL;

    for (uint32_t i = 0; i < MEMORY_BUFFERS_MAX; i++) {
        struct lent *lent = lender->buffers[i];

        if (lent && !lent->away && !lent->held && lent->bytes >= bytes &&
            (lent->bytes - ROUND_BYTES) / SLACK <= bytes &&
            (!found || lent->bytes < found->bytes ||
             (lent->bytes == found->bytes && lent->used > found->used))) {
            found = lent;
        }
    }
    return found;
}

struct lent *lender_take(struct lender *lender, uint64_t bytes, void **ret_data)
{
    struct lent *found;

    if (!lender || bytes < MEMORY_TENSOR_MIN || bytes > lender->bytes_max) {
        return NULL;
    }
    pthread_mutex_lock(&lender->lock);
    found = lender_find(lender, bytes);
    if (!found) {
        lender_hear(lender);
        found = lender_find(lender, bytes);
    }
    if (found) {
        found->held = true;
        *ret_data = found->data;
    } else if (lender->missed_count < MEMORY_BUFFERS_MAX) {
        lender->missed[lender->missed_count++] = bytes;
    }
    pthread_mutex_unlock(&lender->lock);
    return found;
}

void lender_give(struct lent *lent)
{
    struct lender *lender = lent->lender;

    pthread_mutex_lock(&lender->lock);
    lent->held = false;
    lent->used = ++lender->uses;
    if (lent->forgotten) {
        lender_unmap(lent);
    }
    pthread_mutex_unlock(&lender->lock);
}

/* ---- the sending thread ---- */

/* Without the lock. */
static int lender_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool lender_say(struct lender *lender, enum memory_record_kind kind, uint32_t number, int fd)
{
    union {
        struct cmsghdr header; /* for its alignment */
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct memory_record record = {kind, number};
    struct iovec part = {.iov_base = &record, .iov_len = sizeof record};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    if (lender->fd >= 0 &&
        sendmsg(lender->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof record) {
        return true;
    }
    lender_end(lender);
    return false;
}

/* A number for one more buffer, after others that are free were taken back where that is needed;
 * -1: there is no room. */
static int lender_make_place(struct lender *lender, uint64_t bytes)
{
    for (;;) {
        struct lent *oldest = NULL;
        uint32_t count = 0;
        int number = -1;

        for (uint32_t i = 0; i < lender->count_max; i++) {
            struct lent *lent = lender->buffers[i];

            count += lent != NULL;
            number = !lent && number < 0 ? (int)i : number;
            if (lent && !lent->away && !lent->held && (!oldest || lent->used < oldest->used)) {
                oldest = lent;
            }
        }
        if (count < lender->count_max && bytes <= lender->room_max &&
            lender->bytes <= lender->room_max - bytes) {
            return number;
        }
        if (!oldest || bytes > lender->room_max ||
            !lender_say(lender, MEMORY_TAKE_BACK, oldest->number, -1)) {
            return -1;
        }
        lender_drop(oldest);
    }
}

/* Without the lock. A sealed memfd with all its pages; -1: the kernel has none. */
static int lender_make(uint64_t bytes, void **ret_data)
{
    int fd = memfd_create("attnd", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return -1;
    }
    *ret_data = MAP_FAILED;
    if (posix_fallocate(fd, 0, (off_t)bytes) == 0) {
        *ret_data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (*ret_data != MAP_FAILED && fcntl(fd, F_ADD_SEALS, MEMORY_SEALS) != 0) {
        munmap(*ret_data, bytes);
        *ret_data = MAP_FAILED;
    }
    if (*ret_data == MAP_FAILED) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Only this thread adds buffers, so that the place stays free meanwhile. */
static void lender_lend(struct lender *lender, uint64_t bytes)
{
    struct lent *lent = calloc(1, sizeof *lent);
    int number, fd = -1;

    pthread_mutex_lock(&lender->lock);
    number = lent && lender->greeted && socket_now_ms() >= lender->grow_ms
                 ? lender_make_place(lender, bytes)
                 : -1;
    pthread_mutex_unlock(&lender->lock);
    if (number >= 0) {
        *lent = (struct lent){
            .lender = lender, .number = (uint32_t)number, .bytes = bytes, .away = true};
        fd = lender_make(bytes, &lent->data);
    }
    if (fd < 0) {
        free(lent);
        return;
    }
    pthread_mutex_lock(&lender->lock);
    if (lender_say(lender, MEMORY_LEND, lent->number, fd)) {
        lender->buffers[number] = lent;
        lender->bytes += bytes;
    } else {
        lender_unmap(lent);
    }
    pthread_mutex_unlock(&lender->lock);
    close(fd);
}

void lender_tend(struct lender *lender, const char *endpoint, bool known)
{
    uint64_t missed[MEMORY_BUFFERS_MAX];
    uint32_t count = 0;
    char path[MEMORY_PATH_MAX];
    bool wanted;
    int fd;

    if (!lender) {
        return;
    }
    known = known && memory_path(endpoint, path);
    pthread_mutex_lock(&lender->lock);
    if (lender->fd >= 0 && (!known || strcmp(path, lender->path) != 0)) {
        lender_end(lender);
    }
    lender_hear(lender);
    wanted = known && lender->missed_count > 0 && lender->fd < 0 &&
             socket_now_ms() >= lender->connect_ms;
    if (lender->greeted) {
        count = lender->missed_count;
        memcpy(missed, lender->missed, count * sizeof missed[0]);
        lender->missed_count = 0;
    }
    pthread_mutex_unlock(&lender->lock);
    if (wanted) {
        fd = lender_connect(path);
        pthread_mutex_lock(&lender->lock);
        strcpy(lender->path, path);
        lender->connect_ms = socket_now_ms() + RETRY_MS;
        (void)lender_set_descriptor(lender, fd);
        pthread_mutex_unlock(&lender->lock);
    }
    for (uint32_t i = 0; i < count; i++) {
        lender_lend(lender, (missed[i] + ROUND_BYTES - 1) / ROUND_BYTES * ROUND_BYTES);
    }
}

int lender_descriptor(struct lender *lender)
{
    int fd = -1;

    if (lender) {
        pthread_mutex_lock(&lender->lock);
        fd = lender->fd;
        pthread_mutex_unlock(&lender->lock);
    }
    return fd;
}

bool lender_name(struct lent *lent, const void *data, uint64_t bytes,
                 struct memory_reference *ret_reference)
{
    struct lender *lender = lent->lender;
    bool known;

    pthread_mutex_lock(&lender->lock);
    lender_hear(lender);
    known = !lent->forgotten;
    lent->away = true;
    *ret_reference = (struct memory_reference){
        .buffer = lent->number,
        .offset = (uint64_t)((const char *)data - (const char *)lent->data),
        .bytes = bytes};
    memcpy(ret_reference->token, lender->token, sizeof ret_reference->token);
    pthread_mutex_unlock(&lender->lock);
    return known;
}

void lender_not_sent(struct lent *lent)
{
    pthread_mutex_lock(&lent->lender->lock);
    lent->away = false;
    pthread_mutex_unlock(&lent->lender->lock);
}
