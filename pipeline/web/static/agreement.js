// The page that says how far people agree, and what is left.

import { ask, duration, el, trying } from "./common.js";

const number = (value, unit) => (unit === "share" ? `${Math.round(100 * value)}%` : unit === "time" ? duration(value) : value.toFixed(2).replace("-", "−"));

/** A figure with its interval, and of how many it is. */
function shown(figure, unit) {
  if (figure.value === null) return ["–", ""];
  const interval = figure.low === null ? "" : `[${number(figure.low, unit)}, ${number(figure.high, unit)}]`;
  return [number(figure.value, unit), `${interval} of ${figure.of}`.trim()];
}

const COLUMNS = [["alpha", "α"], ["tau", "τ"], ["alike", "Same order", "share"], ["again", "Again", "share"], ["practice", "Practice", "share"], ["seconds", "An item", "time"]];

function cell(figure, unit) {
  const [value, more] = shown(figure, unit);
  return el("td", {}, value, more && el("div", {}, el("small", {}, more)));
}

function card(name, figure, unit, told) {
  const [value, more] = shown(figure, unit);
  return el("div", { class: "card" }, el("small", {}, name), el("strong", {}, value), el("small", {}, more || told));
}

const found = await trying(() => ask("/api/rank/agreement"));
if (found) {
  const every = found.all;
  document.getElementById("figures").replaceChildren(
    el("div", { class: "card" }, el("small", {}, "Items"), el("strong", {}, `${found.ranked} of ${found.items}`), el("small", {}, `ranked by somebody${found.reported ? `, ${found.reported} reported` : ""}`)),
    card("Krippendorff's α", every.alpha, "", "two people have to rank the same items"),
    card("Same order", every.alike, "share", "two people have to rank the same items"),
    card("Agrees with oneself", every.again, "share", "one item in twenty comes again"),
    card("An item takes", every.seconds, "time", "nobody has ranked yet"),
  );
  const head = ["Person", "Ranked", "Skipped", "Reported", "All bad", ...COLUMNS.map((one) => one[1])];
  const line = (one) => el("tr", {}, el("th", { scope: "row" }, one.name), [one.ranked, one.skipped, one.reported, one.all_bad].map((value) => el("td", {}, String(value))), COLUMNS.map(([name, , unit]) => cell(one[name], unit)));
  document.getElementById("people").replaceChildren(found.people.length
    ? el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, found.people.map(line)))
    : el("p", { class: "told" }, "Nobody has ranked anything yet."));
}
