/* SPDX-License-Identifier: MIT */
#include "clients/c/src/spool.h"

#include "proto/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Then another segment begins. */
#define SEGMENT_BYTES  ((uint64_t)4 << 20)
#define NAME_DIGITS    16
#define NUMBER_DIGITS  8
#define SPOOL_PATH_MAX (PATH_MAX + 64)
/* Names of others that a spool has at a time: each is a descriptor of the trainer. */
#define OTHERS_MAX 16

struct spool_segment {
    struct spool_segment *next;
    const struct spool *spool;
    char name[NAME_DIGITS + 1];
    unsigned number;
    int fd;        /* -1: nothing is written to it */
    uint64_t size; /* of whole messages */
    uint64_t held; /* messages that are not acknowledged */
};

/* A name that is locked; or, without a lock, one that was let go of and is not to be taken again:
 * it cannot be read, or is not ours to send. */
struct spool_owner {
    struct spool_owner *next;
    struct spool_lock *lock;
    char name[NAME_DIGITS + 1];
    bool unreadable; /* a file of it is */
};

struct spool {
    char directory[PATH_MAX];
    char name[NAME_DIGITS + 1];
    unsigned number; /* of the newest segment */
    struct spool_owner *owners;
    struct spool_segment *segments; /* that are open */
    struct spool_segment *current;  /* of these: is appended to */
    struct spool_segment *left;     /* of others, to be looked at, in order */
    bool more;                      /* names were not looked at */
};

/* ---- names ---- */

static void lock_path(const struct spool *spool, const char *name, char path[SPOOL_PATH_MAX])
{
    snprintf(path, SPOOL_PATH_MAX, "%s/%s.lock", spool->directory, name);
}

static void segment_path(const struct spool *spool, const struct spool_segment *segment,
                         char path[SPOOL_PATH_MAX])
{
    snprintf(path, SPOOL_PATH_MAX, "%s/%s-%08u.rec", spool->directory, segment->name,
             segment->number);
}

/* Whether a file is a lock (*ret_number 0) or a segment. */
static bool name_read(const char *file, char ret_name[NAME_DIGITS + 1], unsigned *ret_number)
{
    size_t digits = strspn(file, "0123456789abcdef");

    if (digits != NAME_DIGITS) {
        return false;
    }
    memcpy(ret_name, file, NAME_DIGITS);
    ret_name[NAME_DIGITS] = '\0';
    file += NAME_DIGITS;
    *ret_number = 0;
    if (strcmp(file, ".lock") == 0) {
        return true;
    }
    if (*file != '-' || strspn(file + 1, "0123456789") != NUMBER_DIGITS ||
        strcmp(file + 1 + NUMBER_DIGITS, ".rec") != 0) {
        return false;
    }
    *ret_number = (unsigned)strtoul(file + 1, NULL, 10);
    return *ret_number > 0;
}

static struct spool_owner **find_owner(struct spool *spool, const char *name)
{
    struct spool_owner **at = &spool->owners;

    while (*at && strcmp((*at)->name, name) != 0) {
        at = &(*at)->next;
    }
    return at;
}

/* Locks a name. Returns 0, or -1 as spool_lock_new. */
static int take_name(struct spool *spool, const char *name)
{
    struct spool_owner *owner = calloc(1, sizeof *owner);
    char path[SPOOL_PATH_MAX];

    if (!owner) {
        errno = ENOMEM;
        return -1;
    }
    lock_path(spool, name, path);
    owner->lock = spool_lock_new(path);
    if (!owner->lock) {
        free(owner);
        return -1;
    }
    strcpy(owner->name, name);
    owner->next = spool->owners;
    spool->owners = owner;
    return 0;
}

/* `remove`: it has no files that can be read. */
static void unlock_name(const struct spool *spool, struct spool_owner *owner, bool remove)
{
    char path[SPOOL_PATH_MAX];

    if (remove && owner->lock) {
        lock_path(spool, owner->name, path);
        unlink(path);
    }
    spool_lock_free(&owner->lock);
}

static void drop_name(struct spool *spool, const char *name, bool remove)
{
    struct spool_owner **at = find_owner(spool, name), *owner = *at;

    unlock_name(spool, owner, remove);
    *at = owner->next;
    free(owner);
}

static int make_name(char ret_name[NAME_DIGITS + 1])
{
    uint8_t bytes[NAME_DIGITS / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return -1;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        snprintf(ret_name + 2 * i, 3, "%02x", bytes[i]);
    }
    return 0;
}

/* ---- life ---- */

/* All of its folders, as mkdir -p does. */
static int make_directory(const char *directory)
{
    char path[PATH_MAX];

    strcpy(path, directory);
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            return -1;
        }
        *at = '/';
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? -1 : 0;
}

/* Whether others may have put something into this file or directory, which would be sent in our
 * name. */
static bool is_of_others(const struct stat *status)
{
    return status->st_uid != geteuid() || status->st_mode & (S_IWGRP | S_IWOTH);
}

/* Returns 0, or -1 with errno. */
static int trust_directory(const char *directory)
{
    struct stat status;

    if (stat(directory, &status) != 0) {
        return -1;
    }
    errno = EPERM;
    return is_of_others(&status) ? -1 : 0;
}

int spool_open(const char *directory, struct spool **ret_spool)
{
    struct spool *spool;

    if (strlen(directory) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    spool = calloc(1, sizeof *spool);
    if (!spool) {
        return -1;
    }
    /* Its files are opened by their names later, wherever the trainer is then. */
    if (make_directory(directory) != 0 || !realpath(directory, spool->directory) ||
        trust_directory(spool->directory) != 0 || make_name(spool->name) != 0 ||
        take_name(spool, spool->name) != 0) {
        free(spool);
        return -1;
    }
    *ret_spool = spool;
    return 0;
}

static void segment_close(struct spool_segment *segment)
{
    if (segment->fd >= 0) {
        close(segment->fd);
    }
    segment->fd = -1;
}

static void segment_free(struct spool_segment *segment)
{
    segment_close(segment);
    free(segment);
}

static bool has_segments(const struct spool *spool, const char *name)
{
    const struct spool_segment *lists[] = {spool->segments, spool->left};

    for (int i = 0; i < 2; i++) {
        for (const struct spool_segment *at = lists[i]; at; at = at->next) {
            if (strcmp(at->name, name) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Lets go of another's name when that was the last of its files. */
static void drop_empty(struct spool *spool, const char *name)
{
    struct spool_owner *owner = *find_owner(spool, name);

    if (strcmp(name, spool->name) == 0 || has_segments(spool, name)) {
        return;
    }
    if (owner->unreadable) {
        unlock_name(spool, owner, true);
    } else {
        drop_name(spool, name, true);
    }
}

static void take_out(struct spool *spool, const struct spool_segment *segment)
{
    struct spool_segment **at = &spool->segments;

    while (*at != segment) {
        at = &(*at)->next;
    }
    *at = segment->next;
}

static void segment_delete(struct spool *spool, struct spool_segment *segment)
{
    char path[SPOOL_PATH_MAX], name[NAME_DIGITS + 1];

    take_out(spool, segment);
    segment_path(spool, segment, path);
    unlink(path);
    strcpy(name, segment->name);
    segment_free(segment);
    drop_empty(spool, name);
}

/* A segment without messages goes; the current one is used again. */
static void settle(struct spool *spool, struct spool_segment *segment)
{
    if (segment->held > 0) {
        return;
    }
    if (segment == spool->current) {
        if (ftruncate(segment->fd, RECORDING_HEADER_BYTES) == 0) {
            segment->size = RECORDING_HEADER_BYTES;
            return;
        }
        spool->current = NULL;
    }
    segment_delete(spool, segment);
}

bool spool_has_left(const struct spool *spool)
{
    return spool->left || spool->more;
}

void spool_close(struct spool *spool)
{
    struct spool_segment *segment, *next;

    spool->current = NULL;
    for (segment = spool->segments; segment; segment = next) {
        next = segment->next;
        if (segment->held == 0) {
            segment_delete(spool, segment);
        }
    }
    while (spool->owners) {
        drop_name(spool, spool->owners->name, !has_segments(spool, spool->owners->name));
    }
    for (segment = spool->segments; segment; segment = next) {
        next = segment->next;
        segment_free(segment);
    }
    for (segment = spool->left; segment; segment = next) {
        next = segment->next;
        segment_free(segment);
    }
    free(spool);
}

/* ---- writing ---- */

static struct spool_segment *segment_new(const struct spool *spool, const char *name,
                                         unsigned number)
{
    struct spool_segment *segment = calloc(1, sizeof *segment);

    if (segment) {
        strcpy(segment->name, name);
        segment->spool = spool;
        segment->number = number;
        segment->fd = -1;
    }
    return segment;
}

static int begin_segment(struct spool *spool, uint64_t now_ns)
{
    struct spool_segment *segment = segment_new(spool, spool->name, ++spool->number);
    uint8_t header[RECORDING_HEADER_BYTES];
    struct iovec piece = {header, sizeof header};
    char path[SPOOL_PATH_MAX];
    int error;

    if (!segment) {
        errno = ENOMEM;
        return -1;
    }
    segment_path(spool, segment, path);
    segment->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    recording_encode_header(now_ns, header);
    if (segment->fd < 0 || spool_write_all(segment->fd, 0, &piece, 1) != 0) {
        error = errno;
        if (segment->fd >= 0) {
            unlink(path);
        }
        segment_free(segment);
        errno = error;
        return -1;
    }
    segment->size = sizeof header;
    segment->next = spool->segments;
    spool->segments = spool->current = segment;
    return 0;
}

/* Takes away the part of a message that was written; if that fails, the segment has ended. */
static void cut(struct spool *spool, struct spool_segment *segment)
{
    int error = errno;

    if (ftruncate(segment->fd, (off_t)segment->size) != 0) {
        spool->current = NULL;
        segment_close(segment);
        settle(spool, segment);
    }
    errno = error;
}

int spool_append(struct spool *spool, uint64_t now_ns, const struct recording_frame *frames,
                 uint32_t count, struct spool_message *ret_message)
{
    uint8_t head[RECORDING_HEAD_MAX];
    struct iovec pieces[SPOOL_FRAMES_MAX + 1];
    struct spool_message message = {.frame_count = count};
    struct spool_segment *segment;
    uint64_t end, bytes = 0;

    for (uint32_t i = 0; i < count; i++) {
        bytes += frames[i].size;
    }
    if (count > SPOOL_FRAMES_MAX || bytes > SPOOL_MESSAGE_MAX) {
        errno = EFBIG;
        return -1;
    }
    if (!spool->current && begin_segment(spool, now_ns) != 0) {
        return -1;
    }
    segment = spool->current;
    pieces[0] = (struct iovec){head, recording_encode_record(now_ns, frames, count, NULL, head)};
    message.segment = segment;
    message.at = end = segment->size + pieces[0].iov_len;
    for (uint32_t i = 0; i < count; i++) {
        pieces[i + 1] = (struct iovec){(void *)(uintptr_t)frames[i].data, frames[i].size};
        message.sizes[i] = frames[i].size;
        end += frames[i].size;
    }
    if (spool_write_all(segment->fd, segment->size, pieces, (int)count + 1) != 0) {
        cut(spool, segment);
        return -1;
    }
    segment->size = end;
    segment->held++;
    if (end >= SEGMENT_BYTES) {
        spool->current = NULL;
        segment_close(segment);
    }
    *ret_message = message;
    return 0;
}

void spool_release(struct spool *spool, const struct spool_message *message)
{
    message->segment->held--;
    settle(spool, message->segment);
}

static void free_segments_of(struct spool_segment **list, const char *name)
{
    while (*list) {
        struct spool_segment *segment = *list;

        if (strcmp(segment->name, name) == 0) {
            *list = segment->next;
            segment_free(segment);
        } else {
            list = &segment->next;
        }
    }
}

void spool_leave(struct spool *spool, const struct spool_message *message)
{
    char name[NAME_DIGITS + 1];

    strcpy(name, message->segment->name);
    free_segments_of(&spool->segments, name);
    free_segments_of(&spool->left, name);
    unlock_name(spool, *find_owner(spool, name), false);
}

bool spool_same_owner(const struct spool_message *a, const struct spool_message *b)
{
    return strcmp(a->segment->name, b->segment->name) == 0;
}

/* ---- reading ---- */

static int segment_open(const struct spool_segment *segment)
{
    char path[SPOOL_PATH_MAX];

    segment_path(segment->spool, segment, path);
    return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* it may be a pipe */
}

int spool_read(const struct spool_message *message, void *to)
{
    const struct spool_segment *segment = message->segment;
    int fd = segment->fd >= 0 ? segment->fd : segment_open(segment), rc, error;
    uint64_t bytes = 0;

    if (fd < 0) {
        return -1;
    }
    for (uint32_t i = 0; i < message->frame_count; i++) {
        bytes += message->sizes[i];
    }
    rc = spool_read_all(fd, message->at, to, bytes);
    error = errno;
    if (fd != segment->fd) {
        close(fd);
    }
    errno = error;
    return rc;
}

/* The files of a name that was locked. */
static void list_segments(struct spool *spool, const char *name)
{
    struct spool_segment **at = &spool->left;
    DIR *directory = opendir(spool->directory);
    struct dirent *file;

    while (*at) {
        at = &(*at)->next;
    }
    while (directory && (file = readdir(directory))) {
        char other[NAME_DIGITS + 1];
        unsigned number;
        struct spool_segment *segment, **place = at;

        if (!name_read(file->d_name, other, &number) || number == 0 || strcmp(other, name) != 0) {
            continue;
        }
        segment = segment_new(spool, name, number);
        if (!segment) {
            break;
        }
        while (*place && (*place)->number < number) {
            place = &(*place)->next;
        }
        segment->next = *place;
        *place = segment;
    }
    if (directory) {
        closedir(directory);
    }
    if (directory && !*at) {
        drop_name(spool, name, true);
    }
}

/* Our own name is one of them. */
static int count_locked(const struct spool *spool)
{
    int count = 0;

    for (const struct spool_owner *at = spool->owners; at; at = at->next) {
        count += at->lock != NULL;
    }
    return count;
}

int spool_look(struct spool *spool)
{
    DIR *directory = opendir(spool->directory);
    struct dirent *file;

    spool->more = false;
    if (!directory) {
        return -1;
    }
    while (!spool->more && (file = readdir(directory))) {
        char name[NAME_DIGITS + 1];
        unsigned number;

        if (!name_read(file->d_name, name, &number) || *find_owner(spool, name)) {
            continue;
        }
        if (count_locked(spool) > OTHERS_MAX) {
            spool->more = true;
        } else if (take_name(spool, name) == 0) {
            list_segments(spool, name);
        }
    }
    closedir(directory);
    return 0;
}

/* Whether a process of ours has written the file, which a stranger may have put there. Else errno:
 * EIO, or EPERM when others may have written to it. */
static bool is_segment(int fd, struct stat *ret_status)
{
    if (fstat(fd, ret_status) != 0) {
        return false;
    }
    errno = is_of_others(ret_status) ? EPERM : EIO;
    return !is_of_others(ret_status) && S_ISREG(ret_status->st_mode) &&
           ret_status->st_size <= (off_t)(SEGMENT_BYTES + RECORDING_HEAD_MAX + SPOOL_MESSAGE_MAX);
}

/* Reads a whole segment. Returns its bytes, or NULL with errno as of is_segment. */
static uint8_t *load(struct spool_segment *segment)
{
    struct stat status = {.st_mode = 0};
    uint8_t *data = NULL;
    int fd = segment_open(segment), error;

    if (fd < 0) {
        return NULL;
    }
    if (is_segment(fd, &status)) {
        segment->size = (uint64_t)status.st_size;
        data = malloc(segment->size + 1);
        if (data && spool_read_all(fd, 0, data, segment->size) != 0) {
            free(data);
            data = NULL;
        }
    }
    error = errno;
    close(fd);
    errno = error;
    return data;
}

/* Leaves a segment where it is; or, when that says nothing about it, to a later call. */
static void pass(struct spool *spool, struct spool_segment *segment, bool for_now)
{
    int error = errno;

    if (for_now) {
        segment->next = spool->left;
        spool->left = segment;
    } else {
        (*find_owner(spool, segment->name))->unreadable = true;
        drop_empty(spool, segment->name);
        segment_free(segment);
    }
    errno = error;
}

bool spool_is_passing(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

int spool_next(struct spool *spool, struct spool_message **ret_messages, size_t *ret_count,
               bool *ret_damaged)
{
    struct spool_segment *segment;
    uint8_t *data;
    int rc;

    *ret_messages = NULL;
    *ret_count = 0;
    *ret_damaged = false;
    if (!spool->left && spool->more && count_locked(spool) <= OTHERS_MAX / 2 &&
        spool_look(spool) != 0) {
        return -1;
    }
    segment = spool->left;
    if (!segment) {
        return 0;
    }
    spool->left = segment->next;
    data = load(segment);
    if (!data) {
        pass(spool, segment, spool_is_passing(errno));
        return -1;
    }
    rc = spool_find_messages(data, segment->size, ret_messages, ret_count, ret_damaged);
    free(data);
    if (rc) {
        errno = rc == ERR_MEMORY ? ENOMEM : EINVAL;
        pass(spool, segment, rc == ERR_MEMORY);
        return -1;
    }
    for (size_t i = 0; i < *ret_count; i++) {
        (*ret_messages)[i].segment = segment;
    }
    segment->held = *ret_count;
    segment->next = spool->segments;
    spool->segments = segment;
    settle(spool, segment);
    return 1;
}
