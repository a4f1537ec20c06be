// The page: one stream of state from the server, and what people do with it.

import { copy, element, get, post, present, say } from "./net.js";
import { drawLoras, openLoras } from "./loras.js";
import { MessageList } from "./messages.js";
import { drawModelTab } from "./model.js";
import { drawStrip } from "./strip.js";

const state = { chat: 0, chats: [], head: null, window: 60, stream: null, stick: true };
let list = null;
const byId = (id) => document.getElementById(id);

// -- the stream -------------------------------------------------------------------------

function connect() {
  state.stream?.close();
  const stream = new EventSource(`page/events?chat=${state.chat}&window=${state.window}`);
  state.stream = stream;
  stream.onmessage = (event) => stream === state.stream && receive(JSON.parse(event.data));
  stream.onopen = () => document.body.classList.remove("offline");
  stream.onerror = () => {
    document.body.classList.add("offline");
    // EventSource gives up on an error page; a server that restarts needs patience.
    if (stream.readyState === EventSource.CLOSED && stream === state.stream) setTimeout(connect, 1500);
  };
}

function receive(update) {
  if (update.engine) drawStrip(update.engine, update.jobs ?? []);
  if (update.engine) drawModelTab(update);
  if (update.engine) drawLoras({ applied: update.engine.adapters });
  if (update.chats) drawChats(update.chats);
  if (update.gone) openChat(0);
  if (update.chat && update.chat.id === state.chat) drawChat(update.chat, update.messages);
  if (update.live) list.grow(update.live);
  if (update.chat || update.live) follow();
}

// A browser keeps few connections to one server; a hidden tab gives its one back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) state.stream?.close();
  else connect();
});

// -- the list of chats ------------------------------------------------------------------

function drawChats(chats) {
  state.chats = chats;
  if (byId("chat-list").querySelector("input")) return; // a title is being typed
  const wanted = byId("find-chat").value.trim().toLowerCase();
  const rows = [];
  let head = "";
  for (const chat of chats) {
    const title = chat.title || "New chat";
    if (wanted && !title.toLowerCase().includes(wanted)) continue;
    const day = dayOf(chat.at);
    if (day !== head) rows.push(element("h3", {}, (head = day)));
    rows.push(
      element(
        "div",
        { className: `chat-row${chat.id === state.chat ? " current" : ""}`, "data-chat": chat.id },
        element("button", { type: "button", className: "chat-link", "data-act": "open-chat", title }, title),
        element("button", { type: "button", className: "quiet", "data-act": "rename-chat", title: "Rename", ariaLabel: `Rename ${title}` }, "✎"),
        element("button", { type: "button", className: "quiet", "data-act": "delete-chat", title: "Delete", ariaLabel: `Delete ${title}` }, "×"),
      ),
    );
  }
  if (!rows.length) rows.push(element("p", { className: "soft empty" }, wanted ? "No chat has this in its title." : "Your chats will be here."));
  byId("chat-list").replaceChildren(...rows);
}

function dayOf(seconds) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const days = Math.ceil((midnight - seconds * 1000) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days < 7 ? "This week" : days < 31 ? "This month" : "Earlier";
}

function openChat(id) {
  state.chat = id;
  state.head = null;
  state.window = 60;
  state.stick = true;
  list.clear();
  byId("system-editor").hidden = true;
  const url = new URL(location);
  if (id) url.searchParams.set("chat", id);
  else url.searchParams.delete("chat");
  history.replaceState(null, "", url);
  byId("composer-text").value = localStorage.getItem(draftKey()) ?? "";
  if (!id) drawHead({ title: "", system: "", adapters: null, busy: false, order: [] });
  drawChats(state.chats);
  document.body.classList.remove("side-shown");
  connect();
  fitComposer();
  preview();
  if (matchMedia("(min-width: 700px)").matches) byId("composer-text").focus();
}

function renameChat(row, id) {
  const link = row.querySelector(".chat-link");
  const box = element("input", { value: link.textContent, maxLength: 120, ariaLabel: "New title" });
  let over = false;
  const done = (save) => {
    if (over) return; // taking the box away blurs it once more
    over = true;
    const title = box.value.trim();
    box.replaceWith(link);
    if (save && title) post(`chats/${id}/rename`, { text: title });
    else drawChats(state.chats);
  };
  box.onkeydown = (event) => {
    if (event.key === "Enter") done(true);
    if (event.key === "Escape") (event.stopPropagation(), done(false));
  };
  box.onblur = () => done(true);
  link.replaceWith(box);
  box.select();
}

async function deleteChat(id) {
  if (!(await post(`chats/${id}/delete`))) return;
  say("Chat deleted.", "", async () => (await post(`chats/${id}/restore`)) && openChat(id));
  if (id === state.chat) openChat(0);
}

// -- the chat ---------------------------------------------------------------------------

function drawHead(head) {
  state.head = head;
  byId("chat-title").textContent = head.title || "New chat";
  byId("system-button").classList.toggle("set", Boolean(head.system));
  drawLoras({ chosen: head.adapters });
  byId("send").hidden = head.busy;
  byId("stop").hidden = !head.busy;
  document.body.classList.toggle("chat-empty", !head.order.length);
}

function drawChat(head, messages) {
  const editing = list.place.querySelector(".editor");
  if (editing && messages.some((m) => m.id === Number(editing.closest(".message").dataset.id)))
    editing.remove();
  list.update(head.order, messages, head.earlier);
  const finished = state.head?.busy && !head.busy;
  drawHead(head);
  if (finished) preview();
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

const values = () => window.lanternParams.values;
const draftKey = () => `lantern-draft-${state.chat}`;

async function send() {
  const box = byId("composer-text");
  const text = box.value;
  if (!text.trim() || state.head?.busy || state.sending) return;
  state.sending = true;
  try {
    if (!state.chat) {
      const made = await post("chats");
      if (!made) return;
      localStorage.removeItem(draftKey());
      state.chat = made.id;
      const url = new URL(location);
      url.searchParams.set("chat", made.id);
      history.replaceState(null, "", url);
      connect();
    }
    state.stick = true;
    if (!(await post(`chats/${state.chat}/send`, { text, values: values() }))) return;
    box.value = "";
    localStorage.removeItem(draftKey());
    fitComposer();
    note(null);
  } finally {
    state.sending = false;
  }
}

async function saveLoras(mix) {
  if (!state.chat) {
    const made = await post("chats");
    if (!made) return;
    const text = byId("composer-text").value;
    openChat(made.id);
    byId("composer-text").value = text;
  }
  await post(`chats/${state.chat}/adapters`, { adapters: mix });
}

const act = (message, what, body = {}) => post(`chats/${state.chat}/messages/${message}/${what}`, body);
const withValues = () => ({ values: values() });

function lastOf(role) {
  return [...list.facts.values()].filter((m) => m.role === role).sort((a, b) => a.id - b.id).at(-1);
}

function regenerateLast() {
  const last = state.head?.order.at(-1);
  if (last && !state.head.busy) act(last, "regenerate", withValues());
}

async function editMessage(id) {
  const node = list.drawn.get(id);
  if (!node || node.querySelector(".editor")) return;
  const source = await get(`chats/${state.chat}/messages/${id}`);
  if (!source) return;
  const fact = list.facts.get(id);
  const box = element("textarea", { value: source.text, ariaLabel: "Message text" });
  const button = (text, kind, run) => {
    const made = element("button", { type: "button", className: kind }, text);
    made.onclick = run;
    return made;
  };
  const save = (body) => async () => (await act(id, "edit", { text: box.value, ...body })) && close();
  const close = () => {
    editor.remove();
    node.classList.remove("editing");
  };
  const editor = element(
    "div",
    { className: "editor" },
    box,
    element(
      "div",
      { className: "row-end" },
      button("Cancel", "quiet", close),
      button("Save", fact.role === "user" ? "quiet" : "primary", save({})),
      fact.role === "user" ? button("Save and send", "primary", save(withValues())) : null,
    ),
  );
  box.onkeydown = (event) => {
    if (event.key === "Escape") (event.stopPropagation(), close());
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.stopPropagation();
      save(fact.role === "user" ? withValues() : {})();
    }
  };
  node.classList.add("editing");
  node.querySelector(".rendered").after(editor);
  box.style.height = `${Math.min(box.scrollHeight + 4, 480)}px`;
  box.focus();
}

async function deleteMessage(id) {
  if (!(await act(id, "delete"))) return;
  const chat = state.chat;
  say("Message deleted.", "", () => post(`chats/${chat}/messages/${id}/restore`));
}

function step(id, by) {
  const fact = list.facts.get(id);
  const target = fact?.versions[fact.version + by];
  if (target) act(target, "show");
}

// -- the composer -----------------------------------------------------------------------

function fitComposer() {
  const box = byId("composer-text");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 260)}px`;
}

function note(text) {
  const place = byId("composer-note");
  place.hidden = !text;
  place.textContent = text ?? "";
}

let previewing = 0;
function preview() {
  clearTimeout(previewing);
  previewing = setTimeout(async () => {
    const text = byId("composer-text").value;
    if (document.body.dataset.engine !== "ready") return;
    const answer = await fetch("page/preview", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ chat: state.chat || null, text, values: values() }),
    }).catch(() => null);
    const data = await answer?.json().catch(() => null);
    if (!data || byId("composer-text").value !== text) return;
    if (!answer.ok) return note(data.message ? `${data.message} ${data.remedy}` : null);
    note(data.sentence || null);
    byId("composer-count").textContent = data.context
      ? `${data.tokens.toLocaleString()} of ${data.context.toLocaleString()} tokens`
      : "";
  }, 350);
}

// -- what is clicked --------------------------------------------------------------------

const ACTS = {
  "new-chat": () => openChat(0),
  "open-chat": (_, row) => openChat(row.chat),
  "rename-chat": (button, row) => renameChat(button.closest(".chat-row"), row.chat),
  "delete-chat": (_, row) => deleteChat(row.chat),
  fold: () => document.body.classList.toggle(matchMedia("(max-width: 900px)").matches ? "side-shown" : "side-folded"),
  system: () => {
    byId("system-text").value = state.head?.system ?? "";
    byId("system-editor").hidden = !byId("system-editor").hidden;
    if (!byId("system-editor").hidden) byId("system-text").focus();
  },
  "system-close": () => (byId("system-editor").hidden = true),
  "system-save": async () => {
    if (!state.chat) {
      const made = await post("chats");
      if (!made) return;
      const text = byId("system-text").value;
      openChat(made.id);
      byId("system-text").value = text;
    }
    if (await post(`chats/${state.chat}/system`, { text: byId("system-text").value })) byId("system-editor").hidden = true;
    preview();
  },
  loras: () => openLoras(saveLoras),
  params: () => {
    document.body.classList.toggle("params-shown");
    localStorage.setItem("lantern-params-shown", document.body.classList.contains("params-shown") ? "1" : "");
  },
  theme: () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("lantern-theme", theme);
    useTheme(theme);
  },
  help: () => byId("keys")?.showModal(),
  stop: () => post(`chats/${state.chat}/stop`),
  "to-end": () => {
    state.stick = true;
    follow();
  },
  earlier: () => {
    state.window += 300;
    state.stick = false;
    connect();
  },
  regenerate: (_, row) => act(row.message, "regenerate", withValues()),
  answer: (_, row) => act(row.message, "regenerate", withValues()),
  continue: (_, row) => act(row.message, "continue", withValues()),
  edit: (_, row) => editMessage(row.message),
  delete: (_, row) => deleteMessage(row.message),
  copy: async (_, row) => {
    const source = await get(`chats/${state.chat}/messages/${row.message}`);
    if (source) copy(source.text);
  },
  "copy-code": (button) => copy(button.closest(".code").querySelector("code").textContent),
  "version-before": (_, row) => step(row.message, -1),
  "version-after": (_, row) => step(row.message, 1),
};

document.addEventListener("click", (event) => {
  if (!event.target.closest?.("#sidebar, [data-act=fold]")) document.body.classList.remove("side-shown");
  const button = event.target.closest?.("[data-act]");
  if (!button || !ACTS[button.dataset.act]) return;
  ACTS[button.dataset.act](button, {
    chat: Number(button.closest("[data-chat]")?.dataset.chat ?? 0),
    message: Number(button.closest("[data-id]")?.dataset.id ?? 0),
  });
});

/** Ours is set before the first paint (modules/ui/app.py); gradio's own follows it. */
function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.body.classList.toggle("dark", theme === "dark");
}

// -- keys -------------------------------------------------------------------------------

const KEYS = [
  ["Enter", "Send"],
  ["Shift + Enter", "Break the line"],
  ["Esc", "Stop the reply"],
  ["Ctrl + Enter", "Regenerate the last reply"],
  ["Alt + ↑", "Edit your last message"],
  ["Ctrl + K", "Find a chat"],
  ["?", "This sheet"],
];

function typing(target) {
  return target.closest?.("input, textarea, select, [contenteditable=true]");
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || !list) return;
  const chatShown = byId("composer").offsetParent !== null;
  if (event.key === "Escape") stopWhatRuns(chatShown);
  else if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.body.classList.remove("side-folded");
    document.body.classList.toggle("side-shown", matchMedia("(max-width: 900px)").matches);
    byId("find-chat").focus();
  } else if (event.key === "?" && !typing(event.target)) byId("keys").showModal();
  else if (!chatShown) return;
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), regenerateLast());
  else if (event.key === "ArrowUp" && event.altKey) {
    event.preventDefault();
    const last = lastOf("user");
    if (last) editMessage(last.id);
  }
});

function stopWhatRuns(chatShown) {
  if (chatShown && state.head?.busy) post(`chats/${state.chat}/stop`);
  for (const id of ["default-stop", "notebook-stop"]) {
    const button = byId(id);
    if (button && button.offsetParent !== null && !button.disabled) button.click();
  }
}

// -- the beginning ----------------------------------------------------------------------

async function begin() {
  await Promise.all(["chat-messages", "chat-list", "strip-model"].map(present));
  useTheme(document.documentElement.dataset.theme);
  list = new MessageList(byId("chat-messages"));
  document.body.append(
    element(
      "dialog",
      { id: "keys", className: "keys", ariaLabel: "Keyboard shortcuts" },
      element("h2", {}, "Keyboard"),
      element("dl", {}, ...KEYS.flatMap(([key, what]) => [element("dt", {}, key), element("dd", {}, what)])),
      element("form", { method: "dialog", className: "row-end" }, element("button", { className: "primary" }, "Close")),
    ),
  );
  if (localStorage.getItem("lantern-params-shown")) document.body.classList.add("params-shown");
  const box = byId("composer-text");
  box.addEventListener("input", () => {
    localStorage.setItem(draftKey(), box.value);
    fitComposer();
    preview();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  byId("composer").addEventListener("submit", (event) => (event.preventDefault(), send()));
  byId("find-chat").addEventListener("input", () => drawChats(state.chats));
  byId("chat-scroll").addEventListener("scroll", () => {
    state.stick = atEnd();
    byId("to-end").hidden = state.stick;
  });
  present("parameter-chips").then(window.lanternParams.drawChips);
  // The composer grows, notes appear: who reads at the end stays at the end.
  new ResizeObserver(() => state.stick && follow()).observe(byId("chat-scroll"));
  window.lanternParams.onChange(preview);
  new MutationObserver(preview).observe(document.body, { attributeFilter: ["data-engine"] });
  openChat(Number(new URL(location).searchParams.get("chat")) || 0);
}

begin();
