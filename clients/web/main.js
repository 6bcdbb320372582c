// SPDX-License-Identifier: MIT
// The frame of the page: pickers, tabs, the state of the connection; shows the view that the address names.
import { find, giveToken, onToken, token } from "./api.js";
import { noJobYet } from "./attach.js";
import { showPadding } from "./cells.js";
import { COLOR_MAPS } from "./colors.js";
import { errorNote, h, hideTooltip, note, visible } from "./dom.js";
import { Events } from "./events.js";
import { go, here, link } from "./router.js";
import { failureOf, runText } from "./run_text.js";
import { applyTheme, onChange, readSettings, set, settings } from "./settings.js";
import { Store } from "./store.js";
import { countTrouble, loadFleet, show as fleet } from "./view_fleet.js";
import { show as head } from "./view_head.js";
import { show as home } from "./view_home.js";
import { show as layer } from "./view_layer.js";
import { show as model } from "./view_model.js";
import { show as overview } from "./view_overview.js";
import { show as runs } from "./view_runs.js";
import { paced } from "./view_state.js";
import { show as tokens } from "./view_tokens.js";

const VIEWS = {
    home: { title: "Runs", show: home, isApart: true }, // of all jobs, and of none
    overview: { title: "Overview", show: overview, isEarly: true }, // asks while its layers are still to come
    layer: { title: "Layer", show: layer },
    head: { title: "Head", show: head },
    model: { title: "Model", show: model },
    tokens: { title: "Tokens", show: tokens },
    runs: { title: "Compare", show: runs },
    fleet: { title: "Fleet", show: fleet, isApart: true },
};
const METRIC = "entropy_normalized";
/** How often the header looks whether a run has fallen silent, and a node, and how long layers that come together are waited for. */
const SILENCE_MS = 5000,
    FLEET_MS = 10000,
    HISTORY_MS = 10000,
    LAYERS_MS = 300;
/** Parameters that go along from view to view. */
const SHARED = ["job", "run", "stack", "layer", "site", "head", "metric", "at", "padding"];

const byId = (id) => document.getElementById(id);
const events = new Events(),
    store = new Store(events);
let shown = null,
    turn = 0,
    failed = false,
    lacking = false; // the job or the run of the address is not there (yet)

function fill(select, options, value) {
    const now = JSON.stringify([options, value]);
    if (select.filledWith === now) return; // it may be open
    select.filledWith = now;
    select.replaceChildren(...options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)));
}

/** "exp 1: " of a run that has a name. */
function nameOf(run) {
    const name = store.recordOf(run)?.name;
    return name ? `${visible(name)}: ` : "";
}

function drawPickers(params) {
    const jobs = store.jobNames(),
        runs = store.runsOf(params.job ?? "");
    fill(byId("job"), jobs.length ? jobs.map((name) => [name, name]) : [["", "none yet"]], params.job);
    const run = params.run || store.meant(params.job ?? "")?.run;
    fill(
        byId("run"),
        runs.map((run, i) => [run.run, `${nameOf(run)}${runText(run)} ${i === 0 ? "newest" : ""} ${run.state}`]),
        run,
    );
    drawWhere(runs.find((one) => one.run === run));
}

/** How far the run is, and whether it still says something. */
function drawWhere(run) {
    const heard = store.heard.get(run?.run),
        silence = store.silence(run),
        ranks = run?.world ? `${run.world} rank${run.world > 1 ? "s" : ""}` : "";
    const parts = run ? [`epoch ${heard?.epoch ?? run.epoch}`, `step ${heard?.step ?? run.step}`, ranks, silence || failureOf(run)] : [];
    byId("where").textContent = parts.filter(Boolean).join(" · ");
    byId("where").classList.toggle("silent", silence !== "" || run?.state === "failed");
}

function drawTabs(view) {
    byId("tabs").replaceChildren(
        ...Object.entries(VIEWS)
            .filter(([name]) => name !== "fleet" || name === view || store.fleet.role !== "off")
            .map(([name, { title }]) =>
                h("a", { "data-view": name, "aria-current": name === view ? "page" : null }, title, troubleOf(name)),
            ),
    );
    linkTabs();
    requestAnimationFrame(showTab);
}

/** Where there is no room for all tabs. */
function showTab() {
    const tabs = byId("tabs"),
        current = tabs.querySelector("[aria-current]");
    tabs.scrollLeft = Math.max(0, current.offsetLeft + current.offsetWidth - tabs.clientWidth);
}

/** How many nodes somebody should see to, beside the name of the view that shows which. */
function troubleOf(view) {
    const trouble = view === "fleet" && store.fleet.role !== "off" ? countTrouble(store.fleet) : 0;
    return trouble ? [" ", h("span", { class: "badge critical", title: "to be seen to" }, trouble)] : [];
}

/** Looks at the fleet, if attnd is in one; nothing waits for it. */
async function lookAtFleet() {
    const marks = () => JSON.stringify([store.fleet.role, countTrouble(store.fleet)]),
        before = marks();
    store.fleet = (await loadFleet().catch(() => null)) ?? store.fleet;
    if (marks() !== before) drawTabs(here().view);
    if (store.fleet.role !== "off") store.tell("fleet");
}

/** Shows trouble of the history over all views; windows that a repair could not read, for as long as attnd runs. */
async function lookAtHistory() {
    const stats = await find("stats").catch(() => null);
    if (!stats) return;
    const { damaged, path, reason } = stats.history,
        lost = stats.store_unreadable,
        isRepaired = `The history was damaged and has been repaired; ${lost} of its windows could not be read.`,
        text = damaged || (path && reason) || (lost ? isRepaired : "");
    byId("history").hidden = !text;
    const sentence = text.charAt(0).toUpperCase() + text.slice(1);
    if (byId("history").textContent !== sentence) byId("history").textContent = sentence;
}

/** Each tab leads to the same place in its view, also when the view that is shown has gone elsewhere. */
function linkTabs() {
    const { params } = placeNow(),
        shared = Object.fromEntries(Object.entries(params).filter(([name]) => SHARED.includes(name)));
    for (const tab of byId("tabs").children) tab.href = link(tab.dataset.view, shared);
}

function drawConnection() {
    const text = { live: "connected", connecting: "connecting …", token: "token needed", lost: "no connection" };
    byId("connection").dataset.state = events.state;
    byId("connection").textContent = text[events.state];
    drawLost();
}

/** That attnd does not answer is said once, over all views; they keep what they have. */
function drawLost() {
    const isLost = events.state === "lost" && !events.isRefused;
    byId("lost").hidden = !isLost;
    if (isLost) byId("lost-since").textContent = `since ${new Date(events.since).toLocaleTimeString()}`;
}

const linksTo = (entries) =>
    entries.slice(0, 20).flatMap(([text, params]) => [h("a", { href: link("overview", params) }, text), " "]);

const noSuchJob = (job) =>
    note(
        `attnd does not know a job named ${job}, and the history has no run of it. It appears here when it starts. It may have been removed by age (history.max_age), or it has another name: `,
        ...linksTo(store.jobNames().map((name) => [name, { job: name }])),
    );

const noSuchRun = (job, digits) =>
    note(
        `${job} has no run ${digits}: it may have been removed by age (history.max_age). There are: `,
        ...linksTo(store.runsOf(job).map((run) => [runText(run), { job, run: run.run }])),
    );

/** Why there is nothing to show of what the address names; null when there is. */
function whatLacks({ job, run }) {
    if (!job) return noJobYet();
    if (!store.jobNames().includes(job)) return noSuchJob(job);
    return run && !store.runBy(job, run) ? noSuchRun(job, run) : null;
}

/** Puts in place of a metric that there is not the usual one, and says so. */
function mendMetric(params) {
    const asked = params.metric;
    if (!asked || store.metrics.some((metric) => metric.name === asked)) return "";
    params.metric = METRIC;
    return note(`There is no metric named ${asked}. This is ${METRIC}.`);
}

/** A view that needs no job. */
async function showApart(root, view, params, mine) {
    root.replaceChildren();
    const stop = await VIEWS[view].show(root, params, { store, isCurrent: () => mine === turn });
    if (mine === turn) shown = stop;
    else stop();
}

async function showView(root, { view, params }, mine, again) {
    if (VIEWS[view].isApart) return showApart(root, view, params, mine);
    const asked = params.run ?? "",
        isOther = again || !store.shows(params.job, asked),
        layers = isOther ? store.choose(params.job, asked, params.metric) : Promise.resolve();
    await Promise.all([store.loadMetrics(), VIEWS[view].isEarly ? null : layers]);
    if (!isOther && store.metrics.some(({ name }) => name === params.metric)) await store.loadLive(params.metric);
    if (mine !== turn) return;
    root.replaceChildren(mendMetric(params));
    const context = { store, events, params, layers, isCurrent: () => mine === turn };
    shown = (await VIEWS[view].show(root, params, context)) ?? null;
    if (mine !== turn) {
        shown?.();
        shown = null;
    } else store.loadSummaries(params.metric || METRIC);
}

/** Reads the address, and adds the job and the run that it means. */
function placeNow() {
    const place = here(),
        { params } = place;
    if (!params.job) params.job = store.jobNames().includes(store.job) ? store.job : store.jobNames()[0];
    if (params.run) params.run = store.runBy(params.job, params.run)?.run ?? params.run;
    return place;
}

/** Shows what the address says; `again`: with numbers that are asked for anew. */
async function update(again = false) {
    const place = placeNow(),
        mine = ++turn,
        root = byId("view");
    if (!Object.hasOwn(VIEWS, place.view)) return go("home", {});
    shown?.();
    shown = null;
    hideTooltip();
    const { title: name, isApart } = VIEWS[place.view],
        title = `${place.params.job && !isApart ? place.params.job + " · " : ""}${name}`;
    document.title = `${title} · attnd`;
    byId("title").textContent = title;
    showPadding(place.params.padding === "shown");
    for (const one of [byId("job").parentNode, byId("run").parentNode, byId("where")]) one.hidden = place.view === "home";
    drawPickers(place.params);
    drawTabs(place.view);
    const why = VIEWS[place.view].isApart ? null : whatLacks(place.params);
    lacking = why !== null;
    if (lacking) return root.replaceChildren(why);
    try {
        await showView(root, place, mine, again);
    } catch (error) {
        if (mine !== turn) return;
        console.info(error);
        drawError(error);
    }
}

/** Not that attnd does not answer, which stands over all views. Everything is asked for again when it is back. */
function drawError(error) {
    failed = true;
    byId("view").replaceChildren(error.code === "unreachable" ? "" : errorNote(error));
}

/** Asks for everything again: at the start, after a gap, when attnd is back, when a run begins. */
async function reload() {
    failed = false;
    try {
        await store.loadJobs();
    } catch (error) {
        drawError(error);
        return;
    }
    await update(true);
    lookAtFleet();
    lookAtHistory();
}

/** A job that is heard of: in the lists, and on the page when it is what was lacking. */
function onJobs() {
    const { params } = placeNow();
    if (lacking && whatLacks(params) === null) reload();
    else drawPickers(params);
}

/** Layers that come while the page is open; the overview draws them itself. */
const onLayers = paced(() => {
    if (here().view !== "overview" && !VIEWS[here().view]?.isApart) update();
}, LAYERS_MS);

function askForToken(isNeeded) {
    const form = byId("token");
    if (isNeeded && token()) byId("token-why").textContent = "attnd does not take this token.";
    form.hidden = !isNeeded;
    events.waitForToken(isNeeded);
    if (isNeeded) byId("token-text").focus();
}

function listenToToken() {
    onToken(askForToken);
    byId("token").addEventListener("submit", (event) => {
        event.preventDefault();
        giveToken(byId("token-text").value);
        byId("token-text").value = "";
    });
}

/** Its target is part of the page, not of the address. */
function listenToSkip() {
    byId("skip").addEventListener("click", (event) => {
        event.preventDefault();
        byId("view").focus();
    });
}

function start() {
    readSettings();
    const options = (names) => names.map((name) => [name, name]);
    fill(byId("theme"), options(["auto", "light", "dark"]), settings.theme);
    fill(byId("color-map"), options(Object.keys(COLOR_MAPS)), settings.colorMap);
    byId("theme").addEventListener("change", (event) => set("theme", event.target.value));
    byId("color-map").addEventListener("change", (event) => set("colorMap", event.target.value));
    byId("job").addEventListener("change", (event) =>
        go(here().view === "runs" ? "runs" : "overview", { job: event.target.value, metric: here().params.metric }),
    );
    byId("run").addEventListener("change", (event) =>
        go(VIEWS[here().view].isApart ? "overview" : here().view, {
            ...here().params,
            run: event.target.value === store.meant(here().params.job ?? store.job)?.run ? "" : event.target.value,
        }),
    );
    onChange((name) => {
        applyTheme();
        if (name === "colorMap" || name === "theme") update();
    });
    addEventListener("hashchange", () => update());
    addEventListener("address", linkTabs);
    events.on("state", drawConnection);
    events.on("resync", reload);
    events.on("state", (state) => {
        if (state === "live" && failed) reload();
    });
    store.on("run", reload);
    store.on("jobs", onJobs);
    store.on("layers", onLayers);
    store.on("clock", () => drawWhere(store.shownRun()));
    setInterval(() => store.fleet.role !== "off" && lookAtFleet(), FLEET_MS);
    setInterval(lookAtHistory, HISTORY_MS);
    setInterval(() => store.tell("clock"), SILENCE_MS);
    listenToSkip();
    listenToToken();
    drawConnection();
    events.connect();
    events.watchVisibility();
    reload();
}

start();
