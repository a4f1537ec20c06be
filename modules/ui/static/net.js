// Talking to the server, and telling the user what came of it.

/** POST to a route of the page. Shows the server's sentence and returns null on failure. */
export async function post(path, body = {}) {
  try {
    const answer = await fetch(`page/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const data = await answer.json().catch(() => ({}));
    if (answer.ok) return data ?? {};
    say(data.message ? `${data.message} ${data.remedy ?? ""}` : `The server answered ${answer.status}.`, "fault");
  } catch {
    say("The server does not answer. Is Lantern still running in its terminal?", "fault");
  }
  return null;
}

export async function get(path) {
  try {
    const answer = await fetch(`page/${path}`);
    if (answer.ok) return await answer.json();
  } catch {
    // said below
  }
  say("The server does not answer. Is Lantern still running in its terminal?", "fault");
  return null;
}

/** A notice at the bottom; with `undo`, a button that takes the act back. */
export function say(text, kind = "", undo = null) {
  let place = document.getElementById("toasts");
  if (!place) {
    place = element("div", { id: "toasts", role: "status" });
    document.body.append(place);
  }
  const toast = element("div", { className: `toast ${kind}` }, element("span", {}, text));
  const close = () => toast.remove();
  if (undo) {
    const button = element("button", { type: "button", className: "quiet" }, "Undo");
    button.onclick = () => (close(), undo());
    toast.append(button);
  }
  const dismiss = element("button", { type: "button", className: "quiet", ariaLabel: "Dismiss" }, "×");
  dismiss.onclick = close;
  toast.append(dismiss);
  place.append(toast);
  while (place.children.length > 3) place.firstChild.remove();
  setTimeout(close, kind === "fault" ? 12000 : 8000);
}

/** An element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("data-") || name === "role" || name.startsWith("aria-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Resolves when an element with this id is in the page. */
export function present(id) {
  return new Promise((resolve) => {
    const found = () => {
      const it = document.getElementById(id);
      if (it) resolve(it);
      return it;
    };
    if (found()) return;
    const observer = new MutationObserver(() => found() && observer.disconnect());
    observer.observe(document.documentElement, { childList: true, subtree: true });
  });
}

/** To the clipboard, also on plain http, where browsers hide the newer interface. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else {
    const box = element("textarea", { value: text });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  say("Copied.");
}
