/* SPDX-License-Identifier: MIT */
/* accept: connections that attnd has no descriptor for. */
#ifndef DAEMON_ACCEPT_H
#define DAEMON_ACCEPT_H

struct stats;

/* From now on connections that are refused are counted there; NULL: nowhere. */
void accept_count(struct stats *stats);

#endif
