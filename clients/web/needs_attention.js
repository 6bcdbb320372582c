// SPDX-License-Identifier: MIT
// The first look: the alerts that fire at the moment that is shown, since when, why they matter and what helps; or how many
// checks found nothing.
import { where } from "./alerts_list.js";
import { SEVERITIES } from "./alerts_past.js";
import { h, layerName, refill, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { link } from "./router.js";
import { shownBy, whyNode } from "./rules.js";
import { isOver } from "./run_text.js";
import { aboutText, groupsOf, sinceNode, Verdict } from "./verdict.js";
import { fleetTrouble } from "./view_fleet.js";

/** Rows of a rule that are shown at first. */
const ROWS = 3;
/** Other jobs that are named. */
const ELSEWHERE = 3;
/** Layers without numbers that are named. */
const LAYERS = 4;

/** Names layers that no check says anything of, if there are any. */
function unmeasuredNodes({ checks }) {
    const layers = checks?.unmeasured ?? [],
        count = layers.length - LAYERS,
        more = count > 0 ? ` and ${count} more ${count === 1 ? "layer" : "layers"}` : "";
    if (layers.length === 0) return [];
    return [h("p", { class: "unmeasured" }, `No numbers came in the last captures of ${layers.slice(0, LAYERS).join(", ")}${more}.`)];
}

export class NeedsAttention {
    /** `store` and `params` as the view has them; `lossOf(since)`: what the loss did, in words, at the moment that is shown. */
    constructor({ store, params, run, isCurrent, lossOf }) {
        this.verdict = new Verdict({ job: params.job, run });
        Object.assign(this, { store, params, isCurrent, lossOf, moment: undefined, rules: [], open: new Set(), opened: new Set() });
        this.frame = figure("Needs attention", "", "attention").plain();
        this.frame.hidden = true;
    }

    /** Another moment, as it stands in the address, and as {step, epoch}; undefined and null: the newest. */
    goTo(moment, window, intervals) {
        this.moment = moment;
        this.verdict.goTo(window, intervals, this.rules);
    }

    /** Parameters of a view of this run, at the moment that is shown. A rule's own numbers are no metric to choose. */
    to(view, { stack, layer, site, head }, metric) {
        const { job, run, at } = this.params;
        return link(view, { job, run, at, stack, layer, site, head, metric: this.isMetric(metric) ? metric : undefined });
    }

    isMetric(name) {
        return this.store.metrics.some((metric) => metric.name === name);
    }

    isEnded() {
        return isOver(this.store.shownRun());
    }

    /** Whether what is told is over. */
    isPast() {
        return Boolean(this.found.isPast) || this.isEnded();
    }

    momentText() {
        const { epoch, step, isPast } = this.found,
            at = `step ${step}${epoch ? `, epoch ${epoch}` : ""}`;
        return this.isEnded() && !isPast ? `at the end of the run, ${at}` : `up to ${at}`;
    }

    draw() {
        const { frame } = this,
            found = (this.found = this.verdict.found),
            fleet = this.moment === undefined ? fleetTrouble(this.store.fleet, this.verdict.run) : [];
        frame.hidden = !found && !fleet.length;
        frame.style.minHeight = this.moment === undefined ? "" : `${frame.offsetHeight}px`; // what is below stands still
        if (frame.hidden) return;
        const groups = groupsOf(found?.alerts ?? []);
        frame.classList.toggle("well", groups.length + fleet.length === 0);
        frame.classList.toggle("warning", groups.length > 0 && groups[0].severity !== "critical" && fleet.length === 0);
        frame.classList.remove("open");
        if (groups.length + fleet.length === 0) return this.drawWell();
        const about = aboutText(found?.alerts ?? []),
            many = about && `${found.more ? "at least " : ""}${about}`;
        frame.setTitle(found?.isPast ? "Needed attention" : "Needs attention", [Number.isFinite(found?.step) && this.momentText(), many].filter(Boolean).join(" · "));
        refill(
            frame.body,
            ...fleet,
            ...groups.flatMap((group, i) => (i ? [this.groupNode(group)] : [this.groupNode(group, true), this.lossNode()])),
            ...(found ? [...unmeasuredNodes(found), groups.length ? "" : h("p", {}, this.wellText()), ...this.moreNodes()] : []),
        );
    }

    /** Since the first alert of this moment began. */
    lossNode() {
        const text = this.lossOf(Math.min(...this.found.alerts.map(({ since }) => since[1])));
        return text ? h("p", { class: "loss" }, text) : "";
    }

    /** Below all: the newest moment when another is shown, other jobs. */
    moreNodes() {
        return [this.newestNode(), this.found.isPast ? null : this.elsewhereNode()].filter(Boolean);
    }

    drawWell() {
        const { found, frame } = this;
        const isJudged = Number.isFinite(found.step);
        frame.classList.toggle("open", !isJudged || unmeasuredNodes(found).length > 0);
        frame.setTitle(isJudged ? "No alerts" : this.isEnded() || !this.rules.length ? "Not monitored" : "Not monitoring yet", "");
        refill(
            frame.body,
            ...unmeasuredNodes(found),
            h("p", {}, this.wellText()),
            ...this.moreNodes(),
        );
    }

    wellText() {
        if (Number.isFinite(this.found.step)) return this.checksText() ?? `No alert ${this.isPast() ? "fired" : "fires"} ${this.momentText()}.`;
        if (this.rules.length === 0) return "No rule is in force: alerts are switched off, or none is of this job.";
        return this.isEnded()
            ? "The run ended before the first check, which comes with the first capture."
            : "The first check comes with the first capture.";
    }

    /** How many rules have had numbers to judge, and why the others have not; undefined where attnd does not say. */
    checksText() {
        const { judged, unjudged = [] } = this.found.checks ?? {};
        if (!judged) return undefined;
        const reasons = new Map();
        for (const name of unjudged) {
            const why = this.rules.find((rule) => rule.name === name)?.needs ?? "";
            reasons.set(why, [...(reasons.get(why) ?? []), name]);
        }
        const missing = [...reasons].map(([why, names]) => names.join(", ") + (why && ` (${why})`)),
            also = missing.length ? `; ${unjudged.length} not measured: ${missing.join("; ")}` : "";
        return `${judged} checks passed ${this.momentText()}${also}.`;
    }

    /** Where the past is shown: what fires at the newest step. */
    newestNode() {
        const { moment, verdict, params } = this,
            { newest } = verdict;
        if (moment === undefined || !newest || !Number.isFinite(newest.step)) return null;
        const about = aboutText(newest.alerts),
            what = newest.alerts.length ? `alerts${about && ` about ${about}`}` : "no alerts",
            live = h("a", { href: link("overview", { ...params, at: undefined }) }, `the newest step, ${newest.step}`);
        return h("p", { class: "soft" }, "At ", live, `: ${what}.`);
    }

    /** Jobs beside this one that have firing alerts, of the run that their name means: the most severe and the oldest first. */
    elsewhereNode() {
        const counts = new Map(),
            severity = (alert) => SEVERITIES.indexOf(alert.severity);
        for (const alert of [...this.store.firing].sort((a, b) => severity(a) - severity(b) || a.since[1] - b.since[1]))
            if (alert.job !== this.params.job && alert.run === this.store.meant(alert.job)?.run)
                counts.set(alert.job, (counts.get(alert.job) ?? 0) + 1);
        if (counts.size === 0) return null;
        const names = [...counts].slice(0, ELSEWHERE).flatMap(([job, count], i) => [
            i ? ", " : "",
            h("a", { href: link("overview", { job }) }, job),
            ` (${count})`,
        ]);
        return h("p", { class: "soft" }, "Alerts of other jobs: ", ...names, counts.size > ELSEWHERE ? ", …" : "");
    }

    /** The worst rule with all that there is to say; others in a line that opens. */
    groupNode(group, isFirst) {
        const { rule, severity, alerts } = group,
            name = [h("span", { class: `badge ${severity}` }, severity), " ", h("b", {}, rule), h("span", { class: "soft" }, ` ${aboutText(alerts)}`)];
        if (isFirst) return h("section", { class: `trouble ${severity}`, "aria-label": rule }, h("header", {}, name), this.partsOf(group, true));
        const node = h("details", { class: `trouble ${severity}`, open: this.opened.has(rule) }, h("summary", {}, name), this.partsOf(group, false));
        node.addEventListener("toggle", () => (node.open ? this.opened.add(rule) : this.opened.delete(rule)));
        return node;
    }

    partsOf({ rule, why, advice, rows }, isFirst) {
        const shown = this.open.has(rule) ? rows : rows.slice(0, ROWS);
        return [
            h("ul", { class: isFirst ? "rows first" : "rows" }, shown.map((row) => this.rowNode(row))),
            rows.length > ROWS ? this.moreNode(rule, rows.slice(ROWS)) : "",
            whyNode({ why, advice }),
        ];
    }

    moreNode(rule, rest) {
        const isOpen = this.open.has(rule),
            about = aboutText(rest.flatMap(({ all }) => all)),
            text = isOpen ? "Show the worst only" : `Show ${about ? about.replace(/ /, " more ") : `${rest.length} more`}`;
        const toggle = () => {
            if (isOpen) this.open.delete(rule);
            else this.open.add(rule);
            this.draw();
        };
        return h("button", { type: "button", "aria-expanded": String(isOpen), onclick: toggle }, text);
    }

    /** The page of the head or the layer that an alert is about. */
    hrefOf(alert) {
        const { head, metric } = alert;
        return this.to(head === null ? "layer" : "head", { ...alert, head: head ?? undefined }, shownBy(metric));
    }

    whoNode(alert) {
        return alert.stack === null ? h("b", { class: "who" }, where(alert)) : h("a", { class: "who", href: this.hrefOf(alert) }, where(alert));
    }

    rowNode({ alert, all }) {
        return h(
            "li",
            {},
            this.whoNode(alert),
            h("span", {}, alert.message),
            sinceNode(alert),
            h("span", { class: "soft" }, this.ofNodes(alert, all), " ", h("span", { class: "module" }, withModule(alert, ""))),
        );
    }

    /** "also 7 other heads in decoder.0.self", where the row stands for all of them. */
    ofNodes(alert, all) {
        if (all.length === 1) return "";
        return [`also ${all.length - 1} other heads in `, h("a", { href: this.to("layer", { ...alert, head: undefined }) }, layerName(alert))];
    }
}
