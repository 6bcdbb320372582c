// SPDX-License-Identifier: MIT
// Series over the windows of a run: lines, bands, a baseline, and marks of what happened; and a small line of one head.
/* global d3 */
import { extent } from "./colors.js";
import { h, hideTooltip, number, refill, say, showTooltip } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";

const finite = (x) => x !== null && x !== undefined && Number.isFinite(x);
const RIGHT = 14,
    TOP = 10,
    BOTTOM = 34;
/** Px of a digit on an axis, and of the axis' name beside them. */
const DIGIT = 6.4,
    NAME = 26;

/** A bound farther from the numbers than so many times their spread is not drawn, only named: it would flatten them. */
const FAR = 4;

/** The bounds that stand on the axis between numbers of this extent. */
const boundsNear = (bounds, [low, high], domain) =>
    bounds.filter(({ value }) => {
        const spread = Math.max(high - low, Math.abs(high) * 0.1);
        return domain || (value > low - FAR * spread && value < high + FAR * spread);
    });

/** The range of an axis of values: it covers all numbers, the bounds that are near them, and nothing that cannot be. */
export function valueDomain({ lines, bands = [], baseline = null, domain, bounds }) {
    const numbers = lines
        .flatMap((line) => line.values)
        .concat(bands.flatMap((band) => [...band.low, ...band.high]))
        .concat(baseline ? [baseline.mean - baseline.std, baseline.mean + baseline.std] : [])
        .filter(finite);
    if (numbers.length === 0) return [0, 1];
    const near = boundsNear(bounds, d3.extent(numbers), domain),
        all = [...numbers, ...near.map(({ value }) => value)],
        low = d3.min(all),
        high = d3.max(all),
        room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
    const nice = d3
        .scaleLinear([low - room, high + room], [0, 1])
        .nice(5)
        .domain();
    return domain ? [Math.max(domain[0], nice[0]), Math.min(domain[1], nice[1])] : nice;
}

function swatch(line) {
    const root = newSvg(22, 10, "").attr("aria-hidden", "true");
    if (line.band) root.append("rect").attr("class", line.class).attr("width", 22).attr("height", 10);
    else root.append("line").attr("class", line.class).attr("x2", 22).attr("y1", 5).attr("y2", 5);
    return h("span", {}, root.node(), line.name);
}

/** Px that an axis on the left takes: its ticks' texts with its name beside them. */
export const leftRoom = (scale, count) =>
    NAME + DIGIT * Math.max(3, ...scale.ticks(count).map((t) => number(t).length));

/** Whole numbers to write below an axis: both ends, when there is no room for others. */
function wholeTicks(scale, count) {
    const ticks = scale.ticks(count).filter(Number.isInteger);
    return ticks.length > 1 ? ticks : [...new Set(scale.domain().map(Math.round))];
}

/** Scales of the chart: {xs, ys, left}. The y scale's ticks say how much room is left for the x scale. */
function scalesOf({ x, span, room = 0, lines, bands, baseline, bounds, domain, width, height }) {
    const ys = d3.scaleLinear(valueDomain({ lines, bands, baseline, bounds, domain }), [height - BOTTOM, TOP]).clamp(true),
        left = Math.max(room, leftRoom(ys, 5));
    const all = span ? [...span, x[0], x[x.length - 1]] : x,
        [first, last] = d3.extent(all),
        ends = first < last ? [first, last] : [first - 1, first + 1];
    return { left, ys, xs: d3.scaleLinear(ends, [left, width - RIGHT]) };
}

/** The name of an axis on the left, beside its ticks. */
export function nameLeft(root, middle, text) {
    put(root, "text", { class: "soft", transform: `translate(11,${middle}) rotate(-90)`, "text-anchor": "middle" }, text);
}

function drawAxes(root, { xs, ys, left }, { width, height, unit, yName }) {
    const ticks = wholeTicks(xs, Math.floor(width / 90));
    root.append("g")
        .attr("transform", `translate(0,${height - BOTTOM})`)
        .call(d3.axisBottom(xs).tickValues(ticks).tickFormat(String));
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(ys).ticks(5).tickFormat(number));
    put(root, "text", { class: "soft", x: (left + width - RIGHT) / 2, y: height - 3, "text-anchor": "middle" }, unit);
    nameLeft(root, (TOP + height - BOTTOM) / 2, yName);
}

function drawBaseline(root, { ys, left }, { mean, std }, width) {
    if (finite(std) && std > 0)
        put(root, "rect", { class: "baseline-band", x: left, width: width - RIGHT - left, y: ys(mean + std), height: Math.max(1, ys(mean - std) - ys(mean + std)) });
    put(root, "line", { class: "baseline", x1: left, x2: width - RIGHT, y1: ys(mean), y2: ys(mean) });
}

/** A line at the bound of a rule, where it is on the axis. */
export function drawBound(root, { ys, left }, { value, name }, width) {
    const [low, high] = ys.domain();
    if (value < low || value > high) return;
    put(root, "line", { class: "threshold", x1: left, x2: width - RIGHT, y1: ys(value), y2: ys(value) })
        .append("title")
        .text(name);
}

/** Windows farther apart than so many times those on either side have a gap between them. */
const APART = 3;

/** Indices of windows in pieces without a gap: what was while attnd or its job was away is not known, and not drawn. */
export function piecesOf(x) {
    const far = d3.pairs(x, (a, b) => b - a),
        begins = far.flatMap((by, i) => (far.length > 1 && by > APART * Math.max(far[i - 1] ?? 0, far[i + 1] ?? 0) ? [i + 1] : [])),
        ends = [...begins, x.length];
    return [0, ...begins].map((from, i) => d3.range(from, ends[i]));
}

/** The path of a generator over indices, piece by piece. */
const pathOf = (shape, x) => piecesOf(x).map((piece) => shape(piece) ?? "").join("");

function drawBand(root, { xs, ys }, band, x) {
    const area = d3
        .area()
        .defined((i) => finite(band.low[i]) && finite(band.high[i]))
        .x((i) => xs(x[i]))
        .y0((i) => ys(band.low[i]))
        .y1((i) => ys(band.high[i]));
    root.append("path").attr("class", band.class).attr("d", pathOf(area, x));
}

/** A line, and a ring round each number that no line leads to or from. */
function drawLine(root, { xs, ys }, { values, x, class: name }) {
    const line = d3
        .line()
        .defined((i) => finite(values[i]))
        .x((i) => xs(x[i]))
        .y((i) => ys(values[i]));
    root.append("path").attr("class", name).attr("d", pathOf(line, x));
    for (const piece of piecesOf(x))
        piece.forEach((i, k) => {
            if (!finite(values[i]) || finite(values[piece[k - 1]]) || finite(values[piece[k + 1]])) return;
            root.append("circle").attr("class", `${name} alone`).attr("r", 3.5).attr("cx", xs(x[i])).attr("cy", ys(values[i]));
        });
}

function drawEvent(root, at, event, bottom) {
    put(root, "line", { class: event.class, x1: at, x2: at, y1: TOP, y2: bottom })
        .append("title")
        .text(event.name);
    put(root, "text", { class: "over", transform: `translate(${at + 4},${TOP + 4}) rotate(90)` }, event.label ?? event.name);
}

/** Puts the series at a place of the axis into words; one that has no window there is left out. */
function describer({ x, lines, bands, unit, say: sayMore }) {
    const at = lines.map((line) => new Map(line.x.map((place, i) => [place, line.values[i]])));
    return (i) => {
        const ofLines = lines.flatMap((line, k) =>
            at[k].has(x[i]) ? [`${line.name} ${number(at[k].get(x[i]))}`] : [],
        );
        const ofBands = bands.flatMap(({ ends, low, high }) => [
            `${ends[0]} ${number(low[i])}`,
            `${ends[1]} ${number(high[i])}`,
        ]);
        return `${unit} ${x[i]}: ${[...ofLines, ...ofBands, ...(sayMore?.(x[i]) ?? [])].join(", ")}`;
    };
}

/** A rule that goes from place to place, by the pointer or by keys, and says what is there. */
function listen(root, { xs }, { x, width, height }, describe) {
    const rule = root.append("line").attr("class", "rule").attr("data-transient", "");
    rule.attr("y1", TOP)
        .attr("y2", height - BOTTOM)
        .attr("visibility", "hidden");
    let at = x.length - 1;
    function moveTo(i) {
        at = Math.max(0, Math.min(x.length - 1, i));
        rule.attr("visibility", "visible").attr("x1", xs(x[at])).attr("x2", xs(x[at]));
    }
    function point({ clientX, clientY }) {
        const box = root.node().getBoundingClientRect();
        moveTo(nearest(x, xs.invert(((clientX - box.left) * width) / box.width)));
        showTooltip(describe(at), clientX, clientY);
    }
    function step(key) {
        const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[key];
        if (!by) return;
        d3.event.preventDefault();
        moveTo(at + by);
        const box = rule.node().getBoundingClientRect();
        showTooltip(describe(at), box.left, box.top);
        say(describe(at));
    }
    root.attr("tabindex", 0)
        .on("pointermove", () => point(d3.event))
        .on("pointerleave", () => {
            hideTooltip();
            rule.attr("visibility", "hidden");
        })
        .on("keydown", () => step(d3.event.key))
        .on("blur", hideTooltip);
    return () => x[at];
}

/** The place of the nearest of numbers in ascending order. */
export function nearest(sorted, value) {
    const i = Math.max(1, Math.min(sorted.length - 1, d3.bisectLeft(sorted, value)));
    return sorted.length > 1 && value - sorted[i - 1] > sorted[i] - value ? i : i - 1;
}

/** Names lines, bands and bounds. */
export function legendOf({ lines = [], bands = [], baseline = null, bounds }, { ys }) {
    const parts = [...bands.map((band) => ({ ...band, band: true })), ...lines].filter((part) => !part.quiet),
        [low, high] = ys.domain();
    if (baseline) parts.push({ name: baseline.name, class: "baseline" });
    for (const { value, name } of bounds)
        parts.push({ name: value < low || value > high ? `${name} (off the chart)` : name, class: "threshold" });
    return h("div", { class: "legend" }, parts.map(swatch));
}

/**
 * Draws into `container`. `x`: the last unit of each window; `lines`: {name, values, class, x (its own windows, instead),
 * quiet (true: not in the legend)};
 * `bands`: {name, ends: [name, name], low, high, class}; `domain`: what y can be, or null; `baseline`: {mean, std, name} or
 * null; `bounds`: {value, name} of rules; `events`: {x, name, label (shorter), class}; `unit` of x, `yName`; `height`; of
 * context.js: `span` (what of the axis is shown at least), `room` (px on the left, at least), `over({root, xs, left})`
 * (draws above), `say(x)` (more words about a place).
 *
 * Returns {root, xs, top, bottom, place}: the <svg>, its scale of x, the px between which the lines are, and a function
 * that says at which x the pointer or the keys are.
 */
export function drawChart(container, options) {
    const what = {
        bands: [],
        bounds: [],
        events: [],
        unit: "step",
        yName: "",
        domain: null,
        height: 260,
        name: "chart",
        ...options,
    };
    what.width = Math.max(320, container.clientWidth || 640);
    what.lines = what.lines.map((line) => ({ x: what.x, ...line }));
    what.x ??= d3.merge(what.lines.map((line) => line.x));
    what.x = [...new Set(what.x)].sort((a, b) => a - b);
    what.baseline = finite(what.baseline?.mean) ? what.baseline : null;
    const { width, height } = what,
        root = newSvg(width, height, what.name),
        scales = scalesOf(what);
    drawAxes(root, scales, what);
    if (what.baseline) drawBaseline(root, scales, what.baseline, width);
    for (const bound of what.bounds) drawBound(root, scales, bound, width);
    for (const band of what.bands) drawBand(root, scales, band, what.x);
    for (const line of what.lines) drawLine(root, scales, line);
    for (const event of what.events) {
        const at = scales.xs(event.x);
        if (at >= scales.left - 1 && at <= width - RIGHT + 1) drawEvent(root, at, event, height - BOTTOM);
    }
    what.over?.({ root, ...scales });
    const place = listen(root, scales, what, describer(what));
    refill(container, root.node(), legendOf(what, scales));
    return { root, xs: scales.xs, top: TOP, bottom: height - BOTTOM, place };
}

/**
 * A small line of one head over the run: an <svg>, or null when there is nothing over time. `at`: the window that has a dot, or null; `bound`: a number on the
 * axis, or null; `onset`: the window from which the line is that of trouble, or null; `domain` of the axis, or null: its own.
 */
export function sparkline(values, { at = null, bound = null, onset = null, domain = null, width = 300, height = 46 } = {}) {
    const root = newSvg(width, height, "over the run"),
        ok = values.filter(Number.isFinite);
    if (ok.length < 2) return null;
    const x = d3.scaleLinear([0, values.length - 1], [2, width - 4]),
        y = d3.scaleLinear(domain ?? extent(bound === null ? ok : [...ok, bound]), [height - 4, 4]).clamp(true);
    const line = d3
        .line()
        .defined(finite)
        .x((_, i) => x(i))
        .y((v) => y(v));
    if (bound !== null)
        put(root, "line", { class: "threshold", x1: 2, x2: width - 4, y1: y(bound), y2: y(bound) });
    root.append("path").attr("class", "line").attr("d", line(values));
    const since = (v, i) => (i >= onset ? v : NaN);
    if (onset !== null) root.append("path").attr("class", "line bad").attr("d", line(values.map(since)));
    if (at !== null && Number.isFinite(values[at]))
        root.append("circle").attr("class", "dot").attr("r", 3.5).attr("cx", x(at)).attr("cy", y(values[at]));
    return root.node();
}
