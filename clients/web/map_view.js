// SPDX-License-Identifier: MIT
// A matrix as a picture: an image for the cells, axes, a colour bar, and a cursor that reads values out.
/* global d3 */
import { hiddenCells, rowRanges } from "./cells.js";
import { COLOR_MAPS, diverging, table } from "./colors.js";
import { hideTooltip, number, refill, say, showTooltip, visible } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";
import { rangeOfMap } from "./map_scale.js";
import { keyName, queryLabels, queryName } from "./pairs.js";
import { settings } from "./settings.js";

const LABELS_MAX = 64;
/** Px of the longer side of a map that is saved. */
const SAVED_SIZE = 380;
let gradients = 0;

/** The cells as a PNG: each in the colour of its number in the range of its row; hidden ones are clear. */
function paint({ values, rows, columns }, hidden, rangeOfRow, colors) {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"),
        image = context.createImageData(columns, rows),
        pixels = new Uint32Array(image.data.buffer),
        words = new Uint32Array(colors.buffer, colors.byteOffset, 256);
    for (let i = 0; i < rows * columns; i++) {
        if (hidden[i]) continue;
        const [low, high] = rangeOfRow(Math.floor(i / columns));
        pixels[i] = words[Math.max(0, Math.min(255, Math.floor((256 * (values[i] - low)) / (high - low))))];
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
}

function gradient(root, interpolate) {
    const id = `gradient-${++gradients}`;
    const stops = root.append("defs").append("linearGradient").attr("id", id);
    stops.attr("x1", 0).attr("x2", 0).attr("y1", 1).attr("y2", 0);
    for (let i = 0; i <= 16; i++)
        put(stops, "stop", { offset: i / 16, "stop-color": interpolate(i / 16) });
    return `url(#${id})`;
}

/** The scale beside a map: what its colours stand for, those of clipped cells and of hidden ones too. */
function colorBar(root, { x, y, height, scale, interpolate, isHiding }) {
    const bar = isHiding ? Math.max(24, height - 22) : height,
        beside = (text, at) =>
            put(root, "text", { class: "soft", x: x + 14, y: at }, text);
    const filled = root.append("rect").attr("x", x).attr("y", y).attr("width", 10).attr("height", bar);
    filled.attr("fill", gradient(root, interpolate));
    if (isHiding) {
        const swatch = root.append("rect").attr("class", "missing").attr("x", x);
        swatch
            .attr("y", y + bar + 10)
            .attr("width", 10)
            .attr("height", 10);
        beside("none", y + bar + 19)
            .append("title")
            .text("no weight: hidden by the mask, or padding");
    }
    if (scale.byRow) {
        beside("most", y + 9);
        beside("of row", y + 21);
        return void beside("least", y + bar);
    }
    if (scale.most > scale.high) {
        put(root, "path", { d: `M${x},${y - 3}h10l-5,-7z`, fill: interpolate(1), stroke: "currentColor" });
        beside(`to ${number(Number(scale.most.toPrecision(2)))}`, y - 4).attr("data-clipped", "");
    }
    const ticks = d3
        .axisRight(d3.scaleLinear([scale.low, scale.high], [y + bar, y]))
        .ticks(Math.max(2, bar / 45))
        .tickSize(3)
        .tickFormat(number);
    root.append("g")
        .attr("transform", `translate(${x + 10},0)`)
        .call(ticks)
        .call((g) => g.select(".domain").remove());
}

const short = (text) => {
    const shown = visible(text);
    return [...shown].length > 9 ? [...shown].slice(0, 8).join("") + "…" : shown;
};

/** Whether an axis of `place` px has room for the texts of its tokens. */
const fits = ({ count, total, labels, place, offset }) =>
    Boolean(labels) && count === total && labels.length >= total + offset && count <= LABELS_MAX && place / count >= 8;

/** Ticks of an axis: token texts where they fit, else positions. */
function axis(
    root,
    { count, total, labels, place, across, offset, textOf = (i) => Math.floor((i * total) / count) + offset },
) {
    const step = place / count;
    const named = fits({ count, total, labels, place, offset });
    const every = named ? Math.ceil(11 / step) : Math.max(1, Math.ceil(count / Math.max(2, Math.floor(place / 46))));
    for (let i = 0; i < count; i += every) {
        const at = (i + 0.5) * step;
        const text = named ? short(labels[i + offset]) : textOf(i);
        const item = root.append("text").attr("class", "soft").text(text);
        if (!across)
            item.attr("x", -4)
                .attr("y", at + 3.5)
                .attr("text-anchor", "end");
        else if (named) item.attr("transform", `translate(${at + 3.5},${-5}) rotate(-60)`);
        else item.attr("x", at).attr("y", -5).attr("text-anchor", "middle");
    }
    return named;
}

const DEFAULTS = {
    size: 380,
    bar: true,
    axes: true,
    diverges: false,
    name: "attention map",
    xName: "key position",
    yName: "query position",
};

/** Where the parts of the picture stand, and what its sides count. */
function layoutOf(map, { size, height: given, axes, bar, yNames }) {
    const { rows, columns } = map,
        ratio = rows / columns,
        w = Math.max(24, ratio > 1 && !given ? size / ratio : size),
        tall = Math.max(24, given ?? (ratio > 1 ? size : size * ratio));
    const across = { count: columns, total: map.keys ?? columns, labels: map.labels, place: w, offset: 0 };
    const down = {
        count: rows,
        total: map.queries ?? rows,
        labels: queryLabels(map),
        place: tall,
        offset: map.q_offset ?? 0,
    };
    const widest = yNames ? Math.max(...yNames.map((name) => name.length)) * 6.4 : 0;
    const room = (side) =>
        fits(side) ? Math.min(9, Math.max(1, ...side.labels.map((text) => [...short(text)].length))) * 6.2 + 8 : 0;
    return {
        w,
        tall,
        across,
        down,
        left: axes ? Math.max(46, room(down) + 20, widest + 26) : 2,
        top: axes ? Math.max(34, room(across) + 22) : 2,
        right: bar ? 72 : 2,
    };
}

/** How numbers become colours: {scale, rangeOfRow}. */
function coloursOf(map, hidden, given) {
    const range = given ?? rangeOfMap(map);
    if (!range) {
        const ranges = rowRanges(map, hidden);
        return { scale: { byRow: true }, rangeOfRow: (r) => ranges[r] };
    }
    const [low, high, most = high] = range;
    return { scale: { low, high, most }, rangeOfRow: () => [low, high] };
}

function drawCells(plot, map, { w, tall }, hidden, { rangeOfRow }, interpolate) {
    plot.append("rect").attr("class", "missing").attr("width", w).attr("height", tall);
    put(plot, "image", { width: w, height: tall, preserveAspectRatio: "none", "image-rendering": "pixelated", href: paint(map, hidden, rangeOfRow, table(interpolate)) });
}

function drawRowNames(plot, names, step) {
    names.forEach((text, r) =>
        put(plot, "text", { class: "soft", x: -4, y: (r + 0.5) * step + 4, "text-anchor": "end" }, text),
    );
}

function drawAxes(root, plot, { w, tall, left, top, across, down }, { xText, yNames, xName, yName }) {
    axis(plot, { ...across, across: true, textOf: xText });
    if (yNames) drawRowNames(plot, yNames, tall / down.count);
    else axis(plot, { ...down, across: false });
    put(root, "text", { class: "soft", x: left + w / 2, y: 11, "text-anchor": "middle" }, xName);
    put(root, "text", { class: "soft", transform: `translate(11,${top + tall / 2}) rotate(-90)`, "text-anchor": "middle" }, yName);
}

/** Puts a cell into words. */
function describer(map, { describe }) {
    const { columns, values } = map;
    return (r, c) => {
        const x = values[r * columns + c];
        return describe ? describe(r, c, x) : `query ${queryName(map, r)} → key ${keyName(map, c)}: ${number(x)}`;
    };
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** The cell that is pointed at, by the pointer or by keys. */
class Cursor {
    constructor(root, plot, { rows, columns }, layout, describe) {
        Object.assign(this, { root, rows, columns, layout, describe, at: null });
        this.rect = put(plot, "rect", { class: "cursor", "data-transient": "", width: layout.w / columns, height: layout.tall / rows, visibility: "hidden" });
    }

    cellAt(event) {
        const { left, top, right, w, tall } = this.layout,
            box = this.root.node().getBoundingClientRect(),
            scale = (left + w + right) / box.width;
        const c = Math.floor((((event.clientX - box.left) * scale - left) / w) * this.columns),
            above = this.root.node().viewBox.baseVal.y, // what is drawn over the map
            r = Math.floor((((event.clientY - box.top) * scale + above - top) / tall) * this.rows);
        return r >= 0 && r < this.rows && c >= 0 && c < this.columns ? [r, c] : null;
    }

    moveTo(cell) {
        const { w, tall } = this.layout;
        this.at = cell;
        this.rect.attr("visibility", cell ? "visible" : "hidden");
        if (cell) this.rect.attr("x", (cell[1] * w) / this.columns).attr("y", (cell[0] * tall) / this.rows);
        else hideTooltip();
    }

    point(event) {
        const cell = this.cellAt(event);
        this.moveTo(cell);
        if (cell) showTooltip(this.describe(...cell), event.clientX, event.clientY);
    }

    step([down, across]) {
        const [r, c] = this.at ?? [0, 0];
        this.moveTo([
            Math.max(0, Math.min(this.rows - 1, r + down)),
            Math.max(0, Math.min(this.columns - 1, c + across)),
        ]);
        const box = this.rect.node().getBoundingClientRect();
        showTooltip(this.describe(...this.at), box.right, box.top);
        say(this.describe(...this.at));
    }
}

function listenToPointer(root, cursor, onPick) {
    root.on("pointermove", () => cursor.point(d3.event))
        .on("pointerleave", () => cursor.moveTo(null))
        .on("click", () => {
            const cell = cursor.cellAt(d3.event);
            if (cell) onPick?.(...cell);
        });
}

function listenToKeys(root, cursor, onPick) {
    root.attr("tabindex", 0)
        .on("keydown", () => {
            const { key } = d3.event;
            if (STEPS[key]) {
                d3.event.preventDefault();
                cursor.step(STEPS[key]);
            } else if (key === "Enter" && cursor.at) onPick?.(...cursor.at);
            else if (key === "Escape") cursor.moveTo(null);
        })
        .on("blur", () => cursor.moveTo(null));
}

/**
 * Draws into `container`, instead of what is there. `map`: rows, columns, values (row by row; null or NaN: nothing
 * there), queries, keys (what rows and columns stand for), stack and site (of attention), labels (texts of the keys or
 * null; of the queries too, but not of cross attention), q_labels (of its queries), causal, q_offset. Options: size (of the longer side in px), height
 * (size is the width then), range ([low, high] or [low, high, most]; left out: as rangePicker says), bar (colour bar,
 * true), axes (true), diverges, yNames (texts of the rows, instead of positions), xText(column) (instead of positions),
 * name (for readers), onPick(row, column), xName, yName, describe(row, column, value).
 *
 * The <svg> it returns has `.whole(box)`, which draws it with axes and scale into another box.
 */
export function drawMap(container, map, options = {}) {
    const how = { ...DEFAULTS, ...options },
        layout = layoutOf(map, how),
        { left, top, right, w, tall } = layout;
    const hidden = hiddenCells(map),
        colours = coloursOf(map, hidden, how.range),
        interpolate = how.diverges ? diverging : COLOR_MAPS[settings.colorMap];
    const root = newSvg(left + w + right, top + tall + 6, `${how.name}, ${map.rows} by ${map.columns}`),
        plot = root.append("g").attr("transform", `translate(${left},${top})`);
    drawCells(plot, map, layout, hidden, colours, interpolate);
    if (how.axes) drawAxes(root, plot, layout, how);
    const isHiding = Boolean(map.stack) && hidden.includes(1);
    if (how.bar)
        colorBar(root, { x: left + w + 10, y: top, height: tall, scale: colours.scale, interpolate, isHiding });
    const cursor = new Cursor(root, plot, map, layout, describer(map, how));
    listenToPointer(root, cursor, how.onPick);
    if (how.axes) listenToKeys(root, cursor, how.onPick);
    const node = root.node();
    node.whole = (box) =>
        drawMap(box, map, { ...options, axes: true, bar: true, size: Math.max(how.size, SAVED_SIZE) });
    refill(container, node);
    return node;
}
