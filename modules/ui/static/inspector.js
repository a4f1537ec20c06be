// The context inspector: what goes into the next request, piece by piece, with tokens.

import { acts, actOn, byId, state, withValues } from "./chat_state.js";
import { preview } from "./composer.js";
import { messages } from "./messages.js";
import { element, post } from "./net.js";
import { button, openSheet } from "./dialogs.js";

const KINDS = { character: "Character", system: "System", tools: "Tools", file: "File", user: "You", assistant: "Reply", call: "Call" };
const PARTS = [
  ["character", "Character"],
  ["system", "System"],
  ["tools", "Tools"],
  ["file", "Files"],
  ["turns", "Messages"],
  ["template", "Template"],
  ["free", "Free for the reply"],
];

acts.context = async () => {
  const view = await look();
  if (!view) return;
  const body = element("div", {});
  openSheet("What goes into the next request", [body]);
  draw(body, view);
};

acts.pin = async (_, row) => {
  if (await actOn(row.message, "pin", { pinned: !messages.facts.get(row.message).pinned })) preview();
};

function look() {
  return post("context", { chat: state.chat || null, fresh: state.fresh, text: byId("composer-text").value, ...withValues() });
}

function draw(body, view) {
  const top = body.closest(".sheet-body")?.scrollTop;
  const sums = { template: view.template, free: view.free };
  for (const one of view.segments) {
    const part = ["user", "assistant", "call"].includes(one.kind) ? "turns" : one.kind;
    if (one.kept) sums[part] = (sums[part] ?? 0) + one.tokens;
  }
  const parts = PARTS.filter(([part]) => sums[part]);
  body.replaceChildren(
    element("p", { className: "context-total" }, `${view.tokens.toLocaleString()} of ${view.context.toLocaleString()} tokens`),
    element("div", { className: "context-parts", "aria-hidden": "true" }, ...parts.map(([part]) => grown(part, sums[part]))),
    element("ul", { className: "context-legend" }, ...parts.map(([part, label]) => element("li", { className: `part-${part}` }, `${label} ${sums[part].toLocaleString()}`))),
    ...(view.sentence ? [element("p", { className: "composer-note" }, view.sentence)] : []),
    element("ol", { className: "context-list" }, ...view.segments.map((one) => row(one, body))),
  );
  if (top) body.closest(".sheet-body").scrollTop = top;
}

function grown(part, tokens) {
  const made = element("span", { className: `part-${part}` });
  made.style.flexGrow = tokens;
  return made;
}

function row(one, body) {
  const tokens = one.tokens.toLocaleString();
  return element(
    "li",
    { className: one.kept ? "" : "left-out" },
    element("span", { className: "context-kind" }, KINDS[one.kind]),
    element("span", { className: "context-words" }, one.label),
    element("span", { className: "context-tokens" }, one.kept ? tokens : `left out · ${tokens}`),
    one.message && !["file", "call"].includes(one.kind) ? pin(one, body) : element("span", {}),
  );
}

function pin(one, body) {
  const made = button(one.pinned ? "Unpin" : "Pin", "quiet", async () => {
    if (!(await actOn(one.message, "pin", { pinned: !one.pinned }))) return;
    preview();
    const view = await look();
    if (view) draw(body, view);
  });
  made.ariaLabel = `${made.textContent}: ${one.label}`;
  made.title = one.pinned ? "May be left out again" : "Never leave this turn out";
  return made;
}
