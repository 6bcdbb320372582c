// SPDX-License-Identifier: MIT
// Questions to attnd. A token, where one is asked for, is kept for as long as the tab lives.

export class ApiError extends Error {
    constructor(status, code, message) {
        super(message);
        this.status = status;
        this.code = code;
    }
}

const TOKEN = "attnd-token";
export const token = () => sessionStorage.getItem(TOKEN) || "";

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

/** The answer; throws ApiError with attnd's reason, code "unreachable" when there is no attnd. */
export async function get(path, params = {}) {
    const used = token();
    let response;
    try {
        response = await fetch(address(path, params), { headers: used ? { Authorization: `Bearer ${used}` } : {} });
    } catch {
        throw new ApiError(
            0,
            "unreachable",
            "attnd does not answer. Is it running? The page continues by itself when attnd is back.",
        );
    }
    compareClocks(response.headers.get("Date"));
    if (response.status === 401) {
        if (used === token()) await needToken();
        return get(path, params);
    }
    const body = await response.json().catch(() => null);
    if (response.ok) return body;
    throw new ApiError(response.status, body?.error?.code ?? "http", body?.error?.message ?? `HTTP ${response.status}`);
}

/** The answer, or null when what is asked for is not there, or there is no history. */
export const find = (path, params = {}) => get(path, { ...params, or_null: 1 });

function bytes(base64) {
    return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
}
export const floats = (base64) => new Float32Array(bytes(base64));
export const doubles = (base64) => new Float64Array(bytes(base64));
/** u64 as numbers: exact up to 2^53. */
export const integers = (base64) => Array.from(new BigUint64Array(bytes(base64)), Number);
