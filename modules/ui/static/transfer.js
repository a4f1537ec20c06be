// Importing chats: from files that are chosen, or dropped on the list.

import { byId, openChat } from "./chat_state.js";
import { openDialog } from "./dialogs.js";
import { element, post, present, say } from "./net.js";

const KINDS = ".json,.jsonl,.ndjson";

/** The dialog in which files are chosen and their imports are followed. */
export function openImport(files = []) {
  const choose = element("input", { type: "file", multiple: true, accept: KINDS, ariaLabel: "Files to import" });
  const list = element("ul", { className: "imports", role: "status" });
  const undo = element("button", { type: "button", className: "quiet", hidden: true }, "Undo");
  const close = element("button", { type: "button", className: "primary" }, "Close");
  const dialog = openDialog(
    "Import chats",
    "import-dialog",
    element("p", { className: "soft" }, "JSON or JSONL: Lantern's own exports, text-generation-webui's histories, ShareGPT, and OpenAI's messages. A file may have 256 MB, and a single JSON value in it 64 MB. A file with a fault in it is left out as a whole."),
    choose,
    list,
    element("div", { className: "row-end" }, undo, close),
  );
  const stopped = new AbortController();
  dialog.addEventListener("close", () => stopped.abort());
  close.onclick = () => dialog.close();
  const begin = async (chosen) => {
    const ids = await importAll(chosen, list, stopped.signal);
    if (!ids.length) return;
    openChat(ids[0]);
    undo.hidden = false;
    undo.onclick = async () => {
      dialog.close();
      for (const id of ids) await post(`chats/${id}/delete`);
      say(`${count(ids.length)} taken back.`);
      openChat(0);
    };
  };
  choose.onchange = () => begin([...choose.files]);
  if (files.length) begin(files);
}

/** One after another, each a line of the list. Resolves to the ids of the new chats. */
async function importAll(files, list, signal) {
  const lines = files.map((file) => list.appendChild(element("li", {}, `${file.name} waits`)));
  const ids = [];
  for (const [i, file] of files.entries()) {
    lines[i].textContent = `${file.name} is being read…`;
    const answer = await send(file, signal);
    lines[i].className = answer.ids ? "" : "fault";
    lines[i].textContent = answer.ids ? `${file.name}: ${count(answer.ids.length)} imported` : answer.fault;
    ids.push(...(answer.ids ?? []));
  }
  return ids;
}

const count = (chats) => (chats === 1 ? "1 chat" : `${chats.toLocaleString()} chats`);

async function send(file, signal) {
  try {
    const answer = await fetch(`page/import?name=${encodeURIComponent(file.name.slice(0, 200))}`, { method: "POST", body: file, signal });
    const data = await answer.json();
    return answer.ok ? data : { fault: `${data.message} ${data.remedy ?? ""}` };
  } catch {
    return { fault: signal.aborted ? `${file.name} was stopped.` : `${file.name} could not be sent. Is Lantern still running in its terminal?` };
  }
}

await present("sidebar");
const place = byId("sidebar");
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
place.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  place.classList.add("dropping");
});
place.addEventListener("dragleave", (event) => !place.contains(event.relatedTarget) && place.classList.remove("dropping"));
place.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.stopPropagation();
  place.classList.remove("dropping");
  openImport([...event.dataTransfer.files]);
});
