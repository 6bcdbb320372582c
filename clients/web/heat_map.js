// SPDX-License-Identifier: MIT
// Layers by heads as coloured cells, with their numbers where there is room, outlines of heads with alerts, a cursor that
// keys move, and the means over the heads. A layer with more heads than fit has several lines of cells.
/* global d3 */
import { h, hideTooltip, layerName, number, refill, say, showTooltip, visible } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";

/** Px beside a block: the numbers of its layers, the means over their heads. */
const LEFT = 42,
    MEANS = 54;
/** Px over a block for the path of its modules; about as wide as a letter of it. Kinds of modules that are told apart. */
const KIND = 16,
    LETTER = 6.5,
    KINDS = 4;
/** Px of a cell: at least, at most, and from which on it has room for its number. */
const NARROW = 6,
    WIDE = 240,
    ROOM = { step: 36, tall: 18 };
/** A colour that is lighter than this has dark figures on it. */
const LIGHT = 58;

const newRect = (className, width, height) =>
    d3.create("svg:rect").attr("class", className).attr("width", width).attr("height", height).node();

function fragmentOf(nodes) {
    const fragment = document.createDocumentFragment();
    fragment.append(...nodes);
    return fragment;
}

/** Over the finite numbers; NaN without any. */
export function meanOf(values) {
    let sum = 0,
        count = 0;
    for (const x of values ?? [])
        if (x !== null && Number.isFinite(x)) {
            sum += x;
            count++;
        }
    return count ? sum / count : NaN;
}

/** The path of a layer's module with its numbers left open. */
const kindOf = (layer) => (layer.module ? visible(layer.module.replace(/#\d+$/, "").replace(/\d+/g, "*")) : "");

/**
 * One block of rows per stack and site, as [{title, layers, kind}]. Where the modules of one are of up to KINDS kinds, as
 * the two towers of CLIP are, one per kind, which stands over it: their numbers alone do not tell them apart.
 */
function blocksOf(layers) {
    const titleOf = (layer) =>
        layer.site === "cross" ? `${layer.stack}, cross attention` : `${layer.stack}, self-attention`;
    const blocks = new Map();
    for (const title of new Set(layers.map(titleOf))) {
        const rows = layers.filter((layer) => titleOf(layer) === title),
            kinds = new Set(rows.map(kindOf)),
            split = kinds.size > 1 && kinds.size <= KINDS;
        for (const kind of split ? kinds : [""])
            blocks.set(title + kind, { title, kind, layers: rows.filter((layer) => !split || kindOf(layer) === kind) });
    }
    return [...blocks.values()];
}

export class HeatMap {
    constructor(frame, legendBox, onChoose) {
        Object.assign(this, { frame, legendBox, onChoose, cells: new Map(), at: null, flashes: new Map() });
    }

    /** `value(layer, head)`: a number or null. Draws everything anew. */
    draw(layers, width) {
        const blocks = blocksOf(layers),
            heads = Math.max(1, ...layers.map((layer) => layer.heads));
        // Blocks stand side by side where there is room for all, one below the other elsewhere.
        const left = LEFT,
            beside = width / blocks.length >= left + MEANS + heads * 17 ? blocks.length : 1,
            room = width / beside - left - MEANS,
            columns = Math.max(1, Math.min(heads, Math.floor(room / NARROW))),
            lines = Math.ceil(heads / columns);
        const step = Math.max(NARROW, Math.min(WIDE, room / columns)),
            tall = Math.max(lines > 1 ? NARROW + 1 : 9, Math.min(layers.length > 6 ? 32 : 44, step));
        const across = left + columns * step + MEANS,
            head = blocks.some((block) => block.kind) ? KIND : 0,
            heights = blocks.map((block) => block.layers.length * tall * lines + 40 + head);
        this.root = newSvg(
            across * beside,
            beside > 1 ? Math.max(...heights) : heights.reduce((a, b) => a + b, 0),
            "layers by heads",
        ).attr("tabindex", 0);
        this.size = { left, step, tall, columns, lines, across, head, hasValues: step >= ROOM.step && tall >= ROOM.tall };
        this.order = [];
        let y = 0;
        blocks.forEach((block, i) => {
            this.drawBlock(block, beside > 1 ? i * across : 0, y);
            y += beside > 1 ? 0 : heights[i];
        });
        this.outlines = ["halo", "firing"].map((kind) =>
            this.root.append("path").attr("class", `outline ${kind}`).node(),
        );
        this.cursor = put(this.root, "rect", { class: "cursor", "data-transient": "", width: step, height: tall, visibility: "hidden" });
        this.listen();
        refill(this.frame.body, this.root.node());
    }

    drawBlock({ title, kind, layers }, x, top) {
        const { left, step, columns, across, head: room } = this.size,
            heads = Math.min(columns, Math.max(...layers.map((layer) => layer.heads))),
            y = top + room;
        const group = this.root.append("g").attr("transform", `translate(${x},${y})`);
        put(group, "text", { x: left, y: 11 - room, "font-weight": 600 }, title);
        // The end of a path says more than its beginning.
        const fits = Math.floor((across - left) / LETTER);
        if (kind)
            put(group, "text", { class: "soft modules", x: left, y: 11 }, kind.length > fits ? `…${kind.slice(1 - fits)}` : kind)
                .append("title")
                .text(kind);
        const every = Math.max(1, Math.ceil(22 / step));
        for (let head = 0; head < heads; head += every)
            put(group, "text", { class: "soft", x: left + (head + 0.5) * step, y: 26, "text-anchor": "middle" }, head);
        put(group, "text", { class: "soft", x: left + heads * step + 6, y: 26 }, "mean");
        layers.forEach((layer, i) => this.drawRow(group, layer, i, x, y, heads));
    }

    drawRow(group, layer, i, x, y, heads) {
        const { left, step, tall, columns, lines, hasValues } = this.size,
            top = 30 + i * tall * lines,
            middle = top + (tall * lines) / 2 + 4;
        // Where rows are lower than a line of text, not each has its number.
        if (i % Math.ceil(11 / (tall * lines)) === 0)
            put(group, "text", { class: "soft", x: left - 6, y: middle, "text-anchor": "end" }, `L${layer.layer}`);
        const row = { layer, x: x + left, y: y + top, rects: [], texts: [] };
        const blank = newRect("cell missing", step, tall); // copies of it are cheap: a large model has 12,800 heads
        for (let head = 0; head < layer.heads; head++) {
            const cell = { x: left + (head % columns) * step, y: top + Math.floor(head / columns) * tall };
            const rect = blank.cloneNode();
            rect.setAttribute("x", cell.x);
            rect.setAttribute("y", cell.y);
            row.rects.push(rect);
            if (hasValues)
                row.texts.push(
                    d3
                        .create("svg:text")
                        .attr("class", "value")
                        .attr("x", cell.x + step / 2)
                        .attr("y", cell.y + tall / 2 + 4)
                        .attr("text-anchor", "middle")
                        .style("font-size", step > 70 ? "13px" : null)
                        .node(),
                );
        }
        group.node().append(fragmentOf([...row.rects, ...row.texts]));
        row.mean = put(group, "text", { class: "average", x: left + heads * step + 6, y: middle })
            .style("font-size", `${Math.min(11, tall * lines)}px`)
            .node();
        this.cells.set(layerName(layer), row);
        this.order.push(row);
    }

    /** Where a head's cell is in the whole picture. */
    placeOf(row, head) {
        const { step, tall, columns } = this.size;
        return { x: row.x + (head % columns) * step, y: row.y + Math.floor(head / columns) * tall };
    }

    /** `colorOf(x, head)`: the colour of a number. */
    color(layer, values, colorOf) {
        const row = this.cells.get(layerName(layer));
        if (row) row.mean.textContent = number(Number(meanOf(values).toPrecision(3)));
        row?.rects.forEach((rect, head) => {
            const x = values?.[head],
                isMissing = !Number.isFinite(x ?? NaN),
                fill = isMissing ? null : colorOf(x, head); // null also while nothing is known to compare with
            rect.setAttribute("class", fill ? "cell" : "cell missing");
            if (fill) rect.setAttribute("fill", fill);
            else rect.removeAttribute("fill");
            const text = row.texts[head];
            if (!text) return;
            text.textContent = isMissing ? "–" : number(Number(x.toPrecision(2)));
            text.setAttribute("class", `value ${!fill ? "none" : d3.lab(fill).l > LIGHT ? "dark" : "light"}`);
        });
    }

    /** Outlines the heads, and with the head null the layers, of which `isFiring(layer, head)`. */
    outline(isFiring) {
        const { step, tall } = this.size,
            inset = step > 24 ? 2.5 : 1.5,
            parts = [],
            add = ({ x, y }, width) => parts.push(`M${x + inset},${y + inset}h${width - 2 * inset}v${tall - 2 * inset}h${2 * inset - width}z`);
        for (const row of this.order) {
            const places = d3.range(row.layer.heads).map((head) => this.placeOf(row, head));
            if (isFiring(row.layer, null)) for (const line of d3.group(places, ({ y }) => y).values()) add(line[0], line.length * step);
            places.forEach((place, head) => isFiring(row.layer, head) && add(place, step));
        }
        for (const node of this.outlines) node.setAttribute("d", parts.join(""));
    }

    /** A row that has just changed is outlined for a moment. */
    flash(layer) {
        const row = this.cells.get(layerName(layer)),
            { tall, lines } = this.size;
        if (!row || this.flashes.has(row)) return;
        const mark = put(this.root, "rect", { class: "flash", "data-transient": "", x: row.x - 3, y: row.y, width: 2, height: tall * lines });
        this.flashes.set(
            row,
            setTimeout(() => {
                mark.remove();
                this.flashes.delete(row);
            }, 400),
        );
    }

    rowAt(layer) {
        return this.cells.get(layerName(layer));
    }

    moveTo(row, head, choose) {
        const { x, y } = this.placeOf(row, head);
        this.at = { row: this.order.indexOf(row), head };
        this.cursor.attr("visibility", "visible").attr("x", x).attr("y", y);
        if (choose) this.onChoose(row.layer, head);
    }

    listen() {
        const { step, tall, columns, lines } = this.size,
            node = this.root.node();
        const pointed = () => {
            const box = node.getBoundingClientRect(),
                scale = node.viewBox.baseVal.width / box.width;
            const x = (d3.event.clientX - box.left) * scale,
                y = (d3.event.clientY - box.top) * scale;
            const row = this.order.find(
                (one) => y >= one.y && y < one.y + tall * lines && x >= one.x && x < one.x + columns * step,
            );
            const head = row && Math.floor((y - row.y) / tall) * columns + Math.floor((x - row.x) / step);
            return row && head < row.layer.heads ? { row, head } : null;
        };
        this.root
            .on("pointermove", () => {
                const cell = pointed();
                if (cell) showTooltip(this.describe(cell.row.layer, cell.head), d3.event.clientX, d3.event.clientY);
                else hideTooltip();
            })
            .on("pointerleave", hideTooltip)
            .on("click", () => {
                const cell = pointed();
                if (cell) this.moveTo(cell.row, cell.head, true);
            })
            .on("dblclick", () => {
                const cell = pointed();
                if (cell) this.onOpen(cell.row.layer, cell.head);
            })
            .on("keydown", () => this.onKey());
    }

    onKey() {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[d3.event.key],
            now = this.at ?? { row: 0, head: -1 };
        if (step) {
            d3.event.preventDefault();
            const row = this.order[Math.max(0, Math.min(this.order.length - 1, now.row + step[0]))];
            const head = Math.max(0, Math.min(row.layer.heads - 1, now.head + step[1]));
            this.moveTo(row, head, true);
            say(this.describe(row.layer, head));
        } else if (d3.event.key === "Enter" && this.at) this.onOpen(this.order[this.at.row].layer, this.at.head);
    }
}
