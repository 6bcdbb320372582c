// SPDX-License-Identifier: MIT
// One head: a metric over the run with bands, baseline and alerts; its spectrum, its map, its newest numbers.
/* global d3 */
import { find, doubles, integers } from "./api.js";
import { alertsList } from "./alerts_list.js";
import { loadIntervals, worstFirst } from "./alerts_past.js";
import { strongestPairs } from "./cells.js";
import { alertsAbout, alertsAt, chartMarks } from "./chart_marks.js";
import { ZoomChart } from "./chart_zoom.js";
import { contextOptions, loadLog, LOG_MS } from "./context.js";
import { h, headName, isolated, layerName, note, number, refill, visible, withModule } from "./dom.js";
import { figure, put, svg as newSvg } from "./figure.js";
import { headChooser, headColor, HeadLines } from "./head_lines.js";
import { someHeads } from "./load_maps.js";
import { scalePicker } from "./map_scale.js";
import { drawMap } from "./map_view.js";
import { pairText } from "./pairs.js";
import {
    facts,
    headCount,
    headPicker,
    layerPicker,
    metricPicker,
    openLayer,
    paddingPicker,
    unitOf,
} from "./pickers.js";
import { go, keep, link } from "./router.js";
import { loadRules } from "./rules.js";
import { mapStep, NOT_KEPT } from "./run.js";
import { errorText, isSampled, newestText, rolesBefore, roleText, sampleText, withWindow } from "./run_text.js";
import { liveValues, summaryValues } from "./store.js";
import { headAlerts } from "./verdict.js";
import { kept, pacedUntilStored } from "./view_state.js";
import { ViewTime, wrongMoment } from "./view_time.js";

const WINDOWS = 5000;
const PAIRS = 8;
/** So many heads have lines at once. */
const LINE_HEADS = 64;
/** So many ranks have a row, the odd ones before others. */
const RANKS = 16;

async function loadSeries({ job, run, stack, layer, site, head, metric }) {
    const [answer, log] = await Promise.all([
        find("history", { job, run, stack, layer, site, head, metric, packed: 1, limit: WINDOWS }),
        loadLog(job, run),
    ]);
    if (!answer) return null;
    const values = Object.fromEntries(
        Object.entries(answer.values).map(([name, packed]) => [name, Array.from(doubles(packed))]),
    );
    return { ...answer, log, values, last: integers(answer.windows.last), step: integers(answer.windows.step) };
}

/** The baseline and the unit of shift, from what the newest window says of its distance to it. */
function baselineOf(summary, metric, head) {
    const drift = summary?.drift?.[metric],
        mean = summaryValues(summary, metric, "mean")?.[head];
    const delta = drift?.delta?.[head],
        shift = drift?.shift?.[head];
    if (mean === null || mean === undefined || delta === null || delta === undefined) return null;
    return { name: "baseline, ± 1 of shift", mean: mean - delta, std: shift ? Math.abs(delta / shift) : 0 };
}

/** `marks` as chartMarks() gives them. */
function drawSeries(chart, series, { metric, summary, head, marks, last }) {
    const v = series.values,
        context = contextOptions([{ log: series.log, steps: series.step, places: series.last }], series);
    const errorOf = (i) => (metric.per === "row" ? errorText(series, v.std[i], v.count[i]) : ""),
        sayError = (i) => (errorOf(i) ? [`mean ${errorOf(i)} (standard error, at most)`] : []);
    chart.at = last;
    chart.draw({
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
            { name: isSampled(series) ? "min to max of the rows taken" : "min to max", ends: ["min", "max"], low: v.min, high: v.max, class: "band light" },
            { name: "p10 to p90, like the median within 1.1 to 9.1 %", ends: ["p10", "p90"], low: v.p10, high: v.p90, class: "band" },
        ],
        baseline: baselineOf(summary, metric.name, head),
        bounds: marks.bounds,
        events: marks.events,
        ...context,
        say: (x) => [...sayError(series.last.indexOf(x)), ...(context.say?.(x) ?? [])],
    });
}

function drawBars(container, values, yName) {
    const width = 320,
        height = 160,
        left = 40,
        foot = height - 36,
        root = newSvg(width, height, yName);
    const x = d3.scaleBand(d3.range(values.length), [left, width - 6]).padding(0.15),
        y = d3.scaleLinear([0, d3.max(values) || 1], [foot, 8]).nice(4);
    root.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(4).tickFormat(number));
    values.forEach((value, i) => {
        put(root, "rect", { class: "bar", x: x(i), width: x.bandwidth(), y: y(value), height: foot - y(value) })
            .append("title")
            .text(`${i + 1}: ${number(value)}`);
        if (i % Math.ceil(values.length / 16) === 0)
            put(root, "text", { class: "soft", x: x(i) + x.bandwidth() / 2, y: foot + 13, "text-anchor": "middle" }, i + 1);
    });
    put(root, "text", { class: "soft", x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, yName);
    container.replaceChildren(root.node());
}

function numbersTable(run, map, summary, head) {
    const rows = run.metrics
        .map((metric) => [metric, liveValues(map, metric.name)?.[head]])
        .filter(([, value]) => value !== undefined && (!map.past || Number.isFinite(value)));
    const row = ([metric]) => {
        const { text, about, title } = newestText(map, summary, metric, head);
        return h(
            "tr",
            {},
            h("td", { title: metric.description }, metric.name),
            h("td", { title }, text),
            h("td", { class: "text" }, metric.unit),
            h("td", { class: "text wrap about" }, [metric.description, about].filter(Boolean).join(", ")),
        );
    };
    const names = [
        h("th", { class: "text" }, "metric"),
        h("th", {}, map.ofMoment ? "window" : map.past ? "last window" : "newest step"),
        h("th", { class: "text" }, "unit"),
        h("th", { class: "text about" }, "what it is"),
    ];
    return h(
        "div",
        { class: "scroll", tabindex: 0 },
        h("table", {}, h("thead", {}, h("tr", {}, names)), h("tbody", {}, rows.map(row))),
    );
}

/** The pairs of the map that stand out, by their weight over that of an even spread. */
const pairsList = (found) => [
    h("h3", {}, "Positions that stand out"),
    h(
        "ol",
        { class: "pairs" },
        strongestPairs(found, PAIRS).map((pair) => h("li", {}, pairText(found, pair))),
    ),
];

const hasMoved = (drift, head) => drift?.delta?.[head] !== undefined && drift.delta[head] !== null;

/** Names the role of the head and its earlier ones. */
function roleFacts(roles) {
    const found = roles?.heads[0];
    return [
        ["role", found && roleText(found, roles.unit)],
        ["before", found && rolesBefore(found, roles.unit)],
    ];
}

/** The row of a rank: a dot on the scale of all. */
function rankRow({ rank, node, odd, distance }, value, place) {
    const dot = h("span", { class: "dot" }),
        whose = [odd ? h("span", { class: "badge warning" }, "odd") : null, node ? isolated(visible(node)) : null];
    dot.style.left = `${place}%`;
    const far = distance === null ? "" : `: ${number(distance)} from the others, over all heads; more than 5 is odd`;
    return h(
        "li",
        { class: odd ? "odd" : "", title: `rank ${rank}${node ? ` of ${visible(node)}` : ""}${far}` },
        h("span", {}, `rank ${rank}`),
        h("span", { class: "scale" }, dot),
        h("span", {}, number(value)),
        h("span", { class: "whose" }, whose),
    );
}

/** The entropy of the head by rank, when there are several; `found` as Run.ranks() gives it. */
function byRank(found, head) {
    const all = found?.ranks.filter((one) => Number.isFinite(one.mean[head])) ?? [];
    if (all.length < 2) return [];
    const [low, high] = d3.extent(all, (one) => one.mean[head]),
        middle = (low + high) / 2,
        half = Math.max((high - low) / 2, 0.05 * Math.abs(middle), 0.001), // so that what is nearly equal looks so
        shown = [...all].sort((a, b) => b.odd - a.odd || a.rank - b.rank).slice(0, RANKS);
    const row = (one) => rankRow(one, one.mean[head], 50 + (45 * (one.mean[head] - middle)) / half),
        from = found.first === found.last ? "" : `${found.first} to `,
        more = all.length - shown.length;
    return [
        h("h3", {}, `Entropy by rank, ${found.unit} ${from}${found.last}`),
        h("ol", { class: "ranks" }, shown.sort((a, b) => a.rank - b.rank).map(row)),
        more > 0 ? h("p", { class: "where" }, `and ${more} more: attnctl ranks`) : "",
    ];
}

/** The facts beside the series of a head. */
function factsOf(live, summary, { run, metric, head, roles }) {
    const fact = (name) => {
        if (!Number.isFinite(liveValues(live, name)?.[head])) return [name, null];
        const { text, about, title } = newestText(live, summary, run.metric(name), head);
        return [name, h("span", { title }, about ? `${text} (${about})` : text)];
    };
    const drift = summary?.drift?.[metric.name],
        shift = drift?.shift?.[head];
    return facts([
        ...roleFacts(roles),
        ["tier", live?.tier],
        ["shape", live?.shape?.join(" × ")],
        ["rows", sampleText(live) || null],
        ...[metric.name, "importance", "importance_gradient"].map(fact),
        [
            "from baseline",
            hasMoved(drift, head) ? `${number(drift.delta[head])}${shift ? `, shift ${number(shift)}` : ""}` : null,
        ],
    ]);
}

/** The heads beside one, at the moment that is shown. */
function neighbours(params, { map, head, heads }) {
    const to = (other) => link("head", { ...params, stack: map.stack, layer: map.layer, site: map.site, head: other });
    return [
        head > 0 ? h("a", { href: to(head - 1), rel: "prev" }, "‹ previous head") : "",
        head < heads - 1 ? h("a", { href: to(head + 1), rel: "next" }, "next head ›") : "",
    ];
}

function headControls(run, params, { map, head, metric, time, beside }, onScale, onPadding) {
    const { stack, layer, site } = map,
        change = (value) => go("head", { ...params, stack, layer, site, head, metric: value });
    return h(
        "div",
        { class: "controls" },
        layerPicker(run, map),
        headPicker(map, head),
        metricPicker(run, metric.name, change),
        scalePicker(onScale, true),
        paddingPicker(params, onPadding),
        beside,
        time.element,
    );
}

const noWindow = (metric) =>
    `No window has ${metric.name} yet. The first one is stored when it closes: after 16 captures by default (window.unit).`;
const NO_MAP =
    "There is no map of this layer: none has come yet (those of a fleet are at its nodes), or queries and keys are longer than metrics.qk_maps_max_size.";
const NO_PAST_MAP =
    "There is no map of this window: none of its messages gave one, or it is older than the maps that are kept (history.maps).";

/** Heads whose lines are drawn, of the address: "0,3,7"; the head that is shown without any. */
function chosenHeads(text, head, heads) {
    const found = [...new Set((text ?? "").split(",").filter(Boolean).map(Number))].filter(
        (one) => Number.isInteger(one) && one >= 0 && one < heads,
    );
    return found.length ? found.slice(0, LINE_HEADS) : [head];
}

/** One of the maps of an answer; the only one, where that is of all heads. */
function mapOf(found, head) {
    const cells = found.rows * found.columns,
        i = Math.max(0, found.heads?.indexOf(head) ?? 0);
    return { ...found, values: found.values.subarray(i * cells, (i + 1) * cells) };
}

class HeadView {
    constructor(params, { run, map, store, isCurrent }) {
        Object.assign(this, { params, run, map, store, isCurrent });
        this.heads = headCount(map);
        this.head = Number(params.head ?? 0) || 0;
        this.metric = store.metric(params.metric || "entropy_normalized");
        this.where = { stack: map.stack, layer: map.layer, site: map.site };
        this.name = headName(map, this.head);
        this.intervals = []; // of alerts
        this.rules = []; // in force
        this.chosen = chosenHeads(params.lines, this.head, this.heads);
        this.roles = null; // of this head
        this.ranks = null; // of its layer
        this.moment = null; // the numbers of a window, when one is shown
        this.turn = 0;
        const { run: r, metric, where } = this;
        this.time = new ViewTime({ run: r, metric, where, params, isCurrent, onTime: () => this.drawMoment() });
    }

    build(root) {
        const { name, metric, map, head, time, params, run } = this;
        this.beside = h("span", { class: "beside" }, neighbours(params, this));
        this.series = figure(metric.name, metric.description, "wide").about(name, metric.name);
        this.chart = new ZoomChart(this.series.body, { onPick: (last) => time.goTo(last) });
        this.series.querySelector(".tools").before(this.chart.tools);
        this.spectrum = figure("Singular values of the map").about(name, "singular-values");
        this.picture = figure("Newest map", "", "picture").about(name, "map");
        this.linesFrame = figure("Lines between tokens", "", "lines").about(name, "lines");
        this.chooser = h("div", {});
        this.linesBox = h("div", {});
        this.linesFrame.body.append(this.chooser, this.linesBox);
        this.lines = new HeadLines(this.linesBox, (one) => (one === null ? "mean over the heads" : `head ${one}`));
        this.about = figure(name, withModule(map, "")).plain();
        this.numbers = figure("", "", "numbers").plain();
        root.append(
            ...[wrongMoment(time)].filter(Boolean),
            headControls(
                run,
                params,
                this,
                () => this.drawPicture(),
                () => this.pictures.now(),
            ),
            h(
                "div",
                { class: "grid head" },
                this.series,
                h("div", { class: "stack" }, this.about, this.spectrum),
                this.picture,
                this.linesFrame,
                this.numbers,
            ),
        );
        this.history = kept({
            body: this.series.body,
            isCurrent: this.isCurrent,
            load: () => loadSeries({ job: params.job, run: run.run, ...this.where, head, metric: metric.name }),
            draw: (found) => this.drawHistory(found),
            nothing: () => noWindow(metric),
        });
        this.pictures = kept({
            body: this.picture.body,
            isCurrent: this.isCurrent,
            load: () => this.loadMaps(),
            draw: (found) => {
                this.found = found;
                this.drawPicture();
            },
            nothing: () => this.drawNoMap(),
        });
        this.drawWindow = pacedUntilStored(() => {
            this.loadRoles();
            this.history.now();
        });
        this.drawLogged = pacedUntilStored(() => this.history.now(), LOG_MS);
        this.drawAlerts = pacedUntilStored(async () => {
            await this.loadAlerts();
            this.loadRoles();
        });
    }

    summary() {
        return this.store.window(this.map, this.run.run);
    }

    alerts() {
        return alertsAbout(this.intervals, this.map, this.head);
    }

    async loadAlerts() {
        this.intervals = await loadIntervals(this.params.job, this.run.run).catch(() => this.intervals);
    }

    /** Beside all else: what the head does, and how ranks differ, is said when it is known. */
    async loadRoles() {
        const roles = this.run.roles({ ...this.where, head: this.head });
        await this.loadRanks();
        this.roles = await roles;
        if (this.isCurrent()) this.drawNumbers();
    }

    async loadRanks() {
        const last = this.time.last,
            found = await this.run.ranks(this.where, last);
        if (last === this.time.last) this.ranks = found;
    }

    /** Asks for the maps of the head that is shown, and of the heads whose lines are drawn. */
    loadMaps() {
        const heads = [...new Set([this.head, ...this.chosen])].sort((a, b) => a - b);
        return someHeads(this.run, this.where, heads, this.time.last);
    }

    /* The moment */

    isLive() {
        return this.time.last === null;
    }

    /** Another moment, or more windows. */
    async drawMoment() {
        const mine = ++this.turn,
            names = this.isLive() ? null : (this.map.metrics ?? Object.keys(this.map.heads ?? {})),
            numeric = names?.filter((name) => name !== "pattern"),
            ranks = this.loadRanks(),
            found = numeric && (await this.run.numbersAt(numeric, this.where, this.time.moment));
        await ranks;
        if (!this.isCurrent() || mine !== this.turn) return;
        this.moment = found && { ...found, ofMoment: true, when: `window of ${this.time.text()}` };
        this.chart.mark(this.time.last);
        refill(this.beside, ...neighbours(this.params, this));
        this.drawNumbers();
        await Promise.all([this.pictures.now(), this.loadSample(mine)]);
    }

    async loadSample(mine) {
        const isWanted = () => this.isCurrent() && mine === this.turn,
            numbers = this.moment ?? this.run.newest(this.map);
        if ((await this.run.addSample(numbers, this.where, this.time.last, isWanted)) && isWanted()) this.drawNumbers();
    }

    /* Drawing */

    drawHistory(found) {
        const { metric, head, time, rules, intervals: alerts, map: layer } = this;
        drawSeries(this.chart, found, {
            metric,
            summary: this.summary(),
            head,
            marks: chartMarks({ rules, alerts, metric, layer, head, series: found }),
            last: time.last,
        });
    }

    drawSpectrum(live, summary) {
        const { head, spectrum, run } = this,
            newest = (key) => live?.spectrum?.[key]?.[head] ?? summary?.spectrum?.[key]?.last?.[head],
            own = newest("singular_values"),
            values = own ?? newest("qk_singular_values");
        spectrum.hidden = !this.isLive() || (Boolean(run.past) && !values?.length);
        if (values?.length)
            drawBars(spectrum.body, values, own ? "singular value, by size" : "singular value of Q Kᵀ, by size");
        else if (!spectrum.body.firstChild)
            spectrum.body.replaceChildren(
                note("No spectrum of this head yet: heads take turns under metrics.spectrum_budget."),
            );
    }

    drawNumbers() {
        const { run, map, metric, head, name, time } = this,
            summary = this.isLive() ? this.summary() : null,
            live = withWindow(this.moment ?? run.newest(map), summary),
            held = worstFirst(alertsAbout(alertsAt(this.intervals, time.step), map, head), this.rules),
            isHeld = ({ rule, from }) => held.some((one) => one.rule === rule && one.from === from);
        this.drawSpectrum(live, summary);
        this.about.setTitle(name, withModule(map, live ? run.when(live) : ""));
        this.about.body.replaceChildren(
            ...headAlerts(held),
            factsOf(live, summary, this),
            ...byRank(this.ranks, head),
            h("h3", {}, held.length ? "Other alerts" : "Alerts"),
            alertsList(this.alerts().filter((one) => !isHeld(one)), this.params),
        );
        if (live) this.numbers.body.replaceChildren(numbersTable(run, live, summary, head));
        const title = live?.ofMoment ? "Numbers of the window" : "Numbers of the last window";
        this.numbers.setTitle(live?.past ? title : "Newest numbers", live?.past ? live.when : "");
    }

    drawNoMap() {
        this.linesBox.replaceChildren();
        this.linesFrame.hidden = true;
        this.found = null;
        return this.isLive() ? NO_MAP : NO_PAST_MAP;
    }

    drawPicture() {
        const { found, map, name, head, where, params, picture } = this;
        if (!found) return;
        const numbers = this.moment ?? this.run.newest(map),
            isMean = !found.heads,
            of = isMean ? `mean map of ${layerName(map)}` : `map of ${name}`,
            one = mapOf(found, head);
        const when = this.isLive() ? "Newest map" : "Map of the window";
        picture.setTitle(isMean ? `Mean map of ${layerName(map)}` : when, mapStep(found, numbers));
        picture.about(isMean ? layerName(map) : name, isMean ? "mean-map" : "map");
        const toTokens = (row) => Math.floor((row * found.queries) / found.rows);
        drawMap(picture.body, one, {
            name: of,
            onPick: (row) => go("tokens", { ...params, ...where, head, query: toTokens(row) }),
        });
        picture.body.append(...pairsList(one), ...(isMean ? [note(NOT_KEPT)] : []));
        this.drawLines();
    }

    drawLines() {
        const { found, chosen, map } = this,
            isMean = !found.heads;
        this.linesFrame.hidden = false;
        this.linesFrame.setTitle("Lines between tokens", mapStep(found, null));
        this.linesFrame.about(isMean ? layerName(map) : this.name, "lines");
        const all = d3.range(this.heads);
        this.chooser.replaceChildren(isMean ? "" : headChooser(all, chosen, (heads) => this.choose(heads)));
        this.lines.draw(
            found,
            isMean ? [{ head: null, color: headColor(0) }] : chosen.map((head) => ({ head, color: headColor(head) })),
        );
    }

    async choose(heads) {
        this.chosen = heads.slice(0, LINE_HEADS);
        keep({ lines: this.chosen.join(",") });
        await this.pictures.now();
    }

    /* Events */

    /** Returns how to stop. */
    listen() {
        const { store, map, run } = this,
            isOurs = (one) => layerName(one) === layerName(map) && one.run === run.run;
        const ends = [
            store.on("live", (live) => {
                if (!isOurs(live) || !this.isLive()) return;
                this.drawNumbers();
                this.pictures.soon();
            }),
            store.on("summary", (summary) => {
                if (!isOurs(summary)) return;
                this.drawWindow();
                this.time.reloadSoon();
            }),
            store.on("log", this.drawLogged),
            this.drawLogged.stop,
            store.on("alerts", this.drawAlerts),
            this.drawAlerts.stop,
            this.history.stop,
            this.pictures.stop,
            this.drawWindow.stop,
            () => this.time.stop(),
        ];
        return () => ends.forEach((end) => end());
    }
}

export async function show(root, params, { store, isCurrent }) {
    const opened = await openLayer(root, params, { store, isCurrent });
    if (!opened) return null;
    const run = opened.run,
        map = await store.complete(opened.map);
    if (!isCurrent()) return null;
    const view = new HeadView(params, { run, map, store, isCurrent });
    [view.rules] = await Promise.all([loadRules(params.job), view.loadAlerts(), view.time.load()]);
    if (!isCurrent()) return null;
    view.build(root);
    view.drawNumbers();
    if (isSampled(map)) store.loadWindow(view.where);
    const numbersOfPast = run.load(map.metrics ?? [], view.where).then(() => isCurrent() && view.drawMoment());
    await Promise.all([view.history.now(), view.isLive() && !run.past ? view.pictures.now() : numbersOfPast]);
    performance.mark("data");
    view.loadRoles();
    return view.listen();
}
