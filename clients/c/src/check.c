/* SPDX-License-Identifier: MIT */
#include "clients/c/include/attn/attn.h"

#include "clients/c/src/link.h"
#include "clients/c/src/listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No role is let in everywhere, so one socket that takes the keys is enough. The sentence is about
 * the first one that does not; what publishes learns from it why nothing goes out. */
static enum keys_verdict check_keys(const char *address, char ret_sentence[ADDRESS_REASON_MAX])
{
    static const enum address_socket sockets[] = {ADDRESS_INGEST, ADDRESS_PUBLISH, ADDRESS_CONTROL};
    char endpoint[ADDRESS_MAX], reason[ADDRESS_REASON_MAX];
    enum keys_verdict verdict = KEYS_UNKNOWN;
    struct key_client keys;
    if (key_find(&keys, reason) != 0) {
        return KEYS_UNKNOWN;
    }
    for (int i = 0; i < 3 && address_endpoint(address, sockets[i], endpoint, reason) == 0; i++) {
        verdict = listener_try_keys(&keys, sockets[i], endpoint, i == 0 ? ret_sentence : reason);
        if (verdict != KEYS_WRONG) {
            break;
        }
    }
    return verdict;
}

/* Nobody listens at the ingest socket of this address. */
static void check_absence(const char *address, const char *ingest,
                          char ret_sentence[ADDRESS_REASON_MAX])
{
    char endpoint[ADDRESS_MAX], reason[ADDRESS_REASON_MAX], text[LISTENER_TEXT_MAX];
    const char *path = ingest + strlen("ipc://");
    bool is_there = false;
    if (strncmp(ingest, "ipc://", strlen("ipc://")) != 0) {
        snprintf(ret_sentence, ADDRESS_REASON_MAX, "nobody listens at %s", ingest);
        return;
    }
    for (int i = ADDRESS_INGEST + 1; i < ADDRESS_COUNT && !is_there; i++) {
        is_there = address_endpoint(address, (enum address_socket)i, endpoint, reason) == 0 &&
                   listener_ask(endpoint, text);
    }
    if (is_there) {
        snprintf(
            ret_sentence, ADDRESS_REASON_MAX,
            "attnd is in %.*s, but its ingest socket is elsewhere: name it by its endpoint, or "
            "leave ingest.endpoint out of attnd's config",
            (int)(strrchr(path, '/') - path), path);
    } else {
        snprintf(ret_sentence, ADDRESS_REASON_MAX,
                 "no attnd listens at %s: is it running, and with this address? Its log says where "
                 "its sockets are",
                 path);
    }
}

/* The first of attnd's sockets that is wrong says it all. */
int attn_check_address(const char *address, char *ret_sentence, size_t size)
{
    char endpoint[ADDRESS_MAX], text[LISTENER_TEXT_MAX], sentence[ADDRESS_REASON_MAX] = "";
    struct key_client keys;
    enum keys_verdict verdict = KEYS_UNKNOWN;
    int code = 0;
    if (!ret_sentence || size == 0) {
        return ATTN_E_ARGUMENT;
    }
    if (!address || !*address) {
        address = getenv("ATTND_ADDRESS");
    }
    if (!address || !*address) {
        code = address_search(getenv("XDG_RUNTIME_DIR"), ADDRESS_INGEST, endpoint, sentence)
                   ? ATTN_E_TIMEOUT
                   : 0;
    } else if (address_endpoint(address, ADDRESS_INGEST, endpoint, sentence) != 0) {
        code = ATTN_E_ARGUMENT;
    } else if (strncmp(endpoint, "tcp://", 6) == 0 && key_find(&keys, sentence) != 0) {
        code = ATTN_E_ARGUMENT;
    } else if ((verdict = check_keys(address, sentence)) != KEYS_UNKNOWN) {
        code = verdict == KEYS_FIT ? 0 : ATTN_E_TRANSPORT;
    } else if (listener_is_wrong(ADDRESS_INGEST, NULL, address, sentence) ||
               listener_is_wrong(ADDRESS_PUBLISH, NULL, address, sentence) ||
               listener_is_wrong(ADDRESS_CONTROL, NULL, address, sentence)) {
        code = ATTN_E_TRANSPORT;
    } else if (!listener_ask(endpoint, text)) {
        check_absence(address, endpoint, sentence);
        code = ATTN_E_TIMEOUT;
    }
    snprintf(ret_sentence, size, "%s", sentence);
    return code;
}
