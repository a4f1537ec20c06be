// How the chosen model is talked to: the template, why it is this one, and what is wrong with it.

import { element, post } from "./net.js";

export class ChatTemplate {
  constructor(name) {
    this.name = name;
    this.node = element("section", { className: "model-template", ariaLabel: "Chat template" });
  }

  /** Ask anew: with the model loaded, its tokenizer tells more. */
  async refresh() {
    this.draw(await post("models/template", { name: this.name }));
  }

  async choose(template) {
    const found = await post("models/template/choose", { name: this.name, template });
    if (found) this.draw(found);
    else await this.refresh();
  }

  draw(found) {
    if (!found) return;
    const focused = this.node.contains(document.activeElement);
    const choices = found.choices.map(([value, label]) => element("option", { value }, label));
    const select = element("select", { id: "chat-template", "aria-describedby": "chat-template-reason" }, ...choices);
    select.value = found.chosen;
    select.onchange = () => this.choose(select.value);
    const origin = found.origin ? element("a", { href: found.origin, target: "_blank", rel: "noreferrer" }, "Where it comes from") : null;
    const reason = element("p", { className: "soft", id: "chat-template-reason" }, `${found.reason} `, origin);
    const row = element("div", { className: "option" }, element("label", { htmlFor: "chat-template" }, "Template"), select, reason);
    this.node.replaceChildren(element("h3", {}, "Chat template"), element("div", { className: "options" }, row), checked(found.check));
    if (focused) select.focus();
  }
}

function checked(faults) {
  if (!faults) return element("p", { className: "soft" }, "It is checked with the model's tokenizer, once the model is loaded.");
  if (!faults.length) return element("p", {}, "Checked: no fault found.");
  return element("ul", {}, ...faults.map((fault) => element("li", {}, fault)));
}
