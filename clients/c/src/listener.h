/* SPDX-License-Identifier: MIT */
/* listener: who listens where attnd was looked for, when nothing comes from there.
 *
 * ZeroMQ connects again and again to whatever listens at a port, and never says what it is. So the
 * port is asked: a ZMTP peer names the type of its socket when it is greeted, which tells attnd's
 * sockets apart, and a server of HTTP answers a request. The same questions and sentences as
 * listener.py of the Python client.
 *
 * Any thread; no state. A question takes 0.3 s at most, and 0.5 s for each address of the host;
 * there are four at most; the look-up of a host's name comes on top. */
#ifndef CLIENTS_C_SRC_LISTENER_H
#define CLIENTS_C_SRC_LISTENER_H

#include "clients/c/src/keys.h"

#define LISTENER_TEXT_MAX 128

/* Whether anybody listens at a tcp:// or ipc:// endpoint. The text is the type of a ZeroMQ socket
 * ("XPUB"), "page" (attnd's), "http", "it says '...'", or "" for somebody who is silent. */
bool listener_ask(const char *endpoint, char ret_text[LISTENER_TEXT_MAX]);

/* How long somebody waits for an answer before looking whether it is the keys. */
#define LISTENER_LOOK_MS 1000
/* Whether one of attnd's sockets on TCP takes these keys, or their absence. KEYS_WRONG with a
 * sentence. */
enum keys_verdict listener_try_keys(const struct key_client *keys, enum address_socket which,
                                    const char *endpoint, char ret_sentence[ADDRESS_REASON_MAX]);

/* Whether a socket of attnd is named wrongly, by its endpoint or (NULL) by attnd's address, and as
 * a sentence what to name instead. False also when nobody listens there. */
bool listener_is_wrong(enum address_socket which, const char *endpoint, const char *address,
                       char ret_sentence[ADDRESS_REASON_MAX]);

#endif
