// SPDX-License-Identifier: MIT
// A series over the windows of a run: lines, bands, a baseline, and marks of what happened.
/* global d3 */
import { h, hideTooltip, number, refill, say, showTooltip } from "./dom.js";
import { svg as newSvg } from "./figure.js";

const finite = (x) => x !== null && x !== undefined && Number.isFinite(x);

function yDomain({ lines, bands, baseline, domain }) {
    const all = lines
        .flatMap((line) => line.values)
        .concat(bands.flatMap((band) => [...band.low, ...band.high]))
        .concat(baseline ? [baseline.mean - baseline.std, baseline.mean + baseline.std] : [])
        .filter(finite);
    if (all.length === 0) return [0, 1];
    const low = d3.min(all),
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

/**
 * Draws into `container`. `x`: the last unit of each window; `lines`: {name, values, class}; `bands`: {name, ends: [name, name], low, high, class};
 * `domain`: what y can be, or null; `baseline`: {mean, std, name} or null; `events`: {x, name, label (shorter), class}; `unit` of x, `yName`; `height`.
 */
export function drawChart(
    container,
    {
        x,
        lines,
        bands = [],
        baseline = null,
        events = [],
        unit = "step",
        yName = "",
        domain = null,
        height = 260,
        name = "chart",
    },
) {
    const width = Math.max(320, container.clientWidth || 640);
    const left = 54,
        right = 14,
        top = 10,
        bottom = 34;
    const root = newSvg(width, height, name);
    const xs = d3.scaleLinear(x.length > 1 ? [x[0], x[x.length - 1]] : [x[0] - 1, x[0] + 1], [left, width - right]);
    const ys = d3.scaleLinear(yDomain({ lines, bands, baseline, domain }), [height - bottom, top]).clamp(true);
    root.append("g")
        .attr("transform", `translate(0,${height - bottom})`)
        .call(
            d3
                .axisBottom(xs)
                .ticks(Math.floor(width / 90))
                .tickFormat((v) => (Number.isInteger(v) ? v : "")),
        );
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(ys).ticks(5).tickFormat(number));
    root.append("text")
        .attr("class", "soft")
        .attr("x", (left + width - right) / 2)
        .attr("y", height - 3)
        .attr("text-anchor", "middle")
        .text(unit);
    root.append("text")
        .attr("class", "soft")
        .attr("transform", `translate(11,${(top + height - bottom) / 2}) rotate(-90)`)
        .attr("text-anchor", "middle")
        .text(yName);
    if (baseline && finite(baseline.mean)) {
        if (finite(baseline.std) && baseline.std > 0) {
            root.append("rect")
                .attr("class", "baseline-band")
                .attr("x", left)
                .attr("width", width - right - left)
                .attr("y", ys(baseline.mean + baseline.std))
                .attr("height", Math.max(1, ys(baseline.mean - baseline.std) - ys(baseline.mean + baseline.std)));
        }
        root.append("line")
            .attr("class", "baseline")
            .attr("x1", left)
            .attr("x2", width - right)
            .attr("y1", ys(baseline.mean))
            .attr("y2", ys(baseline.mean));
    }
    for (const band of bands) {
        root.append("path")
            .attr("class", band.class)
            .attr(
                "d",
                d3
                    .area()
                    .defined((_, i) => finite(band.low[i]) && finite(band.high[i]))
                    .x((_, i) => xs(x[i]))
                    .y0((_, i) => ys(band.low[i]))
                    .y1((_, i) => ys(band.high[i]))(x),
            );
    }
    for (const line of lines) {
        root.append("path")
            .attr("class", line.class)
            .attr(
                "d",
                d3
                    .line()
                    .defined((_, i) => finite(line.values[i]))
                    .x((_, i) => xs(x[i]))
                    .y((_, i) => ys(line.values[i]))(x),
            );
        if (x.length === 1 && finite(line.values[0]))
            root.append("circle").attr("class", "dot").attr("r", 3).attr("cx", xs(x[0])).attr("cy", ys(line.values[0]));
    }
    for (const event of events) {
        const at = xs(event.x);
        if (at < left - 1 || at > width - right + 1) continue;
        root.append("line")
            .attr("class", event.class)
            .attr("x1", at)
            .attr("x2", at)
            .attr("y1", top)
            .attr("y2", height - bottom)
            .append("title")
            .text(event.name);
        root.append("text")
            .attr("class", "over")
            .attr("transform", `translate(${at + 4},${top + 4}) rotate(90)`)
            .text(event.label ?? event.name);
    }
    const cursor = root
        .append("line")
        .attr("class", "rule")
        .attr("data-transient", "")
        .attr("y1", top)
        .attr("y2", height - bottom)
        .attr("visibility", "hidden");
    let at = x.length - 1;
    const describe = (i) =>
        `${unit} ${x[i]}: ` +
        [
            ...lines.map((line) => `${line.name} ${number(line.values[i])}`),
            ...bands.flatMap(({ ends, low, high }) => [
                `${ends[0]} ${number(low[i])}`,
                `${ends[1]} ${number(high[i])}`,
            ]),
        ].join(", ");
    function moveTo(i) {
        at = Math.max(0, Math.min(x.length - 1, i));
        cursor.attr("visibility", "visible").attr("x1", xs(x[at])).attr("x2", xs(x[at]));
    }
    root.attr("tabindex", 0)
        .on("pointermove", () => {
            const box = root.node().getBoundingClientRect(),
                px = ((d3.event.clientX - box.left) * width) / box.width;
            moveTo(d3.bisectCenter ? d3.bisectCenter(x, xs.invert(px)) : nearest(x, xs.invert(px)));
            showTooltip(describe(at), d3.event.clientX, d3.event.clientY);
        })
        .on("pointerleave", () => {
            hideTooltip();
            cursor.attr("visibility", "hidden");
        })
        .on("keydown", () => {
            const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[d3.event.key];
            if (!step) return;
            d3.event.preventDefault();
            moveTo(at + step);
            const box = cursor.node().getBoundingClientRect();
            showTooltip(describe(at), box.left, box.top);
            say(describe(at));
        })
        .on("blur", hideTooltip);
    const legend = [
        ...bands.map((band) => ({ ...band, band: true })),
        ...lines,
        ...(baseline && finite(baseline.mean) ? [{ name: baseline.name, class: "baseline" }] : []),
    ];
    refill(container, root.node(), h("div", { class: "legend" }, legend.map(swatch)));
}

function nearest(sorted, value) {
    const i = Math.max(1, Math.min(sorted.length - 1, d3.bisectLeft(sorted, value)));
    return sorted.length > 1 && value - sorted[i - 1] > sorted[i] - value ? i : i - 1;
}
