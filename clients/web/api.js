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

let asking = null;
function askToken() {
    asking ||= Promise.resolve().then(() => {
        const given = prompt("attnd asks for the token of http.token_file:");
        if (given) sessionStorage.setItem(TOKEN, given.trim());
        asking = null;
        return Boolean(given);
    });
    return asking;
}

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
            "attnd does not answer. Is it running? The page goes on by itself when it is back.",
        );
    }
    if (response.status === 401 && (used !== token() || (await askToken()))) return get(path, params);
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
