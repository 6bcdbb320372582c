/* SPDX-License-Identifier: MIT */
/* A webhook: one libcurl transfer at a time, driven by a multi handle, because that is what another
 * thread can wake. Nothing is written to the log but what curl says of errors: URLs of webhooks
 * hold secrets. */
#include "daemon/alerts/notify_internal.h"

#include "daemon/base/clock.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS           UINT64_C(1000000)
#define SECOND       (1000 * MS)
#define BACKOFF_LAST (300 * SECOND)

struct webhook {
    CURL *easy;
    CURLM *multi;
    struct curl_slist *headers;
    uint32_t retries;
    char error[CURL_ERROR_SIZE];
};

/* The body of the answer is ignored. */
static size_t ignore(char *data, size_t size, size_t count, void *user)
{
    (void)data;
    (void)user;
    return size * count;
}

/* Options that must not fail. */
static bool notify_webhook_set_options(struct webhook *webhook, const char *url,
                                       uint64_t timeout_ns)
{
    CURL *easy = webhook->easy;
    CURLcode code = curl_easy_setopt(easy, CURLOPT_URL, url);
    code |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, webhook->headers);
    code |= curl_easy_setopt(easy, CURLOPT_USERAGENT, "attnd/" ATTND_VERSION);
    code |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    code |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    code |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / MS));
    code |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, webhook->error);
    code |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
    code |= curl_easy_setopt(easy, CURLOPT_POST, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
    code |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    code |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    /* a name that is being looked up is not waited for when attnd stops */
    code |= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
    return code == CURLE_OK;
}

int webhook_new(const char *url, uint64_t timeout_ns, uint32_t retries,
                struct webhook **ret_webhook, char reterr_reason[NOTIFY_REASON_MAX])
{
    struct webhook *webhook = calloc(1, sizeof *webhook);
    if (webhook && curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(webhook);
        webhook = NULL;
    }
    if (!webhook) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "out of memory");
        return -1;
    }
    webhook->retries = retries;
    webhook->easy = curl_easy_init();
    webhook->multi = curl_multi_init();
    webhook->headers = curl_slist_append(NULL, "Content-Type: application/json");
    CURLU *parts = curl_url();
    bool url_fine = parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK;
    curl_url_cleanup(parts);
    if (url_fine && webhook->easy && webhook->multi && webhook->headers &&
        notify_webhook_set_options(webhook, url, timeout_ns)) {
        *ret_webhook = webhook;
        return 0;
    }
    snprintf(reterr_reason, NOTIFY_REASON_MAX, "%s", url_fine ? "out of memory" : "not a URL");
    webhook_free(&webhook);
    return -1;
}

void webhook_free(struct webhook **webhook)
{
    if (!*webhook) {
        return;
    }
    curl_multi_cleanup((*webhook)->multi);
    curl_easy_cleanup((*webhook)->easy);
    curl_slist_free_all((*webhook)->headers);
    free(*webhook);
    *webhook = NULL;
    curl_global_cleanup();
}

void webhook_wake(struct webhook *webhook)
{
    curl_multi_wakeup(webhook->multi);
}

/* One try */

/* Until the transfer has ended, or it is time to give up: CURLE_ABORTED_BY_CALLBACK. */
static CURLcode drive(CURLM *multi, struct notify_stop *stop)
{
    int running = 1;
    while (curl_multi_perform(multi, &running) == CURLM_OK) {
        uint64_t now = clock_monotonic_ns();
        uint64_t until = notify_stop_before(stop, now + SECOND);
        if (running == 0) {
            /* The result of the transfer that has ended. */
            int left;
            for (CURLMsg *message; (message = curl_multi_info_read(multi, &left));) {
                if (message->msg == CURLMSG_DONE) {
                    return message->data.result;
                }
            }
            return CURLE_FAILED_INIT;
        }
        if (until <= now) {
            return CURLE_ABORTED_BY_CALLBACK;
        }
        curl_multi_poll(multi, NULL, 0, (int)((until - now) / MS + 1), NULL);
    }
    return CURLE_OUT_OF_MEMORY;
}

enum attempt { ATTEMPT_DONE, ATTEMPT_AGAIN, ATTEMPT_GIVE_UP };

static enum attempt notify_webhook_judge(struct webhook *webhook, CURLcode code,
                                         char reterr_reason[NOTIFY_REASON_MAX])
{
    long status = 0;
    if (code == CURLE_ABORTED_BY_CALLBACK) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "given up: attnd stops");
        return ATTEMPT_GIVE_UP;
    }
    if (code != CURLE_OK) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "%.200s",
                 *webhook->error ? webhook->error : curl_easy_strerror(code));
        return ATTEMPT_AGAIN;
    }
    curl_easy_getinfo(webhook->easy, CURLINFO_RESPONSE_CODE, &status);
    snprintf(reterr_reason, NOTIFY_REASON_MAX, "HTTP status %ld", status);
    if (status >= 200 && status < 300) {
        return ATTEMPT_DONE;
    }
    return status == 429 || status >= 500 ? ATTEMPT_AGAIN : ATTEMPT_GIVE_UP;
}

static enum attempt attempt(struct webhook *webhook, struct notify_stop *stop,
                            char reterr_reason[NOTIFY_REASON_MAX])
{
    webhook->error[0] = '\0';
    if (curl_multi_add_handle(webhook->multi, webhook->easy) != CURLM_OK) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "out of memory");
        return ATTEMPT_AGAIN;
    }
    CURLcode code = drive(webhook->multi, stop);
    enum attempt result = notify_webhook_judge(webhook, code, reterr_reason);
    curl_multi_remove_handle(webhook->multi, webhook->easy);
    return result;
}

int webhook_post(struct webhook *webhook, const char *line, struct notify_stop *stop,
                 char reterr_reason[NOTIFY_REASON_MAX])
{
    uint64_t backoff = SECOND;
    curl_easy_setopt(webhook->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(line));
    curl_easy_setopt(webhook->easy, CURLOPT_POSTFIELDS, line);
    for (uint32_t tries = 0;; tries++) {
        enum attempt result = attempt(webhook, stop, reterr_reason);
        if (result == ATTEMPT_DONE) {
            return 0;
        }
        if (result == ATTEMPT_GIVE_UP || tries == webhook->retries ||
            !notify_stop_wait(stop, clock_monotonic_ns() + backoff)) {
            return -1;
        }
        backoff = backoff * 2 < BACKOFF_LAST ? backoff * 2 : BACKOFF_LAST;
    }
}
