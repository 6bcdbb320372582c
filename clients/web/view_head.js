// SPDX-License-Identifier: MIT
// One head: a metric over the run with bands, baseline, changes and alerts; its spectrum, its map, its newest numbers.
/* global d3 */
import { find, doubles, floats, integers } from "./api.js";
import { alertsList } from "./alerts_list.js";
import { loadIntervals } from "./alerts_past.js";
import { drawChart } from "./chart.js";
import { errorNote, h, headName, layerName, note, number, visible } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap } from "./map_view.js";
import { chosenLayer, facts, headCount, headPicker, layerPicker, metricPicker, unitOf } from "./pickers.js";
import { go, link } from "./router.js";
import { liveValues, summaryValues } from "./store.js";

const WINDOWS = 5000;
const MAP_MS = 1000;
/** Alerts that are marked in the series, the newest of them. */
const MARKS = 12;

async function loadSeries({ job, run, stack, layer, site, head, metric }) {
    const answer = await find("history", { job, run, stack, layer, site, head, metric, packed: 1, limit: WINDOWS });
    if (!answer) return null;
    const values = Object.fromEntries(
        Object.entries(answer.values).map(([name, packed]) => [name, Array.from(doubles(packed))]),
    );
    return { ...answer, values, last: integers(answer.windows.last), step: integers(answer.windows.step) };
}

/** Mean and spread of the first windows, from what the newest window says of its distance to them. */
function baselineOf(summary, metric, head) {
    const drift = summary?.drift?.[metric],
        mean = summaryValues(summary, metric, "mean")?.[head];
    const delta = drift?.delta?.[head],
        z = drift?.z?.[head];
    if (mean === null || mean === undefined || delta === null || delta === undefined) return null;
    return { name: "baseline: first windows, ± 1 std", mean: mean - delta, std: z ? Math.abs(delta / z) : 0 };
}

/** Where on the axis a step is: at the window that holds it. */
function windowOfStep(series, step) {
    const i = d3.bisectLeft(series.step, step);
    return series.last[Math.min(i, series.last.length - 1)];
}

// What fits beside a mark.
const shortened = ([first, ...others]) => first + (others.length ? ` +${others.length}` : "");

function eventsOf(series, alerts, summary, metric, head) {
    const rules = new Map(); // x -> names: those that began together share a mark
    for (const alert of alerts.slice(0, MARKS)) {
        const x = windowOfStep(series, alert.since.step);
        rules.set(x, (rules.get(x) ?? new Set()).add(alert.rule));
    }
    const marks = [...rules].map(([x, names]) => ({
        x,
        name: [...names].join(", "),
        label: shortened([...names]),
        class: "event",
    }));
    const change = summary?.drift?.[metric]?.change?.[head];
    if (change !== null && change !== undefined)
        marks.push({ x: change, name: "lasting change", class: "event change" });
    return marks;
}

function drawSeries(frame, series, { metric, summary, head, alerts }) {
    const v = series.values;
    drawChart(frame.body, {
        x: series.last,
        unit: series.unit,
        yName: unitOf(metric),
        domain: metric.domain,
        name: `${metric.name} over the run`,
        lines: [
            { name: "mean", values: v.mean, class: "line" },
            { name: "median", values: v.p50, class: "line second" },
        ],
        bands: [
            { name: "min to max", ends: ["min", "max"], low: v.min, high: v.max, class: "band light" },
            { name: "p10 to p90", ends: ["p10", "p90"], low: v.p10, high: v.p90, class: "band" },
        ],
        baseline: baselineOf(summary, metric.name, head),
        events: eventsOf(series, alerts, summary, metric.name, head),
    });
}

function drawBars(container, values, yName) {
    const width = 420,
        height = 170,
        left = 46,
        root = newSvg(width, height, yName);
    const x = d3.scaleBand(d3.range(values.length), [left, width - 6]).padding(0.15),
        y = d3.scaleLinear([0, d3.max(values) || 1], [height - 26, 8]).nice(4);
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(4).tickFormat(number));
    values.forEach((value, i) => {
        root.append("rect")
            .attr("class", "bar")
            .attr("x", x(i))
            .attr("width", x.bandwidth())
            .attr("y", y(value))
            .attr("height", height - 26 - y(value))
            .append("title")
            .text(`${i + 1}: ${number(value)}`);
        if (i % Math.ceil(values.length / 16) === 0)
            root.append("text")
                .attr("class", "soft")
                .attr("x", x(i) + x.bandwidth() / 2)
                .attr("y", height - 13)
                .attr("text-anchor", "middle")
                .text(i + 1);
    });
    root.append("text")
        .attr("class", "soft")
        .attr("x", (left + width) / 2)
        .attr("y", height - 3)
        .attr("text-anchor", "middle")
        .text(yName);
    container.replaceChildren(root.node());
}

function numbersTable(store, live, head) {
    const rows = store.metrics
        .map((metric) => [metric, liveValues(live, metric.name)?.[head]])
        .filter(([, value]) => value !== undefined);
    return h(
        "div",
        { class: "scroll" },
        h(
            "table",
            {},
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    h("th", { class: "text" }, "metric"),
                    h("th", {}, "newest step"),
                    h("th", { class: "text" }, "unit"),
                    h("th", { class: "text about" }, "what it is"),
                ),
            ),
            h(
                "tbody",
                {},
                rows.map(([metric, value]) =>
                    h(
                        "tr",
                        {},
                        h("td", { title: metric.description }, metric.name),
                        h("td", {}, number(value)),
                        h("td", { class: "text" }, metric.unit),
                        h("td", { class: "text wrap about" }, metric.description),
                    ),
                ),
            ),
        ),
    );
}

function pairsList(live, head, labels) {
    const pairs = live?.head_top_pairs?.[head];
    if (!pairs) return null;
    const text = (i) => (labels?.[i] !== undefined ? `${i} “${visible(labels[i])}”` : i);
    return h(
        "ol",
        {},
        pairs.map((pair) => h("li", {}, `query ${text(pair.query)} → key ${text(pair.key)}: ${number(pair.weight)}`)),
    );
}

export async function show(root, params, { store, isCurrent }) {
    const map = chosenLayer(store, params);
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const heads = headCount(map),
        head = Math.max(0, Math.min(heads - 1, Number(params.head ?? 0) || 0));
    const metric = store.metric(params.metric || "entropy_normalized"),
        where = { stack: map.stack, layer: map.layer, site: map.site };
    const run = params.run || store.runsOf(params.job)[0]?.run;
    let intervals = await loadIntervals(params.job, run);
    if (!isCurrent()) return null;
    const alerts = () =>
        intervals.filter(
            (a) =>
                a.stack === map.stack &&
                a.layer === map.layer &&
                a.site === map.site &&
                (a.head === null || a.head === head),
        );
    const series = figure(metric.name, metric.description, "wide"),
        spectrum = figure("Singular values of the map"),
        picture = figure("Newest map", "", "picture");
    const about = figure(headName(map, head)).plain(),
        numbers = figure("Newest numbers").plain();
    const to = (other) => link("head", { ...params, ...where, head: other });
    root.append(
        h(
            "div",
            { class: "controls" },
            layerPicker(store, map),
            headPicker(map, head),
            metricPicker(store, metric.name, (value) => go("head", { ...params, ...where, head, metric: value })),
            head > 0 ? h("a", { href: to(head - 1), rel: "prev" }, "‹ previous head") : null,
            head < heads - 1 ? h("a", { href: to(head + 1), rel: "next" }, "next head ›") : null,
        ),
        h("div", { class: "grid head" }, series, h("div", { class: "stack" }, about, spectrum), picture, numbers),
    );
    let mapTimer = null,
        seriesTimer = null;

    const summaryOf = () => {
        const found = store.summaries.get(layerName(map));
        return found?.run === run ? found : null;
    };
    function drawNewest() {
        const live = store.newest(map, run),
            summary = summaryOf(),
            drift = summary?.drift?.[metric.name],
            newest = (name) => live?.spectrum?.[name]?.[head] ?? summary?.spectrum?.[name]?.last?.[head];
        const own = newest("singular_values"),
            values = own ?? newest("qk_singular_values");
        if (values?.length)
            drawBars(spectrum.body, values, own ? "singular value, by size" : "singular value of Q Kᵀ, by size");
        else if (!spectrum.body.firstChild)
            spectrum.body.replaceChildren(
                note("No spectrum of this head yet: heads take turns under metrics.spectrum_budget."),
            );
        about.setTitle(headName(map, head), `step ${live?.step ?? "–"}`);
        about.body.replaceChildren(
            facts([
                ["pattern", live?.heads?.pattern?.[head]],
                ["tier", live?.tier],
                ["shape", live?.shape?.join(" × ")],
                [metric.name, liveValues(live, metric.name)?.[head]],
                ["importance", live?.heads?.importance?.[head]],
                [
                    "from baseline",
                    drift?.delta?.[head] !== undefined && drift.delta[head] !== null
                        ? `${number(drift.delta[head])}${drift.z?.[head] ? `, ${number(drift.z[head])} std` : ""}`
                        : null,
                ],
                [
                    "lasting change",
                    drift?.change?.[head] !== undefined && drift.change[head] !== null
                        ? `since ${summary.window.unit} ${drift.change[head]}`
                        : null,
                ],
            ]),
            h("h3", {}, "Alerts"),
            alertsList(alerts()),
        );
        numbers.body.replaceChildren(
            live
                ? numbersTable(store, live, head)
                : note(
                      "Nothing of this run came since attnd was started. What its windows kept is in the history, above.",
                  ),
        );
    }
    async function drawHistory() {
        const found = await loadSeries({ job: params.job, run, ...where, head, metric: metric.name }).catch(
            (error) => ({ error }),
        );
        if (!isCurrent()) return;
        if (found?.error) series.body.replaceChildren(errorNote(found.error));
        else if (!found)
            series.body.replaceChildren(
                note(
                    `No window has ${metric.name} yet. The first one is stored when it closes: an epoch by default (window.unit, window.length).`,
                ),
            );
        else drawSeries(series, found, { metric, summary: summaryOf(), head, alerts: alerts() });
    }
    async function drawPicture() {
        const found = await find("maps", { job: params.job, run, ...where, head, packed: 1 }).catch((error) => ({
            error,
        }));
        if (!isCurrent()) return;
        if (!found || found.error)
            return picture.body.replaceChildren(
                found?.error
                    ? errorNote(found.error)
                    : note(
                          "There is no map of this layer: none came since attnd was started, or it is longer than metrics.qk_maps_max_size.",
                      ),
            );
        picture.setTitle("Newest map", `step ${found.step}, sample ${found.sample}`);
        drawMap(
            picture.body,
            { ...found, values: floats(found.values) },
            {
                name: `map of ${headName(map, head)}`,
                onPick: (row) =>
                    go("tokens", { ...params, ...where, head, query: Math.floor((row * found.queries) / found.rows) }),
            },
        );
        const pairs = pairsList(store.newest(map, run), head, found.labels);
        if (pairs) picture.body.append(pairs);
    }
    drawNewest();
    await Promise.all([drawHistory(), drawPicture()]);
    performance.mark("data");
    const ends = [
        store.on("live", (live) => {
            if (layerName(live) !== layerName(map)) return;
            drawNewest();
            mapTimer ??= setTimeout(() => {
                mapTimer = null;
                drawPicture();
            }, MAP_MS);
        }),
        store.on("summary", (summary) => {
            if (layerName(summary) === layerName(map))
                seriesTimer ??= setTimeout(() => {
                    seriesTimer = null;
                    drawNewest();
                    drawHistory();
                }, MAP_MS);
        }),
        store.on("alerts", async () => {
            intervals = await loadIntervals(params.job, run).catch(() => intervals);
            if (isCurrent()) drawNewest();
        }),
    ];
    return () => {
        clearTimeout(mapTimer);
        clearTimeout(seriesTimer);
        ends.forEach((end) => end());
    };
}
