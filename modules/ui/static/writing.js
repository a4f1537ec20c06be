// The Default and Notebook modes: what is typed is kept, counted, and shown by its tokens.

import { element, present, say } from "./net.js";
import { Live } from "./live.js";
import { notes } from "./next_token.js";
import { addPrompts } from "./prompts.js";
import { onEngine } from "./strip.js";
import { drawChances, drawTokens } from "./token_chart.js";

const KEEP_MS = 1000;
const LOOK_MS = 500;
const params = window.lanternParams;
const engine = { ready: false, key: "" };
const modes = [];

/** A text box of gradio's: what is in it, and what was before somebody began to change that. */
class Box {
  constructor(id) {
    this.id = id;
    this.before = "";
    this.typed = false;
  }

  get node() {
    return document.querySelector(`#${this.id} textarea`);
  }

  get text() {
    return this.node?.value ?? "";
  }

  settle() {
    if (!this.typed) this.before = this.text;
  }

  set(text) {
    this.settle();
    this.node.value = text;
    this.node.dispatchEvent(new Event("input", { bubbles: true })); // gradio's own copy follows
  }
}

class Mode {
  constructor(name, boxes) {
    this.name = name;
    this.boxes = boxes;
    this.lives = [];
    this.shown = "";
    this.keeping = 0;
  }

  place(what) {
    return document.getElementById(`${this.name}-${what}`);
  }

  get text() {
    return this.boxes.map((box) => box.text).join("");
  }

  get running() {
    return document.querySelector(`#${this.name}-stop:not(:disabled)`) !== null;
  }

  begin() {
    const asker = Math.random().toString(36).slice(2);
    const next = () => ({ plain: true, values: params.values, asker });
    this.add("count", "look/count", (found) => this.count(found));
    this.add("tokens", "look/tokens", (found) => this.draw("tokens", found, drawTokens));
    this.add("logits", "look/next", (found) => this.draw("logits", found, (place, it) => drawChances(place, it, notes())), next);
  }

  /** Ask a route about the text while its answer is seen. Gradio makes a tab when it is opened. */
  async add(what, path, show, more = () => ({})) {
    const place = await present(`${this.name}-${what}`);
    const question = () => (engine.ready ? { text: this.text, ...more() } : null);
    this.lives.push(new Live({ place, path, question, show, context: () => engine, wait: 350 }));
  }

  draw(what, found, draw) {
    const place = this.place(what);
    if (found && !found.fault) draw(place, found);
    else place.textContent = found?.fault ?? "Load a model to see this.";
  }

  count(found) {
    const full = found?.tokens >= found?.context;
    this.place("count").textContent = found?.tokens === undefined ? "" : `${found.tokens.toLocaleString()} of ${found.context.toLocaleString()} tokens`;
    this.place("count").classList.toggle("fault", full);
  }

  /** Gradio sets its boxes without a word, so that they are looked at now and then. */
  look() {
    this.boxes.forEach((box) => box.settle());
    if (this.text === this.shown) return;
    this.shown = this.text;
    this.lives.forEach((live) => live.touch());
  }

  // -- keeping ----------------------------------------------------------------------------

  type(box) {
    box.typed = true;
    clearTimeout(this.keeping);
    this.keeping = setTimeout(() => this.keep(), KEEP_MS);
  }

  /** Save what was typed; with `force`, in the place of what another tab wrote. */
  async keep(force = false) {
    clearTimeout(this.keeping);
    if (!this.boxes.some((box) => box.typed) && !force) return;
    if (this.running) return this.type(this.boxes.find((box) => box.typed)); // its end is saved first
    const [text, reply = ""] = this.boxes.map((box) => box.text);
    const before = force ? null : checksum(this.boxes.map((box) => box.before));
    this.boxes.forEach((box) => Object.assign(box, { typed: false, before: box.text }));
    const body = JSON.stringify({ mode: this.name, text, reply, before });
    try {
      const answer = await fetch("page/draft", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
        keepalive: body.length < 60_000, // so that it arrives though the tab is closed
      });
      const data = await answer.json();
      if (!answer.ok) return this.tell(`Not saved. ${data.message} ${data.remedy}`);
      if (data.other) return this.clash(data.other);
      this.tell("");
    } catch {
      this.tell("Not saved: the server does not answer.");
      this.type(this.boxes[0]);
    }
  }

  tell(text, ...buttons) {
    const place = this.place("draft");
    place.hidden = !text;
    place.replaceChildren(text, ...buttons);
  }

  clash(other) {
    const button = (words, act) => {
      const made = element("button", { type: "button", className: "quiet" }, words);
      made.onclick = () => (this.tell(""), act());
      return made;
    };
    const take = () => {
      this.boxes.forEach((box, i) => box.set([other.text, other.reply][i]));
      this.boxes.forEach((box) => Object.assign(box, { typed: false, before: box.text }));
    };
    this.tell("Another tab has changed this text. What you type here is not saved.", button("Show that text", take), button("Keep this one", () => this.keep(true)));
  }
}

/** Adler-32, as modules/chat/drafts.py computes it. */
function checksum([text, reply = ""]) {
  let low = 1;
  let high = 0;
  for (const byte of new TextEncoder().encode(`${text}\0${reply}`)) {
    low = (low + byte) % 65521;
    high = (high + low) % 65521;
  }
  return high * 65536 + low;
}

// -- the beginning ------------------------------------------------------------------------

modes.push(new Mode("default", [new Box("default-text"), new Box("default-raw")]));
modes.push(new Mode("notebook", [new Box("notebook-text")]));

const boxOf = (event) => modes.flatMap((mode) => mode.boxes.map((box) => [mode, box])).find(([, box]) => event.target.closest?.(`#${box.id}`));
document.addEventListener("beforeinput", (event) => boxOf(event)?.[1].settle());
document.addEventListener("input", (event) => {
  const [mode, box] = boxOf(event) ?? [];
  mode?.type(box);
});
// What is generated from is saved before it, as it would be by the server.
document.addEventListener("click", (event) => event.target.closest?.(".writing-buttons") && modes.forEach((mode) => mode.keep()), true);
document.addEventListener("visibilitychange", () => document.hidden && modes.forEach((mode) => mode.keep()));
setInterval(() => document.hidden || modes.forEach((mode) => mode.look()), LOOK_MS);
const touch = () => modes.forEach((mode) => mode.lives.forEach((live) => live.touch()));
params.onChange(touch);
onEngine((now) => {
  Object.assign(engine, { ready: now.phase === "ready", key: JSON.stringify([now.model, now.details, now.adapters]) });
  touch();
});
for (const mode of modes) {
  mode.begin();
  const setText = (text) => {
    const former = mode.boxes[0].text;
    mode.keep();
    mode.boxes[0].set(text);
    if (former.trim()) say("The text is replaced.", "", () => mode.boxes[0].set(former));
  };
  addPrompts(mode.name, () => mode.boxes[0].text, setText);
}
