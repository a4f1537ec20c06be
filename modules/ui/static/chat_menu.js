// What can be done with a chat, a folder and all chats: the menus at the left.

import { acts, byId, openChat, state } from "./chat_state.js";
import { folders, renameChat } from "./chats.js";
import { ask } from "./dialogs.js";
import { openMenu } from "./menu.js";
import { post, say } from "./net.js";
import { openImport } from "./transfer.js";

const FORMS = [
  ["lantern", "Lantern", "everything, with all versions"],
  ["markdown", "Markdown", "what is shown, to read"],
  ["sharegpt", "ShareGPT", "what is shown, to train on"],
  ["webui", "text-generation-webui", "what is shown, as a history"],
];

/** Save what the server sends, under the name that it gives. */
function download(path) {
  const link = document.createElement("a");
  Object.assign(link, { href: `page/${path}`, download: "" });
  link.click();
}

function chatMenu(button, id) {
  const chat = state.chats.find((one) => one.id === id);
  if (!chat) return;
  openMenu(button, chat.title || "New chat", [
    { text: "Rename", run: () => renameChat(id) },
    chat.incognito ? undefined : { text: chat.pinned ? "Unpin" : "Pin to the top", run: () => post(`chats/${id}/pin`, { on: !chat.pinned }) },
    chat.incognito ? undefined : { text: "Move to folder…", run: () => moveChat(chat) },
    { text: "Export…", run: () => exportMenu(button, id) },
    { text: "New chat from here", about: "a copy", run: () => copyChat(id) },
    null,
    { text: "Delete", run: () => deleteChat(id) },
  ].filter((item) => item !== undefined));
}

const exportMenu = (button, id) =>
  openMenu(button, "Export as", FORMS.map(([form, text, about]) => ({ text, about, run: () => download(`chats/${id}/export?form=${form}`) })));

function moveChat(chat) {
  const move = (folder, tell) => post(`chats/${chat.id}/folder`, { text: folder }, tell);
  const others = folders().filter((name) => name !== chat.folder);
  const choices = others.map((name) => ({ text: name, value: name }));
  if (chat.folder) choices.push({ text: "Out of its folder", value: "" });
  ask("Move to a folder", { label: "New folder", save: "Move", choices, done: move });
}

async function copyChat(id) {
  const made = await post(`chats/${id}/copy`);
  if (made) openChat(made.id);
}

async function deleteChat(id) {
  if (!(await post(`chats/${id}/delete`))) return;
  say("Chat deleted.", "", async () => (await post(`chats/${id}/restore`)) && openChat(id));
  if (id === state.chat) openChat(0);
}

function folderMenu(button, name) {
  const rename = (text, tell) => post("folders/rename", { name, text }, tell);
  openMenu(button, name, [
    { text: "Rename…", run: () => ask("Rename the folder", { label: "Name", value: name, done: rename }) },
    { text: "Dissolve", about: "its chats stay", run: async () => (await rename("")) && say(`The folder ${name} is dissolved.`) },
  ]);
}

Object.assign(acts, {
  "chat-menu": (button, row) => chatMenu(button, row.chat),
  "folder-menu": (button) => folderMenu(button, button.closest("[data-folder]").dataset.folder),
  "list-menu": (button) =>
    openMenu(button, "Chats", [
      { text: "New incognito chat", about: "Alt + I", run: acts["new-incognito"] },
      null,
      { text: "Import chats…", run: () => openImport() },
      { text: "Export all chats", about: "not the incognito ones", run: () => download("export") },
    ]),
});

document.addEventListener("contextmenu", (event) => {
  const row = event.target.closest?.("#chat-list .chat-row:not(.hit)");
  if (!row || event.target.matches("input")) return;
  event.preventDefault();
  const open = () => chatMenu(row.querySelector(".row-menu"), Number(row.dataset.chat));
  // Where the button is still down, its release would be taken for a click beside the menu.
  if (event.buttons) document.addEventListener("pointerup", () => setTimeout(open), { once: true });
  else open();
});

document.addEventListener("keydown", (event) => {
  const row = event.target.closest?.("#chat-list .chat-row:not(.hit)");
  if (!row || event.target.matches("input")) return;
  if (event.key === "F2") (event.preventDefault(), renameChat(Number(row.dataset.chat)));
  else if (event.key === "Delete") (event.preventDefault(), deleteChat(Number(row.dataset.chat)));
});

// From a title to the next one by the arrow keys.
document.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.altKey || !event.target.matches?.("#chat-list .chat-link")) return;
  event.preventDefault();
  const links = [...byId("chat-list").querySelectorAll(".chat-link")];
  links[links.indexOf(event.target) + step]?.focus();
});
