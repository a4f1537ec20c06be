// Small dialogs: what is shown over the page until it is answered or closed.

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

/** Ask for one line of text; `choices` can be taken instead. `done` gets it, trimmed. */
export function ask(title, { label, value = "", button = "Save", choices = [], done }) {
  const box = element("input", { value, maxLength: 120, autocomplete: "off", id: "ask-text" });
  const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
  const buttons = element("div", { className: "row-end" }, cancel, element("button", { className: "primary" }, button));
  const form = element("form", {}, element("label", { htmlFor: "ask-text" }, label), box, buttons);
  const answer = (text) => (dialog.close(), done(text));
  const made = choices.map(({ text, value: its }) => {
    const choice = element("button", { type: "button" }, text);
    choice.onclick = () => answer(its);
    return choice;
  });
  const dialog = openDialog(title, "preset-dialog", made.length ? element("div", { className: "choices" }, ...made) : null, form);
  cancel.onclick = () => dialog.close();
  form.onsubmit = (event) => {
    event.preventDefault();
    if (box.value.trim()) answer(box.value.trim());
  };
  box.select();
}
