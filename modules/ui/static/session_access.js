// Who is connected, and the links that lead here.

import { byId } from "./chat_state.js";
import { button, openDialog } from "./dialogs.js";
import { copy, element, get, post, redraw, say } from "./net.js";

const AGAIN_MS = 3000;
const DOORS = {
  none: "Only this machine can open the page. To let others in, set Listen, for your network, or Share, for a public link, and restart.",
  token: "Others come in by a link with a token, and chat as guests: they see only their own chats.",
  login: "Others come in by a name and a password, and chat as guests: they see only their own chats.",
};
const SHARES = { opening: "The share link is being opened…", open: "The share link is open.", failed: "There is no share link.", ended: "" };
const state = { found: null, links: null, timer: 0 };

/** Look now, and again as long as somebody sees it. */
export async function drawAccess() {
  clearTimeout(state.timer);
  state.found = (await get("session/access")) ?? state.found;
  if (state.found) draw();
  if (byId("session-access").offsetParent !== null && !document.hidden) state.timer = setTimeout(drawAccess, AGAIN_MS);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && byId("session-access")?.offsetParent) drawAccess();
});

function draw() {
  const { found } = state;
  byId("access-about").textContent = DOORS[found.door];
  const people = found.visitors.length;
  document.querySelector("[data-part=access] .soft").textContent = people > 1 ? people : "";
  redraw(byId("access-visitors"), found.visitors, ...found.visitors.map(visitor));
  redraw(byId("access-logins"), found.logins, ...logins());
  redraw(byId("access-links"), [found.addresses, found.share, found.key, found.door, found.here, state.links], ...links());
}

function time(seconds) {
  const at = new Date(seconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? clock : `${at.toLocaleDateString([], { day: "numeric", month: "short" })}, ${clock}`;
}

function visitor(one) {
  const tabs = `${one.tabs} ${one.tabs === 1 ? "tab" : "tabs"}`;
  return element("li", { className: "access-row" }, element("span", { className: `word ${one.kind}` }, one.label), element("span", { className: "soft" }, `${tabs}, since ${time(one.since)}`));
}

function logins() {
  if (!state.found.logins.length) return [];
  const rows = state.found.logins.map(({ name, sessions }) => {
    const out = element("button", { type: "button", className: "quiet", ariaLabel: `Log out ${name}` }, "Log out");
    out.onclick = () =>
      sure(`Log out ${name}?`, "Their pages ask for the password at once, in every browser. Their chats stay.", "Log out", async (tell) => {
        if (!(await post("session/access/log-out", { name }, tell))) return false;
        say(`${name} is logged out.`);
        drawAccess();
        return true;
      });
    return element("li", { className: "access-row" }, element("span", {}, name), element("span", { className: "soft" }, `${sessions} ${sessions === 1 ? "session" : "sessions"}`), out);
  });
  return [element("h3", {}, "Logged in"), element("ul", {}, ...rows)];
}

// -- links ------------------------------------------------------------------------------

function links() {
  const { found } = state;
  const parts = [element("h3", {}, "Addresses")];
  for (const { what, url } of found.addresses) parts.push(address(what, url));
  if (found.share.state !== "off") parts.push(element("p", { className: found.share.state === "failed" ? "fault" : "soft" }, [SHARES[found.share.state], found.share.told].filter(Boolean).join(" ")));
  parts.push(apiKey());
  const tokens = found.door === "token" || found.key === "token";
  if (!tokens) return parts;
  if (!found.here) return [...parts, element("p", { className: "soft" }, "The tokens are shown on the machine that Lantern runs on.")];
  return [...parts, element("div", { className: "session-acts" }, reveal(), renew())];
}

function address(what, url) {
  const shown = state.links?.links.find((one) => one.what === what);
  const hasToken = state.found.door === "token" && what !== "On this machine";
  const lines = shown
    ? [link(shown.guests, shown.owner ? "for guests" : ""), ...(shown.owner ? [link(shown.owner, "for yourself")] : [])]
    : [element("span", { className: "access-link" }, element("code", {}, hasToken ? `${url}/?token=••••••` : url), ...(hasToken ? [] : [copier(url, what)]))];
  return element("div", { className: "access-address" }, element("span", { className: "access-what" }, what), ...lines);
}

function link(url, about) {
  return element("span", { className: "access-link" }, element("code", {}, url), element("span", { className: "soft" }, about), copier(url, `the link ${about}`));
}

function copier(text, what) {
  const made = element("button", { type: "button", className: "quiet", ariaLabel: `Copy ${what}` }, "Copy");
  made.onclick = () => copy(text);
  return made;
}

function apiKey() {
  const { key } = state.found;
  const what = element("span", { className: "access-what" }, "API key");
  const given = { given: "As --api-key has it.", none: "None: programs on this machine need no key." }[key];
  if (given) return element("div", { className: "access-address" }, what, element("span", { className: "soft" }, given));
  const shown = state.links?.key;
  return element("div", { className: "access-address" }, what, element("span", { className: "access-link" }, element("code", {}, shown ?? "••••••"), ...(shown ? [copier(shown, "the API key")] : [])));
}

function reveal() {
  const made = element("button", { type: "button", id: "access-show" }, state.links ? "Hide the tokens" : "Show the tokens");
  made.onclick = async () => {
    state.links = state.links ? null : await post("session/access/links");
    draw();
  };
  return made;
}

function renew() {
  const made = element("button", { type: "button", id: "access-renew" }, "Make new tokens…");
  made.onclick = () =>
    sure("Make new tokens?", "The links and the API key that you gave away lead nowhere then, and whoever came by them is out at once. Their chats stay, and show again in the same browser by the new link.", "Make new ones", async (tell) => {
      const made = await post("session/access/renew", {}, tell);
      if (!made) return false;
      state.links = made;
      drawAccess();
      return true;
    });
  return made;
}

function sure(title, text, word, act) {
  const told = element("p", { className: "fault", role: "status" });
  const go = button(word, "primary", async () => (await act((said) => (told.textContent = said))) && dialog.close());
  const dialog = openDialog(title, "ask-dialog", element("p", {}, text), told, element("div", { className: "row-end" }, button("Cancel", "quiet", () => dialog.close()), go));
}
