// SPDX-License-Identifier: MIT
// The page's data of the run it shows: the newest numbers of each layer, and the firing alerts of all runs. Never of two
// runs at once. Bounded, however long a tab stays open: one value per layer, one alert per rule and place, and the newest
// part of growing lists.
import { find, get, meantOf, now, RUNS_KEPT } from "./api.js";
import { byLayer, layerName } from "./dom.js";
import { silenceOf } from "./run_text.js";
import { pacedUntilStored } from "./view_state.js";

/** A layer of which only the history is left: numbers of no step. */
export const pastLayer = ({ stack, layer, site, module, heads, metrics }) => ({
    stack,
    layer,
    site,
    module,
    past: true,
    heads: Object.fromEntries(metrics.map((name) => [name, Array(heads).fill(null)])),
});

/** A summary with the numbers of more metrics, which are known of the same window; the newer one when there are two. */
function withKnown(map, known) {
    if (!known || known.window.last < map.window.last) return map;
    if (known.window.last > map.window.last) return known;
    const both = (key) =>
        map[key] && { ...map[key], ...Object.fromEntries(Object.entries(known[key] ?? {}).filter(([, found]) => found)) };
    return { ...map, heads: both("heads"), drift: both("drift") };
}

/** Metrics of projection matrices, such as "wq_wk.stable_rank". */
export const isOfMatrices = (metric) => /^w\w+\./.test(metric);

/** The newest numbers of attention with those of the newest matrices, which come in messages of their own. */
function withMatrices(map, of) {
    const known = Object.entries(of?.heads ?? {}).filter(([name]) => isOfMatrices(name));
    return { ...map, heads: { ...map.heads, ...Object.fromEntries(known) } };
}

const SUMMARIES_MS = 400;
/** The metric whose numbers are always there. */
const USUAL = "entropy_normalized";
/** After a window has closed, until it is on the disk, as a rule. */
const STARTS_MS = 2000;

export class Store {
    constructor(events) {
        this.jobs = []; // job maps, of all runs that attnd has in memory; of each job the newest first
        this.order = new Map(); // run -> number: the later it was heard of, the larger; lists keep their order while all go on
        this.heard = new Map(); // run -> {epoch, step, time_ns, at, interval}: when something came last, and how often (ms)
        this.past = []; // runs in the history, newest first
        this.metrics = [];
        this.asking = null; // for them
        this.job = "";
        this.run = ""; // everything below is of this run of the job alone
        this.asked = ""; // the run that the address asks for; "": the one that the job's name means, also when it means another
        this.live = new Map(); // layer name -> live map
        this.summaries = new Map(); // layer name -> summary map, of the primary window; numbers of metrics may be null
        this.summarized = new Set(); // metrics that were asked for
        this.firing = []; // of all runs
        this.fleet = { role: "off" }; // as the method says, whoever asks
        this.turn = 0; // of choose()
        this.isLoaded = false; // choose() has had its answer
        this.isFollowing = false; // while attnd does not answer nobody knows whether a run is silent
        this.listeners = new Map();
        this.loadStartsSoon = pacedUntilStored(() => this.loadStarts(), STARTS_MS);
        events.on("state", (state) => this.takeState(state));
        events.on("live", (map) => this.takeLive(map));
        events.on("summary", (map) => this.takeSummary(map));
        events.on("job", (map) => this.takeJob(map));
        events.on("alert", (map) => this.takeAlert(map));
        events.on("log", (map) => map.job === this.job && map.run === this.run && this.tell("log", map));
    }

    /** Calls back when something has come: live, summary, log (of the run that is shown), layers (the first of one), run (another
     * one is shown), jobs, alerts, clock (time goes by). Returns how to stop. */
    on(what, callback) {
        if (!this.listeners.has(what)) this.listeners.set(what, new Set());
        this.listeners.get(what).add(callback);
        return () => this.listeners.get(what).delete(callback);
    }

    tell(what, data) {
        for (const callback of [...(this.listeners.get(what) ?? [])]) callback(data);
    }

    takeState(state) {
        this.isFollowing = state === "live";
        this.tell("clock");
    }

    takeLive(map) {
        this.hear(map);
        if (map.job !== this.job) return;
        if (map.run !== this.run && !this.follow(map)) return;
        const before = this.live.get(layerName(map)),
            isNew = !before;
        if (map.tier === "weights" && before) {
            this.live.set(layerName(map), withMatrices(before, map)); // the newest of attention stays
            return this.tell("weights", map);
        }
        this.live.set(layerName(map), withMatrices(map, before));
        this.tell("live", map);
        if (isNew) this.tell("layers", map);
    }

    /** Whether a run of the job that is heard of is shown from now on: nobody knew it, so it is the newest. */
    follow({ job, run }) {
        if (this.asked || this.jobs.some((map) => map.job === job && map.run === run)) return false;
        this.beginRun(run);
        return true;
    }

    /** The job's name means another run than the one that is shown. */
    beginRun(run) {
        this.run = run;
        this.live.clear();
        this.summaries.clear();
        this.tell("run");
    }

    takeSummary(map) {
        if (this.jobs.some((run) => run.run === map.run && !run.first_ns)) this.loadStartsSoon();
        if (map.job !== this.job || map.run !== this.run) return;
        if (map.track) return; // not the windows that rules judge
        this.summaries.set(layerName(map), map);
        this.tell("summary", map);
    }

    takeJob(map) {
        const at = this.jobs.findIndex((job) => job.job === map.job && job.run === map.run);
        const told_ms = now();
        if (at >= 0) this.jobs[at] = { ...map, told_ms, first_ns: this.jobs[at].first_ns };
        else this.jobs.unshift({ first_ns: map.time_ns, ...map, told_ms });
        this.heardOf(map);
        this.knowOf(map);
        if (this.jobs.length > RUNS_KEPT) this.forget(this.jobs.pop().run);
        const { run } = this.meant(map.job);
        if (map.job === this.job && !this.asked && run !== this.run) this.beginRun(run);
        this.tell("jobs");
    }

    forget(run) {
        this.order.delete(run);
        this.heard.delete(run);
    }

    heardOf(map) {
        if (!this.order.has(map.run))
            this.order.set(map.run, this.order.size ? Math.max(...this.order.values()) + 1 : 0);
    }

    /** A message says that the run is alive, how far it is, and in what intervals it sends. The first layer of a
     * step counts. */
    hear({ run, epoch, step, time_ns }) {
        const before = this.heard.get(run) ?? { step: -1 },
            at = now();
        if (step <= before.step) before.at = at;
        else {
            const interval = before.time_ns ? (time_ns - before.time_ns) / 1e6 : null;
            this.heard.set(run, { epoch, step, time_ns, at, interval });
        }
    }

    /** A job map is told again when nothing came, too: by attnd's clock, as the trainer's may be another. */
    knowOf({ run, epoch, step, time_ns, heard_ns }) {
        const before = this.heard.get(run),
            at = Math.max(heard_ns / 1e6, before?.at ?? 0);
        if (before && step <= before.step) before.at = at;
        else this.heard.set(run, { epoch, step, time_ns, at, interval: before?.interval ?? null });
    }

    takeAlert(map) {
        const same = (a) =>
            ["job", "run", "rule", "stack", "layer", "site", "head"].every((key) => a[key] === map[key]);
        this.firing = this.firing.filter((alert) => !same(alert));
        if (map.state !== "resolved") this.firing.unshift(map);
        this.tell("alerts");
    }

    /** Jobs, runs and alerts: everything that the header and the lists need. */
    async loadJobs() {
        const [jobs, runs, alerts] = await Promise.all([
            get("jobs"),
            find("runs", { limit: RUNS_KEPT }),
            find("alerts", { limit: 1 }),
        ]);
        this.past = runs?.runs ?? [];
        const first = new Map([...this.jobs, ...this.past].map((run) => [run.run, run.first_ns]));
        this.jobs = jobs.map((map) => ({ ...map, told_ms: now(), first_ns: first.get(map.run) }));
        [...jobs].sort((a, b) => a.time_ns - b.time_ns).forEach((map) => this.heardOf(map));
        jobs.forEach((map) => this.knowOf(map));
        this.firing = alerts?.firing ?? [];
        this.tell("jobs");
        this.tell("alerts");
    }

    /** A run is in the history, which says when it began, from its first window on. */
    async loadStarts() {
        const runs = (await find("runs", { limit: RUNS_KEPT }).catch(() => null))?.runs ?? [];
        if (runs.length === 0) return;
        const first = new Map(runs.map((run) => [run.run, run.first_ns]));
        this.past = runs;
        this.jobs = this.jobs.map((map) => ({ ...map, first_ns: map.first_ns ?? first.get(map.run) }));
        this.tell("jobs");
    }

    async loadMetrics() {
        if (this.metrics.length > 0) return;
        this.asking ??= get("metrics").finally(() => (this.asking = null));
        this.metrics = await this.asking;
    }

    /** Whether choose() would change nothing. */
    shows(job, asked) {
        return this.isLoaded && this.job === job && this.asked === asked;
    }

    /** The newest numbers of one run of a job: of the one that its name means when `asked` is ""; of all layers those of `metric`. Listeners
     * then get events of it. */
    async choose(job, asked = "", metric = "") {
        const mine = ++this.turn;
        this.job = job;
        this.asked = asked;
        this.run = asked || (this.meant(job)?.run ?? "");
        this.isLoaded = false;
        this.live.clear();
        this.summaries.clear();
        this.summarized.clear();
        if (!this.run) return;
        const live = await this.newestLayers(metric);
        if (mine !== this.turn) return;
        this.isLoaded = true;
        for (const map of live) if (this.newest(map) === undefined) this.live.set(layerName(map), map);
    }

    /** Live maps of the run that is shown, or its layers in the history. For a run that the job's name does not mean the
     * history comes first: the last value of a layer is replaced by that of the next run. */
    async newestLayers(metric) {
        const { job, run } = this,
            live = run === this.meant(job)?.run ? await this.numbersOf(metric) : null;
        if (live?.length) return live;
        const past = await find("layers", { job, run });
        return past ? past.layers.map(pastLayer) : ((await this.numbersOf(metric)) ?? []);
    }

    /** Live maps with the numbers of one metric and the usual one: of all metrics they are megabytes. */
    async numbersOf(metric) {
        await this.loadMetrics();
        const names = this.metrics.map((one) => one.name).filter((name) => name === USUAL || name === metric),
            ask = (more) => this.inMemory("live", { metrics: names.join(","), ...more }),
            [live, matrices] = await Promise.all([ask({}), ask({ tier: "weights" })]),
            of = new Map(matrices?.map((map) => [layerName(map), map]));
        return live?.map((map) => ({ ...withMatrices(map, of.get(layerName(map))), isPartial: true })) ?? null;
    }

    /** The numbers of one more metric, where some of it are left out. */
    async loadLive(metric) {
        const lacks = (map) => map?.isPartial && map.heads?.[metric] === null;
        if (![...this.live.values()].some(lacks)) return;
        const mine = this.turn,
            found = await this.numbersOf(metric).catch(() => null);
        if (mine !== this.turn) return;
        for (const map of found ?? []) if (lacks(this.live.get(layerName(map)))) this.live.set(layerName(map), map);
    }

    /** All numbers of a layer; what is returned is the layer then. */
    async complete(map) {
        const mine = this.turn,
            { stack, layer, site } = map,
            lacks = () => this.live.get(layerName(map))?.isPartial;
        if (map.past || !lacks()) return map;
        const ask = (more) => this.inMemory("live", { stack, layer, site, ...more }).catch(() => null),
            [found, matrices] = await Promise.all([ask({}), ask({ tier: "weights" })]);
        if (mine !== this.turn) return map;
        if (found?.length && lacks()) this.live.set(layerName(map), withMatrices(found[0], matrices?.[0]));
        return this.live.get(layerName(map));
    }

    /** `live` or `summary` maps of the run that is shown; null when attnd has none in memory. */
    async inMemory(path, more = {}) {
        const { job, run } = this;
        if (!this.jobs.some((map) => map.run === run)) return null;
        return (await find(path, { job, run, ...more }))?.filter((map) => map.run === run) ?? null;
    }

    /** The last windows with the numbers of one metric: of all metrics they are megabytes. A little later, as what is drawn
     * first does not wait for them. */
    loadSummaries(metric) {
        if (this.summarized.has(metric)) return;
        this.summarized.add(metric);
        const mine = this.turn;
        setTimeout(async () => {
            const found = mine === this.turn ? await this.inMemory("summary", { metrics: metric }).catch(() => null) : null;
            if (mine !== this.turn) return;
            for (const map of found ?? []) this.takeSummary(withKnown(map, this.summaries.get(layerName(map))));
        }, SUMMARIES_MS);
    }

    /** All numbers of the last window of a layer. */
    async loadWindow({ stack, layer, site }) {
        const mine = this.turn,
            found = await this.inMemory("summary", { stack, layer, site }).catch(() => null);
        if (mine !== this.turn) return;
        for (const map of found ?? []) this.takeSummary(withKnown(map, this.summaries.get(layerName(map))));
    }

    /** The last window of a layer of a run, as far as it is known; undefined when it is not. */
    window(where, run) {
        const found = this.summaries.get(layerName(where));
        return found?.run === run ? found : undefined;
    }

    /** Names of jobs, those that go on first. */
    jobNames() {
        const order = { active: 0, idle: 1, ended: 2 };
        const known = [...this.jobs]
            .sort((a, b) => order[a.state] - order[b.state] || this.order.get(b.run) - this.order.get(a.run))
            .map((job) => job.job);
        return [...new Set([...known, ...this.past.map((run) => run.job)])];
    }

    /** Runs of a job, newest first: what attnd knows now, and the history. */
    runsOf(job) {
        const known = this.jobs.filter((map) => map.job === job);
        const seen = new Set(known.map((map) => map.run));
        return [...known, ...this.past.filter((run) => run.job === job && !seen.has(run.run))];
    }

    /** The entry of a run in the history: its settings, name, tags and notes; undefined when it has none. */
    recordOf({ job, run }) {
        return this.past.find((one) => one.run === run && one.job === job);
    }

    takeRecord(record) {
        const at = this.past.findIndex((one) => one.run === record.run && one.job === record.job);
        if (at >= 0) this.past[at] = record;
        else this.past.unshift(record);
        this.tell("jobs");
    }

    /** It was deleted. */
    dropRun({ job, run }) {
        const isOther = (one) => one.run !== run || one.job !== job;
        this.jobs = this.jobs.filter(isOther);
        this.past = this.past.filter(isOther);
        this.firing = this.firing.filter(isOther);
        this.forget(run);
        this.tell("jobs");
        this.tell("alerts");
    }

    /** The run that the name of a job means; undefined when there is none. */
    meant(job) {
        return meantOf(job, this.jobs, this.past);
    }

    /** A run by its first digits; undefined when the job has none. */
    runBy(job, digits) {
        return this.runsOf(job).find((run) => run.run.startsWith(digits));
    }

    /** The job map or the history's entry of the run that is shown. */
    shownRun() {
        return this.runsOf(this.job).find((run) => run.run === this.run);
    }

    /** "last heard 40 s ago" of a run that has fallen silent, else "". */
    silence(run) {
        return this.isFollowing ? silenceOf(run, this.heard.get(run?.run)) : "";
    }

    /** The newest numbers of a layer, of the run that is shown; undefined when attnd has none in memory. */
    newest(where, run) {
        const map = this.live.get(layerName(where));
        return map && !map.past && (!run || run === map.run) ? map : undefined;
    }

    /** Layers of the run, by name, in the model's order. */
    layers() {
        return [...this.live.values()].sort(byLayer);
    }

    metric(name) {
        return this.metrics.find((metric) => metric.name === name) ?? { name, unit: "1", group: "heads", domain: null, description: "" };
    }
}

/** The numbers of a metric in a live map: [H], or null. */
export const liveValues = (map, metric) => map?.heads?.[metric] ?? map?.spectrum?.[metric] ?? null;
/** One statistic of a metric in a summary: [H], or null. */
export const summaryValues = (map, metric, statistic) =>
    (map?.heads?.[metric] ?? map?.spectrum?.[metric])?.[statistic] ?? null;
