// SPDX-License-Identifier: MIT
// Runs, and the heat map of layers by heads: live, or at any window of the run.
import { alertsList } from "./alerts_list.js";
import { firingAt, loadEndings, loadIntervals } from "./alerts_past.js";
import { COLOR_MAPS, extent } from "./colors.js";
import { byLayer, h, headName, layerName, note, number, refill, select } from "./dom.js";
import { figure } from "./figure.js";
import { loadGrid, momentOf, seriesOf, valuesAt, windowAt } from "./grid.js";
import { drawLegend, HeatMap, RECENT } from "./heat_map.js";
import { facts, headCount, metricPicker, statisticPicker, unitOf } from "./pickers.js";
import { go, here, keep, link } from "./router.js";
import { droppedCount, runsTable, silences } from "./runs_table.js";
import { set, settings } from "./settings.js";
import { liveValues } from "./store.js";
import { drawTimeMap, sparkline, whyNoTime } from "./time_map.js";
import { paced } from "./view_state.js";

const PLAY_MS = 120;
/** The grid is asked for again at most so often, and so are alerts. */
const GRID_MS = 2000,
    ALERTS_MS = 500;
/** Another width than this many px is drawn anew. */
const RESIZED = 30;

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

const samePlace = (a, b) => ["rule", "stack", "layer", "site", "head"].every((key) => a[key] === b[key]);

function nothingYet(job, run) {
    const refused = (run?.lost ?? 0) + (run ? droppedCount(run) : 0);
    return note(
        refused > 0
            ? `${job} has sent nothing that was measured yet, and ${refused} of its messages were lost or dropped: attnctl summary ${job} says why.`
            : `${job} has sent nothing that was measured yet. It is asked to capture every 50th step by default: attnctl plan get ${job} says what holds.`,
    );
}

const wrongMoment = (text) =>
    note(
        `at=${text} names no window of this run. A window is named by its end, as in at=epoch3 or at=step120. This is the newest.`,
    );

/** Of a head, from the newest message. */
const factsOf = (live, head) =>
    facts([
        ["pattern", live?.heads?.pattern?.[head]],
        ["step", live?.step],
        ["entropy_normalized", live?.heads?.entropy_normalized?.[head]],
        ["first_token", live?.heads?.first_token?.[head]],
        ["max_logit", live?.heads?.max_logit?.[head]],
        ["importance", live?.heads?.importance?.[head]],
        ["effective_rank", live?.spectrum?.effective_rank?.[head]],
    ]);

function marksList(marks) {
    if (marks.length === 0) return "";
    const entry = (mark) => h("li", { class: mark.kind === "alert" ? "firing" : null }, mark.text);
    return h("ul", { class: "list" }, marks.map(entry));
}

class Overview {
    constructor(params, { store, events, isCurrent }) {
        Object.assign(this, { params, store, events, isCurrent });
        this.metric = store.metric(params.metric || "entropy_normalized");
        this.statistic = params.statistic || "mean";
        this.run = store.run;
        this.grid = null;
        this.intervals = []; // of alerts
        this.endings = null; // of all runs
        this.moment = params.at; // as in the address; undefined: live
        this.at = null; // the window of the grid; null: live
        this.layers = [];
        this.limits = [0, 1]; // of the colours
        this.held = []; // what fires at the moment that is shown
        this.chosen = null; // {layer, head}
        this.changed = new Set(); // names of layers since the last frame
        this.silent = silences(store);
        this.timer = null; // while the run is played
        this.onSummary = paced(() => this.reloadGrid(), GRID_MS);
        this.onAlerts = paced(() => this.reloadAlerts(), ALERTS_MS);
    }

    /* What is asked for */

    loadGrid() {
        const { params, run, metric, statistic } = this;
        return loadGrid({ job: params.job, run, metric: metric.name, statistic });
    }

    loadIntervals() {
        return loadIntervals(this.params.job, this.run);
    }

    async load() {
        [this.grid, this.intervals] = await Promise.all([this.loadGrid(), this.loadIntervals()]);
        this.at = windowAt(this.grid, this.moment);
    }

    /** New windows, the same moment. */
    async reloadGrid() {
        const fresh = await this.loadGrid().catch(() => null);
        if (!fresh || !this.isCurrent()) return;
        this.grid = fresh;
        this.at = windowAt(fresh, this.moment);
        this.placeSlider();
        if (layersOf(this.store, fresh).length !== this.layers.length) return this.drawAll();
        this.recolor();
        this.drawCell();
    }

    async reloadAlerts() {
        this.intervals = await this.loadIntervals().catch(() => this.intervals);
        if (!this.isCurrent()) return;
        this.drawAlerts();
        this.loadEndings();
    }

    async loadEndings() {
        this.endings = await loadEndings().catch(() => this.endings);
        if (this.isCurrent()) this.drawRuns();
    }

    /* What is shown: of a layer, at the moment */

    /** Over the heads. */
    valuesOf(layer) {
        const live = this.at === null ? liveValues(this.store.newest(layer), this.metric.name) : null;
        return live ?? valuesAt(this.grid, layer, this.at ?? (this.grid?.count ?? 0) - 1);
    }

    hasEnded() {
        return !["active", "idle"].includes(this.store.shownRun()?.state);
    }

    /** What fires; of a run that is over, what fired at its end. */
    alertsNow() {
        const { grid, at, intervals, store, params, run } = this;
        if (at !== null) return firingAt(intervals, grid.windows.step[at]);
        if (!this.hasEnded()) return store.firing.filter((alert) => alert.job === params.job && alert.run === run);
        return grid ? firingAt(intervals, grid.windows.step[grid.count - 1]) : [];
    }

    marksOf(layer) {
        const fires = this.held.filter((alert) => layerName(alert) === layerName(layer));
        const marks = fires.map((alert) => ({
            head: alert.head,
            kind: alert.severity === "info" ? "info" : "alert",
            text: `● ${alert.rule} since epoch ${alert.since.epoch}, step ${alert.since.step}`,
        }));
        return [...marks, ...this.changesOf(layer)];
    }

    /** Lasting changes of the last windows. */
    changesOf(layer) {
        const summary = this.store.summaries.get(layerName(layer)),
            changes = summary?.drift?.[this.metric.name]?.change ?? [],
            now = this.at === null ? summary?.window.last : this.grid.windows.last[this.at];
        return changes.flatMap((unit, head) =>
            unit !== null && unit <= now && unit > now - RECENT * summary.window.every
                ? [{ head, kind: "drift", text: `▲ changed for good at ${summary.window.unit} ${unit}` }]
                : [],
        );
    }

    describe(layer, head) {
        const marks = this.marksOf(layer).filter((mark) => mark.head === head);
        return [`${headName(layer, head)}: ${number(this.valuesOf(layer)?.[head])}`, ...marks.map((m) => m.text)].join(
            "\n",
        );
    }

    range() {
        if (settings.range === "fixed" && this.metric.domain) return this.metric.domain;
        const all = this.layers.flatMap((layer) => this.valuesOf(layer) ?? []);
        for (const row of this.grid?.layers.values() ?? []) for (const x of row.values) all.push(x);
        return extent(all);
    }

    /* Drawing */

    build(root) {
        this.heat = figure("Layers × heads", "", "heat");
        this.legend = h("div", { class: "legend" });
        this.cellBox = figure("Head", "", "one-head").plain();
        this.alertsBox = figure("Alerts", "", "alerts").plain();
        this.runsBox = figure("Runs", "", "wide all-runs").plain();
        this.timeBox = figure("Layers × time", "", "time-map");
        this.map = this.makeMap();
        this.heat.append(this.legend);
        this.alertsBox.body.tabIndex = 0; // it scrolls
        if (this.moment !== undefined && this.at === null) root.append(wrongMoment(this.moment));
        root.append(
            this.makeControls(),
            h(
                "div",
                { class: "columns" },
                h("div", { class: "stack" }, this.heat, this.timeBox, this.runsBox),
                h("div", { class: "stack" }, this.cellBox, this.alertsBox),
            ),
        );
    }

    makeControls() {
        const change = (more) => go("overview", { ...here().params, ...more });
        const ranges = [
            ["auto", "automatic range"],
            ["fixed", "fixed range"],
        ];
        return h(
            "div",
            { class: "controls" },
            metricPicker(this.store, this.metric.name, (metric) => change({ metric })),
            statisticPicker(this.statistic, (statistic) => change({ statistic })),
            select("range", ranges, settings.range, (value) => {
                set("range", value);
                this.drawAll();
            }),
            this.makeTime(),
        );
    }

    makeTime() {
        this.when = h("span", { class: "soft" });
        this.play = h(
            "button",
            { type: "button", "aria-label": "play the run", onclick: () => this.playOrStop() },
            "▶ play",
        );
        this.slider = h("input", {
            type: "range",
            min: 0,
            "aria-label": "time: window of the run, the last stop is live",
            oninput: () => {
                this.stop();
                this.setTime(Number(this.slider.value));
            },
        });
        this.placeSlider();
        return h("div", { class: "time" }, this.play, this.slider, this.when);
    }

    placeSlider() {
        this.slider.max = this.grid?.count ?? 0;
        this.slider.value = this.at ?? this.slider.max;
    }

    makeMap() {
        const map = new HeatMap(this.heat, this.legend, (layer, head) => {
            this.chosen = { layer, head };
            keep({ cell: headName(layer, head) });
            this.drawCell();
        });
        map.onOpen = (layer, head) => go("head", this.placeOf(layer, head));
        map.describe = (layer, head) => this.describe(layer, head);
        return map;
    }

    /** Parameters of the view of a layer or head. */
    placeOf({ stack, layer, site }, head) {
        return { ...this.params, at: undefined, cell: undefined, stack, layer, site, head };
    }

    drawNothing() {
        this.heat.body.replaceChildren(nothingYet(this.params.job, this.store.shownRun()));
    }

    drawAll() {
        this.layers = layersOf(this.store, this.grid);
        this.timeBox.hidden = this.layers.length === 0;
        if (this.layers.length === 0) return this.drawNothing();
        this.map.cells.clear();
        this.map.draw(this.layers, this.heat.body.clientWidth || 900);
        this.recolor();
        this.placeCursor();
        this.drawCell();
    }

    /** At the head that was chosen, or that the address names. */
    placeCursor() {
        const wanted = this.chosen ?? this.headOf(this.params.cell),
            row = wanted && this.map.rowAt(wanted.layer);
        if (!row || !(wanted.head < wanted.layer.heads)) return;
        this.chosen = wanted;
        this.map.moveTo(row, wanted.head, false);
    }

    /** Of "decoder.3.self.h1"; null when there is no such layer. */
    headOf(text = "") {
        const layer = this.layers.find((one) => text.startsWith(`${layerName(one)}.h`));
        return layer ? { layer, head: Number(text.split(".h")[1]) } : null;
    }

    colorRow(layer) {
        this.map.color(layer, this.valuesOf(layer), COLOR_MAPS[settings.colorMap], this.limits);
        this.map.mark(layer, this.marksOf(layer));
    }

    /** `isNew`: there are other numbers than before, not only another moment of them. */
    recolor(isNew = true) {
        this.limits = this.range();
        this.held = this.alertsNow();
        this.layers.forEach((layer) => this.colorRow(layer));
        drawLegend(this.legend, this.limits, COLOR_MAPS[settings.colorMap], this.metric);
        this.when.textContent = this.whenText();
        this.slider.setAttribute("aria-valuetext", this.when.textContent);
        if (isNew || !this.markTime) this.drawTime();
        this.markTime(this.at);
        const isLive = this.at === null && this.layers.some((layer) => this.store.newest(layer));
        const of = isLive ? "newest step" : `${this.statistic} of the window`;
        this.heat.setTitle("Layers × heads", `${unitOf(this.metric)} · ${of}`);
    }

    whenText() {
        const { grid, at } = this;
        if (at !== null)
            return `${grid.unit} ${grid.windows.last[at]}${grid.unit === "step" ? "" : ` · step ${grid.windows.step[at]}`}`;
        return this.hasEnded() ? "end of the run" : this.events.state === "live" ? "live" : "newest received";
    }

    drawTime() {
        const { grid, timeBox, metric, limits } = this;
        if (!grid || grid.count < 2) {
            timeBox.setTitle("Layers × time");
            timeBox.body.replaceChildren(whyNoTime(grid));
            this.markTime = () => {};
            return;
        }
        timeBox.setTitle("Layers × time", `${unitOf(metric)} · ${this.statistic} of the window, mean over heads`);
        const onPick = (window) => {
            this.stop();
            this.setTime(window);
        };
        this.markTime = drawTimeMap(timeBox.body, grid, { limits, metric, onPick });
    }

    drawCell() {
        if (!this.chosen) {
            this.cellBox.setTitle("Head", "");
            this.cellBox.body.replaceChildren(
                h("p", { class: "soft" }, "Choose a cell: by a click, or with the arrow keys. Enter opens the head."),
            );
            return;
        }
        const { layer, head } = this.chosen,
            marks = this.marksOf(layer).filter((mark) => mark.head === head || mark.head === null);
        this.cellBox.setTitle(headName(layer, head), this.metric.description);
        refill(
            this.cellBox.body,
            h("p", { class: "big" }, number(this.valuesOf(layer)?.[head])),
            sparkline(seriesOf(this.grid, layer, head), this.at) ?? "",
            this.at === null ? factsOf(this.store.newest(layer), head) : "",
            marksList(marks),
            h(
                "p",
                {},
                h("a", { href: link("head", this.placeOf(layer, head)) }, "open this head"),
                " · ",
                h("a", { href: link("layer", this.placeOf(layer)) }, "its layer"),
            ),
        );
    }

    drawAlerts() {
        const now = (this.held = this.alertsNow()),
            others = this.intervals.filter((one) => !now.some((alert) => samePlace(alert, one)));
        const { at, grid } = this,
            end = this.hasEnded() ? "at the end of the run" : "firing now";
        this.alertsBox.setTitle("Alerts", at === null ? end : `at step ${grid.windows.step[at]}`);
        refill(
            this.alertsBox.body,
            alertsList(now),
            others.length ? h("h3", {}, at === null ? "Earlier" : "At other times") : "",
            others.length ? alertsList(others) : "",
        );
        this.layers.forEach((layer) => this.map.mark(layer, this.marksOf(layer)));
    }

    drawRuns() {
        refill(this.runsBox.body, runsTable(this.store, this.params, this.endings));
        if (this.layers.length === 0) this.drawNothing();
    }

    /* Time */

    setTime(value) {
        this.at = !this.grid || value >= this.grid.count ? null : Math.max(0, value);
        this.moment = this.at === null ? undefined : momentOf(this.grid, this.at);
        this.placeSlider();
        keep({ at: this.moment });
        this.recolor(false);
        this.drawCell();
        this.drawAlerts();
    }

    stop() {
        clearInterval(this.timer);
        this.timer = null;
        this.play.textContent = "▶ play";
    }

    playOrStop() {
        if (this.timer) return this.stop();
        if (!this.grid || this.grid.count < 2) return;
        if (this.at === null) this.setTime(0);
        this.play.textContent = "❚❚ stop";
        this.timer = setInterval(() => {
            this.setTime((this.at ?? this.grid.count) + 1);
            if (this.at === null) this.stop();
        }, PLAY_MS);
    }

    /* What comes */

    onLive(live) {
        if (this.changed.size === 0) requestAnimationFrame(() => this.drawChanged());
        this.changed.add(layerName(live));
    }

    /** What came since the last frame is drawn at once. */
    drawChanged() {
        const names = this.changed;
        this.changed = new Set();
        if (!this.isCurrent()) return;
        if ([...names].some((name) => !this.map.cells.has(name))) this.drawAll();
        if (this.at === null)
            for (const layer of this.layers.filter((one) => names.has(layerName(one)))) {
                this.colorRow(layer);
                this.map.flash(layer);
            }
        if (this.chosen && names.has(layerName(this.chosen.layer))) this.drawCell();
    }

    /** The runs, when one has fallen silent. */
    onClock() {
        const before = this.silent;
        this.silent = silences(this.store);
        if (this.silent !== before) this.drawRuns();
    }

    onResize() {
        const width = this.heat.body.clientWidth;
        if (Math.abs(width - this.width) <= RESIZED) return;
        this.width = width;
        this.drawAll();
    }

    /** Returns how to stop. */
    listen() {
        const { store, events } = this,
            resize = new ResizeObserver(() => this.onResize());
        this.width = this.heat.body.clientWidth;
        resize.observe(this.heat.body);
        const ends = [
            store.on("live", (live) => this.onLive(live)),
            store.on("summary", this.onSummary),
            store.on("alerts", () => this.drawAlerts()),
            store.on("alerts", this.onAlerts),
            store.on("jobs", () => this.drawRuns()),
            store.on("clock", () => this.onClock()),
            events.on("state", () => this.recolor(false)),
            () => resize.disconnect(),
        ];
        return () => {
            this.stop();
            this.onSummary.stop();
            this.onAlerts.stop();
            ends.forEach((end) => end());
        };
    }
}

export async function show(root, params, context) {
    const view = new Overview(params, context);
    await view.load();
    if (!context.isCurrent()) return null;
    view.build(root);
    view.drawAll();
    view.drawAlerts();
    view.drawRuns();
    performance.mark("data");
    view.loadEndings();
    if (!view.grid && context.store.summaries.size) view.onSummary(); // windows that are about to be stored
    return view.listen();
}
