// SPDX-License-Identifier: MIT
// A list of alerts, with how long they fired; and those that the verdict of a moment does not have.
import { firingAt, firingAtEnd, loadIntervals } from "./alerts_past.js";
import { h, headName, layerName, refill, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { link } from "./router.js";
import { shownBy } from "./rules.js";
import { isOver } from "./run_text.js";
import { sinceText } from "./verdict.js";

const RANK = { critical: 0, warning: 1, info: 2 };

export function where(alert) {
    if (alert.stack === null) return "the run";
    return alert.head === null ? layerName(alert) : headName(alert, alert.head);
}

function untilOf(alert) {
    if (Number.isFinite(alert.to)) return ` until step ${alert.to}`;
    return alert.state === "firing_at_end" ? ", still firing when the run ended" : "";
}

function entry(alert, { job, run, at }) {
    const place = { job, run, at, stack: alert.stack, layer: alert.layer, site: alert.site, head: alert.head ?? 0 };
    const target =
        alert.stack === null
            ? null
            : alert.head === null
              ? link("layer", place)
              : link("head", { ...place, metric: shownBy(alert.metric) });
    return h(
        "li",
        { class: alert.state === "resolved" ? "resolved" : "firing" },
        h("span", { class: `badge ${alert.severity}` }, alert.severity),
        " ",
        h("b", {}, alert.rule),
        " ",
        target ? h("a", { href: target }, where(alert)) : where(alert),
        h("div", { class: "soft" }, `${sinceText(alert)}${untilOf(alert)}`),
        h("div", { class: "soft" }, withModule(alert, alert.message)),
    );
}

/** A list of alert maps of a run, the worst first; a sentence when there is none. `params`: of the view, for its links. */
export function alertsList(alerts, params) {
    if (alerts.length === 0) return h("p", {}, "No alerts");
    const sorted = [...alerts].sort((a, b) => RANK[a.severity] - RANK[b.severity] || b.step - a.step);
    return h(
        "ul",
        { class: "list" },
        sorted.slice(0, 50).map((alert) => entry(alert, params)),
        sorted.length > 50 ? h("li", {}, `and ${sorted.length - 50} more`) : null,
    );
}

const samePlace = (a, b) => ["rule", "stack", "layer", "site", "head"].every((key) => a[key] === b[key]);

/** The alerts of a run: `held` are those that fire at the moment that is shown; its frame has all others. */
export class OverviewAlerts {
    /** `params`: of the view; links go to its run, and to its moment. */
    constructor({ store, params, run }) {
        Object.assign(this, { store, params, run, intervals: [], held: [], step: null });
        this.frame = figure("Alerts", "", "alerts").plain();
        this.frame.body.tabIndex = 0; // it scrolls
    }

    async load() {
        this.intervals = await loadIntervals(this.params.job, this.run);
    }

    /** Holds what fires at a step of the past; with null what fires now, or fired when the run ended. */
    goTo(step) {
        this.step = step;
        this.held = this.firing(step);
    }

    firing(step) {
        const { store, params, run, intervals } = this;
        if (step !== null) return firingAt(intervals, step);
        const known = store.firing.filter((alert) => alert.job === params.job && alert.run === run);
        return known.length || !isOver(store.shownRun()) ? known : firingAtEnd(intervals);
    }

    draw() {
        const { frame, held, step, params } = this,
            others = this.intervals.filter((one) => !held.some((alert) => samePlace(alert, one)));
        frame.hidden = others.length === 0;
        frame.setTitle(step === null ? "Earlier alerts" : "Alerts at other times");
        refill(frame.body, alertsList(others, params));
    }
}
