// LoRAs: what lies in loras/, which of them lie over the model, how strong, and to what effect.

import { element, get, post } from "./net.js";

const DEBOUNCE_MS = 150;
const SLIDER = { min: -2, max: 2, step: 0.05 };
const FIELD = { min: -4, max: 4, step: 0.05 };
const state = { rows: null, applied: {}, ready: false, busy: new Map(), dragging: new Map() };
const drawn = new Map();
const place = () => document.getElementById("adapter-rows");

/** The engine's LoRAs changed, or the model did. */
export function drawAdapters(engine) {
  const key = `${engine.phase} ${engine.loaded}`;
  state.applied = Object.fromEntries(engine.adapters.map((one) => [one.name, one]));
  state.ready = engine.phase === "ready";
  if (key !== state.key) {
    state.key = key;
    refreshAdapters();
  } else draw();
}

/** Look into loras/ again. */
export async function refreshAdapters() {
  const found = await get("adapters");
  if (!found) return;
  state.rows = found.adapters;
  state.folder = found.folder;
  state.server = found.server;
  draw();
}

function draw() {
  if (!state.rows) return;
  if (!state.rows.length) {
    const how = state.server ? `The server at ${state.server} has no LoRA.` : `${state.folder}/ is empty. A LoRA comes there by Download below, from a training, or as a folder with adapter_config.json and adapter_model.safetensors.`;
    return place().replaceChildren(element("p", { className: "soft" }, how));
  }
  // A row is drawn anew only where something else than its weight changed: it may be in a hand.
  const rows = state.rows.map((adapter) => {
    const { weight: _, ...applied } = state.applied[adapter.name] ?? {};
    const key = JSON.stringify([adapter, applied, state.busy.get(adapter.name), state.ready]);
    const old = drawn.get(adapter.name);
    const node = old?.dataset.key === key ? old : row(adapter);
    node.dataset.key = key;
    drawn.set(adapter.name, node);
    return node;
  });
  const focused = document.activeElement?.id;
  if (place().children.length !== rows.length || rows.some((node, i) => place().children[i] !== node)) place().replaceChildren(...rows);
  if (focused) document.getElementById(focused)?.focus();
  for (const [name, { weight }] of Object.entries(state.applied)) if (!state.dragging.has(name)) showWeight(name, weight);
}

function showWeight(name, weight) {
  for (const kind of ["range", "number"]) {
    const input = document.getElementById(`adapter-${kind}-${name}`);
    if (input) input.value = weight;
  }
}

function row(adapter) {
  const applied = state.applied[adapter.name];
  const about = [adapter.kind && `${adapter.kind} of rank ${adapter.rank}`, adapter.targets.join(", "), adapter.base && `for ${adapter.base}`];
  return element(
    "div",
    { className: `adapter${applied ? " applied" : ""}` },
    element("div", { className: "adapter-about" }, element("strong", {}, adapter.name), element("span", { className: "soft" }, about.filter(Boolean).join(" · "))),
    applied ? weight(adapter.name, applied) : element("span"),
    actButton(adapter, applied),
    words(adapter, applied),
  );
}

function actButton(adapter, applied) {
  const busy = state.busy.get(adapter.name);
  const word = busy ?? (applied ? "Remove" : "Apply");
  const button = element("button", { type: "button", id: `adapter-act-${adapter.name}`, ariaLabel: `${word} ${adapter.name}` }, word);
  button.disabled = Boolean(busy) || Boolean(adapter.problem) || !state.ready;
  if (!state.ready) button.title = "Load a model first";
  button.onclick = async () => {
    state.busy.set(adapter.name, applied ? "Removing…" : "Applying…");
    draw();
    await post(applied ? "adapters/remove" : "adapters/apply", { name: adapter.name });
    state.busy.delete(adapter.name);
    draw();
  };
  return button;
}

/** The change is measured at weight 1, and said before anybody trusts that it works. */
function words(adapter, applied) {
  if (adapter.problem) return element("p", { className: "fault" }, adapter.problem);
  if (!applied) return element("p", { className: "warning" }, adapter.warning);
  const percent = applied.change * 100;
  const much = percent >= 10 ? percent.toFixed(0) : percent.toPrecision(2);
  const change = applied.change ? `At weight 1 it changes the logits by ${much} %.` : "It changes nothing.";
  const odd = applied.note; // the warning is in it
  return element("p", {}, element("span", { className: applied.change ? "soft" : "warning" }, applied.change ? change : applied.note ? "" : change), odd ? element("span", { className: "warning" }, odd) : null);
}

function weight(name, applied) {
  const shown = state.dragging.get(name) ?? applied.weight;
  const range = element("input", { type: "range", id: `adapter-range-${name}`, ...SLIDER, ariaLabel: `Weight of ${name}` });
  const field = element("input", { type: "number", id: `adapter-number-${name}`, ...FIELD, ariaLabel: `Weight of ${name}, as a number` });
  range.value = shown;
  field.value = shown;
  const put = (value) => {
    const bounded = Math.min(FIELD.max, Math.max(FIELD.min, value));
    showWeight(name, bounded);
    state.dragging.set(name, bounded);
    clearTimeout(state.waiting);
    state.waiting = setTimeout(send, DEBOUNCE_MS);
  };
  range.oninput = () => put(Number(range.value));
  field.onchange = () => (field.value.trim() && Number.isFinite(Number(field.value)) ? put(Number(field.value)) : (field.value = shown));
  return element("span", { className: "adapter-weight" }, range, field);
}

async function send() {
  const weights = Object.fromEntries(state.dragging);
  await post("adapters/weights", { weights });
  // A weight that was moved on meanwhile has its own turn.
  for (const [name, value] of Object.entries(weights)) if (state.dragging.get(name) === value) state.dragging.delete(name);
  draw();
}
