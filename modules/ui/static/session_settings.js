// The settings of a launch: what they are, where that comes from, and what the next launch will have.

import { byId } from "./chat_state.js";
import { button, openDialog } from "./dialogs.js";
import { element, get, post, redraw, say, working } from "./net.js";
import { expectRestart } from "./restart.js";

const SOURCES = { flag: "flag", variable: "environment", file: "settings.yaml" };
const state = { found: null, draft: new Map(), faults: new Map(), fault: "", asked: 0 };
const field = (name) => state.found.fields.find((one) => one.name === name);

/** Look for what is saved now; what was changed and not saved stays. */
export async function openSettings() {
  byId("settings-find").oninput = draw;
  byId("settings-set").onchange = draw;
  byId("restart-button").onclick = askRestart;
  take(await get("session/settings"));
}

function take(found) {
  if (!found) return;
  state.found = found;
  draw();
}

function draw() {
  const { found } = state;
  if (!found) return; // somebody looks for a setting before they have come
  byId("settings-about").replaceChildren("Saved in ", element("code", {}, found.file), `, and in effect from the next start. Flags and variables win over it.${found.by_hand && ` Lantern cannot restart itself here. ${found.by_hand}`}`);
  byId("restart-button").disabled = !found.restart;
  byId("restart-button").title = found.by_hand;
  drawPending();
  const wanted = byId("settings-find").value.trim().toLowerCase();
  const only = byId("settings-set").checked;
  const fits = (one) =>
    (!only || one.set || one.saved !== null || state.draft.has(one.name)) &&
    (!wanted || [one.name, one.label, one.flag, one.help].some((text) => text.toLowerCase().includes(wanted)));
  const groups = found.groups
    .map(({ title, names }) => [title, names.map(field).filter(fits)])
    .filter(([, fields]) => fields.length);
  const rows = groups.map(([title, fields]) =>
    element("fieldset", { className: "session-group" }, element("legend", {}, title), ...fields.map(row)));
  const none = element("p", { className: "soft" }, wanted ? "No setting has this in its name or its help." : "Everything is at its default.");
  redraw(byId("settings-rows"), [found, wanted, only, state.asked], ...(rows.length ? rows : [none]));
  drawBar();
}

function drawPending() {
  const { pending, fault, restart } = state.found;
  const parts = [];
  if (fault) parts.push(element("p", { className: "session-note fault", role: "status" }, `${fault} Until then, nothing can be saved here, and Lantern does not start again.`));
  if (pending.length) {
    const names = pending.map((name) => field(name).label);
    const text = `${names.join(", ")}: saved, and in effect after a restart.`;
    const again = element("button", { type: "button", disabled: !restart }, "Restart…");
    again.onclick = askRestart;
    parts.push(element("p", { className: "session-note", role: "status" }, element("span", {}, text), again));
  }
  redraw(byId("settings-pending"), [fault, pending, restart], ...parts);
}

// -- one setting ------------------------------------------------------------------------

/** What stands in a control, but for what is not saved yet: what is saved, or what will count without. */
const kept = (one) => one.saved ?? (one.overridden ? one.value : one.next);

function valueOf(one) {
  return state.draft.has(one.name) ? (state.draft.get(one.name) ?? one.default) : kept(one);
}

function row(one) {
  const id = `setting-of-${one.name}`;
  const control = drawControl(one, id);
  control.disabled = Boolean(one.locked || state.found.fault);
  control.setAttribute("aria-describedby", `${id}-about`);
  const reset = element("button", { type: "button", className: "quiet session-reset", title: "Take it out of the file", ariaLabel: `Reset ${one.label}` }, "↺");
  reset.onclick = () => change(one, null);
  reset.disabled = control.disabled || (one.saved === null && !state.draft.has(one.name));
  const source = SOURCES[one.source];
  const made = element(
    "div",
    { className: "session-row", "data-setting": one.name },
    element("label", { htmlFor: id }, one.label, source ? element("span", { className: `session-source from-${one.source}` }, source) : null),
    element("div", { className: "session-field" }, control, reset),
    element("p", { className: "soft", id: `${id}-about` }, one.help, " ", element("code", {}, one.flag)),
    element("p", { className: "session-said", role: "status" }),
  );
  tell(one, made);
  return made;
}

function drawControl(one, id) {
  const value = valueOf(one);
  if (one.kind === "switch") {
    const box = element("input", { id, type: "checkbox", checked: value === true || value === "true" });
    box.onchange = () => change(one, box.checked);
    return box;
  }
  if (one.kind === "choice") {
    const box = element("select", { id }, ...one.choices.map((text) => element("option", { value: text, selected: text === String(value) }, text)));
    box.onchange = () => change(one, box.value);
    return box;
  }
  const box = element("input", { id, type: "text", autocomplete: "off", spellcheck: false, maxLength: 4000 });
  if (one.secret) {
    box.type = "password";
    box.autocomplete = "new-password";
    box.placeholder = one.set || one.saved ? "set; write a new one to change it" : "";
    box.value = state.draft.get(one.name) ?? "";
  } else {
    box.value = value ?? "";
    box.placeholder = one.several ? `${one.example || "NAME"}, …` : one.example;
    if (one.kind === "number") box.inputMode = "numeric";
  }
  box.onchange = () => change(one, box.value.trim());
  return box;
}

/** Keep a value that is not saved yet, and have the server look at it. */
async function change(one, value) {
  const same = value !== null && !one.secret && String(value) === String(kept(one));
  if (same || (one.secret && value === "")) state.draft.delete(one.name);
  else state.draft.set(one.name, value);
  state.fault = "";
  state.faults.delete(one.name);
  if (value === null) state.asked++; // its control shows the default again
  draw();
  tell(one);
  if (value === null || same || value === "") return;
  const answer = await post("session/settings/check", { name: one.name, value: sent(one, value) }, () => {});
  if (!answer || state.draft.get(one.name) !== value) return;
  if (answer.fault) state.faults.set(one.name, answer.fault);
  tell(one);
  drawBar();
}

const sent = (one, value) => (one.several && value !== null ? value.split(",").map((text) => text.trim()).filter(Boolean) : value);

/** The line under a setting: what is wrong, what wins over it, what comes after a restart. */
function tell(one, row = document.querySelector(`[data-setting=${one.name}]`)) {
  if (!row) return;
  const fault = state.faults.get(one.name);
  const drafted = state.draft.has(one.name);
  const shown = (value) => (value === true ? "on" : value === false ? "off" : value === "" ? "nothing" : value);
  const parts = [];
  if (fault) parts.push(fault);
  else if (drafted) parts.push(state.draft.get(one.name) === null ? "Taken out of the file when you save." : "Not saved yet.");
  if (one.overridden && (drafted || one.saved !== null || one.source !== "default")) parts.push(one.overridden);
  else if (one.pending && !drafted && !one.secret) parts.push(`Now ${shown(one.value)}; ${shown(one.next)} after a restart.`);
  if (one.locked) parts.push(one.locked);
  row.classList.toggle("drafted", drafted);
  const said = row.querySelector(".session-said");
  said.textContent = parts.join(" ");
  said.classList.toggle("fault", Boolean(fault));
  row.querySelector("input, select").setAttribute("aria-invalid", fault ? "true" : "false");
  row.querySelector(".session-reset").disabled = Boolean(one.locked || state.found.fault) || (one.saved === null && !drafted);
}

// -- saving -----------------------------------------------------------------------------

function drawBar() {
  const bar = byId("settings-bar");
  const count = state.draft.size;
  bar.hidden = !count;
  if (!count) return bar.replaceChildren();
  const wrong = [...state.faults.values()][0];
  const words = state.fault || wrong || `${count} ${count === 1 ? "change" : "changes"}, not saved.`;
  const discard = element("button", { type: "button", className: "quiet" }, "Discard");
  discard.onclick = () => (state.draft.clear(), state.faults.clear(), (state.fault = ""), state.asked++, draw());
  const keep = element("button", { type: "button", className: "primary", disabled: Boolean(wrong) }, "Save");
  keep.onclick = () => save(keep);
  return redraw(bar, [words, wrong, count], element("span", { className: state.fault || wrong ? "fault" : "" }, words), discard, keep);
}

async function save(pressed) {
  const back = working(pressed, "Saving…");
  const changes = Object.fromEntries([...state.draft].map(([name, value]) => [name, sent(field(name), value)]));
  state.fault = "";
  const found = await post("session/settings", { changes }, (text) => (state.fault = text));
  back();
  if (!found) return drawBar();
  state.draft.clear();
  state.asked++;
  take(found);
  return say(found.pending.length ? "Saved. It counts after a restart." : "Saved.");
}

function askRestart() {
  const told = element("p", { className: "fault", role: "status" });
  const go = button("Restart", "primary", async () => {
    const back = working(go, "Restarting…");
    const found = await post("session/restart", {}, (text) => (told.textContent = text));
    if (!found) return back();
    dialog.close();
    return expectRestart(found.url);
  });
  const unsaved = state.draft.size ? " What you changed here and did not save is lost." : "";
  const text = `Replies that are being written are stored as far as they are. The model that is loaded is loaded again; trainings go on. Everybody's page comes back by itself.${unsaved}`;
  const dialog = openDialog("Restart Lantern?", "ask-dialog", element("p", {}, text), told, element("div", { className: "row-end" }, button("Cancel", "quiet", () => dialog.close()), go));
}
