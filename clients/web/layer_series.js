// SPDX-License-Identifier: MIT
// A metric of all heads of a layer over the run: their mean, how far apart they are, and each of a few heads.
/* global d3 */
import { find } from "./api.js";
import { chartMarks } from "./chart_marks.js";
import { ZoomChart } from "./chart_zoom.js";
import { contextOfGrid } from "./context.js";
import { layerName, note } from "./dom.js";
import { figure } from "./figure.js";
import { loadGrid, valuesAt } from "./grid.js";
import { meanOf } from "./heat_map.js";
import { unitOf } from "./pickers.js";
import { isSampled, plusMinus } from "./run_text.js";

/** With more heads only the band between them is drawn. */
const LINES = 16;

/** `statistic(numbers)` over the finite numbers of the heads, window by window. */
function overHeads(row, count, statistic) {
    return d3.range(count).map((w) => {
        const numbers = d3.range(row.heads).map((head) => row.values[head * count + w]);
        return statistic(numbers.filter(Number.isFinite)) ?? NaN;
    });
}

/**
 * How exact the means of the heads are where their rows are a sample, by the end of the window: the largest of their
 * standard errors, at most. It bounds that of the mean of the heads as well, which does not average out: they share rows.
 */
async function loadErrors({ job, run }, { stack, layer, site }, metric) {
    const what = { job, run, stack, layer, site, metric: metric.name },
        newest = metric.per === "row" ? await find("history", { ...what, statistics: "count", limit: 1 }).catch(() => null) : null;
    if (!isSampled(newest)) return new Map();
    const load = (statistic) => loadGrid({ ...what, statistic }).catch(() => null),
        [std, count] = await Promise.all(["std", "count"].map(load)),
        errors = new Map();
    for (const [w, last] of std?.windows.last.entries() ?? []) {
        const rows = valuesAt(count, what, count?.windows.last.indexOf(last) ?? -1) ?? [],
            deviations = valuesAt(std, what, w) ?? [],
            ofHeads = deviations.map((one, head) => one / Math.sqrt(rows[head])).filter((_, head) => rows[head] > 0);
        if (ofHeads.length && ofHeads.every(Number.isFinite)) errors.set(last, d3.max(ofHeads));
    }
    return errors;
}

export class LayerSeries {
    /** `onPick(last)`: a window was chosen. */
    constructor(layer, metric, onPick) {
        Object.assign(this, { layer, metric, errors: new Map() });
        this.frame = figure(`${metric.name} of the heads`, metric.description, "wide series").about(
            layerName(layer),
            metric.name,
        );
        this.chart = new ZoomChart(this.frame.body, { onPick });
        this.frame.querySelector(".tools").before(this.chart.tools);
    }

    /** Learns how exact the means are, of which the chart says then. */
    async load(run) {
        this.errors = await loadErrors(run, this.layer, this.metric);
    }

    /** The grid of the metric; `last`: the window that is shown, null for the newest; `rules` in force, `alerts` of the run. */
    draw(grid, last, { rules, alerts }) {
        const row = grid?.layers.get(layerName(this.layer));
        if (!row) return this.frame.body.replaceChildren(note(`No window has ${this.metric.name} yet.`));
        const { metric } = this,
            over = (statistic) => overHeads(row, grid.count, statistic),
            quantile = (p) => (numbers) => d3.quantile(numbers.sort(d3.ascending), p),
            isFew = row.heads <= LINES,
            context = contextOfGrid(grid),
            sayError = (last) =>
                this.errors.has(last) ? [`each head and their mean ${plusMinus(this.errors.get(last))} (standard error, at most)`] : [];
        const heads = d3.range(isFew ? row.heads : 0).map((head) => ({
            name: `head ${head}`,
            values: Array.from(row.values.subarray(head * grid.count, (head + 1) * grid.count)),
            class: "line one",
            quiet: true,
        }));
        this.chart.at = last;
        this.chart.draw({
            x: grid.windows.last,
            unit: grid.unit,
            yName: unitOf(metric),
            domain: metric.domain,
            name: `${metric.name} of the heads over the run`,
            lines: [...heads, { name: "mean of the heads", values: over(meanOf), class: "line" }],
            bands: [
                { name: isFew ? "least to largest head; a thin line for each" : "least to largest head", ends: ["least", "largest"], low: over(d3.min), high: over(d3.max), class: "band light" },
                { name: "p10 to p90 of the heads", ends: ["p10", "p90"], low: over(quantile(0.1)), high: over(quantile(0.9)), class: "band" },
            ].slice(0, isFew ? 1 : 2),
            ...chartMarks({ rules, alerts, metric, layer: this.layer, series: grid.windows }),
            ...context,
            say: (last) => [...sayError(last), ...(context.say?.(last) ?? [])],
        });
    }
}
