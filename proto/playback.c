/* SPDX-License-Identifier: MIT */
/* The file's size is taken once: of one that is still being written, what was there is read. The
 * size that a record claims is compared with the rest of the file before memory is allocated. */
#include "proto/playback.h"

#include "proto/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int playback_fail(const struct playback *playback, const char *what, char *reterr)
{
    snprintf(reterr, PLAYBACK_ERROR_MAX, "%.300s: %s", playback->path, what);
    return -1;
}

/* Reads exactly `size` bytes. Returns 0, or -1 with errno, 0 when the file has become shorter. */
static int playback_read_all(int fd, void *buffer, uint64_t size)
{
    uint8_t *at = buffer;
    while (size > 0) {
        ssize_t got = read(fd, at, (size_t)size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got < 0 ? errno : 0;
            return -1;
        }
        at += got;
        size -= (uint64_t)got;
    }
    return 0;
}

static int playback_read_header(struct playback *playback, char *reterr)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    struct stat stat;
    if (fstat(playback->fd, &stat) != 0) {
        return playback_fail(playback, strerror(errno), reterr);
    }
    if (!S_ISREG(stat.st_mode)) {
        return playback_fail(playback, "not a regular file", reterr);
    }
    playback->size = (uint64_t)stat.st_size;
    if (playback->size < sizeof header) {
        return playback_fail(playback, err_text(ERR_RECORDING_FORMAT), reterr);
    }
    if (playback_read_all(playback->fd, header, sizeof header) != 0) {
        return playback_fail(playback, strerror(errno), reterr);
    }
    playback->at = sizeof header;
    int code = recording_decode_header(header, sizeof header, &playback->created_ns);
    return code ? playback_fail(playback, err_text(code), reterr) : 0;
}

int playback_open(const char *path, struct playback *ret_playback, char *reterr)
{
    struct playback playback = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (playback.fd < 0) {
        return playback_fail(&playback, strerror(errno), reterr);
    }
    if (playback_read_header(&playback, reterr) != 0) {
        playback_close(&playback);
        return -1;
    }
    *ret_playback = playback;
    return 0;
}

/* Records */

static enum playback_status playback_end(struct playback *playback, enum playback_status status,
                                         const char *what, char *reterr)
{
    snprintf(reterr, PLAYBACK_ERROR_MAX, "%.300s: message %" PRIu64 ", at byte %" PRIu64 ": %s",
             playback->path, playback->messages + 1, playback->at, what);
    playback->at = playback->size;
    return status;
}

static int playback_reserve(struct playback *playback, uint64_t size)
{
    if (size <= playback->body_capacity && playback->body) {
        return 0;
    }
    free(playback->body);
    playback->body = malloc(size ? (size_t)size : 1);
    playback->body_capacity = playback->body ? (size_t)size : 0;
    return playback->body ? 0 : ERR_MEMORY;
}

/* The next record's header. Returns 0, a code of err.def, or ERR_CLOSED with errno. */
static int playback_read_head(struct playback *playback, struct recording_record *ret_record)
{
    uint8_t head[RECORDING_RECORD_BYTES];
    uint64_t left = playback->size - playback->at;
    size_t size = left < sizeof head ? (size_t)left : sizeof head;
    if (playback_read_all(playback->fd, head, size) != 0) {
        return ERR_CLOSED;
    }
    int code = recording_decode_record(head, size, ret_record);
    if (code) {
        return code;
    }
    return ret_record->stored > left - size ? ERR_RECORDING_CUT : 0;
}

static enum playback_status playback_take(struct playback *playback, int code,
                                          const struct recording_record *record,
                                          struct recorded *ret_recorded, char *reterr)
{
    if (code == ERR_CLOSED) {
        return playback_end(playback, PLAYBACK_FAILED,
                            errno ? strerror(errno) : "the file became shorter", reterr);
    }
    if (code) {
        enum playback_status status = code == ERR_RECORDING_CUT ? PLAYBACK_CUT
                                      : code == ERR_MEMORY      ? PLAYBACK_FAILED
                                                                : PLAYBACK_DAMAGED;
        return playback_end(playback, status, err_text(code), reterr);
    }
    ret_recorded->received_ns = record->received_ns;
    ret_recorded->frame_count = record->frame_count;
    playback->at += RECORDING_RECORD_BYTES + record->stored;
    playback->messages++;
    return PLAYBACK_MESSAGE;
}

static bool playback_begin(struct playback *playback)
{
    free(playback->unpacked);
    playback->unpacked = NULL;
    return playback->at < playback->size;
}

enum playback_status playback_next(struct playback *playback, struct recorded *ret_recorded,
                                   char *reterr)
{
    struct recording_record record;
    if (!playback_begin(playback)) {
        return PLAYBACK_END;
    }
    int code = playback_read_head(playback, &record);
    if (!code) {
        code = playback_reserve(playback, record.stored);
    }
    if (!code && playback_read_all(playback->fd, playback->body, record.stored) != 0) {
        code = ERR_CLOSED;
    }
    if (!code) {
        code = recording_decode_frames(&record, playback->body, (size_t)record.stored,
                                       ret_recorded->frames, &playback->unpacked);
    }
    return playback_take(playback, code, &record, ret_recorded, reterr);
}

/* Skimming */

/* The frames that are wanted, and past the others. */
static int read_first(struct playback *playback, const struct recording_record *record,
                      struct recording_frame *frames)
{
    uint64_t next = playback->at + RECORDING_RECORD_BYTES + record->stored, total;
    uint8_t sizes[8 * RECORDING_FRAMES_MAX];
    if (playback_read_all(playback->fd, sizes, 8 * (uint64_t)record->frame_count) != 0) {
        return ERR_CLOSED;
    }
    int code = recording_decode_sizes(record, sizes, frames, &total);
    if (code) {
        return code;
    }
    size_t first = frames[0].size, second = record->frame_count > 1 ? frames[1].size : 0;
    code = playback_reserve(playback, (uint64_t)first + second);
    if (code) {
        return code;
    }
    if (playback_read_all(playback->fd, playback->body, (uint64_t)first + second) != 0 ||
        lseek(playback->fd, (off_t)next, SEEK_SET) < 0) {
        return ERR_CLOSED;
    }
    for (uint32_t i = 0; i < record->frame_count; i++) {
        frames[i].data = i == 0 ? playback->body : i == 1 ? playback->body + first : NULL;
    }
    return 0;
}

enum playback_status playback_skim(struct playback *playback, struct recorded *ret_recorded,
                                   char *reterr)
{
    struct recording_record record;
    if (!playback_begin(playback)) {
        return PLAYBACK_END;
    }
    int code = playback_read_head(playback, &record);
    if (!code && record.packed) {
        playback_seek(playback, playback->at);
        return playback_next(playback, ret_recorded, reterr);
    }
    if (!code) {
        code = read_first(playback, &record, ret_recorded->frames);
    }
    return playback_take(playback, code, &record, ret_recorded, reterr);
}

/* A place that cannot be gone to shows when it is read. */
void playback_seek(struct playback *playback, uint64_t at)
{
    playback->at = at;
    if (lseek(playback->fd, (off_t)at, SEEK_SET) < 0) {
        playback->at = playback->size;
    }
}

void playback_close(struct playback *playback)
{
    if (playback->fd >= 0) {
        close(playback->fd);
    }
    free(playback->body);
    free(playback->unpacked);
    *playback = (struct playback){.fd = -1};
}
