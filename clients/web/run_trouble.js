// SPDX-License-Identifier: MIT
// Trouble of a run's heads at the moment that a view shows: the newest as attnd ranks it, or that of a window that has
// passed. For the past attnd keeps the score of each head and when alerts fired, which together say what the trouble was.
import { firingAt } from "./alerts_past.js";
import { layerName } from "./dom.js";
import { loadGrid, valuesAt, windowAt } from "./grid.js";
import { shownBy } from "./rules.js";
import { headsByLayer, loadTrouble } from "./trouble.js";

/** By the whole number below a score. */
const SEVERITIES = ["", "info", "warning", "critical"];

/** Alerts that may stand for a head: those of its layer or of the run, about a metric of heads. */
function alertsFor(layer, alerts) {
    return alerts.filter((alert) => alert.stack === null || layerName(alert) === layerName(layer));
}

/** How far an alert is from a head: its own, that of its layer, that of the run. */
const distanceOf = (alert) => (alert.stack === null ? 2 : alert.head === null ? 1 : 0);

/** The alert that made a head's score: of its severity the nearest, and of several the one that fires longest. */
function causeOf(alerts, head, score) {
    const severity = SEVERITIES[Math.floor(score)];
    return alerts
        .filter((alert) => alert.severity === severity && (alert.head === null || alert.head === head))
        .sort((a, b) => distanceOf(a) - distanceOf(b) || a.since.step - b.since.step)[0];
}

/** As an answer of `trouble` has it, without the value, which only the window knows. */
function pastHead({ stack, layer, site, module }, head, score, cause) {
    const { rule, metric, bound, since } = cause ?? {},
        state = score >= 1 ? "firing" : score >= 0.5 ? "beyond" : "approaching";
    return { stack, layer, site, module, head, score, state, rule, metric, bound, since, severity: SEVERITIES[Math.floor(score)] };
}

/** Whether a head stands for an alert. */
const hasCause = (heads, alert) =>
    heads.some((head) => head.rule === alert.rule && (alert.stack === null || layerName(head) === layerName(alert)));

/**
 * Trouble of the window `at` of a grid of scores, as an answer of `trouble` has it; heads that are near a bound are named
 * without a rule. `intervals` of alerts; `isOfHeads(metric)`: whether heads have it.
 */
export function troubleAt(scores, at, intervals, isOfHeads) {
    const step = scores.windows.step[at],
        firing = firingAt(intervals, step),
        causes = firing.filter((alert) => isOfHeads(alert.metric)),
        heads = [];
    for (const layer of scores.layers.values()) {
        const own = alertsFor(layer, causes);
        valuesAt(scores, layer, at).forEach((score, head) => {
            if (score >= 0.1) heads.push(pastHead(layer, head, score, score >= 1 ? causeOf(own, head, score) : null));
        });
    }
    heads.sort((a, b) => b.score - a.score);
    const others = firing.filter((alert) => alert.head === null && !hasCause(heads, alert)),
        watched = heads.filter(({ score }) => score >= 0.5 && score < 1).length;
    return { isPast: true, step, epoch: scores.windows.epoch[at], at, heads, others, watched, more: false };
}

export class RunTrouble {
    /** `where`: the layer whose scores are asked for, {} for all. */
    constructor({ store, job, run, where = {} }) {
        Object.assign(this, { store, job, run, where, newest: null, scores: null, past: null, layers: new Map(), isKnown: true });
    }

    /** The trouble at the moment, or the newest where its scores are not known; null when attnd knows nothing of the run. */
    get found() {
        return this.past ?? this.newest;
    }

    /** Keeps the answer before when attnd does not answer. */
    async load() {
        this.newest = await loadTrouble(this.job, this.run).catch(() => this.newest);
        this.sort();
    }

    sort() {
        this.layers = headsByLayer(this.isKnown ? (this.found?.heads ?? []) : []);
    }

    /** Windows of before attnd ranked trouble have no scores. */
    async loadScores() {
        const { job, run, where } = this;
        this.scores = (await loadGrid({ job, run, ...where, metric: "trouble", statistic: "mean" }).catch(() => null)) ?? this.scores;
    }

    /** Another moment, as it stands in the address; undefined is the newest. */
    goTo(moment, intervals) {
        const at = moment === undefined ? null : windowAt(this.scores, moment),
            isOfHeads = (metric) => this.store.metrics.some((one) => one.name === shownBy(metric));
        this.past = at === null ? null : troubleAt(this.scores, at, intervals, isOfHeads);
        this.isKnown = moment === undefined || at !== null;
        this.sort();
    }

    /** The heads of a layer that are in trouble or on their way there. */
    headsOf(layer) {
        return this.layers.get(layerName(layer)) ?? [];
    }

    /** The scores of a layer's heads at the moment, by head; null where nothing is known. */
    scoresOf(layer) {
        const { past, scores, store } = this;
        if (!this.isKnown) return null;
        if (past) return valuesAt(scores, layer, past.at);
        const newest = store.summaries.get(layerName(layer))?.trouble?.score;
        return newest ?? Object.fromEntries(this.headsOf(layer).map((one) => [one.head, one.score]));
    }
}
