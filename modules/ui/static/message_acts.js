// What people do with the messages of the open chat.

import { acts, actOn, state, withValues } from "./chat_state.js";
import { messages } from "./messages.js";
import { copy, element, get, post, say } from "./net.js";

export function lastOf(role) {
  return [...messages.facts.values()].filter((m) => m.role === role).sort((a, b) => a.id - b.id).at(-1);
}

export function regenerateLast() {
  const last = state.head?.order.at(-1);
  if (last && !state.head.busy) actOn(last, "regenerate", withValues());
}

export async function editMessage(id) {
  const node = messages.drawn.get(id);
  if (!node || node.querySelector(".editor")) return;
  const source = await get(`chats/${state.chat}/messages/${id}`);
  if (!source) return;
  const fact = messages.facts.get(id);
  const box = element("textarea", { value: source.text, ariaLabel: "Message text" });
  const button = (text, kind, run) => {
    const made = element("button", { type: "button", className: kind }, text);
    made.onclick = run;
    return made;
  };
  const save = (body) => async () => (await actOn(id, "edit", { text: box.value, ...body })) && close();
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
  if (!(await actOn(id, "delete"))) return;
  const chat = state.chat;
  say("Message deleted.", "", () => post(`chats/${chat}/messages/${id}/restore`));
}

function step(id, by) {
  const fact = messages.facts.get(id);
  const target = fact?.versions[fact.version + by];
  if (target) actOn(target, "show");
}

Object.assign(acts, {
  regenerate: (_, row) => actOn(row.message, "regenerate", withValues()),
  answer: (_, row) => actOn(row.message, "regenerate", withValues()),
  continue: (_, row) => actOn(row.message, "continue", withValues()),
  edit: (_, row) => editMessage(row.message),
  delete: (_, row) => deleteMessage(row.message),
  copy: async (_, row) => {
    const source = await get(`chats/${state.chat}/messages/${row.message}`);
    if (source) copy(source.text);
  },
  "copy-code": (button) => copy(button.closest(".code").querySelector("code").textContent),
  "version-before": (_, row) => step(row.message, -1),
  "version-after": (_, row) => step(row.message, 1),
});
