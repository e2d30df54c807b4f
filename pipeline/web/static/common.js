// What all rooms share: asking the server, building elements from text alone, saying something, a person's name.

/** Ask an address for JSON, or send `body` to it. Throws an Error with the server's sentence. */
export async function ask(address, body) {
  const how = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, { credentials: "same-origin", ...how });
  } catch {
    throw new Error("The server does not answer; it may have been ended in the terminal.");
  }
  const kind = answer.headers.get("Content-Type") ?? "";
  const said = kind.startsWith("application/json") ? await answer.json() : { error: (await answer.text()).trim() };
  if (!answer.ok) throw new Error(said.error || `The server answered ${answer.status}.`);
  return said;
}

/** An element with properties, and children that are elements or texts. Text is text: nothing is ever read as markup. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const one of children.flat()) if (one !== null && one !== undefined && one !== false) made.append(one); // one by one: a call takes only so many
  return made;
}

let waiting;
/** Say something at the foot of the page, for some seconds, to eyes and screen readers. */
export function say(text, seconds = 6) {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(waiting);
  waiting = setTimeout(() => { place.textContent = ""; }, seconds * 1000);
}

/** Run what may fail; its error is said. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message, 12);
    return undefined;
  }
}

/** An id that nothing else has; what is sent twice under it is stored once. */
export const newId = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");

export const person = {
  get: () => localStorage.getItem("person") ?? "",
  set: (name) => localStorage.setItem("person", name.trim()),
};

/** Words of the name field and its form, in place of `place` until somebody has said who they are; then `go(name)`. */
export function whoIsIt(place, why, go) {
  const field = el("input", { id: "person", autocomplete: "nickname", maxlength: 60, required: true, value: person.get() });
  const form = el("form", { class: "card who", onsubmit: (event) => { event.preventDefault(); if (field.value.trim()) { person.set(field.value); go(person.get()); } } },
    el("h2", {}, "Who are you?"), el("p", { class: "note" }, why),
    el("label", { for: "person" }, "Your name, or any name that you keep"), el("div", { class: "row" }, field, el("button", { class: "main" }, "Begin")));
  place.replaceChildren(form);
  field.focus();
}

/** A duration as people say it. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
