/* SPDX-License-Identifier: MIT */
/* What a supervisor asks: is it alive, is it ready. Both are answered by the loop thread, so one
 * that does not turn is noticed. */
#include "http_part.h"

#include <string.h>

/* A supervisor asks again soon. */
#define PATIENCE_NS UINT64_C(2000000000)

static void reply_health(struct request *request, struct question *question)
{
    if (question->code)
        reply_code(request, question->code, question->detail);
    else
        reply_text(request, MHD_HTTP_OK, "text/plain", "ok\n");
}

void handle_health(struct request *request)
{
    request->patience_ns = PATIENCE_NS;
    request_ask(request, "ping", reply_health);
}

/* `history` of stats: {path, reason, size}; path is nil when there is none. */
static bool history_works(const msgpack_object *stats)
{
    const msgpack_object *path = mpk_find(mpk_find(stats, "history"), "path");
    return path && path->type == MSGPACK_OBJECT_STR;
}

static void reply_ready(struct request *request, struct question *question)
{
    struct mpk_doc doc;
    bool works = !request->http->config->history_enabled;
    if (question->code ||
        mpk_parse(question->result, question->size, &mpk_result_limits, &doc) != 0) {
        reply_code(request, question->code ? question->code : ERR_MEMORY, question->detail);
        return;
    }
    works = works || history_works(doc.root);
    mpk_doc_clear(&doc);
    if (works)
        reply_text(request, MHD_HTTP_OK, "text/plain", "ready\n");
    else
        reply_code(request, ERR_HISTORY_OFF, NULL);
}

void handle_ready(struct request *request)
{
    request->patience_ns = PATIENCE_NS;
    request_ask(request, "stats", reply_ready);
}
