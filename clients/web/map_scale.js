// SPDX-License-Identifier: MIT
// The scale of the colours of maps: one for the maps of a layer, one for each map, or limits that are given; the same in
// all views.
/* global d3 */
import { hiddenCells, RANGES, rangeOf } from "./cells.js";
import { COLOR_MAPS } from "./colors.js";
import { h, number, select } from "./dom.js";
import { svg as newSvg } from "./figure.js";
import { set, settings } from "./settings.js";

const SCALES = [
    ["layer", "one for the layer"],
    ["map", "of each map"],
    ["limits", "from … to"],
];
let gradients = 0;

/** The colours of a scale are spread over "auto", "full" or "row". */
export const colorRange = () => (RANGES.some(([name]) => name === settings.cells) ? settings.cells : "auto");

/** Whose weights a scale is of: "layer", "map" or "limits". */
export const scaleOf = () => (SCALES.some(([name]) => name === settings.mapScale) ? settings.mapScale : "layer");

/** The limits that are given, [low, high]; null when they are none. */
export function givenLimits() {
    const { mapLow = 0, mapHigh = 1 } = settings;
    return scaleOf() === "limits" && Number.isFinite(mapLow) && Number.isFinite(mapHigh) && mapLow < mapHigh
        ? [mapLow, mapHigh]
        : null;
}

/** The largest weight is told apart where it is above what the colours cover. */
const withMost = ({ low, high, most }) => [low, high, most];

/** The range of one map by itself, as drawMap takes it; null where each row has its own. */
export function rangeOfMap(map) {
    const given = givenLimits();
    if (given) return given;
    return colorRange() === "row" ? null : withMost(rangeOf(map, hiddenCells(map), colorRange()));
}

/**
 * The range of maps of one layer, of `count` heads below one another in `values`: null when each has its own.
 */
export function rangeOfLayer(found, count) {
    const given = givenLimits();
    if (given || scaleOf() !== "layer" || colorRange() === "row") return given;
    const cells = found.rows * found.columns,
        hidden = new Uint8Array(found.values.length);
    for (let i = 0; i < count; i++)
        hidden.set(hiddenCells({ ...found, values: found.values.subarray(i * cells, (i + 1) * cells) }), i * cells);
    return withMost(rangeOf({ ...found, rows: found.rows * count }, hidden, colorRange()));
}

function limitBox(label, name, fallback, onchange) {
    const box = h("input", {
        type: "number",
        step: "any",
        class: "limit",
        value: settings[name] ?? fallback,
        "aria-label": label,
        onchange: () => {
            const value = Number(box.value);
            if (box.value !== "" && Number.isFinite(value)) set(name, value);
            onchange();
        },
    });
    return h("label", { class: "pick" }, label.split(" ")[0], box);
}

/** Chooses the scale, its limits, and what it is spread over; `isOne`: the view shows one map. */
export function scalePicker(onchange, isOne = false) {
    const wrong = h("span", { class: "soft", role: "alert" }),
        low = limitBox("from weight", "mapLow", 0, () => changed()),
        high = limitBox("to weight", "mapHigh", 1, () => changed());
    const limits = h("span", { class: "limits" }, low, high, wrong);
    const spread = select("map colours", RANGES, colorRange(), (value) => {
        set("cells", value);
        onchange();
    });
    const choices = isOne ? [["layer", "of the map"], SCALES[2]] : SCALES,
        now = isOne && scaleOf() === "map" ? "layer" : scaleOf();
    const scale = select("scale", choices, now, (value) => {
        set("mapScale", value);
        changed();
    });
    function show() {
        limits.hidden = scaleOf() !== "limits";
        spread.hidden = scaleOf() === "limits";
        wrong.textContent = scaleOf() === "limits" && !givenLimits() ? "from must be below to" : "";
    }
    function changed() {
        show();
        onchange();
    }
    show();
    return h("span", { class: "scale" }, scale, limits, spread);
}

/** A colour bar that lies, with its ends: a legend of its own. `range`: [low, high, most], or null: a text says whose. */
export function lyingBar(range, text, width = 180) {
    const box = h("div", { class: "legend" });
    if (range) box.append(barOf(range, width));
    if (text) box.append(h("span", {}, text));
    return box;
}

function barOf([low, high, most = high], width) {
    const interpolate = COLOR_MAPS[settings.colorMap],
        clipped = most > high,
        root = newSvg(width + 68, 26, "colour scale of the maps"),
        id = `lying-${++gradients}`;
    const stops = root.append("defs").append("linearGradient").attr("id", id);
    for (let i = 0; i <= 16; i++) stops.append("stop").attr("offset", i / 16).attr("stop-color", interpolate(i / 16));
    root.append("rect").attr("x", 22).attr("width", width).attr("height", 10).attr("fill", `url(#${id})`);
    if (clipped) {
        const arrow = root.append("path").attr("d", `M${width + 24},0v10l7,-5z`).attr("fill", interpolate(1));
        arrow.append("title").text(`the largest weight is ${number(most)}`);
    }
    root.append("g")
        .attr("transform", "translate(22,10)")
        .call(
            d3
                .axisBottom(d3.scaleLinear([low, high], [0, width]))
                .tickValues([low, (low + high) / 2, high])
                .tickSize(3)
                .tickFormat((x) => (Math.abs(x) < (high - low) / 1000 ? "0" : number(Number(x.toPrecision(2))))),
        )
        .call((g) => g.select(".domain").remove());
    return root.node();
}
