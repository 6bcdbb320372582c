// SPDX-License-Identifier: MIT
// Lets the browser paint the page's frame, in its theme, before anything else: then come the first questions, D3 and the
// page's modules, which take longer than a frame even to be parsed. A tab that nobody looks at paints nothing, and does
// not wait.
import { askEarly } from "./api.js";
import { applyTheme } from "./settings.js";

const SCRIPTS = ["/assets/d3.min.js", "/assets/main.js"];
const LONGEST_MS = 500;
let isBegun = false;

function begin() {
    if (isBegun) return;
    isBegun = true;
    askEarly();
    for (const src of SCRIPTS) {
        const script = document.createElement("script");
        script.src = src;
        script.async = false; // they run in this order
        document.head.append(script);
    }
}

applyTheme();
document.addEventListener("DOMContentLoaded", () => {
    if (document.hidden) return begin();
    requestAnimationFrame(() => setTimeout(begin));
    setTimeout(begin, LONGEST_MS);
});
