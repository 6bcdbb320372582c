// SPDX-License-Identifier: MIT
// The trouble of one head in words: which rule fires for it or for its layer, since when, why it matters and what helps.
import { h, layerName } from "./dom.js";
import { troubleText, whyNode } from "./rules.js";
import { sinceText } from "./trouble.js";

const section = ({ severity, since, windows }, text, rule) =>
    h(
        "section",
        { class: `trouble ${severity}`, "aria-label": "trouble" },
        h("header", {}, severity ? h("span", { class: `badge ${severity}` }, severity) : "", " ", text),
        h("p", { class: "soft" }, sinceText({ since, windows })),
        rule ? whyNode(rule) : "",
    );

/**
 * Nodes for a head of `layer` and for alerts about the layer that no head stands for. `trouble`: a RunTrouble at the moment
 * that is shown; `rules` in force; `valueOf(rule)`: what the rule compares of the head, where the trouble does not say.
 */
export function headTrouble(trouble, layer, head, rules, valueOf) {
    const ruleOf = ({ rule }) => rules.find((one) => one.name === rule),
        own = trouble.headsOf(layer).find((one) => one.head === head),
        others = (trouble.isKnown ? (trouble.found?.others ?? []) : []).filter(
            (alert) => alert.stack !== null && layerName(alert) === layerName(layer),
        );
    const nodes = others.map((alert) => section(alert, `${alert.rule}: ${alert.message}`, ruleOf(alert)));
    if (!own?.rule) return nodes;
    const rule = ruleOf(own),
        told = { ...own, value: own.value ?? (rule && valueOf(rule)) };
    return [section(own.score >= 1 ? own : { ...own, severity: "" }, troubleText(told, rules), own.score >= 0.5 ? rule : null), ...nodes];
}
