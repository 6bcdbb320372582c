/* SPDX-License-Identifier: MIT */
#include "daemon/http/internal.h"

#include <string.h>

static bool wants_openmetrics(struct request *request)
{
    double q = request_quality(request, MHD_HTTP_HEADER_ACCEPT, "application/openmetrics-text");
    return q > 0 && q >= request_quality(request, MHD_HTTP_HEADER_ACCEPT, "text/plain");
}

static void reply_metrics(struct request *request, struct question *question)
{
    struct mpk_doc doc;
    if (!reply_parse(request, question, &doc)) {
        return;
    }
    struct http *http = request->http;
    struct metrics_view view = {.monitor = doc.root,
                                .asked_ns = request->began_ns,
                                .jobs = request->visitor.jobs,
                                .event_clients = http->events.client_count,
                                .connections = http->peers.count,
                                .openmetrics = wants_openmetrics(request)};
    char *text = metrics_render(http->metrics, &view);
    if (!text) {
        reply_code(request, ERR_MEMORY, NULL);
    } else {
        reply_owned(request, MHD_HTTP_OK,
                    view.openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                     : "text/plain; version=0.0.4; charset=utf-8",
                    text, strlen(text));
    }
    mpk_doc_clear(&doc);
}

void handle_metrics(struct request *request)
{
    request_ask(request, "monitor", reply_metrics);
}
