// SPDX-License-Identifier: MIT
// The alerts that fire in a run, worst first: now, or at a moment that has passed; by rule, and about one head in words.
import { firingAt, worstFirst } from "./alerts_past.js";
import { find } from "./api.js";
import { h, headName, layerName, withModule } from "./dom.js";
import { whyNode } from "./rules.js";

/** Alerts that are asked for, the worst of a run. */
const ALERTS = 1000;

/** More heads of one layer than this share a row. */
const APART = 3;

export class Verdict {
    constructor({ job, run }) {
        Object.assign(this, { job, run, newest: null, past: null });
    }

    /** At the moment: {alerts, more, step, epoch, checks, isPast}; null when attnd knows nothing of the run. */
    get found() {
        return this.past ?? this.newest;
    }

    /** Keeps the answer before when attnd does not answer. */
    async load() {
        const { job, run } = this;
        this.newest = await find("verdict", { job, run, limit: ALERTS }).catch(() => this.newest);
    }

    /** Another moment: {step, epoch} of a window that has passed, the intervals of alerts, and the rules; null is the newest. */
    goTo(window, intervals, rules) {
        this.past = window && {
            ...window,
            isPast: true,
            alerts: worstFirst(firingAt(intervals, window.step), rules),
        };
    }
}

const isAbout = (layer) => (alert) => layerName(alert) === layerName(layer);

/** The alerts about a layer and its heads in words: [{head (null: the layer), kind, text}]. `held`: alerts that fire. */
export const marksOf = (layer, held) =>
    held.filter(isAbout(layer)).map((alert) => ({
        head: alert.head,
        kind: alert.severity === "info" ? "info" : "alert",
        text: `● ${alert.rule} ${sinceText(alert)}`,
    }));

/** The rules of the warnings and worse that fire about a layer: by head, and about the layer itself by null. */
export const firingOf = (layer, held) =>
    new Map(held.filter((one) => isAbout(layer)(one) && one.severity !== "info").map(({ head, rule }) => [head, rule]));

/** Since when an alert fires; "" where that is not known. */
export const sinceText = ({ since }) => (since ? (since[0] === null ? "from the start" : `between steps ${since[0]} and ${since[1]}`) : "");

/** The same, with what that step is for those who point at it. */
export const sinceNode = (alert) =>
    h("span", { class: "soft", title: "it began after the last capture that passed, and not after the first that failed; of windows, after the end of the one before the last that passed" }, sinceText(alert));

const plural = (count, name) => (count ? `${count} ${name}${count === 1 ? "" : "s"}` : "");

/** "3 heads, 1 layer": what alerts are about; "" when that is the run. */
export function aboutText(alerts) {
    const layers = alerts.filter(({ stack, head }) => stack !== null && head === null),
        heads = alerts.filter(({ head }) => head !== null);
    const names = new Set(heads.map((one) => headName(one, one.head)));
    return [plural(names.size, "head"), plural(new Set(layers.map(layerName)).size, "layer")].filter(Boolean).join(", ");
}

/** A row stands for one alert, or for those of many heads of a layer, by the worst of them. */
function rowsOf(alerts) {
    const layers = new Map();
    for (const alert of alerts) {
        const name = alert.head === null ? alert : layerName(alert);
        layers.set(name, [...(layers.get(name) ?? []), alert]);
    }
    return [...layers.values()].flatMap((list) => (list.length > APART ? [{ alert: list[0], all: list }] : list.map((alert) => ({ alert, all: [alert] }))));
}

/** Alerts by rule, in their order: [{rule, severity, why, advice, alerts, rows: [{alert, all}]}]. */
export function groupsOf(alerts) {
    const groups = new Map();
    for (const alert of alerts) groups.set(alert.rule, [...(groups.get(alert.rule) ?? []), alert]);
    return [...groups.values()].map((list) => ({ ...list[0], alerts: list, rows: rowsOf(list) }));
}

/** Nodes for the alerts that fire about a head. */
export const headAlerts = (alerts) =>
    alerts.map((alert) =>
        h(
            "section",
            { class: `trouble ${alert.severity}`, "aria-label": alert.rule },
            h("header", {}, h("span", { class: `badge ${alert.severity}` }, alert.severity), " ", h("b", {}, alert.rule), ` ${withModule(alert, alert.message)}`),
            h("p", {}, sinceNode(alert)),
            whyNode(alert),
        ),
    );
