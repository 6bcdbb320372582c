/* SPDX-License-Identifier: MIT */
/* memory: what travels on the same-host lane (PROTOCOL.md, "The same-host lane"): records on the
 * socket `memory`, and the frames that stand for tensors in buffers that were lent there.
 *
 * Fixed layouts, little-endian as everything that attnd runs on; both ends are on one machine.
 * Pure; any thread. */
#ifndef PROTO_MEMORY_H
#define PROTO_MEMORY_H

#include <assert.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>

/* The seals of a buffer: its size stays, and whoever lends it goes on writing to the mapping that
 * it has already, but can give no page up. The last one is of Linux 5.1, and newer than some C
 * libraries. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#define MEMORY_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE)

#define MEMORY_MAGIC       "attndmem"
#define MEMORY_VERSION     1
#define MEMORY_TOKEN_BYTES 16
/* Buffers of one connection. */
#define MEMORY_BUFFERS_MAX 128
/* Smaller tensors travel as frames. */
#define MEMORY_TENSOR_MIN 65537
/* A tensor begins at a multiple of this within its buffer. */
#define MEMORY_ALIGNMENT 64
/* Bytes of the path of a Unix socket, with the NUL. */
#define MEMORY_PATH_MAX 108

/* The first packet, from attnd. */
struct memory_greeting {
    char magic[8];
    uint32_t version, buffers_max;
    uint64_t bytes_max; /* of all buffers of the connection */
    uint8_t token[MEMORY_TOKEN_BYTES];
};

enum memory_record_kind {
    MEMORY_LEND = 1,  /* to attnd, with the descriptor of a sealed memfd */
    MEMORY_TAKE_BACK, /* to attnd: it is lent no more */
    MEMORY_FREE,      /* from attnd: messages may name it now, one at a time */
    MEMORY_REFUSED,   /* from attnd: no room for it */
};

/* Every other packet. */
struct memory_record {
    uint32_t kind, buffer; /* buffer: < buffers_max */
};

/* A frame in the place of a tensor's. */
struct memory_reference {
    uint8_t token[MEMORY_TOKEN_BYTES];
    uint32_t buffer, zero;
    uint64_t offset, bytes;
};

static_assert(sizeof(struct memory_greeting) == 40, "no padding");
static_assert(sizeof(struct memory_record) == 8, "no padding");
static_assert(sizeof(struct memory_reference) == 40, "no padding");

/* The path of the socket beside the one of an endpoint: DIRECTORY/memory of
 * "ipc:///DIRECTORY/ingest", DIRECTORY/NAME.memory of another name. Returns false when the endpoint
 * has another form, or a name that is too long: then there is no such lane. */
bool memory_path(const char *ingest_endpoint, char ret_path[MEMORY_PATH_MAX]);

#endif
