// The chart in the parameters: what may come next, before and after what the knobs say.

import { byId, onHead, onOpen, state } from "./chat_state.js";
import { Live } from "./live.js";
import { present } from "./net.js";
import { onEngine } from "./strip.js";
import { drawChances } from "./token_chart.js";

const KEY = "lantern-next-token";
const SENTENCE = "lantern-next-token-sentence";
const params = window.lanternParams;
const asker = Math.random().toString(36).slice(2);
const engine = { ready: null, key: "" };

const value = (name) => params.values[params.facts.findIndex((fact) => fact.name === name)];

/** What the chart leaves out, or cannot show as one number. */
export function notes() {
  const xtc = value("xtc_probability");
  const told = [
    xtc > 0 && xtc < 1 && `XTC acts by chance, in ${Math.round(100 * xtc)} % of draws; shown is the average.`,
    (value("mirostat_mode") || value("adaptive_target")) && "What steers by earlier draws is shown as it begins.",
    value("num_beams") > 1 && "Beam search weighs whole replies; shown is one step without it.",
    value("penalty_alpha") && "Contrastive search is left out.",
    (value("guidance_scale") ?? 1) !== 1 && "Guidance is left out.",
  ];
  return value("do_sample") && value("temperature") ? told.filter(Boolean) : told.slice(2).filter(Boolean);
}

// -- the prompt ---------------------------------------------------------------------------

/** What was chosen; before that, the chat if there is something in it. */
function source() {
  const chosen = localStorage.getItem(KEY);
  return chosen ?? (state.head?.order.length || byId("composer-text").value.trim() ? "chat" : "sentence");
}

function question() {
  if (!engine.ready) return null;
  const asked = { values: params.values, asker };
  const kind = source();
  if (kind === "sentence") return { ...asked, plain: true, text: byId("next-sentence").value };
  if (kind === "notebook") return { ...asked, plain: true, text: document.querySelector("#notebook-text textarea")?.value ?? "" };
  const text = byId("composer-text").value;
  if (!text.trim() && !state.head?.order.length) return null;
  const { mode, character } = state.fresh;
  return { ...asked, plain: false, text, chat: state.chat || null, mode, character };
}

const context = () => [engine, source() === "chat" && state.head];

function missing() {
  if (engine.ready === null) return "";
  return engine.ready ? "There is nothing in this chat yet. Write a message there, or choose a sentence." : "Load a model to see what it may say next.";
}

function about() {
  const short = (text) => (text.length > 60 ? `…${text.slice(-60)}` : text);
  const text = byId("composer-text").value.trim();
  if (source() === "chat") return text ? `The reply to “${short(text)}” begins with` : "The reply to your last message begins with";
  return source() === "notebook" ? "The notebook goes on with" : "The sentence goes on with";
}

// -- the frame ----------------------------------------------------------------------------

function show(found) {
  const place = byId("next-token-chart");
  byId("next-source").value = source();
  byId("next-sentence").hidden = source() !== "sentence";
  byId("next-token-about").textContent = found?.tokens ? about() : "";
  if (found?.tokens) return drawChances(place, found, notes());
  place.textContent = found?.fault ?? missing();
}

await present("next-token-chart");
await present("composer-text");
const live = new Live({ place: byId("next-token-chart"), path: "look/next", question, context, show });
byId("next-sentence").value = localStorage.getItem(SENTENCE) ?? "The capital of France is";
byId("next-sentence").oninput = (event) => (localStorage.setItem(SENTENCE, event.target.value), live.touch());
byId("next-source").onchange = (event) => {
  localStorage.setItem(KEY, event.target.value);
  byId("next-sentence").hidden = event.target.value !== "sentence";
  live.touch();
};
byId("composer-text").addEventListener("input", () => live.touch());
params.onChange(() => live.touch());
onHead(() => live.touch());
onOpen(() => live.touch());
onEngine((now) => {
  engine.ready = now.phase === "ready";
  engine.key = JSON.stringify([now.model, now.details, now.adapters]);
  live.touch();
});
