// SPDX-License-Identifier: MIT
// All runs that there are, the newest of the liveliest job first: when each began, whether it still says something, what
// came of it, and what fires; and their place below the overview.
import { loadEndings } from "./alerts_past.js";
import { h, refill } from "./dom.js";
import { figure } from "./figure.js";
import { link } from "./router.js";
import { startOf } from "./run_text.js";

const ROWS = 200;
/** Name, and whether it is text. */
const COLUMNS = [
    ["job", true],
    ["run", true],
    ["began", true],
    ["state", true],
    ["epoch"],
    ["step"],
    ["ranks"],
    ["layers"],
    ["messages"],
    ["lost"],
    ["dropped"],
    ["alerts"],
];

const cell = (text, isText) => h("td", { class: isText ? "text" : null }, text);

function linkTo(store, run, params) {
    const isNewest = run.run === store.runsOf(run.job)[0].run;
    const target = { job: run.job, run: isNewest ? "" : run.run, metric: params.metric };
    return h("a", { href: link("overview", target) }, run.job);
}

function stateOf(store, run) {
    const silence = store.silence(run);
    return [h("span", { class: `badge ${silence ? "silent" : run.state}` }, run.state), silence ? ` ${silence}` : ""];
}

/** All that was dropped, by attnd and by the job itself ("source"); not what came again on the reliable lane. */
export const droppedCount = ({ dropped }) =>
    Object.values(dropped ?? {}).reduce((sum, count) => sum + count, 0) - (dropped?.repeated ?? 0);

/** The reasons in its title. */
function droppedOf(run) {
    const named = (reason) => (reason === "repeated" ? "sent again, which is no loss" : reason),
        reasons = Object.entries(run.dropped ?? {}).map(([reason, count]) => `${count} ${named(reason)}`);
    return h("td", { title: reasons.join(", ") || null }, droppedCount(run));
}

/** The counts that attnd keeps of a run in memory; of other runs the history knows the layers alone. */
function countsOf(store, run) {
    if (run.received !== undefined) {
        const messages = run.received - (run.dropped?.repeated ?? 0); // as many as were sent
        return [cell(run.layers?.length ?? ""), cell(messages), cell(run.lost ?? ""), droppedOf(run)];
    }
    const layers = run.run === store.run ? store.layers().length : 0,
        rest = h("td", { class: "text gone", colspan: layers ? 3 : 4 }, "no longer in memory");
    return layers ? [cell(layers), rest] : [rest];
}

/** How many fire now, or did at the end of the run; "" where that is not known. */
function alertsOf(store, run, endings) {
    if (run.state !== "ended" || store.jobs.some((one) => one.run === run.run))
        return store.firing.filter((alert) => alert.job === run.job && alert.run === run.run).length || "–";
    return endings ? endings.of(run) : "";
}

function rowOf(store, run, params, endings) {
    return h(
        "tr",
        { class: run.run === store.run ? "chosen" : null },
        h("td", {}, linkTo(store, run, params)),
        cell(run.run.slice(0, 8), true),
        cell(startOf(run), true),
        cell(stateOf(store, run), true),
        cell(run.epoch),
        cell(run.step),
        cell(run.ranks ?? run.world ?? ""),
        countsOf(store, run),
        cell(alertsOf(store, run, endings)),
    );
}

/** `endings`: see loadEndings(), null while it is not known. */
function runsTable(store, params, endings) {
    const runs = store.jobNames().flatMap((job) => store.runsOf(job)),
        heads = COLUMNS.map(([name, isText]) => h("th", { class: isText ? "text" : null }, name));
    return h(
        "div",
        { class: "scroll", tabindex: 0 },
        h(
            "table",
            {},
            h("thead", {}, h("tr", {}, heads)),
            h(
                "tbody",
                {},
                runs.slice(0, ROWS).map((run) => rowOf(store, run, params, endings)),
            ),
        ),
    );
}

/** Changes when another run falls silent, or one for longer than it said. */
const silences = (store) => store.jobs.map((run) => store.silence(run)).join("\n");

/** The table below the overview. */
export class OverviewRuns {
    constructor({ store, params, isCurrent }) {
        Object.assign(this, { store, params, isCurrent, endings: null, silent: silences(store) });
        this.frame = figure("Runs", "", "wide all-runs").plain();
    }

    async loadEndings() {
        this.endings = await loadEndings().catch(() => this.endings);
        if (this.isCurrent()) this.draw();
    }

    draw() {
        refill(this.frame.body, runsTable(this.store, this.params, this.endings));
    }

    /** Draws when a run has fallen silent. */
    onClock() {
        const before = this.silent;
        this.silent = silences(this.store);
        if (this.silent !== before) this.draw();
    }
}
