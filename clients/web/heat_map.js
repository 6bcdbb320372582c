// SPDX-License-Identifier: MIT
// Layers by heads as coloured cells, with marks, a cursor that keys move, and the means over the heads.
/* global d3 */
import { h, hideTooltip, layerName, number, refill, say, showTooltip } from "./dom.js";
import { svg as newSvg } from "./figure.js";

/** A change is marked for so many windows. */
export const RECENT = 10;
/** Px beside a block: the numbers of its layers, the means over their heads. */
const LEFT = 42,
    MEANS = 54;

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

/** One block of rows per stack and site, as [{title, layers}]. */
function blocksOf(layers) {
    const blocks = new Map();
    for (const layer of layers) {
        const title = layer.site === "cross" ? `${layer.stack}, cross attention` : `${layer.stack}, self-attention`;
        if (!blocks.has(title)) blocks.set(title, []);
        blocks.get(title).push(layer);
    }
    return [...blocks].map(([title, rows]) => ({ title, layers: rows }));
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
            beside = width / blocks.length >= left + MEANS + heads * 17 ? blocks.length : 1;
        const step = Math.max(8, Math.min(52, (width / beside - left - MEANS) / heads)),
            tall = Math.max(9, Math.min(32, step));
        const across = left + heads * step + MEANS,
            heights = blocks.map((block) => block.layers.length * tall + 40);
        this.root = newSvg(
            across * beside,
            beside > 1 ? Math.max(...heights) : heights.reduce((a, b) => a + b, 0),
            "layers by heads",
        ).attr("tabindex", 0);
        this.size = { left, step, tall, heads };
        this.order = [];
        this.widths = new Map(
            blocks.flatMap((block) =>
                block.layers.map((layer) => [layer.stack + layer.site, block.layers.map((one) => one.heads)]),
            ),
        );
        let y = 0;
        blocks.forEach((block, i) => {
            this.drawBlock(block, beside > 1 ? i * across : 0, y);
            y += beside > 1 ? 0 : heights[i];
        });
        this.cursor = this.root
            .append("rect")
            .attr("class", "cursor")
            .attr("data-transient", "")
            .attr("width", step)
            .attr("height", tall)
            .attr("visibility", "hidden");
        this.listen();
        refill(this.frame.body, this.root.node());
    }

    drawBlock({ title, layers }, x, y) {
        const { left, step, tall } = this.size,
            heads = Math.max(...layers.map((layer) => layer.heads));
        const group = this.root.append("g").attr("transform", `translate(${x},${y})`);
        group.append("text").attr("x", left).attr("y", 11).attr("font-weight", 600).text(title);
        const every = Math.max(1, Math.ceil(22 / step));
        for (let head = 0; head < heads; head += every)
            group
                .append("text")
                .attr("class", "soft")
                .attr("x", left + (head + 0.5) * step)
                .attr("y", 26)
                .attr("text-anchor", "middle")
                .text(head);
        group
            .append("text")
            .attr("class", "soft")
            .attr("x", left + heads * step + 6)
            .attr("y", 26)
            .text("mean");
        layers.forEach((layer, i) => this.drawRow(group, layer, i, x, y));
    }

    drawRow(group, layer, i, x, y) {
        const { left, step, tall } = this.size,
            top = 30 + i * tall;
        group
            .append("text")
            .attr("class", "soft")
            .attr("x", left - 6)
            .attr("y", top + tall / 2 + 4)
            .attr("text-anchor", "end")
            .text(`L${layer.layer}`);
        const row = { layer, x: x + left, y: y + top, marks: group.append("g"), rects: [] };
        for (let head = 0; head < layer.heads; head++) {
            row.rects.push(
                group
                    .insert("rect", "g")
                    .attr("class", "cell missing")
                    .attr("x", left + head * step)
                    .attr("y", top)
                    .attr("width", step)
                    .attr("height", tall)
                    .node(),
            );
        }
        row.top = top;
        row.mean = group
            .append("text")
            .attr("class", "average")
            .attr("x", left + Math.max(...this.widths.get(layer.stack + layer.site)) * step + 6)
            .attr("y", top + tall / 2 + 4)
            .style("font-size", `${Math.min(11, tall)}px`)
            .node();
        this.cells.set(layerName(layer), row);
        this.order.push(row);
    }

    color(layer, values, interpolate, [low, high]) {
        const row = this.cells.get(layerName(layer));
        if (row) row.mean.textContent = number(Number(meanOf(values).toPrecision(3)));
        row?.rects.forEach((rect, head) => {
            const x = values?.[head],
                missing = x === null || x === undefined || !Number.isFinite(x);
            rect.setAttribute("class", missing ? "cell missing" : "cell");
            if (missing) rect.removeAttribute("fill");
            else rect.setAttribute("fill", interpolate(Math.max(0, Math.min(1, (x - low) / (high - low)))));
        });
    }

    /** A row that has just changed is outlined for a moment. */
    flash(layer) {
        const row = this.cells.get(layerName(layer)),
            { tall } = this.size;
        if (!row || this.flashes.has(row)) return;
        const mark = this.root
            .append("rect")
            .attr("class", "flash")
            .attr("data-transient", "")
            .attr("x", row.x - 3)
            .attr("y", row.y)
            .attr("width", 2)
            .attr("height", tall);
        this.flashes.set(
            row,
            setTimeout(() => {
                mark.remove();
                this.flashes.delete(row);
            }, 400),
        );
    }

    /** Alerts as a dot with a rim, lasting changes and large drift as a triangle; of a layer at its name. */
    mark(layer, marks) {
        const row = this.cells.get(layerName(layer)),
            { left, step, tall } = this.size;
        if (!row) return;
        const nodes = row.marks.selectAll("path").data(marks);
        nodes.exit().remove();
        nodes
            .enter()
            .append("path")
            .merge(nodes)
            .attr("class", (d) => `mark ${d.kind}`)
            .attr("d", (d) => (d.kind === "drift" ? "M-4,3.4L4,3.4L0,-3.8Z" : "M0,-4A4,4 0 1 1 0,4A4,4 0 1 1 0,-4"))
            .attr("transform", (d) =>
                d.head === null
                    ? `translate(6,${row.top + tall / 2})`
                    : `translate(${left + (d.head + (d.kind === "drift" ? 0.27 : 0.73)) * step},${row.top + tall * (d.kind === "drift" ? 0.7 : 0.3)}) scale(${Math.min(1, step / 16)})`,
            );
    }

    rowAt(layer) {
        return this.cells.get(layerName(layer));
    }

    moveTo(row, head, choose) {
        const { step } = this.size;
        this.at = { row: this.order.indexOf(row), head };
        this.cursor
            .attr("visibility", "visible")
            .attr("x", row.x + head * step)
            .attr("y", row.y);
        if (choose) this.onChoose(row.layer, head);
    }

    listen() {
        const { step, tall } = this.size,
            node = this.root.node();
        const pointed = () => {
            const box = node.getBoundingClientRect(),
                scale = node.viewBox.baseVal.width / box.width;
            const x = (d3.event.clientX - box.left) * scale,
                y = (d3.event.clientY - box.top) * scale;
            const row = this.order.find(
                (one) => y >= one.y && y < one.y + tall && x >= one.x && x < one.x + one.layer.heads * step,
            );
            return row ? { row, head: Math.floor((x - row.x) / step) } : null;
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

export function drawLegend(box, [low, high], interpolate, metric) {
    const id = "overview-scale",
        root = newSvg(230, 30, `colour scale of ${metric.name}`);
    const gradient = root.append("defs").append("linearGradient").attr("id", id);
    for (let i = 0; i <= 16; i++)
        gradient
            .append("stop")
            .attr("offset", i / 16)
            .attr("stop-color", interpolate(i / 16));
    root.append("rect").attr("x", 8).attr("width", 210).attr("height", 9).attr("fill", `url(#${id})`);
    root.append("g")
        .attr("transform", "translate(8,9)")
        .call(
            d3
                .axisBottom(d3.scaleLinear([low, high], [0, 210]))
                .ticks(4)
                .tickSize(3)
                .tickFormat(number),
        )
        .call((g) => g.select(".domain").remove());
    box.replaceChildren(
        root.node(),
        h("span", {}, "● alert fires"),
        h("span", {}, `▲ lasting change within the last ${RECENT} windows`),
        h("span", {}, "▪ grey: no number"),
    );
}
