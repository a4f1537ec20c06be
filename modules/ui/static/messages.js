// The messages of a chat: drawn once, then changed only where something changed.

import { fileChips } from "./attachments.js";
import { element } from "./net.js";

const BUTTONS = {
  user: [["edit", "Edit"], ["copy", "Copy"], ["pin", "Pin"], ["answer", "Answer again"], ["delete", "Delete"]],
  assistant: [["regenerate", "Regenerate"], ["continue", "Continue"], ["edit", "Edit"], ["copy", "Copy"], ["pin", "Pin"], ["delete", "Delete"]],
};

class MessageList {
  constructor() {
    this.place = null;
    this.drawn = new Map();
    this.facts = new Map();
  }

  clear() {
    this.drawn.clear();
    this.facts.clear();
    this.place?.replaceChildren();
  }

  /** Messages in the shown order; those not in `messages` stay as they are. */
  update(order, messages, earlier) {
    for (const message of messages) this.redraw(message);
    for (const id of [...this.drawn.keys()])
      if (!order.includes(id)) {
        this.drawn.get(id).remove();
        this.drawn.delete(id);
        this.facts.delete(id);
      }
    let before = null;
    for (const id of order.toReversed()) {
      const node = this.drawn.get(id);
      if (!node) continue;
      if (node.parentNode !== this.place || node.nextSibling !== before) this.place.insertBefore(node, before);
      before = node;
    }
    this.drawEarlier(earlier);
    [...this.drawn.values()].forEach((node) => node.classList.remove("last"));
    this.drawn.get(order.at(-1))?.classList.add("last");
  }

  redraw(message) {
    this.facts.set(message.id, message);
    const fresh = this.build(message);
    const old = this.drawn.get(message.id);
    keepOpen(old, fresh);
    if (old?.classList.contains("last")) fresh.classList.add("last");
    old?.replaceWith(fresh);
    this.drawn.set(message.id, fresh);
    listeners.forEach((listener) => listener(message, fresh));
  }

  /** New text of the reply in progress: blocks before `from` are final. */
  grow({ id, from, blocks, stats }) {
    const body = this.drawn.get(id)?.querySelector(".rendered");
    if (!body) return;
    body.querySelector(".waiting")?.remove();
    while (body.children.length > from) body.lastChild.remove();
    for (const block of blocks) body.append(wrap(block));
    this.drawn.get(id).querySelector(".stats").textContent = stats;
  }

  build(message) {
    const body = element("div", { className: "rendered" });
    for (const block of message.blocks) body.append(wrap(block));
    const streaming = message.state === "streaming";
    if (streaming && !message.blocks.length) {
      const waitsFor = document.body.dataset.engine === "loading" ? "Waiting for the model…" : "Reading the prompt…";
      body.append(element("div", { className: "waiting" }, waitsFor));
    }
    const node = element(
      "article",
      { className: `message ${message.role} ${message.state}`, "data-id": message.id, "aria-label": message.name },
      element("header", {}, avatar(message), element("span", { className: "who" }, message.name), pinMark(message), versions(message)),
      body,
      message.files?.length ? fileChips(message.files) : null,
      ...(message.notes ?? []).map((note) => element("p", { className: "message-note soft" }, note)),
      fault(message),
      element(
        "footer",
        {},
        stats(message),
        streaming ? null : actions(message),
      ),
    );
    return node;
  }

  drawEarlier(count) {
    this.place.querySelector(".earlier")?.remove();
    if (!count) return;
    const text = `Show ${count.toLocaleString()} earlier ${count === 1 ? "message" : "messages"}`;
    this.place.prepend(element("button", { type: "button", className: "quiet earlier", "data-act": "earlier" }, text));
  }
}

const listeners = new Set();

/** The messages of the open chat; `place` is where they are drawn. */
export const messages = new MessageList();

/** Have `listener` called with each message and its element, now and when it is drawn anew.
 *  Returns what ends that. */
export function onDrawn(listener) {
  listeners.add(listener);
  for (const [id, node] of messages.drawn) listener(messages.facts.get(id), node);
  return () => listeners.delete(listener);
}

/** Draw what has ended anew, without what was added to it. */
export function redrawAll() {
  for (const message of [...messages.facts.values()])
    if (message.state !== "streaming" && !messages.drawn.get(message.id)?.querySelector(".editor")) messages.redraw(message);
}

function wrap(html) {
  const block = element("div", { className: "block" });
  block.innerHTML = html; // rendered and escaped by the server, see modules/ui/markdown.py
  return block;
}

/** Results that somebody has unfolded stay so when their message is drawn anew. */
function keepOpen(old, fresh) {
  for (const call of old?.querySelectorAll(".call:has(details[open])") ?? []) fresh.querySelector(`[data-call="${CSS.escape(call.dataset.call)}"] details`)?.setAttribute("open", "");
}

function avatar({ picture }) {
  return picture ? element("img", { className: "avatar", src: picture, alt: "" }) : null;
}

function pinMark(message) {
  return message.pinned ? element("span", { className: "pin-mark", title: "This turn is never left out" }, "Pinned") : null;
}

/** The figures of a reply; pressed, they tell the rest of what is known about it. */
function stats(message) {
  if (message.role !== "assistant" || !message.stats) return element("span", { className: "stats soft" }, message.stats);
  return element("button", { type: "button", className: "stats quiet", "data-act": "about", title: "About this reply" }, message.stats);
}

function versions(message) {
  if (message.versions.length < 2) return null;
  const at = message.version;
  const arrow = (act, text, label, enabled) =>
    element("button", { type: "button", className: "quiet", "data-act": act, disabled: !enabled, ariaLabel: label, title: label }, text);
  return element(
    "span",
    { className: "versions" },
    arrow("version-before", "‹", "The version before", at > 0),
    element("span", {}, `${at + 1}/${message.versions.length}`),
    arrow("version-after", "›", "The version after", at < message.versions.length - 1),
  );
}

function fault(message) {
  const text = {
    cut: `This reply was cut. ${message.error}`,
    failed: message.error,
    stopped: "",
  }[message.state];
  if (!text) return null;
  const retry = element("button", { type: "button", className: "quiet", "data-act": "regenerate" }, "Try again");
  const go_on = element("button", { type: "button", className: "quiet", "data-act": "continue" }, "Continue it");
  return element("p", { className: "message-fault" }, text, retry, message.state === "cut" ? go_on : null);
}

function actions(message) {
  const buttons = BUTTONS[message.role] ?? BUTTONS.user;
  return element(
    "span",
    { className: "actions" },
    ...buttons
      .filter(([act]) => message.state !== "failed" || ["regenerate", "delete"].includes(act))
      .map(([act, label]) => element("button", { type: "button", className: "quiet", "data-act": act }, act === "pin" && message.pinned ? "Unpin" : label)),
    element("button", { type: "button", className: "quiet", "data-act": "message-menu", "aria-haspopup": "menu", ariaLabel: "More to do with this message", title: "Branches" }, "⋯"),
  );
}
