// SPDX-License-Identifier: MIT
// The whole model: a metric layer by layer, the mean maps side by side, how attention flows from encoder to decoder, and
// rollout.
/* global d3 */
import { loadIntervals } from "./alerts_past.js";
import { find, floats } from "./api.js";
import { asShown, looksCausal, paddingText } from "./cells.js";
import { drawBound, leftRoom, legendOf, nameLeft, valueDomain } from "./chart.js";
import { alertsAbout, alertsAt } from "./chart_marks.js";
import { byLayer, h, hideTooltip, layerName, note, number, refill, select, showTooltip } from "./dom.js";
import { figure, put, svg as newSvg } from "./figure.js";
import { allHeads, overHeads } from "./load_maps.js";
import { scalePicker } from "./map_scale.js";
import { drawMap } from "./map_view.js";
import { headCount, metricPicker, paddingPicker, unitOf } from "./pickers.js";
import { go, keep, link } from "./router.js";
import { boundsOf, loadRules } from "./rules.js";
import { mapStep, NOT_KEPT, openRun } from "./run.js";
import { set, settings } from "./settings.js";
import { liveValues } from "./store.js";
import { Thumbs } from "./thumbs.js";
import { firingOf, sinceText } from "./verdict.js";
import { kept, paced, pacedUntilStored } from "./view_state.js";
import { ViewTime, wrongMoment } from "./view_time.js";

const REFRESH_MS = 2000;
const HEIGHT = 300,
    TOP = 30,
    BOTTOM = 86;
/** More heads than these have no dots. */
const DOTS = 1500;
/** Classes of the first, second and third kind of attention. */
const COLORS = ["", "second", "third"];
const siteOf = (map) => `${map.stack} ${map.site}`;
const sitesOf = (layers) => [...new Set(layers.map(siteOf))];

const isMeasured = (map, metric) => liveValues(map, metric.name)?.some(Number.isFinite);
const meanOf = (map, metric) => d3.mean(liveValues(map, metric.name).filter(Number.isFinite));

/** One dot per head of a layer, which leads to it. */
function drawDots(root, map, { x, y, metric, color, toHead }) {
    liveValues(map, metric.name).forEach((value, head) => {
        if (!Number.isFinite(value)) return;
        put(root, "circle", { class: `dot ${color}`, r: 3.2, cx: x(layerName(map)), cy: y(value) })
            .on("pointermove", () =>
                showTooltip(`${layerName(map)}.h${head}: ${number(value)}`, d3.event.clientX, d3.event.clientY),
            )
            .on("pointerleave", hideTooltip)
            .on("click", () => toHead(map, head));
    });
}

/** Draws many heads as their spread: how far apart they are in a layer, and where the middle eight of ten are. */
function drawSpread(root, map, { x, y, metric, color }) {
    const values = liveValues(map, metric.name).filter(Number.isFinite).sort(d3.ascending),
        at = x(layerName(map));
    const bar = (low, high, width) =>
        put(root, "line", { class: `spread ${color}`, x1: at, x2: at, y1: y(low), y2: y(high), "stroke-width": width });
    bar(values[0], values[values.length - 1], 1);
    bar(d3.quantile(values, 0.1), d3.quantile(values, 0.9), 4)
        .append("title")
        .text(
            `${layerName(map)}: ${number(values[0])} to ${number(values[values.length - 1])}, mean ${number(d3.mean(values))}`,
        );
}

/** The layers of one kind of attention, under its name: their heads, and a line through their means. */
function drawKind(root, layers, { x, y, metric, color, toHead, isMany }) {
    const at = (map) => x(layerName(map)),
        line = d3
            .line()
            .x(at)
            .y((map) => y(meanOf(map, metric)));
    put(root, "text", { class: `kind ${color}`, x: (at(layers[0]) + at(layers[layers.length - 1])) / 2, y: TOP - 9, "text-anchor": "middle" }, siteOf(layers[0]));
    root.append("path").attr("class", `line ${color}`).attr("d", line(layers));
    layers.forEach((map) => (isMany ? drawSpread : drawDots)(root, map, { x, y, metric, color, toHead }));
}

function drawLayerNames(root, layers, x, room) {
    const every = Math.ceil(layers.length / Math.max(1, Math.floor(room / 26)));
    layers.forEach((map, i) => {
        if (i % every !== 0) return;
        root.append("text")
            .attr("class", "soft")
            .attr("transform", `translate(${x(layerName(map)) + 4},${HEIGHT - BOTTOM + 12}) rotate(-40)`)
            .attr("text-anchor", "end")
            .text(layers.length > 14 ? `${map.stack[0]}${map.layer}${map.site[0]}` : layerName(map));
    });
}

/** A triangle over each layer of which an alert fires. */
function drawFiring(root, layers, x, alerts) {
    for (const map of layers) {
        const own = alertsAbout(alerts, map),
            names = [...new Set(own.map((alert) => `${alert.rule} ${sinceText(alert)}`))],
            kind = own.some(({ severity }) => severity !== "info") ? "" : " info";
        if (own.length === 0) continue;
        put(root, "path", { class: `onset told${kind}`, d: `M${x(layerName(map)) - 5},${TOP - 4}h10l-5,9z` })
            .append("title")
            .text(`${layerName(map)}: ${names.join(", ")}`);
    }
}

/** A metric layer after layer, one kind of attention after the other, with the bounds of `rules` and the `alerts` that fire. */
function drawStrips(frame, shown, metric, { toHead, rules, alerts }) {
    const measured = shown.filter((map) => isMeasured(map, metric)),
        sites = sitesOf(measured).sort((a, b) => a.includes("cross") - b.includes("cross"));
    const kinds = sites.map((site) => measured.filter((map) => siteOf(map) === site)),
        layers = kinds.flat();
    if (layers.length === 0) return frame.body.replaceChildren(note(`No layer has ${metric.name}.`));
    const width = Math.max(340, frame.body.clientWidth || 900),
        root = newSvg(width, HEIGHT, `${metric.name} by layer`);
    const values = layers.flatMap((map) => liveValues(map, metric.name)).filter(Number.isFinite);
    const bounds = [...new Map(layers.flatMap((map) => boundsOf(rules, metric, map)).map((bound) => [bound.name, bound])).values()],
        y = d3.scaleLinear(valueDomain({ lines: [{ values }], bounds, domain: metric.domain }), [HEIGHT - BOTTOM, TOP]),
        left = leftRoom(y, 5);
    const x = d3.scalePoint(layers.map(layerName), [left + 16, width - 16]).padding(0.5);
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(5).tickFormat(number));
    nameLeft(root, (TOP + HEIGHT - BOTTOM) / 2, unitOf(metric));
    drawLayerNames(root, layers, x, width - left);
    for (const bound of bounds) drawBound(root, { ys: y, left }, bound, width);
    drawFiring(root, layers, x, alerts);
    const isMany = values.length > DOTS;
    kinds.forEach((own, i) => drawKind(root, own, { x, y, metric, color: COLORS[i % COLORS.length], toHead, isMany }));
    put(root, "text", { class: "soft", x: width - 4, y: 10, "text-anchor": "end" },
        isMany ? "| least to largest head, ▮ p10 to p90, — mean of the layer" : "● a head, — mean of the layer");
    refill(frame.body, root.node(), legendOf({ bounds }, { ys: y }));
}

const FLOW = [
    ["encoder", "self", "Encoder: source tokens read each other"],
    ["decoder", "cross", "Cross: target tokens read the source"],
    ["decoder", "self", "Decoder: target tokens read earlier ones"],
];

/** The mean map of a layer in a frame; why there is none, in its place. */
async function meanFrame(run, map, title, { last, ...options }) {
    const found = await overHeads(run, map, "mean", last).catch(() => null),
        frame = figure(title, found && !found.error ? mapStep(found, last === null ? run.newest(map) : null) : "").about(
            layerName(map),
            "mean-map",
        );
    if (found && !found.error) drawMap(frame.body, found, options);
    else frame.body.append(note("no map"));
    return frame;
}

/** Rollout through the layers of a stack, up to a layer that a slider chooses. */
class Rollout {
    constructor(stack, upTo) {
        Object.assign(this, { stack, upTo, found: null });
        this.frame = figure("Rollout", stack);
        this.map = h("div", {});
        this.slider = h("input", {
            type: "range",
            min: 0,
            "aria-label": "rollout up to layer",
            oninput: () => {
                this.upTo = Number(this.slider.value);
                keep({ upto: this.upTo });
                this.draw();
            },
        });
        this.content = h(
            "div",
            {},
            this.map,
            h("div", { class: "controls" }, h("label", { class: "pick" }, "up to layer ", this.slider)),
        );
    }

    take(found) {
        const cells = found.rows * found.columns,
            first = found.values.subarray(0, cells);
        this.found = asShown({ ...found, q_offset: 0, site: "self", causal: looksCausal({ ...found, values: first }) });
        if (!this.content.isConnected) this.frame.body.replaceChildren(this.content);
        this.draw();
    }

    draw() {
        const { found, stack } = this,
            last = found.layers.length - 1,
            i = Math.max(0, Math.min(last, this.upTo ?? last)),
            cells = found.rows * found.columns;
        this.slider.max = last;
        this.slider.value = i;
        const approximate = found.exact ? "" : " · approximate: maps were pooled, or are of different steps";
        const padding = paddingText(found) && ` · ${paddingText(found)}`;
        this.frame.setTitle("Rollout", `${stack}, layers 0 to ${found.layers[i]}, step ${found.step}${approximate}${padding}`);
        this.frame.about(`${stack}.0-${found.layers[i]}`, "rollout");
        drawMap(
            this.map,
            { ...found, stack, values: found.values.subarray(i * cells, (i + 1) * cells) },
            { size: 330, name: "rollout", xName: "input position", yName: "output position" },
        );
    }
}

const NO_ROLLOUT = "There is no rollout: it needs a square map of every layer of the stack, of one sequence.";
const NO_ROLLOUT_THEN = "There is no rollout of a window that has passed: it is computed from the newest maps in memory.";
const NO_PAST_ROLLOUT =
    "There is no rollout of this run: it is computed from the newest maps in memory, which are not kept over a restart of attnd, nor when the job has begun another run.";

/** Px of a side of the thumbnails; 0: as large as all heads fit. */
const SIDES = [
    [0, "to fit"],
    [32, "small"],
    [64, "medium"],
    [128, "large"],
];

/** Reads from the address what it chooses among the layers there are. */
function choices(layers, params) {
    const stacks = [...new Set(layers.map((map) => map.stack))],
        numbers = [...new Set(layers.map((map) => map.layer))].sort((a, b) => a - b);
    return {
        stacks,
        numbers,
        level: numbers.includes(Number(params.level)) ? Number(params.level) : numbers[0],
        stack: stacks.includes(params.rollout) ? params.rollout : stacks[stacks.length - 1],
    };
}

const choose = (label, values, value, onchange) =>
    select(
        label,
        values.map((one) => (Array.isArray(one) ? one : [one, one])),
        value,
        onchange,
    );

class ModelView {
    constructor(params, { run, metric, layers, store, isCurrent }) {
        Object.assign(this, { params, run, metric, layers, store, isCurrent, rules: [], alerts: [] });
        this.time = new ViewTime({ run, metric, where: {}, params, isCurrent, onTime: () => this.drawMoment() });
    }

    place(map) {
        return { ...this.params, stack: map.stack, layer: map.layer, site: map.site };
    }

    build(root) {
        const { params, layers, metric, run, time } = this,
            { stacks, numbers, level, stack } = choices(layers, params),
            change = (changes) => go("model", { ...params, ...changes }),
            isBoth = sitesOf(layers).length > 1;
        this.level = level;
        this.strips = figure(`${metric.name} by layer`, metric.description, "wide").about("", `${metric.name}-by-layer`);
        this.maps = figure("Maps of all heads", "", "wide").plain();
        this.flow = figure("Attention flow", `layer ${level}`, isBoth ? "wide" : "").plain();
        this.rollout = new Rollout(stack, params.upto === undefined ? null : Number(params.upto));
        this.flowBox = h("div", { class: "grid" });
        this.thumbs = new Thumbs({
            load: (layer, cells) => allHeads(run, layer, cells, time.last),
            hrefOf: (layer) => link("layer", this.place(layer)),
            onOpen: (layer, head) => go(head === null ? "layer" : "head", { ...this.place(layer), head: head ?? undefined }),
            isCurrent: this.isCurrent,
        });
        this.why = note(NOT_KEPT);
        this.maps.body.append(this.why, this.thumbs.element);
        const levels = numbers.map((n) => [String(n), `layer ${n}`]);
        this.flow.body.append(
            h("div", { class: "controls" }, choose("layer", levels, String(level), (value) => change({ level: value }))),
            this.flowBox,
        );
        if (stacks.length > 1)
            this.rollout.frame
                .querySelector("header")
                .append(choose("rollout of", stacks, stack, (value) => change({ rollout: value })));
        const pictures = isBoth
            ? [this.flow, h("div", { class: "grid" }, this.rollout.frame)]
            : [h("div", { class: "grid" }, this.flow, this.rollout.frame)];
        root.append(
            ...[wrongMoment(time)].filter(Boolean),
            this.makeControls(change),
            h("div", { class: "stack" }, this.maps, this.strips, ...pictures),
        );
        this.rolled = kept({
            body: this.rollout.frame.body,
            isCurrent: this.isCurrent,
            load: () => this.loadRollout(stack),
            draw: (found) => this.rollout.take(found),
            nothing: () => (time.last !== null ? NO_ROLLOUT_THEN : run.past ? NO_PAST_ROLLOUT : NO_ROLLOUT),
        });
    }

    makeControls(change) {
        const side = SIDES.some(([px]) => px === settings.thumbs) ? settings.thumbs : 0;
        return h(
            "div",
            { class: "controls" },
            metricPicker(this.run, this.metric.name, (value) => change({ metric: value })),
            scalePicker(() => {
                this.thumbs.repaint();
                this.drawFlow();
                this.rolled.now();
            }),
            paddingPicker(this.params, () => this.drawMoment()),
            choose(
                "thumbnails",
                SIDES.map(([px, text]) => [String(px), text]),
                String(side),
                (value) => {
                    set("thumbs", Number(value));
                    this.showThumbs();
                },
            ),
            this.time.element,
        );
    }

    async loadAlerts() {
        this.alerts = await loadIntervals(this.params.job, this.run.run).catch(() => this.alerts);
    }

    /** Alerts that fire at the moment that is shown. */
    held() {
        return alertsAt(this.alerts, this.time.step);
    }

    markThumbs() {
        const held = this.held(),
            firing = new Map(this.layers.map((map) => [layerName(map), firingOf(map, held)]));
        this.thumbs.mark((layer, head) => firing.get(layerName(layer))?.has(head) ?? false);
    }

    async loadRollout(stack) {
        if (this.time.last !== null) return null;
        const asked = { job: this.params.job, run: this.run.run, stack, packed: 1 },
            found = await find("rollout", asked).catch((error) => (this.run.past ? null : { error }));
        return found?.values ? { ...found, values: floats(found.values) } : found;
    }

    /* Drawing */

    showThumbs() {
        const rows = this.layers.map((map) => ({
            stack: map.stack,
            layer: map.layer,
            site: map.site,
            module: map.module,
            heads: Math.max(1, headCount(map)),
        }));
        this.thumbs.show(
            rows.sort((a, b) => sitesOf(this.layers).indexOf(siteOf(a)) - sitesOf(this.layers).indexOf(siteOf(b)) || byLayer(a, b)),
            this.maps.body.clientWidth || 900,
            SIDES.some(([px]) => px === settings.thumbs) ? settings.thumbs : 0,
        );
        this.thumbs.askNext();
    }

    drawStrips() {
        const { run, metric, time } = this,
            layers = run.layers(),
            shown =
                time.last === null
                    ? layers
                    : layers.map((map) => ({ ...map, heads: { [metric.name]: time.values(map) ?? [] }, spectrum: {} }));
        drawStrips(this.strips, shown, metric, {
            toHead: (map, head) => go("head", { ...this.place(map), head }),
            rules: this.rules,
            alerts: this.held(),
        });
    }

    async drawFlow() {
        const { layers, level, run, time, flowBox } = this,
            { last } = time;
        const parts = FLOW.map(([part, kind, title]) => [
            layers.find((one) => one.stack === part && one.site === kind && one.layer === level),
            title,
            kind === "cross" ? { xName: "source position (key)", yName: "target position (query)" } : {},
        ]).filter(([map]) => map);
        const frames = await Promise.all(
            parts.map(([map, title, names]) => meanFrame(run, map, title, { last, size: 330, name: title, ...names })),
        );
        frames.forEach((frame, i) => frame.querySelector(".sub").prepend(`${layerName(parts[i][0])}, `));
        if (this.isCurrent() && last === time.last) flowBox.replaceChildren(...frames);
    }

    drawHeading() {
        const heads = d3.sum(this.layers, headCount);
        this.maps.setTitle("Maps of all heads", `${this.layers.length} layers, ${heads} heads · ${this.time.text()}`);
        this.why.hidden = !this.thumbs.isOfMeans();
    }

    /** Another moment, or more windows. */
    drawMoment() {
        this.thumbs.reload();
        this.markThumbs();
        return this.drawAll();
    }

    drawAll() {
        this.drawHeading();
        this.drawStrips();
        return Promise.all([this.drawFlow(), this.rolled.now()]);
    }

    /* Events */

    /** Returns how to stop. */
    listen() {
        const { store, run, time } = this;
        const drawSoon = paced(() => {
            if (time.last !== null) return;
            this.thumbs.reload();
            if (!this.rollout.content.contains(document.activeElement)) this.drawAll();
        }, REFRESH_MS);
        const alertsSoon = pacedUntilStored(async () => {
            await this.loadAlerts();
            if (!this.isCurrent()) return;
            this.drawStrips();
            this.markThumbs();
        });
        this.thumbs.onTake = () => this.drawHeading();
        const ends = [
            store.on("live", (live) => live.run === run.run && drawSoon()),
            store.on("summary", (summary) => summary.run === run.run && time.reloadSoon()),
            store.on("alerts", alertsSoon),
            drawSoon.stop,
            alertsSoon.stop,
            this.rolled.stop,
            () => time.stop(),
            () => this.thumbs.stop(),
        ];
        return () => ends.forEach((end) => end());
    }
}

export async function show(root, params, { store, isCurrent }) {
    const run = await openRun(store, params),
        metric = store.metric(params.metric || "entropy_normalized"),
        layers = run.layers();
    if (!isCurrent()) return null;
    if (layers.length === 0) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const view = new ModelView(params, { run, metric, layers, store, isCurrent });
    [view.rules] = await Promise.all([loadRules(params.job), view.loadAlerts(), run.load([metric.name]), view.time.load()]);
    if (!isCurrent()) return null;
    view.build(root);
    view.showThumbs();
    const end = view.listen();
    await view.drawAll();
    performance.mark("data");
    view.markThumbs();
    return end;
}
