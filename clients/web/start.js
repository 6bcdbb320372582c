// SPDX-License-Identifier: MIT
// Puts the first questions, and lets the browser paint the page's frame, in its theme, before D3 and the page's modules
// run, which takes longer than a frame. They are being loaded meanwhile (index.html). A tab that nobody looks at paints
// nothing, and does not wait.
import { askEarly } from "./api.js";
import { applyTheme } from "./settings.js";

const SCRIPTS = ["/assets/d3.min.js", "/assets/main.js"];
const LONGEST_MS = 100;
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
}

applyTheme();
askEarly();
requestAnimationFrame(() => setTimeout(begin));
setTimeout(begin, LONGEST_MS);
