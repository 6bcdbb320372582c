// SPDX-License-Identifier: MIT
// The projection matrices of a layer: which of its heads have alike ones, and the spectrum of what each head compares
// and writes.
import { layerName, number, select } from "./dom.js";
import { figure } from "./figure.js";
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
    /** `load()` gives the newest map of the layer of tier `weights`, or undefined; `isCurrent()`. */
    constructor(map, { load, isCurrent }) {
        Object.assign(this, { load, isCurrent, live: undefined, matrix: "wq", spectrum: "wq_wk" });
        const name = layerName(map);
        this.alike = figure("How alike the heads' matrices are", "", "alike").about(name, "matrices");
        this.spectra = figure("Spectra of the heads' matrices", "", "spectra").about(name, "spectra");
        this.frames = [this.alike, this.spectra];
        for (const frame of this.frames) frame.hidden = true;
    }

    /** Shows the newest, or nothing of a moment that is past. */
    async show(isPast) {
        const found = isPast ? undefined : await this.load();
        if (!this.isCurrent()) return;
        this.live = found;
        this.draw();
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
