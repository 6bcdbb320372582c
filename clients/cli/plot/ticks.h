/* SPDX-License-Identifier: MIT */
/* ticks: round numbers along an axis. Pure. */
#ifndef CLIENTS_CLI_PLOT_TICKS_H
#define CLIENTS_CLI_PLOT_TICKS_H

#include <stdbool.h>
#include <stdint.h>

#define TICKS_MAX     16
#define TICK_TEXT_MAX 24

struct ticks {
    double at[TICKS_MAX];
    uint32_t count;
    double step;   /* between two */
    bool powers;   /* of ten */
    bool digits;   /* or 2 and 5 times them, written out */
    bool exponent; /* written with one */
};

/* At most `most` (2 to TICKS_MAX) from low to high, low < high: 1, 2 or 5 times a power of ten
 * apart, at least `least_step` (0 = any). */
void ticks_linear(double low, double high, uint32_t most, double least_step,
                  struct ticks *ret_ticks);
/* Powers of ten from low to high, 0 < low < high; within few of them also twice and five times
 * them. */
void ticks_powers(double low, double high, uint32_t most, struct ticks *ret_ticks);

/* Leaves every second one out until there are at most so many, but one. */
void ticks_thin(struct ticks *ticks, uint32_t most);

void ticks_text(const struct ticks *ticks, uint32_t index, char ret_text[TICK_TEXT_MAX]);

#endif
