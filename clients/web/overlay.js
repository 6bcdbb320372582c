// SPDX-License-Identifier: MIT
// Runs beside one another: which are chosen, in which colours they are drawn, and in which settings they differ.
import { find } from "./api.js";
import { h, note, visible } from "./dom.js";
import { runText } from "./run_text.js";

/** Colours go round after so many. */
const COLOURS = 8;
/** Runs to choose from, the newest of the liveliest jobs. */
const OFFERED = 200;

export const runKey = (run) => `${run.job}/${run.run}`;
export const runName = (run) => `${run.job} / ${run.run.slice(0, 8)}`;
const CLASSES = ["line", "line second", "line third"];
/** The class of the i-th run that is drawn. */
export const runClass = (i) => CLASSES[i % COLOURS] ?? `line run${i % COLOURS}`;
/** A, B, C, ..., Z, 27, 28, ... */
export const runLetter = (i) => (i < 26 ? String.fromCharCode(65 + i) : String(i + 1));

/** The run of the job that began before `run`, else any other of the job, else any other. */
export function previousOf(run, ofJob, all) {
    const at = ofJob.findIndex((one) => one.run === run.run),
        others = (list) => list.find((one) => runKey(one) !== runKey(run));
    return ofJob[at + 1] ?? others(ofJob) ?? others(all);
}

/** Boxes to tick: runs that are drawn besides A and B. `chosen`: their keys; `onchange(keys)`. */
export function overlayPicker(runs, chosen, onchange) {
    const box = (run) => {
        const key = runKey(run);
        const input = h("input", {
            type: "checkbox",
            checked: chosen.includes(key),
            onchange: () => onchange(input.checked ? [...chosen, key] : chosen.filter((one) => one !== key)),
        });
        return h("li", {}, h("label", {}, input, ` ${run.job} / ${runText(run)} ${run.state}`));
    };
    return h(
        "details",
        { class: "overlay" },
        h("summary", {}, chosen.length ? `and ${chosen.length} more` : "more runs"),
        h("ul", {}, runs.slice(0, OFFERED).map(box)),
    );
}

/** Settings by the key of the run, as far as the history has them. */
export async function loadSettings(runs) {
    const jobs = [...new Set(runs.map(({ job }) => job))],
        answers = await Promise.all(jobs.map((job) => find("runs", { job, limit: 1000 }).catch(() => null)));
    return new Map(answers.flatMap((answer) => answer?.runs ?? []).map((run) => [runKey(run), run.settings ?? {}]));
}

const settingText = (value) => (value === undefined ? "–" : visible(String(value)));

/** A table of the settings in which the runs differ, or why there is none. */
export function settingsTable(runs, settings) {
    const of = runs.map((run) => settings.get(runKey(run)) ?? {}),
        names = [...new Set(of.flatMap(Object.keys))].sort();
    if (names.length === 0)
        return note(
            "No run has said its settings. ",
            h("code", {}, "attnd.watch(..., settings={...})"),
            " says them; the callbacks of Trainer and Lightning do by themselves.",
        );
    const differ = names.filter((name) => new Set(of.map((one) => JSON.stringify(one[name]))).size > 1);
    if (differ.length === 0) return note(`The ${names.length} settings that the runs have said are the same.`);
    const row = (name) =>
        h(
            "tr",
            {},
            h("th", { class: "text", scope: "row" }, visible(name)),
            of.map((one) => h("td", {}, settingText(one[name]))),
        );
    const columns = runs.map((run, i) => h("th", {}, `${runLetter(i)}: ${run.run.slice(0, 8)}`));
    return h(
        "div",
        { class: "scroll" },
        h(
            "table",
            {},
            h(
                "thead",
                {},
                h("tr", {}, h("th", { class: "text" }, "setting"), columns),
            ),
            h("tbody", {}, differ.map(row)),
        ),
    );
}
