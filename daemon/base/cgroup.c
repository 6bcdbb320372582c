/* SPDX-License-Identifier: MIT */
/* /proc/self/cgroup has "ID:CONTROLLERS:PATH" lines: "0::/PATH" of version 2, "4:memory:/PATH" of
 * version 1. In a container PATH may be that of the host, of which it has the last part alone, as
 * the root of what it sees: directories that are not there have no limit, and the root counts. */
#include "daemon/base/cgroup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define CGROUP_PATH_MAX 4096

static uint64_t cgroup_lowest_limit(const char *root, const char *mount, const char *group,
                                    const char *file)
{
    char directory[CGROUP_PATH_MAX];
    size_t top = (size_t)snprintf(directory, sizeof directory, "%s/sys/fs/cgroup%s", root, mount);
    snprintf(directory + top, sizeof directory - top, "%s", group);
    uint64_t lowest = UINT64_MAX;
    for (char *end = directory + strlen(directory); end; end = strrchr(directory + top, '/')) {
        *end = '\0';
        /* That of one directory; "max" is no number. */
        char path[CGROUP_PATH_MAX + 64];
        uint64_t limit = UINT64_MAX;
        snprintf(path, sizeof path, "%s/%s", directory, file);
        FILE *in = fopen(path, "re");
        if (in) {
            (void)!fscanf(in, "%" SCNu64, &limit);
            fclose(in);
        }
        lowest = limit < lowest ? limit : lowest;
    }
    return lowest;
}

uint64_t cgroup_memory_limit(const char *root)
{
    char line[CGROUP_PATH_MAX], path[64];
    uint64_t lowest = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *in = fopen(path, "re");
    while (in && fgets(line, sizeof line, in)) {
        char *controllers = strchr(line, ':'),
             *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        line[strcspn(line, "\n")] = '\0';
        *group++ = '\0';
        bool is_first = strcmp(controllers, ":memory") == 0;
        if (is_first || controllers[1] == '\0') {
            uint64_t limit =
                is_first ? cgroup_lowest_limit(root, "/memory", group, "memory.limit_in_bytes")
                         : cgroup_lowest_limit(root, "", group, "memory.max");
            lowest = limit < lowest ? limit : lowest;
        }
    }
    if (in) {
        fclose(in);
    }
    return lowest;
}
