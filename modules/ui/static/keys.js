// The keyboard, and the sheet that shows what it does.

import { acts, byId, state } from "./chat_state.js";
import { editMessage, lastOf, regenerateLast } from "./message_acts.js";
import { element, post, present } from "./net.js";
import { onTaste } from "./taste.js";

const SENDS = "Send";
const BREAKS = "Break the line";

const KEYS = [
  ["Enter", SENDS],
  ["Shift + Enter", BREAKS],
  ["Esc", "Stop the reply"],
  ["Ctrl + Enter", "Regenerate the last reply"],
  ["Alt + ↑", "Edit your last message"],
  ["Alt + U", "Impersonate: have your next message written"],
  ["Alt + B", "Branches of this chat"],
  ["Ctrl + K", "Find in chats"],
  ["Alt + N", "New chat"],
  ["Alt + I", "New incognito chat"],
  ["F2, Delete", "Rename or delete a chat in the list"],
  ["?", "This sheet"],
];

/** Acts by the key that is pressed together with Alt, wherever its letter is on the keyboard. */
const WITH_ALT = { KeyU: "impersonate", KeyB: "tree", KeyN: "new-chat", KeyI: "new-incognito" };

function typing(target) {
  return target.closest?.("input, textarea, select, [contenteditable=true]");
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented) return;
  const chatShown = byId("composer").offsetParent !== null;
  if (event.key === "Escape") stopWhatRuns(chatShown);
  else if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.body.classList.remove("side-folded");
    document.body.classList.toggle("side-shown", matchMedia("(max-width: 900px)").matches);
    byId("find-chat").focus();
  } else if (event.key === "?" && !typing(event.target)) byId("keys").showModal();
  else if (!chatShown) return;
  else if (event.altKey && !event.ctrlKey && WITH_ALT[event.code]) (event.preventDefault(), acts[WITH_ALT[event.code]]());
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

acts.help = () => byId("keys").showModal();

await present("composer-text");
document.body.append(
  element(
    "dialog",
    { id: "keys", className: "keys", ariaLabel: "Keyboard shortcuts" },
    element("h2", {}, "Keyboard"),
    element("dl", {}, ...KEYS.flatMap(([key, what]) => [element("dt", {}, key), element("dd", {}, what)])),
    element("form", { method: "dialog", className: "row-end" }, element("button", { className: "primary" }, "Close")),
  ),
);

// What Enter does is chosen in the Session tab.
onTaste(({ enter }) => {
  const [first, second] = byId("keys").querySelectorAll("dd");
  [first.textContent, second.textContent] = enter === "sends" ? [SENDS, BREAKS] : [BREAKS, SENDS];
});
