// SPDX-License-Identifier: MIT
// The range in which each head was while it was healthy, and the colour of a number by its distance from there.
import { distanceColors } from "./colors.js";
import { layerName } from "./dom.js";

/** Half of a range is at least this part of what the metric can be, and so many standard deviations. */
const LEAST = 0.05,
    DEVIATIONS = 3;
/** A distance of this part of what the metric can be has the full colour. */
const FAR = 0.4;
/** Windows that make a range. */
const WINDOWS = 2;

export class HealthyRanges {
    /** `grid` of a metric, whose numbers span `span`; `alerts`: all of the run. A head's range is that of the windows before the first of its own. */
    constructor({ grid, span: [low, high], alerts }) {
        this.span = high - low || 1;
        this.colors = distanceColors();
        this.layers = new Map();
        for (const [name, row] of grid?.layers ?? []) {
            const about = alerts.filter((one) => one.stack !== null && one.severity !== "info" && layerName(one) === name),
                ends = Array(row.heads).fill(grid.count);
            for (const { head, since } of about) {
                const first = grid.windows.step.findIndex((step) => step >= since.step);
                for (let i = 0; i < row.heads; i++) if (first >= 0 && (head === null || head === i)) ends[i] = Math.min(ends[i], first);
            }
            this.layers.set(name, ends.map((end, head) => this.rangeOf(row.values.subarray(head * grid.count, head * grid.count + end))));
        }
    }

    /** Whether there are windows enough for any. */
    get isKnown() {
        return [...this.layers.values()].some((heads) => heads.some(Boolean));
    }

    /** [low, high] of the later half of the windows, as heads find their place first; null when they are too few. */
    rangeOf(values) {
        let sum = 0,
            squares = 0,
            count = 0;
        for (let i = values.length >> 1; i < values.length; i++) {
            if (!Number.isFinite(values[i])) continue;
            sum += values[i];
            squares += values[i] * values[i];
            count++;
        }
        if (count < WINDOWS) return null;
        const mean = sum / count,
            deviation = Math.sqrt(Math.max(0, squares / count - mean * mean)),
            half = Math.max(LEAST * this.span, DEVIATIONS * deviation);
        return [mean - half, mean + half];
    }

    /** A function of a number and a head of a layer: its colour. */
    colorsOf(layer) {
        const ranges = this.layers.get(layerName(layer));
        return (x, head) => {
            const [low, high] = ranges?.[head] ?? [x, x],
                beyond = x < low ? x - low : x > high ? x - high : 0;
            return this.colors(Math.max(-1, Math.min(1, beyond / (FAR * this.span))));
        };
    }
}
