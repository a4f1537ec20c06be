// The values of the parameter widgets: kept in this browser, read by the chat.
// A classic script, because gradio calls it as soon as its own page is up.
"use strict";

window.lanternParams = (() => {
  const KEY = "lantern-params";
  let values = null;
  let facts = [];
  const listeners = [];

  function shown(value) {
    if (typeof value === "boolean") return value ? "on" : "off";
    return typeof value === "string" ? value.replaceAll("\n", ", ").slice(0, 24) : String(value);
  }

  function drawChips() {
    const place = document.getElementById("parameter-chips");
    if (!place || !values) return;
    const differing = facts.filter((fact, i) => values[i] !== fact.neutral);
    place.replaceChildren(
      ...differing.map((fact) => {
        const chip = document.createElement("span");
        chip.className = "chip";
        chip.textContent = `${fact.label} ${shown(values[facts.indexOf(fact)])}`;
        return chip;
      }),
    );
  }

  return {
    get values() {
      return values;
    },
    onChange(listener) {
      listeners.push(listener);
    },
    drawChips,
    keep(fields, now) {
      facts = fields;
      values = now;
      const named = Object.fromEntries(facts.map((fact, i) => [fact.name, now[i]]));
      localStorage.setItem(KEY, JSON.stringify(named));
      drawChips();
      listeners.forEach((listener) => listener());
      return [];
    },
    restore(fields, defaults) {
      facts = fields;
      let kept = {};
      try {
        kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
      } catch {
        // what cannot be read is as good as nothing kept
      }
      values = facts.map((fact, i) =>
        typeof kept[fact.name] === typeof defaults[i] ? kept[fact.name] : defaults[i],
      );
      drawChips();
      return values;
    },
  };
})();
