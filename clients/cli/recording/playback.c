/* SPDX-License-Identifier: MIT */
/* The file's size is taken once: of one that is still being written, what was there is read. What a
 * record says it has is compared with what is left before memory is asked for. */
#include "playback.h"

#include "err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const struct playback *playback, const char *what, char *reterr)
{
    snprintf(reterr, PLAYBACK_ERROR_MAX, "%.300s: %s", playback->path, what);
    return -1;
}

/* Reads exactly `size` bytes. Returns 0, or -1 with errno, 0 when the file has become shorter. */
static int read_all(int fd, void *buffer, uint64_t size)
{
    uint8_t *at = buffer;
    while (size > 0) {
        ssize_t got = read(fd, at, (size_t)size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got < 0 ? errno : 0;
            return -1;
        }
        at += got;
        size -= (uint64_t)got;
    }
    return 0;
}

static int read_header(struct playback *playback, char *reterr)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    struct stat stat;
    if (fstat(playback->fd, &stat) != 0)
        return fail(playback, strerror(errno), reterr);
    if (!S_ISREG(stat.st_mode))
        return fail(playback, "not a regular file", reterr);
    playback->size = (uint64_t)stat.st_size;
    if (playback->size < sizeof(header))
        return fail(playback, err_text(ERR_RECORDING_FORMAT), reterr);
    if (read_all(playback->fd, header, sizeof(header)) != 0)
        return fail(playback, strerror(errno), reterr);
    playback->at = sizeof(header);
    int code = recording_decode_header(header, sizeof(header), &playback->created_ns);
    return code ? fail(playback, err_text(code), reterr) : 0;
}

int playback_open(const char *path, struct playback *ret_playback, char *reterr)
{
    struct playback playback = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (playback.fd < 0)
        return fail(&playback, strerror(errno), reterr);
    if (read_header(&playback, reterr) != 0) {
        playback_close(&playback);
        return -1;
    }
    *ret_playback = playback;
    return 0;
}

/* Records ---------------------------------------------------------------------------------------
 */

static enum playback_status end(struct playback *playback, enum playback_status status,
                                const char *what, char *reterr)
{
    snprintf(reterr, PLAYBACK_ERROR_MAX, "%.300s: message %" PRIu64 ", at byte %" PRIu64 ": %s",
             playback->path, playback->messages + 1, playback->at, what);
    playback->at = playback->size;
    return status;
}

static enum playback_status end_code(struct playback *playback, int code, char *reterr)
{
    enum playback_status status = code == ERR_RECORDING_CUT ? PLAYBACK_CUT
                                  : code == ERR_MEMORY      ? PLAYBACK_FAILED
                                                            : PLAYBACK_DAMAGED;
    return end(playback, status, err_text(code), reterr);
}

static int reserve(struct playback *playback, uint64_t size)
{
    if (size <= playback->body_capacity)
        return 0;
    free(playback->body);
    playback->body = malloc((size_t)size);
    playback->body_capacity = playback->body ? (size_t)size : 0;
    return playback->body ? 0 : ERR_MEMORY;
}

/* Header and body of the next record. Returns 0, a code of err.def, or ERR_CLOSED with errno. */
static int read_record(struct playback *playback, struct recording_record *ret_record)
{
    uint8_t head[RECORDING_RECORD_BYTES];
    uint64_t left = playback->size - playback->at;
    size_t size = left < sizeof(head) ? (size_t)left : sizeof(head);
    if (read_all(playback->fd, head, size) != 0)
        return ERR_CLOSED;
    int code = recording_decode_record(head, size, ret_record);
    if (code)
        return code;
    if (ret_record->stored > left - size)
        return ERR_RECORDING_CUT;
    code = reserve(playback, ret_record->stored);
    if (code)
        return code;
    return read_all(playback->fd, playback->body, ret_record->stored) == 0 ? 0 : ERR_CLOSED;
}

enum playback_status playback_next(struct playback *playback, struct recorded *ret_recorded,
                                   char *reterr)
{
    struct recording_record record;
    free(playback->unpacked);
    playback->unpacked = NULL;
    if (playback->at == playback->size)
        return PLAYBACK_END;
    int code = read_record(playback, &record);
    if (code == ERR_CLOSED)
        return end(playback, PLAYBACK_FAILED, errno ? strerror(errno) : "the file became shorter",
                   reterr);
    if (!code)
        code = recording_decode_frames(&record, playback->body, (size_t)record.stored,
                                       ret_recorded->frames, &playback->unpacked);
    if (code)
        return end_code(playback, code, reterr);
    ret_recorded->received_ns = record.received_ns;
    ret_recorded->frame_count = record.frame_count;
    playback->at += RECORDING_RECORD_BYTES + record.stored;
    playback->messages++;
    return PLAYBACK_MESSAGE;
}

/* A place that cannot be gone to shows when it is read. */
void playback_seek(struct playback *playback, uint64_t at)
{
    playback->at = at;
    if (lseek(playback->fd, (off_t)at, SEEK_SET) < 0)
        playback->at = playback->size;
}

void playback_close(struct playback *playback)
{
    if (playback->fd >= 0)
        close(playback->fd);
    free(playback->body);
    free(playback->unpacked);
    *playback = (struct playback){.fd = -1};
}
