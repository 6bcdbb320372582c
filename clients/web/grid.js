// SPDX-License-Identifier: MIT
// One metric of all layers and heads over a run, in at most so many windows; and moments of a run as they stand in the
// address: "epoch12", "step340". Which windows a grid has changes as a run grows; the unit with which one ends stays.
/* global d3 */
import { floats, get, gridQuestion, integers } from "./api.js";
import { loadLog } from "./context.js";
import { layerName } from "./dom.js";
import { isOfMatrices } from "./store.js";

const FORM = /^(epoch|step|second)(\d{1,15})$/;

/** Names the moment at which a window of a grid ends. */
export const momentOf = (grid, window) => `${grid.unit}${grid.windows.last[window]}`;

/** The window that a moment is in; null when the text is no moment of the run, or there is no grid. */
export function windowAt(grid, text) {
    const [, unit, digits] = FORM.exec(text ?? "") ?? [],
        ends = grid && (unit === grid.unit ? grid.windows.last : grid.windows[unit]);
    if (!ends) return null;
    const window = d3.bisectLeft(ends, Number(digits));
    return window < grid.count ? window : null;
}

/** Where the window of a grid ends, in words: "step 55", "epoch 3 · step 120". */
export const momentText = ({ unit, windows }, window) =>
    `${unit} ${windows.last[window]}${unit === "step" ? "" : ` · step ${windows.step[window]}`}`;

/** Without the windows in which no head has a number: matrices come now and then. Null when that is all of them. */
function withNumbers(grid) {
    const rows = [...grid.layers.values()],
        numbers = (row, w) => d3.range(row.heads).map((head) => row.values[head * grid.count + w]),
        keep = d3.range(grid.count).filter((w) => rows.some((row) => numbers(row, w).some(Number.isFinite))),
        pick = (list) => keep.map((w) => list[w]);
    const kept = (row) => ({
        ...row,
        values: new Float32Array(d3.range(row.heads).flatMap((head) => keep.map((w) => row.values[head * grid.count + w]))),
    });
    if (keep.length === 0) return null;
    return {
        ...grid,
        count: keep.length,
        windows: Object.fromEntries(Object.entries(grid.windows).map(([name, list]) => [name, pick(list)])),
        layers: new Map([...grid.layers].map(([name, row]) => [name, kept(row)])),
    };
}

/** The answer to a gridQuestion(); null when there is no window of it. */
export async function loadGrid(what) {
    const grid = await get(...gridQuestion(what));
    if (!grid) return null;
    const windows = {
        last: integers(grid.windows.last),
        step: integers(grid.windows.step),
        epoch: integers(grid.windows.epoch),
    };
    const layers = new Map(grid.layers.map((layer) => [layerName(layer), { ...layer, values: floats(layer.values) }]));
    const all = { ...grid, windows, layers, count: windows.last.length };
    return isOfMatrices(what.metric) ? withNumbers(all) : all;
}

/** [grid, log]: loadGrid's with `log`, null without any window, and what the run has logged, which there may be then, too. */
export async function loadLoggedGrid(what) {
    const [grid, log] = await Promise.all([loadGrid(what), loadLog(what.job, what.run)]);
    return [grid && { ...grid, log }, log];
}

/** The values of a head over the run, or with the head null of all as one, `pooled`; [] when the grid has not the layer. */
export function seriesOf(grid, layer, head, pooled = d3.mean) {
    const row = grid?.layers.get(layerName(layer));
    if (!row) return [];
    if (head !== null) return Array.from(row.values.subarray(head * grid.count, (head + 1) * grid.count));
    return d3.range(grid.count).map((window) => pooled(valuesAt(grid, layer, window).filter(Number.isFinite)) ?? NaN);
}

/** The values of a layer's heads in one window; null when the grid has not the layer. */
export function valuesAt(grid, layer, window) {
    const row = grid?.layers.get(layerName(layer));
    return row ? Array.from({ length: row.heads }, (_, head) => row.values[head * grid.count + window]) : null;
}
