// Prompts: texts in prompts/ that are chosen, saved and deleted beside what is written.

import { ask } from "./dialogs.js";
import { element, get, post, present, say } from "./net.js";

const pickers = [];
let names = [];
let maySave = false;

/** Run the prompt tools of a mode; `text` gives what is written there, and `set` replaces it. */
export async function addPrompts(mode, text, set) {
  const select = await present(`${mode}-prompt`);
  const [save, remove] = ["save", "delete"].map((what) => document.getElementById(`${mode}-prompt-${what}`));
  pickers.push({ select, save, remove });
  select.onchange = async () => {
    const found = await post("prompts/read", { name: select.value });
    if (found) set(found.text);
    draw();
  };
  save.onclick = () => askName(text(), select);
  remove.onclick = () => deletePrompt(select);
  if (pickers.length === 1) refresh();
  else draw();
}

async function refresh() {
  const found = await get("prompts");
  if (!found) return;
  names = found.names;
  maySave = found.may_save;
  draw();
}

function draw() {
  for (const { select, save, remove } of pickers) {
    const chosen = names.includes(select.value) ? select.value : "";
    if ([...select.options].map((one) => one.value).join("\n") !== ["", ...names].join("\n")) {
      const none = element("option", { value: "", disabled: true }, "Choose a prompt");
      select.replaceChildren(none, ...names.map((name) => element("option", { value: name }, name)));
    }
    select.value = chosen;
    save.hidden = !maySave;
    remove.hidden = !maySave || !chosen;
  }
}

async function deletePrompt(select) {
  const name = select.value;
  const found = await post("prompts/read", { name }, () => {}); // a damaged one goes without a way back
  if (!(await post("prompts/delete", { name }))) return;
  await refresh();
  const undo = async () => {
    if (!(await post("prompts/save", { name, text: found.text }))) return;
    await refresh();
    select.value = name;
    draw();
  };
  say(`The prompt ${name} is deleted.`, "", found && undo);
}

function askName(text, select) {
  const look = (name) =>
    names.includes(name)
      ? { save: "Replace", told: "The prompt of this name is replaced." }
      : { save: "Save", told: "It is kept as a text file in prompts/." };
  const done = async (name, tell) => {
    const refused = (words) => (tell(words), refresh());
    if (!(await post("prompts/save", { name, text, replace: names.includes(name) }, refused))) return false;
    await refresh();
    select.value = name;
    draw();
    return true;
  };
  ask("Save a prompt", { label: "Name of the prompt", value: select.value, look, done });
}
