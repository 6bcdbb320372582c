// SPDX-License-Identifier: MIT
// Lines between the tokens of a layer, from queries on the left to keys on the right, for the heads that are chosen: the
// more weight, the wider and the darker. A query or a key that is pointed at shows its own lines alone, with their numbers.
/* global d3 */
import { hiddenCells } from "./cells.js";
import { h, hideTooltip, number, percent, say, select, showTooltip } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";
import { keyName, queryName } from "./pairs.js";

/** At most so many lines are drawn at once, those with the most weight. */
const LINES = 1500;
/** A line with less weight than this share of the largest is not seen. */
const FAINT = 0.02;
const TOP = 24,
    LETTER = 6.4,
    NEAR = 6,
    WEIGHT = 44; // px of a weight beside a token
const STEPS = { ArrowUp: -1, ArrowDown: 1 };

/** Colours of heads, told apart in both themes. */
export const headColor = (i) => d3.schemeTableau10[i % 10];

const short = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);

/** All cells with weight of the chosen heads: [{head, color, row, column, weight}], the largest first. */
function linesOf(found, chosen) {
    const cells = found.rows * found.columns,
        spread = (found.keys ?? found.columns) / found.columns,
        lines = [];
    for (const { head, color } of chosen) {
        const index = found.heads ? found.heads.indexOf(head) : 0;
        if (index < 0) continue;
        const values = found.values.subarray(index * cells, (index + 1) * cells),
            hidden = hiddenCells({ ...found, values });
        values.forEach((value, i) => {
            if (hidden[i] || !(value > 0)) return;
            const row = Math.floor(i / found.columns);
            lines.push({ head, color, row, column: i % found.columns, weight: value * spread });
        });
    }
    return lines.sort((a, b) => b.weight - a.weight);
}

export class HeadLines {
    /** Draws into `container`; `nameOf(head)` says what a head is called. */
    constructor(container, nameOf) {
        Object.assign(this, { container, nameOf, found: null, chosen: [], focus: null });
        this.note = h("p", { class: "soft" });
    }

    /** `found`: maps of heads as Run.map gives them; `chosen`: [{head, color}]. */
    draw(found, chosen) {
        Object.assign(this, { found, chosen, focus: null });
        this.lines = linesOf(found, chosen);
        this.most = this.lines[0]?.weight ?? 1;
        this.layOut();
        this.drawTokens();
        this.drawLines();
        this.container.replaceChildren(this.root.node(), this.note);
    }

    layOut() {
        const { found } = this,
            count = Math.max(found.rows, found.columns),
            width = Math.max(300, Math.min(720, this.container.clientWidth || 640)),
            step = Math.max(11, Math.min(20, 900 / count)),
            queries = d3.range(found.rows).map((r) => queryName(found, r)),
            keys = d3.range(found.columns).map((c) => keyName(found, c)),
            room = Math.floor(width * 0.3),
            wide = (names) => Math.min(room, d3.max(names, (name) => [...name].length) * LETTER + 12 + WEIGHT);
        const left = wide(queries),
            right = width - wide(keys);
        Object.assign(this, { width, step, left, right, queries, keys, most: this.most });
        this.height = TOP + count * step + 6;
        this.root = newSvg(width, this.height, "lines from queries to keys").attr("tabindex", 0).attr("class", "head-lines");
    }

    y(i) {
        return TOP + (i + 0.5) * this.step;
    }

    /** Lines of several heads between the same tokens lie beside one another. */
    shift(head) {
        const { chosen, step } = this,
            i = chosen.findIndex((one) => one.head === head);
        return (i - (chosen.length - 1) / 2) * Math.min(3, (0.7 * step) / chosen.length);
    }

    drawTokens() {
        const { root, left, right, step } = this,
            size = Math.min(12, step - 1);
        const heading = (x, anchor, text) =>
            root.append("text").attr("class", "soft").attr("x", x).attr("y", 12).attr("text-anchor", anchor).text(text);
        heading(left - 6, "end", "query");
        heading(right + 6, "start", "key");
        this.marks = root.append("g");
        this.layer = root.append("g");
        const column = (names, x, anchor, side, most) =>
            names.map((name, i) =>
                put(root, "text", { x, y: this.y(i) + size / 3, "text-anchor": anchor, "data-side": side })
                    .style("font-size", `${size}px`)
                    .text(short(name, most)),
            );
        this.queryTexts = column(this.queries, left - 6, "end", "query", Math.floor((left - WEIGHT) / LETTER));
        this.keyTexts = column(this.keys, right + 6, "start", "key", Math.floor((this.width - right - WEIGHT) / LETTER));
        root.on("pointermove", () => this.point(d3.event))
            .on("pointerleave", () => this.look(null))
            .on("keydown", () => this.key(d3.event))
            .on("blur", () => this.look(null));
    }

    /** The lines of the query or key in focus; else the ones with the most weight. */
    shown() {
        const { focus, lines, most } = this;
        if (!focus) return lines.filter((line) => line.weight >= FAINT * most).slice(0, LINES);
        return lines.filter((line) => (focus.side === "query" ? line.row : line.column) === focus.at).slice(0, LINES);
    }

    drawLines() {
        const { left, right, focus, most } = this,
            shown = (this.drawn = this.shown());
        const top = focus ? (shown[0]?.weight ?? 1) : most;
        const nodes = this.layer.selectAll("line").data(shown);
        nodes.exit().remove();
        nodes
            .enter()
            .append("line")
            .merge(nodes)
            .attr("x1", left)
            .attr("x2", right)
            .attr("y1", (line) => this.y(line.row) + this.shift(line.head))
            .attr("y2", (line) => this.y(line.column) + this.shift(line.head))
            .attr("stroke", (line) => line.color)
            .attr("stroke-width", (line) => 0.5 + 2.5 * (line.weight / top))
            .attr("opacity", (line) => 0.06 + 0.9 * (line.weight / top));
        this.drawMarks();
        const hiddenLines = this.lines.length - shown.length;
        this.note.textContent = focus
            ? ""
            : `Width and darkness: weight, up to ${number(Number(most.toPrecision(2)))}. ${hiddenLines > 0 ? `${hiddenLines} lines with less weight are not drawn; point at a token for all of its own.` : "Point at a token for its own lines."}`;
    }

    /** Beside each token at the other end of the lines in focus: its weight, of the heads together. */
    drawMarks() {
        const { focus, drawn } = this,
            isQuery = focus?.side === "query";
        this.marks.selectAll("*").remove();
        this.root.selectAll("text.weight").remove();
        this.root.selectAll("text.focus").classed("focus", false);
        if (!focus) return;
        (isQuery ? this.queryTexts : this.keyTexts)[focus.at].classed("focus", true);
        const sums = d3
            .nest()
            .key((line) => (isQuery ? line.column : line.row))
            .rollup((lines) => d3.mean(this.chosen, ({ head }) => lines.find((one) => one.head === head)?.weight ?? 0))
            .entries(drawn);
        for (const { key, value } of sums) {
            const y = this.y(Number(key));
            this.marks
                .append("rect")
                .attr("class", "glow")
                .attr("x", isQuery ? this.right + 2 : 0)
                .attr("width", isQuery ? this.width - this.right - 2 : this.left - 2)
                .attr("y", y - this.step / 2)
                .attr("height", this.step)
                .attr("opacity", Math.min(1, value));
            if (value >= 0.01)
                put(this.root, "text", { class: "weight over", x: isQuery ? this.width - 2 : this.left + 4, y: y + 4, "text-anchor": isQuery ? "end" : "start" },
                    percent(value));
        }
    }

    /* Pointer and keys */

    look(focus) {
        if (!focus) hideTooltip();
        if (focus?.side === this.focus?.side && focus?.at === this.focus?.at) return;
        this.focus = focus;
        this.drawLines();
    }

    point(event) {
        const box = this.root.node().getBoundingClientRect(),
            scale = this.width / box.width,
            x = (event.clientX - box.left) * scale,
            y = (event.clientY - box.top) * scale,
            i = Math.floor((y - TOP) / this.step),
            { found, left, right } = this;
        if (x < left && i >= 0 && i < found.rows) return this.lookAt({ side: "query", at: i }, event);
        if (x > right && i >= 0 && i < found.columns) return this.lookAt({ side: "key", at: i }, event);
        const line = this.lineAt((x - left) / (right - left), y);
        if (!line) return this.focus ? this.look(null) : hideTooltip();
        showTooltip(this.describe(line), event.clientX, event.clientY);
    }

    lookAt(focus, event) {
        this.look(focus);
        showTooltip(this.describeFocus(), event.clientX, event.clientY);
    }

    /** The strongest of the lines that pass by a place. */
    lineAt(t, y) {
        if (t < 0 || t > 1) return null;
        return this.drawn.find((line) => Math.abs(this.y(line.row) * (1 - t) + this.y(line.column) * t - y) < NEAR);
    }

    describe({ head, row, column, weight }) {
        return `${this.nameOf(head)}: query ${this.queries[row]} → key ${this.keys[column]}: ${percent(weight)}`;
    }

    describeFocus() {
        const { side, at } = this.focus,
            isQuery = side === "query",
            name = isQuery ? `query ${this.queries[at]}` : `key ${this.keys[at]}`;
        const top = this.drawn.slice(0, 5).map((line) => {
            const other = isQuery ? `→ key ${this.keys[line.column]}` : `← query ${this.queries[line.row]}`;
            return `${this.chosen.length > 1 ? `${this.nameOf(line.head)} ` : ""}${other}: ${percent(line.weight)}`;
        });
        return [name, ...(top.length ? top : ["no weight"])].join("\n");
    }

    /** Up and down go through the queries, right and left change to the keys and back. */
    key(event) {
        const turn = { ArrowLeft: "query", ArrowRight: "key" }[event.key],
            step = STEPS[event.key];
        if (event.key === "Escape") return this.look(null);
        if (!step && !turn) return;
        event.preventDefault();
        const side = turn ?? this.focus?.side ?? "query",
            count = side === "query" ? this.found.rows : this.found.columns,
            from = this.focus?.at ?? (step > 0 ? -1 : 0);
        this.look({ side, at: Math.max(0, Math.min(count - 1, from + (step ?? 0))) });
        const text = (side === "query" ? this.queryTexts : this.keyTexts)[this.focus.at].node().getBoundingClientRect();
        showTooltip(this.describeFocus(), text.right, text.bottom);
        say(this.describeFocus());
    }
}

/** With more heads only the chosen ones have a button; a list adds others. */
const BUTTONS = 64;

/** Choosing heads: a button each, in the colour of its lines. `onChange(heads)`: numbers, at least one. */
export function headChooser(heads, chosen, onChange) {
    const toggle = (head) => {
        const has = chosen.includes(head);
        if (has && chosen.length === 1) return;
        onChange(has ? chosen.filter((one) => one !== head) : [...chosen, head].sort((a, b) => a - b));
    };
    const button = (head) => {
        const isOn = chosen.includes(head),
            one = h(
                "button",
                {
                    type: "button",
                    class: "head-toggle",
                    "aria-pressed": String(isOn),
                    "aria-label": `lines of head ${head}`,
                    onclick: () => toggle(head),
                },
                String(head),
            );
        one.style.setProperty("--head", headColor(head));
        return one;
    };
    const isLong = heads.length > BUTTONS,
        others = isLong ? heads.filter((head) => !chosen.includes(head)) : [],
        more = [["", "add a head"], ...others.map((head) => [String(head), `head ${head}`])];
    return h(
        "div",
        { class: "head-toggles", role: "group", "aria-label": "heads whose lines are drawn" },
        h("span", { class: "soft" }, "heads"),
        (isLong ? chosen : heads).map(button),
        isLong ? select("head to add", more, "", (head) => head !== "" && toggle(Number(head))) : null,
    );
}
