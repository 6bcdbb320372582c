// SPDX-License-Identifier: MIT
// All runs, those in trouble first: the verdict of each in a sentence, its loss and its worst head in lines that share a
// scale, and the settings that differ.
/* global d3 */
import { where } from "./alerts_list.js";
import { loadEndings, SEVERITIES, worstFirst } from "./alerts_past.js";
import { find } from "./api.js";
import { noJobYet } from "./attach.js";
import { sparkline } from "./chart.js";
import { windowOfStep } from "./chart_marks.js";
import { LOG_MS, lossOf } from "./context.js";
import { h, number, refill, select, visible } from "./dom.js";
import { loadGrid, seriesOf } from "./grid.js";
import { runKey } from "./overlay.js";
import { here, keep, link } from "./router.js";
import { loadRules } from "./rules.js";
import { cardButtons, tagNodes } from "./run_card.js";
import { failureOf, isOver, startOf } from "./run_text.js";
import { aboutText, sinceText } from "./verdict.js";
import { paced, pacedUntilStored } from "./view_state.js";

/** Points of a line, and its size in px. */
const POINTS = 60,
    LINE = { width: 104, height: 26 };
/** Alerts of a run that are counted. */
const ALERTS = 200;
/** Questions that are open at once. */
const AT_ONCE = 3;
/** A common beginning of names that is longer than this is left out. */
const SAME = 8;
/** Settings of a run that its row shows, of those that differ. */
const SETTINGS = 3;
/** The metric of the worst head's line, and its range. */
const METRIC = "entropy_normalized",
    RANGE = [0, 1];

const COLUMNS = ["", "run", "state", "verdict", "loss", "worst head", "step", "lost", "began", "differs by"];

/** All that was dropped, by attnd and by the job itself ("source"); not what came again on the reliable lane. */
export const droppedCount = ({ dropped }) =>
    Object.values(dropped ?? {}).reduce((sum, count) => sum + count, 0) - (dropped?.repeated ?? 0);

/** Messages that were lost on the way or dropped, with the reasons in its title; of a run in memory alone. */
function lostNode(run) {
    if (run.received === undefined) return "";
    const named = (reason) => (reason === "repeated" ? "sent again, which is no loss" : reason),
        reasons = Object.entries(run.dropped ?? {}).map(([reason, count]) => `${count} ${named(reason)}`),
        title = [`${run.received - (run.dropped?.repeated ?? 0)} messages`, `${run.lost ?? 0} lost on the way`, ...reasons].join(", ");
    return h("span", { title }, (run.lost ?? 0) + droppedCount(run));
}

/** How many characters at the beginning of all names are the same, up to a mark between words; 0 when they are few. */
function sameBeginning(names) {
    const [first = "", ...others] = [...new Set(names)];
    if (others.length === 0) return 0;
    let count = 0;
    while (count < first.length && others.every((name) => name[count] === first[count])) count++;
    const end = first.slice(0, count).search(/[^\p{L}\p{N}]*[\p{L}\p{N}]*$/u);
    return end > SAME ? end : 0;
}

/** A row: a run, what is known of it, and the cells that show it. */
class Row {
    constructor(home, run) {
        Object.assign(this, { home, run, alerts: [], told: "[]", checks: null, loss: null, head: null, isInView: false, isAsked: false, turn: 0 });
        this.cells = COLUMNS.map((name) => h("td", { class: name.replace(" ", "-") || null }));
        this.element = h("tr", {}, this.cells);
        this.element.row = this;
        const box = h("input", { type: "checkbox", "aria-label": `overlay ${runKey(run)}`, onchange: () => home.tick(this, box.checked) });
        box.checked = home.ticked.has(runKey(run));
        this.buttons = cardButtons(home.store, run);
        this.cells[0].append(box, this.buttons.star, this.buttons.edit);
    }

    /** Its name, tags, notes and star. */
    get card() {
        return this.home.store.recordOf(this.run) ?? {};
    }

    /** Its name in the list. */
    get title() {
        return this.card.name || this.run.job;
    }

    get rank() {
        const rank = this.alerts.length ? SEVERITIES.indexOf(this.alerts[0].severity) : SEVERITIES.length;
        return rank * 2 + (isOver(this.run) ? 1 : 0);
    }

    /** A search looks here. */
    get text() {
        const of = Object.entries(this.settings).map(([name, value]) => `${name}=${value}`),
            { name, notes, tags = [] } = this.card;
        return [runKey(this.run), name, notes, ...tags, this.run.state, ...this.alerts.map(({ rule }) => rule), ...of].join(" ").toLowerCase();
    }

    get settings() {
        return this.home.settingsOf(this.run);
    }

    put(name, ...nodes) {
        refill(this.cells[COLUMNS.indexOf(name)], ...nodes);
    }

    draw() {
        const { run, home } = this,
            silence = home.store.silence(run),
            heard = home.store.heard.get(run.run);
        this.element.className = this.alerts[0]?.severity ?? "";
        this.buttons.draw();
        this.put("run", ...this.nameNodes());
        this.put("state", h("span", { class: `badge ${silence ? "silent" : run.state}` }, silence ? "silent" : run.state), silence || failureOf(run) ? ` ${silence || failureOf(run)}` : "");
        this.put("verdict", ...this.verdictNodes());
        this.put("step", String(heard?.step ?? run.step ?? ""));
        this.put("lost", lostNode(run));
        this.put("began", startOf(run));
        this.put("differs by", this.settingsNode());
        this.drawLines();
    }

    nameNodes() {
        const { run, home } = this,
            runs = home.store.runsOf(run.job),
            target = { job: run.job, run: run.run === home.store.meant(run.job).run ? "" : run.run },
            name = home.same ? `…${this.title.slice(home.same)}` : this.title;
        return [
            h("a", { href: link("overview", target), title: this.card.name ? `${run.job} ${run.run.slice(0, 8)}` : run.job }, visible(name)),
            runs.length > 1 && !this.card.name ? h("span", { class: "soft" }, ` ${run.run.slice(0, 8)}`) : "",
            ...tagNodes(this.card.tags),
        ];
    }

    verdictNodes() {
        const [worst] = this.alerts;
        if (!worst) return [h("span", { class: "soft" }, this.wellText())];
        const others = this.alerts.slice(1).filter((alert) => where(alert) !== where(worst)),
            about = aboutText(others);
        return [
            h("span", { class: `badge ${worst.severity}` }, worst.severity),
            h("b", {}, ` ${where(worst)} `),
            h("span", { class: "soft" }, `${sinceText(worst)}: `),
            h("span", { title: `${worst.rule} ${sinceText(worst)}: ${worst.message}` }, worst.message.split(": ")[0]),
            h("span", { class: "soft" }, about && `, also ${about}`),
        ];
    }

    wellText() {
        const { checks } = this;
        const layers = checks?.unmeasured?.length;
        if (layers) return `No alerts; no numbers of ${layers} ${layers === 1 ? "layer" : "layers"}`;
        if (checks?.judged) return `No alerts, ${checks.judged} checks passed`;
        return isOver(this.run) || checks ? "No alerts" : "";
    }

    settingsNode() {
        const { settings } = this,
            said = this.home.differing.filter((name) => settings[name] !== undefined).map((name) => `${visible(name)} ${visible(String(settings[name]))}`);
        return h("span", { title: said.join("\n") }, said.slice(0, SETTINGS).join(", "));
    }

    drawLines() {
        const { loss, head, home } = this;
        const line = loss && sparkline(loss.value, { ...LINE, domain: home.lossRange }),
            last = loss?.value.at(-1);
        this.put("loss", line ?? "", loss ? h("span", { class: last === null ? "bad" : null }, last === null ? "NaN" : number(Number(last?.toPrecision(3)))) : "");
        this.put("worst head", (head && sparkline(head.values, { ...LINE, domain: RANGE, onset: head.onset })) ?? "");
    }

    /** Done when what there is has been drawn; what does not come leaves what is there. */
    async load() {
        const { job, run } = this.run,
            mine = ++this.turn;
        this.isAsked = true;
        const [log] = await Promise.all([find("log", { job, run, points: POINTS }).catch(() => null), this.loadVerdict(mine)]);
        this.loss = lossOf(log?.series ?? [])[0] ?? this.loss;
        if (mine === this.turn && this.home.isCurrent()) this.home.drawLoaded(this);
    }

    async loadVerdict(mine) {
        const { job, run } = this.run,
            verdict = this.alerts.length ? null : await find("verdict", { job, run, limit: ALERTS }).catch(() => null);
        if (mine !== this.turn) return; // alerts came meanwhile
        this.checks = verdict?.checks ?? this.checks;
        if (verdict) this.alerts = verdict.alerts;
        const head = await this.loadHead().catch(() => this.head);
        if (mine === this.turn) this.head = head;
    }

    /** The line of the head that the worst alert names, or of the layer, the mean over its heads. */
    async loadHead() {
        const alert = this.alerts.find(({ stack }) => stack !== null);
        if (!alert) return null;
        const { job, run } = this.run,
            { stack, layer, site } = alert,
            grid = await loadGrid({ job, run, stack, layer, site, metric: METRIC, statistic: "mean", points: POINTS });
        return grid && { values: seriesOf(grid, alert, alert.head), onset: windowOfStep(grid.windows.step, alert.since[1]) };
    }
}

class Home {
    constructor({ store, isCurrent, params }) {
        Object.assign(this, { store, isCurrent, params, rows: new Map(), endings: new Map(), rules: [], open: 0, lossRange: [0, 1], differing: [], same: 0 });
        this.ticked = new Set((params.ticked ?? "").split(" ").filter(Boolean));
        this.body = h("tbody");
        this.drawSoon = paced(() => this.draw());
        this.askEndings = pacedUntilStored(() => this.loadEndings());
        this.watcher = new IntersectionObserver((entries) => this.see(entries), { rootMargin: "200px" });
    }

    settingsOf(run) {
        return this.store.recordOf(run)?.settings ?? {};
    }

    build(root) {
        const search = h("input", {
            type: "search",
            value: this.params.search ?? "",
            placeholder: "search",
            "aria-label": "search runs by name, state, alert or setting",
            oninput: () => this.change({ search: search.value }),
        });
        this.groups = h("span");
        const ticked = h("input", { type: "checkbox", checked: Boolean(this.params.archived), onchange: () => this.change({ archived: ticked.checked ? "shown" : "" }) });
        this.archived = h("label", { class: "pick" }, ticked, h("span"));
        this.overlay = h("span", { class: "links" });
        this.count = h("span", { class: "soft" });
        this.empty = h("div", {}, noJobYet());
        const titles = { "": h("span", { class: "hidden-text" }, "overlay"), "worst head": h("span", { title: `${METRIC} from 0 to 1` }, "worst head's entropy") },
            head = COLUMNS.map((name) => h("th", { class: name.replace(" ", "-") || null }, titles[name] ?? name));
        this.table = h("table", { class: "home" }, h("thead", {}, h("tr", {}, head)), this.body);
        this.controls = h("div", { class: "controls" }, search, this.groups, this.archived, this.overlay, this.count);
        root.append(this.controls, this.table, this.empty);
    }

    /** Another search or group, which the address keeps. */
    change(what) {
        Object.assign(this.params, what);
        keep(what);
        this.draw();
    }

    tick(row, isTicked) {
        if (isTicked) this.ticked.add(runKey(row.run));
        else this.ticked.delete(runKey(row.run));
        keep({ ticked: [...this.ticked].join(" ") });
        this.drawOverlay();
    }

    drawOverlay() {
        const [a, b, ...more] = this.ticked;
        this.overlay.replaceChildren(b ? h("a", { href: link("runs", { a, b, with: more.join(",") }) }, `overlay ${this.ticked.size} runs`) : "");
    }

    /** The alerts of each run: that fire, or did when it ended. */
    takeAlerts() {
        const firing = d3.group(this.store.firing, ({ run }) => run);
        for (const row of this.rows.values()) {
            const known = firing.get(row.run.run) ?? (isOver(row.run) ? this.endings.get(row.run.run) : undefined);
            const alerts = worstFirst(known ?? [], this.rules),
                told = JSON.stringify(alerts);
            if (told === row.told) continue;
            Object.assign(row, { told, alerts, turn: row.turn + 1 });
            row.isAsked = false; // its worst head may be another
        }
    }

    draw() {
        if (!this.isCurrent()) return;
        const { store, params } = this,
            runs = store.jobNames().flatMap((job) => store.runsOf(job));
        this.empty.hidden = runs.length > 0;
        this.table.hidden = this.controls.hidden = runs.length === 0;
        for (const run of runs) {
            const key = runKey(run);
            if (!this.rows.has(key)) this.rows.set(key, new Row(this, run));
            this.rows.get(key).run = run;
        }
        const known = new Set(runs.map(runKey));
        for (const key of this.rows.keys()) if (!known.has(key)) this.rows.delete(key); // forgotten
        this.takeAlerts();
        const words = (params.search ?? "").toLowerCase().split(/\s+/),
            rows = runs.map((run) => this.rows.get(runKey(run))),
            archived = rows.filter((row) => row.card.archived).length,
            found = rows.filter((row) => (params.archived || !row.card.archived) && words.every((word) => row.text.includes(word)));
        this.archived.hidden = archived === 0;
        this.archived.lastChild.textContent = `archived (${archived})`;
        const shown = found.sort((a, b) => a.rank - b.rank || Number(b.card.star ?? false) - Number(a.card.star ?? false));
        this.takeSettings(shown);
        this.same = sameBeginning(shown.map((row) => row.title));
        const widthOf = ({ run, title, card }) => title.length + (store.runsOf(run.job).length > 1 && !card.name ? 9 : 0) + (card.tags ?? []).join("   ").length;
        this.table.style.setProperty("--name", (d3.max(shown, widthOf) ?? 0) - this.same);
        shown.forEach((row) => row.draw());
        this.place(shown);
        this.count.textContent = shown.length === runs.length ? `${runs.length} runs` : `${shown.length} of ${runs.length} runs`;
        this.drawOverlay();
        this.askNext();
    }

    /** The settings in which these runs differ; to group by one. */
    takeSettings(rows) {
        const all = rows.map((row) => row.settings),
            names = [...new Set(all.flatMap(Object.keys))].filter((name) => !name.startsWith("attnd.")).sort();
        this.differing = names.filter((name) => new Set(all.map((one) => JSON.stringify(one[name]))).size > 1);
        this.table.classList.toggle("alike", this.differing.length === 0); // the verdict has their room
        const options = [["", "nothing"], ["job", "job"], ...this.differing.map((name) => [name, visible(name)])];
        if (JSON.stringify(options) === this.offered) return;
        this.offered = JSON.stringify(options);
        this.groups.replaceChildren(select("group by", options, this.params.group ?? "", (group) => this.change({ group })));
    }

    /** Rows in their order, under the names of their groups. */
    place(rows) {
        const { group } = this.params,
            nameOf = (row) => (group === "job" ? row.run.job : `${visible(group)} ${visible(String(row.settings[group] ?? "–"))}`),
            groups = group ? [...d3.group(rows, nameOf)] : [["", rows]];
        const order = JSON.stringify(groups.map(([name, list]) => [name, list.map((row) => runKey(row.run))]));
        if (order === this.order) return;
        this.order = order;
        const nodes = groups.flatMap(([name, list]) => [
            ...(group ? [h("tr", { class: "group" }, h("th", { colspan: COLUMNS.length, scope: "rowgroup" }, `${name} · ${list.length}`))] : []),
            ...list.map((row) => row.element),
        ]);
        refill(this.body, ...nodes);
        this.watcher.disconnect();
        for (const row of this.rows.values()) row.isInView = false; // until it is seen again
        rows.forEach((row) => this.watcher.observe(row.element));
    }

    see(entries) {
        for (const { target, isIntersecting } of entries) target.row.isInView = isIntersecting;
        this.askNext();
    }

    /** Loads the rows in view, a few at a time. */
    async askNext() {
        for (const row of this.rows.values()) {
            if (this.open >= AT_ONCE || !this.isCurrent()) return;
            if (row.isAsked || !row.isInView) continue;
            this.open++;
            row.load().finally(() => {
                this.open--;
                this.askNext();
            });
        }
    }

    /** A row whose numbers have come; the others only when the scale of all losses is another now. */
    drawLoaded(row) {
        const all = [...this.rows.values()].flatMap(({ loss }) => loss?.value ?? []).filter(Number.isFinite),
            range = all.length ? [d3.min(all), d3.quantile(all, 0.98)] : [0, 1],
            isOther = range.some((end, i) => end !== this.lossRange[i]);
        this.lossRange = range;
        row.draw();
        if (isOther) for (const other of this.rows.values()) if (other !== row && other.isInView) other.drawLines();
    }

    /** Asks again about runs in view that go on. */
    refresh() {
        for (const row of this.rows.values()) if (row.isInView && !isOver(row.run)) row.isAsked = false;
        this.askNext();
    }

    async loadEndings() {
        this.endings = await loadEndings().catch(() => this.endings);
        this.draw();
    }

    /** Returns how to stop. */
    listen() {
        const timer = setInterval(() => this.refresh(), LOG_MS),
            ends = [
                this.store.on("jobs", this.drawSoon),
                this.store.on("clock", this.drawSoon),
                this.store.on("alerts", this.drawSoon),
                this.store.on("alerts", this.askEndings),
            ];
        return () => {
            clearInterval(timer);
            this.drawSoon.stop();
            this.askEndings.stop();
            this.watcher.disconnect();
            ends.forEach((end) => end());
        };
    }
}

export async function show(root, params, { store, isCurrent }) {
    const home = new Home({ store, isCurrent, params: here().params });
    home.build(root);
    home.draw();
    home.loadEndings();
    loadRules().then((rules) => {
        home.rules = rules;
        home.drawSoon();
    });
    performance.mark("data");
    return home.listen();
}
