// The page: one stream of state from the server, and what it is drawn into.

import "./about.js";
import "./characters.js";
import "./chat_head.js";
import { acts, byId, ensureChat, onHead, onOpen, openChat, state, tellHead } from "./chat_state.js";
import "./chat_menu.js";
import { drawChats } from "./chats.js";
import { preview } from "./composer.js";
import { loadScripts } from "./extension_scripts.js";
import { followExtensions } from "./extensions.js";
import "./inspector.js";
import "./composer_menu.js";
import "./keys.js";
import { drawLoras, openLoras } from "./loras.js";
import "./message_acts.js";
import { messages } from "./messages.js";
import { drawModelTab } from "./model.js";
import { post, present } from "./net.js";
import "./profile.js";
import { followHost, sayRestarted } from "./restart.js";
import { drawSessionTab } from "./session.js";
import { drawStrip } from "./strip.js";
import { chime, chooseTheme, taste, useTheme } from "./taste.js";
import { drawTrainingTab } from "./training.js";
import { followColors } from "./token_colors.js";
import "./tools.js";
import "./tree.js";

let stream = null;
let owner = false;

// -- the stream -------------------------------------------------------------------------

function connect() {
  stream?.close();
  const source = new EventSource(`page/events?chat=${state.chat}&window=${state.window}`);
  stream = source;
  source.onmessage = (event) => source === stream && receive(JSON.parse(event.data));
  source.onopen = () => document.body.classList.remove("offline");
  source.onerror = () => {
    document.body.classList.add("offline");
    // EventSource gives up on an error page; a server that restarts needs patience.
    if (source.readyState === EventSource.CLOSED && source === stream) setTimeout(connect, 1500);
  };
}

function receive(update) {
  if (update.boot || update.ended) followHost(update);
  if (update.engine || update.training) drawStrip(update);
  if (update.engine) drawModelTab(update);
  if (update.engine) drawSessionTab(update);
  if (update.engine || update.training) drawTrainingTab(update);
  if (update.engine) drawLoras({ applied: update.engine.adapters });
  if (update.engine) owner = update.engine.admin;
  if (update.extensions) {
    followExtensions(update.extensions);
    followColors(update.extensions);
    loadScripts(update.extensions, owner);
  }
  if (update.chats) drawChats(update.chats);
  if (update.gone) openChat(0);
  if (update.chat && update.chat.id === state.chat) drawChat(update.chat, update.messages);
  if (update.live) messages.grow(update.live);
  if (update.chat || update.live) follow();
}

// A browser keeps few connections to one server; a hidden tab gives its one back, but where it is
// to be heard when the reply ends.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connect();
  else if (!(taste.sound && state.head?.busy)) stream?.close();
});

// -- the chat ---------------------------------------------------------------------------

onHead((head) => {
  byId("chat-title").textContent = head.title || "New chat";
  byId("incognito-mark").hidden = !head.incognito;
  document.body.classList.toggle("incognito", Boolean(head.incognito));
  byId("system-button").classList.toggle("set", Boolean(head.system));
  drawLoras({ chosen: head.adapters });
  document.body.classList.toggle("chat-empty", !head.order.length);
});

function drawChat(head, changed) {
  const ended = state.head?.id === head.id && state.head.busy && !head.busy;
  if (ended && taste.sound) chime();
  if (ended && document.hidden) stream?.close();
  const editing = messages.place.querySelector(".editor");
  if (editing && changed.some((m) => m.id === Number(editing.closest(".message").dataset.id))) editing.remove();
  messages.update(head.order, changed, head.earlier);
  tellHead(head);
}

function follow() {
  const scroll = byId("chat-scroll");
  if (state.stick) scroll.scrollTop = scroll.scrollHeight;
  byId("to-end").hidden = atEnd();
}

function atEnd() {
  const scroll = byId("chat-scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
}

// -- what is clicked --------------------------------------------------------------------

Object.assign(acts, {
  system: () => {
    byId("system-text").value = state.head?.system ?? "";
    byId("system-editor").hidden = !byId("system-editor").hidden;
    if (!byId("system-editor").hidden) byId("system-text").focus();
  },
  "system-close": () => (byId("system-editor").hidden = true),
  "system-save": async () => {
    const text = byId("system-text").value;
    if (!(await ensureChat())) return;
    byId("system-editor").hidden = Boolean(await post(`chats/${state.chat}/system`, { text }));
    preview();
  },
  loras: () => openLoras(async (mix) => (await ensureChat()) && post(`chats/${state.chat}/adapters`, { adapters: mix })),
  params: () => {
    document.body.classList.toggle("params-shown");
    localStorage.setItem("lantern-params-shown", document.body.classList.contains("params-shown") ? "1" : "");
  },
  theme: () => chooseTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  "to-end": () => {
    state.stick = true;
    follow();
  },
  earlier: () => {
    state.window += 300;
    state.stick = false;
    connect();
  },
});

document.addEventListener("click", (event) => {
  if (!event.target.closest?.("#sidebar, [data-act=fold]")) document.body.classList.remove("side-shown");
  const button = event.target.closest?.("[data-act]");
  if (!button || !acts[button.dataset.act]) return;
  acts[button.dataset.act](button, {
    chat: Number(button.closest("[data-chat]")?.dataset.chat ?? 0),
    message: Number(button.closest("[data-id]")?.dataset.id ?? 0),
  });
});

// -- the beginning ----------------------------------------------------------------------

onOpen(() => {
  messages.clear();
  byId("system-editor").hidden = true;
  connect();
});

async function begin() {
  await Promise.all(["chat-messages", "chat-list", "strip-model"].map(present));
  useTheme();
  messages.place = byId("chat-messages");
  if (localStorage.getItem("lantern-params-shown")) document.body.classList.add("params-shown");
  byId("chat-scroll").addEventListener("scroll", () => {
    state.stick = !state.at && atEnd();
    byId("to-end").hidden = atEnd();
  });
  present("parameter-chips").then(window.lanternParams.drawChips);
  // The composer grows, notes appear, messages get their true heights as they come into view:
  // who reads at the end stays at the end.
  const sizes = new ResizeObserver(() => state.stick && follow());
  ["chat-scroll", "chat-messages"].forEach((id) => sizes.observe(byId(id)));
  openChat(Number(new URL(location).searchParams.get("chat")) || 0);
}

begin();
sayRestarted();
