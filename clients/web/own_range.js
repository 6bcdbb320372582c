// SPDX-License-Identifier: MIT
// The range in which each head was while it was healthy, and the colour of a number by its distance from there.
import { ofAllHeads } from "./alerts_past.js";
import { distanceColors } from "./colors.js";
import { layerName } from "./dom.js";

/** A range goes so far beyond the numbers of its windows, as a part of what the metric can be. */
const MARGIN = 0.05;
/** A distance of this part of what the metric can be has the full colour. */
const FAR = 0.4;
/** Windows that make a range: at least, and at most. */
const FEWEST = 2,
    WINDOWS = 4;
/** Windows before an onset that are left out, as a head falls for a while before an alert says so. */
const LEAD = 2;

export class HealthyRanges {
    /** `grid` of a metric, whose numbers span `span`; `alerts`: all of the run. A head's range is that of the last windows before the first of its own. */
    constructor({ grid, span: [low, high], alerts }) {
        this.span = high - low || 1;
        this.colors = distanceColors();
        this.layers = new Map();
        const ofAll = ofAllHeads(alerts).map((one) => ({ ...one, head: null }));
        for (const [name, row] of grid?.layers ?? []) {
            const about = alerts.filter((one) => one.stack !== null && one.severity !== "info" && layerName(one) === name).concat(ofAll),
                ends = Array(row.heads).fill(grid.count);
            for (const { head, since } of about) {
                const first = grid.windows.step.findIndex((step) => step >= since[1]);
                const end = Math.max(first - LEAD, Math.min(first, FEWEST));
                for (let i = 0; i < row.heads; i++) if (first >= 0 && (head === null || head === i)) ends[i] = Math.min(ends[i], end);
            }
            this.layers.set(name, ends.map((end, head) => this.rangeOf(row.values.subarray(head * grid.count, head * grid.count + end))));
        }
    }

    /** Whether there are windows enough for any. */
    get isKnown() {
        return [...this.layers.values()].some((heads) => heads.some(Boolean));
    }

    /** [low, high] of the last of these windows; null when they are too few. */
    rangeOf(values) {
        const last = values.subarray(Math.max(0, values.length - WINDOWS)).filter(Number.isFinite),
            margin = MARGIN * this.span;
        return last.length < FEWEST ? null : [Math.min(...last) - margin, Math.max(...last) + margin];
    }

    /** A function of a number and a head of a layer: its colour, null while the head has no range. */
    colorsOf(layer) {
        const ranges = this.layers.get(layerName(layer));
        return (x, head) => {
            if (!ranges?.[head]) return null;
            const [low, high] = ranges[head],
                beyond = x < low ? x - low : x > high ? x - high : 0;
            return this.colors(Math.max(-1, Math.min(1, beyond / (FAR * this.span))));
        };
    }
}
