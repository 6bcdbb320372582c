// SPDX-License-Identifier: MIT
// Runs, and the heat map of layers by heads: live, or at any window of the run.
/* global d3 */
import { alertsList } from "./alerts_list.js";
import { firingAt, loadEndings, loadIntervals } from "./alerts_past.js";
import { find, floats, integers } from "./api.js";
import { COLOR_MAPS, extent } from "./colors.js";
import { byLayer, h, headName, hideTooltip, layerName, note, number, refill, say, select, showTooltip } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap } from "./map_view.js";
import { momentOf, windowAt } from "./moment.js";
import { facts, headCount, metricPicker, statisticPicker, unitOf } from "./pickers.js";
import { go, here, keep, link } from "./router.js";
import { runsTable, silences } from "./runs_table.js";
import { set, settings } from "./settings.js";
import { liveValues } from "./store.js";
import { paced } from "./view_state.js";

const POINTS = 400;
const PLAY_MS = 120;
/** The grid is asked for again at most so often, and so are alerts. */
const GRID_MS = 2000,
    ALERTS_MS = 500;
/** A change is marked for so many windows. */
const RECENT = 10;
/** Px beside a block: the numbers of its layers, the means over their heads. */
const LEFT = 42,
    MEANS = 54;

/** Over the finite numbers; NaN without any. */
function meanOf(values) {
    let sum = 0,
        count = 0;
    for (const x of values ?? [])
        if (x !== null && Number.isFinite(x)) {
            sum += x;
            count++;
        }
    return count ? sum / count : NaN;
}

async function loadGrid({ job, run, metric, statistic }) {
    const grid = await find("grid", { job, run, metric, statistic, points: POINTS, packed: 1 });
    if (!grid) return null;
    const windows = {
        last: integers(grid.windows.last),
        step: integers(grid.windows.step),
        epoch: integers(grid.windows.epoch),
    };
    const layers = new Map(grid.layers.map((layer) => [layerName(layer), { ...layer, values: floats(layer.values) }]));
    return { ...grid, windows, layers, count: windows.last.length };
}

/** Layers of the picture: those of the windows, and those that are live. */
function layersOf(store, grid) {
    const all = new Map();
    for (const [name, layer] of grid?.layers ?? [])
        all.set(name, { stack: layer.stack, layer: layer.layer, site: layer.site, heads: layer.heads });
    for (const map of store.layers()) {
        const heads = headCount(map);
        if (heads > 0) all.set(layerName(map), { stack: map.stack, layer: map.layer, site: map.site, heads });
    }
    return [...all.values()].sort(byLayer);
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

class HeatMap {
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

function drawLegend(box, [low, high], interpolate, metric) {
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

const sparkline = (values, at) => {
    const root = newSvg(300, 46, "over the run"),
        ok = values.filter(Number.isFinite);
    if (ok.length < 2) return null;
    const x = d3.scaleLinear([0, values.length - 1], [2, 298]),
        y = d3.scaleLinear(extent(ok), [42, 4]);
    root.append("path")
        .attr("class", "line")
        .attr(
            "d",
            d3
                .line()
                .defined(Number.isFinite)
                .x((_, i) => x(i))
                .y((v) => y(v))(values),
        );
    if (at !== null && Number.isFinite(values[at]))
        root.append("circle").attr("class", "dot").attr("r", 3.5).attr("cx", x(at)).attr("cy", y(values[at]));
    return root.node();
};

/** Each layer over the run, as the mean over its heads; a click calls `onPick(window)`. Returns how to mark a window. */
function drawTimeMap(container, grid, { limits, onPick, metric }) {
    const rows = [...grid.layers.values()].sort(byLayer),
        names = rows.map(layerName),
        columns = grid.count;
    const values = new Float32Array(rows.length * columns);
    rows.forEach((row, r) => {
        const column = new Float32Array(row.heads);
        for (let w = 0; w < columns; w++) {
            for (let head = 0; head < row.heads; head++) column[head] = row.values[head * columns + w];
            values[r * columns + w] = meanOf(column);
        }
    });
    const tall = Math.max(6, Math.min(22, 460 / rows.length)),
        long = Math.max(...names.map((name) => name.length)) * 6.4 + 26;
    const node = drawMap(
        container,
        { rows: rows.length, columns, values, labels: null },
        {
            size: Math.max(160, (container.clientWidth || 900) - long - 62),
            height: rows.length * tall,
            range: limits,
            xName: grid.unit,
            yName: "",
            yNames: names,
            xText: (w) => grid.windows.last[w],
            name: "layers over time",
            onPick: (r, w) => onPick(w),
            describe: (r, w, x) =>
                `${names[r]}, ${grid.unit} ${grid.windows.last[w]}: ${metric.name} ${number(x)}, mean over heads`,
        },
    );
    const plot = node.querySelector("rect.missing"),
        step = plot.width.baseVal.value / columns;
    const mark = d3
        .select(plot.parentNode)
        .append("rect")
        .attr("class", "cursor")
        .attr("data-transient", "")
        .attr("width", Math.max(1, step))
        .attr("height", plot.height.baseVal.value);
    return (at) => mark.attr("visibility", at === null ? "hidden" : "visible").attr("x", (at ?? 0) * step);
}

/** Why there is nothing over time: no window has closed, or only one. */
function whyNoTime(grid) {
    const epochs =
        "If this run says no epochs (w.epoch_end()), set window.unit=step: windows then close by themselves.";
    if (!grid) return note(`No window has closed yet. One closes with each epoch by default. ${epochs}`);
    return note(
        `There is one window so far: ${grid.unit} ${grid.windows.last[0]}. `,
        grid.unit === "epoch" ? epochs : "The picture begins with the second.",
    );
}

export async function show(root, params, { store, events, isCurrent }) {
    const metricName = params.metric || "entropy_normalized",
        statistic = params.statistic || "mean",
        metric = store.metric(metricName);
    const run = store.run;
    let [grid, intervals] = await Promise.all([
        loadGrid({ job: params.job, run, metric: metricName, statistic }),
        loadIntervals(params.job, run),
    ]);
    const ended = () => !["active", "idle"].includes(store.shownRun()?.state);
    if (!isCurrent()) return null;
    let moment = params.at, // as in the address; undefined: live
        at = windowAt(grid, moment); // the window of the grid; null: live
    let timer = null,
        endings = null,
        frameAsked = false,
        changed = new Set(),
        chosen = null;

    const heat = figure("Layers × heads", "", "heat"),
        legend = h("div", { class: "legend" }),
        cellBox = figure("Head", "", "one-head").plain(),
        alertsBox = figure("Alerts", "", "alerts").plain();
    const runsBox = figure("Runs", "", "wide all-runs").plain(),
        timeBox = figure("Layers × time", "", "time-map");
    const slider = h("input", {
        type: "range",
        min: 0,
        max: grid ? grid.count : 0,
        value: at === null ? (grid ? grid.count : 0) : at,
        "aria-label": "time: window of the run, the last stop is live",
    });
    const when = h("span", { class: "soft" }),
        play = h("button", { type: "button", "aria-label": "play the run" }, "▶ play");
    const controls = h(
        "div",
        { class: "controls" },
        metricPicker(store, metricName, (value) => go("overview", { ...here().params, metric: value })),
        statisticPicker(statistic, (value) => go("overview", { ...here().params, statistic: value })),
        select(
            "range",
            [
                ["auto", "automatic range"],
                ["fixed", "fixed range"],
            ],
            settings.range,
            (value) => {
                set("range", value);
                drawAll();
            },
        ),
        h("div", { class: "time" }, play, slider, when),
    );
    const map = new HeatMap(heat, legend, (layer, head) => {
        chosen = { layer, head };
        keep({ cell: headName(layer, head) });
        drawCell();
    });
    map.onOpen = (layer, head) =>
        go("head", {
            ...params,
            at: undefined,
            cell: undefined,
            stack: layer.stack,
            layer: layer.layer,
            site: layer.site,
            head,
        });
    map.describe = (layer, head) =>
        `${headName(layer, head)}: ${number(valuesOf(layer)?.[head])}${marksOf(layer)
            .filter((m) => m.head === head)
            .map((m) => `\n${m.text}`)
            .join("")}`;

    /** Over the heads, at the moment that is shown. */
    function valuesOf(layer) {
        const live = at === null ? liveValues(store.newest(layer), metricName) : null;
        if (live) return live;
        const row = grid?.layers.get(layerName(layer));
        if (!row) return null;
        const window = at ?? grid.count - 1;
        return Array.from({ length: row.heads }, (_, head) => row.values[head * grid.count + window]);
    }

    /** What fires at the moment that is shown; of a run that is over, what fired at its end. */
    function alertsNow() {
        if (at !== null) return firingAt(intervals, grid.windows.step[at]);
        if (!ended()) return store.firing.filter((alert) => alert.job === params.job && alert.run === run);
        return grid ? firingAt(intervals, grid.windows.step[grid.count - 1]) : [];
    }

    function marksOf(layer) {
        const fires = held.filter((a) => a.stack === layer.stack && a.layer === layer.layer && a.site === layer.site);
        const marks = fires.map((a) => ({
            head: a.head,
            kind: a.severity === "info" ? "info" : "alert",
            text: `● ${a.rule} since epoch ${a.since.epoch}, step ${a.since.step}`,
        }));
        const summary = store.summaries.get(layerName(layer)),
            changes = summary?.drift?.[metricName]?.change ?? [];
        const now = at === null ? summary?.window.last : grid.windows.last[at];
        changes.forEach((unit, head) => {
            if (unit !== null && unit <= now && unit > now - RECENT * summary.window.every)
                marks.push({ head, kind: "drift", text: `▲ changed for good at ${summary.window.unit} ${unit}` });
        });
        return marks;
    }

    function range(layers) {
        if (settings.range === "fixed" && metric.domain) return metric.domain;
        const all = [];
        for (const layer of layers) for (const x of valuesOf(layer) ?? []) all.push(x);
        if (grid) for (const row of grid.layers.values()) for (const x of row.values) all.push(x);
        return extent(all);
    }

    let layers = [],
        limits = [0, 1],
        held = [],
        markTime = null;
    function colorRow(layer) {
        map.color(layer, valuesOf(layer), COLOR_MAPS[settings.colorMap], limits);
        map.mark(layer, marksOf(layer));
    }
    function drawAll() {
        layers = layersOf(store, grid);
        timeBox.hidden = layers.length === 0;
        if (layers.length === 0) {
            heat.body.replaceChildren(
                note(
                    `${params.job} has sent nothing that was measured yet. It is asked to capture every 50th step by default: attnctl plan get ${params.job} says what holds.`,
                ),
            );
            return;
        }
        map.cells.clear();
        map.draw(layers, heat.body.clientWidth || 900);
        recolor();
        const wanted = params.cell && layers.find((layer) => params.cell.startsWith(`${layerName(layer)}.h`));
        if (chosen || wanted) {
            const layer = chosen?.layer ?? wanted,
                head = chosen?.head ?? Number(params.cell.split(".h")[1]);
            if (map.rowAt(layer) && head < layer.heads) {
                chosen = { layer, head };
                map.moveTo(map.rowAt(layer), head, false);
            }
        }
        drawCell();
    }
    /** `isNew`: there are other numbers than before, not only another moment of them. */
    function recolor(isNew = true) {
        limits = range(layers);
        held = alertsNow();
        layers.forEach(colorRow);
        drawLegend(legend, limits, COLOR_MAPS[settings.colorMap], metric);
        const unit = grid?.unit ?? "";
        const newest = ended() ? "end of the run" : events.state === "live" ? "live" : "newest that came";
        when.textContent =
            at === null
                ? newest
                : `${unit} ${grid.windows.last[at]}${unit === "step" ? "" : ` · step ${grid.windows.step[at]}`}`;
        slider.setAttribute("aria-valuetext", when.textContent);
        if (isNew || !markTime) drawTime();
        markTime(at);
        heat.setTitle(
            "Layers × heads",
            `${unitOf(metric)} · ${at === null && layers.some((layer) => store.newest(layer)) ? "newest step" : statistic + " of the window"}`,
        );
    }

    function drawTime() {
        if (!grid || grid.count < 2) {
            timeBox.setTitle("Layers × time");
            timeBox.body.replaceChildren(whyNoTime(grid));
            markTime = () => {};
            return;
        }
        timeBox.setTitle("Layers × time", `${unitOf(metric)} · ${statistic} of the window, mean over heads`);
        markTime = drawTimeMap(timeBox.body, grid, {
            limits,
            metric,
            onPick: (window) => {
                stop();
                setTime(window);
            },
        });
    }

    function drawCell() {
        if (!chosen) {
            cellBox.setTitle("Head", "");
            cellBox.body.replaceChildren(
                h("p", { class: "soft" }, "Choose a cell: by a click, or with the arrow keys. Enter opens the head."),
            );
            return;
        }
        const { layer, head } = chosen,
            live = at === null ? store.newest(layer) : undefined,
            row = grid?.layers.get(layerName(layer));
        const series = row ? Array.from(row.values.subarray(head * grid.count, (head + 1) * grid.count)) : [];
        cellBox.setTitle(headName(layer, head), metric.description);
        refill(
            cellBox.body,
            h("p", { class: "big" }, number(valuesOf(layer)?.[head])),
            sparkline(series, at) ?? "",
            at !== null
                ? ""
                : facts([
                      ["pattern", live?.heads?.pattern?.[head]],
                      ["step", live?.step],
                      ["entropy_normalized", live?.heads?.entropy_normalized?.[head]],
                      ["first_token", live?.heads?.first_token?.[head]],
                      ["max_logit", live?.heads?.max_logit?.[head]],
                      ["importance", live?.heads?.importance?.[head]],
                      ["effective_rank", live?.spectrum?.effective_rank?.[head]],
                  ]),
            alertsOf(layer, head),
            h(
                "p",
                {},
                h(
                    "a",
                    {
                        href: link("head", {
                            ...params,
                            at: undefined,
                            cell: undefined,
                            stack: layer.stack,
                            layer: layer.layer,
                            site: layer.site,
                            head,
                        }),
                    },
                    "open this head",
                ),
                " · ",
                h(
                    "a",
                    {
                        href: link("layer", {
                            ...params,
                            at: undefined,
                            cell: undefined,
                            stack: layer.stack,
                            layer: layer.layer,
                            site: layer.site,
                        }),
                    },
                    "its layer",
                ),
            ),
        );
    }
    const alertsOf = (layer, head) => {
        const own = marksOf(layer).filter((mark) => mark.head === head || mark.head === null);
        return own.length
            ? h(
                  "ul",
                  { class: "list" },
                  own.map((mark) => h("li", { class: mark.kind === "alert" ? "firing" : null }, mark.text)),
              )
            : "";
    };
    function drawAlerts() {
        const now = (held = alertsNow()),
            before = intervals.filter(
                (one) =>
                    !now.some(
                        (a) =>
                            a.rule === one.rule &&
                            a.stack === one.stack &&
                            a.layer === one.layer &&
                            a.site === one.site &&
                            a.head === one.head,
                    ),
            );
        alertsBox.setTitle(
            "Alerts",
            at !== null ? `at step ${grid.windows.step[at]}` : ended() ? "at the end of the run" : "firing now",
        );
        refill(
            alertsBox.body,
            alertsList(now),
            before.length ? h("h3", {}, at === null ? "Earlier" : "At other times") : "",
            before.length ? alertsList(before) : "",
        );
        layers.forEach((layer) => map.mark(layer, marksOf(layer)));
    }
    const drawRuns = () => refill(runsBox.body, runsTable(store, params, endings));
    async function drawEndings() {
        endings = await loadEndings().catch(() => endings);
        if (isCurrent()) drawRuns();
    }

    function setTime(value) {
        at = !grid || value >= grid.count ? null : Math.max(0, value);
        moment = at === null ? undefined : momentOf(grid, at);
        slider.value = at === null ? slider.max : at;
        keep({ at: moment });
        recolor(false);
        drawCell();
        drawAlerts();
    }
    /** Other windows, the same moment. */
    function takeGrid(fresh) {
        grid = fresh;
        at = windowAt(grid, moment);
        slider.max = grid.count;
        slider.value = at ?? grid.count;
        if (layersOf(store, grid).length !== layers.length) return drawAll();
        recolor();
        drawCell();
    }
    function stop() {
        clearInterval(timer);
        timer = null;
        play.textContent = "▶ play";
    }
    slider.addEventListener("input", () => {
        stop();
        setTime(Number(slider.value));
    });
    play.addEventListener("click", () => {
        if (timer) return stop();
        if (!grid || grid.count < 2) return;
        if (at === null) setTime(0);
        play.textContent = "❚❚ stop";
        timer = setInterval(() => {
            setTime((at ?? grid.count) + 1);
            if (at === null) stop();
        }, PLAY_MS);
    });

    /** What came since the last frame is drawn at once. */
    function drawChanged() {
        frameAsked = false;
        if (!isCurrent()) return;
        if ([...changed].some((name) => !map.cells.has(name))) drawAll();
        for (const name of changed) {
            const layer = layers.find((one) => layerName(one) === name);
            if (layer && at === null) {
                colorRow(layer);
                map.flash(layer);
            }
        }
        if (chosen && changed.has(layerName(chosen.layer))) drawCell();
        changed = new Set();
    }
    function onLive(live) {
        changed.add(layerName(live));
        if (!frameAsked) {
            frameAsked = true;
            requestAnimationFrame(drawChanged);
        }
    }
    /** New windows: the whole grid again. */
    const onSummary = paced(async () => {
        const fresh = await loadGrid({ job: params.job, run, metric: metricName, statistic }).catch(() => null);
        if (fresh && isCurrent()) takeGrid(fresh);
    }, GRID_MS);
    const onAlerts = paced(async () => {
        intervals = await loadIntervals(params.job, run).catch(() => intervals);
        if (!isCurrent()) return;
        drawAlerts();
        drawEndings();
    }, ALERTS_MS);
    let silent = silences(store);
    function onClock() {
        const before = silent;
        silent = silences(store);
        if (silent !== before) drawRuns();
    }

    if (params.at !== undefined && at === null)
        root.append(
            note(
                `${params.at} is no window of this run; epoch3 or step120 would be, where it has them. This is the newest.`,
            ),
        );
    root.append(
        controls,
        h(
            "div",
            { class: "columns" },
            h("div", { class: "stack" }, heat, timeBox, runsBox),
            h("div", { class: "stack" }, cellBox, alertsBox),
        ),
    );
    heat.append(legend);
    alertsBox.body.tabIndex = 0; // it scrolls
    drawAll();
    drawAlerts();
    drawRuns();
    performance.mark("data");
    drawEndings();
    if (!grid && store.summaries.size) onSummary(); // windows that are about to be stored
    const width = heat.body.clientWidth,
        resize = new ResizeObserver(() => {
            if (Math.abs(heat.body.clientWidth - (resize.width ?? width)) > 30) {
                resize.width = heat.body.clientWidth;
                drawAll();
            }
        });
    resize.observe(heat.body);
    const ends = [
        store.on("live", onLive),
        store.on("summary", onSummary),
        store.on("alerts", () => {
            drawAlerts();
            onAlerts();
        }),
        store.on("jobs", drawRuns),
        store.on("clock", onClock),
        events.on("state", () => recolor(false)),
    ];
    return () => {
        stop();
        onSummary.stop();
        onAlerts.stop();
        resize.disconnect();
        ends.forEach((end) => end());
    };
}
