// SPDX-License-Identifier: MIT
// A chart that one can look into: dragging over it shows that part of the run alone, and its lines can be smoothed. A
// click chooses a window.
import { drawChart, nearest } from "./chart.js";
import { h, select } from "./dom.js";
import { set, settings } from "./settings.js";

const SMOOTHINGS = [0, 3, 5, 9, 17, 33];
/** Px that a pointer moves before it is no click any more. */
const DRAG = 5;
/** A zoom by keys shows so much of what is shown. */
const ZOOM = 0.6;

/** The mean of the finite numbers in `width` windows around each; a window without a number stays without. */
export function smoothed(values, width) {
    const half = (width - 1) / 2,
        isNumber = (x) => x !== null && Number.isFinite(x);
    return values.map((value, i) => {
        if (!isNumber(value)) return value;
        const around = values.slice(Math.max(0, i - half), i + half + 1).filter(isNumber);
        return around.reduce((a, b) => a + b, 0) / around.length;
    });
}

/** The options of a chart of the windows from `low` to `high`. */
function partOf(options, [low, high]) {
    const inside = (x) => x.map((one, i) => (one >= low && one <= high ? i : -1)).filter((i) => i >= 0),
        pick = (list, at) => at.map((i) => list[i]);
    const at = inside(options.x);
    return {
        ...options,
        span: null,
        x: pick(options.x, at),
        lines: options.lines.map((line) => {
            if (!line.x) return { ...line, values: pick(line.values, at) };
            const own = inside(line.x);
            return { ...line, x: pick(line.x, own), values: pick(line.values, own) };
        }),
        bands: (options.bands ?? []).map((band) => ({ ...band, low: pick(band.low, at), high: pick(band.high, at) })),
    };
}

/** Each line as it is, faintly, with its smoothed one over it. */
function smoothLines(options, width) {
    if (!width) return options;
    const lines = options.lines.flatMap((line) => [
        { ...line, class: `${line.class} raw`, name: `${line.name}, each window` },
        { ...line, values: smoothed(line.values, width), name: `${line.name}, mean of ${width} windows` },
    ]);
    return { ...options, lines };
}

export class ZoomChart {
    /** Draws into `container`. `onPick(x)`: a click on a window, or Enter there. */
    constructor(container, { onPick = () => {} } = {}) {
        Object.assign(this, { container, onPick, options: null, range: null, at: null });
        const choices = SMOOTHINGS.map((n) => [String(n), n ? `${n} windows` : "none"]);
        const smoothing = select("smoothing", choices, String(this.smoothing()), (value) => {
            set("smooth", Number(value));
            this.redraw();
        });
        this.whole = h("button", { type: "button", hidden: true, onclick: () => this.show(null) }, "whole run");
        this.hint = h("span", { class: "soft hint" }, "drag to zoom");
        this.tools = h("span", { class: "chart-tools" }, this.whole, this.hint, smoothing);
    }

    smoothing() {
        return SMOOTHINGS.includes(settings.smooth) ? settings.smooth : 0;
    }

    /** Options as drawChart takes them, with `x`. */
    draw(options) {
        this.options = options;
        this.redraw();
    }

    /** A rule stands at the window that ends with x; null: none. */
    mark(x) {
        this.at = x;
        this.drawMark();
    }

    /** The windows from low to high; null: all. */
    show(range) {
        const some = range && this.options.x.filter((x) => x >= range[0] && x <= range[1]);
        this.range = some?.length > 1 ? range : null;
        this.redraw();
    }

    redraw() {
        if (!this.options) return;
        const smooth = smoothLines(this.options, this.smoothing());
        this.chart = drawChart(this.container, this.range ? partOf(smooth, this.range) : smooth);
        this.whole.hidden = !this.range;
        this.hint.hidden = Boolean(this.range) || this.options.x.length < 3;
        this.listen();
        this.drawMark();
    }

    drawMark() {
        if (!this.chart) return;
        const { root, xs, top, bottom } = this.chart,
            [low, high] = xs.domain();
        root.selectAll(".now").remove();
        if (this.at === null || this.at < low || this.at > high) return;
        const rule = root.append("line").attr("class", "now").attr("data-transient", "");
        rule.attr("x1", xs(this.at)).attr("x2", xs(this.at)).attr("y1", top).attr("y2", bottom);
    }

    /** Where in the chart the pointer is. */
    place({ clientX }) {
        const node = this.chart.root.node(),
            box = node.getBoundingClientRect(),
            x = ((clientX - box.left) * node.viewBox.baseVal.width) / box.width,
            [left, right] = this.chart.xs.range();
        return Math.max(left, Math.min(right, x));
    }

    listen() {
        const node = this.chart.root.node();
        let from = null,
            brush = null;
        const end = () => {
            brush?.remove();
            from = brush = null;
        };
        node.classList.add("zooms");
        node.addEventListener("pointerdown", (event) => {
            if (event.button !== 0 || event.pointerType === "touch") return;
            from = this.place(event);
            node.setPointerCapture(event.pointerId);
        });
        node.addEventListener("pointermove", (event) => {
            if (from === null) return;
            const to = this.place(event);
            if (!brush && Math.abs(to - from) < DRAG) return;
            brush ??= this.chart.root.append("rect").attr("class", "brush").attr("data-transient", "");
            brush.attr("x", Math.min(from, to)).attr("width", Math.abs(to - from));
            brush.attr("y", this.chart.top).attr("height", this.chart.bottom - this.chart.top);
        });
        node.addEventListener("pointerup", (event) => {
            if (from === null) return;
            const { xs } = this.chart,
                ends = [from, this.place(event)].map((x) => xs.invert(x)).sort((a, b) => a - b),
                isDrag = brush !== null;
            end();
            if (isDrag) this.show(ends);
            else this.pick(ends[0]);
        });
        node.addEventListener("click", (event) => {
            if (event.pointerType === "touch") this.pick(this.chart.xs.invert(this.place(event)));
        });
        node.addEventListener("pointercancel", end);
        node.addEventListener("dblclick", () => this.show(null));
        node.addEventListener("keydown", (event) => this.onKey(event));
    }

    pick(x) {
        const all = this.options.x;
        if (all.length) this.onPick(all[nearest(all, x)]);
    }

    /** + and - zoom around the place that the arrow keys have come to, 0 shows the whole run, Enter chooses. */
    onKey(event) {
        const { xs, place } = this.chart,
            at = place(),
            [low, high] = xs.domain(),
            by = { "+": ZOOM, "=": ZOOM, "-": 1 / ZOOM }[event.key];
        if (by) this.zoomKept([at - (at - low) * by, at + (high - at) * by]);
        else if (event.key === "0") this.zoomKept(null);
        else if (event.key === "Enter") this.pick(at);
    }

    zoomKept(range) {
        const { x } = this.options,
            isAll = !range || (range[0] <= x[0] && range[1] >= x[x.length - 1]);
        this.show(isAll ? null : range);
        this.chart.root.node().focus({ preventScroll: true });
    }
}
