/* SPDX-License-Identifier: MIT */
/* reach: where the sockets of the attnd that answers are, as seen from here. */
#ifndef CLI_REACH_H
#define CLI_REACH_H

#include "cli.h"

#define ENDPOINT_MAX 256

/* Asks attnd for the setting `key` ("publish.endpoint"). A daemon that binds `*` cannot know by
 * which name this machine sees it; the host that answered the question is taken then. Returns
 * CLI_OK, also with "" when attnd has no such setting or does not know its port, or an exit code.
 */
int reach_endpoint(struct cli *cli, const char *key, char ret_endpoint[ENDPOINT_MAX]);

#endif
