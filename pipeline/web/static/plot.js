// Line plots by hand: axes, several series, a limit that halts training, values at the pointer or by arrow keys.

import { el } from "/static/common.js";

const HEIGHT = 168, LEFT = 46, RIGHT = 12, TOP = 10, BOTTOM = 24;
export const SLOTS = 8; // colours with dashes of their own; further series use them again

/** A number as it stands beside an axis or a title. */
export function shown(value, share = false) {
  if (value === undefined || value === null) return "–";
  const size = Math.abs(value);
  let text;
  if (share) text = `${+(100 * value).toFixed(size < 0.1 ? 1 : 0)}%`;
  else if (size >= 100000) text = `${+(value / 1000).toPrecision(3)}k`;
  else if (size >= 1000) text = Math.round(value).toLocaleString("en");
  else if (size && size < 0.001) text = value.toExponential(1);
  else text = String(+value.toPrecision(3));
  return text.replace("-", "−");
}

const NS = "http://www.w3.org/2000/svg";
function svg(tag, attributes = {}, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A dash of a series' own kind, for legends. */
export function swatch(slot) {
  const drawn = svg("svg", { class: "swatch", viewBox: "0 0 26 8", "aria-hidden": "true" });
  drawn.append(svg("line", { class: `s${slot % SLOTS}`, x1: 0, x2: 26, y1: 4, y2: 4 }));
  return drawn;
}

/** Round numbers between two ends, about `wanted` of them. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power <= 1.5 ? 1 : rough / power <= 3.5 ? 2 : rough / power <= 7.5 ? 5 : 10);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(+(n * step).toPrecision(12));
  return found;
}

/** What stands beside a grid line: as many digits as tell it from the next one. */
export function tickText(value, step, share = false) {
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10((share ? 100 : 1) * step) + 1e-9)));
  if (Math.abs(value) >= 10000 || digits > 4) return shown(value, share);
  const text = ((share ? 100 : 1) * value).toFixed(digits);
  return `${(Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−")}${share ? "%" : ""}`;
}

/** Where the vertical axis ends, and whether the limit lies between; one that is far away would press the curve flat. */
export function range(values, limit, share = false) {
  let low = Math.min(...values), high = Math.max(...values);
  const near = limit !== undefined && Math.max(high, limit) - Math.min(low, limit) <= 3 * Math.max(high - low, Math.abs(limit) * 0.1, 1e-9);
  if (near) { low = Math.min(low, limit); high = Math.max(high, limit); }
  const least = Math.max(1e-5, 1e-3 * Math.max(Math.abs(low), Math.abs(high))); // what is less is rounding, and looks flat
  const pad = high === low ? 0.1 * Math.abs(high) || (share ? 0.1 : 0.5) : Math.max(0.07 * (high - low), (least - (high - low)) / 2);
  if (share) return { low: Math.max(0, low - pad), high: Math.min(1, high + pad), near };
  return { low: low - pad, high: high + pad, near };
}

const SIDES = { above: "above", below: "below" };

/** A plot of one figure. `draw(series, limit)`: series are {label, slot, points: [[x, y], …]}, points in the order of x. */
export function plot({ label: name, words, share }) {
  const reading = el("span", { class: "reading" });
  const canvas = svg("svg", { "aria-hidden": "true" });
  const live = el("span", { class: "unseen", role: "status" });
  const area = el("div", { class: "area", tabindex: "0", role: "img" }, canvas);
  const node = el("figure", { class: "plot card" }, el("figcaption", {}, el("span", { class: "name" }, name), reading, el("small", {}, words)), area, live);
  let series = [], limit, at = null, scales = null, width = 0;

  function nearest(x) {
    let best = null;
    for (const one of series) for (const [step] of one.points) if (best === null || Math.abs(step - x) < Math.abs(best - x)) best = step;
    return best;
  }

  function valueAt(one, x) {
    let low = 0, high = one.points.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (one.points[middle][0] <= x) low = middle; else high = middle - 1; }
    return one.points.length && one.points[low][0] === x ? one.points[low][1] : undefined;
  }

  function read() {
    const parts = [];
    for (const one of series) {
      const last = one.points[one.points.length - 1];
      const value = at === null ? last?.[1] : valueAt(one, at);
      if (value === undefined) continue;
      parts.push(el("span", { class: "value" }, series.length > 1 ? swatch(one.slot) : null, el("b", {}, shown(value, share))));
    }
    const x = at ?? Math.max(...series.flatMap((one) => one.points.slice(-1).map((point) => point[0])));
    reading.replaceChildren(...parts, el("small", {}, Number.isFinite(x) ? `step ${x}` : ""));
  }

  function paint() {
    canvas.replaceChildren();
    const every = series.flatMap((one) => one.points);
    if (!every.length || !width) return;
    const xs = every.map((point) => point[0]);
    const first = Math.min(...xs), last = Math.max(...xs, first + 1);
    const { low, high, near } = range(every.map((point) => point[1]), limit?.value, share);
    const X = (x) => LEFT + ((x - first) / (last - first)) * (width - LEFT - RIGHT);
    const Y = (y) => HEIGHT - BOTTOM - ((y - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    scales = { X, Y, first, last };
    canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    canvas.setAttribute("height", HEIGHT);
    const lines = ticks(low, high, 4), gap = lines.length > 1 ? lines[1] - lines[0] : high - low;
    for (const value of lines) {
      canvas.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: Y(value), y2: Y(value) }));
      canvas.append(svg("text", { class: "tick", x: LEFT - 6, y: Y(value) + 4, "text-anchor": "end" }, tickText(value, gap, share)));
    }
    for (const step of ticks(first, last, Math.max(2, Math.min(6, width / 70))).filter(Number.isInteger)) {
      canvas.append(svg("text", { class: "tick", x: X(step), y: HEIGHT - 6, "text-anchor": step === last ? "end" : "middle" }, step.toLocaleString("en")));
    }
    let bound = null;
    if (limit) {
      const y = near ? Y(limit.value) : limit.value > high ? TOP : HEIGHT - BOTTOM;
      const told = near ? `halts ${SIDES[limit.side]} ${shown(limit.value, share)}` : `halts ${SIDES[limit.side]} ${shown(limit.value, share)}, off this scale ${limit.value > high ? "↑" : "↓"}`;
      canvas.append(svg("line", { class: near ? "limit" : "limit far", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      // at the end of the plot where the curves are further away from it
      const away = (low, high) => Math.min(...every.filter(([x]) => X(x) >= low && X(x) <= high).map(([, value]) => Math.abs(Y(value) - y)));
      const left = away(LEFT, LEFT + 0.6 * width) > away(0.4 * width, width);
      bound = svg("text", { class: "limit", x: left ? LEFT + 4 : width - RIGHT, y: y > HEIGHT / 2 ? y - 5 : y + 13, "text-anchor": left ? "start" : "end" }, told);
    }
    const dotted = every.length <= 40;
    for (const one of series) {
      if (!one.points.length) continue;
      const place = one.points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`);
      if (place.length > 1) canvas.append(svg("polyline", { class: `curve s${one.slot % SLOTS}`, points: place.join(" ") }));
      for (const [x, y] of dotted ? one.points : one.points.slice(-1)) {
        canvas.append(svg("circle", { class: `dot s${one.slot % SLOTS}`, cx: X(x), cy: Y(y), r: dotted ? 2.4 : 3 }));
      }
    }
    if (bound) canvas.append(bound);
    mark();
  }

  function mark() {
    canvas.querySelectorAll(".here").forEach((one) => one.remove());
    if (at === null || !scales) return;
    canvas.append(svg("line", { class: "here", x1: scales.X(at), x2: scales.X(at), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const one of series) {
      const value = valueAt(one, at);
      if (value !== undefined) canvas.append(svg("circle", { class: `here dot s${one.slot % SLOTS}`, cx: scales.X(at), cy: scales.Y(value), r: 4.5 }));
    }
  }

  function go(x, aloud = false) {
    at = x;
    read();
    mark();
    if (aloud && x !== null) live.textContent = `step ${x}: ${series.map((one) => `${one.label} ${shown(valueAt(one, x), share)}`).join(", ")}`;
  }

  area.addEventListener("pointermove", (event) => {
    if (!scales) return;
    const box = canvas.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT);
    go(nearest(scales.first + share * (scales.last - scales.first)));
  });
  area.addEventListener("pointerleave", () => go(null));
  area.addEventListener("blur", () => go(null));
  area.addEventListener("keydown", (event) => {
    const steps = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const here = at === null ? steps.length - 1 : steps.indexOf(at);
    const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: steps.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    go(steps[Math.max(0, Math.min(steps.length - 1, next))], true);
  });
  new ResizeObserver(([entry]) => { width = Math.round(entry.contentRect.width); paint(); }).observe(area);

  function draw(given, bound) {
    series = given;
    limit = bound;
    if (at !== null && nearest(at) !== at) at = null;
    node.hidden = !series.some((one) => one.points.length);
    const last = series.filter((one) => one.points.length).map((one) => `${one.label} ${shown(one.points[one.points.length - 1][1], share)}`);
    area.setAttribute("aria-label", `${name}, ${words}: last ${last.join(", ")}${limit ? `; training halts ${SIDES[limit.side]} ${shown(limit.value, share)} (${limit.setting})` : ""}. Arrow keys read single steps.`);
    read();
    paint();
  }

  return { node, draw };
}
