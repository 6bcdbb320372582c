/* SPDX-License-Identifier: MIT */
#include "proto/memory.h"

#include <stdio.h>
#include <string.h>

bool memory_path(const char *ingest_endpoint, char ret_path[MEMORY_PATH_MAX])
{
    static const char scheme[] = "ipc:///", name[] = "/ingest";
    size_t length = strlen(ingest_endpoint);
    int written;

    if (strncmp(ingest_endpoint, scheme, strlen(scheme)) != 0 || length < strlen("ipc:///ingest") ||
        strcmp(ingest_endpoint + length - strlen(name), name) != 0) {
        return false;
    }
    written = snprintf(ret_path, MEMORY_PATH_MAX, "%.*s/memory",
                       (int)(length - strlen(name) - strlen("ipc://")),
                       ingest_endpoint + strlen("ipc://"));
    return written > 0 && written < MEMORY_PATH_MAX;
}
