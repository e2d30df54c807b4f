// The page on which people talk to one or two models, and pick the better answer.

import { ask, duration, el, newId, person, say, trying, whoIsIt } from "./common.js";
import { stream } from "./stream.js";

const get = (id) => document.getElementById(id);
const SETTINGS = ["max_new_tokens", "temperature", "top_k", "top_p", "min_p"];
const turns = []; // {question, replies: [{model, text, told, done, error}], picked: index or null, stored: id or null}
let working = null; // the AbortController of the answer that is written

function generation() {
  const sampled = get("do_sample").checked;
  const given = { do_sample: sampled };
  for (const name of SETTINGS) if (name === "max_new_tokens" || sampled) given[name] = Number(get(name).value);
  return given;
}

function tellDecoding() {
  const how = generation();
  get("decoded").textContent = how.do_sample ? `sampling, temperature ${how.temperature}, at most ${how.max_new_tokens} tokens` : `greedy, at most ${how.max_new_tokens} tokens`;
  for (const name of ["temperature", "top_k", "top_p", "min_p"]) get(name).disabled = !how.do_sample;
}

const asText = () => get("mode").value === "text";
const models = () => [get("first").value.trim(), get("second").value.trim()].filter(Boolean);
const kept = (turn) => turn.replies[turn.picked ?? 0]?.text ?? "";

/** What stands before the answer of turn `at`: {text} or {messages}. */
function before(at) {
  if (asText()) return { text: turns[at].question };
  const messages = get("system").value.trim() ? [{ role: "system", content: get("system").value.trim() }] : [];
  turns.slice(0, at).forEach((turn) => messages.push({ role: "user", content: turn.question }, { role: "assistant", content: kept(turn) }));
  return { messages: [...messages, { role: "user", content: turns[at].question }] };
}
const promptOf = (at) => { const given = before(at); return given.text ?? given.messages; };

async function answered(at) {
  const turn = turns[at];
  [turn.picked, turn.stored] = [null, null];
  turn.replies = models().map((model) => ({ model, text: "", told: "waiting", done: null }));
  const seed = get("seed").value === "" ? null : Number(get("seed").value);
  const given = { person: person.get(), models: models(), generation: generation(), ...before(at), ...(seed === null ? {} : { seed }) };
  working = new AbortController();
  draw();
  get(`turn-${at}`)?.scrollIntoView({ block: "end" });
  try {
    await stream("/api/chat/say", given, (line) => { Object.assign(turn.replies[line.side], line, line.done ? { text: line.done.text } : line.text ? { told: "" } : {}); drawTurn(at); }, working.signal);
  } catch (error) {
    say(error.message, 12);
    const open = turn.replies.find((one) => !one.done);
    if (open) open.error = error.message;
  }
  working = null;
  turn.replies.forEach((one) => { one.told = ""; });
  draw();
}

function send() {
  const question = asText() ? get("message").value : get("message").value.trim();
  if (!question.trim() || working) return;
  if (!models().length) return say("Name a model first.");
  turns.push({ question, replies: [], picked: null, stored: null });
  get("message").value = "";
  answered(turns.length - 1);
}

async function pick(at, side) {
  const turn = turns[at];
  const [chosen, rejected] = [turn.replies[side], turn.replies[1 - side]];
  const found = await trying(() => ask("/api/chat/prefer", { person: person.get(), id: (chosen.event ??= newId()), ...before(at), chosen: { text: chosen.text, model: chosen.model }, rejected: { text: rejected.text, model: rejected.model } }));
  if (!found) return;
  turn.picked = side;
  turn.stored = found.stored;
  draw();
}

async function copy(value) {
  try {
    await navigator.clipboard.writeText(JSON.stringify(value));
    say("Copied, as a line of JSON.");
  } catch {
    say("The browser does not let the page copy; open it at 127.0.0.1.");
  }
}

function reply(turn, at, one, side) {
  const two = turn.replies.length === 2;
  const ready = !working && turn.replies.every((each) => each.done);
  const facts = one.done && `${one.done.tokens} tokens, ${duration(one.done.seconds)}${one.done.stopped ? ", stopped" : one.done.finished ? "" : ", cut at its limit"}`;
  return el("article", { class: turn.picked === side ? "card reply picked" : "card reply", "aria-label": `Answer of ${one.model}` },
    el("div", { class: "who" }, el("b", {}, one.model), el("span", {}, facts || "")),
    one.error ? el("p", { class: "bad" }, one.error) : one.told && !one.text ? el("p", { class: "waits" }, `${one.told} …`) : el("p", { class: working && !one.done ? "text cursor" : "text" }, one.text || (one.done ? "(nothing)" : "")),
    el("div", { class: "row" },
      two && ready && turn.stored === null && el("button", { type: "button", onclick: () => pick(at, side) }, "Better"),
      turn.picked === side && el("span", { class: "stored" }, "✓ stored as better, read back from the disk"),
      asText() && one.done && !working && el("button", { type: "button", onclick: () => { get("message").value = turn.question + one.text; get("message").focus(); } }, "Go on from here"),
      turn.picked === side && el("button", { type: "button", onclick: () => copy({ prompt: promptOf(at), chosen: one.text, rejected: turn.replies[1 - side].text }) }, "Copy as a preference")));
}

function made(turn, at) {
  const edit = () => { get("message").value = turn.question; turns.length = at; draw(); get("message").focus(); };
  return el("li", { id: `turn-${at}` },
    el("div", { class: "question" }, el("p", { class: "text" }, turn.question), !working && el("div", { class: "row" }, el("button", { type: "button", onclick: edit }, "Edit"))),
    el("div", { class: turn.replies.length === 2 ? "replies two" : "replies" }, turn.replies.map((one, side) => reply(turn, at, one, side))));
}

function drawTurn(at) {
  get(`turn-${at}`)?.replaceWith(made(turns[at], at));
}

function draw() {
  get("turns").replaceChildren(...turns.map(made));
  get("stop").hidden = !working;
  get("send").disabled = Boolean(working);
  get("retry").disabled = get("clear").disabled = Boolean(working) || !turns.length;
  get("copyprompt").disabled = !turns.length;
  get("systemfield").hidden = asText();
  get("messagelabel").textContent = asText() ? "Text to go on with" : "Message";
}

async function begin() {
  const known = await trying(() => ask("/api/models"));
  if (!known) return;
  get("models").replaceChildren(...[...known.models, ...known.others].map((name) => el("option", { value: name })));
  get("first").value ||= known.first ?? "";
  get("second").value ||= known.beside ?? "";
  for (const [name, value] of Object.entries(known.generation)) get(name).value = value;
  get("mode").value = known.in_turns ? "messages" : "text";
  tellDecoding();
  draw();
}

get("writing").addEventListener("submit", (event) => { event.preventDefault(); named(send); });
get("message").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); named(send); } });
get("stop").addEventListener("click", () => working?.abort());
get("retry").addEventListener("click", () => { if (turns.length && !working) answered(turns.length - 1); });
get("clear").addEventListener("click", () => { turns.length = 0; draw(); });
get("copyprompt").addEventListener("click", () => copy({ prompt: promptOf(turns.length - 1) }));
get("mode").addEventListener("change", () => { turns.length = 0; draw(); });
get("generation").addEventListener("input", tellDecoding);
get("generation").addEventListener("submit", (event) => event.preventDefault());

/** Do `work` under a name: one is asked for once. */
function named(work) {
  if (person.get()) return work();
  const box = el("dialog", { class: "card" });
  document.body.append(box);
  whoIsIt(box, "One answer is written at a time for each person, and what you pick stands under your name.", () => { box.close(); box.remove(); work(); });
  box.showModal();
  return undefined;
}

begin();
