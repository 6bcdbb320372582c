// SPDX-License-Identifier: MIT
// What the page knows of the job it shows: runs, the newest numbers of each layer, and what fires. Bounded by what attnd
// knows: one value per layer, one alert per rule and place.
import { find, get } from "./api.js";
import { byLayer, layerName } from "./dom.js";

export class Store {
  constructor(events) {
    this.jobs = [];        // job maps, of all runs that attnd knows
    this.past = [];        // runs in the history, newest first
    this.metrics = [];
    this.job = "";
    this.live = new Map();      // layer name -> live map
    this.summaries = new Map(); // layer name -> summary map, of the primary window
    this.firing = [];
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
    if (map.job !== this.job) return;
    this.live.set(layerName(map), map);
    this.tell("live", map);
  }

  takeSummary(map) {
    if (map.job !== this.job) return;
    const old = this.summaries.get(layerName(map)), rule = (m) => `${m.window.unit} ${m.window.length} ${m.window.every}`;
    if (old && rule(old) !== rule(map)) return; // of window.also
    this.summaries.set(layerName(map), map);
    this.tell("summary", map);
  }

  takeJob(map) {
    const at = this.jobs.findIndex((job) => job.job === map.job && job.run === map.run);
    if (at >= 0) this.jobs[at] = map; else this.jobs.push(map);
    this.tell("jobs");
  }

  takeAlert(map) {
    const same = (a) => ["job", "run", "rule", "stack", "layer", "site", "head"].every((key) => a[key] === map[key]);
    this.firing = this.firing.filter((alert) => !same(alert));
    if (map.state === "firing") this.firing.unshift(map);
    this.tell("alerts");
  }

  /** Jobs, runs and alerts: everything that the header and the lists need. */
  async loadJobs() {
    const [jobs, runs, alerts] = await Promise.all([get("jobs"), find("runs", { limit: 500 }), find("alerts", { limit: 1 })]);
    this.jobs = jobs;
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
    this.job = job;
    this.live.clear();
    this.summaries.clear();
    if (!job) return;
    const [live, summaries] = await Promise.all([find("live", { job }), find("summary", { job })]);
    if (this.job !== job) return;
    for (const map of live ?? []) this.live.set(layerName(map), map);
    for (const map of summaries ?? []) this.summaries.set(layerName(map), map);
  }

  /** Names of jobs, those that go on first. */
  jobNames() {
    const order = { active: 0, idle: 1, ended: 2 };
    const known = [...this.jobs].sort((a, b) => order[a.state] - order[b.state] || b.time_ns - a.time_ns).map((job) => job.job);
    return [...new Set([...known, ...this.past.map((run) => run.job)])];
  }

  /** Runs of a job, newest first: what attnd knows now, and the history. */
  runsOf(job) {
    const known = this.jobs.filter((map) => map.job === job).sort((a, b) => b.time_ns - a.time_ns);
    const seen = new Set(known.map((map) => map.run));
    return [...known, ...this.past.filter((run) => run.job === job && !seen.has(run.run))];
  }

  /** Layers of the job, by name, in the model's order. */
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
export const summaryValues = (map, metric, statistic) => (map?.heads?.[metric] ?? map?.spectrum?.[metric])?.[statistic] ?? null;
