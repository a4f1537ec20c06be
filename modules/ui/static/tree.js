// The tree of the open chat: every branch, and the way to it.

import { acts, actOn, byId, onHead, openChat, state } from "./chat_state.js";
import { openDialog } from "./dialogs.js";
import { goTo } from "./found.js";
import { openMenu } from "./menu.js";
import { element, get, post, say } from "./net.js";

const LONG = 5; // a run without forks is folded from here on

async function openTree() {
  if (!state.chat) return;
  const chat = state.chat;
  const answer = await get(`chats/${chat}/tree`);
  if (!answer || state.chat !== chat) return;
  const nodes = linked(answer.nodes);
  const place = element("div", { className: "tree" });
  const leaves = answer.nodes.filter((node) => !nodes.get(node.id).children.length).length;
  const about = `${answer.nodes.length.toLocaleString()} messages in ${leaves === 1 ? "one branch" : `${leaves.toLocaleString()} branches`}. Choose one to go there.`;
  const close = element("button", { type: "button", className: "quiet" }, "Close");
  const dialog = openDialog("Branches", "tree-dialog", element("p", { className: "soft" }, about), place, element("div", { className: "row-end" }, close));
  close.onclick = () => dialog.close();
  place.append(levelOf(nodes.get(null).children));
  place.onclick = (event) => {
    const to = event.target.closest("[data-node]")?.dataset.node;
    if (to) (dialog.close(), goTo(chat, Number(to)));
  };
  place.onkeydown = (event) => walk(place, event);
  const shown = [...place.querySelectorAll(".shown")].at(-1);
  shown?.focus();
  shown?.scrollIntoView({ block: "center" });
}

/** The nodes by id, each with its children; under null, the first ones. */
function linked(list) {
  const nodes = new Map([[null, { children: [] }]]);
  for (const node of list) nodes.set(node.id, { ...node, children: [] });
  for (const node of list) nodes.get(node.parent_id).children.push(nodes.get(node.id));
  return nodes;
}

/** A list that goes down one branch; the others hang where they leave it. */
function levelOf(starts) {
  const level = element("ul", {});
  let run = [];
  const close = () => {
    level.append(...folded(run));
    run = [];
  };
  for (let here = starts; here.length; ) {
    const main = here.find((node) => node.shown) ?? here.at(-1);
    const others = here.filter((node) => node !== main);
    if (others.length) close();
    for (const other of others) level.append(element("li", { className: "aside" }, levelOf([other])));
    run.push(lineOf(main, here));
    here = main.children;
    if (here.length > 1) close();
  }
  close();
  return level;
}

/** The lines of a run without forks; a long one shows its ends. */
function folded(lines) {
  if (lines.length < LONG) return lines;
  const hidden = lines.slice(1, -1);
  const more = element("button", { type: "button", className: "quiet" }, `⋮ ${hidden.length} more messages`);
  const item = element("li", { className: "more" }, more);
  more.onclick = (event) => {
    event.stopPropagation();
    item.replaceWith(...hidden);
    hidden[0].querySelector("button").focus();
  };
  return [lines[0], item, lines.at(-1)];
}

function lineOf(node, siblings) {
  const who = { user: "You", assistant: "Reply", system: "System" }[node.role];
  const same = siblings.filter((one) => one.role === node.role);
  const version = same.length > 1 ? `${same.indexOf(node) + 1}/${same.length}` : "";
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", className: `node ${node.role}${node.shown ? " shown" : ""}`, "data-node": node.id, title: node.words, "aria-current": String(node.shown) },
      element("span", { className: "node-who" }, who),
      element("span", { className: "node-words" }, node.words || "(no text)"),
      version ? element("span", { className: "soft" }, version) : null,
    ),
  );
}

function walk(place, event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...place.querySelectorAll("button")];
  buttons[buttons.indexOf(document.activeElement) + step]?.focus();
}

// -- from a message -----------------------------------------------------------------------

async function branchFrom(message) {
  const chat = state.chat;
  const end = state.head?.order.at(-1);
  if (!(await actOn(message, "branch"))) return;
  byId("composer-text").focus();
  if (end !== message) say("The next message begins a new branch here. What followed is in Branches.", "", () => post(`chats/${chat}/messages/${end}/reveal`));
}

async function copyFrom(message) {
  const made = await actOn(message, "copy");
  if (made) openChat(made.id);
}

Object.assign(acts, {
  tree: openTree,
  "message-menu": (button, row) =>
    openMenu(button, "More to do with this message", [
      { text: "Branch from here", about: "the next message begins a branch", run: () => branchFrom(row.message) },
      { text: "New chat from here", about: "a copy up to this message", run: () => copyFrom(row.message) },
      { text: "Branches…", about: "Alt + B", run: openTree },
    ]),
});

onHead((head) => (byId("tree-button").hidden = !head.order.length));
