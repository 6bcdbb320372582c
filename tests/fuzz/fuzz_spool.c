/* SPDX-License-Identifier: MIT */
/* Any bytes as a file that another process has left in a spool. Its messages lie within it, one
 * after the other, and are those that a writer would have written so; by way of a directory they
 * are read as they are, and when they are released nothing is left.
 *
 * The first byte: 1 = checksums are put right first, which a fuzzer does not find by itself; 254 =
 * and more: by way of a directory, which takes long. */
#include "tests/fuzz/fuzz.h"

#include "clients/c/src/spool.h"
#include "proto/err.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { SEAL = 1, DIRECTORY = 254, LONGEST = 65536 };

static char directory[64], path[128], lock[128];

static void fuzz_spool_start(void)
{
    snprintf(directory, sizeof directory, "%s/attnd-fuzz-%d",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    snprintf(path, sizeof path, "%s/00112233aabbccdd-00000007.rec", directory);
    snprintf(lock, sizeof lock, "%s/00112233aabbccdd.lock", directory);
}

static void put_u32(uint8_t *to, uint32_t number)
{
    for (int i = 0; i < 4; i++) {
        to[i] = (uint8_t)(number >> 8 * i);
    }
}

static uint64_t stored_at(const uint8_t *record)
{
    uint64_t number = 0;
    for (int i = 0; i < 8; i++) {
        number |= (uint64_t)record[8 + i] << 8 * i;
    }
    return number;
}

static void seal(uint8_t *data, size_t len)
{
    size_t at = RECORDING_HEADER_BYTES;
    if (len < at) {
        return;
    }
    put_u32(data + 28, (uint32_t)crc32(0, data, 28));
    while (len - at >= RECORDING_RECORD_BYTES) {
        uint8_t *record = data + at;
        uint64_t stored = stored_at(record);
        at += RECORDING_RECORD_BYTES;
        stored = stored < len - at ? stored : len - at;
        put_u32(record + 4, (uint32_t)crc32(0, data + at, (uInt)stored));
        put_u32(record, (uint32_t)crc32(0, record + 4, RECORDING_RECORD_BYTES - 4));
        at += stored;
    }
}

/* Returns where the message ends. */
static uint64_t look_at(const struct spool_message *message, const uint8_t *data, uint64_t begin)
{
    struct recording_frame frames[SPOOL_FRAMES_MAX];
    uint8_t head[RECORDING_HEAD_MAX];
    uint64_t at = message->at;
    REQUIRE(message->frame_count >= 2 && message->frame_count <= SPOOL_FRAMES_MAX);
    for (uint32_t i = 0; i < message->frame_count; i++) {
        frames[i] = (struct recording_frame){data + at, message->sizes[i]};
        at += message->sizes[i];
    }
    size_t size = recording_encode_record(0, frames, message->frame_count, NULL, head);
    REQUIRE(message->at - begin == size);
    REQUIRE(memcmp(head + 4, data + begin + 4, 12) == 0); /* the checksum, and how many bytes */
    REQUIRE(memcmp(head + 24, data + begin + 24, size - 24) == 0);
    return at;
}

static void write_file(const uint8_t *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    close(fd);
}

static void read_back(struct spool *spool, const struct spool_message *message, const uint8_t *data)
{
    static uint8_t read[LONGEST];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < message->frame_count; i++) {
        bytes += message->sizes[i];
    }
    REQUIRE(spool_read(message, read) == 0 && memcmp(read, data + message->at, bytes) == 0);
    spool_release(spool, message);
}

static void by_directory(const uint8_t *data, size_t len, int code, size_t count, bool damaged)
{
    struct spool_message *messages;
    struct spool *spool;
    size_t found;
    bool flaw;
    REQUIRE(mkdir(directory, 0700) == 0);
    write_file(data, len);
    REQUIRE(spool_open(directory, &spool) == 0 && spool_look(spool) == 0);
    REQUIRE(spool_next(spool, &messages, &found, &flaw) == (code ? -1 : 1));
    REQUIRE(found == (code ? 0 : count) && flaw == (!code && damaged));
    for (size_t i = 0; i < found; i++) {
        read_back(spool, &messages[i], data);
    }
    free(messages);
    REQUIRE(spool_next(spool, &messages, &found, &flaw) == 0);
    REQUIRE((access(path, F_OK) == 0) == (code != 0) && access(lock, F_OK) != 0);
    spool_close(spool);
    if (code) {
        unlink(path);
    }
    REQUIRE(rmdir(directory) == 0); /* it is empty */
}

static void fuzz_spool_read(const uint8_t *data, size_t len, bool also_by_directory)
{
    struct spool_message *messages = NULL;
    uint64_t at = RECORDING_HEADER_BYTES;
    bool damaged = false;
    size_t count = 0;
    int code = spool_find_messages(data, len, &messages, &count, &damaged);
    REQUIRE(code == 0 || code == ERR_RECORDING_FORMAT || code == ERR_RECORDING_VERSION);
    for (size_t i = 0; i < count; i++) {
        at = look_at(&messages[i], data, at);
        REQUIRE(at <= len);
    }
    REQUIRE(code || damaged || len == 0 || at == len);
    REQUIRE(!damaged || at != len || count == 0);
    free(messages);
    if (also_by_directory) {
        by_directory(data, len, code, count, damaged);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0 || len > LONGEST) {
        return 0;
    }
    if (!*directory) {
        fuzz_spool_start();
    }
    uint8_t *copy = malloc(len > 1 ? len - 1 : 1);
    REQUIRE(copy);
    memcpy(copy, data + 1, len - 1);
    if (data[0] & SEAL) {
        seal(copy, len - 1);
    }
    fuzz_spool_read(copy, len - 1, data[0] >= DIRECTORY);
    free(copy);
    return 0;
}
