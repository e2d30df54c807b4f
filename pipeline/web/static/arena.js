// The page on which people vote between two answers without knowing whose they are.

import { ask, el, person, say, trying, whoIsIt } from "./common.js";
import { stream } from "./stream.js";

const get = (id) => document.getElementById(id);
const WORDS = { a: "A is better", b: "B is better", tie: "A tie", bad: "Both are bad" };
let inTurns = false;
let pair = null; // {prompt, texts, told, id, same, stored}
let working = null;
let seconds = 0;

setInterval(() => { if (!document.hidden && pair?.id && !pair.stored) seconds += 0.5; }, 500);

const chosen = () => [...document.querySelectorAll("#models input:checked")].map((one) => one.value);
const tellChosen = () => { get("chosen").textContent = `${chosen().join(", ") || "none"}, at most ${get("max_new_tokens").value} tokens`; };
const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;

/** How many votes there are, and how the models stand by those that count. */
function tellVotes(votes) {
  get("votes").textContent = votes.votes ? `${many(votes.votes, "vote", "votes")} by ${many(votes.people, "person", "people")}` : "";
  const found = votes.standing;
  get("standing").hidden = !found.models.length;
  const number = (value) => value.toFixed(2).replace(/^-(?!0\.00$)/, "−").replace("-", "");
  const line = (one) => el("tr", {}, el("th", { scope: "row" }, one.name), el("td", {}, found.linked ? number(one.score) : "–"), el("td", {}, one.low === null ? "–" : `${number(one.low)} to ${number(one.high)}`), el("td", {}, String(one.votes)));
  get("models-standing").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ["Model", "Score", "95% interval", "Votes"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, found.models.map(line))));
  get("standing-note").textContent = `${many(found.votes, "vote counts", "votes count")}, of ${many(found.people, "person", "people")} on ${many(found.prompts, "prompt", "prompts")}${votes.set_aside ? `; ${many(votes.set_aside, "is", "are")} set aside` : ""}.`
    + (found.linked ? "" : " Some models have never won or never lost against the others, so how far apart they lie is not known yet.");
}

async function play() {
  if (working) return;
  const own = get("prompt").value;
  const prompt = own.trim() ? (inTurns ? { messages: [{ role: "user", content: own.trim() }] } : { text: own }) : {};
  pair = { prompt: null, texts: ["", ""], told: ["", ""], id: null, same: false, stored: null };
  seconds = 0;
  working = new AbortController();
  draw();
  const given = { person: person.get(), models: chosen(), generation: { max_new_tokens: Number(get("max_new_tokens").value), temperature: Number(get("temperature").value) }, ...prompt };
  try {
    await stream("/api/arena/play", given, (line) => {
      if (line.prompt) pair.prompt = line.prompt;
      if (line.text !== undefined) [pair.texts[line.side], pair.told[line.side]] = [line.text, ""];
      if (line.told !== undefined) pair.told[line.side] = line.told;
      if (line.same) pair.same = true;
      if (line.pair) pair.id = line.pair;
      draw();
    }, working.signal);
  } catch (error) {
    say(error.message, 12);
    pair = null;
  }
  working = null;
  if (pair && !pair.id && !pair.same) pair = null;
  draw();
  if (pair?.id) get("vote-a")?.focus({ preventScroll: true });
}

async function vote(outcome) {
  if (!pair?.id || pair.stored || pair.sending) return;
  pair.sending = true;
  const found = await trying(() => ask("/api/arena/vote", { person: person.get(), pair: pair.id, outcome, why: get("why")?.value ?? "", seconds }));
  pair.sending = false;
  if (!found) return;
  pair.stored = found.stored;
  tellVotes(found.votes);
  draw();
  get("ask").focus({ preventScroll: true });
}

function reply(side) {
  const body = pair.stored?.body;
  const letter = "AB"[side];
  const name = body ? body["ab"[side]].model : "";
  const text = pair.texts[side];
  return el("article", { class: body?.outcome === "ab"[side] ? "card reply won" : "card reply", "aria-label": `Answer ${letter}` },
    el("div", { class: "who" }, el("b", {}, letter), el("span", {}, name)),
    text || pair.id || pair.same ? el("p", { class: working && !pair.id ? "text cursor" : "text" }, text || "(nothing)") : el("p", { class: "waits" }, pair.told[side] ? "writing …" : "waiting …"));
}

function draw() {
  get("stop").hidden = !working;
  get("ask").disabled = Boolean(working);
  if (!pair) return get("pair").replaceChildren();
  const body = pair.stored?.body;
  const why = get("why")?.value ?? "";
  const parts = [
    pair.prompt && el("section", { class: "card asked", "aria-label": "Prompt" }, pair.prompt.map((turn) => el("div", {}, pair.prompt.length > 1 && el("div", { class: "role" }, turn.role), el("p", { class: "text" }, turn.content)))),
    el("div", { class: "replies two" }, reply(0), reply(1)),
  ];
  if (pair.same) parts.push(el("p", { class: "told" }, "Both models wrote the same, so there is nothing to choose between."));
  if (pair.id && !body) {
    parts.push(el("div", { class: "verdicts", role: "group", "aria-label": "Your vote" }, Object.entries(WORDS).map(([outcome, words]) => el("button", { type: "button", id: `vote-${outcome}`, onclick: () => vote(outcome) }, words, " ", el("kbd", {}, { a: "A", b: "B", tie: "T", bad: "X" }[outcome])))),
      el("div", {}, el("label", { for: "why" }, "Why? (optional)"), el("textarea", { id: "why", rows: 2, maxlength: 2000 })));
  }
  if (body) {
    parts.push(el("p", { class: "told after", role: "status" }, `Stored, as read back from the disk: ${WORDS[body.outcome]}. A was ${body.a.model}, B was ${body.b.model}.`, body.why && ` You wrote: ${body.why}`,
      body.set_aside && " An answer said a model's name, so this vote is set aside and counts for none."));
  }
  get("pair").replaceChildren(...parts.filter(Boolean));
  if (get("why")) get("why").value = why;
  return undefined;
}

async function begin() {
  const known = await trying(() => ask("/api/arena"));
  if (!known) return;
  for (const [name, value] of Object.entries(known.generation)) get(name).value = value;
  inTurns = known.in_turns;
  tellVotes(known.votes);
  for (const name of known.models) get("models").append(el("label", {}, el("input", { type: "checkbox", value: name, checked: known.chosen.includes(name), onchange: tellChosen }), name));
  tellChosen();
  if (known.models.length < 2) get("pair").replaceChildren(el("p", { class: "told" }, `This run has fewer than two models yet; make them with: make all ${document.body.dataset.named}`));
}

function named(work) {
  if (person.get()) return work();
  return whoIsIt(get("pair"), "Your name stands with your votes, so that it can be told how people agree.", work);
}

get("asking").addEventListener("submit", (event) => { event.preventDefault(); named(play); });
get("asking").addEventListener("input", tellChosen);
get("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); named(play); } });
get("stop").addEventListener("click", () => working?.abort());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, textarea, select")) return;
  const outcome = { a: "a", b: "b", t: "tie", x: "bad" }[event.key.toLowerCase()];
  if (outcome && pair?.id) { event.preventDefault(); vote(outcome); }
});
begin();
