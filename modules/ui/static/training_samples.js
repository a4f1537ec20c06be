// What the LoRA answers at each checkpoint, and the way from there into the chat.

import { byId as pageId, openChat } from "./chat_state.js";
import { button, openDialog } from "./dialogs.js";
import { gigabytes } from "./figures.js";
import { element, post, redraw, say, working } from "./net.js";
import { figure } from "./training_chart.js";
import { mergeDialog } from "./training_keep.js";

const SHOWN = 4;
let compare = () => {};

/** `run` gets what is to be compared: { run, step, name }. */
export function onCompare(run) {
  compare = run;
}

/** The checkpoints of a run with their answers, the latest first; before the first step last. */
export function drawSamples(place, run) {
  const steps = [...new Set([...run.checkpoints.map((one) => one.step), ...run.samples.map((one) => one.step)])].sort((a, b) => b - a);
  if (!steps.length) return redraw(place, [run.id, run.state], element("p", { className: "soft" }, run.state === "running" ? "Checkpoints come here, with what the LoRA answers to the sample prompts." : ""));
  const open = place.querySelector("details.older")?.open ?? false;
  const cards = steps.map((step) => card(run, step));
  const older = cards.slice(SHOWN);
  return redraw(
    place,
    [run.id, run.state === "running", run.checkpoints, run.samples.length],
    element("h3", {}, "Checkpoints"),
    element("div", { className: "samples" }, ...cards.slice(0, SHOWN)),
    ...(older.length ? [element("details", { className: "older", open }, element("summary", {}, `${older.length} earlier`), element("div", { className: "samples" }, ...older))] : []),
  );
}

function card(run, step) {
  const point = run.checkpoints.find((one) => one.step === step);
  const samples = run.samples.filter((one) => one.step === step);
  const marks = point ? [point.best ? "best" : "", point.latest ? "latest" : "", point.loss === null ? "" : `evaluation ${figure(point.loss)}`, gigabytes(point.size)] : [];
  const head = element("header", {}, element("strong", {}, step ? `Step ${step.toLocaleString()}` : "Before training"), element("span", { className: "soft" }, marks.filter(Boolean).join(" · ")));
  let acts = null;
  if (point) {
    const chat = element("button", { type: "button", className: "quiet", ariaLabel: `Chat with step ${step}` }, "Chat with this");
    chat.onclick = () => chatWith(chat, { run: run.id, step });
    const side = element("button", { type: "button", className: "quiet", ariaLabel: `Compare step ${step}` }, "Compare");
    side.onclick = () => compare({ run: run.id, step, name: `${run.name}@${step}` });
    const merge = element("button", { type: "button", className: "quiet", ariaLabel: `Merge step ${step} into a model` }, "Merge…");
    merge.onclick = () => mergeDialog(merge, { run: run.id, step });
    acts = element("footer", { className: "sample-acts" }, chat, side, merge);
  }
  const said = samples.flatMap((one) => [element("dt", {}, one.prompt), element("dd", {}, one.reply || "(nothing)")]);
  return element("article", { className: "sample" }, head, said.length ? element("dl", {}, ...said) : null, acts);
}

/** Lay a checkpoint over the loaded base and open a chat with it; asks first to load the base. */
export async function chatWith(pressed, about, load = false) {
  const back = working(pressed, load ? "Loading…" : "Applying…");
  const place = pressed.closest("footer, .row-end, .run-acts, li")?.parentElement;
  place?.querySelector(":scope > .fault")?.remove();
  const fault = (text) => (place?.isConnected ? place.append(element("p", { className: "fault", role: "status" }, text)) : say(text, "fault"));
  const found = await post("training/chat", { ...about, load }, fault);
  back();
  if (!found) return false;
  if (found.base) return offer(about, found);
  openChat(found.chat);
  const tab = [...document.querySelectorAll("[role=tab]")].find((one) => one.textContent.trim() === "Text generation");
  tab?.click();
  pageId("composer-text")?.focus();
  say(`This chat is with ${found.name}.`);
  return true;
}

function offer(about, found) {
  const now = found.loaded ? `${found.loaded} is loaded now, and its chats wait meanwhile.` : "No model is loaded now.";
  const load = button(`Load ${found.base}`, "primary", () => {
    chatWith(load, about, true).then((done) => done && dialog.close());
  });
  const dialog = openDialog(`It is a LoRA for ${found.base}`, "ask-dialog", element("p", {}, `${now} Load ${found.base} to chat with it?`), element("div", { className: "row-end" }, button("Not now", "quiet", () => dialog.close()), load));
  load.focus();
}
