// A picture in a form: shown, chosen from a file, or taken away.

import { element } from "./net.js";

const LIMIT = 16 * 1024 * 1024;

/** A picture, or where there is none the first letter of `name`. */
export function portrait(url, name, className = "portrait") {
  const letter = [...name.trim()][0]?.toUpperCase() ?? "?";
  if (url) return element("img", { className, src: url, alt: "", loading: "lazy", draggable: false });
  return element("span", { className: `${className} letter`, "aria-hidden": "true" }, letter);
}

/** `value()` is base64, "" where the picture was removed, and null where it stays. */
export function pictureField(url, name, told) {
  let value = null;
  let shown = url;
  const file = element("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true });
  const choose = element("button", { type: "button" }, "Choose a picture…");
  const remove = element("button", { type: "button", className: "quiet" }, "Remove");
  const place = element("div", { className: "picture-place" });
  const node = element("div", { className: "picture-field" }, place, element("div", {}, choose, remove, file));
  const draw = () => {
    place.replaceChildren(portrait(shown, name()));
    remove.hidden = !shown;
  };
  choose.onclick = () => file.click();
  remove.onclick = () => ((value = ""), (shown = ""), draw());
  file.onchange = async () => {
    const chosen = file.files[0];
    if (!chosen) return;
    if (chosen.size > LIMIT) return told("The picture is larger than 16 MB. Use a smaller one.");
    shown = await asDataUrl(chosen);
    value = shown.split(",")[1] ?? "";
    draw();
  };
  draw();
  return { node, value: () => value, draw };
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
