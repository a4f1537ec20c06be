// The settings of a run, made from the knobs that the server describes: a few, or all of them.

import { element, present, redraw } from "./net.js";
import { changed, draft, get, onDraft, set } from "./training_draft.js";

const OPEN = "lantern-training-all";
const SLIDERS = { lora_r: [4, 128, 4], learning_rate: [1e-5, 1e-3, 1e-5], epochs: [0.5, 10, 0.5] };
const rows = new Map();
const byId = (id) => document.getElementById(id);

/** Build the form; `setup` is what the server says of the settings. */
export function buildForm(setup) {
  const { fields } = setup;
  const base = baseRow(setup);
  const name = row(fields.find((one) => one.name === "name"), "simple");
  const sliders = setup.simple.map((knob) => slider(fields.find((one) => one.name === knob)));
  byId("settings-simple").replaceChildren(base, name, ...sliders);
  const rest = fields.filter((one) => !["base", "name", ...setup.simple].includes(one.name));
  const groups = setup.groups.map((group) => [group, rest.filter((one) => one.group === group)]).filter(([, some]) => some.length);
  byId("settings-groups").replaceChildren(
    element("p", { className: "soft" }, "Numbers with commas between them, such as 8, 16, 32, make a sweep: a run for each."),
    ...groups.map(([group, some]) => element("fieldset", { className: "settings-group" }, element("legend", {}, group), ...some.map((field) => row(withChoices(field, setup), "all")))),
  );
  fold(localStorage.getItem(OPEN) === "1");
  drawForm();
}

/** Where the server knows what there is, one chooses instead of typing. */
function withChoices(field, setup) {
  if (field.name === "template") return { ...field, kind: "choice", options: [["", "The model's own"], ...setup.templates] };
  if (field.name === "continue_from") return { ...field, kind: "choice", options: [["", "No, a new one"], ...setup.adapters.map((name) => [name, name])] };
  if (field.name === "target_modules") return { ...field, sets: setup.targets };
  return field;
}

function baseRow(setup) {
  const options = setup.models.map((one) => element("option", { value: one.name, disabled: Boolean(one.problem) }, one.problem ? `${one.name}: ${one.problem}` : [one.name, one.kind].filter(Boolean).join(" · ")));
  const select = element("select", { id: "setting-base", "aria-describedby": "setting-base-help" }, element("option", { value: "" }, "Choose a model"), ...options);
  select.onchange = () => set("base", select.value);
  const help = element("p", { className: "soft", id: "setting-base-help" }, "What the LoRA is trained on, 16-bit or quantized; it is not changed.");
  const node = element("div", { className: "setting wide" }, element("label", { htmlFor: "setting-base" }, "Base model"), select, help, told("base"));
  rows.set("simple-base", { name: "base", node, draw: () => (known(select, get("base") ?? ""), (select.value = get("base") ?? "")) });
  return node;
}

/** What a file names and this Lantern has not is shown all the same. */
function known(select, value) {
  if (![...select.options].some((one) => one.value === value)) select.append(element("option", { value }, `${value} (not here)`));
}

/** Something to know beside the help of a setting; empty to take it back. */
export function note(name, text) {
  const help = byId(`setting-${name}-help`);
  if (help) help.textContent = `${draft.knobs[name].help} ${text}`.trim();
}

// -- one setting --------------------------------------------------------------------------

const told = (name) => element("p", { className: "fault setting-fault", id: `fault-${name}`, role: "status", hidden: true });

function row(field, place) {
  const id = `setting-${field.name}`;
  const make = { choice: choiceInput, switch: switchInput, number: numberInput, integer: numberInput, text: textInput, strings: stringsInput }[field.kind];
  const { input, draw } = make(field, id);
  const back = element("button", { type: "button", className: "quiet setting-reset", title: "Back to the default", ariaLabel: `${field.label}: back to the default` }, "↺");
  back.onclick = () => (set(field.name, structuredClone(draft.defaults[field.name])), drawForm());
  const wide = ["text", "strings"].includes(field.kind) || Boolean(field.options);
  const help = element("p", { className: "soft", id: `${id}-help` }, field.help);
  const sets = field.sets ? element("div", { className: "setting-sets" }, ...field.sets.map((name) => namedSet(field, name))) : null;
  const node = element("div", { className: `setting${wide ? " wide" : ""}`, "data-setting": field.name }, element("label", { htmlFor: id }, field.label), back, input, sets, help, told(field.name));
  rows.set(`${place}-${field.name}`, { name: field.name, node, draw, back });
  return node;
}

/** A named set of modules, one press away. */
function namedSet(field, name) {
  const made = element("button", { type: "button", className: "quiet setting-set", ariaLabel: `${field.label}: ${name}` }, name);
  made.onclick = () => (set(field.name, [name]), drawForm());
  return made;
}

function choiceInput(field, id) {
  const options = field.options ?? field.choices.map((one) => [one, one]);
  const input = element("select", { id, "aria-describedby": `${id}-help` }, ...options.map(([value, label]) => element("option", { value }, label)));
  input.onchange = () => (set(field.name, input.value), drawForm());
  const draw = () => {
    const now = String(get(field.name));
    known(input, now);
    input.value = now;
  };
  return { input, draw };
}

function switchInput(field, id) {
  const input = element("input", { type: "checkbox", id, "aria-describedby": `${id}-help` });
  input.onchange = () => (set(field.name, input.checked), drawForm());
  return { input, draw: () => (input.checked = get(field.name) === true) };
}

/** A number, or several with commas: a sweep. */
function numberInput(field, id) {
  const input = element("input", { type: "text", inputMode: "decimal", id, autocomplete: "off", "aria-describedby": `${id}-help`, title: `${short(field.min)} to ${short(field.max)}` });
  input.onchange = () => {
    const numbers = input.value.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
    if (!numbers.length) set(field.name, structuredClone(draft.defaults[field.name]));
    else if (numbers.some((one) => !Number.isFinite(one))) return fault(field.name, `${input.value} is no number.`);
    else set(field.name, numbers.length > 1 ? numbers : numbers[0]);
    drawForm();
  };
  return { input, draw: () => document.activeElement !== input && (input.value = [get(field.name)].flat().map(short).join(", ")) };
}

function textInput(field, id) {
  const input = element("input", { type: "text", id, maxLength: field.max, placeholder: field.example ? `for example ${field.example}` : "", autocomplete: "off", spellcheck: false, "aria-describedby": `${id}-help` });
  input.onchange = () => (set(field.name, input.value.trim()), drawForm());
  return { input, draw: () => document.activeElement !== input && (input.value = get(field.name)) };
}

function stringsInput(field, id) {
  const input = element("textarea", { id, rows: 2, spellcheck: false, placeholder: "One a line", "aria-describedby": `${id}-help` });
  input.onchange = () => (set(field.name, input.value.split("\n").filter((line) => line.trim())), drawForm());
  return { input, draw: () => document.activeElement !== input && (input.value = [get(field.name)].flat().join("\n")) };
}

/** One of the three of the simple view: a slider over the usual range, and the exact number. */
function slider(field) {
  const [min, max, step] = SLIDERS[field.name] ?? [field.min, field.max, field.step];
  const id = `setting-${field.name}`;
  const range = element("input", { type: "range", id, min, max, step, "aria-describedby": `${id}-help` });
  const node = row(field, "simple");
  const entry = rows.get(`simple-${field.name}`);
  const number = node.querySelector("input");
  number.id = `${id}-number`;
  number.ariaLabel = `${field.label}, as a number`;
  node.classList.add("slide");
  number.before(range);
  range.oninput = () => {
    number.value = short(Number(range.value));
    set(field.name, Number(range.value));
    drawForm();
  };
  const { draw } = entry;
  entry.draw = () => {
    draw();
    const now = [get(field.name)].flat();
    range.value = now[0];
    range.disabled = now.length > 1;
    range.setAttribute("aria-valuetext", now.map(short).join(", "));
  };
  return node;
}

/** A number without the noise of its binary form: 0.0002 and 1e-7, not 0.00019999999. */
export const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value));

// -- drawing ------------------------------------------------------------------------------

export function drawForm() {
  for (const { name, node, draw, back } of rows.values()) {
    draw();
    // Every run has a base and a name of its own.
    const differs = changed(name) && !["base", "name"].includes(name);
    node.classList.toggle("changed", differs);
    if (back) back.disabled = !differs;
  }
  drawChips();
}

function drawChips() {
  const fields = [...rows.values()].filter(({ name }) => !["base", "name"].includes(name) && changed(name));
  const chips = fields.map(({ name }) => {
    const label = draft.knobs[name].label;
    const value = [get(name)].flat().map(shown).join(", ");
    const chip = element("button", { type: "button", className: "chip", title: "Back to the default", ariaLabel: `${label} ${value}: back to the default` }, `${label} ${value}`);
    chip.onclick = () => (set(name, structuredClone(draft.defaults[name])), drawForm());
    return chip;
  });
  redraw(byId("settings-changed"), fields.map(({ name }) => [name, get(name)]), ...(chips.length ? chips : [element("span", { className: "soft" }, "Everything is at its default.")]));
}

function shown(value) {
  const text = value === true ? "on" : value === false ? "off" : short(value);
  return text.length > 24 ? `${text.slice(0, 22)}…` : text;
}

/** A sentence beside the setting that caused it; without one, all are well. */
export function fault(name = "", text = "") {
  for (const { name: its, node } of rows.values()) {
    const place = node.querySelector(".setting-fault");
    place.hidden = its !== name;
    place.textContent = its === name ? text : "";
  }
  const found = [...rows].find(([, one]) => one.name === name);
  if (found && found[0].startsWith("all-")) fold(true);
  return Boolean(found);
}

function fold(open) {
  byId("settings-groups").hidden = !open;
  byId("settings-all").setAttribute("aria-expanded", String(open));
  byId("settings-all").textContent = open ? "Fewer settings" : "All settings";
  localStorage.setItem(OPEN, open ? "1" : "");
}

present("settings-all").then((button) => {
  button.onclick = () => fold(byId("settings-groups").hidden);
});
onDraft(() => rows.size && drawForm());
