// The tokens of replies in the colours that an extension's token_colors gives them.

import { byId, onOpen, state } from "./chat_state.js";
import { messages, onDrawn, redrawAll } from "./messages.js";
import { element, get, present } from "./net.js";

const NO_TEXT = "button, .code-head, math, .call, .message-note";
const FAR = 300;
const colors = { on: false, version: -1, end: null, legend: "" };
const known = new Map(); // what the server said of a message
const seen = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && color(entry.target)), { rootMargin: "300px" });

/** What the stream says: whether there are colours, and that something about them changed. */
export function followColors({ colors: on, version }) {
  if (on && colors.on && version !== colors.version) redrawAll();
  colors.version = version;
  if (on === colors.on) return known.clear();
  colors.on = on;
  known.clear();
  if (on) colors.end = onDrawn(watch);
  else {
    colors.end?.();
    seen.disconnect();
    tell([]);
    redrawAll();
  }
}

function watch(message, node) {
  if (message.role === "assistant" && message.state !== "streaming") seen.observe(node);
}

async function color(node) {
  seen.unobserve(node);
  const id = Number(node.dataset.id);
  const key = `${state.chat}/${id}`;
  if (!known.has(key)) known.set(key, get(`chats/${state.chat}/messages/${id}/tokens`));
  const found = await known.get(key);
  if (!found?.parts?.length || !colors.on || messages.drawn.get(id) !== node) return;
  paint(node.querySelector(".rendered"), found.parts);
  tell(found.legend);
}

/** Put each piece of the text into an element of its token. What is shown is the text less its
 *  marks (**, #, links), so each character shown is the next one like it. */
function paint(place, parts) {
  const text = parts.map(([piece]) => piece).join("");
  const owners = new Uint32Array(text.length);
  let end = 0;
  parts.forEach(([piece], i) => owners.fill(i, end, (end += piece.length)));
  const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT, (node) => (node.parentElement.closest(NO_TEXT) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT));
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  let at = 0;
  for (const node of nodes) {
    const pieces = [];
    for (let i = 0; i < node.data.length; i++) {
      const char = node.data[i];
      const found = placeOf(text, at, node.data, i);
      if (found >= 0) at = found + 1;
      const owner = found < 0 ? -1 : owners[found];
      if (pieces.at(-1)?.owner === owner) pieces.at(-1).text += char;
      else pieces.push({ owner, text: char });
    }
    node.replaceWith(...pieces.map(({ owner, text: shown }) => tinted(parts[owner], shown)));
  }
}

/** Where the character `i` of what is shown stands in the text, from `at` on; -1: nowhere near. */
function placeOf(text, at, shown, i) {
  const blank = /\s/.test(shown[i]);
  if (text[at] === shown[i] || (blank && /\s/.test(text[at] ?? ""))) return at;
  if (blank) return -1; // between blocks
  // After a mark: the longest run from here on that is near, so that no letter of a mark is taken.
  const run = /^\S{1,8}/.exec(shown.slice(i, i + 8))[0];
  for (let length = run.length; length > 0; length--) {
    const place = text.slice(at, at + FAR).indexOf(run.slice(0, length));
    if (place >= 0) return at + place;
  }
  return -1;
}

function tinted(part, text) {
  if (!part || part.length < 2) return document.createTextNode(text);
  const made = element("span", { className: "tinted" }, text);
  if (part[1]) made.style.setProperty("--tint", part[1]);
  else made.classList.add("plain");
  made.token = part;
  return made;
}

// -- the legend, and what a token is about ------------------------------------------------

function tell(legend) {
  const key = JSON.stringify(legend);
  if (colors.legend === key) return;
  colors.legend = key;
  byId("token-legend")?.remove();
  if (!legend.length) return;
  const shown = legend.map(([color, meaning]) => {
    const mark = element("i", { ariaHidden: "true", className: color ? "" : "plain" });
    mark.style.setProperty("--tint", color || "transparent");
    return element("li", {}, mark, meaning);
  });
  byId("composer").before(element("ul", { id: "token-legend", ariaLabel: "The colours of tokens" }, ...shown));
}

const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const written = (text) => text.replaceAll("\n", "⏎").replaceAll(" ", "·") || "(no text)";

function tip(target) {
  byId("token-tip")?.remove();
  if (!target) return;
  const [, , probability, alternatives] = target.token;
  const text = target.token[0];
  const row = ([other, share]) => element("tr", { className: other === text ? "taken" : "" }, element("th", { scope: "row" }, written(other)), element("td", {}, percent(share)));
  const made = element(
    "div",
    { id: "token-tip", role: "tooltip" },
    element("p", {}, element("strong", {}, written(text)), ` ${percent(probability)}`),
    alternatives.length ? element("table", {}, element("tbody", {}, ...alternatives.map(row))) : null,
  );
  document.body.append(made);
  const box = target.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = made;
  made.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  made.style.top = `${box.bottom + height + 8 < innerHeight ? box.bottom + 4 : box.top - height - 4}px`;
}

const over = (event) => tip(event.target.closest?.(".tinted"));
await present("chat-messages");
byId("chat-messages").addEventListener("pointerover", over);
byId("chat-messages").addEventListener("click", over); // where there is no pointer that hovers
byId("chat-messages").addEventListener("pointerleave", () => tip(null));
byId("chat-scroll").addEventListener("scroll", () => tip(null));
document.addEventListener("keydown", () => tip(null));
onOpen(() => (known.clear(), tell([])));
