// SPDX-License-Identifier: MIT
// Numbers that trainings report (w.log), beside the metrics of attention: the loss and the learning rate of one run
// or several, each in a strip over the chart or map whose axis of time it shares. Places on the axis come from steps
// alone, so clocks that differ do no harm.
/* global d3 */
import { find } from "./api.js";
import { number, visible } from "./dom.js";
import { put, svg as newSvg } from "./figure.js";
import { leftRoom, nameLeft } from "./chart.js";

const isFinite = (x) => x !== null && Number.isFinite(x);
const IS_LOSS = /loss|nll|perplexity/i,
    IS_RATE = /^(lr|learning[_ ]rate)\b|(^|[-/])lr$/i;
/** Px of a strip, and between two. */
const TALL = { loss: 84, rate: 44 },
    GAP = 12,
    TOP = 6;
/** How often a view that is followed asks again for what is logged. */
export const LOG_MS = 5000;
/** ... and for all of it. */
const WHOLE_MS = 60000;
/** Losses of one chart, the first that were reported. */
const LOSSES = 3;
/** Values above zero that differ by more than this are drawn by their logarithm. */
const WIDE = 30;

/** The run whose log was asked for last: {job, run, of: the run that answered, asked: when the whole was, log}. */
let known = null;

/** The points of a log before a step, and those of an answer from there on. */
const joined = (before, from, { name, step, value }) => {
    const old = before.find((one) => one.name === name) ?? { step: [], value: [] },
        count = d3.bisectLeft(old.step, from);
    return { name, step: [...old.step.slice(0, count), ...step], value: [...old.value.slice(0, count), ...value] };
};

/**
 * The logged series of a run: [{name, step, value}]; [] where there are none, or no history. A run that is followed
 * is only asked for what is new, and now and then the whole, as older steps may be logged later.
 */
export async function loadLog(job, run) {
    const base = known?.job === job && known.run === run && performance.now() - known.asked < WHOLE_MS ? known : null,
        from = base ? d3.max(base.log, ({ step }) => step[step.length - 1]) : undefined,
        answer = await find("log", { job, run, from }).catch(() => null);
    if (!answer) return base?.log ?? [];
    if (base && answer.run !== base.of) {
        known = null;
        return loadLog(job, run);
    }
    const log = answer.series.map((one) => joined(base?.log ?? [], from ?? 0, one));
    known = { job, run, of: answer.run, asked: base?.asked ?? performance.now(), log };
    return log;
}

/** The part of a run's log that is drawn: {loss: [series], rate: [series]}; a log without a loss shows its first series. */
function chosenOf(log) {
    const rate = log.filter(({ name }) => IS_RATE.test(name)).slice(0, 1),
        others = log.filter((one) => !rate.includes(one)),
        losses = others.filter(({ name }) => IS_LOSS.test(name));
    return { loss: (losses.length ? losses : others.slice(0, 1)).slice(0, LOSSES), rate };
}

/** The losses of a log, the first that was reported first; without one its first series. */
export const lossOf = (log) => chosenOf(log).loss;

/**
 * Where on an axis a step is: `steps` are the last steps of windows and `places` where these end, both ascending.
 * Before, between and after them steps are evenly spread; a single window is taken to begin `every` places before its
 * end, with the step `first`.
 */
function placer(steps, places, every, first) {
    const known = steps.map((step, i) => [step, places[i]]).filter(([step], i) => i === 0 || step > steps[i - 1]);
    if (known.length === 0) return () => null;
    if (known.length === 1) known.unshift([Math.min(first ?? 0, known[0][0] - 1), known[0][1] - every]);
    const x = d3.scaleLinear(
        known.map(([step]) => step),
        known.map(([, place]) => place),
    );
    return (step) => x(step);
}

const firstStep = (logs) => d3.min(logs.flatMap(({ log }) => log.map(({ step }) => step[0])));

/** One for each run and name: {name, x, step, value, class}. */
function linesOf(logs, kind) {
    return logs.flatMap(({ log, place, name: run, class: line }) =>
        chosenOf(log)[kind].map((series, i) => ({
            name: [visible(series.name), run].filter(Boolean).join(", "),
            x: series.step.map(place),
            step: series.step,
            value: series.value,
            class: line ? `${line}${i ? " thin" : ""}` : ["line", "line third", "line second"][i],
        })),
    );
}

/** From which step on a series has had no finite number, or null. */
const brokenSince = ({ step, value }) => {
    const last = value.findLastIndex(isFinite);
    return last < value.length - 1 ? step[last + 1] : null;
};

function inside(line, [low, high]) {
    const at = d3.range(line.x.length).filter((i) => line.x[i] >= low && line.x[i] <= high);
    return { ...line, x: at.map((i) => line.x[i]), value: at.map((i) => line.value[i]) };
}

function scaleOf(lines, [bottom, top]) {
    const all = lines.flatMap((line) => line.value).filter(isFinite);
    if (all.length === 0) return null;
    const [low, high] = d3.extent(all),
        room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
    if (low > 0 && high / low > WIDE) return d3.scaleLog([low, high], [bottom, top]);
    return d3.scaleLinear([low - room, high + room], [bottom, top]);
}

function drawLine(group, line, xs, ys) {
    const isDrawn = (i) => isFinite(line.value[i]),
        path = d3
            .line()
            .defined((_, i) => isDrawn(i))
            .x((x) => xs(x))
            .y((_, i) => ys(line.value[i]));
    group.append("path").attr("class", line.class).attr("d", path(line.x));
    line.x.forEach((x, i) => {
        if (!isDrawn(i) || isDrawn(i - 1) || isDrawn(i + 1)) return;
        put(group, "circle", { class: `${line.class} alone`, r: 3, cx: xs(x), cy: ys(line.value[i]) });
    });
}

/** One strip between two heights of the picture. */
function drawStrip(root, lines, { xs, left, top, bottom, title }) {
    const shown = lines.map((line) => inside(line, xs.domain())),
        ys = scaleOf(shown, [bottom, top]),
        group = root.append("g").attr("class", "context"),
        broken = lines.map(brokenSince).filter((step) => step !== null);
    group.append("title").text(title);
    if (ys) {
        const ticks = ys.base ? ys.ticks(2).filter((t) => Math.log10(t) % 1 === 0) : ys.ticks(3),
            axis = d3.axisLeft(ys).tickValues(ticks.length > 1 ? ticks : ys.domain()).tickFormat(number);
        group.append("g").attr("transform", `translate(${left},0)`).call(axis);
        for (const line of shown) drawLine(group, line, xs, ys);
    }
    nameLeft(group, (top + bottom) / 2, title);
    put(group, "line", { class: "context-end", x1: left, x2: xs.range()[1], y1: bottom + GAP / 2, y2: bottom + GAP / 2 });
    if (broken.length)
        put(group, "text", { class: "over broken", x: xs.range()[1] - 4, y: top + 11, "text-anchor": "end" }, `not finite since step ${d3.min(broken)}`);
}

/** Px that the strips of these runs take over a picture. */
function stripsOf(logs) {
    return ["loss", "rate"]
        .map((kind) => ({ kind, lines: linesOf(logs, kind), tall: TALL[kind] }))
        .filter(({ lines }) => lines.length > 0);
}

const titleOf = (kind, lines) => {
    const names = [...new Set(lines.map((line) => line.name.split(", ")[0]))];
    return names.length === 1 && names[0].length < 15 ? names[0] : kind === "rate" ? "learning rate" : "loss";
};

/** Px on the left for the numbers of a strip. */
function roomOf(lines) {
    const scale = scaleOf(lines, [0, 1]);
    return scale ? leftRoom(scale, 3) : 0;
}

/** Makes room over a picture and draws the strips there. */
function drawOver(root, strips, { xs, left }) {
    const [x, y, width, height] = root.attr("viewBox").split(" ").map(Number),
        room = d3.sum(strips, ({ tall }) => tall + GAP) + TOP;
    root.attr("viewBox", `${x} ${y - room} ${width} ${height + room}`).attr("height", height + room);
    let top = y - room + TOP;
    for (const { kind, lines, tall } of strips) {
        drawStrip(root, lines, { xs, left, top, bottom: top + tall, title: titleOf(kind, lines) });
        top += tall + GAP;
    }
}

/** The lines at a place, in words: the newest value of each that is not after it. */
function sayAt(strips, x) {
    return strips.flatMap(({ lines }) =>
        lines.flatMap((line) => {
            const i = d3.bisectRight(line.x, x) - 1;
            return i < 0 ? [] : [`${line.name} ${isFinite(line.value[i]) ? number(line.value[i]) : "not finite"}`];
        }),
    );
}

/**
 * More options for drawChart. `runs`: {log, steps, places, name, class} of each run whose log stands over the chart:
 * `steps` and `places` are of its windows; `unit` of the axis, `every` of the windows.
 */
export function contextOptions(runs, { unit, every = 1 }) {
    const logs = runs
        .filter(({ log }) => log?.length)
        .map((one) => ({
            ...one,
            place: unit === "step" ? (step) => step : placer(one.steps, one.places, every, firstStep([one])),
        }));
    const strips = stripsOf(logs),
        all = strips.flatMap(({ lines }) => lines.flatMap((line) => line.x)).filter(isFinite);
    if (all.length === 0) return {};
    return {
        span: d3.extent(all),
        room: d3.max(strips, ({ lines }) => roomOf(lines)),
        over: ({ root, xs, left }) => drawOver(root, strips, { xs, left }),
        say: (x) => sayAt(strips, x),
    };
}

/** More options for the chart of a grid's windows. */
export const contextOfGrid = (grid) =>
    contextOptions([{ log: grid.log, steps: grid.windows.step, places: grid.windows.last }], grid);

/** A chart of the logs alone, of runs that have no other number in common: {log, name, class}. */
export function drawLogs(container, runs) {
    const options = contextOptions(
        runs.map((one) => ({ ...one, steps: [0, 1], places: [0, 1] })),
        { unit: "step" },
    );
    if (!options.span) return false;
    const width = Math.max(320, container.clientWidth || 640),
        left = 60,
        [low, high] = options.span,
        root = newSvg(width, 34, "what the runs logged"),
        xs = d3.scaleLinear(low < high ? [low, high] : [low - 1, high + 1], [left, width - 14]);
    root.append("g").call(d3.axisBottom(xs).ticks(Math.floor(width / 90)).tickFormat(String));
    options.over({ root, xs, left });
    container.replaceChildren(root.node());
    return true;
}
