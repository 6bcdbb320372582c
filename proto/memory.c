/* SPDX-License-Identifier: MIT */
#include "proto/memory.h"

#include <stdio.h>
#include <string.h>

bool memory_path(const char *ingest_endpoint, char ret_path[MEMORY_PATH_MAX])
{
    const char *path = ingest_endpoint + strlen("ipc://"), *name;
    int written;
    if (strncmp(ingest_endpoint, "ipc:///", strlen("ipc:///")) != 0) {
        return false;
    }
    name = strrchr(path, '/') + 1;
    if (strcmp(name, "ingest") == 0) {
        written = snprintf(ret_path, MEMORY_PATH_MAX, "%.*smemory", (int)(name - path), path);
    } else {
        written = snprintf(ret_path, MEMORY_PATH_MAX, "%s.memory", path);
    }
    return *name && written < MEMORY_PATH_MAX;
}
