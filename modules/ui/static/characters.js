// The gallery of characters: whom a chat can be begun with, and what the owner does with them.

import { acts, openChat, state } from "./chat_state.js";
import { editCharacter } from "./character_editor.js";
import { openDialog } from "./dialogs.js";
import { openMenu } from "./menu.js";
import { element, get, post } from "./net.js";
import { portrait } from "./picture_field.js";

const MANY = 8;
const LIMIT = 16 * 1024 * 1024;
let shown = null;

class Gallery {
  constructor() {
    this.characters = [];
    this.maySave = false;
    this.cards = element("div", { className: "cards" });
    this.told = element("p", { className: "told", role: "status", hidden: true });
    this.find = element("input", { type: "search", placeholder: "Find a character", ariaLabel: "Find a character", hidden: true });
    this.file = element("input", { type: "file", accept: ".png,.json,.yaml,.yml", hidden: true });
    this.create = button("New", "", () => editCharacter(null, this.after));
    this.bring = button("Import…", "", () => this.file.click());
    this.none = button("Without a character", "quiet", () => this.begin(""));
    this.find.oninput = () => this.draw();
    this.file.onchange = () => this.take(this.file.files[0]);
    const close = button("Close", "quiet", () => this.dialog.close());
    this.dialog = openDialog(
      "Characters",
      "gallery",
      element("div", { className: "gallery-tools" }, this.find, this.create, this.bring, this.file),
      this.told,
      this.cards,
      element("div", { className: "row-end" }, this.none, close),
    );
    this.dialog.addEventListener("close", () => (shown = null));
  }

  after = (told) => {
    this.tell(told);
    this.load();
  };

  async load() {
    const answer = await get("characters");
    if (!answer) return;
    this.characters = answer.characters;
    this.maySave = answer.may_save;
    this.create.hidden = this.bring.hidden = !this.maySave;
    this.find.hidden = this.characters.length < MANY;
    this.draw();
  }

  draw() {
    const wanted = this.find.value.trim().toLowerCase();
    const fitting = this.characters.filter((one) => `${one.name} ${one.line}`.toLowerCase().includes(wanted));
    const none = element("p", { className: "soft" }, wanted ? "No character has this." : "There are no characters yet.");
    this.cards.replaceChildren(...(fitting.length ? fitting.map((one) => this.card(one)) : [none]));
  }

  card(one) {
    const begin = element(
      "button",
      { type: "button", className: "card-choose", disabled: Boolean(one.problem) },
      portrait(one.picture, one.name),
      element("span", { className: "card-text" }, element("strong", {}, one.name), element("span", { className: one.problem ? "fault" : "soft" }, one.problem || one.line)),
    );
    begin.onclick = () => this.begin(one.key);
    const more = element("button", { type: "button", className: "quiet card-more", ariaLabel: `More about ${one.name}`, title: "Edit, export, delete", "aria-haspopup": "menu" }, "⋯");
    more.onclick = () => openMenu(more, one.name, this.items(one));
    return element("div", { className: "card" }, begin, this.maySave ? more : null);
  }

  items(one) {
    const exported = (form) => () => window.open(`page/characters/export?name=${encodeURIComponent(one.key)}&form=${form}`, "_self");
    const its = { name: one.key };
    return [
      { text: "Edit", disabled: one.problem, run: () => editCharacter(one.key, this.after) },
      { text: "Duplicate", disabled: one.problem, run: async () => (await this.ask("characters/duplicate", its)) && this.after(`There is a copy of ${one.name}.`) },
      { text: "Export as a card", about: "PNG", disabled: one.problem, run: exported("png") },
      { text: "Export as text", about: "YAML", disabled: one.problem, run: exported("yaml") },
      null,
      one.own
        ? { text: one.shipped ? "Delete your version" : "Delete", run: () => this.remove(one) }
        : { text: "Delete", about: "comes with Lantern", disabled: true },
    ];
  }

  ask = (path, body) => post(path, body, (text) => this.tell(text, true));

  async remove(one) {
    if (!(await this.ask("characters/delete", { name: one.key }))) return;
    const undo = async () => (await this.ask("characters/restore", { name: one.key })) && this.after(`${one.name} is back.`);
    this.tell(`${one.name} is deleted. Chats with it stay.`, false, button("Undo", "quiet", undo));
    this.load();
  }

  async begin(character) {
    if (!character) return this.dialog.close(), openChat(0, { fresh: { character: "" } });
    const made = await this.ask("chats", { ...state.fresh, character });
    if (!made) return;
    this.dialog.close();
    openChat(made.id);
  }

  /** Import a file; where the name is taken, ask what becomes of the two. */
  async take(file, conflict = "ask") {
    this.file.value = "";
    if (!file) return;
    if (file.size > LIMIT) return this.tell(`${file.name} is larger than 16 MB. Use a smaller card.`, true);
    const answer = await upload(file, conflict);
    if (answer.fault) return this.tell(answer.fault, true);
    if (answer.taken) {
      const again = (how, text) => button(text, "quiet", () => this.take(file, how));
      return this.tell(`There is a character ${answer.taken} already.`, false, again("replace", "Replace it"), again("both", "Keep both"));
    }
    const left = answer.left_out.length ? ` Left out, because Lantern has no use for it: ${answer.left_out.join(", ")}.` : "";
    this.after(`${answer.name} is here.${left}`);
  }

  tell(text, fault = false, ...buttons) {
    this.told.hidden = !text;
    this.told.classList.toggle("fault", fault);
    this.told.replaceChildren(text ?? "", ...buttons);
  }
}

function button(text, className, run) {
  const made = element("button", { type: "button", className }, text);
  made.onclick = run;
  return made;
}

async function upload(file, conflict) {
  const query = new URLSearchParams({ name: file.name.slice(0, 200), conflict });
  try {
    const answer = await fetch(`page/characters/import?${query}`, { method: "POST", body: file });
    const data = await answer.json();
    return answer.ok ? data : { fault: `${data.message} ${data.remedy ?? ""}` };
  } catch {
    return { fault: "The server did not take the file. Is Lantern still running in its terminal?" };
  }
}

acts.characters = () => {
  if (shown) return;
  shown = new Gallery();
  shown.load();
};
