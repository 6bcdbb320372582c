/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/ticks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Where plain digits end. */
#define PLAIN_LEAST 1e-4
#define PLAIN_MOST  1e6

/* The smallest of 1, 2, 5 times a power of ten that is at least this. */
static double round_up(double step)
{
    double power = pow(10, floor(log10(step))), times = step / power;
    double nice = times <= 1.0000001 ? 1 : times <= 2.0000001 ? 2 : times <= 5.0000001 ? 5 : 10;
    return nice * power;
}

void ticks_linear(double low, double high, uint32_t most, double least_step,
                  struct ticks *ret_ticks)
{
    struct ticks ticks = {.count = 0};
    most = most < 2 ? 2 : most > TICKS_MAX ? TICKS_MAX : most;
    ticks.step = round_up(fmax((high - low) / most, least_step));
    double first = ceil(low / ticks.step - 1e-6);
    for (uint32_t i = 0; i < TICKS_MAX; i++) {
        double at = (first + i) * ticks.step;
        if (at > high + 1e-6 * (high - low))
            break;
        ticks.at[ticks.count++] = at;
    }
    double largest = fmax(fabs(low), fabs(high));
    ticks.exponent = largest > 0 && (largest < PLAIN_LEAST * 10 || largest >= PLAIN_MOST);
    *ret_ticks = ticks;
}

void ticks_thin(struct ticks *ticks, uint32_t most)
{
    while (ticks->count > 1 && ticks->count > most) {
        ticks->count = (ticks->count + 1) / 2;
        for (uint32_t i = 0; i < ticks->count; i++)
            ticks->at[i] = ticks->at[2 * i];
    }
}

/* Powers of ten apart of which 2 and 5 times are numbers, too. */
#define DECADES_FEW 2.5

static void add_between(double low, double high, struct ticks *ticks)
{
    static const double times[] = {1, 2, 5};
    for (double power = floor(log10(low)); power <= log10(high); power++)
        for (int i = 0; i < 3; i++) {
            double at = times[i] * pow(10, power);
            if (at >= low && at <= high && ticks->count < TICKS_MAX)
                ticks->at[ticks->count++] = at;
        }
}

void ticks_powers(double low, double high, uint32_t most, struct ticks *ret_ticks)
{
    struct ticks ticks = {.powers = true};
    double first = ceil(log10(low) - 1e-9), last = floor(log10(high) + 1e-9);
    most = most < 2 ? 2 : most > TICKS_MAX ? TICKS_MAX : most;
    ticks.step = fmax(1, ceil((last - first + 1) / most));
    ticks.digits = log10(high / low) < DECADES_FEW;
    if (ticks.digits)
        add_between(low, high, &ticks);
    for (double power = last; !ticks.digits && power >= first && ticks.count < most;
         power -= ticks.step)
        ticks.at[ticks.count++] = pow(10, power);
    *ret_ticks = ticks;
}

/* 10 to a whole number, in small raised digits. */
static void power_text(int power, char ret_text[TICK_TEXT_MAX])
{
    static const char *const raised[] = {
        "\xe2\x81\xb0", "\xc2\xb9",     "\xc2\xb2",     "\xc2\xb3",     "\xe2\x81\xb4",
        "\xe2\x81\xb5", "\xe2\x81\xb6", "\xe2\x81\xb7", "\xe2\x81\xb8", "\xe2\x81\xb9"};
    char digits[12];
    snprintf(digits, sizeof(digits), "%d", power < 0 ? -power : power);
    strcpy(ret_text, power < 0 ? "10\xe2\x81\xbb" : "10");
    for (const char *digit = digits; *digit; digit++)
        strcat(ret_text, raised[*digit - '0']);
}

/* Digits behind the point that tell multiples of a step apart. */
static int decimals_of(double step)
{
    int decimals = (int)-floor(log10(step) + 1e-9);
    return decimals < 0 ? 0 : decimals;
}

void ticks_text(const struct ticks *ticks, uint32_t index, char ret_text[TICK_TEXT_MAX])
{
    double at = ticks->at[index];
    if (!ticks->powers && fabs(at) < ticks->step / 1000)
        at = 0;
    if (ticks->digits)
        snprintf(ret_text, TICK_TEXT_MAX, "%g", at);
    else if (ticks->powers)
        power_text((int)lround(log10(at)), ret_text);
    else if (ticks->exponent && at != 0)
        snprintf(ret_text, TICK_TEXT_MAX, "%.3g", at);
    else
        snprintf(ret_text, TICK_TEXT_MAX, "%.*f", ticks->exponent ? 0 : decimals_of(ticks->step),
                 at);
    if (ret_text[0] == '-') { /* a minus is as wide as a plus */
        memmove(ret_text + 3, ret_text + 1, strlen(ret_text));
        memcpy(ret_text, "\xe2\x88\x92", 3);
    }
}
