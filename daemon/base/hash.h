/* SPDX-License-Identifier: MIT */
/* hash: uthash, set up for the daemon: running out of memory leaves the element out (its hh.tbl is
 * then NULL) instead of ending the process, and FNV instead of a hash whose macro falls through
 * switch labels. */
#ifndef DAEMON_BASE_HASH_H
#define DAEMON_BASE_HASH_H

#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION     HASH_FNV
#include <uthash.h>

#endif
