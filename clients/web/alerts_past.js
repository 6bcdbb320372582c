// SPDX-License-Identifier: MIT
// When alerts fired: each as an interval of steps, from the history of what began to, what was resolved, and what fired
// at the end.
/* global d3 */
import { find } from "./api.js";

const LIMIT = 2000,
    ENDINGS_LIMIT = 1000;

export const SEVERITIES = ["critical", "warning", "info"];

/** Alerts in the order in which attnd names them: by severity, by their place among the rules, and by how far beyond the bound. */
export function worstFirst(alerts, rules) {
    const placeOf = new Map(rules.map(({ name }, i) => [name, i])),
        below = new Set(rules.filter(({ condition }) => condition === "below").map(({ name }) => name));
    const orderOf = ({ severity, rule, value }) => [SEVERITIES.indexOf(severity), placeOf.get(rule) ?? rules.length, below.has(rule) ? value : -value];
    return [...alerts].sort((a, b) => {
        const [p, q] = [orderOf(a), orderOf(b)];
        return p[0] - q[0] || p[1] - q[1] || p[2] - q[2] || a.since[1] - b.since[1];
    });
}

/** Alerts that say something of all heads of a run; not that it is silent, or loses messages. */
export const ofAllHeads = (alerts) =>
    alerts.filter(({ stack, severity, metric }) => stack === null && severity !== "info" && !["silence", "lost_share"].includes(metric));

const place = (alert) => [alert.rule, alert.stack, alert.layer, alert.site, alert.head].join(" ");

/** Makes intervals of the events of one run, oldest first. An alert that fired at the end stays open: the run may go on. */
function intervalsOf(events) {
    const open = new Map(),
        intervals = [];
    for (const event of events) {
        const key = place(event),
            interval = open.get(key) ?? { from: event.since[1], to: Infinity, began: { state: "firing", message: event.message } };
        if (event.state !== "resolved") {
            if (!open.has(key)) intervals.push(interval);
            open.set(key, Object.assign(interval, event));
        } else if (open.has(key)) {
            Object.assign(interval, { to: event.step, state: "resolved" });
            open.delete(key);
        }
    }
    return intervals;
}

/** Alerts of a run as {…alert, from, to}: steps; `to`, at which it was over, is Infinity while one fires, and of one that
 * fired at the end of the run. Newest first; without a history those that fire. */
export async function loadIntervals(job, run) {
    const answer = await find("alerts", { job, run, limit: LIMIT });
    return intervalsOf([...(answer?.alerts ?? answer?.firing ?? [])].reverse()).reverse();
}

/**
 * The alerts that fired at a step, from where one began to where it was over, a step at which it did not fire; in the words
 * of when they began.
 */
export const firingAt = (intervals, step) =>
    intervals.filter((one) => one.from <= step && step < one.to).map((one) => ({ ...one, ...one.began }));

/** The alerts that fire, or did when the run ended. */
export const firingAtEnd = (intervals) => intervals.filter((one) => one.to === Infinity);

/** The alerts that fired at the end of runs, by the run; of runs that told alerts lately. */
export async function loadEndings() {
    const answer = await find("alerts", { limit: ENDINGS_LIMIT }),
        runs = d3.group([...(answer?.alerts ?? [])].reverse(), ({ run }) => run);
    return new Map([...runs].map(([run, events]) => [run, firingAtEnd(intervalsOf(events))]));
}
