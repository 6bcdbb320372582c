// SPDX-License-Identifier: MIT
// A run: its verdict, its time line, the maps of the head that broke first, and layers by heads: live, or at any window.
import { OverviewAlerts } from "./alerts_list.js";
import { find } from "./api.js";
import { alertsAbout, windowOfStep } from "./chart_marks.js";
import { BeforeAfter } from "./before_after.js";
import { COLOR_MAPS, extent, scaled } from "./colors.js";
import { sparkline } from "./chart.js";
import { byLayer, h, headName, layerName, note, number, refill, select, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { loadLoggedGrid, momentOf, momentText, seriesOf, valuesAt, windowAt } from "./grid.js";
import { drawLegend } from "./heat_legend.js";
import { HeatMap } from "./heat_map.js";
import { NeedsAttention } from "./needs_attention.js";
import { facts, headCount, metricPicker, statisticPicker, unitOf } from "./pickers.js";
import { go, here, keep, link } from "./router.js";
import { boundsOf, loadRules } from "./rules.js";
import { cardLine } from "./run_card.js";
import { isOver } from "./run_text.js";
import { set, settings } from "./settings.js";
import { liveValues } from "./store.js";
import { HealthyRanges } from "./own_range.js";
import { lossText, Timeline } from "./timeline.js";
import { firingOf, marksOf } from "./verdict.js";
import { paced, pacedUntilStored } from "./view_state.js";
import { whyNoWindow } from "./view_fleet.js";
import { droppedCount } from "./view_home.js";
import { Playback, wrongMoment } from "./view_time.js";

/** The grid is asked for again at most so often, and so are alerts, and the verdict. */
const GRID_MS = 2000,
    ALERTS_MS = 500,
    VERDICT_MS = 2000;
/** Another width than this many px is drawn anew. */
const RESIZED = 30;

const rowOf = ({ stack, layer, site, module }, heads) => ({ stack, layer, site, module, heads });

/** Layers of the picture: those of the windows, and those that are live. */
function layersOf(store, grid) {
    const all = new Map();
    for (const [name, layer] of grid?.layers ?? [])
        all.set(name, rowOf(layer, layer.heads));
    for (const map of store.layers()) {
        const heads = headCount(map);
        if (heads > 0) all.set(layerName(map), rowOf(map, heads));
    }
    return [...all.values()].sort(byLayer);
}

function nothingYet(job, run, fleet) {
    const why = run ? whyNoWindow(fleet, run.run) : "";
    if (why) return note(why, " ", h("a", { href: link("fleet", {}) }, "The fleet"));
    if (isOver(run)) return note(`${job} sent nothing that was measured before it ended.`);
    const refused = (run?.lost ?? 0) + (run ? droppedCount(run) : 0);
    return note(
        refused > 0
            ? `${job} has sent nothing that was measured yet, and ${refused} of its messages were lost or dropped: attnctl summary ${job} says why.`
            : `${job} has sent nothing that was measured yet. It is asked to capture every 50th step by default: attnctl plan get ${job} says what holds.`,
    );
}

/* The head that is chosen: its number, its line over the run, what fires there, and links. */

/** Numbers of the newest message. */
const factsOf = (live, head) =>
    facts([
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

function drawNoHead(frame) {
    frame.setTitle("Head", "");
    frame.body.replaceChildren(
        h("p", { class: "soft" }, "Choose a cell: by a click, or with the arrow keys. Enter opens the head."),
    );
}

/**
 * Draws into a frame. `value` of `metric`; `series` over the run with the window `at`; `live`: its layer's newest message,
 * or null; `bound` of a rule, or null; `onset`: the window in which the alerts about it began, or null; `marks`: [{kind, text}]; `place`: parameters of its view.
 */
function drawHead(frame, { layer, head, metric, value, series, at, bound, onset, live, marks, place }) {
    frame.setTitle(headName(layer, head), metric.description);
    refill(
        frame.body,
        h("p", { class: "big" }, number(value)),
        sparkline(series, { at, bound, onset }) ?? "",
        live ? factsOf(live, head) : "",
        marksList(marks),
        h(
            "p",
            { class: "links" },
            h("a", { href: link("head", place) }, "open this head"),
            " · ",
            h("a", { href: link("layer", { ...place, head: undefined }) }, "its layer"),
        ),
    );
}

class Overview {
    constructor(params, { store, events, layers, isCurrent }) {
        Object.assign(this, { params, store, events, isCurrent });
        this.arrival = layers;
        this.metric = store.metric(params.metric || "entropy_normalized");
        this.statistic = params.statistic || "mean";
        this.run = store.run;
        this.grid = null;
        this.moment = params.at; // as in the address; undefined: live
        this.at = null; // the window of the grid; null: live
        this.layers = [];
        this.limits = [0, 1]; // of the colours
        this.chosen = null; // {layer, head}
        this.changed = new Set(); // names of layers since the last frame
        this.rules = []; // in force
        this.cost = ""; // as loadCost() has it
        const lossOf = (since) => lossText(this.log, since, this.at === null ? null : this.grid.windows.step[this.at]);
        this.attention = new NeedsAttention({ store, params, run: store.run, isCurrent, lossOf });
        this.alerts = new OverviewAlerts({ store, params, run: store.run });
        this.timeline = new Timeline({
            run: { job: params.job, run: store.run },
            metricOf: (name) => store.metrics.find((metric) => metric.name === name),
            hrefOf: (alert) => this.attention.hrefOf(alert),
            onPick: (step) => this.playback.goTo(windowOfStep(this.grid.windows.step, step)),
            isCurrent,
        });
        this.maps = new BeforeAfter({ store, params, isCurrent });
        this.playback = new Playback((at) => this.setTime(at));
        this.onSummary = pacedUntilStored(() => this.reloadGrid(), GRID_MS);
        this.onAlerts = pacedUntilStored(() => this.reloadAlerts(), ALERTS_MS);
        this.onVerdict = paced(() => this.reloadVerdict(), VERDICT_MS);
    }

    /* Questions to attnd */

    async loadGrid() {
        const { params, run, metric, statistic } = this,
            [grid, log] = await loadLoggedGrid({ job: params.job, run, metric: metric.name, statistic });
        this.log = log;
        return grid;
    }

    /** Why the plan takes nothing of the job's runs that go on, else what capturing costs them; "" when none has told. */
    async loadCost() {
        const plan = await find("plan", { job: this.params.job }).catch(() => null);
        this.cost = plan?.note ?? plan?.cost?.message ?? "";
        if (this.isCurrent()) this.drawCost();
    }

    async load() {
        const { params, alerts, attention } = this;
        [this.grid, this.rules] = await Promise.all([
            this.loadGrid(),
            loadRules(params.job),
            alerts.load(),
            attention.verdict.load(),
            this.arrival,
        ]);
        attention.rules = this.rules;
        this.at = windowAt(this.grid, this.moment);
    }

    /** The moment that is shown, for alerts and verdict. */
    takeMoment() {
        const { grid, at, moment, alerts } = this,
            window = at === null ? null : { step: grid.windows.step[at], epoch: grid.windows.epoch[at] };
        alerts.goTo(window?.step ?? null);
        this.attention.goTo(at === null ? undefined : moment, window, alerts.intervals);
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
        await this.alerts.load().catch(() => {});
        if (!this.isCurrent()) return;
        this.drawAlerts();
        this.onVerdict();
    }

    async reloadVerdict() {
        this.loadCost();
        await this.attention.verdict.load();
        if (this.isCurrent()) this.drawVerdict();
    }

    /* Numbers of a layer at the moment */

    /** The newest message of a layer, while the run goes on and no moment of the past is shown. */
    newestOf(layer) {
        const isShown = this.at === null && !(this.hasEnded() && this.grid?.count);
        return isShown ? this.store.newest(layer) : null;
    }

    /** Over the heads. */
    valuesOf(layer) {
        const live = liveValues(this.newestOf(layer), this.metric.name);
        return live ?? valuesAt(this.grid, layer, this.at ?? (this.grid?.count ?? 0) - 1);
    }

    hasEnded() {
        return isOver(this.store.shownRun());
    }

    marksOf(layer) {
        return marksOf(layer, this.alerts.held);
    }

    describe(layer, head) {
        const marks = this.marksOf(layer).filter((mark) => mark.head === head);
        const old = this.oldStepOf(layer),
            value = `${headName(layer, head)}: ${number(this.valuesOf(layer)?.[head])}${old === null ? "" : `, of step ${old}`}`;
        return [value, withModule(layer, ""), ...marks.map((m) => m.text)].filter(Boolean).join("\n");
    }

    range() {
        if (settings.scale === "natural" && this.metric.domain) return this.metric.domain;
        const all = this.layers.flatMap((layer) => this.valuesOf(layer) ?? []);
        for (const row of this.grid?.layers.values() ?? []) for (const x of row.values) all.push(x);
        return extent(all);
    }

    /* Drawing */

    build(root) {
        this.heat = figure("Layers × heads", "", "heat");
        this.legend = h("div", { class: "legend" });
        this.cellBox = figure("Head", "", "one-head").plain();
        this.map = this.makeMap();
        this.costLine = h("p", { class: "soft cost" });
        this.card = cardLine(this.store, { job: this.params.job, run: this.run });
        this.heat.append(this.legend, this.costLine);
        this.placeSlider();
        root.append(
            ...[wrongMoment(this)].filter(Boolean),
            this.card,
            this.attention.frame,
            h("div", { class: "story" }, this.timeline.frame, this.maps.frame),
            this.makeControls(),
            h("div", { class: "columns" }, this.heat, h("div", { class: "stack" }, this.cellBox, this.alerts.frame)),
        );
    }

    makeControls() {
        const change = (more) => go("overview", { ...here().params, ...more }),
            { domain } = this.metric;
        const ranges = [
            ["own", "by own range"],
            ...(domain ? [["natural", `natural: ${number(domain[0])} to ${number(domain[1])}`]] : []),
            ["auto", "of this run"],
        ];
        return h(
            "div",
            { class: "controls" },
            metricPicker(this.store, this.metric.name, (metric) => change({ metric })),
            statisticPicker(this.statistic, (statistic) => change({ statistic })),
            select("colour", ranges, settings.scale, (value) => {
                set("scale", value);
                this.drawAll();
            }),
            this.playback.element,
        );
    }

    placeSlider() {
        this.playback.place(this.grid?.count ?? 0, this.at);
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
        return { ...this.params, cell: undefined, stack, layer, site, head };
    }

    drawNothing() {
        this.heat.body.replaceChildren(nothingYet(this.params.job, this.store.shownRun(), this.store.fleet));
    }

    drawAll() {
        this.layers = layersOf(this.store, this.grid);
        if (this.layers.length === 0) return this.drawNothing();
        this.map.cells.clear();
        this.map.draw(this.layers, this.heat.body.clientWidth || 900);
        this.recolor();
        this.placeCursor();
        this.drawCell();
    }

    /** At the head that was chosen, or that the address names. */
    placeCursor() {
        const wanted = this.chosen ?? this.headOf(this.params.cell) ?? this.worstHead(),
            row = wanted && this.map.rowAt(wanted.layer);
        if (!row || !(wanted.head < wanted.layer.heads)) return;
        this.chosen = wanted;
        this.map.moveTo(row, wanted.head, false);
    }

    /** The head that the verdict names first; null where it names none. */
    worstHead() {
        const [alert] = this.attention.verdict.found?.alerts.filter(({ head }) => head !== null) ?? [];
        return alert ? this.headOf(headName(alert, alert.head)) : null;
    }

    /** The layer and the head that "decoder.3.self.h1" names; null when there is no such layer. */
    headOf(text = "") {
        const layer = this.layers.find((one) => text.startsWith(`${layerName(one)}.h`));
        return layer ? { layer, head: Number(text.split(".h")[1]) } : null;
    }

    colorRow(layer) {
        this.map.color(layer, this.valuesOf(layer), this.ranges?.colorsOf(layer) ?? scaled(COLOR_MAPS[settings.colorMap], this.limits));
    }

    /** `isNew`: there are other numbers than before, not only another moment of them. */
    recolor(isNew = true) {
        this.isOver = this.hasEnded();
        this.limits = this.range();
        this.takeMoment();
        if (isNew) this.takeRanges();
        this.layers.forEach((layer) => this.colorRow(layer));
        this.drawOutlines();
        const bounds = boundsOf(this.rules, this.metric);
        drawLegend(this.legend, { limits: this.limits, interpolate: COLOR_MAPS[settings.colorMap], metric: this.metric, bounds, ranges: this.ranges });
        this.playback.name(this.whenText());
        this.drawStory();
        const isLive = this.layers.some((layer) => this.newestOf(layer));
        const of = isLive ? `of step ${this.stepOfLive()}${this.oldText()}` : `${this.statistic} of the window${this.windowStep()}`;
        this.heat.setTitle("Layers × heads", `${unitOf(this.metric)} · ${of}`);
    }

    /** The numbers may be of an earlier step than the newest message, which the header of the page names. */
    stepOfLive() {
        return Math.max(...this.layers.map((layer) => this.store.newest(layer)?.step ?? -1));
    }

    /** The step of a layer's newest message, where it is of an earlier window than the last one; else null. */
    oldStepOf(layer) {
        const { count, windows } = this.grid ?? { count: 0 },
            step = this.newestOf(layer)?.step;
        return count > 1 && step <= windows.step[count - 2] ? step : null;
    }

    oldText() {
        const old = this.layers.filter((layer) => this.oldStepOf(layer) !== null);
        if (old.length === 1) return `, ${layerName(old[0])} of step ${this.oldStepOf(old[0])}`;
        return old.length === 0 ? "" : `, ${old.length} layers of earlier ones`;
    }

    windowStep() {
        const { grid, at } = this;
        return grid?.count ? ` to step ${grid.windows.step[at ?? grid.count - 1]}` : "";
    }

    drawOutlines() {
        if (this.layers.length === 0) return;
        const firing = new Map(this.layers.map((one) => [layerName(one), firingOf(one, this.alerts.held)]));
        this.map.outline((layer, head) => firing.get(layerName(layer)).has(head));
    }

    whenText() {
        const { grid, at } = this;
        if (at !== null) return momentText(grid, at);
        return this.hasEnded() ? "end of the run" : this.events.state === "live" ? "live" : "newest received";
    }

    /** The ranges of the heads, where colours are the distance from them. */
    takeRanges() {
        const { grid, metric, limits, alerts } = this,
            found = settings.scale === "own" ? new HealthyRanges({ grid, span: metric.domain ?? limits, alerts: alerts.intervals }) : null;
        this.ranges = found?.isKnown ? found : null; // until then a colour is a number
    }

    /** The time line and the maps of what the verdict names, now or at the moment that is shown. */
    drawStory() {
        const { verdict } = this.attention,
            alerts = [...(verdict.found?.alerts ?? []), ...(verdict.newest?.alerts ?? [])].filter(({ severity }) => severity !== "info");
        this.timeline.draw({ grid: this.grid, metric: this.metric, alerts, rules: this.rules, step: this.at === null ? null : this.grid.windows.step[this.at] });
        this.maps.draw(alerts, this.grid?.windows);
    }

    drawCell() {
        if (!this.chosen) return drawNoHead(this.cellBox);
        const { layer, head } = this.chosen;
        if (this.newestOf(layer)?.isPartial) this.completeCell(layer);
        drawHead(this.cellBox, {
            layer,
            head,
            metric: this.metric,
            value: this.valuesOf(layer)?.[head],
            series: seriesOf(this.grid, layer, head),
            at: this.at,
            bound: boundsOf(this.rules, this.metric, layer)[0]?.value ?? null,
            onset: this.onsetOf(layer, head),
            live: this.newestOf(layer),
            marks: this.marksOf(layer).filter((mark) => mark.head === head || mark.head === null),
            place: this.placeOf(layer, head),
        });
    }

    /** The other numbers of the chosen head. */
    async completeCell(layer) {
        const full = await this.store.complete(layer);
        if (this.isCurrent() && full && !full.isPartial && this.chosen?.layer === layer) this.drawCell();
    }

    /** The window in which the first of the alerts that fire about a head began. */
    onsetOf(layer, head) {
        const first = Math.min(...alertsAbout(this.alerts.held, layer, head).map(({ since }) => since[1]));
        return this.grid && Number.isFinite(first) ? windowOfStep(this.grid.windows.step, first) : null;
    }

    drawVerdict() {
        this.takeMoment();
        this.attention.draw();
        this.drawStory();
        this.drawOutlines();
    }

    drawCost() {
        this.costLine.textContent = this.hasEnded() ? "" : this.cost;
    }

    drawAlerts() {
        this.takeMoment();
        this.alerts.draw();
        this.drawOutlines();
    }

    drawRuns() {
        this.drawCost();
        if (this.layers.length === 0) return this.drawNothing();
        if (this.isOver === this.hasEnded()) return;
        this.recolor(false);
        this.drawCell();
    }

    /* Time */

    setTime(at) {
        this.at = at;
        this.moment = at === null ? undefined : momentOf(this.grid, at);
        this.params.at = this.moment; // links go there
        keep({ at: this.moment });
        this.recolor(false);
        this.drawCell();
        this.alerts.draw();
        this.attention.draw();
    }

    /* Events */

    onLive(live) {
        if (this.changed.size === 0) requestAnimationFrame(() => this.drawChanged());
        this.changed.add(layerName(live));
    }

    /** Draws at once all that came since the last frame. */
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

    onFleet() {
        this.attention.draw();
        if (this.layers.length === 0) this.drawNothing();
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
            store.on("summary", this.onVerdict),
            store.on("alerts", () => this.drawAlerts()),
            store.on("alerts", this.onAlerts),
            store.on("fleet", () => this.onFleet()),
            store.on("jobs", () => this.drawRuns()),
            store.on("jobs", () => this.card.draw()),
            events.on("state", () => this.recolor(false)),
            () => resize.disconnect(),
        ];
        return () => {
            this.playback.stop();
            this.timeline.resize.disconnect();
            this.onSummary.stop();
            this.onAlerts.stop();
            this.onVerdict.stop();
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
    view.attention.draw();
    view.loadCost();
    if (!view.grid && context.store.summaries.size) view.onSummary(); // windows that are about to be stored
    return view.listen();
}
