/* SPDX-License-Identifier: MIT */
/* Settings that a judge decides itself: its sockets, and everything that would make the verdict
 * depend on the machine, or reach beyond it. Spectra have no budget unless the file gives them one,
 * so that the same recording gets the same verdict everywhere. */
#include "clients/cli/recording/judge.h"

#include "daemon/daemon.h"
#include "daemon/base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const sockets[] = {"ingest", "publish", "control", "tap"};
/* A socket's path has at most 107 bytes. */
enum { PARENT_MAX = 107 - (sizeof("/attnctl-XXXXXX/publish") - 1) };
enum { SOCKETS = sizeof sockets / sizeof sockets[0] };

/* Keys that the file does not decide. */
static const char *const fixed[] = {
    "history.enabled=false",
    "http.enabled=false",
    "alerts.enabled=true",
    "alerts.command=",
    "alerts.webhook=",
    "alerts.per_window=100000",
    "publish.send_queue=1000000",
    "shutdown.timeout=1h",
    "limits.idle=7d",
    "log.level=error",
};

static int set_all(struct config *config, char *reterr)
{
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (config_set(config, fixed[i], reterr) != 0) {
            return -1;
        }
    }
    return 0;
}

static int judge_check(const struct config *config, const char *path, char *reterr)
{
    char error[CONFIG_ERROR_MAX];
    if (config_check(config, error) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "%.200s: %.800s", path, error);
        return -1;
    }
    if (config->window_unit != CONFIG_UNIT_SECOND) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX,
             "%.200s: window.unit: 'second': a recording is judged faster than it was recorded "
             "(valid: epoch, step)",
             path);
    return -1;
}

int judge_configure(const char *path, struct config *ret_config, char *reterr)
{
    struct config config;
    config_defaults(&config);
    if (config_set(&config, "metrics.spectrum_budget=0s", reterr) == 0 &&
        (!path || config_load(&config, path, reterr) == 0) && set_all(&config, reterr) == 0 &&
        (!path || judge_check(&config, path, reterr) == 0)) {
        *ret_config = config;
        return 0;
    }
    config_clear(&config);
    return -1;
}

/* Its directory ---------------------------------------------------------------------------------
 */

/* $TMPDIR, unless the path of a socket there would be too long for the system. */
static const char *parent_directory(void)
{
    const char *parent = getenv("TMPDIR");
    return parent && *parent && strlen(parent) <= PARENT_MAX ? parent : "/tmp";
}

static int judge_make_directory(struct judge *judge, char *reterr)
{
    const char *parent = parent_directory();
    snprintf(judge->directory, sizeof judge->directory, "%s/attnctl-XXXXXX", parent);
    if (mkdtemp(judge->directory)) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX,
             "cannot make a directory in %s: %s; choose another with TMPDIR", parent,
             strerror(errno));
    return -1;
}

static void judge_remove_directory(const struct judge *judge)
{
    for (int i = 0; i < SOCKETS; i++) {
        char path[ENDPOINT_MAX + 16];
        snprintf(path, sizeof path, "%s/%s", judge->directory, sockets[i]);
        unlink(path); /* ZeroMQ has done so, as a rule */
    }
    rmdir(judge->directory);
}

static int place_sockets(struct judge *judge, char *reterr)
{
    for (int i = 0; i < SOCKETS; i++) {
        char assignment[ENDPOINT_MAX + 64];
        snprintf(assignment, sizeof assignment, "%s.endpoint=ipc://%s/%s", sockets[i],
                 judge->directory, sockets[i]);
        if (config_set(&judge->config, assignment, reterr) != 0) {
            return -1;
        }
    }
    return 0;
}

/* Its thread -----------------------------------------------------------------------------------
 */

static void *recording_judge_run(void *data)
{
    pthread_setname_np(pthread_self(), "attnctl-judge");
    daemon_run(data);
    return NULL;
}

/* Signals are the command's business: the thread starts with all of them blocked. */
static int judge_start_thread(struct judge *judge)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&judge->thread, NULL, recording_judge_run, judge->daemon);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static int start_daemon(struct judge *judge, char *reterr)
{
    if (place_sockets(judge, reterr) != 0) {
        return -1;
    }
    log_setup(LOG_ERROR, false);
    if (daemon_new(&judge->config, NULL, &judge->daemon, reterr) != 0) {
        return -1;
    }
    int rc = judge_start_thread(judge);
    if (rc == 0) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot start a thread: %s", strerror(rc));
    daemon_free(&judge->daemon);
    return -1;
}

int judge_start(struct config *config, struct judge *ret_judge, char *reterr)
{
    struct judge *judge = ret_judge;
    *judge = (struct judge){.config = *config};
    if (judge_make_directory(judge, reterr) != 0) {
        config_clear(&judge->config);
        return -1;
    }
    if (start_daemon(judge, reterr) == 0) {
        return 0;
    }
    judge_remove_directory(judge);
    config_clear(&judge->config);
    return -1;
}

void judge_stop(struct judge *judge)
{
    daemon_stop(judge->daemon);
    pthread_join(judge->thread, NULL);
    daemon_free(&judge->daemon);
    judge_remove_directory(judge);
    config_clear(&judge->config);
}
