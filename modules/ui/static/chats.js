// The list of chats at the left.

import { acts, byId, onOpen, openChat, state } from "./chat_state.js";
import { element, post, present, say } from "./net.js";

export function drawChats(chats) {
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

Object.assign(acts, {
  "new-chat": () => openChat(0),
  "open-chat": (_, row) => openChat(row.chat),
  "rename-chat": (button, row) => renameChat(button.closest(".chat-row"), row.chat),
  "delete-chat": (_, row) => deleteChat(row.chat),
  fold: () => document.body.classList.toggle(matchMedia("(max-width: 900px)").matches ? "side-shown" : "side-folded"),
});

onOpen(() => {
  drawChats(state.chats);
  document.body.classList.remove("side-shown");
});

await present("find-chat");
byId("find-chat").addEventListener("input", () => drawChats(state.chats));
