// The list of chats at the left: pinned ones, folders, and the others by day.

import { acts, byId, onOpen, openChat, state } from "./chat_state.js";
import { drawHits, folded, found, onFound } from "./found.js";
import { element, post } from "./net.js";

const STEP = 150;
const FOLDED = "lantern-folded";
let most = STEP;

export function drawChats(chats) {
  state.chats = chats;
  const place = byId("chat-list");
  if (place.querySelector("input")) return; // a title is being typed
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const at = [focused?.closest("[data-chat]")?.dataset.chat, focused?.dataset.act];
  place.replaceChildren(...(found.wanted ? drawFound(chats) : drawGroups(chats)));
  if (focused) place.querySelector(`[data-chat="${at[0]}"] [data-act="${at[1]}"]`)?.focus();
  const more = place.querySelector(".more");
  if (more) watcher.observe(more);
}

// -- what is drawn ------------------------------------------------------------------------

function drawFound(chats) {
  const wanted = folded(found.wanted);
  const fitting = chats.filter((chat) => folded(chat.title).includes(wanted)).slice(0, STEP);
  const rows = [...fitting.map(rowOf), ...drawHits()];
  if (!rows.length) rows.push(element("p", { className: "soft empty" }, "No title and no message has this."));
  return rows;
}

function drawGroups(chats) {
  const nodes = [];
  let left = most;
  for (const [head, members, fold] of groups(chats)) {
    const open = !fold || !isFolded(fold);
    nodes.push(fold ? folderHead(fold, members.length, open) : element("h3", {}, head));
    if (!open) continue;
    nodes.push(...members.slice(0, left).map(rowOf));
    left -= members.length;
    if (left <= 0) break;
  }
  if (left < 0) nodes.push(element("p", { className: "soft empty more" }, "…"));
  if (!nodes.length) nodes.push(element("p", { className: "soft empty" }, "Your chats will be here."));
  return nodes;
}

/** [heading, chats, folder] each, in the order of the list. */
function groups(chats) {
  const pick = (test) => chats.filter(test);
  const loose = pick((chat) => !chat.pinned && !chat.incognito && !chat.folder);
  return [
    ["Incognito", pick((chat) => chat.incognito)],
    ["Pinned", pick((chat) => chat.pinned && !chat.incognito)],
    ...folders().map((name) => [name, pick((chat) => chat.folder === name && !chat.pinned && !chat.incognito), name]),
    ...byDay(loose),
  ].filter(([, members]) => members.length);
}

function byDay(chats) {
  const days = new Map();
  for (const chat of chats) {
    const day = dayOf(chat.at);
    if (!days.has(day)) days.set(day, []);
    days.get(day).push(chat);
  }
  return days;
}

/** The names of all folders, in the order of the alphabet. */
export const folders = () => [...new Set(state.chats.map((chat) => chat.folder).filter(Boolean))].sort((a, b) => a.localeCompare(b));

function folderHead(name, count, open) {
  return element(
    "div",
    { className: "folder-head", "data-folder": name },
    element(
      "button",
      { type: "button", className: "quiet folder-name", "data-act": "fold-folder", "aria-expanded": String(open) },
      element("span", { className: "folder-arrow", "aria-hidden": "true" }, open ? "▾" : "▸"),
      element("span", { className: "folder-title" }, name),
      element("span", { className: "soft" }, String(count)),
    ),
    element("button", { type: "button", className: "quiet row-menu", "data-act": "folder-menu", "aria-haspopup": "menu", ariaLabel: `More to do with the folder ${name}` }, "⋯"),
  );
}

function rowOf(chat) {
  const title = chat.title || "New chat";
  return element(
    "div",
    { className: `chat-row${chat.id === state.chat ? " current" : ""}${chat.incognito ? " incognito" : ""}`, "data-chat": chat.id },
    element("button", { type: "button", className: "chat-link", "data-act": "open-chat", title }, title),
    element("button", { type: "button", className: "quiet row-menu", "data-act": "chat-menu", "aria-haspopup": "menu", ariaLabel: `More to do with ${title}` }, "⋯"),
  );
}

function dayOf(seconds) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const days = Math.ceil((midnight - seconds * 1000) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days < 7 ? "This week" : days < 31 ? "This month" : "Earlier";
}

// -- folding ------------------------------------------------------------------------------

const foldedNames = () => JSON.parse(localStorage.getItem(FOLDED) ?? "[]");
const isFolded = (name) => foldedNames().includes(name);

function toggleFolder(name) {
  const others = foldedNames().filter((one) => one !== name);
  localStorage.setItem(FOLDED, JSON.stringify(isFolded(name) ? others : [...others, name]));
  drawChats(state.chats);
  byId("chat-list").querySelector(`[data-folder="${CSS.escape(name)}"] button`)?.focus();
}

// A list of thousands is drawn as far as somebody scrolls.
const watcher = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  watcher.disconnect();
  most += STEP;
  drawChats(state.chats);
});

// -- acts ---------------------------------------------------------------------------------

export function renameChat(id) {
  const link = byId("chat-list").querySelector(`[data-chat="${id}"] .chat-link`);
  if (!link) return;
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

Object.assign(acts, {
  "new-chat": () => openChat(0),
  "new-incognito": () => openChat(0, { fresh: { incognito: true } }),
  "open-chat": (_, row) => openChat(row.chat),
  "fold-folder": (button) => toggleFolder(button.closest("[data-folder]").dataset.folder),
  fold: () => document.body.classList.toggle(matchMedia("(max-width: 900px)").matches ? "side-shown" : "side-folded"),
});

onOpen(() => {
  drawChats(state.chats);
  document.body.classList.remove("side-shown");
});
onFound(() => drawChats(state.chats));
