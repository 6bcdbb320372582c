// SPDX-License-Identifier: MIT
// A metric of all heads of a layer over the run: their mean, how far apart they are, and each of a few heads.
/* global d3 */
import { chartMarks } from "./chart_marks.js";
import { ZoomChart } from "./chart_zoom.js";
import { contextOfGrid } from "./context.js";
import { layerName, note } from "./dom.js";
import { figure } from "./figure.js";
import { meanOf } from "./heat_map.js";
import { unitOf } from "./pickers.js";

/** With more heads only the band between them is drawn. */
const LINES = 16;

/** `statistic(numbers)` over the finite numbers of the heads, window by window. */
function overHeads(row, count, statistic) {
    return d3.range(count).map((w) => {
        const numbers = d3.range(row.heads).map((head) => row.values[head * count + w]);
        return statistic(numbers.filter(Number.isFinite)) ?? NaN;
    });
}

export class LayerSeries {
    /** `onPick(last)`: a window was chosen. */
    constructor(layer, metric, onPick) {
        Object.assign(this, { layer, metric });
        this.frame = figure(`${metric.name} of the heads`, metric.description, "wide series").about(
            layerName(layer),
            metric.name,
        );
        this.chart = new ZoomChart(this.frame.body, { onPick });
        this.frame.querySelector(".tools").before(this.chart.tools);
    }

    /** The grid of the metric; `last`: the window that is shown, null for the newest; `rules` in force, `alerts` of the run. */
    draw(grid, last, { rules, alerts }) {
        const row = grid?.layers.get(layerName(this.layer));
        if (!row) return this.frame.body.replaceChildren(note(`No window has ${this.metric.name} yet.`));
        const { metric } = this,
            over = (statistic) => overHeads(row, grid.count, statistic),
            quantile = (p) => (numbers) => d3.quantile(numbers.sort(d3.ascending), p),
            isFew = row.heads <= LINES;
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
            ...contextOfGrid(grid),
        });
    }
}
