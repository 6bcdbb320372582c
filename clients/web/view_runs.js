// SPDX-License-Identifier: MIT
// Two runs side by side: which heads differ most, where they are in the model, and both over time.
import { doubles, find, integers } from "./api.js";
import { drawChart } from "./chart.js";
import { byLayer, errorNote, h, headName, layerName, note, number, select } from "./dom.js";
import { figure } from "./figure.js";
import { drawMap } from "./map_view.js";
import { metricPicker, unitOf } from "./pickers.js";
import { go, here, keep, link } from "./router.js";

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
            mean: Array.from(doubles(answer.values.mean)),
            unit: answer.unit,
        }
    );
}

/** What the axis counts; a warning where it is not the same in both runs. */
const unitsOf = (a, b) =>
    !a || !b || a.unit === b.unit
        ? "mean of each window"
        : `mean of each window; A counts in ${a.unit}s, B in ${b.unit}s: the two cannot be laid side by side`;

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

export async function show(root, params, { store, isCurrent }) {
    const all = store.jobNames().flatMap((job) => store.runsOf(job)),
        name = (run) => `${run.job} / ${run.run.slice(0, 8)}`,
        key = (run) => `${run.job}/${run.run}`;
    if (all.length < 2)
        return void root.append(
            note("One run is known. A second one, of the same job or another, can be compared with it here."),
        );
    const at = (text) => all.find((run) => key(run) === text),
        others = (one) => all.filter((run) => key(run) !== key(one));
    const ofJob = all.filter((run) => run.job === params.job);
    const a = at(params.a) ?? ofJob.find((run) => run.run === params.run) ?? ofJob[0] ?? all[0],
        b = at(params.b) ?? others(a).find((run) => run.job === a.job) ?? others(a)[0];
    const metric = store.metric(params.metric || "entropy_normalized"),
        options = all.map((run) => [key(run), name(run)]),
        change = (more) => go("runs", { ...here().params, ...more });
    root.append(
        h(
            "div",
            { class: "controls" },
            select("A", options, key(a), (value) => change({ a: value })),
            select("B", options, key(b), (value) => change({ b: value })),
            metricPicker(store, metric.name, (value) => change({ metric: value })),
        ),
    );
    const found = await find("compare", { job: a.job, run: a.run, job_b: b.job, run_b: b.run, limit: 20000 }).catch(
        (error) => ({ error }),
    );
    if (!isCurrent()) return null;
    if (!found || found.error)
        return void root.append(
            found?.error
                ? errorNote(found.error)
                : note(
                      "One of them has nothing in the history: its first window has not closed, or its histograms have been thinned out (history.states).",
                  ),
        );
    if (found.heads.length === 0) return void root.append(note("The two runs have no head in common."));
    const list = figure("Heads, most different first", `${found.heads.length} in both`).plain(),
        picture = figure("Where they are", "distance: mean Jensen-Shannon divergence of the metrics"),
        series = figure(metric.name, "", "wide");
    root.append(h("div", { class: "stack" }, series, h("div", { class: "grid" }, list, picture)));
    let chosen = found.heads.find((head) => headName(head, head.head) === params.cell) ?? found.heads[0];

    async function drawSeries() {
        const [left, right] = await Promise.all([
            loadSeries(a.job, a.run, chosen, metric.name),
            loadSeries(b.job, b.run, chosen, metric.name),
        ]).catch(() => [null, null]);
        if (!isCurrent()) return;
        series.setTitle(`${metric.name} of ${headName(chosen, chosen.head)}`, unitsOf(left, right));
        series.about(headName(chosen, chosen.head), `${a.run.slice(0, 8)}-and-${b.run.slice(0, 8)}`);
        const lines = [
            { name: `A: ${name(a)}`, found: left, class: "line" },
            { name: `B: ${name(b)}`, found: right, class: "line second" },
        ]
            .filter(({ found }) => found?.last.length)
            .map(({ found, ...line }) => ({ ...line, x: found.last, values: found.mean }));
        if (lines.length === 0) series.body.replaceChildren(note(`Neither run has ${metric.name} of this head.`));
        else
            drawChart(series.body, {
                unit: (left ?? right).unit,
                yName: unitOf(metric),
                domain: metric.domain,
                lines,
                name: "both runs",
            });
    }
    function drawList() {
        const most = (head) => Object.entries(head.metrics).sort(([, p], [, q]) => q.js - p.js)[0];
        const row = (head) => {
            const [which, numbers] = most(head) ?? ["–", {}];
            return h(
                "tr",
                { class: head === chosen ? "chosen" : null },
                h(
                    "td",
                    {},
                    h(
                        "button",
                        {
                            type: "button",
                            onclick: () => {
                                chosen = head;
                                keep({ cell: headName(head, head.head) });
                                drawList();
                                drawSeries();
                            },
                        },
                        headName(head, head.head),
                    ),
                ),
                h("td", {}, number(head.distance)),
                h("td", { class: "text" }, which),
                h("td", {}, number(numbers.mean_a)),
                h("td", {}, number(numbers.mean_b)),
                h("td", {}, h("a", { href: toHead(a, head) }, "A"), " ", h("a", { href: toHead(b, head) }, "B")),
            );
        };
        list.body.replaceChildren(
            h(
                "div",
                { class: "scroll" },
                h(
                    "table",
                    {},
                    h(
                        "thead",
                        {},
                        h(
                            "tr",
                            {},
                            h("th", { class: "text" }, "head"),
                            h("th", {}, "distance"),
                            h("th", { class: "text" }, "most by"),
                            h("th", {}, "mean A"),
                            h("th", {}, "mean B"),
                            h("th", {}, "open"),
                        ),
                    ),
                    h("tbody", {}, found.heads.slice(0, SHOWN).map(row)),
                ),
            ),
        );
    }
    drawList();
    drawDistances(picture, found.heads);
    await drawSeries();
    performance.mark("data");
    return null;
}
