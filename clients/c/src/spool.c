/* SPDX-License-Identifier: MIT */
#include "clients/c/src/spool.h"

#include "proto/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Then another segment begins. */
#define SEGMENT_BYTES  ((uint64_t)4 << 20)
#define NAME_DIGITS    16
#define NUMBER_DIGITS  8
#define SPOOL_PATH_MAX (PATH_MAX + 64)
/* Spools of a process whose forks are cared for. */
#define LOCKS_MAX 64

struct spool_segment {
    struct spool_segment *next;
    char name[NAME_DIGITS + 1];
    unsigned number;
    int fd;        /* -1: not looked at yet */
    uint64_t size; /* of whole messages */
    uint64_t held; /* messages that are not acknowledged */
};

/* A name that is locked. */
struct spool_owner {
    struct spool_owner *next;
    char name[NAME_DIGITS + 1];
    int fd;
};

struct spool {
    char directory[PATH_MAX];
    char name[NAME_DIGITS + 1];
    unsigned number; /* of the newest segment */
    struct spool_owner *owners;
    struct spool_segment *segments; /* that are open */
    struct spool_segment *current;  /* of these: is appended to */
    struct spool_segment *left;     /* of others, to be looked at, in order */
};

/* ---- forks ---- */

/* Descriptors + 1, so that 0 is a free place. */
static _Atomic int locks[LOCKS_MAX];

static void lock_note(int fd)
{
    for (int i = 0; i < LOCKS_MAX; i++) {
        int none = 0;

        if (atomic_compare_exchange_strong(&locks[i], &none, fd + 1)) {
            return;
        }
    }
}

static void lock_close(int fd)
{
    for (int i = 0; i < LOCKS_MAX; i++) {
        int same = fd + 1;

        if (atomic_compare_exchange_strong(&locks[i], &same, 0)) {
            break;
        }
    }
    close(fd);
}

void spool_forget_all(void)
{
    for (int i = 0; i < LOCKS_MAX; i++) {
        int fd = atomic_exchange(&locks[i], 0) - 1;

        if (fd >= 0) {
            close(fd);
        }
    }
}

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

/* Locks a name. Returns 0; or -1 with EWOULDBLOCK when it is another's, or another errno. */
static int take_name(struct spool *spool, const char *name)
{
    struct spool_owner *owner = calloc(1, sizeof *owner);
    char path[SPOOL_PATH_MAX];
    struct stat there, ours;
    int fd;

    if (!owner) {
        errno = ENOMEM;
        return -1;
    }
    lock_path(spool, name, path);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        free(owner);
        return -1;
    }
    /* Another file: its owner has just removed the one that we have. */
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &ours) != 0 || stat(path, &there) != 0 ||
        there.st_ino != ours.st_ino) {
        close(fd);
        free(owner);
        errno = EWOULDBLOCK;
        return -1;
    }
    lock_note(fd);
    strcpy(owner->name, name);
    owner->fd = fd;
    owner->next = spool->owners;
    spool->owners = owner;
    return 0;
}

/* `remove`: it has no files. */
static void drop_name(struct spool *spool, const char *name, bool remove)
{
    struct spool_owner **at = find_owner(spool, name), *owner = *at;
    char path[SPOOL_PATH_MAX];

    if (!owner) {
        return;
    }
    if (remove) {
        lock_path(spool, name, path);
        unlink(path);
    }
    lock_close(owner->fd);
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
    strcpy(spool->directory, directory);
    if (make_directory(directory) != 0 || make_name(spool->name) != 0 ||
        take_name(spool, spool->name) != 0) {
        free(spool);
        return -1;
    }
    *ret_spool = spool;
    return 0;
}

static void segment_free(struct spool_segment *segment)
{
    if (segment->fd >= 0) {
        close(segment->fd);
    }
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
    if (strcmp(name, spool->name) != 0 && !has_segments(spool, name)) {
        drop_name(spool, name, true);
    }
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

static int write_all(int fd, uint64_t at, struct iovec *pieces, int count)
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

static struct spool_segment *segment_new(const char *name, unsigned number)
{
    struct spool_segment *segment = calloc(1, sizeof *segment);

    if (segment) {
        strcpy(segment->name, name);
        segment->number = number;
        segment->fd = -1;
    }
    return segment;
}

static int begin_segment(struct spool *spool, uint64_t now_ns)
{
    struct spool_segment *segment = segment_new(spool->name, ++spool->number);
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
    if (segment->fd < 0 || write_all(segment->fd, 0, &piece, 1) != 0) {
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
    uint64_t end;

    if (count > SPOOL_FRAMES_MAX || (!spool->current && begin_segment(spool, now_ns) != 0)) {
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
    if (write_all(segment->fd, segment->size, pieces, (int)count + 1) != 0) {
        cut(spool, segment);
        return -1;
    }
    segment->size = end;
    segment->held++;
    if (end >= SEGMENT_BYTES) {
        spool->current = NULL;
    }
    *ret_message = message;
    return 0;
}

void spool_release(struct spool *spool, const struct spool_message *message)
{
    message->segment->held--;
    settle(spool, message->segment);
}

/* ---- reading ---- */

static int read_all(int fd, uint64_t at, void *to, size_t size)
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

int spool_read(const struct spool_message *message, void *to)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < message->frame_count; i++) {
        bytes += message->sizes[i];
    }
    return read_all(message->segment->fd, message->at, to, bytes);
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
        segment = segment_new(name, number);
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

int spool_look(struct spool *spool)
{
    DIR *directory = opendir(spool->directory);
    struct dirent *file;

    if (!directory) {
        return -1;
    }
    while ((file = readdir(directory))) {
        char name[NAME_DIGITS + 1];
        unsigned number;

        if (name_read(file->d_name, name, &number) && !*find_owner(spool, name) &&
            take_name(spool, name) == 0) {
            list_segments(spool, name);
        }
    }
    closedir(directory);
    return 0;
}

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

/* Returns 0, or -1 when there is no memory. */
static int find_messages(const uint8_t *data, uint64_t size, struct spool_message **ret_messages,
                         size_t *ret_count, bool *ret_damaged)
{
    struct spool_message *messages = NULL, message;
    size_t count = 0, capacity = 0;
    uint64_t at = RECORDING_HEADER_BYTES;

    memset(&message, 0, sizeof message);
    while (at < size && message_at(data, size, &at, &message) == 0) {
        if (count == capacity) {
            size_t more = capacity ? 2 * capacity : 16;
            struct spool_message *larger = realloc(messages, more * sizeof *messages);

            if (!larger) {
                free(messages);
                return -1;
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

/* Reads a whole segment. Returns its bytes, or NULL. */
static uint8_t *load(const struct spool *spool, struct spool_segment *segment)
{
    char path[SPOOL_PATH_MAX];
    struct stat status;
    uint8_t *data;

    segment_path(spool, segment, path);
    segment->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (segment->fd < 0 || fstat(segment->fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        return NULL;
    }
    segment->size = (uint64_t)status.st_size;
    data = malloc(segment->size + 1);
    if (data && read_all(segment->fd, 0, data, segment->size) != 0) {
        free(data);
        data = NULL;
    }
    return data;
}

int spool_next(struct spool *spool, struct spool_message **ret_messages, size_t *ret_count,
               bool *ret_damaged)
{
    struct spool_segment *segment = spool->left;
    uint64_t created_ns;
    uint8_t *data;
    int rc = 0;

    *ret_messages = NULL;
    *ret_count = 0;
    *ret_damaged = false;
    if (!segment) {
        return 0;
    }
    spool->left = segment->next;
    data = load(spool, segment);
    if (data && segment->size >= RECORDING_HEADER_BYTES) {
        rc = recording_decode_header(data, segment->size, &created_ns);
    }
    if (!data || rc == ERR_RECORDING_FORMAT || rc == ERR_RECORDING_VERSION) {
        free(data);
        segment_free(segment);
        return -1;
    }
    if (rc || segment->size < RECORDING_HEADER_BYTES) {
        *ret_damaged = segment->size > 0;
    } else if (find_messages(data, segment->size, ret_messages, ret_count, ret_damaged) != 0) {
        free(data);
        segment_free(segment);
        return -1;
    }
    free(data);
    for (size_t i = 0; i < *ret_count; i++) {
        (*ret_messages)[i].segment = segment;
    }
    segment->held = *ret_count;
    segment->next = spool->segments;
    spool->segments = segment;
    settle(spool, segment);
    return 1;
}
