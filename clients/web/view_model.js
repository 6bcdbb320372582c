// SPDX-License-Identifier: MIT
// The whole model: a metric layer by layer, the mean maps side by side, how attention flows from encoder to decoder, and
// rollout.
/* global d3 */
import { find, floats } from "./api.js";
import { byLayer, errorNote, h, hideTooltip, layerName, note, number, select, showTooltip } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap } from "./map_view.js";
import { metricPicker, unitOf } from "./pickers.js";
import { go, keep, link } from "./router.js";
import { liveValues } from "./store.js";

const REFRESH_MS = 2000;
const siteOf = (map) => `${map.stack} ${map.site}`;

/** One dot per head, a line through the means: by site, layer after layer. */
function drawStrips(frame, store, metric, params) {
    const layers = store.layers().filter((map) => liveValues(map, metric.name)?.some(Number.isFinite));
    if (layers.length === 0) return frame.body.replaceChildren(note(`No layer has ${metric.name}.`));
    const width = Math.max(340, frame.body.clientWidth || 900),
        height = 290,
        left = 60,
        bottom = 86;
    const root = newSvg(width, height, `${metric.name} by layer`);
    const all = layers.flatMap((map) => liveValues(map, metric.name)).filter(Number.isFinite);
    const x = d3.scalePoint(layers.map(layerName), [left + 16, width - 16]).padding(0.5);
    const y = d3.scaleLinear(d3.extent(all), [height - bottom, 12]).nice(5);
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(5).tickFormat(number));
    root.append("text")
        .attr("class", "soft")
        .attr("transform", `translate(11,${(height - bottom) / 2}) rotate(-90)`)
        .attr("text-anchor", "middle")
        .text(unitOf(metric));
    const every = Math.ceil(layers.length / Math.max(1, Math.floor((width - left) / 26)));
    layers.forEach((map, i) => {
        if (i % every === 0)
            root.append("text")
                .attr("class", "soft")
                .attr("transform", `translate(${x(layerName(map)) + 4},${height - bottom + 10}) rotate(-40)`)
                .attr("text-anchor", "end")
                .text(layers.length > 14 ? `${map.stack[0]}${map.layer}${map.site[0]}` : layerName(map));
        liveValues(map, metric.name).forEach((value, head) => {
            if (!Number.isFinite(value)) return;
            root.append("circle")
                .attr("class", "dot")
                .attr("r", 3.2)
                .attr("cx", x(layerName(map)))
                .attr("cy", y(value))
                .on("pointermove", () =>
                    showTooltip(`${layerName(map)}.h${head}: ${number(value)}`, d3.event.clientX, d3.event.clientY),
                )
                .on("pointerleave", hideTooltip)
                .on("click", () => go("head", { ...params, stack: map.stack, layer: map.layer, site: map.site, head }));
        });
    });
    for (const site of new Set(layers.map(siteOf))) {
        const own = layers.filter((map) => siteOf(map) === site),
            mean = (map) => d3.mean(liveValues(map, metric.name).filter(Number.isFinite));
        root.append("path")
            .attr("class", "line second")
            .attr(
                "d",
                d3
                    .line()
                    .x((map) => x(layerName(map)))
                    .y((map) => y(mean(map)))(own),
            );
    }
    root.append("text")
        .attr("class", "soft")
        .attr("x", width - 16)
        .attr("y", 11)
        .attr("text-anchor", "end")
        .text("● a head, — mean of the layer");
    frame.body.replaceChildren(root.node());
}

const meanMap = (params, map) =>
    find("maps", {
        job: params.job,
        run: params.run,
        stack: map.stack,
        layer: map.layer,
        site: map.site,
        kind: "mean",
        packed: 1,
    });

export async function show(root, params, { store, isCurrent }) {
    const metric = store.metric(params.metric || "entropy_normalized"),
        layers = store.layers();
    if (layers.length === 0) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const sites = [...new Set(layers.map(siteOf))],
        site = sites.includes(params.show) ? params.show : sites[0],
        stacks = [...new Set(layers.map((map) => map.stack))];
    const numbers = [...new Set(layers.map((map) => map.layer))].sort((a, b) => a - b),
        level = numbers.includes(Number(params.level)) ? Number(params.level) : numbers[0];
    const stack = stacks.includes(params.rollout) ? params.rollout : stacks[stacks.length - 1];
    const strips = figure(`${metric.name} by layer`, metric.description, "wide"),
        maps = figure("Mean maps, layer by layer", site, "wide").plain(),
        flow = figure("Attention flow", `layer ${level}`, "wide").plain(),
        rolled = figure("Rollout", stack);
    const set = (changes) => go("model", { ...params, ...changes });
    const mapsBox = h("div", { class: "grid small" }),
        flowBox = h("div", { class: "grid" });
    maps.body.append(
        h(
            "div",
            { class: "controls" },
            select(
                "attention",
                sites.map((name) => [name, name]),
                site,
                (value) => set({ show: value }),
            ),
        ),
        mapsBox,
    );
    flow.body.append(
        h(
            "div",
            { class: "controls" },
            select(
                "layer",
                numbers.map((n) => [String(n), `layer ${n}`]),
                String(level),
                (value) => set({ level: value }),
            ),
        ),
        flowBox,
    );
    root.append(
        h(
            "div",
            { class: "controls" },
            metricPicker(store, metric.name, (value) => set({ metric: value })),
        ),
        h("div", { class: "stack" }, strips, maps, flow, h("div", { class: "grid" }, rolled)),
    );
    let timer = null,
        rollout = null,
        upTo = params.upto === undefined ? null : Number(params.upto);

    async function drawMaps() {
        const own = layers.filter((map) => siteOf(map) === site).sort(byLayer),
            found = await Promise.all(own.map((map) => meanMap(params, map).catch(() => null)));
        if (!isCurrent()) return;
        mapsBox.replaceChildren(
            ...own.map((map, i) => {
                const frame = figure(layerName(map), found[i] ? `step ${found[i].step}` : "");
                if (found[i])
                    drawMap(
                        frame.body,
                        { ...found[i], values: floats(found[i].values) },
                        {
                            size: 190,
                            axes: false,
                            bar: false,
                            name: `mean map of ${layerName(map)}`,
                            onPick: () =>
                                go("layer", { ...params, stack: map.stack, layer: map.layer, site: map.site }),
                        },
                    );
                else frame.body.append(note("no map"));
                return frame;
            }),
        );
    }
    async function drawFlow() {
        const parts = [
            ["encoder", "self", "Encoder: source tokens read each other"],
            ["decoder", "cross", "Cross: target tokens read the source"],
            ["decoder", "self", "Decoder: target tokens read earlier ones"],
        ];
        const frames = await Promise.all(
            parts.map(async ([part, kind, title]) => {
                const map = layers.find((one) => one.stack === part && one.site === kind && one.layer === level);
                if (!map) return null;
                const found = await meanMap(params, map).catch(() => null),
                    frame = figure(title, layerName(map));
                if (found)
                    drawMap(
                        frame.body,
                        { ...found, values: floats(found.values) },
                        {
                            size: 330,
                            name: title,
                            xName: kind === "cross" ? "source position (key)" : "key position",
                            yName: kind === "cross" ? "target position (query)" : "query position",
                        },
                    );
                else frame.body.append(note("There is no map of it."));
                return frame;
            }),
        );
        if (!isCurrent()) return;
        const there = frames.filter(Boolean);
        flowBox.replaceChildren(...there);
        if (there.length === 1)
            flowBox.append(
                note(
                    "The model has one kind of attention; with encoder and decoder their three maps stand side by side here.",
                ),
            );
    }
    function drawRollout() {
        const last = rollout.layers.length - 1,
            i = Math.max(0, Math.min(last, upTo ?? last)),
            cells = rollout.rows * rollout.columns;
        rolled.setTitle(
            "Rollout",
            `${stack}, layers 0 to ${rollout.layers[i]}, step ${rollout.step}${rollout.exact ? "" : " · approximate: maps were pooled, or are of different steps"}`,
        );
        const body = h("div", {});
        drawMap(
            body,
            { ...rollout, values: rollout.values.subarray(i * cells, (i + 1) * cells), q_offset: 0 },
            { size: 380, name: "rollout", xName: "input position", yName: "output position" },
        );
        rolled.body.replaceChildren(
            h(
                "div",
                { class: "controls" },
                h(
                    "label",
                    { class: "pick" },
                    "up to layer ",
                    h("input", {
                        type: "range",
                        min: 0,
                        max: last,
                        value: i,
                        "aria-label": "rollout up to layer",
                        oninput: (event) => {
                            upTo = Number(event.target.value);
                            keep({ upto: upTo });
                            drawRollout();
                        },
                    }),
                ),
            ),
            body,
        );
    }
    async function loadRollout() {
        const found = await find("rollout", { job: params.job, run: params.run, stack, packed: 1 }).catch((error) => ({
            error,
        }));
        if (!isCurrent()) return;
        if (!found || found.error)
            return rolled.body.replaceChildren(
                found?.error
                    ? errorNote(found.error)
                    : note("There is no rollout: it needs a square map of every layer of the stack, of one sequence."),
            );
        rollout = { ...found, values: floats(found.values) };
        drawRollout();
    }
    const drawAll = () => {
        drawStrips(strips, store, metric, params);
        return Promise.all([drawMaps(), drawFlow(), loadRollout()]);
    };
    if (stacks.length > 1)
        rolled.querySelector("header").append(
            select(
                "rollout of",
                stacks.map((name) => [name, name]),
                stack,
                (value) => set({ rollout: value }),
            ),
        );
    await drawAll();
    performance.mark("data");
    const end = store.on("live", () => {
        timer ??= setTimeout(async () => {
            if (isCurrent() && !rolled.body.contains(document.activeElement)) await drawAll();
            timer = null;
        }, REFRESH_MS);
    });
    return () => {
        clearTimeout(timer);
        end();
    };
}
