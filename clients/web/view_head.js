// SPDX-License-Identifier: MIT
// One head: a metric over the run with bands, baseline, changes and alerts; its spectrum, its map, its newest numbers.
/* global d3 */
import { find, doubles, integers } from "./api.js";
import { alertsList } from "./alerts_list.js";
import { loadIntervals } from "./alerts_past.js";
import { strongestPairs } from "./cells.js";
import { drawChart } from "./chart.js";
import { h, headName, layerName, note, number, percent, visible } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap, rangePicker } from "./map_view.js";
import { chosenLayer, facts, headCount, headPicker, layerPicker, metricPicker, unitOf } from "./pickers.js";
import { go, link } from "./router.js";
import { mapStep, NOT_KEPT, openRun } from "./run.js";
import { liveValues, summaryValues } from "./store.js";
import { kept, paced } from "./view_state.js";

const WINDOWS = 5000;
/** Alerts that are marked in the series, the newest of them. */
const MARKS = 12;
const PAIRS = 8;
/** Windows that a baseline is made of where attnd's own is not in memory any more. */
const FIRST = 5;

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

/** Mean and spread of the first windows there are, of a run whose baseline is not in memory any more. */
function firstWindows(series) {
    const first = series.values.mean.slice(0, FIRST).filter(Number.isFinite);
    if (series.more || first.length < FIRST || series.values.mean.length <= FIRST) return null;
    return { name: `mean of the first ${FIRST} windows, ± 1 std`, mean: d3.mean(first), std: d3.deviation(first) };
}

/** Where on the axis a step is: at the window that holds it. */
function windowOfStep(series, step) {
    const i = d3.bisectLeft(series.step, step);
    return series.last[Math.min(i, series.last.length - 1)];
}

// The text that fits beside a mark.
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

function drawSeries(frame, series, { metric, summary, head, alerts, isPast }) {
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
        baseline: isPast ? firstWindows(series) : baselineOf(summary, metric.name, head),
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

function numbersTable(run, map, head) {
    const rows = run.metrics
        .map((metric) => [metric, liveValues(map, metric.name)?.[head]])
        .filter(([, value]) => value !== undefined && (!map.past || Number.isFinite(value)));
    const row = ([metric, value]) =>
        h(
            "tr",
            {},
            h("td", { title: metric.description }, metric.name),
            h("td", {}, number(value)),
            h("td", { class: "text" }, metric.unit),
            h("td", { class: "text wrap about" }, metric.description),
        );
    const names = [
        h("th", { class: "text" }, "metric"),
        h("th", {}, map.past ? "last window" : "newest step"),
        h("th", { class: "text" }, "unit"),
        h("th", { class: "text about" }, "what it is"),
    ];
    return h(
        "div",
        { class: "scroll" },
        h("table", {}, h("thead", {}, h("tr", {}, names)), h("tbody", {}, rows.map(row))),
    );
}

/** The pairs of the map that stand out, by their weight over that of an even spread. */
function pairsList(found, where) {
    if (found.rows !== found.queries || found.columns !== found.keys) return null;
    const offset = found.q_offset ?? 0,
        text = (i, labels) => (labels?.[i] !== undefined ? `${i} “${visible(labels[i])}”` : i);
    const item = ({ row, column, weight, times }) =>
        h(
            "li",
            {},
            `query ${text(row + offset, where.site === "self" ? found.labels : null)} → key ${text(column, found.labels)}: ${percent(weight)}, ${number(Number(times.toPrecision(2)))} × an even spread`,
        );
    return [h("h3", {}, "Pairs that stand out"), h("ol", { class: "pairs" }, strongestPairs(found, PAIRS).map(item))];
}

const hasMoved = (drift, head) => drift?.delta?.[head] !== undefined && drift.delta[head] !== null;

/** What is said of a head beside its series. */
function factsOf(live, summary, metric, head) {
    const drift = summary?.drift?.[metric.name],
        change = drift?.change?.[head] ?? null,
        z = drift?.z?.[head];
    return facts([
        ["pattern", live?.heads?.pattern?.[head]],
        ["tier", live?.tier],
        ["shape", live?.shape?.join(" × ")],
        [metric.name, liveValues(live, metric.name)?.[head]],
        ["importance", live?.heads?.importance?.[head]],
        [
            "from baseline",
            hasMoved(drift, head) ? `${number(drift.delta[head])}${z ? `, ${number(z)} std` : ""}` : null,
        ],
        ["lasting change", change === null ? null : `since ${summary.window.unit} ${change}`],
    ]);
}

function headControls(run, params, { map, head, heads, metric }, onRange) {
    const here = { ...params, stack: map.stack, layer: map.layer, site: map.site, head },
        to = (other) => link("head", { ...here, head: other });
    return h(
        "div",
        { class: "controls" },
        layerPicker(run, map),
        headPicker(map, head),
        metricPicker(run, metric.name, (value) => go("head", { ...here, metric: value })),
        rangePicker(onRange),
        head > 0 ? h("a", { href: to(head - 1), rel: "prev" }, "‹ previous head") : null,
        head < heads - 1 ? h("a", { href: to(head + 1), rel: "next" }, "next head ›") : null,
    );
}

const noWindow = (metric) =>
    `No window has ${metric.name} yet. The first one is stored when it closes: an epoch by default (window.unit, window.length).`;
const NO_MAP =
    "There is no map of this layer: none has come yet, or queries and keys are longer than metrics.qk_maps_max_size.";

export async function show(root, params, { store, isCurrent }) {
    const run = await openRun(store, params),
        map = chosenLayer(run, params);
    if (!isCurrent()) return null;
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const heads = headCount(map),
        head = Math.max(0, Math.min(heads - 1, Number(params.head ?? 0) || 0));
    const metric = store.metric(params.metric || "entropy_normalized"),
        where = { stack: map.stack, layer: map.layer, site: map.site },
        name = headName(map, head);
    let intervals = await loadIntervals(params.job, run.run);
    if (!isCurrent()) return null;
    const alerts = () =>
        intervals.filter((a) => layerName(a) === layerName(map) && (a.head === null || a.head === head));
    const series = figure(metric.name, metric.description, "wide").about(name, metric.name),
        spectrum = figure("Singular values of the map").about(name, "singular-values"),
        picture = figure("Newest map", "", "picture").about(name, "map");
    const about = figure(name).plain(),
        numbers = figure("").plain();
    root.append(
        headControls(run, params, { map, head, heads, metric }, () => pictures.now()),
        h("div", { class: "grid head" }, series, h("div", { class: "stack" }, about, spectrum), picture, numbers),
    );

    const summaryOf = () => {
        const found = store.summaries.get(layerName(map));
        return found?.run === run.run ? found : null;
    };
    function drawSpectrum(live, summary) {
        const newest = (key) => live?.spectrum?.[key]?.[head] ?? summary?.spectrum?.[key]?.last?.[head];
        const own = newest("singular_values"),
            values = own ?? newest("qk_singular_values");
        spectrum.hidden = Boolean(run.past) && !values?.length;
        if (values?.length)
            drawBars(spectrum.body, values, own ? "singular value, by size" : "singular value of Q Kᵀ, by size");
        else if (!spectrum.body.firstChild)
            spectrum.body.replaceChildren(
                note("No spectrum of this head yet: heads take turns under metrics.spectrum_budget."),
            );
    }
    function drawNewest() {
        const live = run.newest(map),
            summary = summaryOf();
        drawSpectrum(live, summary);
        about.setTitle(name, live ? run.when(live) : "");
        about.body.replaceChildren(factsOf(live, summary, metric, head), h("h3", {}, "Alerts"), alertsList(alerts()));
        if (live) numbers.body.replaceChildren(numbersTable(run, live, head));
        numbers.setTitle(live?.past ? "Numbers of the last window" : "Newest numbers", live?.past ? live.when : "");
    }
    function drawPicture(found) {
        const live = run.newest(map);
        picture.setTitle(found.ofWindow ? `Mean map of ${layerName(map)}` : "Newest map", mapStep(found, live));
        picture.about(found.ofWindow ? layerName(map) : name, found.ofWindow ? "mean-map" : "map");
        const toTokens = (row) => Math.floor((row * found.queries) / found.rows);
        drawMap(picture.body, found, {
            name: found.ofWindow ? `mean map of ${layerName(map)}` : `map of ${name}`,
            onPick: (row) => go("tokens", { ...params, ...where, head, query: toTokens(row) }),
        });
        picture.body.append(...(found.ofWindow ? [note(NOT_KEPT)] : (pairsList(found, where) ?? [])));
    }
    const history = kept({
        body: series.body,
        isCurrent,
        load: () => loadSeries({ job: params.job, run: run.run, ...where, head, metric: metric.name }),
        draw: (found) =>
            drawSeries(series, found, {
                metric,
                summary: summaryOf(),
                head,
                alerts: alerts(),
                isPast: Boolean(run.past),
            }),
        nothing: () => noWindow(metric),
    });
    const pictures = kept({
        body: picture.body,
        isCurrent,
        load: () => run.map(where, { head }),
        draw: drawPicture,
        nothing: () => NO_MAP,
    });
    const drawWindow = paced(() => {
        drawNewest();
        history.now();
    });
    drawNewest();
    const numbersOfPast = run.load(map.metrics ?? [], where).then(() => isCurrent() && drawNewest());
    await Promise.all([history.now(), pictures.now(), numbersOfPast]);
    performance.mark("data");
    const isOurs = (one) => layerName(one) === layerName(map) && one.run === run.run;
    const ends = [
        store.on("live", (live) => {
            if (!isOurs(live)) return;
            drawNewest();
            pictures.soon();
        }),
        store.on("summary", (summary) => isOurs(summary) && drawWindow()),
        store.on("alerts", async () => {
            intervals = await loadIntervals(params.job, run.run).catch(() => intervals);
            if (isCurrent()) drawNewest();
        }),
        history.stop,
        pictures.stop,
        drawWindow.stop,
    ];
    return () => ends.forEach((end) => end());
}
