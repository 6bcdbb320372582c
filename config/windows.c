/* SPDX-License-Identifier: MIT */
/* windows: the rules by which runs are cut into windows. */
#include "config/config.h"

uint64_t config_window_part(uint64_t length, uint64_t every)
{
    uint64_t a = length, b = every;
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static bool is_auto(const struct config *config)
{
    return config->window_unit == CONFIG_UNIT_AUTO;
}

uint32_t config_window_count(const struct config *config)
{
    return 1 + is_auto(config) + config->window_also.count;
}

struct config_window config_window(const struct config *config, uint32_t index,
                                   uint64_t capture_every)
{
    uint32_t of_unit = 1 + is_auto(config);
    if (index >= of_unit) {
        return config->window_also.window[index - of_unit];
    }
    if (!is_auto(config)) {
        return (struct config_window){config->window_unit, config->window_length,
                                      config->window_every};
    }
    if (index > 0) {
        return (struct config_window){CONFIG_UNIT_EPOCH, 1, 1};
    }
    uint64_t most = CONFIG_WINDOW_UNITS_MAX / CONFIG_WINDOW_CAPTURES;
    uint64_t every = capture_every > most ? most : capture_every;
    uint64_t length = CONFIG_WINDOW_CAPTURES * (every > 0 ? every : 1);
    return (struct config_window){CONFIG_UNIT_STEP, length, length};
}

static bool is_same_window(const struct config_window *a, const struct config_window *b)
{
    return a->unit == b->unit && a->length == b->length && a->every == b->every;
}

uint32_t config_windows_of(const struct config *config, const struct config_cut *cut,
                           struct config_window ret_windows[CONFIG_WINDOW_RULES_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < config_window_count(config); i++) {
        struct config_window window = config_window(config, i, cut->capture_every);
        if (i == 0 && cut->own.length > 0) {
            window = cut->own;
        }
        if (i == 0 || !is_same_window(&window, &ret_windows[0])) {
            ret_windows[count++] = window;
        }
    }
    return count;
}

int config_window_find(const struct config *config, int unit, uint64_t length, uint64_t every)
{
    for (uint32_t i = 0; i < config_window_count(config); i++) {
        struct config_window one = config_window(config, i, length / CONFIG_WINDOW_CAPTURES);
        if ((int)one.unit == unit && one.length == length && one.every == every) {
            return (int)i;
        }
    }
    return -1;
}

uint64_t config_capture_every(const struct config *config, const char *job, uint64_t own_every)
{
    uint64_t of_all = config->plan_every, of_job = config_for_job(config, job)->plan_every;
    return own_every > 0 && of_job == of_all ? own_every : of_job;
}
