// The room that watches: what was done and whether it worked, the stages, curves as they grow, samples. Told by server-sent events.

import { duration, el } from "/static/common.js";
import { plot, shown, swatch } from "/static/plot.js";

const $ = (id) => document.getElementById(id);
const FEW = 4; // samples that are shown before all are asked for
const NONE = new Set(["data", "compare", "best_of_n"]); // stages that have no steps
const SIGNS = { pass: "✓ pass", warn: "! warn", fail: "✕ fail" };

let runs = null; // as the server tells them
let figures = []; // what each curve is
let far = {}; // "run/folder" -> how far it is
let run = null; // the one that is looked at
let stage = null; // whose curves are shown
let open = []; // "run/folder" of the curves that are drawn, in their order
let all = false; // whether every sample is shown
const curves = new Map(); // "run/folder" -> {points, limits, samples}
const plots = new Map(); // figure -> plot
let source = null;

// ---------------------------------------------------------------- what is looked at

const chosen = () => runs?.find((one) => one.name === run);
const trained = (one) => !NONE.has(one.stage) && (one.state === "made" || one.work);
const folders = (of) => (runs ?? []).flatMap((one) => one.stages.filter((made) => made.stage === of && trained(made)).map((made) => `${one.name}/${made.folder}`));

function readHash() {
  const [name, of] = decodeURIComponent(location.hash.slice(1)).split("/");
  return { name, of };
}

/** Choose a run and a stage: those of the address, else this page's own run and what is being made, or ppo. */
function choose(name, of) {
  run = [name, run, document.body.dataset.run].find((one) => runs.some((other) => other.name === one)) ?? runs[0]?.name ?? null;
  const stages = chosen()?.stages.filter(trained) ?? [];
  const working = stages.find((one) => one.work === "working")?.stage;
  stage = [of, working, "ppo", stages[stages.length - 1]?.stage].find((one) => stages.some((other) => other.stage === one)) ?? null;
  open = stage === null ? [] : folders(stage).filter((one) => one.startsWith(`${run}/`));
}

function follow() {
  source?.close();
  const asked = new URLSearchParams(open.map((one) => ["of", one]));
  source = new EventSource(`/api/runs/live?${asked}`);
  source.addEventListener("open", () => line("on", "live"));
  source.addEventListener("error", (event) => {
    line("off", "not connected");
    const own = event.target; // what was refused is not tried again by the browser itself
    if (own.readyState === EventSource.CLOSED) setTimeout(() => { if (own === source) follow(); }, 5000);
  });
  const heard = { runs: onRuns, progress: onProgress, points: onPoints, limits: onLimits, samples: onSamples };
  for (const [name, act] of Object.entries(heard)) source.addEventListener(name, (event) => act(JSON.parse(event.data)));
}

function line(state, text) {
  $("line").className = `line ${state}`;
  if ($("line").textContent !== text) $("line").textContent = text;
}

function onRuns(told) {
  runs = told;
  const before = `${run}/${stage}/${open}`;
  const address = readHash();
  const known = run !== null && runs.some((one) => one.name === run);
  const busy = chosen()?.stages.find((one) => one.work === "working" && trained(one))?.stage;
  const kept = known && stage !== null && open.length && !(busy && busy !== stage && !address.of);
  if (!kept) choose(known ? run : address.name, address.of);
  else open = open.filter((one) => folders(stage).includes(one));
  show();
  if (`${run}/${stage}/${open}` !== before) follow();
}

function onProgress(told) {
  far = told;
  showProgress();
}

const curve = (of) => curves.get(of) ?? curves.set(of, { points: [], limits: {}, samples: null }).get(of);

function onPoints({ of, anew, points }) {
  const own = curve(of);
  own.points = anew ? points : [...own.points, ...points];
  showPlots();
}

function onLimits({ of, limits }) {
  curve(of).limits = limits;
  showPlots();
}

function onSamples({ of, samples }) {
  curve(of).samples = samples;
  showSamples();
  showPlots();
}

// ---------------------------------------------------------------- the answer

const number = (value) => Number(value).toLocaleString("en");

function about(one) {
  const { model, recipe, settings, demonstrations_train: said, rankings_train: ranked, prompts_eval: held } = one.about;
  const parts = [
    model && `Model ${model}`, recipe && `recipe ${recipe}`,
    said && `${number(said)} demonstrations`, ranked && `${number(ranked)} rankings`, held && `${number(held)} prompts held out`,
    settings?.length && `with ${settings.join(", ")}`,
  ].filter(Boolean);
  return parts.join(" · ");
}

function address(one, page) {
  return `/runs/${encodeURIComponent(run)}/files/${encodeURIComponent(one)}/${encodeURIComponent(page)}`;
}

const link = (folder, page, text) => el("a", { href: address(folder, page), target: "_blank", rel: "noopener" }, text);

function showAnswer(one) {
  const first = one.answers[0];
  if (!first) {
    const working = one.stages.filter((made) => made.work === "working");
    const next = one.stages.find((made) => made.state === "missing");
    const told = working.length ? [el("b", {}, working.map((made) => made.folder).join(", ")), working.length > 1 ? " are being made." : " is being made."] : ["Not compared yet."];
    $("answer").replaceChildren(el("div", { class: `card verdict ${working.length ? "busy" : ""}` },
      el("p", { class: "asks" }, "Is the aligned model better?"), el("p", { class: "big" }, ...told),
      ...working.map((made) => el("p", { class: "whole at", "data-of": `${one.name}/${made.folder}` })),
      el("p", { class: "whole" }, working.length ? "Whether it worked is told here once it is compared with what it came from." : next ? [next.work ? `${next.folder} was interrupted; the same command goes on. ` : `Next: ${next.help} `, el("code", { class: "do" }, next.command)] : "")));
    return;
  }
  const kind = first.kind;
  const report = one.stages.find((made) => made.folder === first.folder)?.pages.find((page) => /^report(\.\w+)?\.html$/.test(page));
  const others = one.answers.slice(1).map((other) => el("p", { class: "whole" }, el("b", {}, `${other.folder}: ${other.word}. `), other.why));
  $("answer").replaceChildren(el("div", { class: `card verdict ${kind}` },
    el("p", { class: "asks" }, "Is the aligned model better?"),
    el("p", { class: "big" }, el("b", {}, `${first.word}. `), first.why),
    el("p", { class: "whole" }, first.verdict), ...others,
    report ? el("p", { class: "links" }, link(first.folder, report, "Read the whole report")) : null), example(first.example));
}

const WHO = { base: "the original model", sft: "after demonstrations", ppo: "aligned with what people preferred" };

function example(found) {
  if (!found) return "";
  return el("div", { class: "card said-by" },
    el("p", { class: "prompt" }, el("small", {}, "A prompt that nobody trained on, neither the best nor the worst for it"), el("span", { class: "text" }, found.prompt)),
    el("ol", {}, found.answers.map((one, place) => el("li", { class: place === found.answers.length - 1 ? "main" : "" },
      el("p", { class: "who" }, el("b", {}, one.model), ` ${WHO[one.model] ?? ""}`), el("p", { class: "text" }, one.text.trim() || "(nothing)")))));
}

// ---------------------------------------------------------------- stages

function badge(one) {
  if (one.work === "working") return el("span", { class: "badge working" }, "at work");
  if (one.state === "made") return el("span", { class: `badge ${one.gate}` }, SIGNS[one.gate] ?? one.gate);
  if (one.state === "unreadable") return el("span", { class: "badge unreadable" }, "cannot be read");
  return el("span", { class: "badge" }, one.work === "stopped" ? "interrupted" : "not made");
}

function showStages(one) {
  const next = one.working.length ? null : one.stages.find((made) => made.state === "missing");
  document.querySelector(".walk").replaceChildren(...one.stages.map((made) => {
    const pages = made.pages.filter((page) => page !== "report.md");
    return el("li", { class: `card ${made.state} ${made.work}`, id: `stage-${made.folder}` },
      el("h3", {}, made.folder, badge(made)),
      el("p", { class: "help" }, made.help),
      made.work ? el("div", { class: "far", "data-of": `${one.name}/${made.folder}` }) : null,
      made.figures.length ? el("dl", {}, made.figures.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])) : null,
      made.doubts.length ? el("details", {}, el("summary", {}, made.doubts.length === 1 ? "1 doubt of its gate" : `${made.doubts.length} doubts of its gate`), el("ul", {}, made.doubts.map((doubt) => el("li", {}, doubt)))) : null,
      made === next ? el("code", { class: "do" }, made.command) : null,
      el("p", { class: "foot" }, pages.map((page) => link(made.folder, page, page)), made.finished ? el("time", {}, `${made.finished} UTC`) : null));
  }));
  showProgress();
}

/** Such as "step 60 of 131, 3 min 35 s left". */
function reached(at) {
  if (!at || at.step === null) return "";
  const step = at.steps === null ? `step ${number(at.step)}` : `step ${number(at.step)} of ${number(at.steps)}`;
  return at.left === null ? step : `${step}, ${duration(at.left)} left`;
}

function showProgress() {
  for (const place of document.querySelectorAll(".verdict .at")) place.textContent = reached(far[place.dataset.of]);
  for (const place of document.querySelectorAll("div.far")) {
    const at = far[place.dataset.of];
    const [name, folder] = place.dataset.of.split("/");
    const made = runs.find((one) => one.name === name)?.stages.find((one) => one.folder === folder);
    if (!at || at.step === null) {
      place.replaceChildren(made?.work === "working" ? "has begun" : "interrupted before its first figures");
      continue;
    }
    const told = at.steps === null ? `step ${number(at.step)}` : `step ${number(at.step)} of ${number(at.steps)}`;
    const left = made?.work !== "working" ? "the same command goes on" : at.left === null ? "" : `${duration(at.left)} left`;
    place.replaceChildren(
      at.steps === null ? "" : el("progress", { max: at.steps, value: at.step, "aria-label": `${folder}: steps done` }),
      el("div", { class: "of" }, el("span", {}, told), el("span", {}, left)),
      el("dl", {}, Object.entries(at.figures).flatMap(([figure, value]) => [el("dt", {}, figures.find((one) => one.name === figure)?.label ?? figure), el("dd", {}, shown(value, figures.find((one) => one.name === figure)?.share))])));
  }
}

// ---------------------------------------------------------------- curves

function showTabs(one) {
  const names = [...new Set(one.stages.filter(trained).map((made) => made.stage))];
  $("curves").hidden = !names.length;
  document.querySelector(".tabs").replaceChildren(...names.map((name) => el("button", {
    type: "button", "aria-pressed": String(name === stage),
    onclick: () => { choose(run, name); location.hash = `${encodeURIComponent(run)}/${name}`; show(); follow(); document.querySelector(`.tabs [aria-pressed="true"]`)?.focus(); },
  }, name)));
  const every = stage === null ? [] : folders(stage);
  document.querySelector(".series").replaceChildren(...every.map((of) => {
    const [name, folder] = of.split("/");
    const box = el("input", { type: "checkbox", checked: open.includes(of), onchange: () => {
      open = every.filter((other) => (other === of ? box.checked : open.includes(other)));
      follow();
      showPlots();
      showSamples();
    } });
    return el("label", {}, box, swatch(every.indexOf(of)), name === run ? folder : `${folder} of ${name}`);
  }));
}

const labelOf = (of) => (of.startsWith(`${run}/`) ? of.slice(run.length + 1) : `${of.split("/")[1]} of ${of.split("/")[0]}`);

function showPlots() {
  if (runs === null || stage === null) return;
  const every = folders(stage), place = document.querySelector(".plots");
  for (const figure of figures) {
    const series = open.map((of) => ({ label: labelOf(of), slot: every.indexOf(of), points: pointsOf(curve(of), figure.name) }));
    if (!plots.has(figure.name)) {
      if (!series.some((one) => one.points.length)) continue;
      const made = plot(figure);
      plots.set(figure.name, made);
      const after = figures.slice(figures.indexOf(figure) + 1).map((one) => plots.get(one.name)?.node).find(Boolean);
      place.insertBefore(made.node, after ?? null);
    }
    plots.get(figure.name).draw(series, open.map((of) => curve(of).limits[figure.name]).find(Boolean));
  }
  const some = open.some((of) => curve(of).points.length);
  $("none").hidden = some;
  $("none").textContent = open.length ? "No figures yet; they appear here with the first steps." : "Choose what the plots show.";
  document.querySelector(".numbers").hidden = !some;
  showNumbers();
}

/** The points of one figure; that of the held-out reward from the samples, which have step 0 too. */
function pointsOf(own, name) {
  if (name === "held-out reward" && own.samples?.scores.length) return own.samples.scores;
  return own.points.filter((point) => point[name] !== undefined).map((point) => [point.step, point[name]]);
}

function showNumbers() {
  const place = document.querySelector(".numbers");
  if (!place.open) return;
  const had = figures.filter((figure) => open.some((of) => curve(of).points.some((point) => point[figure.name] !== undefined)));
  const head = el("tr", {}, el("th", { scope: "col" }, "of"), el("th", { scope: "col" }, "step"), had.map((figure) => el("th", { scope: "col" }, figure.label)));
  const rows = open.flatMap((of) => curve(of).points.map((point) => el("tr", {}, el("th", { scope: "row" }, labelOf(of)), el("td", {}, String(point.step)), had.map((figure) => el("td", {}, shown(point[figure.name], figure.share))))));
  place.querySelector(".wide").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}
document.querySelector(".numbers").addEventListener("toggle", showNumbers);

// ---------------------------------------------------------------- samples

function showSamples() {
  const of = open.find((one) => curve(one).samples?.rows.length);
  $("samples").hidden = !of;
  if (!of) return;
  const { first, last, rows, more } = curve(of).samples;
  const only = first === last;
  document.querySelector("#samples .note").textContent = `Held-out prompts, ${labelOf(of)}: what it said at step ${first}${only ? "; what it says later stands beside it" : ` and says at step ${last}, with the same random numbers`}. The number is the score that training raises.`;
  document.querySelector(".pairs").replaceChildren(...rows.slice(0, all ? rows.length : FEW).map((row) => el("li", { class: "card" },
    el("p", { class: "prompt text" }, row.prompt),
    el("div", { class: "two" }, said(`step ${first}`, row.before), only ? null : said(`step ${last}`, row.after, row.before)))));
  $("all").hidden = rows.length <= FEW;
  $("all").textContent = all ? "Fewer" : `All ${rows.length}${more ? ` of ${rows.length + more}` : ""} samples`;
}

function said(who, own, before) {
  if (!own) return el("div", {}, el("p", { class: "who" }, who), el("p", { class: "note" }, "not asked yet"));
  const change = before && own.score !== null && before.score !== null ? own.score - before.score : 0;
  return el("div", {}, el("p", { class: "who" }, who, own.score === null ? null : el("b", {}, shown(own.score)),
    change ? el("span", { class: change > 0 ? "up" : "down" }, `${change > 0 ? "▲" : "▼"} ${shown(Math.abs(change))}`) : null, own.eos ? null : "cut at the limit"),
    el("p", { class: "text" }, own.text.trim() || "(nothing)"));
}
$("all").addEventListener("click", () => { all = !all; showSamples(); });

// ---------------------------------------------------------------- all of it

function show() {
  const one = chosen();
  $("run").replaceChildren(...runs.map((other) => el("option", { value: other.name, selected: other.name === run }, other.working.length ? `${other.name}: at work` : other.name)));
  document.querySelector(".choose label").hidden = $("run").hidden = runs.length < 2;
  $("walk").hidden = !one;
  if (!one) {
    $("title").textContent = "Nothing is made yet";
    $("about").textContent = "Start a run in a terminal, and it is shown here as it goes on. This one needs a few minutes:";
    $("answer").replaceChildren(el("code", { class: "do" }, "make demo"));
    $("curves").hidden = $("samples").hidden = true;
    return;
  }
  $("title").textContent = one.name;
  document.title = `${one.working.length ? "▶ " : ""}${one.name} · Watch`;
  $("about").textContent = about(one);
  showAnswer(one);
  showStages(one);
  showTabs(one);
  showPlots();
  showSamples();
}

$("run").addEventListener("change", () => { run = null; choose($("run").value); location.hash = encodeURIComponent(run); show(); follow(); });
window.addEventListener("hashchange", () => {
  const { name, of } = readHash();
  if (runs === null || (name === run && (of ?? stage) === stage)) return;
  choose(name, of);
  show();
  follow();
});

const told = await fetch("/api/runs").then((answer) => (answer.ok ? answer.json() : null), () => null);
if (told === null) line("off", "not connected");
figures = told?.figures ?? [];
onRuns(told?.runs ?? []);
if (source === null) follow();
