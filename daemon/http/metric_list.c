/* SPDX-License-Identifier: MIT */
/* The metrics that a reader can choose from, with what they mean in one line. */
#include "daemon/http/internal.h"

#include "proto/metric.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

/* [minimum, maximum], or null where one has no end. */
static json_t *domain_of(const struct metric_info *info)
{
    return isfinite(info->minimum) && isfinite(info->maximum)
               ? json_pack("[f, f]", info->minimum, info->maximum)
               : json_null();
}

static json_t *metric_list_describe(int i)
{
    const struct metric_info *info = &metric_info[i];
    static const char *const worse[] = {"low", "high", "both", "neither"};
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s, s:f, s:s}", "name", info->name, "unit",
                     info->unit, "per", info->kind == METRIC_KIND_ROW ? "row" : "message", "group",
                     metric_in_spectrum((unsigned)i) ? "spectrum" : "heads", "domain",
                     domain_of(info), "worse", worse[info->worse], "resolution", info->resolution,
                     "description", info->description);
}

void handle_metric_list(struct request *request)
{
    json_t *list = json_array();
    for (int i = 0; i < METRIC_COUNT; i++) {
        json_array_append_new(list, metric_list_describe(i));
    }
    char *text = list ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    if (text) {
        reply_owned(request, MHD_HTTP_OK, "application/json", text, strlen(text));
    } else {
        reply_code(request, ERR_MEMORY, NULL);
    }
}
