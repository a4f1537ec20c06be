// The composer: what is typed, kept while it is typed, counted and sent.

import { acts, byId, draft, ensureChat, onHead, onOpen, state, withValues } from "./chat_state.js";
import { element, post, present, say } from "./net.js";
import { sends } from "./taste.js";

async function send() {
  const box = byId("composer-text");
  const text = box.value;
  if (!(text.trim() || state.head?.files?.length) || state.head?.busy || state.sending) return;
  if (state.reading) return say("A file is still being read. Send when it is there.");
  state.sending = true;
  try {
    if (!(await ensureChat())) return;
    state.stick = true;
    if (!(await post(`chats/${state.chat}/send`, { text, ...withValues() }))) return;
    box.value = "";
    draft.drop();
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

/** A sentence above the composer; with `look`, a button that shows what goes into the request. */
function note(text, look = false) {
  const place = byId("composer-note");
  place.hidden = !text;
  place.replaceChildren(text ?? "");
  if (look) place.append(" ", element("button", { type: "button", "data-act": "context" }, "Show the context"));
}

function drawCount({ tokens, context }) {
  byId("composer-count").hidden = !context;
  byId("composer-tokens").textContent = context ? `${tokens.toLocaleString()} of ${context.toLocaleString()} tokens` : "";
  byId("composer-bar").value = context ? tokens / context : 0;
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
      body: JSON.stringify({ chat: state.chat || null, fresh: state.fresh, text, ...withValues() }),
    }).catch(() => null);
    const data = await answer?.json().catch(() => null);
    if (!data || byId("composer-text").value !== text) return;
    if (!answer.ok) return note(data.message ? `${data.message} ${data.remedy}` : null, true);
    note(data.sentence || null, true);
    drawCount(data);
  }, 350);
}

acts.stop = () => post(`chats/${state.chat}/stop`);

onOpen(() => {
  byId("composer-text").value = draft.get();
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
  draft.keep(box.value);
  fitComposer();
  preview();
});
box.addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  send();
});
byId("composer").addEventListener("submit", (event) => (event.preventDefault(), send()));
window.lanternParams.onChange(preview);
new MutationObserver(preview).observe(document.body, { attributeFilter: ["data-engine"] });
