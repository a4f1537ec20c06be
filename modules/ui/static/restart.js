// A server that starts itself anew: what is said meanwhile, and how the page comes back.

import { element, present, say } from "./net.js";

const SAID = "lantern-restarted";
const TAB = "lantern-restarted-tab";
const PATIENCE_MS = 90_000;
let boot = "";
let begun = 0;
let moved = ""; // the page's next address, where that changes
let watching = null;

/** What the stream says of the process behind it. */
export function followHost(update) {
  if (update.ended) return location.reload(); // logged out: the server asks for the login
  if (update.restarting) return expectRestart();
  if (!update.boot) return undefined;
  if (boot && boot !== update.boot) return comeBack();
  boot = update.boot;
  return undefined;
}

/** Somebody restarts the server; with `url`, the page will be there. */
export function expectRestart(url = "") {
  moved ||= url;
  if (begun) return;
  begun = Date.now();
  document.body.append(
    element("div", { id: "restart-note", role: "status" }, element("strong", {}, "Lantern restarts."), element("span", {}, "Replies are stored; the page comes back by itself.")),
  );
  watching = setInterval(watch, 1000);
}

async function watch() {
  const seconds = Math.round((Date.now() - begun) / 1000);
  const note = document.getElementById("restart-note").lastChild;
  note.textContent = `Starting again, ${seconds} s. The page comes back by itself.`;
  if (Date.now() - begun > PATIENCE_MS) {
    clearInterval(watching);
    note.textContent = "It has not come back yet. Its terminal says why; reload the page when it runs.";
  }
  if (!moved) return; // the stream tells
  // Another address is another site: that it answers is all that one may know of it.
  if (await fetch(moved, { mode: "no-cors" }).catch(() => null)) location.replace(moved);
}

function comeBack() {
  const seconds = begun ? Math.max(1, Math.round((Date.now() - begun) / 1000)) : 0;
  sessionStorage.setItem(SAID, seconds ? `Lantern has restarted, in ${seconds} s.` : "Lantern has restarted.");
  const tab = document.querySelector("#tabs > .tab-wrapper [role=tab][aria-selected=true]");
  if (tab) sessionStorage.setItem(TAB, tab.id);
  location.reload(); // what it serves may be another version
}

/** Where this page was loaded because the server had started anew: say so, and open its tab again. */
export async function sayRestarted() {
  const [text, tab] = [SAID, TAB].map((key) => sessionStorage.getItem(key));
  [SAID, TAB].forEach((key) => sessionStorage.removeItem(key));
  if (text) say(text);
  if (text && tab) (await present(tab)).click();
}
