// Talking to the server, and telling the user what came of it.

/** POST to a route of the page. Tells `fault` the server's sentence and returns null on failure. */
export async function post(path, body = {}, fault = (text) => say(text, "fault")) {
  try {
    const answer = await fetch(`page/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const data = await answer.json().catch(() => ({}));
    if (answer.ok) return data ?? {};
    fault(data.message ? `${data.message} ${data.remedy ?? ""}` : `The server answered ${answer.status}.`);
  } catch {
    fault("The server does not answer. Is Lantern still running in its terminal?");
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
  for (const old of [...place.children]) if (old.firstChild.textContent === text) old.remove();
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

/** Fill `place` anew where `key` has changed; what people are about to press stays as it is. */
export function redraw(place, key, ...children) {
  const text = JSON.stringify(key);
  if (place.dataset.key === text) return;
  const focused = place.contains(document.activeElement) ? [...place.querySelectorAll("button, input")].indexOf(document.activeElement) : -1;
  place.dataset.key = text;
  place.replaceChildren(...children);
  if (focused >= 0) [...place.querySelectorAll("button, input")][focused]?.focus();
}

/** Answer a press at once: a word, and no second press. Returns what takes that back. */
export function working(button, word) {
  const { textContent } = button;
  button.disabled = true;
  button.textContent = word;
  return () => {
    button.disabled = false;
    button.textContent = textContent;
  };
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
