// SPDX-License-Identifier: MIT
// One run, as a view shows it: its layers, their newest numbers and maps. For the run that the store follows they come
// from the newest messages; for any other, or after a restart of attnd, from the last window in the history.
import { bytes, find, floats } from "./api.js";
import { looksCausal, paddingText, pooledText } from "./cells.js";
import { byLayer, layerName } from "./dom.js";
import { loadGrid, valuesAt, windowAt } from "./grid.js";
import { isOver, isSampled } from "./run_text.js";
import { isOfMatrices, pastLayer } from "./store.js";

const SAMPLES_MAX = 256; // windows of layers whose standard errors are kept

/** Said where a run's own maps would be. */
export const NOT_KEPT =
    "No maps of single heads were kept of this window (history.head_maps): it has not all heads in one message, or an older attnd wrote it. Shown instead: the mean over the heads.";

/** The run in full that an address means. */
function runMeant(store, { job, run }) {
    if (run) return store.runBy(job, run)?.run ?? run;
    return store.run || (store.meant(job)?.run ?? "");
}

/** Has what pickers ask of a store. */
class Run {
    constructor(store, job, run, past) {
        Object.assign(this, { store, job, run, past, loaded: new Map(), grids: new Map(), samples: new Map() });
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
            points = isOfMatrices(metric) ? undefined : 2, // the last window may have none
            grid = await loadGrid({ job, run, ...where, metric, statistic: "mean", points }).catch(() => null);
        for (const layer of grid?.layers.values() ?? []) this.takeLast(grid, layer);
    }

    takeLast(grid, layer) {
        const map = this.past.get(layerName(layer));
        if (!map) return;
        map.heads[grid.metric] = valuesAt(grid, layer, grid.count - 1);
        if (isOfMatrices(grid.metric)) return;
        map.last = grid.windows.last.at(-1);
        map.when = `last window, ${grid.unit} ${map.last}`;
    }

    /** Whether nothing comes any more. */
    isOver() {
        return isOver(this.store.runBy(this.job, this.run));
    }

    /** The numbers of a layer's heads in the window that ends at a moment, as a live map has them. */
    async numbersAt(names, where, moment) {
        const heads = {};
        const load = async (metric) => {
            const values = await this.valuesAt(metric, where, moment);
            if (values) heads[metric] = values;
        };
        await Promise.all(names.map(load));
        return { ...this.newest(where), heads, spectrum: {}, similarity: null, sample: null, past: true, last: undefined };
    }

    /**
     * Adds to the numbers of a window how exact they are: `sample`, {rows, rows_of, shape, heads}, as a summary has them, of
     * the std and the count of row metrics; without `rows` where nobody knows any more. False: all rows were taken, or live, or nobody wants it any more.
     */
    async addSample(numbers, where, last, isWanted) {
        const ofRows = (name) => this.metric(name).per === "row" && numbers.heads[name]?.some(Number.isFinite),
            at = last ?? numbers?.last,
            names = numbers?.past ? Object.keys(numbers.heads).filter(ofRows) : [],
            key = JSON.stringify([layerName(where), at, names]);
        if (!names.length) return false;
        if (!this.samples.has(key)) {
            const found = await this.loadSample(names, where, at, isWanted);
            if (found === undefined) return false;
            if (this.samples.size >= SAMPLES_MAX) this.samples.clear();
            this.samples.set(key, found);
        }
        numbers.sample = this.samples.get(key);
        return Boolean(numbers.sample);
    }

    /** Null: all rows were taken; undefined: nobody says, or wants it any more. */
    async loadSample(names, { stack, layer, site }, at, isWanted) {
        const asked = { job: this.job, run: this.run, stack, layer, site, from: at, to: at, statistics: "std,count" },
            ask = (metric) => find("history", { ...asked, metric }).catch(() => null),
            first = await ask(names[0]);
        if (!first || !isWanted()) return undefined;
        if (first.rows && !isSampled(first)) return null;
        const all = [first, ...(await Promise.all(names.slice(1).map(ask)))].filter(Boolean),
            stats = all.map(({ metric, values }) => [metric, { std: values.std.flat(), count: values.count.flat() }]);
        return { ...first, shape: [1, first.heads.length], heads: Object.fromEntries(stats) };
    }

    async valuesAt(metric, where, moment) {
        const { job, run } = this,
            { stack, layer, site } = where,
            key = JSON.stringify([metric, stack, layer, site]),
            ask = () => loadGrid({ job, run, stack, layer, site, metric, statistic: "mean" }).catch(() => null);
        let grid = await this.grids.get(key);
        if (!grid || windowAt(grid, moment) === null) {
            this.grids.set(key, ask());
            grid = await this.grids.get(key);
        }
        const at = windowAt(grid, moment);
        return at === null ? null : valuesAt(grid, where, at);
    }

    /** The roles of the heads of a layer, or of one of them, and since when, from the history: the answer, or null. */
    roles({ stack, layer, site, head }) {
        return find("roles", { job: this.job, run: this.run, stack, layer, site, head }).catch(() => null);
    }

    /** The mean entropies of a layer by rank, of its newest window or of the one that ends with `last`; or null. */
    ranks({ stack, layer, site }, last) {
        const moment = last === null ? {} : { last };
        return find("ranks", { job: this.job, run: this.run, stack, layer, site, ...moment }).catch(() => null);
    }

    /** Which step or window a layer's numbers are of. */
    when(map) {
        return map?.past ? (map.when ?? "last window") : `step ${map?.step ?? "–"}`;
    }

    /**
     * The newest map of a layer: of a head, or of `kind`. For a run whose maps are not in memory, what was kept of its last
     * window, with `ofWindow`: maps of heads, or, without `heads`, the mean over them. With `last` that of the window that
     * ends there. Null: there is none.
     */
    async map({ stack, layer, site }, { last = null, ...what } = {}) {
        const asked = { job: this.job, run: this.run, stack, layer, site, packed: 1 };
        if (last !== null) return this.windowMap({ ...asked, last }, what);
        const found = await find("maps", { ...asked, ...what }).catch((error) => ({ error }));
        if (found && !found.error) return { ...found, values: floats(found.values) };
        const stored = await this.windowMap(asked, what).catch(() => null);
        return stored ?? (found?.error && !this.past ? found : null);
    }

    /** The maps that were kept of a window: those of heads in few cells, or else their mean. */
    async windowMap(asked, { kind = "heads", head = null, heads = 1 }) {
        const ofHeads = kind === "heads" ? await find("map", { ...asked, kind }).catch(() => null) : null;
        if (ofHeads) return someOf(windowMap(ofHeads), head, heads);
        const stored = ["heads", "mean"].includes(kind) ? await find("map", asked) : null;
        return stored && windowMap(stored);
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

/** So many of the maps from one on, all without one. */
function someOf(found, head, heads) {
    if (head === null) return found;
    const cells = found.rows * found.columns;
    return {
        ...found,
        heads: found.heads.slice(head, head + heads),
        values: found.values.subarray(head * cells, (head + heads) * cells),
    };
}

function windowMap(stored) {
    const bits = new Uint16Array(bytes(stored.values)),
        map = { ...stored, values: Float32Array.from(bits, half), labels: null, heads: stored.heads ?? null, ofWindow: true };
    const cells = map.rows * map.columns,
        first = { ...map, values: map.values.subarray(0, cells) };
    return { ...map, causal: map.site === "self" && looksCausal(first) };
}

/** Opens the run that a view is about, from the address. */
export async function openRun(store, params) {
    const run = runMeant(store, params);
    const maps = [...store.live.values()];
    if (maps.some((map) => map.run === run) && !maps.some((map) => map.past))
        return new Run(store, params.job, run, null);
    const kept = await find("layers", { job: params.job, run }).catch(() => null);
    const layers = (kept?.layers ?? []).map((layer) => ({ ...pastLayer(layer), job: params.job, run: kept.run, metrics: layer.metrics }));
    return new Run(store, params.job, kept?.run ?? run, new Map(layers.map((map) => [layerName(map), map])));
}

/** Says the moment of a map, and that of the numbers beside it when it is another. */
export function mapStep(found, numbers) {
    const own = found.ofWindow
        ? `${found.heads ? `map of step ${found.step}, kept in ${found.rows} × ${found.columns} cells` : "mean over heads"}, window of ${found.unit} ${found.first === found.last ? "" : `${found.first} to `}${found.last}`
        : [`map of step ${found.step}, sample ${found.sample}${found.batch ? ` of ${found.batch}` : ""}`, pooledText(found), paddingText(found)].filter(Boolean).join(", ");
    if (numbers?.past)
        return numbers.last === undefined || numbers.last === found.last
            ? own
            : `${own}; numbers are of the ${numbers.when}`;
    return numbers && numbers.step !== found.step ? `${own}; numbers are of step ${numbers.step}` : own;
}
