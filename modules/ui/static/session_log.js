// The end of the server's log, which goes on while somebody reads it.

import { byId } from "./chat_state.js";
import { copy, element, get } from "./net.js";

const AGAIN_MS = 1500;
const LEVELS = { DEBUG: 0, INFO: 1, WARNING: 2, ERROR: 3, CRITICAL: 3 };
const WORDS = { DEBUG: "debug", INFO: "", WARNING: "warning", ERROR: "error", CRITICAL: "error" };
const state = { lines: [], boot: "", timer: 0, open: false };

export function followLog() {
  if (state.open) return;
  state.open = true;
  byId("log-level").onchange = () => draw(true);
  byId("log-copy").onclick = () => copy(shown().map(asText).join("\n"));
  look();
}

export function leaveLog() {
  state.open = false;
  clearTimeout(state.timer);
}

async function look() {
  clearTimeout(state.timer);
  const found = document.hidden ? null : await get(`session/log?after=${state.lines.at(-1)?.number ?? 0}`);
  if (found) {
    if (found.boot !== state.boot && state.boot) state.lines = []; // another process counts anew
    const first = !state.boot;
    state.boot = found.boot;
    state.lines = [...state.lines, ...found.lines].slice(-found.kept);
    const more = found.verbose ? "" : " Start with --verbose to have each request in it, with its whole prompt.";
    byId("log-about").textContent = `The last ${found.kept} lines since Lantern was started, without keys, passwords and tokens.${more}`;
    if (found.lines.length || first) draw(first);
  }
  if (state.open) state.timer = setTimeout(look, AGAIN_MS);
}

const shown = () => state.lines.filter((line) => LEVELS[line.level] >= Number(byId("log-level").value));
const clock = (line) => new Date(line.at * 1000).toLocaleTimeString([], { hour12: false });
const asText = (line) => `${clock(line)} ${line.level} ${line.source}: ${line.text}`;

/** Who reads at the end stays there; whoever went up is left where they are. */
function draw(toEnd) {
  const place = byId("log-lines");
  const stick = toEnd || place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  const lines = shown().map((line) =>
    element("div", { className: `log-line ${WORDS[line.level] ?? ""}` }, element("time", {}, clock(line)), element("span", { className: "log-text", title: line.source }, WORDS[line.level] ? element("b", {}, `${WORDS[line.level]} `) : null, line.text)));
  const none = element("p", { className: "soft" }, state.lines.length ? "Nothing of this kind." : "Nothing was logged yet.");
  place.replaceChildren(...(lines.length ? lines : [none]));
  if (stick) place.scrollTop = place.scrollHeight;
}
