// The Session tab: its parts at the left, one of them at the right.

import { byId } from "./chat_state.js";
import { present } from "./net.js";
import { drawAccess } from "./session_access.js";
import { drawInterface } from "./session_interface.js";
import { followLog, leaveLog } from "./session_log.js";
import { drawReport } from "./session_report.js";
import { openSettings } from "./session_settings.js";

const PART = "lantern-session-part";
const OPENED = { settings: openSettings, access: drawAccess, report: drawReport, log: followLog };
const tab = { admin: null, shown: false, part: "interface" };

/** What the server says of who is looking. */
export function drawSessionTab({ engine }) {
  if (engine.admin === tab.admin) return;
  tab.admin = engine.admin;
  if (byId("session-tab")) drawParts();
}

function parts() {
  return [...document.querySelectorAll("#session-nav [data-part]")];
}

function drawParts() {
  for (const button of parts()) button.hidden = !tab.admin && button.dataset.part !== "interface";
  byId("session-guest").hidden = tab.admin !== false;
  drawInterface(tab.admin);
  show(tab.admin ? (sessionStorage.getItem(PART) ?? "settings") : "interface");
}

/** Show one part; it looks for what is new each time it is opened. */
function show(part) {
  const known = parts().some((one) => one.dataset.part === part && !one.hidden) ? part : "interface";
  tab.part = known;
  for (const button of parts()) {
    const current = button.dataset.part === known;
    if (current) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
    byId(`session-${button.dataset.part}`).hidden = !current;
  }
  look();
}

function look() {
  if (tab.part !== "log" || !tab.shown) leaveLog();
  if (!tab.shown) return;
  OPENED[tab.part]?.();
  document.dispatchEvent(new CustomEvent("session-part", { detail: tab.part }));
}

async function begin() {
  const frame = await present("session-tab");
  for (const button of parts())
    button.onclick = () => {
      sessionStorage.setItem(PART, button.dataset.part);
      show(button.dataset.part);
      byId("session-page").scrollTop = 0;
    };
  if (tab.admin !== null) drawParts();
  new IntersectionObserver(([entry]) => {
    if (tab.shown === entry.isIntersecting) return;
    tab.shown = entry.isIntersecting;
    look();
  }).observe(frame);
}

begin();
