// SPDX-License-Identifier: MIT
// Runs side by side: which heads of two differ most, where they are in the model, and these and any more over time,
// under what each has logged.
import { loadIntervals } from "./alerts_past.js";
import { doubles, find, integers } from "./api.js";
import { chartMarks } from "./chart_marks.js";
import { ZoomChart } from "./chart_zoom.js";
import { contextOptions, drawLogs, loadLog } from "./context.js";
import { byLayer, errorNote, h, headName, layerName, note, number, select } from "./dom.js";
import { figure } from "./figure.js";
import { drawMap } from "./map_view.js";
import {
    loadSettings,
    overlayPicker,
    previousOf,
    runClass,
    runKey,
    runLetter,
    runName,
    settingsTable,
} from "./overlay.js";
import { metricPicker, unitOf } from "./pickers.js";
import { go, here, keep, link } from "./router.js";
import { loadRules } from "./rules.js";
import { isSampled, plusMinus } from "./run_text.js";

const SHOWN = 40;

async function loadSeries(job, run, head, metric) {
    const answer = await find("history", {
        job,
        run,
        stack: head.stack,
        layer: head.layer,
        site: head.site,
        head: head.head,
        metric,
        statistics: "mean",
        packed: 1,
        limit: 3000,
    });
    return (
        answer && {
            last: integers(answer.windows.last),
            step: integers(answer.windows.step),
            every: answer.every,
            mean: Array.from(doubles(answer.values.mean)),
            unit: answer.unit,
        }
    );
}

/** Names the unit of the axis; warns where it is not the same in all runs. */
function unitsOf(series) {
    const units = [...new Set(series.map(({ found }) => found.unit))];
    return units.length < 2
        ? "mean of each window"
        : `mean of each window; the runs count in ${units.join("s and ")}s, which cannot be laid side by side`;
}

/** A head's page, of this run, also when another one of the job is the newest. */
const toHead = ({ job, run }, { stack, layer, site, head }) => link("head", { job, run, stack, layer, site, head });

function drawDistances(frame, heads) {
    const names = [...new Set([...heads].sort(byLayer).map(layerName))],
        columns = Math.max(...heads.map((head) => head.head)) + 1;
    const values = new Float32Array(names.length * columns).fill(NaN);
    for (const head of heads) values[names.indexOf(layerName(head)) * columns + head.head] = head.distance;
    drawMap(
        frame.body,
        { rows: names.length, columns, values, queries: names.length, keys: columns, labels: null },
        {
            size: 420,
            height: Math.min(480, 24 * names.length),
            xName: "head",
            yName: "",
            range: [0, Math.max(...heads.map((head) => head.distance)) || 1],
            name: "distance of the heads",
            yNames: names,
            describe: (r, c, x) => `${names[r]}.h${c}: distance ${number(x)} of at most ${number(Math.LN2)}`,
        },
    );
}

/** The runs that the address names, or else the one that is shown and the one before it. */
function chosenRuns(store, params) {
    const all = store.jobNames().flatMap((job) => store.runsOf(job)),
        at = (text) => all.find((run) => runKey(run) === text),
        { job = "", run: shown } = params;
    const a = at(params.a) ?? store.runsOf(job).find((run) => run.run === shown) ?? store.meant(job) ?? all[0],
        own = at(params.b),
        b = own && runKey(own) !== runKey(a) ? own : previousOf(a, store.runsOf(a.job), all);
    const more = (params.with ?? "").split(",").map(at).filter(Boolean);
    return { all, a, b, more: [...new Set(more)].filter((run) => run !== a && run !== b) };
}

/** "-0.022 ± 0.0006": the difference of the means, with its standard error. */
const deltaText = ({ delta, delta_error: error }) =>
    `${number(delta)}${Number.isFinite(error) ? ` ${plusMinus(error)}` : ""}`;

/** The list of heads, most different first; a click chooses one. `isOfSamples`: the rows of a run are a sample. */
function drawList(frame, { heads, chosen, onPick, a, b, isOfSamples }) {
    const most = (head) => Object.entries(head.metrics).sort(([, p], [, q]) => q.js - p.js)[0],
        about = "of the rows taken; ±: standard error of B − A, at most; two samples of one head have a distance, too";
    const row = (head) => {
        const [which, numbers] = most(head) ?? ["–", {}],
            name = headName(head, head.head);
        return h(
            "tr",
            { class: head === chosen ? "chosen" : null },
            h("td", {}, h("button", { type: "button", onclick: () => onPick(head) }, name)),
            h("td", {}, number(head.distance)),
            h("td", { class: "text" }, which),
            h("td", {}, number(numbers.mean_a)),
            h("td", {}, number(numbers.mean_b)),
            isOfSamples ? h("td", { title: about }, deltaText(numbers)) : null,
            h("td", {}, h("a", { href: toHead(a, head) }, "A"), " ", h("a", { href: toHead(b, head) }, "B")),
        );
    };
    const names = [
        h("th", { class: "text" }, "head"),
        h("th", {}, "distance"),
        h("th", { class: "text" }, "most by"),
        h("th", {}, "mean A"),
        h("th", {}, "mean B"),
        isOfSamples ? h("th", { title: about }, "B − A") : null,
        h("th", {}, "open"),
    ];
    frame.body.replaceChildren(
        h(
            "div",
            { class: "scroll", tabindex: 0 },
            h("table", {}, h("thead", {}, h("tr", {}, names)), h("tbody", {}, heads.slice(0, SHOWN).map(row))),
        ),
    );
}

/** Why two runs cannot be compared head by head, or null. */
function whyNoHeads(found) {
    if (found?.error) return errorNote(found.error);
    if (!found)
        return note(
            "One of them has nothing in the history: its first window has not closed, or its histograms have been thinned out (history.states).",
        );
    return found.heads.length === 0 ? note("The two runs have no head in common.") : null;
}

/** Each run's line of one head, under what it has logged, with the onsets of its alerts in its colour. */
function drawRuns(chart, drawn, { metric, head, rules }) {
    const { unit, every } = drawn[0].found,
        nameOf = ({ run, i }) => `${runLetter(i)}: ${runName(run)}`,
        marks = drawn.map(({ found, alerts, i }) => {
            const run = { name: runLetter(i), class: runClass(i) };
            return chartMarks({ rules, alerts, metric, layer: head, head: head.head, series: found, run });
        });
    chart.draw({
        x: [...new Set(drawn.flatMap(({ found }) => found.last))].sort((p, q) => p - q),
        unit,
        yName: unitOf(metric),
        domain: metric.domain,
        lines: drawn.map((one) => ({
            name: nameOf(one),
            x: one.found.last,
            values: one.found.mean,
            class: runClass(one.i),
        })),
        bounds: marks[0].bounds,
        events: marks.flatMap(({ events }) => events),
        name: "all runs",
        ...contextOptions(
            drawn.map((one) => ({
                log: one.log,
                steps: one.found.step,
                places: one.found.last,
                name: runLetter(one.i),
                class: runClass(one.i),
            })),
            { unit, every },
        ),
    });
}

/** Draws the logged series of runs that have no head in common. Returns whether there is any. */
function drawLoggedAlone(frame, { log, runs }) {
    frame.setTitle("Logged by the runs", runs.map((run, i) => `${runLetter(i)}: ${runName(run)}`).join(", "));
    return drawLogs(
        frame.body,
        runs.map((_, i) => ({ log: log[i], name: runLetter(i), class: runClass(i) })),
    );
}

export async function show(root, params, { store, isCurrent }) {
    const known = store.jobNames().flatMap((job) => store.runsOf(job));
    if (known.length < 2)
        return void root.append(
            note("One run is known. A second one, of the same job or another, can be compared with it here."),
        );
    const { all, a, b, more } = chosenRuns(store, params),
        runs = [a, b, ...more];
    const metric = store.metric(params.metric || "entropy_normalized"),
        options = all.map((run) => [runKey(run), runName(run)]),
        change = (other) => go("runs", { ...here().params, ...other });
    root.append(
        h(
            "div",
            { class: "controls" },
            select("A", options, runKey(a), (value) => change({ a: value })),
            select("B", options, runKey(b), (value) => change({ b: value })),
            metricPicker(store, metric.name, (value) => change({ metric: value })),
            overlayPicker(
                all.filter((run) => run !== a && run !== b),
                more.map(runKey),
                (keys) => change({ with: keys.join(",") }),
            ),
        ),
    );
    const [found, logs, settings, rules, alerts] = await Promise.all([
        find("compare", { job: a.job, run: a.run, job_b: b.job, run_b: b.run, limit: 20000 }).catch((error) => ({
            error,
        })),
        Promise.all(runs.map(({ job, run }) => loadLog(job, run))),
        loadSettings(runs),
        loadRules(a.job),
        Promise.all(runs.map(({ job, run }) => loadIntervals(job, run).catch(() => []))),
    ]);
    if (!isCurrent()) return null;
    const differences = figure("Settings that differ").plain(),
        series = figure(metric.name, "", "wide"),
        why = whyNoHeads(found);
    differences.body.append(settingsTable(runs, settings));
    if (why) {
        const drawn = { log: logs, runs };
        root.append(why, h("div", { class: "stack" }, drawLoggedAlone(series, drawn) ? series : null, differences));
        performance.mark("data");
        return null;
    }
    const list = figure("Heads, most different first", `${found.heads.length} in both`).plain(),
        picture = figure("Distance by head", "distance: mean Jensen-Shannon divergence of the metrics"),
        chart = new ZoomChart(series.body);
    series.querySelector(".tools").before(chart.tools);
    root.append(h("div", { class: "stack" }, series, h("div", { class: "grid" }, list, picture, differences)));
    let chosen = found.heads.find((head) => headName(head, head.head) === params.cell) ?? found.heads[0];

    async function drawSeries() {
        const answers = await Promise.all(
            runs.map(({ job, run }) => loadSeries(job, run, chosen, metric.name).catch(() => null)),
        );
        if (!isCurrent()) return;
        const drawn = answers
            .map((answer, i) => ({ found: answer, log: logs[i], alerts: alerts[i], run: runs[i], i }))
            .filter((one) => one.found?.last.length);
        series.setTitle(`${metric.name} of ${headName(chosen, chosen.head)}`, unitsOf(drawn));
        series.about(headName(chosen, chosen.head), runs.map(({ run }) => run.slice(0, 8)).join("-and-"));
        if (drawn.length === 0)
            return void series.body.replaceChildren(note(`No run has ${metric.name} of this head.`));
        drawRuns(chart, drawn, { metric, head: chosen, rules });
    }
    const isOfSamples = isSampled(found.a) || isSampled(found.b),
        redrawList = () => drawList(list, { heads: found.heads, chosen, onPick, a, b, isOfSamples });
    function onPick(head) {
        chosen = head;
        keep({ cell: headName(head, head.head) });
        redrawList();
        drawSeries();
    }
    redrawList();
    drawDistances(picture, found.heads);
    await drawSeries();
    performance.mark("data");
    return null;
}
