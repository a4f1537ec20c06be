// The head of the parameters: presets, chosen, kept, and compared with the values as they are.

import { element, get, post, present, say } from "./net.js";

const KEY = "lantern-preset";
const params = window.lanternParams;
const byId = (id) => document.getElementById(id);
let presets = [];
let maySave = false;

/** The fields that presets set, each with what this preset has for it. */
const valuesOf = (preset) => Object.fromEntries(params.facts.filter((fact) => fact.preset).map((fact) => [fact.name, preset.values[fact.name] ?? fact.neutral]));

function differs(preset) {
  const wanted = valuesOf(preset);
  return params.facts.some((fact, i) => fact.preset && params.values[i] !== wanted[fact.name]);
}

/** What was chosen last; before that, and from then on, one that says what the values are. */
function chosen() {
  const last = presets.find((one) => one.name === localStorage.getItem(KEY));
  const preset = last ?? presets.find((one) => one.values && !differs(one));
  if (preset && !last) localStorage.setItem(KEY, preset.name);
  return preset;
}

// -- drawing ------------------------------------------------------------------------------

async function fetchPresets() {
  const answer = await get("presets");
  if (!answer) return;
  presets = answer.presets;
  maySave = answer.may_save;
  const group = (label, own) => {
    const members = presets.filter((one) => one.own === own);
    const options = members.map((one) => element("option", { value: one.name }, one.problem ? `${one.name} (damaged)` : one.name));
    return members.length ? element("optgroup", { label }, ...options) : null;
  };
  const none = element("option", { value: "", disabled: true }, "Choose one");
  byId("preset").replaceChildren(...[none, group("Your own", true), group("Lantern's", false)].filter(Boolean));
  draw();
}

function draw() {
  if (!presets.length) return;
  const preset = chosen();
  const moved = Boolean(preset?.values && differs(preset));
  byId("preset").value = preset?.name ?? "";
  byId("preset-changed").hidden = byId("preset-restore").hidden = !moved;
  byId("preset-save").hidden = !maySave;
  byId("preset-delete").hidden = !(maySave && preset?.own && preset.values);
  byId("preset-delete").title = preset?.shipped ? "Delete your version; Lantern's comes back" : "Delete this preset of yours";
  byId("preset-about").textContent = preset?.problem ?? preset?.about ?? "";
  byId("preset-about").classList.toggle("fault", Boolean(preset?.problem));
}

// -- acts ---------------------------------------------------------------------------------

function load(name) {
  localStorage.setItem(KEY, name);
  const preset = presets.find((one) => one.name === name);
  if (preset?.values) replace(valuesOf(preset));
  draw();
}

/** Set the knobs; what was set by hand and kept nowhere can be brought back. */
function replace(named) {
  const before = Object.fromEntries(params.facts.map((fact, i) => [fact.name, params.values[i]]));
  const kept = presets.some((one) => one.values && !differs(one));
  const lost = !kept || params.facts.some((fact) => !fact.preset && (named[fact.name] ?? before[fact.name]) !== before[fact.name]);
  params.set(named);
  if (lost) say("The parameters are replaced.", "", () => params.set(before));
}

/** The values in the order of the widgets, with those of `preset` where it has a say. */
function valuesWith(preset) {
  const its = valuesOf(preset);
  return params.facts.map((fact, i) => its[fact.name] ?? params.values[i]);
}

async function remove(preset) {
  if (!(await post("presets/delete", { name: preset.name }))) return;
  await fetchPresets();
  say(preset.shipped ? `Lantern's ${preset.name} is back.` : `${preset.name} is deleted.`, "", async () => {
    if (!(await post("presets/save", { name: preset.name, values: valuesWith(preset) }))) return;
    localStorage.setItem(KEY, preset.name);
    fetchPresets();
  });
}

function askName() {
  const preset = chosen();
  const box = element("input", { id: "preset-name", value: preset?.own ? preset.name : "", maxLength: 120, autocomplete: "off" });
  const told = element("p", { className: "soft", role: "status" });
  const button = element("button", { className: "primary" }, "Save");
  const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
  const form = element("form", {}, element("label", { htmlFor: "preset-name" }, "Name of the preset"), box, told, element("div", { className: "row-end" }, cancel, button));
  const dialog = element("dialog", { className: "keys preset-dialog", ariaLabel: "Save a preset" }, element("h2", {}, "Save a preset"), form);
  const tell = (text, fault = false) => ((told.textContent = text), told.classList.toggle("fault", fault));
  box.oninput = () => {
    const there = presets.find((one) => one.name === box.value.trim());
    button.textContent = there?.own ? "Replace" : "Save";
    tell(there?.own ? "Your preset of this name is replaced." : there ? "Yours will stand for Lantern's until you delete it." : "Length, stop strings and seed are not part of a preset.");
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const name = box.value.trim();
    if (!(await post("presets/save", { name, values: params.values }, (text) => tell(text, true)))) return;
    localStorage.setItem(KEY, name);
    dialog.close();
    fetchPresets();
  };
  cancel.onclick = () => dialog.close();
  dialog.onclose = () => dialog.remove();
  dialog.onkeydown = (event) => event.stopPropagation(); // Esc closes this, and stops no reply
  document.body.append(dialog);
  box.oninput();
  dialog.showModal();
  box.select();
}

// -- the beginning ------------------------------------------------------------------------

await present("preset");
params.onChange(draw);
setTimeout(params.insist, 3000);
byId("preset").onchange = (event) => load(event.target.value);
byId("preset-restore").onclick = () => replace(valuesOf(chosen()));
byId("preset-save").onclick = askName;
byId("preset-delete").onclick = () => remove(chosen());
byId("neutralize").onclick = () => replace(valuesOf({ values: {} }));
byId("defaults").onclick = () => replace(Object.fromEntries(params.facts.map((fact) => [fact.name, fact.default])));
fetchPresets();
