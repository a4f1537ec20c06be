// The head of the parameters: presets, chosen, kept, and compared with the values as they are.

import { ask } from "./dialogs.js";
import { element, get, post, present, say } from "./net.js";
import { onEngine } from "./strip.js";

const KEY = "lantern-preset";
const ALL = "lantern-all-presets";
const params = window.lanternParams;
const byId = (id) => document.getElementById(id);
let presets = [];
let maySave = false;
let unsupported = [];

/** The fields that presets set, each with what this preset has for it. */
const valuesOf = (preset) => Object.fromEntries(params.facts.filter((fact) => fact.preset).map((fact) => [fact.name, preset.values[fact.name] ?? fact.neutral]));

function differs(preset) {
  const wanted = valuesOf(preset);
  return params.facts.some((fact, i) => fact.preset && params.values[i] !== wanted[fact.name]);
}

/** The labels of what a preset asks for and the loaded model cannot do. */
const missing = (preset) => params.facts.filter((fact) => unsupported.includes(fact.name) && fact.name in (preset?.values ?? {})).map((fact) => fact.label);

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
  drawList();
}

/** Presets that the model cannot serve are left out, or listed with what they lack. */
function drawList() {
  if (!presets.length) return;
  const all = localStorage.getItem(ALL) !== null;
  const listed = presets.filter((one) => all || one === chosen() || !missing(one).length);
  const option = (one) => {
    const lacks = missing(one);
    const why = one.problem ? " (damaged)" : lacks.length ? ` (not with this model: ${lacks.join(", ")})` : "";
    return element("option", { value: one.name, disabled: lacks.length > 0 }, one.name + why);
  };
  const group = (label, own) => {
    const members = listed.filter((one) => one.own === own);
    return members.length ? element("optgroup", { label }, ...members.map(option)) : null;
  };
  const none = element("option", { value: "", disabled: true }, "Choose one");
  byId("preset").replaceChildren(...[none, group("Your own", true), group("Lantern's", false)].filter(Boolean));
  byId("preset-filter").hidden = !presets.some((one) => missing(one).length);
  byId("preset-all").checked = all;
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
  const lacks = missing(preset);
  const refused = lacks.length ? `The loaded model cannot serve this preset: ${lacks.join(", ")}.` : undefined;
  byId("preset-about").textContent = preset?.problem ?? refused ?? preset?.about ?? "";
  byId("preset-about").classList.toggle("fault", Boolean(preset?.problem ?? refused));
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
  const look = (name) => {
    const there = presets.find((one) => one.name === name);
    if (there?.own) return { save: "Replace", told: "Your preset of this name is replaced." };
    if (there) return { save: "Save", told: "Yours will stand for Lantern's until you delete it." };
    return { save: "Save", told: "Length, stop strings and seed are not part of a preset." };
  };
  const done = async (name, tell) => {
    if (!(await post("presets/save", { name, values: params.values }, tell))) return false;
    localStorage.setItem(KEY, name);
    fetchPresets();
    return true;
  };
  ask("Save a preset", { label: "Name of the preset", value: preset?.own ? preset.name : "", look, done });
}

// -- the beginning ------------------------------------------------------------------------

await present("preset");
params.onChange(draw);
setTimeout(params.insist, 3000);
onEngine((engine) => {
  if (JSON.stringify(engine.unsupported) === JSON.stringify(unsupported)) return;
  unsupported = engine.unsupported;
  params.refuse(unsupported);
  drawList();
});
byId("preset-all").onchange = (event) => {
  if (event.target.checked) localStorage.setItem(ALL, "1");
  else localStorage.removeItem(ALL);
  drawList();
};
byId("preset").onchange = (event) => load(event.target.value);
byId("preset-restore").onclick = () => replace(valuesOf(chosen()));
byId("preset-save").onclick = askName;
byId("preset-delete").onclick = () => remove(chosen());
byId("neutralize").onclick = () => replace(valuesOf({ values: {} }));
byId("defaults").onclick = () => replace(Object.fromEntries(params.facts.map((fact) => [fact.name, fact.default])));
fetchPresets();
