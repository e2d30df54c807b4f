// An order of answers: a list of tiers, the best first; answers in one tier are tied. Pure functions that return a new order.

export const places = (order) => order.flat();
export const tierOf = (order, id) => order.findIndex((tier) => tier.includes(id));
const whole = (order) => order.filter((tier) => tier.length > 0);

/** Without `id`. */
export const without = (order, id) => whole(order.map((tier) => tier.filter((one) => one !== id)));

/** `id` alone in the tier `place`, 1 the best; those from there on move down. Beyond the end it comes last. */
export function placed(order, id, place) {
  const rest = without(order, id);
  const at = Math.min(Math.max(place - 1, 0), rest.length);
  return [...rest.slice(0, at), [id], ...rest.slice(at)];
}

/** `id` tied with the tier above it; one without a place is tied with the last. */
export function tied(order, id) {
  const at = tierOf(order, id);
  const above = at < 0 ? order.length - 1 : at - 1;
  return above < 0 ? order : joined(order, id, order[above][0]);
}

/** `id` in the tier of `other`. */
export function joined(order, id, other) {
  if (id === other) return order;
  return whole(order.map((tier) => tier.filter((one) => one !== id)).map((tier) => (tier.includes(other) ? [...tier, id] : tier)));
}

/** How long a text is as it is read: a character of twice the width counts two. */
export const width = (text) => text.length + (text.match(/[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60]/g)?.length ?? 0);

/** `id` one step up (-1) or down (+1): out of a tie first, then past the next tier. */
export function moved(order, id, step) {
  const at = tierOf(order, id);
  if (at < 0) return order;
  if (order[at].length > 1) {
    const rest = order[at].filter((one) => one !== id);
    return [...order.slice(0, at), ...(step < 0 ? [[id], rest] : [rest, [id]]), ...order.slice(at + 1)];
  }
  const to = at + step;
  if (to < 0 || to >= order.length) return order;
  const rest = without(order, id);
  return [...rest.slice(0, to), [id], ...rest.slice(to)];
}

// as data/units.py has it: a character, with its marks, where a script sets no spaces between words
export const SPACELESS = ["Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Myanmar", "Khmer", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom"].map((name) => `\\p{scx=${name}}`).join("");
const PIECES = new RegExp(`(\\s+|[${SPACELESS}]\\p{M}*)`, "u");

/** For each text the words that not all texts have (those that have any words), as pieces {text, differs}, which joined give the text. */
export function differing(texts) {
  const words = texts.map((text) => text.split(PIECES).filter(Boolean));
  const bare = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
  const sets = words.map((list) => new Set(list.map(bare).filter(Boolean))).filter((set) => set.size);
  const shared = (word) => sets.every((set) => set.has(word));
  return words.map((list) => list.map((text) => ({ text, differs: bare(text) !== "" && !shared(bare(text)) })));
}
