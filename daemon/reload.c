/* SPDX-License-Identifier: MIT */
#include "daemon/reload.h"

#include "daemon/args.h"
#include "daemon/base/log.h"

#include <stdio.h>
#include <stdlib.h>

void reload_clear(struct reload *reload)
{
    if (reload->owned) {
        config_clear(&reload->plans);
    }
    reload->owned = false;
}

static void log_difference(void *data, const char *section, const char *name)
{
    char key[128];
    (void)data;
    snprintf(key, sizeof key, "%s%s%s", section, name ? "." : "", name ? name : "");
    log_event(LOG_WARNING, "config_needs_restart", LOG_STR("key", key));
}

/* Takes *next over when the plans could be made of it. */
static bool reload_put_in_force(struct reload *reload, struct config *next, struct plans *plans)
{
    if (plans_configure(plans, next) != 0) {
        log_event(LOG_ERROR, "config_refused", LOG_STR("detail", "out of memory"));
        config_clear(next);
        return false;
    }
    config_each_difference(&reload->given, next, log_difference, NULL);
    reload_clear(reload);
    reload->plans = *next;
    reload->owned = true;
    log_event(LOG_INFO, "config_read", LOG_NUM("plans", plans_count(plans)));
    return true;
}

bool reload_read(struct reload *reload, struct plans *plans)
{
    char error[CONFIG_ERROR_MAX];
    struct config *next = calloc(1, sizeof *next);
    bool changed = false;
    if (!next) {
        log_event(LOG_ERROR, "config_refused", LOG_STR("detail", "out of memory"));
    } else if (args_read_again(reload->argc, reload->argv, next, error) != 0) {
        log_event(LOG_ERROR, "config_refused", LOG_STR("detail", error));
    } else {
        changed = reload_put_in_force(reload, next, plans);
    }
    free(next);
    return changed;
}
