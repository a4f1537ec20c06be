// Tools: which of them a chat may call, and what is decided about the calls in its replies.

import { acts, actOn, byId, ensureChat, onHead, onOpen, state } from "./chat_state.js";
import { preview } from "./composer.js";
import { openSheet } from "./dialogs.js";
import { element, get, post, present } from "./net.js";

const STATES = { off: "not started", starting: "starting…", failed: "does not work" };
let available = false;

/** The item of the composer's menu; none where there are no tools, or for a guest. */
export function toolItem() {
  const count = state.head?.tools?.length ?? 0;
  return available ? [{ text: "Tools…", about: count ? `${count} on` : "", run: choose }] : [];
}

function drawButton() {
  const count = state.head?.tools?.length ?? 0;
  const off = state.head && state.head.mode !== "instruct";
  byId("tools-button").hidden = !available || !count;
  byId("tools-button").textContent = `Tools: ${off ? "off" : count}`;
  byId("tools-button").title = off ? "Tools work in the mode Instruct" : "The tools that this chat may call";
}

// -- choosing -----------------------------------------------------------------------------

async function choose() {
  const seen = await post("tools/sources");
  if (!seen) return;
  const body = element("div", { className: "tool-sources" });
  const dialog = openSheet("Tools of this chat", [
    element("p", { className: "soft" }, "What is on is told to the model, and takes room in the context. Each call is shown, and waits for your word."),
    body,
  ]);
  const chosen = new Set(state.head?.tools ?? []);
  draw(body, seen.sources, chosen);
  if (!seen.sources.some((source) => source.kind === "mcp" && source.state !== "on")) return;
  for (const told of body.querySelectorAll("[data-state=off], [data-state=failed]")) told.textContent = STATES.starting;
  const started = await post("tools/sources", { start: true });
  if (started && dialog.isConnected) draw(body, started.sources, chosen);
}

function draw(body, sources, chosen) {
  const known = new Set(sources.flatMap((source) => source.tools.map((tool) => tool.name)));
  const lost = [...chosen].filter((name) => !known.has(name) && !sources.some((source) => source.kind === "mcp" && source.state === "off"));
  body.replaceChildren(
    ...sources.map((source) => group(source, chosen)),
    ...(lost.length ? [group({ name: "Not there now", kind: "lost", state: "on", problems: [], tools: lost.map((name) => ({ name, about: "" })) }, chosen)] : []),
  );
}

function group(source, chosen) {
  return element(
    "fieldset",
    {},
    element("legend", {}, source.kind === "mcp" ? `MCP server ${source.name} ` : source.name, element("span", { className: "soft", "data-state": source.state }, STATES[source.state] ?? "")),
    ...source.problems.map((problem) => element("p", { className: "fault" }, problem)),
    ...(!source.tools.length && source.state === "on" ? [element("p", { className: "soft" }, "There are none.")] : []),
    ...source.tools.map((tool) => row(tool, chosen)),
  );
}

function row(tool, chosen) {
  const box = element("input", { type: "checkbox", checked: chosen.has(tool.name), name: tool.name });
  box.onchange = async () => {
    if (box.checked) chosen.add(tool.name);
    else chosen.delete(tool.name);
    if (!(await ensureChat()) || !(await post(`chats/${state.chat}/tools`, { names: [...chosen] }))) {
      box.checked = !box.checked;
      if (box.checked) chosen.add(tool.name);
      else chosen.delete(tool.name);
    } else preview();
  };
  return element("label", { className: "tool-row" }, box, element("span", {}, element("strong", {}, tool.name), element("span", { className: "soft" }, tool.about)));
}

// -- deciding -----------------------------------------------------------------------------

function decide(decision) {
  return async (button, row) => {
    const card = button.closest("[data-call]");
    const buttons = [...card.querySelectorAll(".call-buttons button")];
    buttons.forEach((one) => (one.disabled = true));
    if (!(await actOn(row.message, `calls/${encodeURIComponent(card.dataset.call)}`, { decision }))) buttons.forEach((one) => (one.disabled = false));
  };
}

Object.assign(acts, {
  tools: choose,
  "call-run": decide("run"),
  "call-always": decide("always"),
  "call-refuse": decide("refuse"),
});

async function ask() {
  available = Boolean((await get("tools"))?.available);
  document.body.dataset.tools = available ? "on" : "off";
  drawButton();
}

await present("composer-more");
byId("composer-more").before(element("button", { type: "button", className: "quiet", id: "tools-button", "data-act": "tools", hidden: true }));
onHead(drawButton);
onOpen(ask);
ask();
