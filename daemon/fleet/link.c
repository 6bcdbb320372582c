/* SPDX-License-Identifier: MIT */
/* Two kinds of errors are told: of the connection, which libnats finds, and of the stream, which
 * the owner finds. Either is logged once, and again when it has changed.
 *
 * libnats gives up on servers that refuse a login or a certificate twice. It then calls back that
 * the connection is closed; link_tend frees it, and makes the next one after RETRY_NS. Callbacks
 * come from a thread of libnats, the last one (closed) also after the connection was freed; so
 * freeing waits for it.
 *
 * A connection that libnats keeps trying in the background does not say why it fails. So the first
 * try, and those after a refusal, are made by link_tend alone, which hears the reason.
 */
#include "daemon/fleet/link.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "proto/fleet.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS          UINT64_C(3000000000)
#define RECONNECT_WAIT_MS 1000
#define PING_MS           10000
#define DUPLICATES_NS     INT64_C(120000000000)
#define CLOSE_PATIENCE_S  1

struct fleet_link {
    natsOptions *options;
    natsConnection *connection; /* the owner's thread; NULL: none */
    uint64_t retry_ns;          /* when the next one is made */
    bool background;            /* libnats tries on when the next one fails */
    bool tls;
    struct link_owner owner;
    char url[CONFIG_PUBLIC_MAX];
    int64_t stream_bytes, stream_age_ns, replicas;
    const char *domains; /* of the config */
    char domain[FLEET_NAME_MAX + 1];

    atomic_bool connected;
    atomic_bool closing; /* by the owner */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t closed_wake;
    bool closed; /* for good */
    char error[LINK_ERROR_MAX], trouble[LINK_ERROR_MAX];
};

void link_id_text(const uint8_t *id, char ret_text[LINK_ID_DIGITS + 1])
{
    for (int i = 0; i < FLEET_ID_BYTES; i++) {
        snprintf(ret_text + 2 * i, 3, "%02x", id[i]);
    }
}

void link_name(const struct config *config, char *ret_name, size_t size)
{
    if (*config->fleet_name.text) {
        snprintf(ret_name, size, "%.*s", (int)size - 1, config->fleet_name.text);
    } else if (gethostname(ret_name, size) != 0) {
        snprintf(ret_name, size, "unknown");
    }
    ret_name[size - 1] = '\0';
}

/* Errors */

static void link_set_error(struct fleet_link *link, bool connected, const char *error)
{
    pthread_mutex_lock(&link->lock);
    bool was = link->connected, other = strcmp(link->error, error) != 0;
    link->connected = connected;
    snprintf(link->error, sizeof link->error, "%s", error);
    pthread_mutex_unlock(&link->lock);
    if (connected && !was) {
        log_event(LOG_INFO, "fleet_connected", LOG_STR("url", link->url));
    } else if (*error && (other || was != connected)) {
        log_event(LOG_WARNING, "fleet_trouble", LOG_STR("url", link->url),
                  LOG_STR("reason", error));
    }
    link->owner.wake(link->owner.data);
}

void link_set_trouble(struct fleet_link *link, const char *trouble)
{
    pthread_mutex_lock(&link->lock);
    bool other = strncmp(link->trouble, trouble, sizeof link->trouble - 1) != 0;
    snprintf(link->trouble, sizeof link->trouble, "%s", trouble);
    pthread_mutex_unlock(&link->lock);
    if (other && *trouble) {
        log_event(LOG_WARNING, "fleet_trouble", LOG_STR("url", link->url),
                  LOG_STR("reason", trouble));
    } else if (other) {
        log_event(LOG_INFO, "fleet_recovered", LOG_STR("url", link->url));
    }
}

void link_error(struct fleet_link *link, char ret_error[LINK_ERROR_MAX])
{
    pthread_mutex_lock(&link->lock);
    const char *error = *link->error ? link->error : link->trouble;
    snprintf(ret_error, LINK_ERROR_MAX, "%s", error);
    pthread_mutex_unlock(&link->lock);
}

bool link_connected(struct fleet_link *link)
{
    return atomic_load(&link->connected);
}

const char *link_url(const struct fleet_link *link)
{
    return link->url;
}

/* A reason of libnats can begin with a place in its source, "(conn.c:733): ". */
static const char *link_without_place(const char *reason)
{
    const char *place = *reason == '(' ? strstr(reason, "): ") : NULL;
    return place ? place + strlen("): ") : reason;
}

#define SSL_PREFIX "SSL handshake error: "

/* Sets why there is no connection. `why`: as libnats has it, or NULL. A server that misses the
 * certificate of attnd's only hangs up. */
static void link_set_refusal(struct fleet_link *link, natsStatus status, const char *why)
{
    char error[LINK_ERROR_MAX];
    const char *reason = why && *why ? why : natsStatus_GetText(status);
    reason = link_without_place(reason);
    if (strncmp(reason, SSL_PREFIX, strlen(SSL_PREFIX)) == 0) {
        reason += strlen(SSL_PREFIX);
    }
    if (link->tls && (status == NATS_PROTOCOL_ERROR || status == NATS_IO_ERROR)) {
        reason = "it hangs up; is fleet.tls_certificate one that it knows?";
    }
    if (status == NATS_SSL_ERROR) {
        snprintf(error, sizeof error,
                 "%.70s: TLS fails (%.110s): see fleet.tls_ca and fleet.url; attnd tries again",
                 link->url, reason);
    } else if (status == NATS_CONNECTION_AUTH_FAILED) {
        snprintf(error, sizeof error,
                 "%.100s does not let this attnd in (%.100s); attnd tries again", link->url,
                 reason);
    } else {
        snprintf(error, sizeof error, "%.100s cannot be reached (%.100s); attnd tries again",
                 link->url, status == NATS_NO_SERVER ? "no server answers" : reason);
    }
    link_set_error(link, false, error);
}

/* Callbacks of libnats, on its threads */

static void link_on_connected(natsConnection *connection, void *data)
{
    (void)connection;
    link_set_error(data, true, "");
}

static void link_on_disconnected(natsConnection *connection, void *data)
{
    struct fleet_link *link = data;
    const char *why = NULL;
    char error[LINK_ERROR_MAX];
    if (atomic_load(&link->closing)) {
        return;
    }
    (void)natsConnection_GetLastError(connection, &why);
    snprintf(error, sizeof error, "the connection to %.100s has ended (%.100s); attnd tries again",
             link->url, why && *why ? why : "the server closed it");
    link_set_error(link, false, error);
}

static void link_on_closed(natsConnection *connection, void *data)
{
    struct fleet_link *link = data;
    const char *why = NULL;
    natsStatus status = natsConnection_GetLastError(connection, &why);
    if (!atomic_load(&link->closing)) {
        bool is_known = status != NATS_OK && status != NATS_NO_SERVER;
        link_set_refusal(link, is_known ? status : NATS_CONNECTION_AUTH_FAILED,
                         is_known ? why : "its login or a certificate is not accepted");
    }
    /* Last: nothing of this thread touches the link afterwards. */
    pthread_mutex_lock(&link->lock);
    link->closed = true;
    link->connected = false;
    pthread_cond_broadcast(&link->closed_wake);
    pthread_mutex_unlock(&link->lock);
}

/* A login that was refused, a subject that is not allowed, a slow reader. */
static void link_on_error(natsConnection *connection, natsSubscription *subscription,
                          natsStatus status, void *data)
{
    struct fleet_link *link = data;
    const char *why = NULL;
    char error[LINK_ERROR_MAX];
    (void)subscription;
    if (status == NATS_SLOW_CONSUMER) {
        return; /* what was missed comes again */
    }
    (void)natsConnection_GetLastError(connection, &why);
    snprintf(error, sizeof error, "%.100s says: %.100s", link->url,
             why && *why ? why : natsStatus_GetText(status));
    link_set_trouble(link, error);
}

/* Start and end */

static int link_refuse(char *reterr, const char *key, const char *value)
{
    char reason[LINK_ERROR_MAX] = "";
    const char *error = nats_GetLastError(NULL);
    snprintf(reason, sizeof reason, "%s",
             error && *error ? link_without_place(error) : "it cannot be used");
    snprintf(reterr, CONFIG_ERROR_MAX, "fleet.%s: '%.200s': %.200s", key, value, reason);
    return -1;
}

/* A file that is named has to be there now; what is in it libnats says. */
static int link_need_file(char *reterr, const char *key, const char *path)
{
    if (!*path || access(path, R_OK) == 0) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "fleet.%s: '%.200s': it cannot be read", key, path);
    return -1;
}

static int link_set_files(struct fleet_link *link, const struct config *config, char *reterr)
{
    const char *credentials = config->fleet_credentials.text, *ca = config->fleet_tls_ca.text;
    const char *certificate = config->fleet_tls_certificate.text, *key = config->fleet_tls_key.text;
    if (link_need_file(reterr, "credentials", credentials) != 0 ||
        link_need_file(reterr, "tls_ca", ca) != 0 ||
        link_need_file(reterr, "tls_certificate", certificate) != 0 ||
        link_need_file(reterr, "tls_key", key) != 0) {
        return -1;
    }
    if (*credentials &&
        natsOptions_SetUserCredentialsFromFiles(link->options, credentials, NULL) != NATS_OK) {
        return link_refuse(reterr, "credentials", credentials);
    }
    if (*ca && natsOptions_LoadCATrustedCertificates(link->options, ca) != NATS_OK) {
        return link_refuse(reterr, "tls_ca", ca);
    }
    if (*certificate &&
        natsOptions_LoadCertificatesChain(link->options, certificate, key) != NATS_OK) {
        return link_refuse(reterr, "tls_certificate", certificate);
    }
    link->tls = *ca || *certificate || strstr(config->fleet_url.text, "tls://");
    if (link->tls && natsOptions_SetSecure(link->options, true) != NATS_OK) {
        return link_refuse(reterr, "url", link->url);
    }
    return 0;
}

static int link_set_servers(struct fleet_link *link, const struct config *config, char *reterr)
{
    char urls[CONFIG_TEXT_MAX + 1];
    const char *servers[CONFIG_SERVERS_MAX];
    char *rest = NULL;
    int count = 0;
    snprintf(urls, sizeof urls, "%s", config->fleet_url.text);
    for (char *url = strtok_r(urls, ", ", &rest); url && count < CONFIG_SERVERS_MAX;
         url = strtok_r(NULL, ", ", &rest)) {
        servers[count++] = url;
    }
    return count > 0 && natsOptions_SetServers(link->options, servers, count) == NATS_OK
               ? 0
               : link_refuse(reterr, "url", link->url);
}

static int link_set_options(struct fleet_link *link, const struct config *config)
{
    natsOptions *options = link->options;
    char name[2 * FLEET_NAME_MAX] = "attnd ";
    link_name(config, name + strlen(name), FLEET_NAME_MAX);
    bool ok = natsOptions_SetName(options, name) == NATS_OK &&
              natsOptions_SetTimeout(options, LINK_WAIT_MS) == NATS_OK &&
              natsOptions_SetWriteDeadline(options, LINK_WAIT_MS) == NATS_OK &&
              natsOptions_SetAllowReconnect(options, true) == NATS_OK &&
              natsOptions_SetMaxReconnect(options, -1) == NATS_OK &&
              natsOptions_SetReconnectWait(options, RECONNECT_WAIT_MS) == NATS_OK &&
              natsOptions_SetPingInterval(options, PING_MS) == NATS_OK &&
              natsOptions_SetMaxPingsOut(options, 2) == NATS_OK &&
              natsOptions_SetFailRequestsOnDisconnect(options, true) == NATS_OK &&
              natsOptions_SetNoEcho(options, true) == NATS_OK &&
              natsOptions_SetReconnectedCB(options, link_on_connected, link) == NATS_OK &&
              natsOptions_SetDisconnectedCB(options, link_on_disconnected, link) == NATS_OK &&
              natsOptions_SetClosedCB(options, link_on_closed, link) == NATS_OK &&
              natsOptions_SetErrorHandler(options, link_on_error, link) == NATS_OK;
    return ok ? 0 : -1;
}

int link_new(const struct config *config, const struct link_owner *owner,
             struct fleet_link **ret_link, char *reterr)
{
    struct fleet_link *link = calloc(1, sizeof *link);
    pthread_condattr_t attributes;
    char public[CONFIG_PUBLIC_MAX];
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the fleet: out of memory");
    if (!link) {
        return -1;
    }
    link->owner = *owner;
    link->stream_bytes = (int64_t)config->fleet_stream;
    link->stream_age_ns = (int64_t)(config->fleet_keep / 3);
    link->replicas = (int64_t)config->fleet_replicas;
    link->domains = config->fleet_domains.text;
    snprintf(link->url, sizeof link->url, "%s",
             config_public("fleet", "url", config->fleet_url.text, public));
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&link->closed_wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&link->lock, NULL);
    if (natsOptions_Create(&link->options) == NATS_OK && link_set_options(link, config) == 0 &&
        link_set_servers(link, config, reterr) == 0 && link_set_files(link, config, reterr) == 0) {
        *ret_link = link;
        return 0;
    }
    link_free(&link);
    return -1;
}

/* Frees the connection once nothing of it calls back any more. */
static void link_drop(struct fleet_link *link)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_PATIENCE_S;
    link->owner.lose(link->owner.data);
    pthread_mutex_lock(&link->lock);
    link->closing = true;
    bool closed = link->closed;
    pthread_mutex_unlock(&link->lock);
    if (!closed) {
        natsConnection_Close(link->connection);
    }
    pthread_mutex_lock(&link->lock);
    for (int rc = 0; !link->closed && rc == 0;) {
        rc = pthread_cond_timedwait(&link->closed_wake, &link->lock, &until);
    }
    link->closed = false;
    atomic_store(&link->closing, false);
    atomic_store(&link->connected, false);
    pthread_mutex_unlock(&link->lock);
    natsConnection_Destroy(link->connection);
    link->connection = NULL;
}

natsConnection *link_tend(struct fleet_link *link)
{
    uint64_t now = clock_monotonic_ns();
    pthread_mutex_lock(&link->lock);
    bool closed = link->closed;
    pthread_mutex_unlock(&link->lock);
    if (closed) {
        link_drop(link);
        link->retry_ns = now + RETRY_NS;
        link->background = false;
    }
    if (link->connection || now < link->retry_ns) {
        return link->connection;
    }
    link->retry_ns = now + RETRY_NS;
    natsConnection *connection = NULL;
    (void)natsOptions_SetRetryOnFailedConnect(link->options, link->background, link_on_connected,
                                              link);
    natsStatus status = natsConnection_Connect(&connection, link->options);
    if (status == NATS_OK) {
        link_set_error(link, true, "");
        link->connection = connection;
    } else if (status == NATS_NOT_YET_CONNECTED) {
        link->connection = connection; /* the try before has told why */
    } else {
        if (!link->background) {
            link->background = status == NATS_NO_SERVER || status == NATS_TIMEOUT;
            link->retry_ns -= link->background ? RETRY_NS : 0;
        }
        link_set_refusal(link, status, nats_GetLastError(NULL));
    }
    return link->connection;
}

/* The stream */

int link_say(struct fleet_link *link, const char *what, natsStatus status, jsErrCode code)
{
    const char *text = nats_GetLastError(NULL);
    char trouble[LINK_ERROR_MAX];
    if (status == NATS_OK) {
        return 0;
    }
    if (code == JSStorageResourcesExceededErr || code == JSInsufficientResourcesErr) {
        snprintf(trouble, sizeof trouble,
                 "the servers have no room for the stream " LINK_STREAM
                 ": give JetStream more, or lower fleet.stream");
    } else if (code == JSStreamReplicasNotSupportedErr) {
        snprintf(trouble, sizeof trouble, "fleet.replicas: %d: the cluster has fewer servers",
                 (int)link->replicas);
    } else if (code == JSNotEnabledErr || code == JSNotEnabledForAccountErr ||
               status == NATS_NO_RESPONDERS) {
        snprintf(trouble, sizeof trouble, "the servers have no JetStream: start them with -js");
    } else {
        snprintf(trouble, sizeof trouble, "the %s " LINK_STREAM " cannot be made: %.150s", what,
                 text && *text ? text : natsStatus_GetText(status));
    }
    link_set_trouble(link, trouble);
    return -1;
}

/* The streams of leaf nodes, from which this one takes. */
struct link_sources {
    char prefix[CONFIG_DOMAINS_MAX][CONFIG_DOMAIN_MAX + 16];
    jsExternalStream external[CONFIG_DOMAINS_MAX];
    jsStreamSource source[CONFIG_DOMAINS_MAX], *list[CONFIG_DOMAINS_MAX];
    int count;
};

const char *link_domain(const struct fleet_link *link)
{
    return link->domain;
}

bool link_takes_from(const struct fleet_link *link, const char *domain)
{
    size_t size;
    for (const char *one = link->domains; *one; one += size + (one[size] == ' ')) {
        size = strcspn(one, " ");
        if (strlen(domain) == size && memcmp(one, domain, size) == 0) {
            return true;
        }
    }
    return !*domain || !*link->domain || strcmp(domain, link->domain) == 0;
}

int link_make_stream(struct fleet_link *link, jsCtx *js)
{
    static const char *subjects[] = {LINK_PART_SUBJECTS};
    struct link_sources sources = {.count = 0};
    jsStreamConfig config;
    jsStreamInfo *info = NULL;
    jsAccountInfo *account = NULL;
    jsErrCode code = 0;
    /* Leaf nodes have a domain of their own. Where it may not be asked for, it is not known. */
    if (js_GetAccountInfo(&account, js, NULL, NULL) == NATS_OK) {
        snprintf(link->domain, sizeof link->domain, "%s", account->Domain ? account->Domain : "");
    }
    jsAccountInfo_Destroy(account);
    /* Adding one that is there and has a bound of bytes can fail. */
    natsStatus status = js_GetStreamInfo(&info, js, LINK_STREAM, NULL, &code);
    jsStreamInfo_Destroy(info);
    if (status == NATS_OK || code != JSStreamNotFoundErr) {
        return link_say(link, "stream", status, code);
    }
    jsStreamConfig_Init(&config);
    config.Name = LINK_STREAM;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    char text[CONFIG_TEXT_MAX], *rest = NULL;
    snprintf(text, sizeof text, "%s", link->domains);
    for (char *domain = strtok_r(text, " ", &rest); domain && sources.count < CONFIG_DOMAINS_MAX;
         domain = strtok_r(NULL, " ", &rest)) {
        int i = sources.count++;
        snprintf(sources.prefix[i], sizeof sources.prefix[i], "$JS.%.*s.API", CONFIG_DOMAIN_MAX,
                 domain);
        jsExternalStream_Init(&sources.external[i]);
        sources.external[i].APIPrefix = sources.prefix[i];
        sources.external[i].DeliverPrefix = ""; /* libnats 3.4.1 follows it */
        jsStreamSource_Init(&sources.source[i]);
        sources.source[i].Name = LINK_STREAM;
        sources.source[i].External = &sources.external[i];
        sources.list[i] = &sources.source[i];
    }
    config.Sources = sources.list;
    config.SourcesLen = sources.count;
    config.Storage = js_FileStorage;
    config.Discard = js_DiscardOld;
    config.Replicas = link->replicas;
    config.MaxBytes = link->stream_bytes;
    config.MaxAge = link->stream_age_ns;
    config.Duplicates = link->stream_age_ns < DUPLICATES_NS ? link->stream_age_ns : DUPLICATES_NS;
    code = 0;
    status = js_AddStream(NULL, js, &config, NULL, &code);
    if (code == JSStreamNameExistErr) {
        status = NATS_OK; /* another attnd was faster */
    }
    if (status == NATS_OK) {
        log_event(LOG_INFO, "fleet_stream_made", LOG_STR("stream", LINK_STREAM));
    }
    return link_say(link, "stream", status, code);
}

void link_free(struct fleet_link **link_p)
{
    struct fleet_link *link = *link_p;
    if (!link) {
        return;
    }
    if (link->connection) {
        link_drop(link);
    }
    natsOptions_Destroy(link->options);
    /* A thread of libnats may be in a callback still: it is the only user of the library. */
    (void)nats_CloseAndWait(1000L * CLOSE_PATIENCE_S);
    pthread_cond_destroy(&link->closed_wake);
    pthread_mutex_destroy(&link->lock);
    free(link);
    *link_p = NULL;
}
