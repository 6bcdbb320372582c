// SPDX-License-Identifier: MIT
// The page before the first job: the lines that attach one to this attnd.
import { get } from "./api.js";
import { h, note } from "./dom.js";

/** How watch() is told where this attnd is: `address="/run/user/1000/attnd"`. */
export function placeText({ directory, ingest }, host) {
    if (directory && ingest === `ipc://${directory}/ingest`) return `address=${JSON.stringify(directory)}`;
    const named = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
    return `endpoint=${JSON.stringify(ingest.replace(/^tcp:\/\/(\*|0\.0\.0\.0|\[::\])(?=:)/, `tcp://${named}`))}`;
}

const linesFor = (place) =>
    [
        "import attnd",
        "",
        `with attnd.watch(model, job="my-model"${place ? `, ${place}` : ""}) as w:`,
        "    for epoch in range(epochs):",
        "        train_one_epoch(model)",
        "        w.epoch_end()",
    ].join("\n");

function copyButton(code) {
    const button = h("button", { type: "button", onclick: copy }, "copy");
    async function copy() {
        try {
            await navigator.clipboard.writeText(code.textContent);
            button.textContent = "copied";
        } catch {
            getSelection().selectAllChildren(code); // browsers give no clipboard to pages of other machines
            button.textContent = "selected: press Ctrl+C";
        }
    }
    return button;
}

/** The place of attnd comes into the lines when it is known. */
export function noJobYet() {
    const code = h("code", {}, linesFor(""));
    get("version").then(
        (version) => (code.textContent = linesFor(placeText(version, location.hostname))),
        () => {}, // it does not answer: the frame of the page says so
    );
    return note(
        h("b", {}, "No job yet."),
        " attnd waits for one. Attach a training loop (pip install ./clients/python):",
        h("pre", { tabindex: 0, "aria-label": "how a job is attached" }, code),
        copyButton(code),
        h(
            "span",
            { class: "block" },
            "The job appears here with its first captured step, and is judged after 16 of them.",
        ),
    );
}
