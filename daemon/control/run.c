/* SPDX-License-Identifier: MIT */
#include "daemon/control/internal.h"

#include <stdio.h>

int request_find_run(struct control_request *request, const char *job, const char *prefix,
                     struct run **ret_run)
{
    const struct registry *registry = request->view->registry;
    bool job_known = registry_knows(registry, job);
    *ret_run = registry_find(registry, job, prefix);
    if (*ret_run) {
        return 0;
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX,
             "no such %s in memory; the history may have it (runs, windows, history, map)",
             job_known ? "run of this job" : "job");
    return job_known ? ERR_RUN_UNKNOWN : ERR_JOB_UNKNOWN;
}
