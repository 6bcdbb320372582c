/* SPDX-License-Identifier: MIT */
/* judge: judges a recording by alert rules, for the CI of training runs: attnd --judge, which
 * attnctl check runs. No sockets, no history; nobody is notified. */
#ifndef DAEMON_JUDGE_H
#define DAEMON_JUDGE_H

#include "config/config.h"

/* Prints the verdict on stdout, as JSON or for people, or what went wrong on stderr. Returns the
 * exit status: 0, 1 when a rule fired or no verdict was reached, 2 when the recording cannot be
 * judged. Ends the process itself when it cannot wait for its threads. */
int judge_recording(const char *path, bool json, const struct config *config);

#endif
