/* SPDX-License-Identifier: MIT */
/* check: rules between keys, which no single key can check. Each check names the key to change and
 * what would do. */
#include "config/jobs.h"

#include <inttypes.h>
#include <string.h>

static struct origin line_of(const struct config *config, int key)
{
    return (struct origin){config->path, config->line[key]};
}

/* The line of the key to change; or else of the one that it disagrees with. */
static struct origin between(const struct config *config, int key, int other)
{
    return line_of(config, config->line[key] ? key : other);
}

static int check_parts(const struct config *config, int key, uint64_t length, uint64_t every,
                       char *reterr)
{
    uint64_t part = config_window_part(length, every);
    uint64_t parts = length / part;
    if (parts <= CONFIG_WINDOW_PARTS_MAX) {
        return 0;
    }
    return config_error(
        reterr, between(config, key, KEY_window_length),
        "window.%s: '%" PRIu64 "': a window of %" PRIu64 " would be kept in %" PRIu64
        " parts of %" PRIu64 " (valid: at most %d parts; for instance every %" PRIu64 ")",
        config_keys[key].name, every, length, parts, part, CONFIG_WINDOW_PARTS_MAX, length);
}

/* Each window rule keeps its state under a name of its own. */
static int check_distinct(const struct config *config, uint32_t i, char *reterr)
{
    const struct config_window *window = &config->window_also.window[i];
    uint64_t length = window->length, every = window->every;
    uint32_t own = config_window_count(config) - config->window_also.count + i;
    if (config_window_find(config, (int)window->unit, length, every) == (int)own) {
        return 0;
    }
    return config_error(reterr, line_of(config, KEY_window_also),
                        "window.also: a window of %" PRIu64 " every %" PRIu64
                        " is there already (valid: each window once, and none of window.unit)",
                        length, every);
}

static int config_check_windows(const struct config *config, char *reterr)
{
    bool is_length = config->window_length != 1;
    if (config->window_unit == CONFIG_UNIT_AUTO && (is_length || config->window_every != 1)) {
        int key = is_length ? KEY_window_length : KEY_window_every;
        return config_error(reterr, between(config, key, KEY_window_unit),
                            "window.%s: '%" PRIu64
                            "': with window.unit: auto windows have 16 captures (valid: 1, or "
                            "with window.unit: epoch, step or second any number)",
                            config_keys[key].name,
                            is_length ? config->window_length : config->window_every);
    }
    if (check_parts(config, KEY_window_every, config->window_length, config->window_every,
                    reterr) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < config->window_also.count; i++) {
        if (check_parts(config, KEY_window_also, config->window_also.window[i].length,
                        config->window_also.window[i].every, reterr) != 0 ||
            check_distinct(config, i, reterr) != 0) {
            return -1;
        }
    }
    return 0;
}

static int check_budget(const struct config *config, char *reterr)
{
    if (config->ingest_max_message <= config->ingest_budget) {
        return 0;
    }
    char message[VALUE_TEXT_MAX], budget[VALUE_TEXT_MAX];
    value_print(&config_keys[KEY_ingest_max_message].rule, &config->ingest_max_message, message);
    value_print(&config_keys[KEY_ingest_budget].rule, &config->ingest_budget, budget);
    return config_error(
        reterr, between(config, KEY_ingest_max_message, KEY_ingest_budget),
        "ingest.max_message: '%.64s': larger than ingest.budget, so such a message could never be"
        " read (valid: at most %.64s)",
        message, budget);
}

static bool is_wildcard_host(const char *host, size_t len)
{
    return (len == 1 && host[0] == '*') || (len == 7 && memcmp(host, "0.0.0.0", 7) == 0) ||
           (len == 4 && memcmp(host, "[::]", 4) == 0);
}

/* Whether binding both endpoints would fail. A port or path `*` is a fresh one each time. */
static bool endpoints_clash(const config_endpoint *a, const config_endpoint *b)
{
    size_t scheme = strlen("tcp://");
    if (!*a->text || strncmp(a->text, b->text, scheme) != 0) {
        return false;
    }
    const char *host_a = a->text + scheme, *host_b = b->text + scheme;
    if (strncmp(a->text, "ipc", 3) == 0) {
        return strcmp(host_a, host_b) == 0 && strcmp(host_a, "*") != 0;
    }
    const char *port_a = strrchr(host_a, ':'), *port_b = strrchr(host_b, ':');
    if (strcmp(port_a, port_b) != 0 || strcmp(port_a, ":*") == 0) {
        return false;
    }
    size_t len_a = (size_t)(port_a - host_a), len_b = (size_t)(port_b - host_b);
    return is_wildcard_host(host_a, len_a) || is_wildcard_host(host_b, len_b) ||
           (len_a == len_b && memcmp(host_a, host_b, len_a) == 0);
}

static int endpoint_count(const struct config *config)
{
    return ADDRESS_COUNT + config->http_enabled;
}

/* That of HTTP is the last one. */
static int endpoint_key(int i)
{
    return i < ADDRESS_COUNT ? config_endpoint_keys[i] : KEY_http_endpoint;
}

static int check_endpoints(const struct config *config, char *reterr)
{
    for (int i = 1; i < endpoint_count(config); i++) {
        for (int j = 0; j < i; j++) {
            const struct key *key = &config_keys[endpoint_key(i)];
            const struct key *other = &config_keys[endpoint_key(j)];
            const config_endpoint *endpoint = config_field(config, endpoint_key(i));
            if (!endpoints_clash(endpoint, config_field(config, endpoint_key(j)))) {
                continue;
            }
            return config_error(
                reterr, between(config, endpoint_key(i), endpoint_key(j)),
                "%s.endpoint: '%s': taken by %s.endpoint (valid: another port or path)",
                key->section, endpoint->text, other->section);
        }
    }
    return 0;
}

static int check_metrics(const struct config *config, struct origin origin, const char *label,
                         char *reterr)
{
    if (config->metrics_core || config->metrics_importance || config->metrics_pairs ||
        config->metrics_similarity || config->metrics_spectrum) {
        return 0;
    }
    return config_error(
        reterr, origin,
        "%s: every group is off, so there is nothing to measure (valid: at least one of "
        "core, importance, pairs, similarity, spectrum on)",
        label);
}

static int check_drift(const struct config *config, char *reterr)
{
    const char *baseline = config->drift_baseline.text;
    char quoted[QUOTE_MAX + 4];
    bool is_run = strlen(baseline) == 32 && strspn(baseline, "0123456789abcdef") == 32;
    if (is_run || strcmp(baseline, "first") == 0) {
        return 0;
    }
    return config_error(
        reterr, line_of(config, KEY_drift_baseline),
        "drift.baseline: '%s': not a run (valid: first, or the 32 hexadecimal digits of a run)",
        config_quotable(baseline, quoted));
}

static int check_alerts(const struct config *config, char *reterr)
{
    const char *command = config->alerts_command.text, *webhook = config->alerts_webhook.text;
    char public[CONFIG_PUBLIC_MAX], quoted[QUOTE_MAX + 4];
    if (*command && *command != '/') {
        return config_error(
            reterr, line_of(config, KEY_alerts_command),
            "alerts.command: '%s': not an absolute path (valid: /path/to/program, and its "
            "arguments between blanks)",
            config_quotable(config_public("alerts", "command", command, public), quoted));
    }
    if (*webhook && strncmp(webhook, "http://", 7) != 0 && strncmp(webhook, "https://", 8) != 0) {
        return config_error(
            reterr, line_of(config, KEY_alerts_webhook),
            "alerts.webhook: '%s': not such a URL (valid: http://... or https://...)",
            config_quotable(config_public("alerts", "webhook", webhook, public), quoted));
    }
    return 0;
}

/* The five sockets of the second address beside those of the first, and HTTP. */
static int check_next_endpoints(const struct config *config, char *reterr)
{
    const char *address = config->keys_next_address.text;
    struct origin origin = between(config, KEY_keys_next_address, KEY_keys_next);
    char reason[ADDRESS_REASON_MAX];
    for (int i = 0; i < ADDRESS_COUNT; i++) {
        config_endpoint next;
        if (address_endpoint(address, (enum address_socket)i, next.text, reason) != 0) {
            return config_error(reterr, origin, "keys.next_address: %.900s", reason);
        }
        for (int j = 0; j < endpoint_count(config); j++) {
            if (!endpoints_clash(&next, config_field(config, endpoint_key(j)))) {
                continue;
            }
            return config_error(
                reterr, origin,
                "keys.next_address: '%s': its %s would be %s, taken by %s.endpoint (valid: "
                "five ports in a row that are free)",
                address, address_socket_name[i], next.text, config_keys[endpoint_key(j)].section);
        }
    }
    return 0;
}

/* Two keys of a section that are needed together. */
static int check_pair(const struct config *config, int a, bool has_a, int b, bool has_b,
                      char *reterr)
{
    const char *section = config_keys[a].section;
    return has_a == has_b ? 0
                          : config_error(reterr, between(config, a, b), "%s.%s: needed with %s.%s",
                                         section, config_keys[has_a ? b : a].name, section,
                                         config_keys[has_a ? a : b].name);
}

/* One without the other would let in nobody, or everybody. */
static int check_keys(const struct config *config, char *reterr)
{
    bool server = *config->keys_server.text, access = *config->keys_access.text;
    const char *address = config->keys_next_address.text; /* of the key that follows */
    bool next = *config->keys_next.text;
    if (check_pair(config, KEY_keys_server, server, KEY_keys_access, access, reterr) != 0) {
        return -1;
    }
    if (server && config->insecure) {
        return config_error(
            reterr, between(config, KEY_insecure, KEY_keys_server),
            "insecure: 'true': there are keys, so TCP has access control (valid: false)");
    }
    if (check_pair(config, KEY_keys_next, next, KEY_keys_next_address, *address, reterr) != 0) {
        return -1;
    }
    if (next && !server) {
        return config_error(reterr, line_of(config, KEY_keys_next),
                            "keys.server: needed with keys.next");
    }
    if (next && strncmp(address, "tcp://", strlen("tcp://")) != 0) {
        return config_error(reterr, between(config, KEY_keys_next_address, KEY_keys_next),
                            "keys.next_address: '%s': keys are for TCP (valid: tcp://host:port)",
                            address);
    }
    return next ? check_next_endpoints(config, reterr) : 0;
}

/* Roles need servers, and what they keep. */
static int check_fleet(const struct config *config, char *reterr)
{
    const char *role = config_role_name(config->fleet_role), *url = config->fleet_url.text;
    const char *credentials = config->fleet_credentials.text;
    char quoted[QUOTE_MAX + 4];
    bool certificate = *config->fleet_tls_certificate.text, key = *config->fleet_tls_key.text;
    if (check_pair(config, KEY_fleet_tls_certificate, certificate, KEY_fleet_tls_key, key,
                   reterr) != 0) {
        return -1;
    }
    if (strlen(config->fleet_name.text) > 64) {
        return config_error(reterr, line_of(config, KEY_fleet_name),
                            "fleet.name: '%.64s...': too long (valid: 64 bytes)",
                            config->fleet_name.text);
    }
    if (config->fleet_role == CONFIG_ROLE_OFF && (*url || *credentials)) {
        return config_error(
            reterr, between(config, KEY_fleet_role, *url ? KEY_fleet_url : KEY_fleet_credentials),
            "fleet.role: 'off': fleet.%s is there, and without effect (valid: node, hub, or "
            "off without it)",
            *url ? "url" : "credentials");
    }
    if (config->fleet_role != CONFIG_ROLE_HUB && *config->fleet_domains.text) {
        return config_error(
            reterr, between(config, KEY_fleet_domains, KEY_fleet_role),
            "fleet.domains: '%s': only a hub takes from other domains (valid: empty with "
            "fleet.role: %s)",
            config_quotable(config->fleet_domains.text, quoted), role);
    }
    if (config->fleet_role == CONFIG_ROLE_OFF) {
        return 0;
    }
    if (!*url) {
        return config_error(reterr, between(config, KEY_fleet_url, KEY_fleet_role),
                            "fleet.url: needed with fleet.role: %s (valid: nats://host:4222 or "
                            "tls://host:4222, several with commas)",
                            role);
    }
    if (!config->history_enabled) {
        return config_error(
            reterr, between(config, KEY_fleet_role, KEY_history_enabled),
            "fleet.role: '%s': keeps its parts beside the history, and history.enabled is "
            "false (valid: off, or history.enabled: true)",
            role);
    }
    if (config->window_unit == CONFIG_UNIT_SECOND) {
        return config_error(
            reterr, between(config, KEY_window_unit, KEY_fleet_role),
            "window.unit: 'second': clocks of nodes differ, so such windows cannot be merged "
            "with fleet.role: %s (valid: auto, epoch, step)",
            role);
    }
    return 0;
}

int config_check(const struct config *config, char *reterr)
{
    if (check_budget(config, reterr) != 0 || check_endpoints(config, reterr) != 0 ||
        config_check_windows(config, reterr) != 0 || check_drift(config, reterr) != 0 ||
        check_alerts(config, reterr) != 0 || check_keys(config, reterr) != 0 ||
        check_fleet(config, reterr) != 0 ||
        check_metrics(config, between(config, KEY_metrics_core, KEY_metrics_spectrum), "metrics",
                      reterr) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < jobs_count(config->jobs); i++) {
        const struct job_rule *rule = jobs_rule(config->jobs, i);
        if (check_metrics(&rule->values, (struct origin){config->path, rule->line}, rule->label,
                          reterr) != 0) {
            return -1;
        }
    }
    return 0;
}
