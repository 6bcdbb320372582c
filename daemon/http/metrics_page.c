/* SPDX-License-Identifier: MIT */
#include "daemon/http/internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The q of one media range, "type/subtype;a=b;q=0.5": 1 when it has none, 0 when it is no number.
 */
static double quality(const char *range, size_t length)
{
    for (size_t i = 0; i + 2 < length; i++) {
        size_t blanks = 1;
        if (range[i] != ';') {
            continue;
        }
        blanks += strspn(range + i + 1, " \t");
        if (strncasecmp(range + i + blanks, "q=", 2) == 0) {
            return strtod(range + i + blanks + 2, NULL);
        }
    }
    return 1;
}

/* The largest q of the ranges that begin with `type`; 0 when there is none. */
static double quality_of(const char *accept, const char *type)
{
    double best = 0;
    while (*accept) {
        accept += strspn(accept, ", \t");
        size_t length = strcspn(accept, ",");
        if (strncasecmp(accept, type, strlen(type)) == 0) {
            double q = quality(accept, length);
            best = q > best ? q : best;
        }
        accept += length;
    }
    return best;
}

static bool wants_openmetrics(struct request *request)
{
    const char *accept = request_header(request, MHD_HTTP_HEADER_ACCEPT);
    if (!accept) {
        return false;
    }
    double q = quality_of(accept, "application/openmetrics-text");
    return q > 0 && q >= quality_of(accept, "text/plain");
}

static void reply_metrics(struct request *request, struct question *question)
{
    struct mpk_doc doc;
    if (question->code ||
        mpk_parse(question->result, question->size, &mpk_result_limits, &doc) != 0) {
        reply_code(request, question->code ? question->code : ERR_MEMORY, question->detail);
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
