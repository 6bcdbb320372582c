/* SPDX-License-Identifier: MIT */
#include "http_part.h"

#include <string.h>

static bool wants_openmetrics(struct request *request)
{
    const char *accept = request_header(request, MHD_HTTP_HEADER_ACCEPT);
    return accept && strstr(accept, "application/openmetrics-text");
}

static void reply_metrics(struct request *request, struct question *question)
{
    bool openmetrics = wants_openmetrics(request);
    struct mpk_doc doc;
    if (question->code ||
        mpk_parse(question->result, question->size, &mpk_result_limits, &doc) != 0) {
        reply_code(request, question->code ? question->code : ERR_MEMORY, question->detail);
        return;
    }
    struct metrics_view view = {.stats = doc.root,
                                .event_clients = request->http->events.client_count,
                                .openmetrics = openmetrics};
    char *text = metrics_render(request->http->metrics, &view);
    mpk_doc_clear(&doc);
    if (!text)
        reply_code(request, ERR_MEMORY, NULL);
    else
        reply_owned(request, MHD_HTTP_OK,
                    openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                : "text/plain; version=0.0.4; charset=utf-8",
                    text, strlen(text));
}

void handle_metrics(struct request *request)
{
    request_ask(request, "stats", reply_metrics);
}
