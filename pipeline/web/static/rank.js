// The page on which people put answers in an order: by mouse, by buttons, or by keyboard alone.

import { ask, duration, el, newId, person, say, trying, whoIsIt } from "./common.js";
import { differing, joined, moved, places, placed, tied, tierOf, width, without } from "./order.js";

const place = document.getElementById("place");
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const FOLDED = 900; // characters, wide ones twice, from which on an answer is folded

let item = null; // what is ranked, as the server gave it
let left = null;
let last = null; // what was stored last, as the disk has it
let told = null; // of practice: what was known
let order = []; // tiers of ids
let former = []; // orders before the present one
let current = null; // the id of the marked answer
let allBad = false;
let differ = false;
let note = "";
let opened = new Set(); // answers that are unfolded
let seconds = 0; // that the item was in sight
let sending = false;
let sent = null; // what was sent and is not known to be stored: the same again goes under its id, with its time, and is stored once

const letter = (id) => LETTERS[item.cards.findIndex((card) => card.id === id)] ?? "?";
const loose = () => item.cards.map((card) => card.id).filter((id) => tierOf(order, id) < 0);
const inSight = () => [...loose(), ...places(order)];

setInterval(() => { if (!document.hidden && item) seconds += 0.5; }, 500);

async function next() {
  await trying(async () => {
    const found = await ask("/api/rank/next", { person: person.get(), id: newId() });
    [item, left, last] = [found.item, found.left, found.last];
    [order, former, allBad, note, seconds, opened] = [[], [], false, "", 0, new Set()];
    current = item?.cards[0]?.id ?? null;
    draw();
  });
}

function change(made) {
  if (JSON.stringify(made) === JSON.stringify(order)) return;
  former.push(order);
  order = made;
  draw();
}

/** Put the marked answer somewhere; then the next one without a place is marked. */
function put(made, id = current) {
  change(made);
  const rest = loose();
  current = id === current && rest.length ? rest[0] : id;
  draw();
}

async function done(kind, more = {}) {
  if (sending || !item) return;
  sending = true;
  const said = kind === "ranking"
    ? { item: item.id, tiers: order, unranked: loose(), all_bad: allBad, note: note.trim(), shown: item.cards.map((card) => card.id), repeat: item.repeat }
    : { item: item.id, ...more };
  const words = JSON.stringify([kind, said]);
  if (sent?.words !== words) sent = { words, event: { id: newId(), kind, body: { ...said, seconds } } };
  const found = await trying(() => ask("/api/rank/done", { person: person.get(), ...sent.event }));
  sending = false;
  if (!found) return;
  sent = null;
  told = found.practice;
  await next();
}

function submit() {
  if (!order.length && !allBad) return say("Give an answer a place first, or say that all of them are bad.");
  return done("ranking");
}

async function undo() {
  if (former.length) {
    order = former.pop();
    return draw();
  }
  if (!last) return say("There is nothing to undo.");
  if (await trying(() => ask("/api/rank/undo", { person: person.get(), id: newId(), event: last.id }))) {
    told = null;
    await next();
    say("Taken back; here it is again.");
  }
}

function report() {
  const reason = el("textarea", { id: "reason", maxlength: 1000, required: true, rows: 3 });
  const box = el("dialog", {}, el("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); if (reason.value.trim()) { box.close(); done("report", { reason: reason.value.trim() }); } } },
    el("h2", {}, "Report this item"), el("p", { class: "note" }, "It is set aside for everybody. What is wrong with it?"),
    el("label", { for: "reason" }, "Reason"), reason,
    el("div", { class: "row" }, el("button", { class: "main" }, "Report"), el("button", { type: "button", onclick: () => box.close() }, "Cancel"))));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

// drawing

function content(card) {
  const pieces = differ ? (item.words ??= differing(item.cards.map((one) => one.text)))[item.cards.indexOf(card)] : [{ text: card.text, differs: false }];
  const text = el("p", { class: "text" }, pieces.map((one) => (one.differs ? el("mark", {}, one.text) : one.text)));
  if (!card.text.trim()) text.append(el("em", { class: "even" }, "(an empty answer)"));
  const long = width(card.text) > FOLDED || card.text.split("\n").length > 12;
  const folded = long && !opened.has(card.id);
  const toggle = () => { opened.has(card.id) ? opened.delete(card.id) : opened.add(card.id); draw(); };
  return [el("div", { class: folded ? "body folded" : "body" }, text), long && el("button", { class: "more", type: "button", "aria-expanded": !folded ? "true" : "false", onclick: toggle }, folded ? "Show all" : "Fold")];
}

function answer(id) {
  const card = item.cards.find((one) => one.id === id);
  const at = tierOf(order, id);
  const small = (sign, label, work, off = false) => el("button", { type: "button", "aria-label": `${label} answer ${letter(id)}`, title: label, disabled: off, onclick: (event) => { event.stopPropagation(); current = id; work(); } }, sign);
  const buttons = at < 0
    ? [small("Best", "Put first", () => put(placed(order, id, 1), id)), small("Last", "Put last", () => put(placed(order, id, order.length + 1), id)), order.length > 0 && small("=", "Tie with the last", () => put(tied(order, id), id))]
    : [small("↑", "Move up", () => change(moved(order, id, -1))), small("↓", "Move down", () => change(moved(order, id, 1))), small("=", "Tie with the one above", () => change(tied(order, id)), at === 0), small("✕", "Take out", () => change(without(order, id)))];
  const made = el("article", { class: "answer", id: `answer-${id}`, tabindex: -1, draggable: "true", "aria-current": id === current ? "true" : "false", "aria-label": `Answer ${letter(id)}${at < 0 ? "" : `, place ${at + 1}`}`, onclick: () => mark(id) },
    el("div", { class: "head" }, el("span", { class: "letter" }, letter(id)), el("span", {}, buttons)), content(card));
  made.addEventListener("dragstart", (event) => { current = id; event.dataTransfer.setData("text/plain", id); event.dataTransfer.effectAllowed = "move"; made.classList.add("dragged"); });
  made.addEventListener("dragend", () => made.classList.remove("dragged"));
  return made;
}

function mark(id) {
  if (current === id || String(getSelection())) return;
  current = id;
  for (const one of document.querySelectorAll(".answer")) one.setAttribute("aria-current", one.id === `answer-${id}` ? "true" : "false");
}

/** Let an element take a dragged answer. */
function taking(element, work) {
  element.addEventListener("dragover", (event) => { event.preventDefault(); event.stopPropagation(); element.classList.add("over"); });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => { event.preventDefault(); event.stopPropagation(); const id = event.dataTransfer.getData("text/plain"); if (item.cards.some((card) => card.id === id)) { work(id); } });
  return element;
}

function tiers() {
  const list = el("ol", { class: "tiers", "aria-label": "Your order, the best first" });
  taking(list, (id) => put(placed(order, id, order.length + 1), id));
  order.forEach((tier, at) => {
    list.append(taking(el("li", { class: "gap", "aria-hidden": "true" }), (id) => put(placed(order, id, at + 1), id)));
    list.append(taking(el("li", { class: "tier" }, el("span", { class: "place" }, String(at + 1)), tier.length > 1 && el("span", { class: "ties" }, "tie"), tier.map(answer)), (id) => put(joined(order, id, tier.find((one) => one !== id) ?? id), id)));
  });
  if (!order.length) list.append(el("li", { class: "hint" }, "Drag the best answer here, or press 1 for the marked one. An answer that you leave out is compared with none."));
  return list;
}

function progress() {
  const open = left.practice + left.own + left.repeats;
  const share = left.done + open ? (100 * left.done) / (left.done + open) : 100;
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  bar.setAttribute("viewBox", "0 0 100 1");
  bar.setAttribute("preserveAspectRatio", "none");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  rect.setAttribute("width", share);
  rect.setAttribute("height", 1);
  bar.append(rect);
  return [el("div", { class: "row apart" }, el("small", {}, `${person.get()}: ${left.done} ranked, ${open} to go`), el("small", {}, el("button", { type: "button", class: "more", onclick: () => { person.set(""); begin(); } }, "Not you?"))), el("div", { class: "bar", "aria-hidden": "true" }, bar)];
}

function words(id) {
  return el("span", { class: "clip" }, last.texts[id] || "(empty)");
}

function storedLast() {
  if (!last) return null;
  const body = last.body;
  const parts = last.kind === "skip" ? [el("p", {}, "Skipped.")] : last.kind === "report" ? [el("p", {}, "Reported: ", body.reason)]
    : [body.tiers.length > 0 && el("ol", {}, body.tiers.map((tier) => el("li", {}, tier.length > 1 && el("small", {}, "tied: "), tier.map(words)))),
       body.unranked.length > 0 && el("p", {}, el("small", {}, "Without a place: "), body.unranked.map(words)), body.all_bad && el("p", { class: "bad" }, "All of them are bad."), body.note && el("p", {}, "Note: ", body.note)];
  return el("section", { class: "card stored", "aria-label": "Stored last" }, el("div", { class: "row apart" }, el("h3", {}, "Stored, as read back from the disk"), el("button", { type: "button", onclick: undo }, "Take it back")),
    parts, el("small", {}, `${new Date(last.at).toLocaleString()}${body.seconds === undefined ? "" : `, ${duration(body.seconds)}`}`));
}

function practised() {
  if (!told) return null;
  return el("p", { class: told.agrees ? "told" : "told wrong", role: "status" }, told.sentence);
}

function draw() {
  const at = document.activeElement?.id;
  const caret = document.activeElement?.selectionStart;
  if (!item) {
    place.replaceChildren(...[practised(), left && el("section", { class: "card" }, el("h2", {}, "Nothing is left for you"), el("p", {}, `You have ranked ${left.done}; ${left.ranked} of ${left.items} items have been ranked by somebody.`),
      el("p", { class: "note" }, "Write what all people said into a file that the pipeline learns from:"), el("p", {}, el("code", { class: "command" }, `make rankings ${document.body.dataset.named}`))), storedLast()].filter(Boolean));
    return;
  }
  const rest = loose();
  const unplaced = taking(el("div", { class: "cards", "aria-label": "Answers without a place" }, rest.length ? rest.map(answer) : el("p", { class: "hint" }, "All answers have a place.")), (id) => change(without(order, id)));
  const noteField = el("textarea", { id: "note", rows: 2, maxlength: 2000, oninput: (event) => { note = event.target.value; } });
  noteField.value = note;
  place.replaceChildren(...[
    ...progress(),
    practised(),
    item.practice && el("p", { class: "told" }, "Practice: the order is known, and you are told how yours compares."),
    el("section", { class: "card asked", "aria-label": "Prompt" }, item.prompt.map((turn) => el("div", { class: "turn" }, item.prompt.length > 1 && el("div", { class: "role" }, turn.role), el("p", { class: "text" }, turn.content)))),
    el("div", { class: "table" }, el("section", {}, el("h2", {}, "Answers"), unplaced), el("section", {}, el("h2", {}, "Your order, the best first"), tiers())),
    el("div", { class: "beside" },
      el("div", { class: "row" }, el("button", { type: "button", id: "bad", "aria-pressed": String(allBad), onclick: bad }, "All of them are bad ", el("kbd", {}, "B")), el("button", { type: "button", id: "differ", "aria-pressed": String(differ), onclick: marks }, "Mark words that differ ", el("kbd", {}, "D"))),
      el("div", {}, el("label", { for: "note" }, "Note (N)"), noteField)),
    el("div", { class: "row apart ends" }, el("div", { class: "row" }, el("button", { type: "button", onclick: () => done("skip") }, "Skip ", el("kbd", {}, "S")), el("button", { type: "button", onclick: report }, "Report ", el("kbd", {}, "F")), el("button", { type: "button", onclick: undo }, "Undo ", el("kbd", {}, "U"))),
      el("button", { type: "button", class: "main", id: "submit", onclick: submit }, "Submit ", el("kbd", {}, "Enter"))),
    storedLast(),
  ].filter(Boolean));
  const again = at && document.getElementById(at);
  if (again) { again.focus({ preventScroll: true }); if (caret !== undefined && caret !== null) again.setSelectionRange?.(caret, caret); }
}

function bad() { allBad = !allBad; draw(); }
function marks() { differ = !differ; draw(); }

function step(by) {
  const all = inSight();
  current = all[(all.indexOf(current) + by + all.length) % all.length];
  draw();
  document.getElementById(`answer-${current}`)?.scrollIntoView({ block: "nearest" });
}

function help() {
  const box = document.getElementById("help");
  box.hidden = !box.hidden;
  document.getElementById("keys").setAttribute("aria-expanded", String(!box.hidden));
}
document.getElementById("keys").addEventListener("click", help);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !place || document.querySelector("dialog[open]")) return;
  const inField = event.target.matches?.("input, textarea, select");
  if (inField) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.key === "?") return help();
  if (!item) { if (event.key.toLowerCase() === "u") undo(); return; }
  const onButton = event.target.matches?.("button, a");
  const keys = {
    "=": () => put(tied(order, current)), 0: () => change(without(order, current)), Backspace: () => change(without(order, current)),
    ArrowDown: () => (event.shiftKey ? change(moved(order, current, 1)) : step(1)), ArrowUp: () => (event.shiftKey ? change(moved(order, current, -1)) : step(-1)),
    b: bad, d: marks, n: () => document.getElementById("note").focus(), u: undo, s: () => done("skip"), f: report,
  };
  if (event.key === "Enter" && !onButton) { event.preventDefault(); return submit(); }
  if (/^[1-9]$/.test(event.key)) { event.preventDefault(); return put(placed(order, current, Number(event.key))); }
  const work = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (work) { event.preventDefault(); work(); }
});

function begin() {
  if (!place) return;
  if (person.get()) return next();
  whoIsIt(place, "Your name stands with what you say, so that people's agreement can be told. A short practice comes first.", next);
}
begin();
