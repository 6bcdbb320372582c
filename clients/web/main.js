// SPDX-License-Identifier: MIT
// The frame of the page: pickers, tabs, the state of the connection; shows the view that the address names.
import { COLOR_MAPS } from "./colors.js";
import { errorNote, h, hideTooltip, note } from "./dom.js";
import { Events } from "./events.js";
import { go, here, link } from "./router.js";
import { applyTheme, onChange, set, settings } from "./settings.js";
import { Store } from "./store.js";
import { show as head } from "./view_head.js";
import { show as layer } from "./view_layer.js";
import { show as model } from "./view_model.js";
import { show as overview } from "./view_overview.js";
import { show as runs } from "./view_runs.js";
import { show as tokens } from "./view_tokens.js";

const VIEWS = {
    overview: { title: "Overview", show: overview },
    layer: { title: "Layer", show: layer },
    head: { title: "Head", show: head },
    model: { title: "Model", show: model },
    tokens: { title: "Tokens", show: tokens },
    runs: { title: "Runs", show: runs },
};
/** What goes along from view to view. */
const SHARED = ["job", "run", "stack", "layer", "site", "head", "metric"];

const byId = (id) => document.getElementById(id);
const events = new Events(),
    store = new Store(events);
let shown = null,
    turn = 0,
    failed = false;

function fill(select, options, value) {
    const now = JSON.stringify([options, value]);
    if (select.filledWith === now) return; // it may be open
    select.filledWith = now;
    select.replaceChildren(...options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)));
}

function drawPickers(params) {
    const jobs = store.jobNames(),
        runs = store.runsOf(params.job ?? "");
    fill(byId("job"), jobs.length ? jobs.map((name) => [name, name]) : [["", "none yet"]], params.job);
    fill(
        byId("run"),
        runs.map((run, i) => [run.run, `${run.run.slice(0, 8)} ${i === 0 ? "newest" : ""} ${run.state}`]),
        params.run || runs[0]?.run,
    );
    const now = runs.find((run) => run.run === (params.run || runs[0]?.run));
    byId("where").textContent = now
        ? `epoch ${now.epoch} · step ${now.step}${now.world ? ` · ${now.world} rank${now.world > 1 ? "s" : ""}` : ""}`
        : "";
}

function drawTabs(view, params) {
    const shared = Object.fromEntries(Object.entries(params).filter(([name]) => SHARED.includes(name)));
    byId("tabs").replaceChildren(
        ...Object.entries(VIEWS).map(([name, { title }]) =>
            h("a", { href: link(name, shared), "aria-current": name === view ? "page" : null }, title),
        ),
    );
}

function drawConnection() {
    const text = {
        live: "live",
        connecting: "connecting …",
        lost: `no connection since ${new Date(events.since).toLocaleTimeString()}`,
    };
    byId("connection").dataset.state = events.state;
    byId("connection").textContent = text[events.state];
}

const noSuchJob = (job) =>
    note(
        `attnd does not know a job named ${job}, and the history has no run of it. It may have been removed by age (history.max_age), or it has another name: `,
        ...store
            .jobNames()
            .slice(0, 20)
            .flatMap((name) => [h("a", { href: link("overview", { job: name }) }, name), " "]),
    );

const noJobYet = () =>
    note(
        "No job yet. Attach one to a training loop:",
        h("pre", {}, 'import attnd\n\nwith attnd.watch(model, job="gpt-small"):\n    train()'),
        "It shows up here by itself, with its first captured step.",
    );

async function showView(root, { view, params }, mine) {
    if (store.job !== params.job) await store.choose(params.job ?? "");
    await store.loadMetrics();
    if (mine !== turn) return;
    root.replaceChildren();
    const context = { store, events, params, isCurrent: () => mine === turn };
    shown = (await VIEWS[view].show(root, params, context)) ?? null;
    if (mine !== turn) {
        shown?.();
        shown = null;
    }
}

/** Shows what the address says. */
async function update() {
    const place = here(),
        mine = ++turn,
        root = byId("view");
    if (!VIEWS[place.view]) return go("overview", {});
    if (!place.params.job) place.params.job = store.jobNames()[0];
    shown?.();
    shown = null;
    hideTooltip();
    document.title = `${place.params.job ? place.params.job + " · " : ""}${VIEWS[place.view].title} · attnd`;
    drawPickers(place.params);
    drawTabs(place.view, place.params);
    if (!place.params.job) return root.replaceChildren(noJobYet());
    if (!store.jobNames().includes(place.params.job)) return root.replaceChildren(noSuchJob(place.params.job));
    try {
        await showView(root, place, mine);
    } catch (error) {
        if (mine !== turn) return;
        console.info(error);
        root.replaceChildren(errorNote(error));
    }
}

/** Asks for everything again: at the start, after a gap, when attnd is back. */
async function reload() {
    failed = false;
    try {
        await store.loadJobs();
        const { job } = here().params;
        await store.choose(job || store.jobNames()[0] || "");
    } catch (error) {
        failed = true;
        byId("view").replaceChildren(errorNote(error));
        return;
    }
    await update();
}

function start() {
    applyTheme();
    fill(
        byId("theme"),
        [
            ["auto", "auto"],
            ["light", "light"],
            ["dark", "dark"],
        ],
        settings.theme,
    );
    fill(
        byId("color-map"),
        Object.keys(COLOR_MAPS).map((name) => [name, name]),
        settings.colorMap,
    );
    byId("theme").addEventListener("change", (event) => set("theme", event.target.value));
    byId("color-map").addEventListener("change", (event) => set("colorMap", event.target.value));
    byId("job").addEventListener("change", (event) =>
        go(here().view === "runs" ? "runs" : "overview", { job: event.target.value, metric: here().params.metric }),
    );
    byId("run").addEventListener("change", (event) =>
        go(here().view, {
            ...here().params,
            run: event.target.value === store.runsOf(here().params.job ?? store.job)[0]?.run ? "" : event.target.value,
        }),
    );
    onChange((name) => {
        applyTheme();
        if (name === "colorMap") update();
    });
    addEventListener("hashchange", update);
    events.on("state", drawConnection);
    events.on("resync", reload);
    events.on("state", (state) => {
        if (state === "live" && failed) reload();
    });
    store.on("run", () => {
        if (!here().params.run) reload();
    });
    store.on("jobs", () => {
        const { params } = here(),
            hadNone = !params.job && !store.job;
        drawPickers({ ...params, job: params.job ?? store.job });
        if (hadNone && store.jobNames().length) reload();
    });
    drawConnection();
    events.connect();
    events.watchVisibility();
    reload();
}

start();
