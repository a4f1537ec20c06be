// The sets that are learnt from: chosen, weighed, uploaded, deleted, and their columns named.

import { button, openDialog } from "./dialogs.js";
import { gigabytes } from "./figures.js";
import { element, get as fetchJson, post, present, say, working } from "./net.js";
import { onDraft, setSources, sources } from "./training_draft.js";

const COLUMNS = { prompt: "Prompt", input: "Added to the prompt", response: "Response", system: "System text", messages: "Messages", text: "Plain text" };
const ROLES = [["datasets", "learn from it"], ["eval_datasets", "evaluate on it"]];
const state = { sets: [], formats: [], looks: new Map(), open: new Set() };
const byId = (id) => document.getElementById(id);

/** What lies in training/examples and user_data/datasets. */
export function takeSets(setup) {
  state.sets = setup.datasets;
  state.formats = setup.formats;
  draw();
}

async function refresh() {
  const found = await fetchJson("training/datasets");
  if (found) takeSets({ ...found, formats: state.formats });
}

// -- the list -----------------------------------------------------------------------------

/** Where a set is used: its role and its entry, if it is. */
function use(path) {
  for (const [role] of ROLES) {
    const entry = sources(role).find((one) => one.path === path);
    if (entry) return { role, entry };
  }
  return null;
}

function put(path, role, entry) {
  for (const [other] of ROLES) {
    const rest = sources(other);
    const at = rest.findIndex((one) => one.path === path);
    if (other === role && at >= 0) rest[at] = entry;
    else if (other === role) rest.push(entry);
    else if (at >= 0) rest.splice(at, 1);
    else continue;
    setSources(other, rest);
  }
  draw();
}

function remove(path) {
  for (const [role] of ROLES) {
    const rest = sources(role).filter((one) => one.path !== path);
    if (rest.length !== sources(role).length) setSources(role, rest);
  }
  draw();
}

function draw() {
  const chosen = ROLES.flatMap(([role]) => sources(role).map((one) => one.path));
  const known = new Set(state.sets.map((one) => one.path));
  // A file of settings may name sets from anywhere; they are shown with the others.
  const others = chosen.filter((path) => !known.has(path)).map((path) => ({ path, name: path, about: "", size: 0 }));
  const rows = [...state.sets, ...others].map(row);
  if (!rows.length) rows.push(element("p", { className: "soft" }, "There is no set yet. Upload one."));
  const focused = document.activeElement?.id;
  byId("dataset-rows").replaceChildren(...rows);
  if (focused) byId(focused)?.focus();
}

function row(set) {
  const used = use(set.path);
  const id = `set-${state.sets.indexOf(set) >= 0 ? state.sets.indexOf(set) : set.path}`;
  const box = element("input", { type: "checkbox", id, checked: Boolean(used) });
  box.onchange = () => (box.checked ? put(set.path, "datasets", { path: set.path }) : remove(set.path));
  const about = [set.about, set.size ? gigabytes(set.size) : ""].filter(Boolean).join(" · ");
  const head = element("div", { className: "set-head" }, box, element("label", { htmlFor: id }, element("span", { className: "set-name" }, set.name), element("span", { className: "soft" }, about)));
  if (set.yours) {
    const del = element("button", { type: "button", className: "quiet", title: "Delete", ariaLabel: `Delete ${set.name}` }, "×");
    del.onclick = () => drop(set);
    head.append(del);
  }
  const node = element("div", { className: `set${used ? " used" : ""}`, "data-path": set.path }, head);
  if (used) node.append(...detail(set, used, id));
  return node;
}

function detail(set, { role, entry }, id) {
  const weight = element("input", { type: "number", id: `${id}-weight`, min: 0.01, max: 100, step: "any", value: entry.weight ?? 1, title: "How often its rows are seen an epoch: 0.5 is every second row, 2 is each twice" });
  weight.onchange = () => {
    const value = Number(weight.value);
    if (!(value >= 0.01 && value <= 100)) return (weight.value = entry.weight ?? 1);
    const { weight: _, ...rest } = entry;
    return put(set.path, role, value === 1 ? rest : { ...rest, weight: value });
  };
  const roles = element("select", { id: `${id}-role`, ariaLabel: `What ${set.name} is for` }, ...ROLES.map(([value, label]) => element("option", { value }, label)));
  roles.value = role;
  roles.onchange = () => put(set.path, roles.value, entry);
  const line = element("div", { className: "set-use" }, roles, element("label", { htmlFor: `${id}-weight`, className: "soft" }, "weight"), weight);
  return [line, form(set, entry, role, id)];
}

// -- how its rows are written -------------------------------------------------------------

function form(set, entry, role, id) {
  const place = element("div", { className: "set-form" });
  const key = lookKey(entry);
  const known = state.looks.get(key);
  if (known) drawForm(place, { set, entry, role, id }, known);
  else {
    place.append(element("span", { className: "soft" }, "Looking at its rows…"));
    look(entry, key).then((found) => found && drawForm(place, { set, entry, role, id }, found));
  }
  return place;
}

/** What is wrong with the first set that is used and cannot be read; empty where all can. */
export function setFault() {
  for (const entry of [...sources(), ...sources("eval_datasets")]) {
    const found = state.looks.get(lookKey(entry));
    if (found?.problem) return `${entry.path}: ${found.problem}`;
  }
  return "";
}

const lookKey = (entry) => JSON.stringify([entry.path, entry.columns ?? {}, entry.format ?? ""]);

async function look(entry, key) {
  const fault = (text) => ({ problem: text, keys: [], columns: {}, form: "" });
  let told = "";
  const found = (await post("training/datasets/look", { path: entry.path, columns: entry.columns ?? {}, format: entry.format ?? "" }, (text) => (told = text))) ?? fault(told);
  if (!told) state.looks.set(key, found);
  document.dispatchEvent(new Event("training-checked"));
  return found;
}

function drawForm(place, at, found) {
  const named = Object.entries(found.columns).map(([to, name]) => `${COLUMNS[to]?.toLowerCase() ?? to}: ${name}`).join(", ");
  const word = found.problem ? element("span", { className: "fault" }, found.problem) : element("span", { className: "soft" }, `${found.form}${named ? ` (${named})` : ""}`);
  const open = state.open.has(at.set.path) || (Boolean(found.problem) && found.keys.length > 0);
  place.replaceChildren(word);
  if (!found.keys.length) return;
  const more = element("details", { open }, element("summary", {}, "Columns and format"), mapping(at, found));
  more.ontoggle = () => (more.open ? state.open.add(at.set.path) : state.open.delete(at.set.path));
  place.append(more);
}

function mapping({ set, entry, role, id }, found) {
  const pick = (to, label) => {
    const named = (entry.columns ?? {})[to];
    const missing = named && !found.keys.includes(named) ? [[named, `${named} (not there)`]] : [];
    const options = [["", "(none)"], ...missing, ...found.keys.map((key) => [key, key])];
    const select = element("select", { id: `${id}-${to}` }, ...options.map(([value, text]) => element("option", { value }, text)));
    select.value = (entry.columns ?? found.columns)[to] ?? "";
    select.onchange = () => {
      const columns = { ...(entry.columns ?? found.columns), [to]: select.value };
      for (const name of Object.keys(columns)) if (!columns[name]) delete columns[name];
      const { columns: _, ...rest } = entry;
      put(set.path, role, Object.keys(columns).length ? { ...rest, columns } : rest);
    };
    return [element("label", { htmlFor: select.id, className: "soft" }, label), select];
  };
  const format = element("select", { id: `${id}-format` }, ...["", ...state.formats].map((name) => element("option", { value: name }, name || "the model's chat template")));
  format.value = entry.format ?? "";
  format.onchange = () => {
    const { format: _, ...rest } = entry;
    put(set.path, role, format.value ? { ...rest, format: format.value } : rest);
  };
  return element("div", { className: "set-columns" }, ...Object.entries(COLUMNS).flatMap(([to, label]) => pick(to, label)), element("label", { htmlFor: format.id, className: "soft" }, "Written by"), format);
}

// -- files of the user's own --------------------------------------------------------------

function drop(set) {
  const gone = button("Delete", "primary", async () => {
    const back = working(gone, "Deleting…");
    const fault = (text) => (dialog.querySelector(".fault").textContent = text);
    if (!(await post("training/datasets/delete", { name: set.name }, fault))) return back();
    dialog.close();
    remove(set.path);
    return refresh();
  });
  const dialog = openDialog(`Delete ${set.name}?`, "ask-dialog", element("p", {}, "The file is removed from user_data/datasets. What was trained with it stays."), element("p", { className: "fault", role: "status" }), element("div", { className: "row-end" }, button("Keep it", "quiet", () => dialog.close()), gone));
}

/** A file goes up as it is read; its bar says how far, and a press ends it. */
function upload(file) {
  const bar = element("progress", { max: Math.max(1, file.size), value: 0, ariaLabel: `Upload of ${file.name}` });
  const word = element("span", { className: "soft" });
  const stop = element("button", { type: "button", className: "quiet" }, "Cancel");
  const node = element("div", { className: "upload" }, element("span", {}, file.name), bar, word, stop);
  byId("dataset-progress").append(node);
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const failed = (text) => {
      stop.textContent = "Dismiss";
      stop.onclick = () => node.remove();
      bar.remove();
      word.className = "fault";
      word.textContent = text;
      resolve(null);
    };
    stop.onclick = () => (request.abort(), node.remove(), resolve(null));
    request.upload.onprogress = (event) => {
      bar.value = event.loaded;
      word.textContent = `${gigabytes(event.loaded)} of ${gigabytes(file.size)}`;
    };
    request.onerror = () => failed("The server does not answer, or refused the file. Try again.");
    request.onload = () => {
      const data = parsed(request.responseText);
      if (request.status !== 200) return failed(data.message ? `${data.message} ${data.remedy ?? ""}` : `The server answered ${request.status}.`);
      node.remove();
      return resolve(data);
    };
    request.open("POST", `page/training/datasets/upload?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.send(file);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

async function uploadAll(files) {
  for (const file of files) {
    const found = await upload(file);
    if (!found) continue;
    await refresh();
    if (!use(found.path)) put(found.path, "datasets", { path: found.path });
    say(`${found.name} is uploaded.`);
  }
}

present("dataset-drop").then((place) => {
  const input = byId("dataset-files");
  byId("dataset-upload").onclick = () => input.click();
  input.onchange = () => (uploadAll([...input.files]), (input.value = ""));
  place.ondragover = (event) => (event.preventDefault(), place.classList.add("over"));
  place.ondragleave = () => place.classList.remove("over");
  place.ondrop = (event) => {
    event.preventDefault();
    place.classList.remove("over");
    uploadAll([...event.dataTransfer.files]);
  };
});
onDraft(() => byId("dataset-rows") && !byId("dataset-rows").contains(document.activeElement) && draw());
