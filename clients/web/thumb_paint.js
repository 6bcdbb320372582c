// SPDX-License-Identifier: MIT
// Thumbnails of maps as pixels, and the scale that those of a layer share. Each function takes a millisecond or so: they
// are called while people scroll.
import { showsPadding } from "./cells.js";
import { colorRange, givenLimits, scaleOf } from "./map_scale.js";

const BINS = 512;
/** This share of the cells with a weight have colours of their own. */
const SHARE = 0.99;

/** The range [0, high, most] that most cells of numbers are in, by counting them in bins. */
function spread(values, mode) {
    let most = 0,
        count = 0;
    for (const x of values) {
        if (!(x > 0) || x === Infinity) continue;
        count++;
        if (x > most) most = x;
    }
    if (most === 0) return [0, 1, 1];
    if (mode === "full" || count < 4) return [0, most, most];
    const bins = new Uint32Array(BINS);
    for (const x of values) if (x > 0 && x !== Infinity) bins[Math.min(BINS - 1, Math.floor((x / most) * BINS))]++;
    let above = count * (1 - SHARE),
        at = BINS - 1;
    while (at > 0 && above >= bins[at]) above -= bins[at--];
    const high = ((at + 1) / BINS) * most;
    return [0, high < 0.8 * most ? high : most, most];
}

/** The scale [low, high, most] of all maps of an answer; null when each has its own. */
export function scaleOfThumbs(found) {
    const given = givenLimits();
    if (given) return [...given, given[1]];
    return scaleOf() === "map" ? null : spread(found.values, colorRange());
}

/** Whether a causal mask hides a cell whole, or it is in a row without any weight or in a column of padding. */
function hides({ causal, rows, columns, queries, keys, padded, q_offset: offset = 0 }, values) {
    const last = Array.from({ length: rows }, (_, r) => Math.floor(((r + 1) * queries) / rows) - 1 + offset),
        first = Array.from({ length: columns }, (_, c) => Math.floor((c * keys) / columns)),
        inRow = new Uint8Array(rows),
        isLater = (r, c) => causal && first[c] > last[r];
    if (showsPadding()) return isLater;
    for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) if (values[i] > 0) inRow[r] = 1;
    return (r, c) => !inRow[r] || Boolean(padded?.[c]) || isLater(r, c);
}

/** Which of `cells` is drawn at each of `side` px. */
const cellAt = (cells, side) => Uint16Array.from({ length: side }, (_, px) => Math.floor((px * cells) / side));

/** One map into the pixels, at x. Cells without a number, and hidden ones, stay clear. */
function paintMap(pixels, map, { values, x, side, width, range, words, rowOf, columnOf }) {
    const { columns } = map,
        isHidden = hides(map, values),
        [low, high] = range,
        share = high > low ? 255.999 / (high - low) : 0;
    const line = new Uint32Array(side);
    let drawn = -1;
    for (let py = 0; py < side; py++) {
        const r = rowOf[py];
        if (r !== drawn)
            for (let px = 0; px < side; px++) {
                const c = columnOf[px],
                    value = values[r * columns + c];
                line[px] =
                    !Number.isFinite(value) || isHidden(r, c)
                        ? 0
                        : words[Math.max(0, Math.min(255, Math.floor((value - low) * share)))];
            }
        drawn = r;
        pixels.set(line, py * width + x);
    }
}

/** The maps of a tile, beside one another: `first`, `count` of the answer's; `scale` of all, or null. */
export function paint(canvas, found, { first, count }, { side, gap, scale, colors }) {
    const cells = found.rows * found.columns,
        width = count * (side + gap),
        words = new Uint32Array(colors.buffer, colors.byteOffset, 256);
    canvas.width = width;
    canvas.height = side;
    const context = canvas.getContext("2d"),
        image = context.createImageData(width, side),
        pixels = new Uint32Array(image.data.buffer),
        rowOf = cellAt(found.rows, side),
        columnOf = cellAt(found.columns, side);
    for (let i = 0; i < count; i++) {
        const values = found.values.subarray((first + i) * cells, (first + i + 1) * cells),
            range = scale ?? spread(values, colorRange());
        paintMap(pixels, found, { values, x: i * (side + gap), side, width, range, words, rowOf, columnOf });
    }
    context.putImageData(image, 0, 0);
}
