// SPDX-License-Identifier: MIT
// What the page knows of the job it shows: runs, the newest numbers of each layer, and what fires. Bounded, however long
// a tab stays open: one value per layer, one alert per rule and place, and the newest of what grows.
import { find, get } from "./api.js";
import { byLayer, layerName } from "./dom.js";

/** At most so many job maps are kept, however many runs begin while the page is open. */
const RUNS_KEPT = 500;

/** A layer of which only the history is left: numbers of no step. */
const pastLayer = ({ stack, layer, site, heads, metrics }) => ({
    stack,
    layer,
    site,
    past: true,
    heads: Object.fromEntries(metrics.map((name) => [name, Array(heads).fill(null)])),
});

/** What is drawn first goes first. */
const SUMMARIES_MS = 400;

export class Store {
    constructor(events) {
        this.jobs = []; // job maps, of all runs that attnd knows
        this.order = new Map(); // run -> number: the later it was heard of, the larger; lists keep their order while all go on
        this.past = []; // runs in the history, newest first
        this.metrics = [];
        this.job = "";
        this.live = new Map(); // layer name -> live map
        this.summaries = new Map(); // layer name -> summary map, of the primary window
        this.firing = [];
        this.run = ""; // the run that `live` is of
        this.older = new Set(); // runs of the job that another one followed
        this.listeners = new Map();
        events.on("live", (map) => this.takeLive(map));
        events.on("summary", (map) => this.takeSummary(map));
        events.on("job", (map) => this.takeJob(map));
        events.on("alert", (map) => this.takeAlert(map));
    }

    on(what, callback) {
        if (!this.listeners.has(what)) this.listeners.set(what, new Set());
        this.listeners.get(what).add(callback);
        return () => this.listeners.get(what).delete(callback);
    }

    tell(what, data) {
        for (const callback of [...(this.listeners.get(what) ?? [])]) callback(data);
    }

    takeLive(map) {
        if (map.job !== this.job || this.older.has(map.run)) return;
        if (this.run && map.run !== this.run) this.beginRun();
        this.run = map.run;
        this.live.set(layerName(map), map);
        this.tell("live", map);
    }

    /** The job has been started again: nothing of the run before is the newest any more. */
    beginRun() {
        this.older.add(this.run);
        this.live.clear();
        this.summaries.clear();
        this.tell("run");
    }

    takeSummary(map) {
        if (map.job !== this.job || this.older.has(map.run)) return;
        const old = this.summaries.get(layerName(map)),
            rule = (m) => `${m.window.unit} ${m.window.length} ${m.window.every}`;
        if (old && rule(old) !== rule(map)) return; // of window.also
        this.summaries.set(layerName(map), map);
        this.tell("summary", map);
    }

    takeJob(map) {
        const at = this.jobs.findIndex((job) => job.job === map.job && job.run === map.run);
        if (at >= 0) this.jobs[at] = map;
        else this.jobs.push(map);
        this.heardOf(map);
        if (this.jobs.length > RUNS_KEPT) this.order.delete(this.jobs.shift().run);
        this.tell("jobs");
    }

    heardOf(map) {
        if (!this.order.has(map.run))
            this.order.set(map.run, this.order.size ? Math.max(...this.order.values()) + 1 : 0);
    }

    takeAlert(map) {
        const same = (a) =>
            ["job", "run", "rule", "stack", "layer", "site", "head"].every((key) => a[key] === map[key]);
        this.firing = this.firing.filter((alert) => !same(alert));
        if (map.state === "firing") this.firing.unshift(map);
        this.tell("alerts");
    }

    /** Jobs, runs and alerts: everything that the header and the lists need. */
    async loadJobs() {
        const [jobs, runs, alerts] = await Promise.all([
            get("jobs"),
            find("runs", { limit: 500 }),
            find("alerts", { limit: 1 }),
        ]);
        this.jobs = jobs;
        [...jobs].sort((a, b) => a.time_ns - b.time_ns).forEach((map) => this.heardOf(map));
        this.past = runs?.runs ?? [];
        this.firing = alerts?.firing ?? [];
        this.tell("jobs");
        this.tell("alerts");
    }

    async loadMetrics() {
        if (this.metrics.length === 0) this.metrics = await get("metrics");
    }

    /** The newest numbers of a job; listeners then get events of it. */
    async choose(job) {
        if (this.job !== job) this.older.clear();
        this.job = job;
        this.live.clear();
        this.summaries.clear();
        if (!this.jobNames().includes(job)) return;
        const live = await find("live", { job });
        setTimeout(() => this.loadSummaries(job), SUMMARIES_MS);
        const past = live?.length ? null : await find("layers", { job });
        if (this.job !== job) return;
        this.run = past?.run ?? "";
        for (const layer of past?.layers ?? []) this.live.set(layerName(layer), pastLayer(layer));
        for (const map of (live ?? []).filter((one) => !this.older.has(one.run))) {
            this.live.set(layerName(map), map);
            this.run = map.run;
        }
    }

    /** Of a large model megabytes, of which only drift and baselines are shown: the rest does not wait for them. */
    async loadSummaries(job) {
        if (this.job !== job) return;
        const summaries = await find("summary", { job }).catch(() => null);
        if (this.job !== job) return;
        for (const map of summaries ?? []) this.takeSummary(map);
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
        const known = this.jobs
            .filter((map) => map.job === job)
            .sort((a, b) => this.order.get(b.run) - this.order.get(a.run));
        const seen = new Set(known.map((map) => map.run));
        return [...known, ...this.past.filter((run) => run.job === job && !seen.has(run.run))];
    }

    /** The newest numbers of a layer, when it is the newest run that is asked for (`run` is empty or its digits). */
    newest(where, run) {
        const map = this.live.get(layerName(where));
        return map && !map.past && (!run || run === map.run) ? map : undefined;
    }

    /** Layers of the job, by name, in the model's order. */
    layers() {
        return [...this.live.values()].sort(byLayer);
    }

    metric(name) {
        return (
            this.metrics.find((metric) => metric.name === name) ?? {
                name,
                unit: "1",
                group: "heads",
                domain: null,
                description: "",
            }
        );
    }
}

/** The numbers of a metric in a live map: [H], or null. */
export const liveValues = (map, metric) => map?.heads?.[metric] ?? map?.spectrum?.[metric] ?? null;
/** One statistic of a metric in a summary: [H], or null. */
export const summaryValues = (map, metric, statistic) =>
    (map?.heads?.[metric] ?? map?.spectrum?.[metric])?.[statistic] ?? null;
