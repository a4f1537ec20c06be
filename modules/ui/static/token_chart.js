// Tokens as people can read them: the chances of the next one, and a text cut into its tokens.

import { element } from "./net.js";

const MARKS = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };
const SCALES = [0.1, 0.25, 0.5, 1];

/** A token's text with its white space made visible. */
const visible = (text) => text.replace(/[ \n\t\r\u00a0]/g, (one) => MARKS[one]);

function percent(share) {
  if (share === null) return "–"; // a server elsewhere does not tell
  if (share === 0) return "0";
  if (share < 0.0005) return "<0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** Draw the answer of look/next, in rows that stay where they are while knobs turn. */
export function drawChances(place, found, notes = []) {
  if (!place.querySelector("table")) place.replaceChildren(table(), element("p", { className: "soft chances-end" }));
  const most = Math.max(...found.tokens.map((token) => Math.max(token.before, token.after)));
  const scale = SCALES.find((one) => most <= one) ?? 1;
  const body = place.querySelector("tbody");
  while (body.children.length > found.tokens.length) body.lastChild.remove();
  while (body.children.length < found.tokens.length) body.append(row());
  found.tokens.forEach((token, i) => fill(body.children[i], token, scale));
  place.querySelector(".chances-scale").textContent = `to ${100 * scale} %`;
  const rest = (which) => percent(Math.max(0, 1 - found.tokens.reduce((sum, token) => sum + token[which], 0)));
  if (!found.vocabulary) {
    const told = "The server tells the model's own chances, and not what the parameters make of them.";
    place.querySelector(".chances-end").textContent = told;
    return;
  }
  const kept = `Kept ${found.kept.toLocaleString()} of ${found.vocabulary.toLocaleString()} tokens.`;
  const others = found.kept > 1 ? ` All that are not shown: ${rest("before")} before, ${rest("after")} after.` : "";
  place.querySelector(".chances-end").textContent = [kept + others, ...notes].join(" ");
}

function table() {
  const head = (text, className) => element("th", { scope: "col", className }, text);
  return element(
    "table",
    { className: "chances" },
    element("caption", { className: "unseen" }, "The likeliest next tokens, before and after the parameters"),
    element("thead", {}, element("tr", {}, head("Token", ""), head("", "chances-scale soft"), head("Before", "before"), head("After", "after"))),
    element("tbody"),
  );
}

function row() {
  const bars = element("td", { className: "bars" }, element("i", { className: "before" }), element("i", { className: "after" }));
  bars.ariaHidden = "true";
  return element("tr", {}, element("th", { scope: "row" }), bars, element("td"), element("td"));
}

function fill(line, token, scale) {
  const [name, bars, before, after] = line.children;
  name.textContent = visible(token.text) || "(no text)";
  name.title = `${token.id < 0 ? "Token" : `Token ${token.id}`}: ${JSON.stringify(token.text)}`;
  before.textContent = percent(token.before);
  after.textContent = percent(token.after);
  bars.children[0].style.width = `${(100 * token.before) / scale}%`;
  bars.children[1].style.width = `${(100 * token.after) / scale}%`;
  line.classList.toggle("dropped", token.after === 0);
}

/** Draw the answer of look/tokens: each token in its tint, its id on hover and focus. */
export function drawTokens(place, found) {
  const hidden = found.count - found.tokens.length;
  const about = hidden ? `${found.count.toLocaleString()} tokens; the last ${found.tokens.length.toLocaleString()} are shown.` : `${found.count.toLocaleString()} ${found.count === 1 ? "token" : "tokens"}.`;
  const told = element("p", { className: "soft token-told" }, about, element("span", { "aria-live": "polite" }));
  const tell = (event) => {
    const chip = event.target.closest?.(".token");
    if (chip) told.lastChild.textContent = ` ${chip.title}`;
  };
  const chips = found.tokens.map(([id, text], i) => chip(id, text, hidden + i));
  const all = element("p", { className: "tokens", tabIndex: 0, role: "group", "aria-label": "The tokens of the text; arrow keys move between them" }, ...chips);
  all.onmouseover = tell;
  all.addEventListener("focusin", tell);
  all.onkeydown = walk;
  place.replaceChildren(told, all);
}

function chip(id, text, place) {
  const shown = visible(text) || "…";
  const title = text ? `Token ${id}: ${JSON.stringify(text)}` : `Token ${id}: a part of a character, or none`;
  const made = element("span", { className: `token${place % 2 ? " odd" : ""}${text ? "" : " part"}`, tabIndex: -1, title }, shown);
  // A line of the text ends a line of the view.
  if (text.includes("\n")) return element("span", { className: "token-line" }, made, element("br"));
  return made;
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const chips = [...event.currentTarget.querySelectorAll(".token")];
  const at = chips.indexOf(document.activeElement);
  chips[at < 0 ? 0 : Math.min(chips.length - 1, Math.max(0, at + step))]?.focus();
}
