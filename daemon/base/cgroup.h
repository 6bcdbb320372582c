/* SPDX-License-Identifier: MIT */
/* cgroup: how much memory the kernel lets this process have, before it ends it. Any thread. */
#ifndef DAEMON_BASE_CGROUP_H
#define DAEMON_BASE_CGROUP_H

#include <stdint.h>

/* Bytes: the lowest limit of the process's control group and of those that it lies in, of either
 * version; UINT64_MAX: none is known. `root` is "" but in tests. */
uint64_t cgroup_memory_limit(const char *root);

#endif
