// A sheet: a dialog over the page with a head, something to read, and buttons at its end.

import { element } from "./net.js";

/** Opens a sheet and returns it. `buttons` come before Close; it is gone when it is closed. */
export function openSheet(title, children, buttons = []) {
  const close = button("Close", "primary", () => dialog.close());
  const dialog = element(
    "dialog",
    { className: "keys sheet", ariaLabel: title },
    element("h2", {}, title),
    element("div", { className: "sheet-body", tabIndex: 0 }, ...children),
    element("div", { className: "row-end" }, ...buttons, close),
  );
  dialog.onclose = () => dialog.remove();
  dialog.onkeydown = (event) => event.stopPropagation(); // Esc closes this, and stops no reply
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  };
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
  return dialog;
}

export function button(text, kind, run) {
  const made = element("button", { type: "button", className: kind }, text);
  made.onclick = run;
  return made;
}
