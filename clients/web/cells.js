// SPDX-License-Identifier: MIT
// The meaning of the cells of a map of weights: empty cells, the range of weights that the colours cover, and the pairs
// of tokens that stand out.
/* global d3 */
import { extent } from "./colors.js";

/** The colours can be spread over these: [value, text] of a picker. */
export const RANGES = [
    ["auto", "of most cells"],
    ["full", "up to the largest"],
    ["row", "of each row"],
];
/** This share of the visible cells have colours of their own; the cells above share the brightest. */
const SHARE = 0.99;

/** Whether a square map has no weight after its queries, where an answer does not say that it is causal. */
export function looksCausal({ rows, columns, values }) {
    if (rows !== columns || rows < 2) return false;
    for (let r = 0; r < rows; r++) for (let c = r + 1; c < columns; c++) if (values[r * columns + c] > 0) return false;
    return true;
}

/** Whether a causal mask hides a cell whole: its first key comes after its last query. */
function afterQuery({ causal, rows, columns, queries, keys, q_offset: offset = 0 }) {
    if (!causal) return () => false;
    return (r, c) => Math.floor((c * keys) / columns) > Math.floor(((r + 1) * queries) / rows) - 1 + offset;
}

/* Padding */

const padding = { isShown: false };

/** Whether padding is drawn like other cells: the same in all views, until it is set again. */
export const showsPadding = () => padding.isShown;
export const showPadding = (isShown) => void (padding.isShown = isShown);

/**
 * A number for each column, 1 where it is padding, as far as weights tell: at an end, and without weight in any of the
 * maps that `values` holds. A single column with weight is no sequence: it is a key that every query looks at. Few
 * queries of a causal map see its last keys, which may have no weight without being padding.
 */
function paddedColumns({ columns, values, causal }) {
    const isUsed = new Uint8Array(columns),
        padded = new Uint8Array(columns);
    if (causal) return padded;
    values.forEach((x, i) => {
        if (x > 0) isUsed[i % columns] = 1;
    });
    const first = isUsed.indexOf(1),
        last = isUsed.lastIndexOf(1);
    if (last > first) {
        padded.fill(1, 0, first);
        padded.fill(1, last + 1);
    }
    return padded;
}

/**
 * An answer with `padded`, which says of each column whether it is padding. Heads tell together: one alone may give all
 * its weight to few keys. `mean`: the map over all heads, where the answer has only some.
 */
export function withPadded(found, mean = null) {
    if (!found?.values) return found;
    const isLike = mean?.values && mean.columns === found.columns;
    return { ...found, padded: paddedColumns(isLike ? mean : found) };
}

/** Stands for a token of padding. */
const PAD = "[pad]";
const pads = (count) => Array(count).fill(PAD);

/**
 * An answer as it is shown: with the queries and keys of padding that its message had around those of the sample, when
 * padding is shown. attnd keeps no weights of these; they are cells without a number. Pooled maps stay as they are.
 */
export function asShown(found) {
    const { rows, columns, queries, keys, queries_sent: sent, keys_sent: all } = found ?? {},
        { first_query: top = 0, first_key: left = 0, site } = found ?? {};
    if (!padding.isShown || !(sent > rows || all > columns) || rows !== queries || columns !== keys) return found;
    const count = found.values.length / (rows * columns),
        values = new Float32Array(count * sent * all).fill(NaN);
    for (let i = 0; i < count * rows; i++) {
        const map = Math.floor(i / rows),
            to = (map * sent + top + (i % rows)) * all + left;
        values.set(found.values.subarray(i * columns, (i + 1) * columns), to);
    }
    const around = (texts, before, total) => texts && [...pads(before), ...texts, ...pads(Math.max(0, total - before - texts.length))];
    return {
        ...found,
        values,
        rows: sent,
        columns: all,
        queries: sent,
        keys: all,
        padded: undefined,
        q_offset: site === "cross" ? (found.q_offset ?? 0) : Math.max(0, (found.q_offset ?? 0) + left - top),
        labels: around(found.labels, left, all),
        q_labels: around(found.q_labels, top, sent),
    };
}

/** "2 queries and 16 keys of padding left out", or "". */
export function paddingText({ queries, keys, queries_sent: sent = queries, keys_sent: all = keys }) {
    const parts = [sent > queries ? `${sent - queries} queries` : "", all > keys ? `${all - keys} keys` : ""].filter(Boolean);
    return parts.length ? `${parts.join(" and ")} of padding left out` : "";
}

/** "pooled to 64 × 64", and where, unless that is attnd; or "". */
export function pooledText({ rows, columns, queries, keys, tier }) {
    if (!(rows < queries || columns < keys)) return "";
    return `pooled to ${rows} × ${columns}${tier === "rows" ? " by the training" : ""}`;
}

/* Cells */

/**
 * Tells of each cell whether it stands for nothing (1) or for a weight (0): no number, after its query, in a row without any
 * weight or in a column of padding. Where padding is shown rows and columns are as they came. Tables of other numbers have
 * no cells but those without a number.
 */
export function hiddenCells(map) {
    const { rows, columns, values } = map,
        isLater = afterQuery(map),
        hidden = new Uint8Array(rows * columns),
        inRow = new Uint8Array(rows);
    for (let i = 0; i < hidden.length; i++) {
        const r = Math.floor(i / columns),
            c = i % columns;
        hidden[i] = values[i] === null || !Number.isFinite(values[i]) || isLater(r, c) ? 1 : 0;
        if (!hidden[i] && values[i] !== 0) inRow[r] = 1;
    }
    if (map.stack && !padding.isShown) {
        const padded = map.padded ?? paddedColumns(map);
        for (let i = 0; i < hidden.length; i++) if (!inRow[Math.floor(i / columns)] || padded[i % columns]) hidden[i] = 1;
    }
    return hidden;
}

/** The largest weight of each row that has one. */
function rowPeaks({ rows, columns, values }, hidden) {
    const peaks = new Float64Array(rows).fill(-Infinity);
    for (let r = 0, i = 0; r < rows; r++)
        for (let c = 0; c < columns; c++, i++) if (!hidden[i] && values[i] > peaks[r]) peaks[r] = values[i];
    return peaks.filter((peak) => peak > -Infinity);
}

/** The weights that are not hidden. */
function visibleCells({ values }, hidden) {
    const visible = new (values instanceof Float32Array ? Float32Array : Float64Array)(values.length);
    let count = 0;
    for (let i = 0; i < values.length; i++) if (!hidden[i]) visible[count++] = values[i];
    return visible.subarray(0, count);
}

/**
 * The range of the colours: {low, high, most}; `most`, the largest weight, is above `high` where cells are clipped. The
 * first queries of a causal map have few keys and so large weights: with "auto" they do not darken all others, but the
 * largest weight of an ordinary row is always told apart.
 */
export function rangeOf(map, hidden, mode) {
    const visible = visibleCells(map, hidden),
        [low, high] = extent(visible);
    if (mode !== "auto" || visible.length < 4) return { low, high, most: high };
    const top = Math.max(d3.quantile(visible.sort(), SHARE), d3.median(rowPeaks(map, hidden)));
    return { low, high: top > low && top < 0.8 * high ? top : high, most: high };
}

/** Least and largest weight of each row. */
export function rowRanges({ rows, columns, values }, hidden) {
    return d3.range(rows).map((r) => {
        const from = r * columns;
        return extent(Array.from(values.slice(from, from + columns)).filter((_, c) => !hidden[from + c]));
    });
}

/**
 * The pairs that stand out: [{row, column, weight, times}], those first whose weight is the most times that of an even
 * spread over the keys which the query may see. A query that sees one key gives it everything, which says nothing.
 */
export function strongestPairs(map, count) {
    const { rows, columns, keys = columns, values } = map,
        hidden = hiddenCells(map),
        best = [];
    for (let row = 0; row < rows; row++) {
        const from = row * columns,
            seen = columns - d3.sum(hidden.subarray(from, from + columns));
        for (let i = from; i < from + columns; i++) {
            if (hidden[i] || !(values[i] > 0)) continue;
            const weight = (values[i] * keys) / columns,
                times = weight * seen;
            if (best.length === count && !(times > best[count - 1].times)) continue;
            const before = best.findIndex((pair) => pair.times < times);
            best.splice(before < 0 ? best.length : before, 0, { row, column: i - from, weight, times });
            if (best.length > count) best.pop();
        }
    }
    return best;
}

/** The last query that looks anywhere, and is not padding itself where keys of padding have no weight. */
export function lastQuery(map) {
    const hidden = hiddenCells(map),
        looks = (r) => d3.range(map.columns).some((c) => !hidden[r * map.columns + c]),
        isKey = (c) => d3.range(map.rows).some((r) => !hidden[r * map.columns + c]);
    const own = (r) => map.site !== "self" || map.rows !== map.columns || isKey(r);
    const queries = d3.range(map.rows).filter(looks);
    return d3.max(queries.filter(own)) ?? d3.max(queries) ?? map.rows - 1;
}
