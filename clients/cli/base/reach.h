/* SPDX-License-Identifier: MIT */
/* reach: finds the sockets of the attnd that answers. */
#ifndef CLIENTS_CLI_BASE_REACH_H
#define CLIENTS_CLI_BASE_REACH_H

#include "clients/cli/base/cli.h"

#define ENDPOINT_MAX ADDRESS_MAX

/* Another socket of the attnd that cli->rpc asks. It follows from the address. When one endpoint
 * was named instead, attnd is asked for the setting ("publish.endpoint"): a daemon that binds `*`
 * cannot know by which name this machine sees it, so the host that answered the question is taken
 * then. Returns CLI_OK, also with "" when attnd has no such setting or does not know its port, or
 * an exit code. */
int reach_endpoint(struct cli *cli, enum address_socket which, char ret_endpoint[ENDPOINT_MAX]);

/* Where a browser finds what attnd binds at `bound`. */
void reach_from_here(struct cli *cli, const char *bound, char ret_endpoint[ENDPOINT_MAX]);

/* The directory of the sockets, without the last /; "" when attnd is asked by TCP. */
void reach_directory(const struct cli *cli, char ret_directory[ENDPOINT_MAX]);

#endif
