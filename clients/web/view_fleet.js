// SPDX-License-Identifier: MIT
// This attnd among those of other machines: of a node its outbox; of a hub its nodes, those that somebody should see to
// first, and because of whom windows are partial.
import { find } from "./api.js";
import { h, headName, isolated, note, number, refill, visible } from "./dom.js";
import { figure } from "./figure.js";
import { link } from "./router.js";
import { span } from "./run_text.js";
import { kept } from "./view_state.js";

const AGAIN_MS = 2000;
/** A clock that is more than so many seconds off is marked. */
const CLOCK_S = 60;
/** So many windows of a run are in the answer. */
const WAITING_MOST = 8,
    PARTIAL_MOST = 16;
/** So many runs are drawn. */
const RUNS_MOST = 100;
/** So many late nodes are named at the first look. */
const LATE_MOST = 4;
/** State of a node: the class of its badge. */
const BADGES = { ok: "good", late: "warning", behind: "warning", trouble: "critical", silent: "critical", refused: "critical", ended: "" };

export const loadFleet = () => find("fleet");

/** Windows wait for it, do not wait for it any more, or go on without it. */
const isLate = ({ state }) => state !== "ok" && state !== "ended";

/** A node that was not heard of since the hub began has no name. */
const nameOf = ({ name, id }) => name || id;

/** Why its windows are not here, in a sentence; null: nobody says. */
const whyOf = ({ refused, trouble }) => refused ?? trouble;

/** How many nodes or connections somebody should see to. */
export const countTrouble = ({ nodes = [], connected, error, refused }) =>
    nodes.filter(isLate).length + (connected && !error ? 0 : 1) + (refused ? 1 : 0);

function size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"],
        unit = Math.max(0, Math.min(4, Math.floor(Math.log2(bytes || 1) / 10)));
    return `${Number((bytes / 1024 ** unit).toFixed(unit ? 1 : 0))} ${units[unit]}`;
}

const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const ago = (s) => (s === null ? "not yet" : `${span(1000 * s)} ago`);

const alone = () =>
    note(
        "This attnd is alone: ",
        h("code", {}, "fleet.role"),
        " is off. For one view of many machines set it to ",
        h("code", {}, "node"),
        " on each of them and to ",
        h("code", {}, "hub"),
        " on one more attnd, and ",
        h("code", {}, "fleet.url"),
        " to NATS servers for all.",
    );

const CUT_OFF = {
    node: "Training and the windows of this node go on; its rows wait in the outbox, and are sent when a server is back.",
    hub: "Windows wait; nodes keep their rows, and the hub fetches them when a server is back.",
};

function warnings(fleet) {
    const error = (...texts) => h("p", { class: "note error", role: "alert" }, ...texts),
        why = fleet.error ?? (fleet.connected ? null : `${fleet.url} has not answered yet`);
    return [
        why
            ? error(h("b", {}, fleet.connected ? "Trouble: " : "No connection: "), `${why}. `, fleet.connected ? "" : CUT_OFF[fleet.role])
            : null,
        fleet.unknown ? h("p", { class: "note" }, `${fleet.unknown}.`) : null,
        fleet.refused ? error(h("b", {}, "The hub refuses this node: "), fleet.refused) : null,
    ].filter(Boolean);
}

/** Pairs of a name and a text; those without a text are left out. */
const facts = (pairs) =>
    h(
        "dl",
        { class: "facts" },
        pairs.filter(([, text]) => text).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]),
    );

const isNonzero = (number, text) => (number ? text : null);

const who = ({ name, id, url }) => [
    ["name", name],
    ["id", id],
    ["servers", url],
];

function nodeFacts(fleet) {
    const { rows, bytes, unsent, unsent_bytes, oldest_unsent_s, sent, resent, outbox_lost } = fleet,
        wait = unsent ? `${count(unsent, "row")}, ${size(unsent_bytes)}; the oldest for ${span(1000 * oldest_unsent_s)}` : "nothing";
    return facts([
        ...who(fleet),
        ["outbox", `${count(rows, "row")}, ${size(bytes)}`],
        ["not sent yet", wait],
        ["sent", `${count(sent, "row")}${isNonzero(resent, `, ${resent.toLocaleString("en")} re-sent`) ?? ""}`],
        ["lost before that", count(outbox_lost, "row")],
    ]);
}

function hubFacts(fleet) {
    return facts([
        ...who(fleet),
        ["parts", `${fleet.rows.toLocaleString("en")}, ${size(fleet.bytes)}`],
        ["in the stream", `${count(fleet.waiting, "message")} waiting`],
        ["windows", `${fleet.merged.toLocaleString("en")} merged, ${fleet.corrected.toLocaleString("en")} re-merged`],
        ["set aside", isNonzero(fleet.poisoned, `${count(fleet.poisoned, "message")}: unreadable, or of runs that there is no room for`)],
        ["other window rules", isNonzero(fleet.windows_unknown, `${count(fleet.windows_unknown, "message")} left out`)],
        ["epochs differ", isNonzero(fleet.steps_disagree, `in ${count(fleet.steps_disagree, "window")}`)],
        ["gone", isNonzero(fleet.gone, `${count(fleet.gone, "row")} that their nodes have no more`)],
        ["lost", isNonzero(fleet.windows_lost, `${count(fleet.windows_lost, "window")}: fleet.outbox or fleet.keep is too small`)],
    ]);
}

const COLUMNS = [
    ["node", "", true],
    ["state", "", true],
    ["last heard", "the last sign of life that came"],
    ["behind", "windows behind the first node"],
    ["not sent", "rows that no server has taken"],
    ["lost", "rows that fell out of its outbox before a server took them"],
    ["lacking", "rows that a server took, and the hub has not"],
    ["clock", "ahead of the hub's"],
    ["why", "", true],
];

const clockText = (s) =>
    s === null ? "–" : Math.abs(s) < 0.5 ? "0 s" : `${s < 0 ? "−" : "+"}${span(1000 * Math.abs(s))}`;

function nodeRow(node) {
    const { id, host, version, state, unsent, unsent_bytes, clock_s } = node,
        cell = (text, bad) => h("td", { class: bad ? "bad" : null }, text);
    return h(
        "tr",
        { class: isLate(node) ? "late" : null },
        h("td", { title: `${id} on ${host}, attnd ${version}` }, nameOf(node)),
        h("td", { class: "text" }, h("span", { class: `badge ${BADGES[state] ?? ""}` }, state)),
        cell(ago(node.heard_s), state === "silent"),
        cell(node.behind, state === "behind"),
        cell(unsent ? `${unsent.toLocaleString("en")} (${size(unsent_bytes)})` : 0),
        cell(node.outbox_lost, node.outbox_lost > 0),
        cell(node.lacking),
        cell(clockText(clock_s), Math.abs(clock_s) > CLOCK_S),
        h("td", { class: "text wrap" }, whyOf(node)),
    );
}

const urgencyOf = (node) => (BADGES[node.state] === "critical") + isLate(node);

/** The ones that somebody should see to come first, then by name. */
const inOrder = (nodes) =>
    [...nodes].sort((a, b) => urgencyOf(b) - urgencyOf(a) || nameOf(a).localeCompare(nameOf(b), "en", { numeric: true }));

/** The column "why" is there when a node is refused or in trouble. */
const nodesTable = (nodes) =>
    h(
        "table",
        { class: `fleet-nodes${nodes.some(whyOf) ? " refused" : ""}` },
        h(
            "thead",
            {},
            h(
                "tr",
                {},
                COLUMNS.map(([name, title, isText]) => h("th", { class: isText ? "text" : null, title: title || null }, name)),
            ),
        ),
        h("tbody", {}, inOrder(nodes).map(nodeRow)),
    );

const missingText = (missing) => missing.map(({ name, reason }) => `${name} (${reason})`).join(", ");

/** Windows in a row that have the same rule, and lack the same nodes, together. Where the answer has `most`, there may be
 * more of the last ones. */
function grouped(windows, most, whom) {
    const key = (window) => JSON.stringify([window.unit, window.length, whom(window)]),
        groups = [];
    for (const window of windows) {
        if (groups.length && key(groups.at(-1)[0]) === key(window)) groups.at(-1).push(window);
        else groups.push([window]);
    }
    if (windows.length === most) groups.at(-1).mayBeMore = true;
    return groups;
}

/** "step 100 to 199" */
const rangeText = (unit, first, last) => `${unit} ${first === last ? "" : `${first} to `}${last}`;

/** "8 windows that end at step 1119 to 1154 wait for node-3" */
function windowsText(windows, one, many, names) {
    const ends = windows.map((window) => window.last),
        range = rangeText(windows[0].unit, Math.min(...ends), Math.max(...ends));
    return windows.length === 1
        ? `the window that ends at ${range} ${one} ${names}`
        : `${windows.length}${windows.mayBeMore ? " or more" : ""} windows that end at ${range} ${many} ${names}`;
}

function correctedText(windows) {
    const corrected = windows.filter(({ revision }) => revision).length;
    if (!corrected) return "";
    return windows.length === 1 ? ", corrected" : `, ${corrected} of them corrected`;
}

const partialOf = (run) => grouped(run.partial, PARTIAL_MOST, (window) => window.missing);

const partialText = (windows) => windowsText(windows, "is without", "are without", missingText(windows[0].missing));

const windowsOf = (run) => [
    ...grouped(run.waiting, WAITING_MOST, (window) => window.for).map((windows) =>
        h("li", {}, windowsText(windows, "waits for", "wait for", windows[0].for.join(", ") || "its turn, or for ranks that no node has")),
    ),
    ...partialOf(run).map((windows) => h("li", { class: "firing" }, partialText(windows), h("span", { class: "soft" }, correctedText(windows)))),
];

const isOver = ({ state }) => state === "ended";

/** "1 of 8 ranks has not been heard of"; "" when all have been. */
const unheardText = ({ ranks, world }) =>
    ranks < world ? `${world - ranks} of ${count(world, "rank")} ${world - ranks === 1 ? "has" : "have"} not been heard of` : "";

/** Where a rank is furthest from the others: the head, which shows the entropy of all ranks. */
const toOdd = ({ job, run }, { stack, layer, site, head }) => link("head", { job, run, stack, layer, site, head });

/** "rank 2 of node-3", "in 2 of 2 layers, most in decoder.0.self.h1", "3 windows in a row" */
const oddNodes = (run, odd) => [
    h("a", { class: "who", href: toOdd(run, odd) }, `rank ${odd.rank}`, odd.node ? [" of ", isolated(visible(odd.node))] : ""),
    h(
        "span",
        { class: "said", title: `${number(odd.distance)} from the median of the ranks; more than 5 is odd` },
        `in ${odd.layers} of ${count(run.compared.layers, "layer")}, most in ${headName(odd, odd.head)}`,
    ),
    h("span", { class: "soft" }, odd.windows > 1 ? `${odd.windows} windows in a row` : ""),
];

const group = (severity, what, where, rows, more) =>
    h(
        "section",
        { class: `trouble ${severity}`, "aria-label": what },
        h("header", {}, h("span", { class: `badge ${severity}` }, severity), " ", h("b", {}, what), h("span", { class: "soft" }, ` ${where}`)),
        h("ul", { class: "rows" }, rows.map((row) => h("li", {}, row))),
        more ? h("p", {}, more) : "",
    );

function oddGroup(run) {
    const { count: odd, unit, first, last } = run.compared,
        more = odd - run.compared.odd.length,
        what = odd === 1 ? "one rank is the odd one out" : `${odd} ranks are odd`;
    return group(
        "warning",
        what,
        `by entropy, ${rangeText(unit, first, last)}`,
        run.compared.odd.map((one) => oddNodes(run, one)),
        `${more > 0 ? `And ${more} more. ` : ""}A rank that differs from all others reads other data, or computes something else.`,
    );
}

/** "2 windows wait for it" */
function waitText({ waiting }) {
    const number = waiting.length;
    return number ? `${number === WAITING_MOST ? "at least " : ""}${count(number, "window")} wait${number === 1 ? "s" : ""}` : "windows do not wait";
}

/** Why a run of a hub has no window yet; "" where that is not known. */
export function whyNoWindow(fleet, id) {
    const run = fleet.runs?.find((one) => one.run === id);
    if (!run) return "";
    const [first] = run.waiting;
    return first?.for.length ? `The first window waits for ${first.for.join(", ")}.` : "The first window comes when all nodes have closed it.";
}

const lateNodes = (node) => [
    h("a", { class: "who", href: link("fleet", {}) }, nameOf(node)),
    h(
        "span",
        { class: "said" },
        `${node.state}: `,
        node.state === "behind" ? `${count(node.behind, "window")} behind the first node` : whyOf(node) || `last heard ${ago(node.heard_s)}`,
    ),
];

function lateGroup(run, late) {
    const isBad = late.some(({ state }) => BADGES[state] === "critical"),
        more = late.length - LATE_MOST;
    return group(isBad ? "critical" : "warning", `${count(late.length, "node")} to be seen to`, waitText(run), late.slice(0, LATE_MOST).map(lateNodes), more > 0 ? `And ${more} more.` : "");
}

/** Windows whose numbers are not of all nodes. */
function partialGroup(run) {
    const rows = partialOf(run).slice(0, LATE_MOST);
    return group(
        "warning",
        "windows are partial",
        "",
        rows.map((windows) => [h("span", { class: "said" }, partialText(windows))]),
        h("a", { href: link("fleet", {}) }, "The fleet"),
    );
}

/** Sections for what somebody should see to of a run, for the first look: ranks that are odd or lacking, nodes that are late,
 *  and of whom windows know nothing. */
export function fleetTrouble(fleet, id) {
    const run = fleet?.runs?.find((one) => one.run === id),
        goesOn = run && !isOver(run),
        late = goesOn ? inOrder(fleet.nodes.filter((node) => isLate(node) && run.nodes.includes(node.id))) : [],
        unheard = goesOn && unheardText(run);
    return [
        goesOn && !fleet.connected ? group("critical", "no connection to the servers of the fleet", "windows wait", []) : null,
        late.length ? lateGroup(run, late) : null,
        run?.compared?.count ? oddGroup(run) : null,
        unheard ? group("warning", unheard, "", []) : null,
        run?.partial.length ? partialGroup(run) : null,
    ].filter(Boolean);
}

const troubleOf = (run) => [
    ...(run.refused ? [h("li", { class: "firing" }, `not shown: ${run.refused}`)] : []),
    ...(run.compared?.odd ?? []).map((odd) => h("li", { class: "firing" }, h("span", { class: "badge warning" }, "odd"), oddNodes(run, odd).flatMap((node) => [" ", node]))),
    ...(unheardText(run) ? [h("li", { class: isOver(run) ? null : "firing" }, unheardText(run))] : []),
    ...windowsOf(run),
];

function runParts(run) {
    const trouble = troubleOf(run);
    return [
        h(
            "h3",
            {},
            h("a", { href: link("overview", { job: run.job, run: run.run }) }, run.job),
            h("span", { class: "soft" }, ` ${run.run.slice(0, 8)} · ${run.ranks.toLocaleString("en")} of ${count(run.world, "rank")} on ${count(run.nodes.length, "node")} `),
            h("span", { class: `badge ${run.state}` }, run.state),
        ),
        trouble.length ? h("ul", { class: "list" }, trouble) : h("p", { class: "soft" }, "Nothing is missing."),
    ];
}

/** Runs that go on come first. */
function runsList({ runs, runs_more }) {
    const drawn = [...runs].sort((a, b) => isOver(a) - isOver(b)).slice(0, RUNS_MOST),
        more = runs.length - drawn.length + runs_more;
    return [...drawn.flatMap(runParts), more ? h("p", { class: "soft" }, `And ${count(more, "more run")}.`) : ""];
}

/** The frames of a hub stay, and what they scroll; what is in them is drawn again. */
class HubView {
    constructor(root) {
        this.about = figure("This hub", "").plain();
        this.nodes = figure("Nodes", "", "wide").plain();
        this.runs = figure("Runs", "ranks that are odd, windows that wait or are partial").plain();
        this.box = h("div", { class: "scroll", tabindex: 0 });
        this.nodes.body.append(this.box);
        root.append(h("div", { class: "grid" }, this.nodes, this.runs, this.about));
    }

    draw(fleet) {
        const late = fleet.nodes.filter(isLate).length;
        this.nodes.setTitle("Nodes", `${fleet.nodes.length}${late ? `, ${late} to be seen to` : ", all well"}`);
        refill(this.box, fleet.nodes.length ? nodesTable(fleet.nodes) : note("No node has been heard of yet."));
        refill(this.runs.body, ...(fleet.runs.length ? runsList(fleet) : [note("No node trains yet.")]));
        refill(this.about.body, hubFacts(fleet));
    }
}

class NodeView {
    constructor(root) {
        this.about = figure("This node", "its parts on their way to the hub").plain();
        root.append(this.about);
    }

    draw(fleet) {
        refill(this.about.body, nodeFacts(fleet));
    }
}

export async function show(root, _params, { isCurrent }) {
    const top = h("div", {}),
        main = h("div", {});
    let view = null;
    root.append(top, main);
    function draw({ fleet }) {
        if (fleet.role === "off") return void main.replaceChildren(alone());
        refill(top, ...warnings(fleet));
        if (!view) main.replaceChildren();
        view ??= new { hub: HubView, node: NodeView }[fleet.role](main);
        view.draw(fleet);
    }
    const nothing = () => "Nothing is known of a fleet.",
        load = async () => ({ fleet: await loadFleet() }), // it has an `error` of its own
        part = kept({ body: top, load, draw, nothing, isCurrent }),
        timer = setInterval(part.now, AGAIN_MS);
    await part.now();
    performance.mark("data");
    return () => clearInterval(timer);
}
