// SPDX-License-Identifier: MIT
// Marks on any chart for the alert rules of its metric: their bounds on its axis, and when alerts began.
/* global d3 */
import { firingAt, firingAtEnd } from "./alerts_past.js";
import { layerName } from "./dom.js";
import { boundsOf } from "./rules.js";

/** Alerts that are marked in a chart, the newest of them. */
const MARKS = 12;

/** The window of a list of windows' steps that holds a step: the last one when none does. */
export const windowOfStep = (steps, step) => Math.min(d3.bisectLeft(steps, step), steps.length - 1);

/** Alerts about a layer, of all its heads or of one: those of the layer as a whole, and its own. */
export const alertsAbout = (alerts, layer, head = null) =>
    alerts.filter(
        (alert) => layerName(alert) === layerName(layer) && (head === null || alert.head === null || alert.head === head),
    );

/** Alerts that fire at a step of the past; with null those that fire, or did when the run ended. */
export const alertsAt = (alerts, step) =>
    step === null ? firingAtEnd(alerts) : firingAt(alerts, step);

// The text that fits beside a mark.
const shortened = ([first, ...others]) => first + (others.length ? ` +${others.length}` : "");

/**
 * Options for drawChart(): `bounds` and `events`. `rules` in force and `alerts` as loadIntervals() gives them, newest
 * first; of `metric`, a `layer`, and a `head` (null: all); `series`: {last, step} of the windows. Alerts that began in the
 * same window share a mark. `run`, where there are several: {name, class}.
 */
export function chartMarks({ rules, alerts, metric, layer, head = null, series, run = null }) {
    const began = new Map(),
        before = run ? `${run.name}: ` : "";
    for (const alert of alertsAbout(alerts, layer, head).slice(0, MARKS)) {
        const x = series.last[windowOfStep(series.step, alert.since[1])];
        began.set(x, (began.get(x) ?? new Set()).add(alert.rule));
    }
    const events = [...began].map(([x, names]) => ({
        x,
        name: `${before}${[...names].join(", ")} began`,
        label: before + shortened([...names]),
        class: run ? `event of-run ${run.class}` : "event",
    }));
    return { bounds: boundsOf(rules, metric, layer), events };
}
