// SPDX-License-Identifier: MIT
// Colour maps, as functions of [0, 1] and as tables of 256 RGBA values. viridis and cividis can be told apart by people
// who are colour-blind, and in grey. hot and cool are the usual piecewise linear ramps.
/* global d3 */

const clamp = (x) => Math.max(0, Math.min(1, x));
const ramp = (x) => Math.round(255 * clamp(x));
const hot = (t) => `rgb(${ramp(t / 0.365079)}, ${ramp((t - 0.365079) / 0.380953)}, ${ramp((t - 0.746032) / 0.253968)})`;
const cool = (t) => `rgb(${ramp(t)}, ${ramp(1 - t)}, 255)`;

export const COLOR_MAPS = {
    viridis: d3.interpolateViridis,
    cividis: d3.interpolateCividis,
    plasma: d3.interpolatePlasma,
    inferno: d3.interpolateInferno,
    magma: d3.interpolateMagma,
    hot,
    cool,
};
/** Colours of distances from what is healthy, a function of [-1, 1]: pale at 0, blue below, orange above. */
export function distanceColors() {
    const middle = getComputedStyle(document.documentElement).getPropertyValue("--pale").trim(),
        [below, above] = ["#2b6cb0", "#c05a12"].map((end) => d3.interpolateLab(middle, end));
    return (t) => (t === 0 ? middle : t < 0 ? below(-t) : above(t)); // most are there
}

/** A colour map over a range. */
export const scaled = (interpolate, [low, high]) => (x) => interpolate(Math.max(0, Math.min(1, (x - low) / (high - low))));

/** Colours of differences: blue below, red above. */
export const diverging = (t) => d3.interpolateRdBu(1 - t);

const tables = new Map();
export function table(interpolate) {
    if (!tables.has(interpolate)) {
        const rgba = new Uint8ClampedArray(4 * 256);
        for (let i = 0; i < 256; i++) {
            const { r, g, b } = d3.rgb(interpolate(i / 255));
            rgba.set([r, g, b, 255], 4 * i);
        }
        tables.set(interpolate, rgba);
    }
    return tables.get(interpolate);
}

/** Least and largest of the finite numbers; [0, 1] without any. */
export function extent(values) {
    let low = Infinity,
        high = -Infinity;
    for (const x of values) {
        if (x === null || !Number.isFinite(x)) continue;
        if (x < low) low = x;
        if (x > high) high = x;
    }
    return low > high ? [0, 1] : low === high ? [low, low + (Math.abs(low) || 1) * 1e-6] : [low, high];
}
