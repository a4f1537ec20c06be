// The chosen model: what it is, what loading it costs, the options that fit it, and the buttons.

import { ChatTemplate } from "./chat_template.js";
import { gigabytes } from "./figures.js";
import { element, post, redraw, working } from "./net.js";
import { drawPlan } from "./plan.js";

const DEBOUNCE_MS = 120;

export class ModelCard {
  constructor(place) {
    this.place = place;
    this.name = "";
    this.engine = null;
    this.job = null;
    this.asked = 0;
  }

  /** Show the model `name`, as it is on the disk now. */
  async show(name) {
    if (!name) return this.place.replaceChildren(element("p", { className: "soft model-none" }, "No model is chosen. Download one below, or put its folder into models/."));
    const asked = ++this.asked;
    this.place.setAttribute("aria-busy", "true");
    const found = await post("models/card", { name });
    if (asked !== this.asked) return;
    this.place.removeAttribute("aria-busy");
    if (!found) return;
    // What was set and not saved outlives a fresh look at the same model.
    const keep = name === this.name && this.options;
    this.name = name;
    this.card = found.card;
    this.controls = found.controls;
    this.saved = found.saved ? found.options : null;
    if (!keep) this.options = found.options;
    this.plan = found.plan;
    this.template = new ChatTemplate(name);
    this.template.draw(found.template);
    this.build();
    if (keep) this.replan();
  }

  /** The engine or its job changed. */
  follow(engine, job) {
    const loaded = engine?.loaded === this.name;
    if (this.template && loaded !== (this.engine?.loaded === this.name)) this.template.refresh();
    this.engine = engine;
    this.job = job;
    if (this.actions) this.drawActions();
  }

  build() {
    const focused = this.place.contains(document.activeElement) ? document.activeElement.id : "";
    const { card } = this;
    this.actions = element("div", { className: "model-actions" });
    this.status = element("div", { className: "model-status", role: "status" });
    this.planPlace = element("div", { className: "plan" });
    this.controlRows = this.controls.map((control) => this.controlRow(control));
    this.keeping = element("div", { className: "model-keeping" });
    // Some options make a checkpoint loadable that is none by itself.
    const loadable = !card.problem || this.controls.some(({ name }) => ["wbits", "loader"].includes(name));
    const head = element("header", {}, element("h2", {}, card.name), card.kind ? element("span", { className: "tag" }, card.kind) : null, this.actions);
    if (card.server) {
      // A server elsewhere has it: nothing of this machine is planned, and there is nothing to set.
      this.place.replaceChildren(head, this.status, element("div", { className: "model-facts" }, facts(card)), this.template.node);
      this.drawActions();
      return;
    }
    this.place.replaceChildren(
      head,
      this.status,
      element(
        "div",
        { className: "model-columns" },
        element("div", { className: "model-facts" }, facts(card), files(card)),
        loadable
          ? element("div", { className: "model-load" }, element("h3", {}, "Memory"), this.planPlace)
          : element("div", { className: "model-load" }, problem(card.problem, card.remedy)),
      ),
      ...(loadable ? [this.settings(), this.template.node] : []),
    );
    this.drawPlan();
    this.drawControls();
    this.drawActions();
    if (focused) document.getElementById(focused)?.focus();
  }

  settings() {
    const rows = element("div", { className: "options" }, ...this.controlRows.map((row) => row.node));
    return element("div", { className: "model-settings" }, element("h3", {}, "Options"), rows, this.keeping);
  }

  // -- the buttons ----------------------------------------------------------------------

  drawActions() {
    const loaded = this.engine?.loaded === this.name;
    const busy = Boolean(this.job) || this.engine?.phase === "loading";
    const off = busy || !this.plan?.fits;
    const load = element("button", { type: "button", className: "primary", disabled: off }, this.card.server ? (loaded ? "Connect again" : "Use this model") : loaded ? "Reload with these settings" : "Load");
    load.onclick = async () => {
      const back = working(load, "Loading…");
      if (!(await post("models/load", { name: this.name, options: this.options }))) back();
    };
    const unload = element("button", { type: "button", disabled: busy }, this.card.server ? "Disconnect" : "Unload");
    unload.onclick = async () => {
      const back = working(unload, "Unloading…");
      if (!(await post("models/unload"))) back();
    };
    redraw(this.actions, [loaded, busy, off], load, ...(loaded ? [unload] : []));
    this.drawStatus(loaded);
    this.drawKeeping();
  }

  drawStatus(loaded) {
    const { job, engine } = this;
    if (!job) {
      const failed = engine?.error && engine.folder === this.name ? `${engine.error.message} ${engine.error.remedy}` : "";
      const about = loaded ? `Loaded: ${engine.details.join(", ")}.` : failed || "Not loaded.";
      return redraw(this.status, about, element("span", { className: failed ? "fault" : "soft" }, about));
    }
    const percent = Math.round(job.fraction * 100);
    const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
    cancel.onclick = () => (working(cancel, "Cancelling…"), post(`jobs/${job.id}/cancel`));
    redraw(this.status, job.id, element("span"), element("progress", { max: 100 }), element("span", { className: "soft" }), cancel);
    const [title, bar, stage] = this.status.children;
    title.textContent = job.title;
    bar.value = percent;
    bar.setAttribute("aria-label", job.title);
    stage.textContent = `${percent} % · ${job.stage}`;
  }

  drawKeeping() {
    if (this.card.server) return;
    const same = Boolean(this.saved) && JSON.stringify(this.saved) === JSON.stringify(this.options);
    const save = element("button", { type: "button", disabled: same }, "Save settings for this model");
    save.onclick = async () => {
      const back = working(save, "Saving…");
      const options = structuredClone(this.options);
      if (await post("models/settings/save", { name: this.name, options })) this.saved = options;
      else back();
      this.drawKeeping();
    };
    const forget = element("button", { type: "button", className: "quiet" }, "Forget");
    forget.onclick = async () => {
      const back = working(forget, "Forgetting…");
      if (!(await post("models/settings/forget", { name: this.name }))) return back();
      this.options = null;
      return this.show(this.name);
    };
    const text = same ? "Settings saved for this model" : this.saved ? "Changed since they were saved" : "";
    redraw(this.keeping, [same, Boolean(this.saved)], save, ...(this.saved ? [forget] : []), element("span", { className: "soft", role: "status" }, text));
  }

  // -- the options ----------------------------------------------------------------------

  get(control) {
    const value = this.options[control.name];
    return control.index === undefined ? value : (value[control.index] ?? 0);
  }

  set(control, value) {
    if (control.index === undefined) this.options[control.name] = value;
    else {
      const all = this.controls.filter((one) => one.name === control.name).map((one) => (one === control ? value : this.get(one)));
      this.options[control.name] = all.some(Boolean) ? all : [];
    }
    this.changed();
  }

  changed() {
    this.drawControls();
    this.drawKeeping();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.replan(), DEBOUNCE_MS);
  }

  async replan() {
    const asked = (this.planned = (this.planned ?? 0) + 1);
    const { name } = this;
    const plan = await post("models/plan", { name, options: this.options });
    if (!plan || asked !== this.planned || name !== this.name) return;
    this.plan = plan;
    this.drawPlan();
    this.drawControls();
    this.drawActions();
  }

  drawPlan() {
    drawPlan(this.planPlace, this.plan, (changes) => {
      Object.assign(this.options, changes);
      this.changed();
    });
  }

  drawControls() {
    for (const { node, control, draw } of this.controlRows) {
      node.hidden = Object.entries(control.needs ?? {}).some(([name, value]) => this.controls.some((one) => one.name === name) && this.options[name] !== value);
      draw();
    }
  }

  controlRow(control) {
    const id = `option-${control.name}${control.index ?? ""}`;
    const make = { choice: choiceInput, toggle: toggleInput, number: numberInput }[control.kind];
    const { inputs, draw } = make(this, control, id);
    const help = element("p", { className: "soft", id: `${id}-help` }, control.help);
    const node = element("div", { className: "option" }, element("label", { htmlFor: id }, control.label), ...inputs, help);
    return { node, control, draw };
  }
}

function choiceInput(card, control, id) {
  const options = control.choices.map(([, label], i) => element("option", { value: String(i) }, label));
  const input = element("select", { id, "aria-describedby": `${id}-help` }, ...options);
  input.onchange = () => card.set(control, control.choices[Number(input.value)][0]);
  const draw = () => (input.value = String(Math.max(0, control.choices.findIndex(([value]) => value === card.get(control)))));
  return { inputs: [input], draw };
}

function toggleInput(card, control, id) {
  const input = element("input", { type: "checkbox", id, "aria-describedby": `${id}-help` });
  input.onchange = () => card.set(control, input.checked);
  return { inputs: [input], draw: () => (input.checked = card.get(control)) };
}

/** A slider and a field for one number. 0 stands for "not limited": what is planned, or the end. */
function numberInput(card, control, id) {
  const { min, max, step, scale, unit } = control;
  const range = element("input", { type: "range", id, min, max, step, "aria-describedby": `${id}-help` });
  const field = element("input", { type: "number", min, max, step: "any", ariaLabel: `${control.label} in ${unit}` });
  const free = element("button", { type: "button", className: "quiet" }, control.free);
  const put = (value) => card.set(control, Math.round(Math.min(max, Math.max(min, value)) * scale));
  range.oninput = () => put(Number(range.value));
  field.onchange = () => (Number(field.value) > 0 ? put(Number(field.value)) : draw());
  free.onclick = () => card.set(control, 0);
  const draw = () => {
    const set = card.get(control);
    const shown = set ? set / scale : card.plan?.[control.planned] || max;
    range.value = shown;
    range.setAttribute("aria-valuetext", set ? `${shown.toLocaleString()} ${unit}` : control.free);
    if (document.activeElement !== field || !set) field.value = String(Math.round(shown * 10) / 10);
    free.setAttribute("aria-pressed", String(!set));
  };
  const inputs = [
    element("span", { className: "option-field" }, field, element("span", { className: "soft" }, unit)),
    element("span", { className: "option-slide" }, range, free),
  ];
  return { inputs, draw };
}

// -- the facts --------------------------------------------------------------------------

function facts(card) {
  return element("dl", {}, ...card.rows.flatMap(([label, text]) => [element("dt", {}, label), element("dd", {}, text)]));
}

function files(card) {
  const rows = card.files.map(([name, size]) => element("li", {}, element("span", {}, name), element("span", { className: "soft" }, gigabytes(size))));
  const summary = `${rows.length} ${rows.length === 1 ? "file" : "files"}, ${gigabytes(card.size)}`;
  return element("details", {}, element("summary", {}, summary), element("ul", { className: "file-list" }, ...rows));
}

function problem(message, remedy) {
  return element("div", { className: "model-problem" }, element("h3", {}, "It cannot be loaded"), element("p", {}, message), element("p", {}, remedy));
}
