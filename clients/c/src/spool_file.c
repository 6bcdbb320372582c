/* SPDX-License-Identifier: MIT */
#include "clients/c/src/spool_file.h"

#include "proto/err.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct spool_lock {
    struct spool_lock *next; /* of the process */
    int fd;
};

/* ---- forks ---- */

static pthread_once_t locks_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t locks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct spool_lock *locks;

static void locks_before_fork(void)
{
    pthread_mutex_lock(&locks_lock);
}

static void locks_after_fork(void)
{
    pthread_mutex_unlock(&locks_lock);
}

/* The locks are the parent's, and would outlive it here. */
static void locks_after_fork_in_child(void)
{
    for (; locks; locks = locks->next) {
        close(locks->fd);
    }
    pthread_mutex_unlock(&locks_lock);
}

static void locks_watch_forks(void)
{
    (void)pthread_atfork(locks_before_fork, locks_after_fork, locks_after_fork_in_child);
}

/* ---- locks ---- */

/* Returns its descriptor, or -1 with errno. */
static int lock_file(const char *path)
{
    struct stat there, ours;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    /* Another file: its owner has just removed the one that we have. */
    if (fd >= 0 && (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &ours) != 0 ||
                    stat(path, &there) != 0 || there.st_ino != ours.st_ino)) {
        close(fd);
        errno = EWOULDBLOCK;
        return -1;
    }
    return fd;
}

struct spool_lock *spool_lock_new(const char *path)
{
    struct spool_lock *lock = calloc(1, sizeof *lock);
    int error;

    if (!lock) {
        return NULL;
    }
    pthread_once(&locks_once, locks_watch_forks);
    pthread_mutex_lock(&locks_lock);
    lock->fd = lock_file(path);
    error = errno;
    if (lock->fd >= 0) {
        lock->next = locks;
        locks = lock;
    }
    pthread_mutex_unlock(&locks_lock);
    if (lock->fd < 0) {
        free(lock);
        errno = error;
        return NULL;
    }
    return lock;
}

void spool_lock_free(struct spool_lock **lock_p)
{
    struct spool_lock *lock = *lock_p, **at = &locks;

    if (!lock) {
        return;
    }
    pthread_mutex_lock(&locks_lock);
    while (*at && *at != lock) {
        at = &(*at)->next;
    }
    if (*at) { /* else a child has let go of it */
        *at = lock->next;
        close(lock->fd);
    }
    pthread_mutex_unlock(&locks_lock);
    free(lock);
    *lock_p = NULL;
}

/* ---- bytes ---- */

/* Takes bytes off the front. */
static void skip_bytes(struct iovec **pieces, int *count, size_t bytes)
{
    while (*count > 0 && bytes >= (*pieces)->iov_len) {
        bytes -= (*pieces)->iov_len;
        (*pieces)++;
        (*count)--;
    }
    if (*count > 0) {
        (*pieces)->iov_base = (char *)(*pieces)->iov_base + bytes;
        (*pieces)->iov_len -= bytes;
    }
}

int spool_write_all(int fd, uint64_t at, struct iovec *pieces, int count)
{
    skip_bytes(&pieces, &count, 0);
    while (count > 0) {
        ssize_t written = pwritev(fd, pieces, count, (off_t)at);

        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            errno = written < 0 ? errno : ENOSPC;
            return -1;
        }
        at += (uint64_t)written;
        skip_bytes(&pieces, &count, (size_t)written);
    }
    return 0;
}

int spool_read_all(int fd, uint64_t at, void *to, size_t size)
{
    char *into = to;

    while (size > 0) {
        ssize_t taken = pread(fd, into, size, (off_t)at);

        if (taken < 0 && errno == EINTR) {
            continue;
        }
        if (taken <= 0) {
            errno = taken < 0 ? errno : EIO;
            return -1;
        }
        into += taken;
        at += (uint64_t)taken;
        size -= (size_t)taken;
    }
    return 0;
}

/* ---- messages ---- */

/* The message that begins at *at of `size` bytes; moves *at behind it. Returns 0, or a code of
 * recording.h. */
static int message_at(const uint8_t *data, uint64_t size, uint64_t *at,
                      struct spool_message *ret_message)
{
    struct recording_record record;
    struct recording_frame frames[RECORDING_FRAMES_MAX];
    void *memory = NULL;
    int rc = recording_decode_record(data + *at, size - *at, &record);

    if (rc) {
        return rc;
    }
    if (record.stored > size - *at - RECORDING_RECORD_BYTES) {
        return ERR_RECORDING_CUT;
    }
    if (record.packed || record.frame_count < 2 || record.frame_count > SPOOL_FRAMES_MAX) {
        return ERR_RECORDING_DAMAGED;
    }
    *at += RECORDING_RECORD_BYTES;
    rc = recording_decode_frames(&record, data + *at, size - *at, frames, &memory);
    if (rc) {
        return rc;
    }
    ret_message->at = *at + 8 * (uint64_t)record.frame_count;
    ret_message->frame_count = record.frame_count;
    for (uint32_t i = 0; i < record.frame_count; i++) {
        ret_message->sizes[i] = frames[i].size;
    }
    *at += record.stored;
    free(memory);
    return 0;
}

int spool_find_messages(const uint8_t *data, uint64_t size, struct spool_message **ret_messages,
                        size_t *ret_count, bool *ret_damaged)
{
    struct spool_message *messages = NULL, message;
    size_t count = 0, capacity = 0;
    uint64_t at = RECORDING_HEADER_BYTES, created_ns;
    int rc = size < at ? 0 : recording_decode_header(data, size, &created_ns);

    if (rc == ERR_RECORDING_FORMAT || rc == ERR_RECORDING_VERSION) {
        return rc;
    }
    *ret_messages = NULL;
    *ret_count = 0;
    *ret_damaged = size > 0;
    if (rc || size < at) {
        return 0;
    }
    memset(&message, 0, sizeof message);
    while (at < size && message_at(data, size, &at, &message) == 0) {
        if (count == capacity) {
            size_t more = capacity ? 2 * capacity : 16;
            struct spool_message *larger = realloc(messages, more * sizeof *messages);

            if (!larger) {
                free(messages);
                return ERR_MEMORY;
            }
            messages = larger;
            capacity = more;
        }
        messages[count++] = message;
    }
    *ret_messages = messages;
    *ret_count = count;
    *ret_damaged = at != size;
    return 0;
}
