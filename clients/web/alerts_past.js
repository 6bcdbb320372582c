// SPDX-License-Identifier: MIT
// When alerts fired: each as an interval of steps, from the history of what began to and what was resolved.
import { find } from "./api.js";

const LIMIT = 2000,
    ENDINGS_LIMIT = 1000;
const place = (alert) => [alert.rule, alert.stack, alert.layer, alert.site, alert.head].join(" ");

/** Whether an alert was resolved only because the run ended: there is no value then. It fired to the end. */
const byTheEnd = (event) => event.state === "resolved" && event.value === null;

function close(interval, event) {
    interval.byTheEnd = byTheEnd(event);
    if (interval.byTheEnd) return;
    interval.to = event.step;
    interval.state = "resolved";
}

/** Of events of one run, oldest first. */
function intervalsOf(events) {
    const open = new Map(),
        intervals = [];
    for (const event of events) {
        const key = place(event);
        if (event.state === "firing") {
            const interval = { ...event, from: event.since.step, to: Infinity };
            open.set(key, interval);
            intervals.push(interval);
        } else if (open.has(key)) {
            close(open.get(key), event);
            open.delete(key);
        }
    }
    return intervals;
}

/** Alerts of a run as {…alert, from, to, byTheEnd}: steps; `to`, at which it was over, is Infinity while one fires, and of
 * one that fired to the end of the run. Newest first; [] without a history. */
export async function loadIntervals(job, run) {
    const answer = await find("alerts", { job, run, limit: LIMIT });
    return intervalsOf([...(answer?.alerts ?? [])].reverse()).reverse();
}

/** Those that fired at a step: from where one began to where it was over, which is a step at which it did not fire. */
export const firingAt = (intervals, step) => intervals.filter((one) => one.from <= step && step < one.to);

/** How many alerts fired at the end of runs that have ended: `.of(run)` is a number, "–" for none, and "" of a run that is
 * older than what was asked for. */
export async function loadEndings() {
    const answer = await find("alerts", { limit: ENDINGS_LIMIT }),
        events = [...(answer?.alerts ?? [])].reverse(),
        runs = new Map();
    for (const event of events) runs.set(event.run, [...(runs.get(event.run) ?? []), event]);
    const since = answer?.more ? events[0].time_ns : 0;
    const count = (list) => intervalsOf(list).filter((one) => one.to === Infinity).length;
    return {
        of: (run) => count(runs.get(run.run) ?? []) || ((run.first_ns ?? 0) >= since ? "–" : ""),
    };
}
