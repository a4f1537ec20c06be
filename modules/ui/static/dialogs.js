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

/** Ask for one line of text; `choices` can be taken instead. `done` gets it, trimmed. */
export function ask(title, { label, value = "", save = "Save", choices = [], done }) {
  const box = element("input", { value, maxLength: 120, autocomplete: "off", id: "ask-text" });
  const cancel = button("Cancel", "quiet", () => dialog.close());
  const buttons = element("div", { className: "row-end" }, cancel, element("button", { className: "primary" }, save));
  const form = element("form", {}, element("label", { htmlFor: "ask-text" }, label), box, buttons);
  const answer = (text) => (dialog.close(), done(text));
  const made = choices.map(({ text, value: its }) => button(text, "", () => answer(its)));
  const dialog = openDialog(title, "preset-dialog", made.length ? element("div", { className: "choices" }, ...made) : null, form);
  form.onsubmit = (event) => {
    event.preventDefault();
    if (box.value.trim()) answer(box.value.trim());
  };
  box.select();
}
