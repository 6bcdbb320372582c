// SPDX-License-Identifier: MIT
// The first look: which heads need attention at the moment that is shown, since when, why it matters and what helps; or
// that all is well.
import { where } from "./alerts_list.js";
import { sparkline } from "./chart.js";
import { windowOfStep } from "./chart_marks.js";
import { h, headName, layerName, number, refill, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { loadGrid, seriesOf, windowAt } from "./grid.js";
import { link } from "./router.js";
import { comparedText, conditionText, isOnAxis, shownBy, whyNode } from "./rules.js";
import { isOver } from "./run_text.js";
import { groupsOf, sinceText } from "./trouble.js";
import { fleetTrouble } from "./view_fleet.js";

/** More heads of one layer than this share a row; rows of a rule that are shown at first. */
const APART = 3,
    ROWS = 3;
/** Windows of a line, and its size in px. */
const POINTS = 120,
    LINE = { width: 190, height: 34 };
/** Other jobs that are named. */
const ELSEWHERE = 3;
/** More heads that are watched stand in a list that opens. */
const WATCHED = 3;

const heads = (count) => `${count} head${count === 1 ? "" : "s"}`;

/** A row that stands for one head or for several of a layer. */
function rowsFor({ heads: list, alert }) {
    if (alert) return [{ alert }];
    return list.length > APART ? [{ head: list[0], all: list }] : list.map((head) => ({ head, all: [head] }));
}

export class NeedsAttention {
    /** `store` and `params` as the view has them; `trouble`: a RunTrouble. */
    constructor({ store, params, trouble, isCurrent }) {
        Object.assign(this, { store, params, trouble, isCurrent, moment: undefined, rules: [], series: new Map(), open: new Set() });
        this.frame = figure("Needs attention", "", "attention").plain();
        this.frame.hidden = true;
    }

    /** Another moment, as it stands in the address and in words; undefined: the newest. */
    goTo(moment, text, intervals) {
        Object.assign(this, { moment, text });
        this.trouble.goTo(moment, intervals);
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
        return this.isEnded() && !isPast ? `at the end of the run, ${at}` : `in the window to ${at}`;
    }

    /** Done when the lines are there. */
    async draw() {
        const { frame } = this,
            found = (this.found = this.trouble.found),
            fleet = this.moment === undefined ? fleetTrouble(this.store.fleet, this.trouble.run) : [];
        frame.hidden = !found && !fleet.length;
        frame.style.minHeight = this.moment === undefined ? "" : `${frame.offsetHeight}px`; // what is below stands still
        if (frame.hidden) return;
        const groups = found ? groupsOf(found, this.rules) : [],
            firing = groups.reduce((sum, group) => sum + group.heads.length, 0);
        frame.classList.toggle("well", groups.length + fleet.length === 0);
        frame.classList.remove("open");
        if (groups.length + fleet.length === 0) return void this.drawWell();
        const many = firing && `${found.more && firing === found.heads.length ? "at least " : ""}${heads(firing)}`;
        frame.setTitle(found?.isPast ? "Needed attention" : "Needs attention", [Number.isFinite(found?.step) && this.momentText(), many].filter(Boolean).join(" · "));
        this.lines = [];
        refill(
            frame.body,
            ...fleet,
            ...groups.map((group, i) => this.groupNode(group, i === 0)),
            ...(found ? [groups.length ? "" : h("p", {}, this.wellText()), ...this.moreNodes()] : []),
        );
        await this.drawLines();
    }

    /** Below all: heads that are watched, the newest moment when another is shown, other jobs. */
    moreNodes() {
        return [this.watchedNode(), this.newestNode(), this.found.isPast ? null : this.elsewhereNode()].filter(Boolean);
    }

    drawWell() {
        const { found, frame } = this;
        const isJudged = Number.isFinite(found.step);
        frame.classList.toggle("open", !isJudged);
        frame.setTitle(isJudged ? "No alerts" : "Nothing is judged", "");
        refill(
            frame.body,
            h("p", {}, this.wellText()),
            ...this.moreNodes(),
        );
    }

    wellText() {
        if (Number.isFinite(this.found.step)) return this.checksText() ?? `No alert ${this.isPast() ? "fired" : "fires"} ${this.momentText()}.`;
        if (this.rules.length === 0) return "No rule is in force: alerts are switched off, or none is of this job.";
        return this.isEnded()
            ? "Rules judge windows, and the run ended without one."
            : "Rules judge windows, and the first one has not closed yet.";
    }

    /** How many rules have had numbers to judge, and what the others need; undefined where attnd does not say. */
    checksText() {
        const { judged, unjudged = [] } = this.found.checks ?? {};
        if (!judged) return undefined;
        const needs = (name) => this.rules.find((rule) => rule.name === name)?.needs,
            missing = unjudged.map((name) => (needs(name) ? `${name} (needs ${needs(name)})` : name)),
            also = missing.length ? `; ${missing.length} not measured: ${missing.join(", ")}` : "";
        return `${judged} checks passed ${this.momentText()}${also}.`;
    }

    /** Where the past is shown: what there is at the newest step, or that the past is not known. */
    newestNode() {
        const { moment, trouble, params, text } = this,
            { newest } = trouble;
        if (moment === undefined || !newest || !Number.isFinite(newest.step)) return null;
        const firing = newest.heads.filter((head) => head.score >= 1).length,
            what = firing ? `${heads(firing)} in trouble` : newest.others.length ? "an alert" : "all is well",
            live = h("a", { href: link("overview", { ...params, at: undefined }) }, `the newest step, ${newest.step}`);
        if (!this.found.isPast) return h("p", { class: "soft" }, `The scores of ${text} were not kept: this is of `, live, ".");
        return h("p", { class: "soft" }, "At ", live, `: ${what}.`);
    }

    /** Heads beyond a bound of a rule that judges their layer, which is within it; many of them in a list that opens. */
    watchedNode() {
        const count = this.found.watched ?? 0;
        if (count === 0) return null;
        const own = this.found.heads.filter((head) => head.score >= 0.5 && head.score < 1),
            past = this.found.isPast ? (count === 1 ? "was" : "were") : count === 1 ? "is" : "are",
            theirs = count === 1 ? "its layer" : "their layers",
            text = `Watched: ${heads(count)} beyond a bound that ${theirs} as a whole ${past} within`,
            who = (head) => h("a", { href: this.to("head", head, shownBy(head.metric)) }, headName(head, head.head));
        if (count <= WATCHED)
            return h("p", { class: "soft" }, text, own.length ? ": " : "", ...own.flatMap((head, i) => [i ? ", " : "", who(head)]));
        const entries = own.map((head) => h("li", {}, who(head), head.value === undefined ? "" : [" ", ...this.whatNodes(head)]));
        return h(
            "details",
            {
                class: "watched soft",
                open: this.open.has("watched"),
                ontoggle: (event) => this.open[event.target.open ? "add" : "delete"]("watched"),
            },
            h("summary", {}, text),
            h("ul", {}, entries, own.length < count ? h("li", {}, `and ${count - own.length} more`) : null),
        );
    }

    /** Jobs beside this one that have firing alerts, of their newest run. */
    elsewhereNode() {
        const counts = new Map();
        for (const alert of this.store.firing)
            if (alert.job !== this.params.job && alert.run === this.store.runsOf(alert.job)[0]?.run)
                counts.set(alert.job, (counts.get(alert.job) ?? 0) + 1);
        if (counts.size === 0) return null;
        const names = [...counts].slice(0, ELSEWHERE).flatMap(([job, count], i) => [
            i ? ", " : "",
            h("a", { href: link("overview", { job }) }, job),
            ` (${count})`,
        ]);
        return h("p", { class: "soft" }, "Alerts of other jobs: ", ...names, counts.size > ELSEWHERE ? ", …" : "");
    }

    groupNode(group, isFirst) {
        const rows = group.rows.flatMap(rowsFor),
            layers = new Set(group.heads.map(layerName)).size;
        const many = group.heads.length
            ? `${heads(group.heads.length)} in ${layers === 1 ? layerName(group.heads[0]) : `${layers} layers`}`
            : "";
        const shown = this.open.has(group.rule) ? rows : rows.slice(0, ROWS);
        return h(
            "section",
            { class: `trouble ${group.severity}`, "aria-label": group.rule },
            h(
                "header",
                {},
                h("span", { class: `badge ${group.severity}` }, group.severity),
                " ",
                h("b", {}, group.rule ?? "a rule that was not kept"),
                many ? h("span", { class: "soft" }, ` ${many}`) : "",
            ),
            h(
                "ul",
                { class: isFirst ? "rows first" : "rows" },
                shown.map((row) => (row.alert ? this.alertNode(row.alert) : this.headNode(row))),
            ),
            rows.length > ROWS ? this.moreNode(group, rows) : "",
            whyNode(group),
        );
    }

    moreNode(group, rows) {
        const isOpen = this.open.has(group.rule),
            rest = rows.slice(ROWS),
            count = rest.reduce((sum, row) => sum + (row.all?.length ?? 0), 0);
        const text = isOpen ? "show the worst only" : `show ${rest.length} more${count > rest.length ? `, ${heads(count)}` : ""}`;
        const toggle = () => {
            if (isOpen) this.open.delete(group.rule);
            else this.open.add(group.rule);
            this.draw();
        };
        return h("button", { type: "button", "aria-expanded": String(isOpen), onclick: toggle }, text);
    }

    /** "entropy_normalized 0.02 · below 0.1"; the value of a window that has passed comes with its line. */
    whatNodes(head) {
        const rule = this.rules.find((one) => one.name === head.rule);
        if (!rule) return [`trouble ${number(head.score)}`];
        const value = head.value === undefined ? "" : number(head.value);
        return [`${comparedText(rule)} `, h("b", {}, value), ` · ${conditionText(rule, head.bound)}`];
    }

    headNode({ head, all }) {
        const line = h("span", { class: "spark" }),
            what = h("span", { class: "what" }, this.whatNodes(head));
        this.lines.push({ line, head, value: head.value === undefined ? what.querySelector("b") : null });
        return h(
            "li",
            {},
            h("a", { class: "who", href: this.to("head", head, shownBy(head.metric)) }, headName(head, head.head)),
            what,
            line,
            h("span", { class: "soft" }, sinceText(head)),
            h("span", { class: "soft" }, this.ofNodes(head, all), " ", h("span", { class: "module" }, withModule(head, ""))),
        );
    }

    /** "worst of 8 heads of decoder.0.self", where the row stands for all of them. */
    ofNodes(head, all) {
        if (all.length === 1) return "";
        return ["worst of ", h("a", { href: this.to("layer", { ...head, head: undefined }) }, `${heads(all.length)} of ${layerName(head)}`)];
    }

    alertNode(alert) {
        const name = where(alert);
        return h(
            "li",
            {},
            alert.stack === null
                ? h("b", { class: "who" }, name)
                : h("a", { class: "who", href: this.to("layer", { ...alert, head: undefined }) }, name),
            h("span", { class: "said" }, withModule(alert, alert.message)),
            h("span", { class: "soft" }, sinceText(alert)),
        );
    }

    async drawLines() {
        await Promise.all(this.lines.map((one) => this.drawLine(one)));
    }

    async drawLine({ line, head, value }) {
        const { moment } = this,
            grid = await this.gridOf(head),
            values = seriesOf(grid, head, head.head),
            at = windowAt(grid, moment),
            bound = this.boundOf(head);
        if (values.length === 0 || !line.isConnected) return;
        if (value && bound !== null && at !== null) value.textContent = number(values[at]);
        const onset = head.since ? windowOfStep(grid.windows.step, head.since.step) : null,
            node = sparkline(values, { ...LINE, at, bound, onset });
        if (node) line.replaceChildren(node);
    }

    /** A bound stands on the axis of the metric only where the values themselves are compared. */
    boundOf(head) {
        const rule = this.rules.find((one) => one.name === head.rule);
        return rule && isOnAxis(rule) ? head.bound : null;
    }

    /** The windows of a head's layer, asked for once until there are newer ones. In the past they are those of the slider. */
    gridOf(head) {
        const { step } = this.trouble.newest ?? {},
            { stack, layer, site } = head,
            metric = shownBy(head.metric),
            points = this.moment === undefined ? POINTS : undefined,
            rule = this.rules.find((one) => one.name === head.rule),
            statistic = rule && isOnAxis(rule) ? rule.statistic : "mean",
            key = `${step} ${metric} ${statistic} ${layerName(head)} ${points}`;
        if (!this.isMetric(metric)) return null;
        for (const old of this.series.keys()) if (!old.startsWith(`${step} `)) this.series.delete(old);
        if (!this.series.has(key)) {
            const { job, run } = this.trouble;
            this.series.set(key, loadGrid({ job, run, stack, layer, site, metric, statistic, points }).catch(() => null));
        }
        return this.series.get(key);
    }
}
