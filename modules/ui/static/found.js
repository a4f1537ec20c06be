// What the box at the left finds: titles at once, messages after a pause.

import { acts, byId, onHead, openChat, state } from "./chat_state.js";
import { messages } from "./messages.js";
import { element, post, present } from "./net.js";

const PAUSE_MS = 250;
const listeners = [];
let asked = 0;

/** `wanted` is what is looked for; `hits` are messages that have it, null while they are looked for. */
export const found = { wanted: "", hits: [] };

/** Have `listener` called each time something else is found. */
export const onFound = (listener) => listeners.push(listener);

/** Without case and accents, as the server's index has words. */
export const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

/** Open a chat at a message, on whichever branch that is. */
export async function goTo(chat, message) {
  const answer = await post(`chats/${chat}/messages/${message}/reveal`);
  if (answer) openChat(chat, { at: message, window: answer.after + 20 });
}

export function drawHits() {
  if (!found.hits) return [element("h3", {}, "In messages"), element("p", { className: "soft empty" }, "Looking…")];
  if (!found.hits.length) return [];
  return [element("h3", {}, "In messages"), ...found.hits.map(hitOf)];
}

function hitOf(hit) {
  const who = hit.role === "user" ? "You" : "Reply";
  return element(
    "div",
    { className: `chat-row hit${hit.chat_id === state.chat ? " current" : ""}`, "data-chat": hit.chat_id, "data-id": hit.message_id },
    element(
      "button",
      { type: "button", className: "chat-link", "data-act": "open-hit" },
      element("span", { className: "hit-title" }, hit.title || "New chat"),
      element("span", { className: "hit-passage" }, `${who}: `, ...marked(hit.passage)),
    ),
  );
}

/** The server's marks around the words that were found, as elements. */
function marked(passage) {
  return passage.split("\x02").flatMap((part, i) => {
    if (!i) return [part];
    const [word, rest = ""] = part.split("\x03");
    return [element("mark", {}, word), rest];
  });
}

async function look() {
  const mine = ++asked;
  const wanted = byId("find-chat").value.trim();
  Object.assign(found, { wanted, hits: wanted ? null : [] });
  listeners.forEach((listener) => listener());
  if (!wanted) return;
  await new Promise((done) => setTimeout(done, PAUSE_MS));
  if (mine !== asked) return;
  const answer = await post("search", { text: wanted.slice(0, 20_000) });
  if (mine !== asked) return;
  found.hits = answer?.hits ?? [];
  listeners.forEach((listener) => listener());
}

// What was gone to is drawn by now: show it, and say with a flash that it is this one.
onHead(() => {
  const node = messages.drawn.get(state.at);
  if (!node) return;
  state.at = 0;
  const show = () => node.scrollIntoView({ block: "center" });
  show();
  requestAnimationFrame(() => requestAnimationFrame(show)); // what is above has its true height now
  node.classList.add("flash");
  setTimeout(() => node.classList.remove("flash"), 2000);
});

acts["open-hit"] = (_, row) => goTo(row.chat, row.message);

await present("find-chat");
const box = byId("find-chat");
box.addEventListener("input", look);
box.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && box.value) {
    event.stopPropagation();
    box.value = "";
    look();
  } else if (event.key === "ArrowDown") {
    event.preventDefault();
    byId("chat-list").querySelector(".chat-link")?.focus();
  }
});
