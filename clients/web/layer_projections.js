// SPDX-License-Identifier: MIT
// The projection matrices of a layer: their numbers over the run, which of its heads have alike ones, and the spectrum
// of what each head compares and writes.
import { h, layerName, number, select } from "./dom.js";
import { figure } from "./figure.js";
import { loadGrid } from "./grid.js";
import { LayerSeries } from "./layer_series.js";
import { drawMap } from "./map_view.js";

const MATRICES = [
    ["wq", "W_q"],
    ["wk", "W_k"],
    ["wv", "W_v"],
    ["wo", "W_o"],
];
const SPECTRA = [["wq_wk", "W_qᵀ W_k, compares"], ["wv_wo", "W_o W_v, writes"], ...MATRICES];
const NUMBERS = [
    ["spectral_norm", "norm"],
    ["stable_rank", "stable rank"],
    ["effective_rank_entropy", "effective rank"],
    ["condition_number", "log10 of the condition"],
];
/** Projections alone have them, over the run. */
const CORRELATIONS = [
    ["correlation_mean", "cosine with the others, mean"],
    ["correlation_max", "cosine with the others, largest"],
];
/** With more heads only some have their number beside them. */
const NAMED = 16;
/** Keys and values may have fewer heads, which several queries read. */
const headOf = (name) => (name === "wk" || name === "wv" ? "key head" : "head");

/** The matrices that the newest message has, and the chosen one of them. */
function choice(all, weights, part, chosen) {
    const there = all.filter(([name]) => weights[name]?.[part]);
    return { there, name: there.some(([name]) => name === chosen) ? chosen : there[0]?.[0] };
}

const textOf = (there, name) => there.find(([one]) => one === name)[1];

export class LayerProjections {
    /**
     * `run`; `load()` gives the newest map of the layer of tier `weights`, or undefined; `onPick(last)`: a window was chosen;
     * `isCurrent()`.
     */
    constructor(map, { run, load, onPick, isCurrent }) {
        Object.assign(this, { map, run, load, onPick, isCurrent, live: undefined, matrix: "wq", spectrum: "wq_wk" });
        Object.assign(this, { course: "wq_wk", number: "stable_rank", grid: null, marks: null, shows: 0, loads: 0 });
        const name = layerName(map);
        this.alike = figure("How alike the heads' matrices are", "", "alike").about(name, "matrices");
        this.spectra = figure("Spectra of the heads' matrices", "", "spectra").about(name, "spectra");
        this.over = h("div", { class: "stack" });
        this.element = h(
            "section",
            { class: "stack", id: "weights" },
            h("h2", {}, "Weights"),
            this.over,
            h("div", { class: "grid" }, this.alike, this.spectra),
        );
        this.alike.hidden = this.spectra.hidden = this.element.hidden = true;
    }

    /** Shows the newest, or nothing of a moment that is past, and the course over the run, which `marks` belong to. */
    async show(isPast, marks) {
        const mine = ++this.shows,
            [found] = await Promise.all([isPast ? undefined : this.load(), this.loadCourse()]);
        if (!this.isCurrent() || mine !== this.shows) return;
        this.live = found;
        this.marks = marks;
        this.draw();
        this.drawCourse();
    }

    /** The matrices whose numbers are known; all when none is, as after a restart of attnd. */
    offered() {
        const known = this.run.newest(this.map)?.heads ?? {},
            there = SPECTRA.filter(([name]) => known[`${name}.${this.number}`]);
        return there.length ? there : SPECTRA;
    }

    /** The windows of the chosen number; of the first matrix that has one, when the chosen one has none. */
    async loadCourse() {
        const { stack, layer, site } = this.map,
            { job, run } = this.run,
            mine = ++this.loads;
        for (const name of new Set([this.course, ...this.offered().map(([one]) => one)])) {
            const metric = `${name}.${this.number}`,
                grid = await loadGrid({ job, run, stack, layer, site, metric, statistic: "mean" }).catch(() => null);
            if (!this.isCurrent() || mine !== this.loads) return;
            this.grid = grid;
            if (grid) return void (this.course = name);
        }
    }

    drawCourse() {
        this.element.hidden = !this.grid && this.alike.hidden && this.spectra.hidden;
        if (!this.grid) return this.over.replaceChildren();
        const metric = this.run.metric(this.grid.metric),
            offered = this.offered();
        if (this.series?.metric.name !== metric.name || this.offers !== offered.length) {
            this.offers = offered.length;
            this.series = new LayerSeries(this.map, metric, this.onPick);
            const choose = async (what) => {
                Object.assign(this, what);
                await this.loadCourse();
                if (this.isCurrent()) this.drawCourse();
            };
            this.over.replaceChildren(
                h(
                    "div",
                    { class: "controls" },
                    select("matrix over the run", offered, this.course, (course) => choose({ course })),
                    select("number of it", [...NUMBERS, ...CORRELATIONS], this.number, (number) => choose({ number })),
                ),
                this.series.frame,
            );
        }
        this.over.querySelector("select").value = this.course; // not a chosen one without numbers
        this.series.draw(this.grid, this.marks.last, this.marks);
    }

    draw() {
        const weights = this.live?.weights,
            alike = choice(MATRICES, weights ?? {}, "head_correlation", this.matrix),
            spectra = choice(SPECTRA, weights ?? {}, "heads", this.spectrum);
        this.alike.hidden = !alike.name || weights[alike.name].head_correlation.length < 2;
        this.spectra.hidden = !spectra.name;
        if (!this.alike.hidden) this.drawAlike(weights[alike.name], alike);
        if (!this.spectra.hidden) this.drawSpectra(weights[spectra.name].heads, spectra);
    }

    drawAlike({ head_correlation: matrix, head_correlation_mean: mean }, { there, name }) {
        const H = matrix.length,
            one = headOf(name);
        this.alike.setTitle("How alike the heads' matrices are", `${textOf(there, name)}: cosine of each two, ${number(mean)} on average; ${this.when()}`);
        const map = { rows: H, columns: H, values: matrix.flat(), queries: H, keys: H, labels: null };
        drawMap(this.boxOf(this.alike, "matrix", there, name, (chosen) => (this.matrix = chosen)), map, {
            size: 300,
            xName: one,
            yName: one,
            range: [-1, 1],
            diverges: true,
            name: "how alike the heads' matrices are",
            describe: (r, c, x) => `${one}s ${r} and ${c}: cosine ${number(x)}`,
        });
    }

    drawSpectra(heads, { there, name }) {
        const lists = heads.singular_values,
            count = Math.max(1, ...lists.map((list) => list?.length ?? 0)),
            one = headOf(name),
            share = (list, i) => (list?.[0] > 0 ? (list[i] ?? NaN) / list[0] : NaN);
        const values = lists.flatMap((list) => Array.from({ length: count }, (_, i) => share(list, i)));
        this.spectra.setTitle("Spectra of the heads' matrices", `${textOf(there, name)}: by the largest of each head; ${this.when()}`);
        const box = this.boxOf(this.spectra, "spectrum of", there, name, (chosen) => (this.spectrum = chosen));
        const map = { rows: lists.length, columns: count, values, queries: lists.length, keys: count, labels: null };
        drawMap(box, map, {
            size: 300,
            height: Math.max(60, Math.min(300, lists.length * 26)),
            xName: "singular value, by size",
            yName: one,
            xText: (i) => i + 1,
            yNames: lists.length > NAMED ? null : lists.map((_, head) => String(head)),
            range: [0, 1],
            name: "spectra of the heads' matrices",
            describe: (r, c) =>
                `${one} ${r}: singular value ${c + 1} is ${number(lists[r]?.[c])}; ` +
                NUMBERS.map(([key, text]) => `${text} ${number(heads[key]?.[r])}`).join(", "),
        });
    }

    when() {
        return `step ${this.live.step}`;
    }

    /** Where a map goes below its picker, which stays and keeps the focus while it offers the same. */
    boxOf(frame, label, there, name, onchange) {
        const names = there.map(([one]) => one).join();
        if (frame.offered !== names) {
            frame.offered = names;
            frame.box = document.createElement("div");
            const picker = select(label, there, name, (chosen) => {
                onchange(chosen);
                this.draw();
            });
            frame.body.replaceChildren(picker, frame.box);
        }
        return frame.box;
    }
}
