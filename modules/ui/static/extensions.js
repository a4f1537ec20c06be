// Extensions in the Session tab: what there is, on and off, and what each can be told.

import { byId } from "./chat_state.js";
import { broken } from "./extension_scripts.js";
import { element, get, post, redraw, say } from "./net.js";

const STATES = { on: "on", off: "off", failed: "failed", withheld: "withheld" };
const list = { found: null, version: -1, seen: -1, on: 0, open: new Set(), shown: false, busy: new Set() };

/** What the stream says of extensions. */
export function followExtensions({ version, on }) {
  Object.assign(list, { version, on: on.length });
  showWidgets(on);
  drawCount();
  if (list.shown) look();
}

/** Widgets of what is off are out of sight; by a rule, since gradio draws its elements anew. */
function showWidgets(on) {
  const style = byId("extension-widgets-shown") ?? document.head.appendChild(element("style", { id: "extension-widgets-shown" }));
  const shown = (before, after) => on.map((name) => `:not([id="${CSS.escape(`${before}${name}${after}`)}"])`).join("");
  const block = `[id^="extension-block-"]${shown("extension-block-", "")}`;
  const tab = `[id^="tab-extension-"][id$="-button"]${shown("tab-extension-", "-button")}`;
  style.textContent = `${block}, ${tab} { display: none !important; }`;
  document.body.dataset.extensions = "told";
}

function drawCount() {
  const count = document.querySelector("#session-nav [data-part=extensions] .soft");
  if (count) count.textContent = list.on || "";
}

async function look() {
  if (list.seen === list.version) return;
  list.seen = list.version;
  take(await get("extensions"));
}

function take(found) {
  if (!found) return;
  list.found = found;
  draw();
}

// -- the list -----------------------------------------------------------------------------

function frame() {
  const section = byId("session-extensions");
  if (byId("extension-rows")) return section;
  section.querySelector("header").append(element("p", { className: "soft", id: "extensions-about" }));
  section.append(element("div", { id: "extensions-fault" }), element("div", { id: "extension-rows" }));
  return section;
}

function draw() {
  const { found } = list;
  frame();
  byId("extensions-about").replaceChildren(
    "Programs that take part in chats and in this page, from ", element("code", {}, found.folder),
    ". They may do whatever you may: read a script before you switch it on.",
  );
  const fault = found.fault ? [element("p", { className: "session-note fault", role: "status" }, `${found.fault} Until then, nothing can be kept.`)] : [];
  redraw(byId("extensions-fault"), found.fault, ...fault);
  const none = element("p", { className: "soft" }, "There are none in the folder.");
  const key = [found, [...broken], [...list.busy]];
  redraw(byId("extension-rows"), key, ...(found.extensions.length ? found.extensions.map(card) : [none]));
}

function card(one) {
  const id = `extension-switch-${one.name}`;
  const box = element("input", { type: "checkbox", id, checked: one.state === "on", disabled: list.busy.has(one.name), role: "switch" });
  box.onchange = () => change(one, "switch", { on: box.checked }, box.checked && `${one.title} is on.`);
  const params = one.params.map((param) => paramRow(one, param));
  return element(
    "article",
    { className: `extension ${one.state}`, "data-extension": one.name, "aria-labelledby": `${id}-title` },
    element(
      "div",
      { className: "extension-head" },
      box,
      element("label", { htmlFor: id, id: `${id}-title` }, one.title),
      one.title === one.name ? null : element("code", {}, one.name),
      element("span", { className: `extension-state state-${one.state}` }, list.busy.has(one.name) ? "…" : STATES[one.state]),
    ),
    one.about ? element("p", {}, one.about) : null,
    ...told(one),
    params.length ? folded(one, params) : null,
    one.hooks.length ? element("p", { className: "soft extension-hooks" }, "Hooks: ", ...one.hooks.flatMap((hook, i) => [i ? ", " : "", element("code", {}, hook)])) : null,
  );
}

/** What is wrong, what needs a restart, and what the next start will make of it. */
function told(one) {
  const lines = [];
  const line = (text, kind = "", button = null) => lines.push(element("p", { className: `extension-told ${kind}`, role: "status" }, element("span", {}, text), button));
  if (one.error) line(`${one.error} ${one.remedy}`, one.state === "failed" || one.state === "off" ? "fault" : "");
  if (broken.has(one.name)) line(broken.get(one.name), "fault");
  const kept = one.next === "on";
  if (one.widgets === "restart") line(kept ? "Its widgets come with a restart." : "Its widgets come with a restart, once it is kept on.", "", kept ? restartButton() : null);
  if (one.next === null || one.state === "withheld") return lines;
  const changed = one.params.filter((param) => param.changed).map((param) => param.key);
  if (one.state === "on" && one.next === "off") line("On until Lantern ends.", "", keepButton(one, "Keep it on"));
  else if (one.state === "on" && one.next === "withheld") line(`Others reach this page: the next start has it off, unless it is named with --extensions ${one.name}.`);
  else if (one.state !== "on" && kept) line(one.flag ? "The next start has it on: --extensions names it." : "The next start has it on.", "", one.flag ? null : keepButton(one, "Keep it off"));
  if (changed.length && (kept || one.state !== "on")) line(`Changed until Lantern ends: ${changed.join(", ")}.`, "", keepButton(one, "Keep"));
  return lines;
}

function keepButton(one, text) {
  const made = element("button", { type: "button", disabled: Boolean(list.found.fault), title: "Save it in settings.yaml" }, text);
  made.onclick = () => change(one, "keep", {}, "Saved in settings.yaml.");
  return made;
}

function restartButton() {
  const made = element("button", { type: "button" }, "Restart…");
  made.onclick = () => byId("restart-button")?.click();
  return made;
}

function folded(one, params) {
  const made = element("details", { className: "extension-params", open: list.open.has(one.name) }, element("summary", {}, `Params (${params.length})`), ...params);
  made.ontoggle = () => (made.open ? list.open.add(one.name) : list.open.delete(one.name));
  return made;
}

// -- params -------------------------------------------------------------------------------

function paramRow(one, param) {
  const id = `extension-param-${one.name}-${param.key}`.replaceAll(" ", "-");
  return element(
    "div",
    { className: `session-row${param.changed ? " drafted" : ""}`, "data-param": param.key },
    element("label", { htmlFor: id }, labelOf(param.key)),
    element("div", { className: "session-field" }, control(one, param, id)),
    element("p", { className: "session-said", role: "status" }),
  );
}

function labelOf(key) {
  const words = key.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function control(one, param, id) {
  const send = (value, box) => setParam(one, param, value, box);
  if (param.kind === "switch") {
    const box = element("input", { id, type: "checkbox", checked: param.value });
    box.onchange = () => send(box.checked, box);
    return box;
  }
  if (param.kind === "other") return element("code", { id }, param.value);
  const number = param.kind === "number";
  const box = element("input", { id, type: number ? "number" : "text", value: param.value ?? "", autocomplete: "off", spellcheck: false });
  if (number) box.step = param.whole ? "1" : "any";
  box.onchange = () => {
    if (number && (box.value === "" || !box.checkValidity())) return refuse(box, param.whole ? "Write a whole number." : "Write a number.");
    send(number ? Number(box.value) : box.value, box);
  };
  return box;
}

function refuse(box, text) {
  const said = box.closest(".session-row").querySelector(".session-said");
  said.textContent = text;
  said.classList.add("fault");
  box.setAttribute("aria-invalid", "true");
}

async function setParam(one, param, value, box) {
  const found = await post(`extensions/${encodeURIComponent(one.name)}/param`, { key: param.key, value }, (text) => refuse(box, text));
  take(found);
}

async function change(one, what, body, done) {
  list.busy.add(one.name);
  if (what === "switch") draw();
  const found = await post(`extensions/${encodeURIComponent(one.name)}/${what}`, body);
  list.busy.delete(one.name);
  take(found ?? (await get("extensions")));
  const now = found?.extensions.find((other) => other.name === one.name);
  if (now && done && now.state !== "failed") say(done);
}

// -- the beginning ------------------------------------------------------------------------

document.addEventListener("session-part", ({ detail }) => {
  drawCount();
  list.shown = detail === "extensions";
  list.seen = -1; // widgets change params, and nobody says so
  if (list.shown) look();
});
document.addEventListener("extension-broken", () => list.found && draw());
