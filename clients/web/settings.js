// SPDX-License-Identifier: MIT
// The user's preferences, kept in this browser.

const KEY = "attnd-settings";
const DEFAULTS = { colorMap: "viridis", theme: "auto", range: "auto", scale: "own" };
const listeners = new Set();

export const settings = { ...DEFAULTS };

/** Takes what is kept, once the page needs it: everything waits until the browser has answered. */
export function readSettings() {
    try {
        Object.assign(settings, JSON.parse(localStorage.getItem(KEY)));
    } catch {
        /* what is there is not ours */
    }
}

export function set(name, value) {
    settings[name] = value;
    try {
        localStorage.setItem(KEY, JSON.stringify(settings));
    } catch {
        /* private windows keep nothing */
    }
    for (const listener of [...listeners]) listener(name);
}

/** Calls back with the name of what changed. Returns how to stop. */
export function onChange(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
export function applyTheme() {
    const theme = settings.theme === "auto" ? (dark.matches ? "dark" : "light") : settings.theme;
    document.documentElement.dataset.theme = theme;
}
dark.addEventListener("change", applyTheme);
