// SPDX-License-Identifier: MIT
// The star, name, tags and notes of a run; a dialog changes them, and deletes the run.
import { post } from "./api.js";
import { errorNote, h, say, visible } from "./dom.js";
import { go, here } from "./router.js";

const titleOf = (run) => `${run.job} / ${run.run.slice(0, 8)}`;

/** "12.3 MB" of the history. */
function bytesText(bytes) {
    if (bytes === null) return "more than can be counted in time";
    const unit = ["kB", "MB", "GB", "TB"].findIndex((_, i) => bytes < 1000 ** (i + 2)),
        number = bytes / 1000 ** (unit + 1);
    return `${number < 10 ? number.toFixed(1) : Math.round(number)} ${["kB", "MB", "GB", "TB"][unit]}`;
}

const change = async (store, { job, run }, what) => store.takeRecord(await post("run/set", { job, run, ...what }));

/** Buttons: the star of a run, and one that opens its dialog. A refusal is said there. */
export function cardButtons(store, run) {
    const star = h("button", { type: "button", class: "star", "aria-label": `star ${titleOf(run)}` }),
        edit = h("button", { type: "button", class: "edit", "aria-label": `edit ${titleOf(run)}`, title: "name, tags, notes, archive, delete" }),
        has = () => store.recordOf(run)?.star === true;
    star.addEventListener("click", () => change(store, run, { star: !has() }).catch((error) => openCard(store, run, error)));
    edit.addEventListener("click", () => openCard(store, run));
    return { star, edit, draw: () => star.setAttribute("aria-pressed", String(has())) };
}

export const tagNodes = (tags = []) => tags.map((tag) => h("span", { class: "tag" }, visible(tag)));

/** The head of a run's page: buttons, its name, tags and notes. */
export function cardLine(store, run) {
    const { star, edit, draw } = cardButtons(store, run),
        said = h("div", { class: "said" }),
        line = h("div", { class: "card-line" }, star, edit, said);
    line.draw = () => {
        const { name, tags, notes } = store.recordOf(run) ?? {};
        draw();
        said.replaceChildren(name ? h("b", {}, visible(name)) : h("span", { class: "soft" }, titleOf(run)), ...tagNodes(tags), notes ? h("p", { class: "notes" }, ...lines(notes)) : "");
    };
    line.draw();
    return line;
}

/** Each line of a text, shown as text. */
const lines = (text) => text.split("\n").flatMap((line, i) => [...(i ? [h("br")] : []), line && visible(line)]);

function openCard(store, run, error = null) {
    const { name = "", notes = "", tags = [], archived = false } = store.recordOf(run) ?? {},
        fields = {
            name: h("input", { value: name, maxlength: 200, autocomplete: "off" }),
            tags: h("input", { value: tags.join(" "), placeholder: "words between blanks", autocomplete: "off" }),
            notes: h("textarea", { rows: 6, maxlength: 8192 }, notes),
            archived: h("input", { type: "checkbox", checked: archived }),
        },
        says = h("div", { class: "says", role: "status" }, error ? errorNote(error) : ""),
        button = (text, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, text),
        buttons = h("p", { class: "buttons" }, h("button", {}, "save"), button("cancel", () => dialog.close()), button("delete …", () => askToDelete(), { class: "delete" })),
        field = (label) => h("label", {}, label, fields[label]),
        form = h("form", {}, h("h2", {}, titleOf(run)), field("name"), field("tags"), field("notes"), h("label", { class: "tick" }, fields.archived, "archived: left out of the list"), says, buttons),
        dialog = h("dialog", { class: "card", "aria-label": `edit ${titleOf(run)}` }, form);

    const trying = (what) => what().catch((why) => says.replaceChildren(errorNote(why)));
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        const words = fields.tags.value.split(/[\s,]+/).filter(Boolean);
        trying(async () => {
            await change(store, run, { name: fields.name.value, tags: words, notes: fields.notes.value, archived: fields.archived.checked });
            dialog.close();
        });
    });

    /** Says what it frees, and asks once more. */
    const askToDelete = () =>
        trying(async () => {
            const { bytes } = await post("run/delete", { job: run.job, run: run.run, dry: true }),
                sure = button("delete it", () => trying(erase), { class: "delete" });
            says.replaceChildren(h("p", {}, `This deletes the run, with its windows, maps, alerts and losses, and frees ${bytesText(bytes)} of the history. It cannot be undone.`));
            buttons.replaceChildren(sure, button("keep it", () => dialog.close(), { autofocus: true }));
            buttons.lastChild.focus();
        });
    async function erase() {
        const { bytes } = await post("run/delete", { job: run.job, run: run.run }),
            text = `Deleted: ${bytesText(bytes)} are free.`;
        say(text);
        form.replaceChildren(h("h2", {}, titleOf(run)), h("p", {}, text), h("p", { class: "buttons" }, button("close", () => dialog.close())));
        form.querySelector("button").focus();
        store.dropRun(run);
        if (here().view !== "home") go("home", {});
    }
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    if (!error) fields.name.focus();
}
