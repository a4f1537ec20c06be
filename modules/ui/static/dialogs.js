// Dialogs: what is shown over the page until it is answered or closed.

import { element } from "./net.js";

/** Show a dialog with this heading; it is gone when it is closed. */
export function openDialog(title, className, ...children) {
  const dialog = element("dialog", { className: `keys ${className}`, ariaLabel: title }, element("h2", {}, title), ...children);
  dialog.onclose = () => dialog.remove();
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Esc closes this, and stops no reply
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // outside of it
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Show something to read, with `buttons` before Close. */
export function openSheet(title, children, buttons = []) {
  const close = button("Close", "primary", () => dialog.close());
  const body = element("div", { className: "sheet-body", tabIndex: 0 }, ...children);
  const dialog = openDialog(title, "sheet", body, element("div", { className: "row-end" }, ...buttons, close));
  close.focus();
  return dialog;
}

export function button(text, kind, run) {
  const made = element("button", { type: "button", className: kind }, text);
  made.onclick = run;
  return made;
}

/**
 * Ask for one line of text; `choices` can be taken instead. `done` gets it, trimmed, and a
 * function that tells what is wrong with it; it returns whether the dialog may close.
 * `look` says of what stands there what the button does and what will come of it.
 */
export function ask(title, { label, value = "", save = "Save", choices = [], look = null, done }) {
  const box = element("input", { value, maxLength: 120, autocomplete: "off", id: "ask-text" });
  const told = element("p", { className: "soft", role: "status", hidden: !look });
  const sent = element("button", { className: "primary" }, save);
  const buttons = element("div", { className: "row-end" }, button("Cancel", "quiet", () => dialog.close()), sent);
  const form = element("form", {}, element("label", { htmlFor: "ask-text" }, label), box, told, buttons);
  const tell = (text, fault = true) => ((told.hidden = false), (told.textContent = text), told.classList.toggle("fault", fault));
  const answer = async (text) => (await done(text, tell)) && dialog.close();
  const made = choices.map(({ text, value: its }) => button(text, "", () => answer(its)));
  const dialog = openDialog(title, "ask-dialog", made.length ? element("div", { className: "choices" }, ...made) : null, form);
  box.oninput = () => {
    if (!look) return;
    const seen = look(box.value.trim());
    sent.textContent = seen.save;
    tell(seen.told, false);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    if (box.value.trim()) answer(box.value.trim());
  };
  box.oninput();
  box.select();
}
