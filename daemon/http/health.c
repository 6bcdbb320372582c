/* SPDX-License-Identifier: MIT */
/* The checks of a supervisor: is it alive, is it ready. Both are answered by the loop thread, so
 * one that does not turn is noticed. */
#include "daemon/http/internal.h"

#include "proto/err.h"

#include <limits.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A supervisor asks again soon. */
#define PATIENCE_NS UINT64_C(2000000000)

static void reply_health(struct request *request, struct question *question)
{
    if (question->code) {
        reply_code(request, question->code, question->detail);
    } else {
        reply_text(request, MHD_HTTP_OK, "text/plain", "ok\n");
    }
}

void handle_health(struct request *request)
{
    request->patience_ns = PATIENCE_NS;
    request_ask(request, "ping", reply_health);
}

/* Less than so much on the disk is none. */
#define ROOM_MIN (UINT64_C(1) << 20)

/* Whether the disk of the history is full before anything has failed there. On this thread: a disk
 * that does not answer keeps no trainer waiting. */
static bool disk_is_full(const char *path)
{
    struct statvfs disk;
    if (statvfs(path, &disk) != 0 || disk.f_blocks == 0) {
        return false; /* it says so when it is written */
    }
    uint64_t blocks = geteuid() == 0 ? disk.f_bfree : disk.f_bavail;
    return blocks * disk.f_frsize < ROOM_MIN;
}

/* `history` of stats: {path, reason, damaged}; path is nil when there is none, the others when
 * nothing is wrong. Returns why the history cannot be written or read, in a text that is kept in
 * `room`, or NULL. */
static const char *why_not_ready(const msgpack_object *stats, char *room, size_t size)
{
    const msgpack_object *history = mpk_find(stats, "history");
    char reason[PATH_MAX];
    mpk_find_text(history, "reason", reason, sizeof reason);
    if (*reason) {
        snprintf(room, size, "the history cannot be written: %s", reason);
        return room;
    }
    mpk_find_text(history, "damaged", room, size);
    if (*room) {
        return room;
    }
    mpk_find_text(history, "path", room, size);
    if (!*room) {
        return err_text(ERR_HISTORY_OFF);
    }
    return disk_is_full(room) ? "the history cannot be written: its disk is full" : NULL;
}

static void reply_ready(struct request *request, struct question *question)
{
    struct mpk_doc doc;
    char room[PATH_MAX + 256];
    if (!reply_parse(request, question, &doc)) {
        return;
    }
    const char *why =
        request->http->config->history_enabled ? why_not_ready(doc.root, room, sizeof room) : NULL;
    mpk_doc_clear(&doc);
    if (!why) {
        reply_text(request, MHD_HTTP_OK, "text/plain", "ready\n");
    } else {
        reply_code(request, ERR_HISTORY_OFF, why);
    }
}

void handle_ready(struct request *request)
{
    request->patience_ns = PATIENCE_NS;
    request_ask(request, "stats", reply_ready);
}
