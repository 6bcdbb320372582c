// SPDX-License-Identifier: MIT
// When alerts fired: each as an interval of steps, from the history of what began to and what was resolved.
import { find } from "./api.js";

const LIMIT = 2000;
const place = (alert) => [alert.rule, alert.stack, alert.layer, alert.site, alert.head].join(" ");

/** Alerts of a run as {…alert, from, to}: steps; `to` is Infinity while one fires. Newest first; [] without a history. */
export async function loadIntervals(job, run) {
    const answer = await find("alerts", { job, run, limit: LIMIT });
    const events = [...(answer?.alerts ?? [])].reverse(),
        open = new Map(),
        intervals = [];
    for (const event of events) {
        const key = place(event);
        if (event.state === "firing") {
            const interval = { ...event, from: event.since.step, to: Infinity };
            open.set(key, interval);
            intervals.push(interval);
        } else if (open.has(key)) {
            open.get(key).to = event.step;
            open.get(key).state = "resolved";
            open.delete(key);
        }
    }
    return intervals.reverse();
}

/** Those that fired at a step. */
export const firingAt = (intervals, step) => intervals.filter((one) => one.from <= step && step <= one.to);
