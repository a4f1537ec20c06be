// What can be done beside sending: the menu of the composer, and what replies start with.

import { acts, actOn, byId, draft, ensureChat, onHead, onOpen, state, withValues } from "./chat_state.js";
import { fitComposer, preview } from "./composer.js";
import { openMenu } from "./menu.js";
import { lastOf } from "./message_acts.js";
import { element, post, present, say } from "./net.js";
import { toolItem } from "./tools.js";

const BEGINNING = "lantern-beginning";
let speaking = null;

// -- the menu -----------------------------------------------------------------------------

function composerMenu(button) {
  const box = byId("composer-text");
  const text = box.value.trim();
  const reply = lastOf("assistant");
  const busy = Boolean(state.head?.busy);
  openMenu(button, "More to do than send", [
    { text: "Start reply with…", about: state.beginning ? "on" : "", run: showBeginning },
    { text: "Impersonate", about: "Alt + U", disabled: busy, run: impersonate },
    ...toolItem(),
    null,
    { text: "Send as your message", about: "no reply is written", disabled: busy || !text, run: () => add("user") },
    { text: "Send as a reply", about: "as if the model had written it", disabled: busy || !text, run: () => add("assistant") },
    { text: "Replace the last reply", about: "with this text", disabled: busy || !text || !reply, run: () => replaceReply(reply) },
    null,
    { text: "Copy the last reply", disabled: !reply, run: () => acts.copy(null, { message: reply.id }) },
    { text: "Remove the last turn", disabled: busy || !state.head?.order.length, run: removeLast },
  ]);
}

function put(text) {
  const box = byId("composer-text");
  box.value = text;
  if (text) draft.keep(text);
  else draft.drop();
  fitComposer();
  preview();
}

async function add(role) {
  const text = byId("composer-text").value;
  if ((await ensureChat()) && (await post(`chats/${state.chat}/add`, { role, text }))) put("");
}

async function replaceReply(reply) {
  if (await actOn(reply.id, "edit", { text: byId("composer-text").value })) put("");
}

async function removeLast() {
  const chat = state.chat;
  const removed = await post(`chats/${chat}/remove-last`);
  if (!removed) return;
  const empty = !byId("composer-text").value;
  if (empty) put(removed.text);
  say("The last turn is removed.", "", async () => {
    if ((await post(`chats/${chat}/messages/${removed.message_id}/restore`)) && empty && byId("composer-text").value === removed.text) put("");
  });
}

// -- impersonating ------------------------------------------------------------------------

/** Have the model write on in the composer, until it ends, or Esc or Stop is pressed. */
async function impersonate() {
  if (speaking || state.head?.busy || !(await ensureChat())) return;
  const chat = state.chat;
  const box = byId("composer-text");
  speaking = new AbortController();
  drawSpeaking();
  try {
    const body = JSON.stringify({ text: box.value, values: withValues().values });
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`page/chats/${chat}/impersonate`, { method: "POST", headers, body, signal: speaking.signal });
    for await (const piece of linesOf(answer)) {
      if (state.chat !== chat) break;
      if (piece.message) say(`${piece.message} ${piece.remedy ?? ""}`, "fault");
      else put(box.value + piece.text);
    }
  } catch {
    if (!speaking.signal.aborted) say("The server does not answer. Is Lantern still running in its terminal?", "fault");
  } finally {
    speaking.abort();
    speaking = null;
    drawSpeaking();
    box.focus();
  }
}

/** The JSON values in an answer, one in each line, as they come. */
async function* linesOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) if (line.trim()) yield JSON.parse(line);
    if (done) return;
  }
}

function drawSpeaking() {
  byId("composer-text").readOnly = Boolean(speaking);
  byId("composer").classList.toggle("speaking", Boolean(speaking));
  byId("send").hidden = Boolean(speaking || state.head?.busy);
  byId("stop").hidden = !(speaking || state.head?.busy);
}

const stopReply = acts.stop;
acts.stop = () => (speaking ? speaking.abort() : stopReply());
acts.impersonate = impersonate;
document.addEventListener(
  "keydown",
  (event) => {
    if (event.key !== "Escape" || !speaking) return;
    event.stopPropagation();
    speaking.abort();
  },
  true,
);
onOpen(() => speaking?.abort());
onHead(() => speaking && drawSpeaking());

// -- what replies start with --------------------------------------------------------------

function showBeginning() {
  byId("beginning").hidden = false;
  byId("beginning-text").focus();
}

function useBeginning(text) {
  state.beginning = text;
  if (text) localStorage.setItem(BEGINNING, text);
  else localStorage.removeItem(BEGINNING);
}

acts["composer-menu"] = composerMenu;
acts["beginning-clear"] = () => {
  useBeginning("");
  byId("beginning-text").value = "";
  byId("beginning").hidden = true;
  byId("composer-text").focus();
};

await present("composer-text");
const box = element("input", { id: "beginning-text", autocomplete: "off", maxLength: 10_000, placeholder: "Sure, here is" });
box.oninput = () => useBeginning(box.value);
box.onkeydown = (event) => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  event.stopPropagation();
  byId("composer-text").focus();
};
byId("composer").before(
  element(
    "div",
    { id: "beginning", className: "beginning", hidden: true },
    element("label", { htmlFor: "beginning-text" }, "Replies start with"),
    box,
    element("button", { type: "button", className: "quiet", "data-act": "beginning-clear", ariaLabel: "Replies start as the model likes", title: "Clear" }, "×"),
  ),
);
state.beginning = box.value = localStorage.getItem(BEGINNING) ?? "";
byId("beginning").hidden = !state.beginning;
