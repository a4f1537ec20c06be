// The editor of a character.

import { openDialog } from "./dialogs.js";
import { element, get, post, working } from "./net.js";
import { pictureField } from "./picture_field.js";

const HELP = "{{char}} stands for the character's name, {{user}} for that of whoever chats.";

/** Edit the character `key`, or a new one; `done` is told what came of it. */
export async function editCharacter(key, done) {
  const source = key ? await get(`characters/source?name=${encodeURIComponent(key)}`) : { name: "", picture: "" };
  if (source) new Editor(key, source, done);
}

class Editor {
  constructor(key, source, done) {
    Object.assign(this, { key, done });
    this.told = element("p", { className: "told fault", role: "alert", hidden: true });
    this.name = element("input", { value: source.name, maxLength: 100, autocomplete: "off", required: true });
    this.context = area(source.context, 7);
    this.dialogue = area(source.example_dialogue, 4);
    this.greetings = element("div", { className: "greetings" });
    this.count = element("span", { className: "soft count" });
    this.picture = pictureField(source.picture, () => this.name.value || "?", (text) => this.tell(text));
    for (const text of [source.greeting ?? "", ...(source.alternate_greetings ?? [])]) this.addGreeting(text);
    const another = element("button", { type: "button", className: "quiet" }, "Another greeting");
    another.onclick = () => this.addGreeting("").focus();
    const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
    this.save = element("button", { className: "primary" }, "Save");
    const form = element(
      "form",
      { className: "character-form", noValidate: true },
      element("div", { className: "form-body" },
        element("div", { className: "form-top" }, this.picture.node, labelled("Name", this.name, "Replies in a chat carry it.")),
        labelled("Greeting", this.greetings, "The first message of a chat. Of several, the arrows beside the first message choose one."),
        another,
        labelled("Context", this.context, `Who they are, and where you meet; it is never left out. ${HELP}`, this.count),
        labelled("Example dialogue", this.dialogue, "A few lines show the model how they talk: {{user}}: … and {{char}}: …"),
      ),
      this.told,
      element("div", { className: "row-end" }, cancel, this.save),
    );
    this.dialog = openDialog(key ? `Edit ${source.name}` : "New character", "editor-dialog", form);
    this.dialog.onclick = null; // a click beside it throws nothing away
    this.before = this.written();
    this.dialog.oncancel = (event) => {
      event.preventDefault();
      this.leave();
    };
    cancel.onclick = () => this.leave();
    form.onsubmit = (event) => (event.preventDefault(), this.keep());
    form.oninput = () => ((this.asked = false), this.counted());
    this.name.oninput = () => this.picture.draw();
    this.counted(0);
    if (!key) this.name.focus();
  }

  addGreeting(text) {
    const box = area(text, 3);
    box.ariaLabel = `Greeting ${this.greetings.children.length + 1}`;
    this.greetings.append(box);
    return box;
  }

  written() {
    const [greeting = "", ...others] = [...this.greetings.children].map((box) => box.value.trim()).filter(Boolean);
    return {
      key: this.key ?? "",
      name: this.name.value.trim(),
      greeting,
      alternate_greetings: others,
      context: this.context.value,
      example_dialogue: this.dialogue.value,
      picture: this.picture.value(),
    };
  }

  /** Esc and Cancel ask once where something would be lost. */
  leave() {
    if (this.asked || JSON.stringify(this.written()) === JSON.stringify(this.before)) return this.dialog.close();
    this.asked = true;
    this.tell("Your changes are not saved. Save them, or leave once more to throw them away.");
  }

  async keep() {
    if (!this.name.value.trim()) return this.tell("Give the character a name."), this.name.focus();
    const done = working(this.save, "Saving…");
    const answer = await post("characters/save", this.written(), (text) => this.tell(text));
    done();
    if (!answer) return;
    this.dialog.close();
    this.done(`${this.name.value.trim()} is saved.`);
  }

  /** The tokens that every reply spends on the character, where a model can count them. */
  counted(wait = 500) {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      if (document.body.dataset.engine !== "ready") return;
      const text = `${this.context.value}\n${this.dialogue.value}`;
      const answer = await post("look/count", { text }, () => {});
      if (answer) this.count.textContent = `${answer.tokens.toLocaleString()} of ${answer.context.toLocaleString()} tokens`;
    }, wait);
  }

  tell(text) {
    this.told.hidden = !text;
    this.told.textContent = text;
  }
}

function area(value, rows) {
  return element("textarea", { value: value ?? "", rows });
}

let ids = 0;

/** A field under its label, with a sentence of help. */
export function labelled(text, field, help, beside = null) {
  const input = field.matches("input, textarea") ? field : (field.querySelector("textarea") ?? field);
  input.id ||= `field-${(ids += 1)}`;
  const about = element("small", { className: "soft", id: `${input.id}-help` }, help);
  input.setAttribute("aria-describedby", about.id);
  return element("div", { className: "field" }, element("div", { className: "field-head" }, element("label", { htmlFor: input.id }, text), beside), field, about);
}
