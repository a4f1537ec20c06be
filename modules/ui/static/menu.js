// A menu that opens at a button, with the keys that people expect of one.

import { element } from "./net.js";

/** `items` are { text, about, run } each, or null for a line between groups; `help` is a sentence below. */
export function openMenu(anchor, label, items) {
  const menu = element("div", { className: "menu small", popover: "auto", role: "menu", "aria-label": label }, ...items.map(drawn));
  menu.ontoggle = (event) => event.newState === "closed" && (menu.remove(), anchor.setAttribute("aria-expanded", "false"));
  menu.onkeydown = (event) => move(menu, event);
  menu.onclick = (event) => event.target.closest("button") && menu.hidePopover();
  (anchor.closest("dialog") ?? document.body).append(menu); // what is beside a dialog takes no clicks
  menu.showPopover();
  anchor.setAttribute("aria-expanded", "true");
  place(menu, anchor.getBoundingClientRect());
  menu.querySelector("button").focus();
}

function drawn(item) {
  if (!item) return element("hr");
  const about = item.about || item.help ? element("span", { className: "soft" }, item.about ?? item.help) : null;
  const made = element("button", { type: "button", role: "menuitem", className: item.help ? "with-help" : "", disabled: Boolean(item.disabled) }, element("span", {}, item.text), about);
  made.addEventListener("click", item.run);
  return made;
}

/** Below the button, or above it where that has more room; never out of the window. */
function place(menu, at) {
  const { width, height } = menu.getBoundingClientRect();
  const below = at.bottom + 4 + height <= innerHeight;
  const left = Math.max(8, Math.min(at.left, innerWidth - width - 8));
  const top = below ? at.bottom + 4 : Math.max(8, at.top - height - 4);
  Object.assign(menu.style, { inset: `${top}px auto auto ${left}px`, margin: 0 });
}

function move(menu, event) {
  const buttons = [...menu.querySelectorAll("button:not(:disabled)")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === "Escape") event.stopPropagation(); // it closes this, and stops no reply
  if (event.key === "Tab") menu.hidePopover();
  if (to === undefined) return;
  event.preventDefault();
  buttons.at(to % buttons.length).focus();
}
