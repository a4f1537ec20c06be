// Files that are attached to messages: chosen, dropped or pasted, and shown as chips.

import { acts, byId, ensureChat, onHead, onOpen, state } from "./chat_state.js";
import { preview } from "./composer.js";
import { element, get, post, present, say } from "./net.js";
import { openSheet } from "./dialogs.js";

const reading = []; // names of files that are on their way
const tokens = new Map(); // by id and model

/** Files as chips that open; `remove` is for those that are not sent. */
export function fileChips(files, remove = false) {
  return element("div", { className: "files" }, ...files.map((file) => chip(file, remove)));
}

function chip(file, remove) {
  const facts = [sized(file.size)];
  if (file.tokens !== undefined) facts.push(`${file.tokens.toLocaleString()} tokens`);
  if (file.note) facts.push(file.note);
  const open = element("button", { type: "button", className: "file-open", "data-act": "open-file", "data-file": file.id, title: "Show the text" }, file.name);
  const gone = element("button", { type: "button", className: "quiet", "data-act": "remove-file", "data-file": file.id, ariaLabel: `Remove ${file.name}`, title: "Remove" }, "×");
  return element("span", { className: "file" }, open, element("span", { className: "soft" }, facts.join(" · ")), remove ? gone : null);
}

function sized(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${Math.round(bytes / 1024)} KB` : `${(bytes / 1024 ** 2).toFixed(1)} MB`;
}

// -- what waits in the composer -----------------------------------------------------------

function draw() {
  const place = byId("composer-files");
  const files = (state.head?.files ?? []).map((file) => ({ ...file, tokens: tokens.get(tokenKey(file.id)) }));
  place.replaceChildren(
    ...fileChips(files, true).children,
    ...reading.map((name) => element("span", { className: "file" }, element("span", { className: "waiting" }, `Reading ${name}…`))),
  );
  place.hidden = !place.children.length;
}

function drawReading() {
  state.reading = reading.length;
  draw();
}

const tokenKey = (id) => `${state.chat} ${id} ${byId("strip-model").textContent}`;

async function count(files) {
  if (!files.length || document.body.dataset.engine !== "ready") return;
  if (files.every((file) => tokens.has(tokenKey(file.id)))) return;
  const chat = state.chat;
  const counted = await get(`chats/${chat}/attachments`);
  if (chat !== state.chat || !counted) return;
  for (const file of counted) if (file.tokens !== null) tokens.set(tokenKey(file.id), file.tokens);
  draw();
}

async function upload(files) {
  const limit = Number(byId("attach").dataset.limit);
  const fits = [...files].filter((file) => {
    if (file.size > limit) say(`${file.name} is larger than ${sized(limit)}. Attach a part of it.`, "fault");
    return file.size <= limit;
  });
  if (!fits.length || !(await ensureChat())) return;
  const chat = state.chat;
  reading.push(...fits.map((file) => file.name));
  drawReading();
  for (const file of fits) {
    await uploadOne(chat, file);
    reading.splice(reading.indexOf(file.name), 1);
    drawReading();
  }
}

async function uploadOne(chat, file) {
  try {
    const answer = await fetch(`page/chats/${chat}/attachments?name=${encodeURIComponent(file.name.slice(-200))}`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: file,
    });
    if (answer.ok) return;
    const data = await answer.json().catch(() => ({}));
    say(data.message ? `${data.message} ${data.remedy ?? ""}` : `The server answered ${answer.status}.`, "fault");
  } catch {
    say(`${file.name} could not be sent. Is it still there, and Lantern still running in its terminal?`, "fault");
  }
}

async function openFile(id) {
  const file = await get(`chats/${state.chat}/attachments/${id}`);
  if (!file) return;
  const facts = [sized(file.size), `${file.characters.toLocaleString()} characters`];
  if (file.tokens !== null) facts.push(`${file.tokens.toLocaleString()} tokens`);
  if (file.note) facts.push(file.note);
  openSheet(file.name, [element("p", { className: "soft" }, facts.join(" · ")), element("pre", { className: "sheet-text" }, file.text)]);
}

Object.assign(acts, {
  attach: () => byId("attach-input").click(),
  "open-file": (button) => openFile(button.dataset.file),
  "remove-file": (button) => post(`chats/${state.chat}/attachments/${button.dataset.file}/remove`),
});

onOpen(draw);
let shown = "";
onHead((head) => {
  draw();
  const files = head.files ?? [];
  const ids = `${state.chat} ${files.map((file) => file.id)}`;
  if (ids !== shown) preview();
  shown = ids;
  count(files);
});

// -- the ways in --------------------------------------------------------------------------

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") && event.target.closest?.(".chat");

await present("attach-input");
byId("attach-input").onchange = (event) => {
  upload(event.target.files);
  event.target.value = "";
};
document.addEventListener("dragover", (event) => {
  const over = carriesFiles(event);
  document.body.classList.toggle("dropping", Boolean(over));
  if (over) event.preventDefault();
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  upload(event.dataTransfer.files);
});
byId("composer-text").addEventListener("paste", (event) => {
  // What is copied in an office program is text, and a picture of it besides.
  if (!event.clipboardData.files.length || event.clipboardData.types.includes("text/plain")) return;
  event.preventDefault();
  upload(event.clipboardData.files);
});
new MutationObserver(() => count(state.head?.files ?? [])).observe(document.body, { attributeFilter: ["data-engine"] });
