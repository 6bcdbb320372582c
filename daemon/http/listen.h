/* SPDX-License-Identifier: MIT */
/* listen: the listening socket of HTTP, from tcp://host:port or ipc://path as ZeroMQ writes them.
 */
#ifndef DAEMON_HTTP_LISTEN_H
#define DAEMON_HTTP_LISTEN_H

/* Binds and listens, not blocking; host may be a name, an address, [address] or *, port may be *.
 * The file of an ipc:// socket has the mode of endpoint_mode; its directory may give it its group.
 * Returns the descriptor and replaces `endpoint` (ENDPOINT_MAX bytes) by the address it has, or -1
 * with errno and a sentence in reterr (CONFIG_ERROR_MAX bytes). */
int http_listen(char *endpoint, char *reterr);

#endif
