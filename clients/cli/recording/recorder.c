/* SPDX-License-Identifier: MIT */
/* One writev per message, straight from ZeroMQ's frames to the page cache. A thread of its own for
 * writing was decided against: ZeroMQ's thread reads on while this one writes, and behind it the
 * daemon keeps up to a quarter of publish.budget. */
#include "clients/cli/recording/internal.h"

#include "proto/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int recorder_fail(const char *path, const char *what, const char *advice, char *reterr)
{
    snprintf(reterr, RECORDER_ERROR_MAX, "%.300s: %s%s", path, what, advice);
    return -1;
}

static int fail_system(const char *path, char *reterr)
{
    int error = errno;
    const char *advice = error == EEXIST   ? "; choose another name, or replace it with --force"
                         : error == ENOENT ? "; create the directory first"
                         : error == ENOSPC || error == EDQUOT
                             ? "; what was written before can be used"
                             : "";
    return recorder_fail(path, strerror(error), advice, reterr);
}

static int recorder_write_all(int fd, struct iovec *parts, int count)
{
    while (count > 0) {
        ssize_t written = writev(fd, parts, count);
        if (written < 0 && errno != EINTR) {
            return -1;
        }
        /* Moves on by what was written. */
        for (size_t left = written > 0 ? (size_t)written : 0;
             count > 0 && (left > 0 || parts->iov_len == 0);) {
            size_t step = left < parts->iov_len ? left : parts->iov_len;
            parts->iov_base = (char *)parts->iov_base + step;
            parts->iov_len -= step;
            left -= step;
            if (parts->iov_len == 0) {
                parts++;
                count--;
            }
        }
    }
    return 0;
}

static struct iovec part(const void *data, size_t size)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

int recorder_open(const char *path, bool replace, uint64_t now_ns, struct recorder *ret_recorder,
                  char *reterr)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (replace ? O_TRUNC : O_EXCL);
    int fd = open(path, flags, 0600);
    if (fd < 0) {
        return fail_system(path, reterr);
    }
    /* It tells what was trained on: not for others, nor in a file that was theirs to read. */
    struct stat file;
    bool open = fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_mode & 077;
    recording_encode_header(now_ns, header);
    struct iovec parts[] = {part(header, sizeof header)};
    if ((open && fchmod(fd, file.st_mode & 0700) != 0) || recorder_write_all(fd, parts, 1) != 0) {
        fail_system(path, reterr);
        close(fd);
        return -1;
    }
    *ret_recorder = (struct recorder){.path = path, .fd = fd, .bytes = sizeof header};
    return 0;
}

/* Head and frames, or head and `packed`. */
static int recorder_append(struct recorder *recorder, uint64_t received_ns,
                           const struct recording_frame *frames, uint32_t count,
                           const struct recording_frame *packed, char *reterr)
{
    uint8_t head[RECORDING_HEAD_MAX];
    struct iovec parts[1 + RECORDING_FRAMES_MAX];
    size_t size = recording_encode_record(received_ns, frames, count, packed, head);
    const struct recording_frame *stored = packed ? packed : frames;
    uint32_t stored_count = packed ? 1 : count;
    parts[0] = part(head, size);
    for (uint32_t i = 0; i < stored_count; i++) {
        parts[1 + i] = part(stored[i].data, stored[i].size);
        size += stored[i].size;
    }
    if (recorder_write_all(recorder->fd, parts, 1 + (int)stored_count) != 0) {
        fail_system(recorder->path, reterr);
        (void)!ftruncate(recorder->fd, (off_t)recorder->bytes); /* else a reader finds it cut */
        return -1;
    }
    recorder->bytes += size;
    return 0;
}

int recorder_write(struct recorder *recorder, uint64_t received_ns,
                   const struct recording_frame *frames, uint32_t count, char *reterr)
{
    struct recording_frame packed = {0};
    if (recorder->pack && recording_pack(frames, count, &packed) != 0) {
        return recorder_fail(recorder->path, err_text(ERR_MEMORY), "", reterr);
    }
    int rc =
        recorder_append(recorder, received_ns, frames, count, packed.data ? &packed : NULL, reterr);
    free((void *)(uintptr_t)packed.data);
    if (rc != 0) {
        return rc;
    }
    recorder->messages++;
    for (uint32_t i = 0; i < count; i++) {
        recorder->payload += frames[i].size;
    }
    return 0;
}

int recorder_close(struct recorder *recorder, char *reterr)
{
    int rc = close(recorder->fd);
    recorder->fd = -1;
    return rc == 0 ? 0 : fail_system(recorder->path, reterr);
}
