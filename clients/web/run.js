// SPDX-License-Identifier: MIT
// One run, as a view shows it: its layers, their newest numbers and maps. For the run that the store follows they come
// from the newest messages; for any other, or after a restart of attnd, from the last window in the history.
import { find, floats, integers } from "./api.js";
import { looksCausal } from "./cells.js";
import { byLayer, layerName } from "./dom.js";

/** Said where a run's own maps would be. */
export const NOT_KEPT =
    "Maps of single heads are not kept over a restart of attnd, and not for long after the job has begun another run. Shown instead: the mean over the heads, of the last window that has one.";

/** The run in full that an address means: the newest one when it does not say. */
function runMeant(store, { job, run }) {
    const runs = store.runsOf(job);
    if (run) return runs.find((one) => one.run.startsWith(run))?.run ?? run;
    return store.run || runs[0]?.run || "";
}

/** A layer of the history: numbers that are not loaded yet. */
const pastLayer = (job, run, { stack, layer, site, heads, metrics }) => ({
    job,
    run,
    stack,
    layer,
    site,
    metrics,
    past: true,
    heads: Object.fromEntries(metrics.map((name) => [name, Array(heads).fill(null)])),
});

/** Has what pickers ask of a store. */
class Run {
    constructor(store, job, run, past) {
        Object.assign(this, { store, job, run, past, loaded: new Map() });
    }

    /** By name: of the history, and in its place what has come since. */
    get live() {
        const own = [...this.store.live].filter(([, map]) => !map.past && map.run === this.run);
        return new Map([...(this.past ?? []), ...own]);
    }

    get metrics() {
        return this.store.metrics;
    }

    metric(name) {
        return this.store.metric(name);
    }

    layers() {
        return [...this.live.values()].sort(byLayer);
    }

    /** The newest numbers of a layer, as a live map has them. */
    newest(where) {
        return this.store.newest(where, this.run) ?? this.past?.get(layerName(where));
    }

    /** Loads the last window's numbers of metrics, of one layer or of all; of a run that is followed they are there. */
    async load(names, where = {}) {
        if (this.past) await Promise.all(names.map((name) => this.loadMetric(name, where)));
    }

    async loadMetric(metric, where) {
        const key = JSON.stringify([metric, where]);
        if (this.loaded.has(key)) return;
        this.loaded.set(key, true);
        const { job, run } = this,
            grid = await find("grid", { job, run, ...where, metric, points: 2, packed: 1 }).catch(() => null);
        for (const layer of grid?.layers ?? []) this.takeLast(grid, layer);
    }

    takeLast(grid, layer) {
        const map = this.past.get(layerName(layer)),
            last = integers(grid.windows.last),
            values = floats(layer.values);
        if (!map) return;
        map.heads[grid.metric] = Array.from({ length: layer.heads }, (_, h) => values[(h + 1) * last.length - 1]);
        map.last = last[last.length - 1];
        map.when = `last window, ${grid.unit} ${map.last}`;
    }

    /** Which step or window a layer's numbers are of. */
    when(map) {
        return map?.past ? (map.when ?? "last window") : `step ${map?.step ?? "–"}`;
    }

    /**
     * The newest map of a layer: of a head, or of `kind`. For a run whose maps are not in memory, the mean over the heads
     * in its last window, with `ofWindow`, unless another kind is asked for. Null: there is none.
     */
    async map({ stack, layer, site }, what = {}) {
        const asked = { job: this.job, run: this.run, stack, layer, site, packed: 1 };
        const found = await find("maps", { ...asked, ...what }).catch((error) => ({ error }));
        if (found && !found.error) return { ...found, values: floats(found.values) };
        const stored = ["mean", undefined].includes(what.kind) ? await find("map", asked).catch(() => null) : null;
        return stored ? windowMap(stored) : found?.error && !this.past ? found : null;
    }
}

/** A half-precision number of its bits. */
function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1,
        exponent = (bits >> 10) & 31,
        fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

function windowMap(stored) {
    const bits = new Uint16Array(Uint8Array.from(atob(stored.values), (c) => c.charCodeAt(0)).buffer),
        map = { ...stored, values: Float32Array.from(bits, half), labels: null, heads: null, ofWindow: true };
    return { ...map, causal: map.site === "self" && looksCausal(map) };
}

/** What a view is about, from the address. */
export async function openRun(store, params) {
    const run = runMeant(store, params);
    const maps = [...store.live.values()];
    if (maps.some((map) => map.run === run) && !maps.some((map) => map.past))
        return new Run(store, params.job, run, null);
    const kept = await find("layers", { job: params.job, run }).catch(() => null);
    const layers = (kept?.layers ?? []).map((layer) => pastLayer(params.job, kept.run, layer));
    return new Run(store, params.job, kept?.run ?? run, new Map(layers.map((map) => [layerName(map), map])));
}

/** What a map is of, and what the numbers beside it are of when that is something else. */
export function mapStep(found, numbers) {
    const own = found.ofWindow
        ? `mean over heads, window of ${found.unit} ${found.first} to ${found.last}`
        : `map of step ${found.step}, sample ${found.sample}`;
    if (numbers?.past)
        return numbers.last === undefined || numbers.last === found.last
            ? own
            : `${own}; numbers are of the ${numbers.when}`;
    return numbers && numbers.step !== found.step ? `${own}; numbers are of step ${numbers.step}` : own;
}
