/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/chart_scale.h"

#include <math.h>

#define POWERS_APART 2.5
#define HEADROOM     0.05 /* of the values' span, above and below */

struct span {
    double low, high;
};

static void join(struct span *span, double value)
{
    span->low = value < span->low ? value : span->low;
    span->high = value > span->high ? value : span->high;
}

static void join_y(const struct chart *chart, struct span *span, double value)
{
    if (isfinite(value) && (!chart->powers || value > 0))
        join(span, value);
}

static void join_all(const struct chart *chart, struct span *x, struct span *y)
{
    for (uint32_t i = 0; i < chart->line_count; i++)
        for (uint32_t at = 0; at < chart->lines[i].count; at++) {
            join(x, chart->lines[i].x[at]);
            join_y(chart, y, chart->lines[i].y[at]);
        }
    for (uint32_t i = 0; i < chart->band_count; i++)
        for (uint32_t at = 0; at < chart->bands[i].count; at++) {
            join_y(chart, y, chart->bands[i].low[at]);
            join_y(chart, y, chart->bands[i].high[at]);
        }
    for (uint32_t i = 0; chart->bars && i < chart->cells.count; i++)
        join_y(chart, y, chart->bars[i]);
}

/* Numbers that are almost alike are not drawn as if they were far apart. */
static void widen_powers(struct span *y)
{
    double times = y->high < POWERS_APART * y->low ? POWERS_APART : 1.3;
    y->high *= times;
    y->low /= times;
    if (y->low < y->high * 1e-8) /* rounding errors */
        y->low = y->high * 1e-8;
}

static void widen(const struct chart *chart, struct span *y)
{
    if (chart->powers) {
        widen_powers(y);
        return;
    }
    double room = HEADROOM * (y->high - y->low);
    if (room == 0)
        room = fmax(fabs(y->low) * 0.1, 0.05);
    bool zero = chart->from_zero && y->low >= 0;
    y->low = zero ? 0 : y->low - room;
    y->high += room;
}

int chart_scales(const struct chart *chart, struct axis_scale *ret_x, struct axis_scale *ret_y)
{
    struct span x = {INFINITY, -INFINITY}, y = {INFINITY, -INFINITY};
    join_all(chart, &x, &y);
    if (y.low > y.high)
        return CHART_NO_NUMBER;
    widen(chart, &y);
    if (!isnan(chart->low) && (!chart->powers || chart->low > 0))
        y.low = chart->low;
    if (!isnan(chart->high))
        y.high = chart->high;
    if (!(y.high > y.low))
        y.high = y.low + fmax(fabs(y.low), 1);
    if (!(x.high > x.low)) {
        x.low = chart->bars ? 0 : x.low - 0.5;
        x.high = chart->bars ? 1 : x.high + 0.5;
    }
    *ret_x = (struct axis_scale){x.low, x.high, false};
    *ret_y = (struct axis_scale){y.low, y.high, chart->powers};
    return 0;
}
