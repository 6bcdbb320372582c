// SPDX-License-Identifier: MIT
// A matrix as a picture: an image for the cells, axes, a colour bar, and a cursor that reads values out.
/* global d3 */
import { COLOR_MAPS, diverging, extent, table } from "./colors.js";
import { hideTooltip, isolated, number, refill, say, showTooltip, visible } from "./dom.js";
import { svg as newSvg } from "./figure.js";
import { settings } from "./settings.js";

const LABELS_MAX = 64;
let gradients = 0;

/** The cells as a PNG: [rows][columns] numbers between `low` and `high`; what is not finite, or masked, is clear. */
function paint(values, rows, columns, [low, high], colors, hidden) {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"),
        image = context.createImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) {
        const x = values[i];
        if (x === null || !Number.isFinite(x) || hidden?.(Math.floor(i / columns), i % columns)) continue;
        const at = 4 * Math.max(0, Math.min(255, Math.floor((256 * (x - low)) / (high - low))));
        image.data.set(colors.subarray(at, at + 4), 4 * i);
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
}

function colorBar(root, x, y, height, range, interpolate) {
    const id = `gradient-${++gradients}`;
    const gradient = root
        .append("defs")
        .append("linearGradient")
        .attr("id", id)
        .attr("x1", 0)
        .attr("x2", 0)
        .attr("y1", 1)
        .attr("y2", 0);
    for (let i = 0; i <= 16; i++)
        gradient
            .append("stop")
            .attr("offset", i / 16)
            .attr("stop-color", interpolate(i / 16));
    root.append("rect").attr("x", x).attr("y", y).attr("width", 10).attr("height", height).attr("fill", `url(#${id})`);
    const scale = d3.scaleLinear(range, [y + height, y]);
    root.append("g")
        .attr("transform", `translate(${x + 10},0)`)
        .call(
            d3
                .axisRight(scale)
                .ticks(Math.max(2, height / 45))
                .tickSize(3)
                .tickFormat(number),
        )
        .call((g) => g.select(".domain").remove());
}

/** Which cells a causal mask hides whole: the first key of the cell comes after its last query. */
function causalMask({ causal, rows, columns, queries, keys, q_offset: offset = 0 }) {
    if (!causal) return null;
    return (r, c) => Math.floor((c * keys) / columns) > Math.floor(((r + 1) * queries) / rows) - 1 + offset;
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

/**
 * Draws into `container`, instead of what is there. `map`: rows, columns, values (row by row; null or NaN: nothing
 * there), queries, keys (what rows and columns stand for), site, labels (texts of the keys or null; of the queries too, but
 * not of cross attention), causal, q_offset.
 * yNames (texts of the rows, instead of positions). Options: size (of the longer side in px), range ([low, high]; null: automatic), bar (colour bar, true), axes (true), diverges,
 * height (size is the width then), xText(column) (instead of positions), name (for readers), onPick(row, column), xName, yName, title of a value.
 */
export function drawMap(container, map, options = {}) {
    const { rows, columns, values } = map;
    const {
        size = 380,
        bar = true,
        axes = true,
        diverges = false,
        onPick = null,
        name = "attention map",
        xName = "key position",
        yName = "query position",
    } = options;
    const offset = map.q_offset ?? 0;
    const widest = options.yNames ? Math.max(...options.yNames.map((name) => name.length)) * 6.4 : 0;
    const ratio = rows / columns,
        width = ratio > 1 && !options.height ? size / ratio : size,
        height = options.height ?? (ratio > 1 ? size : size * ratio);
    const w = Math.max(width, 24),
        hgt = Math.max(height, 24);
    const across = { count: columns, total: map.keys ?? columns, labels: map.labels, place: w, offset: 0 };
    const down = {
        count: rows,
        total: map.queries ?? rows,
        labels: map.site === "cross" ? null : map.labels,
        place: hgt,
        offset,
    };
    const room = (side) =>
        axes && fits(side)
            ? Math.min(9, Math.max(1, ...side.labels.map((text) => [...short(text)].length))) * 6.2 + 8
            : 0;
    const left = axes ? Math.max(46, room(down) + 20, widest + 26) : 2,
        top = axes ? Math.max(34, room(across) + 22) : 2,
        right = bar ? 58 : 2;
    const range = options.range ?? extent(values),
        interpolate = diverges ? diverging : COLOR_MAPS[settings.colorMap];
    const root = newSvg(left + w + right, top + hgt + 6, `${name}, ${rows} by ${columns}`);
    const plot = root.append("g").attr("transform", `translate(${left},${top})`);
    plot.append("rect").attr("class", "missing").attr("width", w).attr("height", hgt);
    plot.append("image")
        .attr("width", w)
        .attr("height", hgt)
        .attr("preserveAspectRatio", "none")
        .attr("image-rendering", "pixelated")
        .attr("href", paint(values, rows, columns, range, table(interpolate), causalMask(map)));
    if (axes) {
        axis(plot, { ...across, across: true, textOf: options.xText });
        if (options.yNames)
            options.yNames.forEach((text, r) =>
                plot
                    .append("text")
                    .attr("class", "soft")
                    .attr("x", -4)
                    .attr("y", ((r + 0.5) * hgt) / rows + 4)
                    .attr("text-anchor", "end")
                    .text(text),
            );
        else axis(plot, { ...down, across: false });
        root.append("text")
            .attr("class", "soft")
            .attr("x", left + w / 2)
            .attr("y", 11)
            .attr("text-anchor", "middle")
            .text(xName);
        root.append("text")
            .attr("class", "soft")
            .attr("transform", `translate(11,${top + hgt / 2}) rotate(-90)`)
            .attr("text-anchor", "middle")
            .text(yName);
    }
    if (bar) colorBar(root, left + w + 10, top, hgt, range, interpolate);
    const cursor = plot
        .append("rect")
        .attr("class", "cursor")
        .attr("data-transient", "")
        .attr("width", w / columns)
        .attr("height", hgt / rows)
        .attr("visibility", "hidden");

    const token = (index, side) =>
        side.count === side.total && side.labels?.[index] !== undefined
            ? ` “${isolated(visible(side.labels[index]))}”`
            : "";
    function describe(r, c) {
        const q = Math.floor((r * (map.queries ?? rows)) / rows) + offset,
            k = Math.floor((c * (map.keys ?? columns)) / columns);
        const x = values[r * columns + c];
        if (options.describe) return options.describe(r, c, x);
        return `query ${q}${token(q, down)} → key ${k}${token(k, across)}: ${number(x)}`;
    }
    const svgNode = root.node();
    let at = null;
    function point(event) {
        const box = svgNode.getBoundingClientRect(),
            scale = (left + w + right) / box.width;
        const c = Math.floor((((event.clientX - box.left) * scale - left) / w) * columns),
            r = Math.floor((((event.clientY - box.top) * scale - top) / hgt) * rows);
        return r >= 0 && r < rows && c >= 0 && c < columns ? [r, c] : null;
    }
    function moveTo(cell) {
        at = cell;
        cursor.attr("visibility", cell ? "visible" : "hidden");
        if (cell) cursor.attr("x", (cell[1] * w) / columns).attr("y", (cell[0] * hgt) / rows);
    }
    root.on("pointermove", () => {
        const event = d3.event,
            cell = point(event);
        moveTo(cell);
        if (cell) showTooltip(describe(...cell), event.clientX, event.clientY);
        else hideTooltip();
    })
        .on("pointerleave", () => {
            hideTooltip();
            moveTo(null);
        })
        .on("click", () => {
            const cell = point(d3.event);
            if (cell && onPick) onPick(...cell);
        });
    if (axes) {
        root.attr("tabindex", 0)
            .on("keydown", () => {
                const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
                    d3.event.key
                ];
                if (step) {
                    d3.event.preventDefault();
                    const [r, c] = at ?? [0, 0];
                    moveTo([
                        Math.max(0, Math.min(rows - 1, r + step[0])),
                        Math.max(0, Math.min(columns - 1, c + step[1])),
                    ]);
                    const box = cursor.node().getBoundingClientRect();
                    showTooltip(describe(...at), box.right, box.top);
                    say(describe(...at));
                } else if (d3.event.key === "Enter" && at && onPick) onPick(...at);
                else if (d3.event.key === "Escape") {
                    hideTooltip();
                    moveTo(null);
                }
            })
            .on("blur", () => {
                hideTooltip();
                moveTo(null);
            });
    }
    refill(container, svgNode);
    return svgNode;
}
