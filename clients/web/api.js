// SPDX-License-Identifier: MIT
// Questions to attnd. A token, where one is asked for, is kept for as long as the tab lives: not as a cookie, which the
// browser would also send to other ports of the host, and so to other people's servers there.

export class ApiError extends Error {
    constructor(status, code, message) {
        super(message);
        this.status = status;
        this.code = code;
    }
}

const TOKEN = "attnd-token";
export const token = () => sessionStorage.getItem(TOKEN) || "";

/** A link may bring it, `http://host:5580/#token=TOKEN`: in a part of the address that no request contains. */
function takeToken() {
    const found = location.hash.match(/^#token=([^&]+)$/);
    if (!found) return;
    sessionStorage.setItem(TOKEN, found[1]);
    history.replaceState(null, "", location.pathname);
}

let asking = null; // {promise, resolve} while a token is waited for
const askers = new Set();

/** Calls back with true when a token is needed (again, when what was given is refused), with false when there is one. */
export function onToken(callback) {
    askers.add(callback);
}

/** Every question waits here until somebody gives a token. */
function needToken() {
    if (!asking) {
        asking = {};
        asking.promise = new Promise((resolve) => (asking.resolve = resolve));
        for (const ask of askers) ask(true);
    }
    return asking.promise;
}

export function giveToken(text) {
    sessionStorage.setItem(TOKEN, text.trim());
    asking?.resolve();
    asking = null;
    for (const ask of askers) ask(false);
}

/** Done at once, or when a token that is waited for has been given. */
export const allowed = async () => asking?.promise;

/** How far attnd's clock is ahead of this one, in ms; what is less than its resolution is none. */
let ahead = 0;
function compareClocks(date) {
    const difference = date ? Date.parse(date) - Date.now() : 0;
    ahead = Math.abs(difference) > 2000 ? difference : 0;
}

/** The time by attnd's clock, in ms. */
export const now = () => Date.now() + ahead;

export function address(path, params = {}) {
    const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
    const query = new URLSearchParams(given).toString();
    return `/api/v1/${path}${query ? "?" + query : ""}`;
}

export const ask = (url, used, options = {}) =>
    fetch(url, { headers: used ? { Authorization: `Bearer ${used}` } : {}, ...options });

/** At most so many runs are known, however many begin while the page is open. */
export const RUNS_KEPT = 500;
/** So long an answer that was asked for early may stand for one that is asked for now. */
const FRESH_MS = 5000;

/**
 * The run that the name of a job means, of those in memory (job maps) or else in the history, the newest first: the newest
 * that is active, or else the one that was heard of last, as attnd chooses (PROTOCOL.md, section 4); undefined without any.
 */
export function meantOf(job, known, past) {
    const heard = ({ heard_ns, last_ns }) => heard_ns ?? last_ns,
        [runs = []] = [known, past].map((list) => list.filter((run) => run.job === job)).filter((list) => list.length);
    return runs.find(({ state }) => state === "active") ?? runs.reduce((last, run) => (heard(run) > heard(last) ? run : last), runs[0]);
}

/** Every view needs these first. */
const FIRST = [["jobs"], ["runs", { limit: RUNS_KEPT, or_null: 1 }], ["alerts", { limit: 1, or_null: 1 }], ["metrics"]];

/** The question for the numbers of a metric over a run, in at most `points` windows; `stack`, `layer` and `site` ask for one layer. */
export const gridQuestion = ({ job, run, stack, layer, site, metric, statistic, points = 400 }) =>
    ["grid", { job, run, stack, layer, site, metric, statistic, points, packed: 1, or_null: 1 }];

/**
 * Puts the first questions before the page's modules run: start.js is another script, so they are kept in a global. Done when
 * all are put: that for the grid of an overview has to know its run.
 */
export async function askEarly({ view, params: { job, run, metric = "entropy_normalized", statistic = "mean" } }) {
    takeToken();
    const used = token(),
        early = (globalThis.attndEarly = new Map());
    const put = ([path, params]) => {
        const url = address(path, params),
            response = ask(url, used);
        response.catch(() => {}); // get() says so
        early.set(url, { used, response, at: performance.now() });
        return response;
    };
    const answers = FIRST.map(put);
    if (view !== "overview" || !job) return;
    const [jobs, past] = await Promise.all(answers.slice(0, 2).map(async (response) => (await response).clone().json())),
        meant = meantOf(job, jobs, past?.runs ?? []);
    put(gridQuestion({ job, run: run || meant.run, metric, statistic }));
}

/** The response to a question that was put early with this token, once. */
function takeEarly(url, used) {
    const early = globalThis.attndEarly?.get(url);
    globalThis.attndEarly?.delete(url);
    return early?.used === used && performance.now() - early.at < FRESH_MS ? early.response : null;
}

/** Throws what attnd says why not. */
async function answerOf(response) {
    const body = await response.json().catch(() => null);
    if (response.ok) return body;
    throw new ApiError(response.status, body?.error?.code ?? "http", body?.error?.message ?? `HTTP ${response.status}`);
}

const unreachable = () =>
    new ApiError(0, "unreachable", "attnd does not answer. Is it running? The page continues by itself when attnd is back.");

/** Changes something; the answer as of get(). */
export async function post(path, what) {
    const used = token(),
        headers = { "Content-Type": "application/json", "X-Attnd": "1", ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    const response = await fetch(address(path), { method: "POST", headers, body: JSON.stringify(what) }).catch(() => {
        throw unreachable();
    });
    return answerOf(response);
}

/** The answer; throws ApiError with attnd's reason, code "unreachable" when there is no attnd. */
export async function get(path, params = {}) {
    const used = token(),
        url = address(path, params);
    let response;
    try {
        response = await (takeEarly(url, used) ?? ask(url, used));
    } catch {
        throw unreachable();
    }
    compareClocks(response.headers.get("Date"));
    if (response.status === 401) {
        if (used === token()) await needToken();
        return get(path, params);
    }
    return answerOf(response);
}

/** The answer, or null when what is asked for is not there, or there is no history. */
export const find = (path, params = {}) => get(path, { ...params, or_null: 1 });

/** Without a call for each byte: maps are long. */
export function bytes(base64) {
    const text = atob(base64),
        found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
    return found.buffer;
}
export const floats = (base64) => new Float32Array(bytes(base64));
export const doubles = (base64) => new Float64Array(bytes(base64));
/** u64 as numbers: exact up to 2^53. */
export const integers = (base64) => Array.from(new BigUint64Array(bytes(base64)), Number);
