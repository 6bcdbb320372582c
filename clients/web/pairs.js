// SPDX-License-Identifier: MIT
// The positions of a map that stand out, in words.
import { strongestPairs } from "./cells.js";
import { isolated, number, percent, visible } from "./dom.js";

/** Texts of the queries of a map by their positions; null without any. In self-attention they are the keys' tokens. */
export function queryLabels(map) {
    if (map.q_labels) return [...Array(map.q_offset ?? 0).fill(""), ...map.q_labels];
    return map.site === "cross" ? null : (map.labels ?? null);
}

/** Names the positions that a row or a column stands for: "3", "3 “the”", "12–15". */
function positions(i, count, total, offset, textOf) {
    const from = Math.floor((i * total) / count) + offset,
        to = Math.floor(((i + 1) * total) / count) - 1 + offset;
    if (from < to) return `${from}–${to}`;
    const text = textOf(from);
    return text === undefined || text === null ? String(from) : `${from} “${isolated(visible(text))}”`;
}

/** A query of a map by its row, and a key by its column. */
export const queryName = (map, row) =>
    positions(row, map.rows, map.queries ?? map.rows, map.q_offset ?? 0, (at) => queryLabels(map)?.[at]);
export const keyName = (map, column) =>
    positions(column, map.columns, map.keys ?? map.columns, 0, (at) => map.labels?.[at]);

/** The pairs of one of the maps in an answer that have the most weight over an even spread: {text, short} each. */
export function topPairs(found, index, count = 3) {
    const cells = found.rows * found.columns,
        map = { ...found, values: found.values.subarray(index * cells, (index + 1) * cells) };
    return strongestPairs(map, count).map((pair) => ({ text: pairText(map, pair), short: shortPair(map, pair) }));
}

/** "5 “cat” → 0: 42 %" */
export const shortPair = (map, { row, column, weight }) =>
    `${queryName(map, row)} → ${keyName(map, column)}: ${percent(weight)}`;

/** "query 5 “cat” → key 0: 42 %, 3.1 × an even spread" */
export const pairText = (map, { row, column, weight, times }) =>
    `query ${queryName(map, row)} → key ${keyName(map, column)}: ${percent(weight)}, ${number(Number(times.toPrecision(2)))} × an even spread`;
