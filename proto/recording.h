/* SPDX-License-Identifier: MIT */
/* recording: the bytes of a file of recorded messages. All numbers are little-endian.
 *
 *   file header, 32 bytes
 *     0   8  magic: 89 61 74 74 6e 64 0d 0a
 *     8   4  version, 1
 *    12   4  flags, 0
 *    16   8  created_ns, since 1970
 *    24   4  reserved, 0
 *    28   4  CRC-32 of bytes 0..27
 *
 *   record, one per message, to the end of the file
 *     0   4  CRC-32 of bytes 4..31
 *     4   4  CRC-32 of the `stored` bytes that follow this header
 *     8   8  stored: bytes that follow this header
 *    16   8  received_ns, since 1970
 *    24   4  flags: 1 = the frames are one zlib stream; others 0
 *    28   4  n: number of frames, 1..64
 *    32  8n  size of each frame
 *        ..  the frames one after the other, as they came
 *
 * CRC-32 is zlib's. A recorder only appends, so one that was killed leaves a last record that is
 * cut short: what is before it is whole. The header has a checksum of its own, so that `stored` can
 * be believed before it is followed.
 *
 * Pure; any thread. */
#ifndef PROTO_RECORDING_H
#define PROTO_RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORDING_VERSION      1
#define RECORDING_MAGIC_BYTES  8
#define RECORDING_HEADER_BYTES 32
#define RECORDING_RECORD_BYTES 32
#define RECORDING_FRAMES_MAX   64
/* Room for a record's header and frame sizes. */
#define RECORDING_HEAD_MAX (RECORDING_RECORD_BYTES + 8 * RECORDING_FRAMES_MAX)
/* The limit of all frames of a record: twice the largest ingest.max_message. */
#define RECORDING_MESSAGE_MAX (UINT64_C(1) << 35)

/* Borrowed. */
struct recording_frame {
    const void *data;
    size_t size;
};

/* A record's header. */
struct recording_record {
    uint64_t received_ns; /* since 1970 */
    uint64_t stored;      /* bytes that follow the header */
    uint32_t crc;         /* of these */
    uint32_t frame_count; /* 1..RECORDING_FRAMES_MAX */
    bool packed;
};

/* Whether a file that begins like this is a recording, of whichever version. */
bool recording_is(const uint8_t begin[RECORDING_MAGIC_BYTES]);

void recording_encode_header(uint64_t created_ns, uint8_t ret_header[RECORDING_HEADER_BYTES]);
/* Returns 0, ERR_RECORDING_FORMAT, ERR_RECORDING_VERSION or ERR_RECORDING_DAMAGED. */
int recording_decode_header(const void *buf, size_t len, uint64_t *ret_created_ns);

/* Compresses the frames. *ret_packed.data is malloc'ed, or NULL when they would not get smaller.
 * Returns 0 or ERR_MEMORY. */
int recording_pack(const struct recording_frame *frames, uint32_t count,
                   struct recording_frame *ret_packed);

/* Writes what stands before the frames and returns its size; then come the frames, or `packed` when
 * that is not NULL. There are 1..RECORDING_FRAMES_MAX of at most RECORDING_MESSAGE_MAX bytes. */
size_t recording_encode_record(uint64_t received_ns, const struct recording_frame *frames,
                               uint32_t count, const struct recording_frame *packed,
                               uint8_t ret_head[RECORDING_HEAD_MAX]);

/* The first RECORDING_RECORD_BYTES of a record. Returns 0, ERR_RECORDING_CUT when `len` is less,
 * ERR_RECORDING_VERSION for unknown flags, or ERR_RECORDING_DAMAGED. */
int recording_decode_record(const void *buf, size_t len, struct recording_record *ret_record);

/* The sizes of its frames, of the 8 * frame_count bytes after that, and their sum. Returns 0 or
 * ERR_RECORDING_DAMAGED: that is not what the record stores. */
int recording_decode_sizes(const struct recording_record *record, const uint8_t *sizes,
                           struct recording_frame *ret_frames, uint64_t *ret_total);

/* The frames of a record; `body` is the record->stored bytes after its header. They point into
 * `body`, or into *ret_owned, which is the caller's to free (NULL when nothing was unpacked).
 * Returns 0, ERR_RECORDING_CUT when `len` is less, ERR_RECORDING_DAMAGED or ERR_MEMORY. */
int recording_decode_frames(const struct recording_record *record, const void *body, size_t len,
                            struct recording_frame ret_frames[RECORDING_FRAMES_MAX],
                            void **ret_owned);

#endif
