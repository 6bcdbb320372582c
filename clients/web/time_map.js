// SPDX-License-Identifier: MIT
// The past of a run: all layers, with the onsets of their alerts.
/* global d3 */
import { windowOfStep } from "./chart_marks.js";
import { byLayer, layerName, note, number } from "./dom.js";
import { meanOf } from "./heat_map.js";
import { drawMap } from "./map_view.js";

/** Rows that are lower than this many px do not all have their names. */
const LINE = 11;

/** Where alerts began: of a row of the picture (-1: of the run) and a window, the names of their rules. */
function beginnings(grid, names, alerts) {
    const places = new Map();
    for (const alert of alerts) {
        const row = alert.stack === null ? -1 : names.indexOf(layerName(alert)),
            window = windowOfStep(grid.windows.step, alert.since.step);
        if (row < 0 && alert.stack !== null) continue;
        const key = `${row} ${window}`,
            place = places.get(key) ?? { row, window, rules: new Set(), severity: alert.severity };
        if (alert.severity !== "info") place.severity = alert.severity;
        place.rules.add(alert.rule);
        places.set(key, place);
    }
    return places;
}

/** An onset is a triangle on its cell; of an alert of the run a line through all layers. */
function drawOnsets(plot, places, { step, tall, height }) {
    for (const { row, window, severity } of places.values()) {
        const x = (window + 0.5) * step,
            size = Math.max(3, Math.min(5, tall / 2.2));
        plot.append("path")
            .attr("class", `onset ${severity}`)
            .attr("d", row < 0 ? `M${x},0V${height}` : `M${x - size},${(row + 0.5) * tall - size}h${2 * size}l${-size},${1.8 * size}z`);
    }
}

/** Each layer over the run, as the mean over its heads, and where `alerts` began; a click calls `onPick(window)`. Returns
 * how to mark a window. */
export function drawTimeMap(container, grid, { limits, onPick, metric, alerts }) {
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
        long = Math.max(...names.map((name) => name.length)) * 6.4 + 26,
        every = Math.ceil(LINE / tall),
        places = beginnings(grid, names, alerts);
    const began = (r, w) => [...(places.get(`${r} ${w}`)?.rules ?? [])].map((rule) => `\n▼ ${rule} began`).join("");
    const node = drawMap(
        container,
        { rows: rows.length, columns, values, labels: null },
        {
            size: Math.max(160, (container.clientWidth || 900) - long - 78),
            height: rows.length * tall,
            range: limits,
            xName: grid.unit,
            yName: "",
            yNames: names.map((name, r) => (r % every ? "" : name)),
            xText: (w) => grid.windows.last[w],
            name: "layers over time",
            onPick: (r, w) => onPick(w),
            describe: (r, w, x) =>
                `${names[r]}, ${grid.unit} ${grid.windows.last[w]}: ${metric.name} ${number(x)}, mean over heads${began(r, w)}`,
        },
    );
    const plot = node.querySelector("rect.missing"),
        step = plot.width.baseVal.value / columns,
        height = plot.height.baseVal.value;
    drawOnsets(d3.select(plot.parentNode), places, { step, tall: height / rows.length, height });
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
    if (!grid) return note("No window has closed yet. One closes with 16 captures by default (window.unit).");
    return note(
        `There is one window so far: ${grid.unit} ${grid.windows.last[0]}. `,
        grid.unit === "epoch"
            ? "If this run sends no epochs (w.epoch_end()), leave window.unit as it is by default: auto."
            : "The picture begins with the second.",
    );
}
