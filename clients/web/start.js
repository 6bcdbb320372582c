// SPDX-License-Identifier: MIT
// Lets the browser paint the page's frame, in its theme, before anything else: then come D3, the page's modules, which take
// longer than a frame even to be parsed, and the first questions. A tab that nobody looks at paints nothing, and does not
// wait. Settings are read as late as the first frame allows: reading waits for the browser, which is busy before.
import { askEarly } from "./api.js";
import { here } from "./router.js";
import { applyTheme, readSettings } from "./settings.js";

const SCRIPTS = ["/assets/d3.min.js", "/assets/main.js"];
const LONGEST_MS = 500;
let isBegun = false;

function begin() {
    if (isBegun) return;
    isBegun = true;
    for (const src of SCRIPTS) {
        const script = document.createElement("script");
        script.src = src;
        script.async = false; // they run in this order
        document.head.append(script);
    }
    askEarly(here()).catch(() => {});
    new Date().toLocaleTimeString([], { hour: "2-digit" }); // the first takes 15 ms, which are free until the scripts have come
}

requestAnimationFrame(() => {
    readSettings();
    applyTheme();
});
document.addEventListener("DOMContentLoaded", () => {
    if (document.hidden) return begin();
    new PerformanceObserver(begin).observe({ type: "paint", buffered: true });
    setTimeout(begin, LONGEST_MS);
});
