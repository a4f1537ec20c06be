// What extensions that are on add to the page: their styles, and their scripts with what those
// may use. Each can break by itself alone.

import { state } from "./chat_state.js";
import { messages, onDrawn, redrawAll } from "./messages.js";
import { element, get, post, say } from "./net.js";

/** By the extension's name, what its script did wrong in this browser. */
export const broken = new Map();

const running = new Map();
let owner = false;
let latest = -1;

/** Load what is on now, and end what is not; in the order of the extensions. */
export async function loadScripts({ version }, admin) {
  owner = admin;
  if (version === latest) return;
  latest = version;
  const found = (await get("extensions/looks")) ?? [];
  const names = new Set(found.map((one) => one.name));
  for (const [name, one] of running) if (!names.has(name)) end(name, one);
  for (const one of found) {
    const before = running.get(one.name);
    if (before?.js === one.js && before?.css === one.css) continue;
    if (before?.js === one.js) {
      before.css = one.css;
      before.style.textContent = one.css;
      continue;
    }
    if (before) end(one.name, before);
    begin(one);
  }
}

function begin(one) {
  const style = element("style", { "data-extension": one.name }, one.css);
  document.head.append(style); // after ours, which are there from the start
  const made = { ...one, style, ends: [], script: null };
  running.set(one.name, made);
  if (!one.js) return;
  made.script = element("script", { src: `page/extensions/${encodeURIComponent(one.name)}/script.js`, async: false, "data-extension": one.name });
  document.head.append(made.script);
}

function end(name, one) {
  running.delete(name);
  broken.delete(name);
  one.style.remove();
  one.script?.remove();
  for (const run of one.ends.splice(0)) guarded(name, run)();
  redrawAll();
}

/** `run`, whose faults are told under the extension's name. */
function guarded(name, run) {
  return (...given) => {
    try {
      return run(...given);
    } catch (error) {
      fail(name, error);
    }
  };
}

function fail(name, error, line = 0) {
  const title = running.get(name)?.title ?? name;
  const text = `The script of ${title} failed in this page: ${error?.message ?? error}${line ? ` (line ${line})` : ""}.`;
  broken.set(name, text);
  if (owner) say(text, "fault");
  console.error(text, error);
  document.dispatchEvent(new CustomEvent("extension-broken"));
}

/** What a script gets; docs/extensions.md tells of it. */
function lantern(name, one) {
  const when = (listener) => one.ends.push(listener);
  return Object.freeze({
    name,
    owner,
    element,
    say,
    /** The open chat's id; 0 before it is made. */
    get chat() {
      return state.chat;
    },
    /** The messages that are shown, by their ids. */
    get messages() {
      return new Map(messages.facts);
    },
    /** Ask the extension's page_call; null where that failed, which was told then. */
    async call(action, body = {}, message = null) {
      const about = message === null ? {} : { chat: state.chat, message };
      const answer = await post(`extensions/${encodeURIComponent(name)}/call`, { action, body, ...about });
      if (!answer?.fault) return answer;
      say(answer.fault, "fault");
      return null;
    },
    /** The source of a message, as the model sees it; null where it is not there. */
    text: async (message) => (await get(`chats/${state.chat}/messages/${message}`))?.text ?? null,
    /** Have `listener` called with each message and its element, now and when it is drawn anew. */
    onMessage: (listener) => when(onDrawn(guarded(name, listener))),
    /** Have `listener` called when the extension is switched off. */
    onOff: when,
  });
}

window.lanternExtensions = {
  async run(name, body) {
    const one = running.get(name);
    if (!one) return;
    try {
      await body(lantern(name, one));
    } catch (error) {
      fail(name, error);
    }
  },
};

// A script that does not even parse is told by the window alone.
window.addEventListener("error", (event) => {
  const [, name] = /page\/extensions\/([^/]+)\/script\.js/.exec(event.filename ?? "") ?? [];
  if (!name) return;
  event.preventDefault();
  fail(decodeURIComponent(name), event.message, event.lineno);
});
