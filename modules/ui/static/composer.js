// The composer: what is typed, kept while it is typed, counted and sent.

import { acts, byId, draftKey, ensureChat, onHead, onOpen, state, withValues } from "./chat_state.js";
import { post, present } from "./net.js";

export async function send() {
  const box = byId("composer-text");
  const text = box.value;
  if (!text.trim() || state.head?.busy || state.sending) return;
  state.sending = true;
  try {
    if (!(await ensureChat())) return;
    state.stick = true;
    if (!(await post(`chats/${state.chat}/send`, { text, ...withValues() }))) return;
    box.value = "";
    localStorage.removeItem(draftKey());
    fitComposer();
    note(null);
  } finally {
    state.sending = false;
  }
}

export function fitComposer() {
  const box = byId("composer-text");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 260)}px`;
}

export function note(text) {
  const place = byId("composer-note");
  place.hidden = !text;
  place.textContent = text ?? "";
}

let previewing = 0;
export function preview() {
  clearTimeout(previewing);
  previewing = setTimeout(async () => {
    const text = byId("composer-text").value;
    if (document.body.dataset.engine !== "ready") return;
    const answer = await fetch("page/preview", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ chat: state.chat || null, text, ...withValues() }),
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

acts.stop = () => post(`chats/${state.chat}/stop`);

onOpen(() => {
  byId("composer-text").value = localStorage.getItem(draftKey()) ?? "";
  fitComposer();
  preview();
  if (matchMedia("(min-width: 700px)").matches) byId("composer-text").focus();
});

onHead((head) => {
  if (byId("send").hidden && !head.busy) preview(); // a reply has ended
  byId("send").hidden = head.busy;
  byId("stop").hidden = !head.busy;
});

await present("composer-text");
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
window.lanternParams.onChange(preview);
new MutationObserver(preview).observe(document.body, { attributeFilter: ["data-engine"] });
