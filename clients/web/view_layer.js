// SPDX-License-Identifier: MIT
// One layer: the maps of all heads, what they are together, how alike they are, how much each matters.
/* global d3 */
import { loadIntervals } from "./alerts_past.js";
import { alertsAt } from "./chart_marks.js";
import { h, layerName, note, number, percent } from "./dom.js";
import { figure, put, svg as newSvg } from "./figure.js";
import { COLUMNS, HeadsTable } from "./heads_table.js";
import { cellsShown, LayerHeads } from "./layer_heads.js";
import { LayerProjections } from "./layer_projections.js";
import { LayerSeries } from "./layer_series.js";
import { allHeads, overHeads } from "./load_maps.js";
import { scalePicker } from "./map_scale.js";
import { drawMap } from "./map_view.js";
import { headCount, layerPicker, metricPicker, openLayer, paddingPicker } from "./pickers.js";
import { go, link } from "./router.js";
import { loadRules } from "./rules.js";
import { mapStep } from "./run.js";
import { isSampled, rolesAt, sampleText, withWindow } from "./run_text.js";
import { firingOf } from "./verdict.js";
import { kept, paced, pacedUntilStored } from "./view_state.js";
import { ViewTime, wrongMoment } from "./view_time.js";

const AGGREGATES = [
    ["mean", "mean over heads"],
    ["max", "largest over heads"],
];
/** Bars of the importance; the table sorts the other heads by it too. */
const BARS = 32;

/** The scores of importance, the better one first: it is about the loss, and there when a training sends gradients. */
const SCORES = [
    ["importance_gradient", "importance_gradient: what the loss makes of it, norm 1"],
    ["importance", "importance: variance and entropy score, sums to 1"],
];
const scoreOf = (live) => SCORES.find(([name]) => live.heads?.[name]?.some(Number.isFinite));

/** `sick`: head to the rule of an alert that fires for it, which the score does not know. */
function drawImportance(frame, live, sick, onPick) {
    const [name, what] = scoreOf(live),
        values = live.heads[name];
    const how = name === "importance" ? "by their weights" : "by gradients",
        when = live.ofWindow?.includes(name) ? ", mean of the last window" : "";
    frame.setTitle("Importance of the heads", how + when);
    const all = d3
        .range(values.length)
        .filter((i) => Number.isFinite(values[i]))
        .sort((a, b) => values[b] - values[a]);
    const order = all.slice(0, BARS),
        share = d3.sum(order, (head) => values[head]) / d3.sum(all, (head) => values[head]);
    const width = 420,
        step = Math.max(13, Math.min(24, 300 / order.length)),
        below = [what],
        left = 70;
    if (all.length > BARS) below.push(`the first ${BARS} of ${all.length} heads, together ${percent(share)}`);
    if (order.some((head) => sick.has(head))) below.push("■ an alert fires for this head, whatever its score");
    const height = order.length * step + 14 + 16 * below.length;
    const root = newSvg(width, height, "importance of the heads"),
        x = d3.scaleLinear([0, d3.max(values) || 1], [left, width - 62]);
    order.forEach((head, i) => {
        const row = root
            .append("g")
            .attr("transform", `translate(0,${i * step})`)
            .on("click", () => onPick(head));
        put(row, "text", { x: left - 6, y: step / 2 + 4, "text-anchor": "end", class: sick.has(head) ? "sick" : null }, `${sick.has(head) ? "■ " : ""}head ${head}`)
            .append("title")
            .text(sick.get(head) ?? "");
        put(row, "rect", { class: "bar", x: left, y: 2, height: step - 4, width: Math.max(1, x(values[head]) - left) });
        put(row, "text", { class: "soft", x: x(values[head]) + 5, y: step / 2 + 4 }, number(values[head]));
    });
    below.forEach((text, i) =>
        put(root, "text", { class: "soft", x: left, y: order.length * step + 24 + 16 * i }, text),
    );
    frame.body.replaceChildren(root.node());
}

function drawSimilarity(frame, live) {
    const matrix = live?.similarity?.head_js;
    if (!matrix)
        return frame.body.replaceChildren(
            note(
                "Not measured. ",
                h("code", {}, "attnd --set metrics.similarity=true"),
                " compares each two heads of a layer; a pass of its own over the weights.",
            ),
        );
    const H = matrix.length;
    drawMap(
        frame.body,
        { rows: H, columns: H, values: matrix.flat(), queries: H, keys: H, labels: null },
        {
            size: 300,
            xName: "head",
            yName: "head",
            range: [0, Math.LN2],
            name: "how different heads are",
            describe: (r, c, x) =>
                `heads ${r} and ${c}: Jensen-Shannon divergence ${number(x)} nats, cosine ${number(live.similarity.head_similarity?.[r]?.[c])}`,
        },
    );
}

const NO_MAPS =
    "There is no map of this layer: none has come yet (those of a fleet are at its nodes), heads are split over ranks, or queries and keys are longer than metrics.qk_maps_max_size.";

const NO_PAST_MAP =
    "There is no map of this window: none of its messages gave one, or it is older than the maps that are kept (history.maps).";

function tableTitle(live, time) {
    if (time.last !== null) return "Numbers of the window";
    return live.past ? "Numbers of the last window" : "Newest numbers";
}

/** Keeps a map over all heads in its frame; the frame is there while there is such a map. */
function keepAggregate(run, map, [kind, frame], { time, isCurrent }) {
    frame.about(layerName(map), `${kind}-map`).hidden = true;
    const title = frame.querySelector("h2").textContent;
    return kept({
        body: frame.body,
        isCurrent,
        load: async () => {
            const found = await overHeads(run, map, kind, time.last);
            frame.hidden = !found;
            return found;
        },
        draw(found) {
            frame.setTitle(title, mapStep(found, null));
            drawMap(frame.body, found, { size: 330, name: `${kind} over the heads of ${layerName(map)}` });
        },
        nothing: () => "",
    });
}

export async function show(root, params, { store, isCurrent }) {
    const opened = await openLayer(root, params, { store, isCurrent });
    if (!opened) return null;
    const run = opened.run,
        where = { stack: opened.map.stack, layer: opened.map.layer, site: opened.map.site },
        toHead = (head) => link("head", { ...params, ...where, head }),
        openHead = (head) => go("head", { ...params, ...where, head }),
        name = layerName(where);
    const metric = store.metric(params.metric || "entropy_normalized"),
        time = new ViewTime({ run, metric, where, params, isCurrent, onTime: () => drawMoment() });
    let alerts = [];
    const loadAlerts = async () => (alerts = await loadIntervals(params.job, run.run).catch(() => alerts)),
        [map, rules] = await Promise.all([store.complete(opened.map), loadRules(params.job), loadAlerts(), time.load()]);
    if (!isCurrent()) return null;
    const heads = new LayerHeads(map, { toHead, openHead, isCurrent }),
        series = new LayerSeries(map, metric, (last) => time.goTo(last)),
        together = AGGREGATES.map(([kind, title]) => [kind, figure(title)]),
        similarity = figure("How different the heads are", "Jensen-Shannon divergence of their rows, nats").about(
            name,
            "similarity",
        );
    const importance = figure("Importance of the heads").about(name, "importance"),
        table = figure("", "", "wide").plain(),
        tableRows = new HeadsTable(table, toHead, (one) => store.metric(one));
    const newestMatrices = () => store.inMemory("live", { ...where, tier: "weights" }).catch(() => null),
        matrices = new LayerProjections(map, {
            run,
            load: async () => (await newestMatrices())?.[0],
            onPick: (last) => time.goTo(last),
            isCurrent,
        }),
        showMatrices = () => matrices.show(time.last !== null, { last: time.last, rules, alerts });
    root.append(
        ...[wrongMoment(time)].filter(Boolean),
        h(
            "div",
            { class: "controls" },
            layerPicker(run, map),
            metricPicker(run, metric.name, (value) => go("layer", { ...params, ...where, metric: value })),
            scalePicker(() => everyMap("now")),
            paddingPicker(params, () => everyMap("now")),
            time.element,
        ),
        h(
            "div",
            { class: "stack" },
            heads.frame,
            series.frame,
            h(
                "div",
                { class: "grid" },
                together.map(([, frame]) => frame),
                similarity,
                importance,
            ),
            table,
            matrices.element,
        ),
    );
    const maps = kept({
        body: heads.frame.body,
        isCurrent,
        load: () => allHeads(run, { ...where, heads: headCount(map) }, cellsShown(headCount(map)), time.last),
        draw: (found) => heads.draw(found, numbers),
        nothing: () => (time.last === null ? NO_MAPS : NO_PAST_MAP),
    });
    const all = [maps, ...together.map((one) => keepAggregate(run, map, one, { time, isCurrent }))],
        everyMap = (what) => Promise.all(all.map((one) => one[what]()));

    let numbers = run.newest(map),
        roles = null, // the answer
        turn = 0;
    /** The numbers of the moment: of the newest message, or of the window. */
    async function loadNumbers() {
        const mine = ++turn,
            found =
                time.last === null
                    ? run.newest(map)
                    : { ...(await run.numbersAt(COLUMNS, where, time.moment)), when: `window of ${time.text()}` };
        if (!isCurrent() || mine !== turn) return;
        numbers = found;
        heads.tell(numbers);
        drawNumbers();
        const isWanted = () => isCurrent() && mine === turn;
        if ((await run.addSample(found, where, time.last, isWanted)) && isWanted()) drawNumbers();
    }
    function drawNumbers() {
        if (!numbers) return;
        const summary = store.window(where, run.run),
            live = withWindow(numbers, summary);
        importance.hidden = !scoreOf(live);
        if (!importance.hidden) drawImportance(importance, live, firingOf(map, alertsAt(alerts, time.step)), openHead);
        tableRows.draw(live, summary);
        table.setTitle(tableTitle(live, time), [live.past ? live.when : run.when(live), sampleText(live)].filter(Boolean).join(", "));
        similarity.hidden = Boolean(live.past);
        if (!live.past) drawSimilarity(similarity, live);
    }
    async function loadRoles() {
        roles = await run.roles(where);
        if (isCurrent()) drawRoles();
    }
    function drawRoles() {
        heads.roles = rolesAt(roles, time.step);
        heads.tell(numbers);
        tableRows.drawRoles(heads.roles);
    }
    function drawSeries() {
        series.draw(time.grid, time.last, { rules, alerts });
    }
    const rolesSoon = pacedUntilStored(loadRoles),
        errorsSoon = pacedUntilStored(() => series.load(run));
    const alertsSoon = pacedUntilStored(async () => {
        await loadAlerts();
        if (!isCurrent()) return;
        drawSeries();
        drawNumbers();
    });
    /** Another moment, or more windows. */
    async function drawMoment() {
        drawSeries();
        drawRoles();
        await Promise.all([loadNumbers(), everyMap("now"), showMatrices()]);
    }
    const coming = [everyMap("now"), run.load(COLUMNS, where).then(loadNumbers), loadRoles(), series.load(run), showMatrices()];
    drawNumbers();
    drawSeries();
    if (isSampled(map)) store.loadWindow(where);
    await Promise.all(coming);
    performance.mark("data");
    const numbersSoon = paced(loadNumbers),
        isOurs = (one) => layerName(one) === name && one.run === run.run;
    const ends = [
        store.on("live", (live) => {
            if (!isOurs(live) || time.last !== null) return;
            numbersSoon();
            everyMap("soon");
        }),
        store.on("weights", (live) => isOurs(live) && showMatrices()),
        store.on("summary", (summary) => {
            if (!isOurs(summary)) return;
            time.reloadSoon();
            rolesSoon();
            errorsSoon();
            numbersSoon();
        }),
        store.on("alerts", alertsSoon),
        () => numbersSoon.stop(),
        rolesSoon.stop,
        errorsSoon.stop,
        () => alertsSoon.stop(),
        () => everyMap("stop"),
        () => time.stop(),
        () => heads.stop(),
    ];
    return () => ends.forEach((end) => end());
}
