// SPDX-License-Identifier: MIT
// A run in words: its name, its start, the time since its last message, what its heads do since when, and how exact the
// means are.
import { now } from "./api.js";
import { number } from "./dom.js";

/** A run that goes on is called silent after so many of its own intervals, and never before so many ms. */
const INTERVALS = 3,
    SILENT_MS = 30000;

const DAY_MS = 86400000;

/** Metrics that are an extreme of the rows that a message has. */
const EXTREMES = ["min", "max", "max_abs_logit", "qk_cosine_max"];

/** Whether the rows of a live or a summary map are a sample. */
export const isSampled = (map) => (map?.rows_of ?? 0) > map?.rows;

/** "± 0.012" */
export const plusMinus = (error) => `± ${number(Number(error.toPrecision(2)))}`;

/**
 * "± 0.012", an upper bound of the standard error of a mean over `rows` rows whose standard deviation is `std`: strata make
 * it smaller (KERNELS.md); "" where all rows were taken.
 */
export const errorText = (map, std, rows) =>
    isSampled(map) && Number.isFinite(std) && rows > 0 ? plusMinus(std / Math.sqrt(rows)) : "";

/** The rows of each head in a live map; NaN of matrices. */
const headRows = (live) => live.rows / live.shape?.[1];

const count = (rows) => Math.round(rows).toLocaleString("en");

/** "256 of about 8,192 query rows" of a head, where the newest message or the past window has a sample of them; else "". */
export function sampleText(live) {
    const of = live.past ? live.sample : live;
    return isSampled(of) ? `${count(headRows(of))} of about ${count((headRows(of) * of.rows_of) / of.rows)} query rows` : "";
}

/**
 * The newest numbers of a layer. Where the rows are a sample, what needs all rows is the mean over the last window, and
 * `ofWindow` names it. `summary`: of that window, if it is known.
 */
export function withWindow(live, summary) {
    if (!isSampled(live) || live.past || !summary) return live;
    const has = (values) => values?.some(Number.isFinite),
        means = Object.entries(summary.heads).map(([name, found]) => [name, found?.mean]),
        more = means.filter(([name, mean]) => has(mean) && !has(live.heads[name]));
    return { ...live, heads: { ...live.heads, ...Object.fromEntries(more) }, ofWindow: more.map(([name]) => name) };
}

/**
 * A number of a head as withWindow() gives it, { text, about, title }: with its standard error, by the deviation of the
 * rows in the last window (of a past one in its own), or `about` says what else it is, where the rows are a sample.
 */
export function newestText(live, summary, { name, per }, head) {
    const value = (live.heads?.[name] ?? live.spectrum?.[name])?.[head],
        text = number(value),
        { past, sample } = live,
        of = past ? sample : live,
        stat = (past ? of : summary)?.heads?.[name],
        rows = past ? stat?.count[head] : headRows(live);
    if (past && rows && !of.rows)
        return { text, about: "", title: `of ${count(rows)} rows; it is not known any more whether these are all` };
    if (!isSampled(of) || !Number.isFinite(value)) return { text, about: "", title: "" };
    if (live.ofWindow?.includes(name))
        return { text, about: "last window", title: "mean of the last window: the newest message, of sampled rows, has none" };
    const error = per === "row" ? errorText(of, stat?.std?.[head], rows) : "",
        about = EXTREMES.includes(name) ? "of the rows taken" : "",
        bound = `±: standard error, at most${past ? "" : ", by the deviation in the last window"}`,
        what = error ? bound : about || (past ? "" : "estimated");
    return { text: error ? `${text} ${error}` : text, about, title: what && `${what}: ${sampleText(live)}` };
}

/** A moment in the clock and the calendar of who looks: the time alone of the last day, and the date before it. */
export function when(ms) {
    const date = new Date(ms),
        time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    if (now() - ms < DAY_MS && date.getDate() === new Date(now()).getDate()) return time;
    return `${date.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })} ${time}`;
}

/** Whether a run has ended, as far as is known. */
export const isOver = (run) => !["active", "idle", "no_news"].includes(run?.state);

/** When a run began, or "" when that is not known: without a history nobody keeps it. */
export const startOf = (run) => (run.first_ns ? when(run.first_ns / 1e6) : "");

/** "9e9c09ae, 14:05": the digits, and when it began. */
export const runText = (run) => [run.run.slice(0, 8), startOf(run)].filter(Boolean).join(", ");

/** "40 s", "12 min", "3 h", "2 d" */
export function span(ms) {
    const s = ms / 1000;
    return s < 100
        ? `${Math.round(s)} s`
        : s < 6000
          ? `${Math.round(s / 60)} min`
          : s < 172800
            ? `${Math.round(s / 3600)} h`
            : `${Math.round(s / 86400)} d`;
}

/** "failed: ValueError: bad loss, at step 120" of a run that an exception ended, else "". */
export const failureOf = (run) => (run?.state === "failed" ? `failed: ${run.failure?.sentence ?? "its exception is not known"}` : "");

/**
 * "no news for 31 s" of a run without a sign of life; "last heard 40 s ago" of one that has been silent for longer than it
 * usually is; else "". `run.told_ms`: when its state came.
 */
export function silenceOf(run, heard) {
    if (run?.state === "no_news") return `no news for ${span(1000 * (run.silent_s ?? 0) + (run.told_ms ? now() - run.told_ms : 0))}`;
    if (isOver(run) || !heard) return "";
    const ms = now() - heard.at;
    return ms > Math.max(SILENT_MS, INTERVALS * (heard.interval ?? 0)) ? `last heard ${span(ms)} ago` : "";
}

/** "step 290", and "epoch 3" where windows are epochs. */
const windowText = (unit, { epoch, step }) => (unit === "epoch" ? `epoch ${epoch}` : `step ${step}`);

/** "since step 290" of a head of the answer of roles; one that nobody saw emerge may have had its role earlier. */
const roleSince = ({ emerged, spans }, unit) =>
    `since ${windowText(unit, spans.at(-1).since)}${emerged ? "" : " or before"}`;

/**
 * The roles of a layer's heads at a step, null: the newest: head -> {role, since}; `since` is "" where nobody saw it
 * begin. `answer` of roles, or null.
 */
export function rolesAt(answer, step) {
    const spanOf = ({ spans }) => (step === null ? spans.at(-1) : spans.find((one) => one.since.step <= step && step <= one.until.step)),
        heads = (answer?.heads ?? []).map((found) => [found, spanOf(found)]).filter(([, one]) => one);
    const since = (found, one) => (found.emerged && one === found.spans.at(-1) ? roleSince(found, answer.unit) : "");
    return new Map(heads.map(([found, one]) => [found.head, { role: one.role, since: since(found, one) }]));
}

/** "induction since step 290 (0.83 of its weight)" */
export function roleText(found, unit) {
    const { role, evidence, spans } = found,
        { windows, others } = spans.at(-1),
        short = (value) => number(Number(value.toPrecision(2))),
        numbers = evidence.map(({ metric, value }) =>
            metric === role ? `${short(value)} of its weight` : `${metric} ${short(value)}`,
        );
    const because = numbers.length ? ` (${numbers.join(", ")})` : "",
        share = others ? `, in ${windows} of ${windows + others} windows` : "";
    return `${role} ${roleSince(found, unit)}${because}${share}`;
}

/** "first_token until step 120, mixed until step 280"; null without earlier roles. */
export function rolesBefore({ changes, spans }, unit) {
    const before = spans.slice(0, -1).map(({ role, until }) => `${role} until ${windowText(unit, until)}`);
    return before.length ? (changes > before.length ? "…, " : "") + before.join(", ") : null;
}
