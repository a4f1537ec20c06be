// The LoRAs of the chat that is shown: as applied to all, none, or a mix of its own.

import { element } from "./net.js";

const WEIGHTS = { min: -4, max: 4, step: 0.05 };
const state = { applied: [], chosen: null };
const button = () => document.getElementById("loras-button");

/** `applied` as the engine says, `chosen` as the chat does: pairs of name and weight, or null. */
export function drawLoras({ applied = state.applied, chosen = state.chosen }) {
  Object.assign(state, { applied, chosen });
  // A chat with a choice that is not applied any more must still be able to change it.
  button().hidden = !applied.length && chosen === null;
  button().textContent = `LoRA: ${chosen === null ? "default" : written(chosen) || "none"} ▾`;
}

const written = (mix) => mix.map(([name, weight]) => (weight === 1 ? name : `${name} at ${weight}`)).join(" + ");

/** The menu below the button; `save` gets the new choice. */
export function openLoras(save) {
  const all = state.applied.filter((one) => one.weight).map((one) => [one.name, one.weight]);
  const chosen = new Map(state.chosen ?? all);
  const names = [...new Set([...state.applied.map((one) => one.name), ...chosen.keys()])];
  const fields = names.map((name) => element("input", { type: "number", ...WEIGHTS, name, value: chosen.get(name) ?? 0, ariaLabel: `Weight of ${name} in this chat` }));
  const put = (mix) => (menu.remove(), save(mix));
  const item = (text, about, mix) => {
    const made = element("button", { type: "button" }, element("span", {}, text), element("span", { className: "soft" }, about));
    made.onclick = () => put(mix);
    return made;
  };
  const own = element(
    "form",
    { className: "lora-weights", noValidate: true },
    ...fields.map((field) => element("label", {}, element("span", {}, field.name, state.applied.some((one) => one.name === field.name) ? "" : " (not applied)"), field)),
    element("button", { className: "primary" }, "Use these weights in this chat"),
  );
  own.onsubmit = (event) => {
    event.preventDefault();
    put(fields.map((field) => [field.name, Number(field.value)]).filter(([, weight]) => weight));
  };
  const menu = element("div", { className: "menu", popover: "auto" }, item("Default", written(all) || "none", null), item("None", "the model alone", []), element("hr"), own);
  const at = button().getBoundingClientRect();
  Object.assign(menu.style, { inset: `${at.bottom + 6}px ${Math.max(8, innerWidth - at.right)}px auto auto`, margin: 0 });
  menu.ontoggle = (event) => event.newState === "closed" && menu.remove();
  document.body.append(menu);
  menu.showPopover();
  menu.querySelector("button").focus();
}
