// SPDX-License-Identifier: MIT
// The scale of layers by heads: which end is worse, where rules have their bounds, and what outlines and marks mean.
/* global d3 */
import { h, number } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";

const LONG = 230;

const WORSE = { low: "low is bad", high: "high is bad", both: "low and high are bad", neither: "no good or bad end" };

function scaleNode([low, high], interpolate, metric, bounds) {
    const root = newSvg(LONG + 22, 32, `colour scale of ${metric.name}`),
        gradient = root.append("defs").append("linearGradient").attr("id", "overview-scale"),
        x = d3.scaleLinear([low, high], [0, LONG]);
    for (let i = 0; i <= 16; i++)
        put(gradient, "stop", { offset: i / 16, "stop-color": interpolate(i / 16) });
    const plot = root.append("g").attr("transform", "translate(8,2)");
    plot.append("rect").attr("width", LONG).attr("height", 10).attr("fill", "url(#overview-scale)");
    plot.append("g")
        .attr("transform", "translate(0,10)")
        .call(d3.axisBottom(x).ticks(4).tickSize(3).tickFormat(number))
        .call((g) => g.select(".domain").remove());
    for (const { value, name } of bounds.filter((bound) => bound.value >= low && bound.value <= high))
        put(plot, "path", { class: "bound", d: `M${x(value)},-2v14` })
            .append("title")
            .text(name);
    return root.node();
}

function swatch(name) {
    const root = newSvg(16, 14, "").attr("aria-hidden", "true");
    if (name === "missing") root.append("rect").attr("class", "missing").attr("x", 2).attr("y", 1).attr("width", 12).attr("height", 12);
    else root.append("path").attr("class", `outline ${name}`).attr("d", "M2.5,2h11v10h-11z");
    return root.node();
}

/** Names colours that are distances from the range of each head itself. */
function distanceNode(colors) {
    const at = [-1, -0.5, 0, 0.5, 1],
        root = newSvg(at.length * 26, 12, "colours by distance").attr("aria-hidden", "true");
    at.forEach((t, i) => root.append("rect").attr("x", i * 26).attr("width", 26).attr("height", 12).attr("fill", colors(t)));
    return h("span", {}, "below ", root.node(), "above each head's own range while it was healthy");
}

/** `bounds` as boundsOf() gives them; `ranges`: where colours are distances from those, else null. */
export function drawLegend(box, { limits, interpolate, metric, bounds, ranges }) {
    const part = (name, text) => h("span", {}, swatch(name), text);
    box.replaceChildren(
        ranges ? distanceNode(ranges.colors) : scaleNode(limits, interpolate, metric, bounds),
        h("span", { class: "worse" }, `${metric.name}: ${WORSE[metric.worse] ?? WORSE.neither}`),
        ...bounds.map((bound) => h("span", { class: "bounds" }, bound.name)),
        part("firing", "an alert fires"),
        part("missing", ranges ? "no number, or no healthy windows" : "no number"),
    );
}
