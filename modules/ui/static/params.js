// The values of the parameter widgets: kept in this browser, read by the chat.
// A classic script, because gradio calls it as soon as its own page is up.
"use strict";

window.lanternParams = (() => {
  const KEY = "lantern-params";
  const OPEN = "lantern-open-groups";
  const facts = JSON.parse(document.getElementById("knob-facts").textContent);
  const kept = stored(KEY, {});
  let values = facts.map((fact) => (typeof kept[fact.name] === typeof fact.default ? kept[fact.name] : fact.default));
  let waiting = values; // what the widgets are about to be set to
  let setUp = false; // whether the widgets have been given the values
  const shown = new Set(); // knobs that a folded group shows, because they are or were altered
  const listeners = [];
  let refused = []; // knobs that the loaded model cannot serve

  function stored(key, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(key)) ?? otherwise;
    } catch {
      return otherwise; // what cannot be read is as good as nothing kept
    }
  }

  function written(value) {
    if (typeof value === "boolean") return value ? "on" : "off";
    return typeof value === "string" ? value.replaceAll("\n", ", ").slice(0, 24) : String(value);
  }

  const altered = (fact) => values[facts.indexOf(fact)] !== fact.neutral;

  function drawChips() {
    const place = document.getElementById("parameter-chips");
    if (!place) return;
    place.replaceChildren(
      ...facts.filter(altered).map((fact) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.className = "chip";
        chip.dataset.knob = fact.name;
        chip.textContent = `${fact.label} ${written(values[facts.indexOf(fact)])}`;
        chip.title = `Back to ${written(fact.neutral) || "none"}, which is neutral`;
        chip.onclick = () => set({ [fact.name]: fact.neutral }, false);
        return chip;
      }),
    );
  }

  // -- groups, folded to what is in use -------------------------------------------------

  function drawGroups() {
    const open = stored(OPEN, []);
    const hidden = [];
    for (const group of new Set(facts.map((fact) => fact.group))) {
      const members = facts.filter((fact) => fact.group === group);
      members.filter(altered).forEach((fact) => shown.add(fact.name));
      // What the defaults use is well known; what no preset sets is asked for every day.
      const folded = members.filter((fact) => fact.default === fact.neutral && fact.preset && !shown.has(fact.name));
      if (!open.includes(group)) hidden.push(...folded);
      drawFold(group, members, folded.length, open.includes(group));
    }
    const form = values[facts.findIndex((fact) => fact.name === "structure")];
    if (form === "none" || form === "json") hidden.push({ name: "structure_text" });
    let style = document.getElementById("folded-knobs");
    if (!style) {
      style = document.createElement("style");
      style.id = "folded-knobs";
      document.head.append(style);
    }
    // Rules and not classes, because gradio writes the classes of its widgets itself.
    style.textContent = rule(hidden.map((fact) => fact.name), "", "display: none !important") + rule(refused, "", "opacity: .6") + rule(refused, "::after", 'content: "The loaded model cannot do this."; font-size: 13px');
  }

  /** A rule for the widgets of some knobs. */
  function rule(names, part, what) {
    return names.length ? `${names.map((name) => `#knob-${name}${part}`).join(", ")} { ${what}; } ` : "";
  }

  function drawFold(group, members, folded, open) {
    const head = document.getElementById(`knob-${members[0].name}`)?.closest(".knob-group")?.querySelector("h3");
    if (!head) return;
    let button = head.parentElement.querySelector(".knob-fold");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.className = "quiet knob-fold";
      button.onclick = () => {
        const now = stored(OPEN, []);
        localStorage.setItem(OPEN, JSON.stringify(now.includes(group) ? now.filter((one) => one !== group) : [...now, group]));
        members.forEach((fact) => shown.delete(fact.name));
        drawGroups();
      };
      head.after(button);
    }
    button.hidden = !folded;
    button.textContent = open ? "Show fewer" : `Show all ${members.length}`;
    button.ariaLabel = `${group}: ${button.textContent.toLowerCase()}`;
    button.ariaExpanded = String(open);
  }

  // -- values ---------------------------------------------------------------------------

  /** Set the widgets by name; the others stay as they are. With `fold`, groups fold anew. */
  function set(named, fold = true) {
    waiting = facts.map((fact, i) => named[fact.name] ?? values[i]);
    setUp = true;
    if (fold) shown.clear();
    take(waiting);
    document.getElementById("parameters-apply").click();
  }

  function take(now) {
    values = now;
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(facts.map((fact, i) => [fact.name, now[i]]))));
    drawChips();
    drawGroups();
    listeners.forEach((listener) => listener());
  }

  return {
    get values() {
      return values;
    },
    get facts() {
      return facts;
    },
    get waiting() {
      return waiting;
    },
    onChange(listener) {
      listeners.push(listener);
    },
    drawChips,
    /** Dim the knobs that the loaded model cannot serve. */
    refuse(names) {
      refused = names;
      drawGroups();
    },
    set,
    /** What a widget says before it was given its value is gradio's, and nobody's wish. */
    keep(now) {
      if (setUp) take(now);
      return [];
    },
    restore() {
      setUp = true;
      take(values);
      return values;
    },
    /** Gradio's load event was seen to fail once on a busy machine: the widgets are set without it. */
    insist() {
      if (!setUp) set({});
    },
  };
})();
