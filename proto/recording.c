/* SPDX-License-Identifier: MIT */
/* Every length is compared with the available bytes before anything is computed from it. The size
 * that a packed record claims is believed as far as zlib can go: it packs 1032 bytes into one at
 * most, so memory stays in proportion to the file. */
#include "proto/recording.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define FLAG_PACKED 1u
/* zlib's best ratio, rounded up, and what its smallest stream may hold. */
#define UNPACK_RATIO_MAX 1040
/* zlib counts in unsigned int: longer buffers go in pieces. */
#define PIECE_MAX ((size_t)1 << 30)

static const uint8_t magic[RECORDING_MAGIC_BYTES] = {0x89, 'a', 't', 't', 'n', 'd', '\r', '\n'};

static void recording_put_u32(uint8_t *at, uint32_t number)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(number >> (8 * i));
    }
}

static void recording_put_u64(uint8_t *at, uint64_t number)
{
    recording_put_u32(at, (uint32_t)number);
    recording_put_u32(at + 4, (uint32_t)(number >> 32));
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t recording_get_u64(const uint8_t *at)
{
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

static uint32_t checksum(uint32_t crc, const void *data, size_t size)
{
    return (uint32_t)crc32_z(crc, data, size);
}

bool recording_is(const uint8_t begin[RECORDING_MAGIC_BYTES])
{
    return memcmp(begin, magic, sizeof magic) == 0;
}

void recording_encode_header(uint64_t created_ns, uint8_t ret_header[RECORDING_HEADER_BYTES])
{
    memset(ret_header, 0, RECORDING_HEADER_BYTES);
    memcpy(ret_header, magic, sizeof magic);
    recording_put_u32(ret_header + 8, RECORDING_VERSION);
    recording_put_u64(ret_header + 16, created_ns);
    recording_put_u32(ret_header + 28, checksum(0, ret_header, 28));
}

int recording_decode_header(const void *buf, size_t len, uint64_t *ret_created_ns)
{
    const uint8_t *header = buf;
    if (len < RECORDING_HEADER_BYTES || !recording_is(header)) {
        return ERR_RECORDING_FORMAT;
    }
    if (get_u32(header + 28) != checksum(0, header, 28)) {
        return ERR_RECORDING_DAMAGED;
    }
    if (get_u32(header + 8) != RECORDING_VERSION || get_u32(header + 12) != 0) {
        return ERR_RECORDING_VERSION;
    }
    *ret_created_ns = recording_get_u64(header + 16);
    return 0;
}

static uint64_t total_bytes(const struct recording_frame *frames, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += frames[i].size;
    }
    return bytes;
}

/* Packing -------------------------------------------------------------------------------------- */

static uInt piece(size_t size)
{
    return (uInt)(size < PIECE_MAX ? size : PIECE_MAX);
}

/* Feeds one buffer to the stream, which writes to room[0..*room_size). Returns whether all of it
 * went in; with `flush` Z_FINISH, whether the stream could be ended. */
static bool deflate_all(z_stream *stream, struct recording_frame in, int flush, uint8_t **room,
                        size_t *room_size)
{
    const uint8_t *from = in.data;
    int rc = Z_OK;
    while ((in.size > 0 || flush == Z_FINISH) && rc == Z_OK) {
        uInt in_piece = piece(in.size), out_piece = piece(*room_size);
        stream->next_in = (Bytef *)(uintptr_t)from;
        stream->avail_in = in_piece;
        stream->next_out = *room;
        stream->avail_out = out_piece;
        rc = deflate(stream, flush);
        from += in_piece - stream->avail_in;
        in.size -= in_piece - stream->avail_in;
        *room += out_piece - stream->avail_out;
        *room_size -= out_piece - stream->avail_out;
    }
    return rc == (flush == Z_FINISH ? Z_STREAM_END : Z_OK);
}

int recording_pack(const struct recording_frame *frames, uint32_t count,
                   struct recording_frame *ret_packed)
{
    static const struct recording_frame nothing = {"", 0};
    size_t total = (size_t)total_bytes(frames, count), left = total;
    z_stream stream = {0};
    bool fits = true;
    *ret_packed = (struct recording_frame){0};
    uint8_t *room = malloc(total ? total : 1), *at = room;
    if (!room || deflateInit(&stream, Z_BEST_SPEED) != Z_OK) {
        free(room);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count && fits; i++) {
        fits = deflate_all(&stream, frames[i], Z_NO_FLUSH, &at, &left);
    }
    fits = fits && deflate_all(&stream, nothing, Z_FINISH, &at, &left);
    deflateEnd(&stream);
    if (fits) {
        *ret_packed = (struct recording_frame){room, total - left};
    } else {
        free(room); /* it does not get smaller */
    }
    return 0;
}

/* The stream has exactly `size` bytes, which room for one more shows, and nothing after it. */
static int recording_unpack(const uint8_t *packed, size_t len, size_t size, void **ret_owned)
{
    uLongf room_size = size + 1;
    uLong taken = len;
    uint8_t *room = malloc(room_size);
    int rc = room ? uncompress2(room, &room_size, packed, &taken) : Z_MEM_ERROR;
    if (rc != Z_OK || room_size != size || taken != len) {
        free(room);
        return rc == Z_MEM_ERROR ? ERR_MEMORY : ERR_RECORDING_DAMAGED;
    }
    *ret_owned = room;
    return 0;
}

/* Records -------------------------------------------------------------------------------------- */

static uint32_t checksum_body(const uint8_t *sizes, uint32_t count,
                              const struct recording_frame *frames, uint32_t frame_count)
{
    uint32_t crc = checksum(0, sizes, 8 * (size_t)count);
    for (uint32_t i = 0; i < frame_count; i++) {
        crc = frames[i].size ? checksum(crc, frames[i].data, frames[i].size) : crc;
    }
    return crc;
}

size_t recording_encode_record(uint64_t received_ns, const struct recording_frame *frames,
                               uint32_t count, const struct recording_frame *packed,
                               uint8_t ret_head[RECORDING_HEAD_MAX])
{
    uint8_t *sizes = ret_head + RECORDING_RECORD_BYTES;
    uint64_t payload = packed ? packed->size : total_bytes(frames, count);
    for (uint32_t i = 0; i < count; i++) {
        recording_put_u64(sizes + 8 * i, frames[i].size);
    }
    recording_put_u32(ret_head + 4,
                      checksum_body(sizes, count, packed ? packed : frames, packed ? 1 : count));
    recording_put_u64(ret_head + 8, 8 * (uint64_t)count + payload);
    recording_put_u64(ret_head + 16, received_ns);
    recording_put_u32(ret_head + 24, packed ? FLAG_PACKED : 0);
    recording_put_u32(ret_head + 28, count);
    recording_put_u32(ret_head, checksum(0, ret_head + 4, RECORDING_RECORD_BYTES - 4));
    return RECORDING_RECORD_BYTES + 8 * (size_t)count;
}

int recording_decode_record(const void *buf, size_t len, struct recording_record *ret_record)
{
    const uint8_t *head = buf;
    if (len < RECORDING_RECORD_BYTES) {
        return ERR_RECORDING_CUT;
    }
    if (get_u32(head) != checksum(0, head + 4, RECORDING_RECORD_BYTES - 4)) {
        return ERR_RECORDING_DAMAGED;
    }
    if (get_u32(head + 24) & ~FLAG_PACKED) {
        return ERR_RECORDING_VERSION;
    }
    struct recording_record record = {
        .received_ns = recording_get_u64(head + 16),
        .stored = recording_get_u64(head + 8),
        .crc = get_u32(head + 4),
        .frame_count = get_u32(head + 28),
        .packed = get_u32(head + 24) & FLAG_PACKED,
    };
    if (record.frame_count < 1 || record.frame_count > RECORDING_FRAMES_MAX ||
        record.stored < 8 * (uint64_t)record.frame_count ||
        record.stored - 8 * (uint64_t)record.frame_count > RECORDING_MESSAGE_MAX) {
        return ERR_RECORDING_DAMAGED;
    }
    *ret_record = record;
    return 0;
}

int recording_decode_sizes(const struct recording_record *record, const uint8_t *sizes,
                           struct recording_frame *ret_frames, uint64_t *ret_total)
{
    uint64_t total = 0, payload = record->stored - 8 * (uint64_t)record->frame_count;
    for (uint32_t i = 0; i < record->frame_count; i++) {
        uint64_t size = recording_get_u64(sizes + 8 * i);
        if (size > RECORDING_MESSAGE_MAX - total) {
            return ERR_RECORDING_DAMAGED;
        }
        total += size;
        ret_frames[i].size = (size_t)size;
    }
    if (record->packed ? total / UNPACK_RATIO_MAX > payload : total != payload) {
        return ERR_RECORDING_DAMAGED;
    }
    *ret_total = total;
    return 0;
}

int recording_decode_frames(const struct recording_record *record, const void *body, size_t len,
                            struct recording_frame ret_frames[RECORDING_FRAMES_MAX],
                            void **ret_owned)
{
    const uint8_t *sizes = body, *payload = sizes + 8 * (size_t)record->frame_count;
    uint64_t total;
    *ret_owned = NULL;
    if (len < record->stored) {
        return ERR_RECORDING_CUT;
    }
    if (checksum(0, body, (size_t)record->stored) != record->crc) {
        return ERR_RECORDING_DAMAGED;
    }
    int code = recording_decode_sizes(record, sizes, ret_frames, &total);
    if (!code && record->packed) {
        code =
            recording_unpack(payload, (size_t)(record->stored - 8 * (uint64_t)record->frame_count),
                             (size_t)total, ret_owned);
        payload = *ret_owned;
    }
    if (code) {
        return code;
    }
    for (uint32_t i = 0; i < record->frame_count; i++) {
        ret_frames[i].data = payload;
        payload += ret_frames[i].size;
    }
    return 0;
}
