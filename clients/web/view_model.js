// SPDX-License-Identifier: MIT
// The whole model: a metric layer by layer, the mean maps side by side, how attention flows from encoder to decoder, and
// rollout.
/* global d3 */
import { find, floats } from "./api.js";
import { looksCausal } from "./cells.js";
import { leftRoom, nameLeft } from "./chart.js";
import { byLayer, h, hideTooltip, layerName, note, number, refill, select, showTooltip } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap, rangePicker } from "./map_view.js";
import { metricPicker, unitOf } from "./pickers.js";
import { go, keep } from "./router.js";
import { mapStep, NOT_KEPT, openRun } from "./run.js";
import { liveValues } from "./store.js";
import { kept, paced } from "./view_state.js";

const REFRESH_MS = 2000;
const HEIGHT = 300,
    TOP = 30,
    BOTTOM = 86;
/** Of the first, second and third kind of attention. */
const COLORS = ["", "second", "third"];
const siteOf = (map) => `${map.stack} ${map.site}`;
const sitesOf = (layers) => [...new Set(layers.map(siteOf))];

const isMeasured = (map, metric) => liveValues(map, metric.name)?.some(Number.isFinite);
const meanOf = (map, metric) => d3.mean(liveValues(map, metric.name).filter(Number.isFinite));

/** One dot per head of a layer, which leads to it. */
function drawDots(root, map, { x, y, metric, color, toHead }) {
    liveValues(map, metric.name).forEach((value, head) => {
        if (!Number.isFinite(value)) return;
        root.append("circle")
            .attr("class", `dot ${color}`)
            .attr("r", 3.2)
            .attr("cx", x(layerName(map)))
            .attr("cy", y(value))
            .on("pointermove", () =>
                showTooltip(`${layerName(map)}.h${head}: ${number(value)}`, d3.event.clientX, d3.event.clientY),
            )
            .on("pointerleave", hideTooltip)
            .on("click", () => toHead(map, head));
    });
}

/** The layers of one kind of attention, under its name: dots, and a line through their means. */
function drawKind(root, layers, { x, y, metric, color, toHead }) {
    const at = (map) => x(layerName(map)),
        line = d3
            .line()
            .x(at)
            .y((map) => y(meanOf(map, metric)));
    root.append("text")
        .attr("class", `kind ${color}`)
        .attr("x", (at(layers[0]) + at(layers[layers.length - 1])) / 2)
        .attr("y", TOP - 9)
        .attr("text-anchor", "middle")
        .text(siteOf(layers[0]));
    root.append("path").attr("class", `line ${color}`).attr("d", line(layers));
    layers.forEach((map) => drawDots(root, map, { x, y, metric, color, toHead }));
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

/** A metric layer after layer, one kind of attention after the other. */
function drawStrips(frame, run, metric, toHead) {
    const measured = run.layers().filter((map) => isMeasured(map, metric)),
        sites = sitesOf(measured).sort((a, b) => a.includes("cross") - b.includes("cross"));
    const kinds = sites.map((site) => measured.filter((map) => siteOf(map) === site)),
        layers = kinds.flat();
    if (layers.length === 0) return frame.body.replaceChildren(note(`No layer has ${metric.name}.`));
    const width = Math.max(340, frame.body.clientWidth || 900),
        root = newSvg(width, HEIGHT, `${metric.name} by layer`);
    const values = layers.flatMap((map) => liveValues(map, metric.name)).filter(Number.isFinite);
    const y = d3.scaleLinear(d3.extent(values), [HEIGHT - BOTTOM, TOP]).nice(5),
        left = leftRoom(y, 5);
    const x = d3.scalePoint(layers.map(layerName), [left + 16, width - 16]).padding(0.5);
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(5).tickFormat(number));
    nameLeft(root, (TOP + HEIGHT - BOTTOM) / 2, unitOf(metric));
    drawLayerNames(root, layers, x, width - left);
    kinds.forEach((own, i) => drawKind(root, own, { x, y, metric, color: COLORS[i % COLORS.length], toHead }));
    root.append("text")
        .attr("class", "soft")
        .attr("x", width - 4)
        .attr("y", 10)
        .attr("text-anchor", "end")
        .text("● a head, — mean of the layer");
    refill(frame.body, root.node());
}

const FLOW = [
    ["encoder", "self", "Encoder: source tokens read each other"],
    ["decoder", "cross", "Cross: target tokens read the source"],
    ["decoder", "self", "Decoder: target tokens read earlier ones"],
];

/** The mean map of a layer in a frame; why there is none, in its place. */
async function meanFrame(run, map, title, options) {
    const found = await run.map(map, { kind: "mean" }).catch(() => null),
        frame = figure(title, found && !found.error ? mapStep(found, run.newest(map)) : "").about(
            layerName(map),
            "mean-map",
        );
    if (found && !found.error) drawMap(frame.body, found, options);
    else frame.body.append(note("no map"));
    frame.ofWindow = found?.ofWindow ?? false;
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
        this.found = { ...found, q_offset: 0, causal: looksCausal({ ...found, values: first }) };
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
        this.frame.setTitle("Rollout", `${stack}, layers 0 to ${found.layers[i]}, step ${found.step}${approximate}`);
        this.frame.about(`${stack}.0-${found.layers[i]}`, "rollout");
        drawMap(
            this.map,
            { ...found, stack, values: found.values.subarray(i * cells, (i + 1) * cells) },
            { size: 330, name: "rollout", xName: "input position", yName: "output position" },
        );
    }
}

const NO_ROLLOUT = "There is no rollout: it needs a square map of every layer of the stack, of one sequence.";
const NO_PAST_ROLLOUT =
    "There is no rollout of this run: it is computed from the newest maps in memory, which are not kept over a restart of attnd, nor when the job has begun another run.";

/** What the address chooses among the layers there are. */
function choices(layers, params) {
    const sites = sitesOf(layers),
        stacks = [...new Set(layers.map((map) => map.stack))],
        numbers = [...new Set(layers.map((map) => map.layer))].sort((a, b) => a - b);
    return {
        sites,
        stacks,
        numbers,
        site: sites.includes(params.show) ? params.show : sites[0],
        level: numbers.includes(Number(params.level)) ? Number(params.level) : numbers[0],
        stack: stacks.includes(params.rollout) ? params.rollout : stacks[stacks.length - 1],
    };
}

const choose = (label, values, value, onchange) =>
    h(
        "div",
        { class: "controls" },
        select(
            label,
            values.map((one) => (Array.isArray(one) ? one : [one, one])),
            value,
            onchange,
        ),
    );

export async function show(root, params, { store, isCurrent }) {
    const run = await openRun(store, params),
        metric = store.metric(params.metric || "entropy_normalized"),
        layers = run.layers();
    if (!isCurrent()) return null;
    if (layers.length === 0) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    await run.load([metric.name]);
    if (!isCurrent()) return null;
    const { sites, stacks, numbers, site, level, stack } = choices(layers, params),
        set = (changes) => go("model", { ...params, ...changes }),
        place = (map) => ({ ...params, stack: map.stack, layer: map.layer, site: map.site });
    const strips = figure(`${metric.name} by layer`, metric.description, "wide").about("", `${metric.name}-by-layer`),
        maps = figure("Mean maps, layer by layer", site, "wide").plain(),
        flow = figure("Attention flow", `layer ${level}`, sites.length > 1 ? "wide" : "").plain(),
        rollout = new Rollout(stack, params.upto === undefined ? null : Number(params.upto));
    const mapsBox = h("div", { class: "grid small" }),
        flowBox = h("div", { class: "grid" });
    const whyMeans = note(NOT_KEPT);
    whyMeans.hidden = true;
    const siteChoice = choose("attention", sites, site, (value) => set({ show: value })),
        levels = numbers.map((n) => [String(n), `layer ${n}`]),
        levelChoice = choose("layer", levels, String(level), (value) => set({ level: value }));
    maps.body.append(siteChoice, mapsBox);
    flow.body.append(levelChoice, flowBox);
    if (stacks.length > 1) {
        const stackChoice = choose("rollout of", stacks, stack, (value) => set({ rollout: value }));
        rollout.frame.querySelector("header").append(stackChoice.firstChild);
    }
    const pictures =
        sites.length > 1
            ? [flow, h("div", { class: "grid" }, rollout.frame)]
            : [h("div", { class: "grid" }, flow, rollout.frame)];
    root.append(
        h(
            "div",
            { class: "controls" },
            metricPicker(run, metric.name, (value) => set({ metric: value })),
            rangePicker(() => drawAll()),
        ),
        h("div", { class: "stack" }, whyMeans, strips, maps, ...pictures),
    );

    async function drawMaps() {
        const own = layers.filter((map) => siteOf(map) === site).sort(byLayer);
        const frames = await Promise.all(
            own.map((map) =>
                meanFrame(run, map, layerName(map), {
                    size: 190,
                    axes: false,
                    bar: false,
                    name: `mean map of ${layerName(map)}`,
                    onPick: () => go("layer", place(map)),
                }),
            ),
        );
        if (!isCurrent()) return;
        whyMeans.hidden = !frames.some((frame) => frame.ofWindow);
        mapsBox.replaceChildren(...frames);
    }
    async function drawFlow() {
        const parts = FLOW.map(([part, kind, title]) => [
            layers.find((one) => one.stack === part && one.site === kind && one.layer === level),
            title,
            kind === "cross" ? { xName: "source position (key)", yName: "target position (query)" } : {},
        ]).filter(([map]) => map);
        const frames = await Promise.all(
            parts.map(([map, title, names]) => meanFrame(run, map, title, { size: 330, name: title, ...names })),
        );
        frames.forEach((frame, i) => frame.querySelector(".sub").prepend(`${layerName(parts[i][0])}, `));
        if (isCurrent()) flowBox.replaceChildren(...frames);
    }
    const rolled = kept({
        body: rollout.frame.body,
        isCurrent,
        async load() {
            const asked = { job: params.job, run: run.run, stack, packed: 1 },
                found = await find("rollout", asked).catch((error) => (run.past ? null : { error }));
            return found?.values ? { ...found, values: floats(found.values) } : found;
        },
        draw: (found) => rollout.take(found),
        nothing: () => (run.past ? NO_PAST_ROLLOUT : NO_ROLLOUT),
    });
    function drawAll() {
        drawStrips(strips, run, metric, (map, head) => go("head", { ...place(map), head }));
        return Promise.all([drawMaps(), drawFlow(), rolled.now()]);
    }
    await drawAll();
    performance.mark("data");
    const drawSoon = paced(() => {
        if (!rollout.content.contains(document.activeElement)) drawAll();
    }, REFRESH_MS);
    const end = store.on("live", (live) => live.run === run.run && drawSoon());
    return () => {
        drawSoon.stop();
        rolled.stop();
        end();
    };
}
