// How the page looks and behaves, for whoever sits before it.

import { byId } from "./chat_state.js";
import { element, redraw, say } from "./net.js";
import { chime, choose, chooseTheme, onTaste, taste, theme } from "./taste.js";

const ROWS = [
  { name: "theme", label: "Theme", about: "The system's changes with the time of day, where the system does.", choices: [["light", "Light"], ["dark", "Dark"], ["system", "As the system has it"]], get: theme, set: chooseTheme },
  { name: "size", label: "Text of chats", about: "How large messages and what you write are.", choices: [["small", "Small"], ["normal", "Normal"], ["large", "Large"]] },
  { name: "wide", label: "Wide chat", about: "Use the width of the window; lines of 75 characters are easier to read." },
  { name: "enter", label: "Enter", about: "Shift+Enter does the other thing.", choices: [["sends", "Sends the message"], ["breaks", "Breaks the line"]] },
  { name: "figures", label: "Figures under replies", about: "Speed, time to the first token, and how much of the context is used." },
  { name: "sound", label: "Sound when a reply ends", about: "Two soft notes, also while you look at another tab." },
];

let admin = null;

/** Draw the rows; whoever came by a link or a login can leave. */
export function drawInterface(is_admin) {
  admin = is_admin;
  onTaste(draw);
}

function draw() {
  const rows = byId("interface-rows");
  if (!rows) return;
  redraw(rows, [taste, theme()], ...ROWS.map(row));
  redraw(byId("interface-end"), [admin], leave());
}

function row(one) {
  const id = `taste-${one.name}`;
  const get = one.get ?? (() => taste[one.name]);
  const set = one.set ?? ((value) => choose(one.name, value));
  const control = one.choices
    ? element("select", { id }, ...one.choices.map(([value, text]) => element("option", { value, selected: value === get() }, text)))
    : element("input", { id, type: "checkbox", checked: get() });
  control.setAttribute("aria-describedby", `${id}-about`);
  control.onchange = () => {
    const value = one.choices ? control.value : control.checked;
    set(value);
    if (one.name === "sound" && value) chime();
    byId(id)?.focus();
  };
  return element("div", { className: "session-row" }, element("label", { htmlFor: id }, one.label), element("div", { className: "session-field" }, control), element("p", { className: "soft", id: `${id}-about` }, one.about));
}

/** This machine has no session to end; everybody else has a login or a link's token. */
function leave() {
  const here = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  if (here && admin) return element("span");
  const button = element("button", { type: "button", id: "log-out" }, "Log out");
  button.onclick = async () => {
    const answer = await fetch("logout", { method: "POST", redirect: "manual" }).catch(() => null);
    if (!answer) return say("The server does not answer.", "fault");
    return location.reload();
  };
  return element("div", { className: "session-leave" }, button, element("p", { className: "soft" }, "Ends your session in this browser and on the server. Chats stay; to come back, you need the link or your login."));
}
