// SPDX-License-Identifier: MIT
// The past of a run: all layers, and one head.
/* global d3 */
import { extent } from "./colors.js";
import { byLayer, layerName, note, number } from "./dom.js";
import { svg as newSvg } from "./figure.js";
import { meanOf } from "./heat_map.js";
import { drawMap } from "./map_view.js";

/** A line, and a dot at the window that is shown; null when there is nothing over time. */
export const sparkline = (values, at) => {
    const root = newSvg(300, 46, "over the run"),
        ok = values.filter(Number.isFinite);
    if (ok.length < 2) return null;
    const x = d3.scaleLinear([0, values.length - 1], [2, 298]),
        y = d3.scaleLinear(extent(ok), [42, 4]);
    root.append("path")
        .attr("class", "line")
        .attr(
            "d",
            d3
                .line()
                .defined(Number.isFinite)
                .x((_, i) => x(i))
                .y((v) => y(v))(values),
        );
    if (at !== null && Number.isFinite(values[at]))
        root.append("circle").attr("class", "dot").attr("r", 3.5).attr("cx", x(at)).attr("cy", y(values[at]));
    return root.node();
};

/** Each layer over the run, as the mean over its heads; a click calls `onPick(window)`. Returns how to mark a window. */
export function drawTimeMap(container, grid, { limits, onPick, metric }) {
    const rows = [...grid.layers.values()].sort(byLayer),
        names = rows.map(layerName),
        columns = grid.count;
    const values = new Float32Array(rows.length * columns);
    rows.forEach((row, r) => {
        const column = new Float32Array(row.heads);
        for (let w = 0; w < columns; w++) {
            for (let head = 0; head < row.heads; head++) column[head] = row.values[head * columns + w];
            values[r * columns + w] = meanOf(column);
        }
    });
    const tall = Math.max(6, Math.min(22, 460 / rows.length)),
        long = Math.max(...names.map((name) => name.length)) * 6.4 + 26;
    const node = drawMap(
        container,
        { rows: rows.length, columns, values, labels: null },
        {
            size: Math.max(160, (container.clientWidth || 900) - long - 78),
            height: rows.length * tall,
            range: limits,
            xName: grid.unit,
            yName: "",
            yNames: names,
            xText: (w) => grid.windows.last[w],
            name: "layers over time",
            onPick: (r, w) => onPick(w),
            describe: (r, w, x) =>
                `${names[r]}, ${grid.unit} ${grid.windows.last[w]}: ${metric.name} ${number(x)}, mean over heads`,
        },
    );
    const plot = node.querySelector("rect.missing"),
        step = plot.width.baseVal.value / columns;
    const mark = d3
        .select(plot.parentNode)
        .append("rect")
        .attr("class", "cursor")
        .attr("data-transient", "")
        .attr("width", Math.max(1, step))
        .attr("height", plot.height.baseVal.value);
    return (at) => mark.attr("visibility", at === null ? "hidden" : "visible").attr("x", (at ?? 0) * step);
}

/** Why there is nothing over time: no window has closed, or only one. */
export function whyNoTime(grid) {
    const epochs =
        "If this run sends no epochs (w.epoch_end()), set window.unit=step: windows then close by themselves.";
    if (!grid) return note(`No window has closed yet. One closes with each epoch by default. ${epochs}`);
    return note(
        `There is one window so far: ${grid.unit} ${grid.windows.last[0]}. `,
        grid.unit === "epoch" ? epochs : "The picture begins with the second.",
    );
}
