/* SPDX-License-Identifier: MIT */
#include "daemon/keeper.h"

#include "daemon/base/directory.h"
#include "daemon/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct keeper {
    struct config *config;
    uv_timer_t timer;
    int fd;            /* the directory, locked; -1 = none */
    uint64_t failures; /* to have it again */
    void (*look)(void *data);
    void *data;
};

static bool keeper_chose(const char *directory)
{
    char first[ADDRESS_MAX], last[ADDRESS_MAX];
    address_default(geteuid(), getenv("XDG_RUNTIME_DIR"), first);
    address_default(geteuid(), NULL, last); /* where clients look last */
    return strcmp(directory, first) == 0 || strcmp(directory, last) == 0;
}

/* Takes the directory of the config; where it cannot be made, the last place. The sentence is about
 * the first of them. */
static int keeper_take(struct config *config, char *reterr)
{
    char last[ADDRESS_MAX], error[CONFIG_ERROR_MAX];
    bool chosen = keeper_chose(config->directory);
    int fd = directory_take(config->directory, chosen, reterr);
    address_default(geteuid(), NULL, last);
    if (fd != -ENOENT || !chosen || strcmp(config->directory, last) == 0) {
        return fd;
    }
    fd = directory_take(last, true, error);
    if (fd < 0) {
        return -1;
    }
    log_event(LOG_WARNING, "directory_moved", LOG_STR("directory", last),
              LOG_STR("reason", reterr));
    config_move(config, last, error); /* it is short enough */
    return fd;
}

static bool keeper_has_directory(struct keeper *keeper)
{
    char error[CONFIG_ERROR_MAX];
    if (keeper->fd < 0 || directory_is_here(keeper->config->directory, keeper->fd)) {
        return true;
    }
    int fd = keeper_take(keeper->config, error);
    if (fd < 0) {
        if (log_is_round(keeper->failures++)) {
            log_event(LOG_WARNING, "directory_lost", LOG_STR("reason", error));
        }
        return false;
    }
    close(keeper->fd);
    keeper->fd = fd;
    keeper->failures = 0;
    log_event(LOG_WARNING, "directory_taken", LOG_STR("directory", keeper->config->directory));
    return true;
}

static void keeper_on_timer(uv_timer_t *timer)
{
    struct keeper *keeper = timer->data;
    if (keeper_has_directory(keeper)) {
        keeper->look(keeper->data);
    }
}

int keeper_new(uv_loop_t *loop, struct config *config, struct keeper **ret_keeper, char *reterr)
{
    int fd = *config->directory ? keeper_take(config, reterr) : -1;
    if (*config->directory && fd < 0) {
        return -1;
    }
    struct keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start: out of memory");
        close(fd);
        return -1;
    }
    keeper->config = config;
    keeper->fd = fd;
    uv_timer_init(loop, &keeper->timer);
    keeper->timer.data = keeper;
    *ret_keeper = keeper;
    return 0;
}

void keeper_start(struct keeper *keeper, void (*look)(void *data), void *data)
{
    keeper->look = look;
    keeper->data = data;
    uv_timer_start(&keeper->timer, keeper_on_timer, KEEPER_MS, KEEPER_MS);
}

void keeper_close(struct keeper *keeper)
{
    if (keeper && !uv_is_closing((uv_handle_t *)&keeper->timer)) {
        uv_close((uv_handle_t *)&keeper->timer, NULL);
    }
}

void keeper_free(struct keeper **keeper)
{
    if (!*keeper) {
        return;
    }
    if ((*keeper)->fd >= 0) {
        close((*keeper)->fd);
    }
    free(*keeper);
    *keeper = NULL;
}
