// SPDX-License-Identifier: MIT
// Where one is, in the address: #/view?name=value. Everything that a view shows can be linked to.

export function here() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    return { view: path || "home", params: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a view; parameters without a value are left out. */
export function link(view, params) {
    const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
    const query = new URLSearchParams(given).toString();
    return `#/${view}${query ? "?" + query : ""}`;
}

export function go(view, params) {
    location.hash = link(view, params);
}

/** Changes parameters of the address without showing the view again; the window hears "address". */
export function keep(params) {
    const now = here();
    history.replaceState(null, "", link(now.view, { ...now.params, ...params }));
    dispatchEvent(new Event("address"));
}
