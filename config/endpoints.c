/* SPDX-License-Identifier: MIT */
/* endpoints: places attnd's five sockets, by its address or by their own keys, and ensures that
 * nobody else reaches them unless the user allows it. */
#include "config/table.h"

#include <string.h>

const int config_endpoint_keys[ADDRESS_COUNT] = {
    [ADDRESS_INGEST] = KEY_ingest_endpoint,     [ADDRESS_PUBLISH] = KEY_publish_endpoint,
    [ADDRESS_CONTROL] = KEY_control_endpoint,   [ADDRESS_TAP] = KEY_tap_endpoint,
    [ADDRESS_RELIABLE] = KEY_reliable_endpoint,
};

static config_endpoint *endpoint_of(struct config *config, int which)
{
    return (config_endpoint *)((char *)config + config_keys[config_endpoint_keys[which]].offset);
}

static bool is_tcp(const char *text)
{
    return strncmp(text, "tcp://", strlen("tcp://")) == 0;
}

/* Both remedies in one sentence. */
static int refuse_tcp(struct origin origin, const char *label, const char *text, char *reterr)
{
    return config_error(
        reterr, origin,
        "%s: '%s': over TCP any user of this machine, and any web page, could speak "
        "to attnd: leave it out, and attnd listens on Unix sockets that only its "
        "user reaches, or configure keys, or set insecure: true (--set insecure=true)",
        label, text);
}

static int check_tcp(const struct config *config, int which, char *reterr)
{
    int key = config_endpoint_keys[which];
    const config_endpoint *endpoint = config_field(config, key);
    struct origin origin = {config->line[key] ? config->path : NULL, config->line[key]};
    char label[32];
    snprintf(label, sizeof label, "%s.endpoint", address_socket_name[which]);
    return is_tcp(endpoint->text) ? refuse_tcp(origin, label, endpoint->text, reterr) : 0;
}

/* The reliable lane is where trainers look for it: beside ingest, wherever that is. */
static void place_beside_ingest(struct config *config)
{
    const char *ingest = config->ingest_endpoint.text;
    char *text = config->reliable_endpoint.text, reason[ADDRESS_REASON_MAX];
    if (!is_tcp(ingest)) {
        snprintf(text, sizeof config->reliable_endpoint.text, "%.*s/%s",
                 (int)(strrchr(ingest, '/') - ingest), ingest,
                 address_socket_name[ADDRESS_RELIABLE]);
    } else if (address_endpoint(ingest, ADDRESS_RELIABLE, text, reason) != 0) {
        strcpy(text, ingest); /* any port, as ingest's */
    }
}

int config_use_address(struct config *config, const char *address, const char *origin, char *reterr)
{
    char reason[ADDRESS_REASON_MAX];
    struct origin nowhere = {NULL, 0};
    bool uses_tcp = false, allowed = config->insecure || *config->keys_server.text ||
                                     *config->keys_access.text; /* config_check wants both */
    *config->directory = '\0';
    for (int i = 0; i < ADDRESS_COUNT; i++) {
        config_endpoint *endpoint = endpoint_of(config, i);
        char text[ADDRESS_MAX];
        if (!allowed && check_tcp(config, i, reterr) != 0) {
            return -1;
        }
        if (address_endpoint(address, (enum address_socket)i, text, reason) != 0) {
            return config_error(reterr, nowhere, "%s: %s", origin, reason);
        }
        if (!*endpoint->text && i == ADDRESS_RELIABLE) {
            place_beside_ingest(config);
        } else if (!*endpoint->text) {
            snprintf(endpoint->text, sizeof endpoint->text, "%s", text);
            uses_tcp = uses_tcp || is_tcp(text);
        }
        /* The directory counts when one of its sockets is in use, named or not. */
        size_t scheme = strlen("ipc://"), name = 1 + strlen(address_socket_name[i]);
        if (!is_tcp(text) && strcmp(text, endpoint_of(config, i)->text) == 0) {
            snprintf(config->directory, sizeof config->directory, "%.*s",
                     (int)(strlen(text) - scheme - name), text + scheme);
        }
    }
    return uses_tcp && !allowed ? refuse_tcp(nowhere, origin, address, reterr) : 0;
}

bool config_uses_tcp(const struct config *config)
{
    bool tcp = false;
    for (int i = 0; i < ADDRESS_COUNT; i++) {
        const config_endpoint *endpoint = config_field(config, config_endpoint_keys[i]);
        tcp = tcp || is_tcp(endpoint->text);
    }
    return tcp;
}

int config_move(struct config *config, const char *directory, char *reterr)
{
    char reason[ADDRESS_REASON_MAX], from[ADDRESS_MAX], to[ADDRESS_COUNT][ADDRESS_MAX];
    for (int i = 0; i < ADDRESS_COUNT; i++) {
        if (address_endpoint(directory, (enum address_socket)i, to[i], reason) != 0) {
            return config_error(reterr, (struct origin){NULL, 0}, "%s", reason);
        }
    }
    for (int i = 0; i < ADDRESS_COUNT; i++) {
        if (address_endpoint(config->directory, (enum address_socket)i, from, reason) == 0 &&
            strcmp(endpoint_of(config, i)->text, from) == 0) {
            strcpy(endpoint_of(config, i)->text, to[i]);
        }
    }
    snprintf(config->directory, sizeof config->directory, "%s", directory);
    return 0;
}
