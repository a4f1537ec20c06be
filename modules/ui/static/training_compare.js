// One prompt, three answers side by side: the base, and two of its LoRAs or checkpoints.

import { element, present, redraw } from "./net.js";
import { onCompare } from "./training_samples.js";

const ROLES = ["the base alone", "A", "B"];
const state = { choices: [], picked: ["", ""], mine: [false, false], asked: null };
const byId = (id) => document.getElementById(id);

/** What can be compared: { value, label } of checkpoints and of folders in loras/. */
export function drawCompare(choices) {
  if (!byId("compare-form")) build();
  state.choices = choices;
  byId("run-compare").hidden = !choices.length;
  // Until somebody chooses, the latest ones are compared.
  state.picked = state.picked.map((value, i) => (state.mine[i] && choices.some((one) => one.value === value) ? value : ((choices[i] ?? choices[0])?.value ?? "")));
  for (const i of [0, 1]) {
    const select = byId(`compare-${i}`);
    redraw(select, choices, ...choices.map((one) => element("option", { value: one.value }, one.label)));
    select.value = state.picked[i];
  }
}

function build() {
  const pick = (i) => {
    const select = element("select", { id: `compare-${i}` });
    select.onchange = () => {
      state.picked[i] = select.value;
      state.mine[i] = true;
    };
    return element("span", { className: "compare-pick" }, element("label", { htmlFor: select.id }, ROLES[i + 1]), select);
  };
  const box = element("textarea", { id: "compare-prompt", rows: 2, placeholder: "A prompt for all three", ariaLabel: "Prompt" });
  const ask = element("button", { id: "compare-ask", className: "primary" }, "Ask all three");
  const stop = element("button", { type: "button", id: "compare-stop", className: "stop", hidden: true }, "Stop");
  stop.onclick = () => state.asked?.abort();
  const form = element("form", { id: "compare-form" }, box, element("div", { className: "compare-row" }, pick(0), pick(1), ask, stop), element("p", { className: "fault", id: "compare-fault", role: "status" }));
  form.onsubmit = (event) => (event.preventDefault(), box.value.trim() ? run(box.value) : box.focus());
  box.onkeydown = (event) => event.key === "Enter" && !event.shiftKey && (event.preventDefault(), form.requestSubmit());
  const columns = ROLES.map((role, i) => element("article", { className: "compare-answer" }, element("h4", { id: `compare-name-${i}` }, role), element("div", { className: "compare-text", id: `compare-text-${i}` }), element("p", { className: "soft", id: `compare-stats-${i}` })));
  byId("run-compare").replaceChildren(element("h3", {}, "Side by side"), element("p", { className: "soft" }, "The same prompt to the base and to two of its LoRAs, at temperature 0, so that nothing but the LoRA differs."), form, element("div", { className: "compare-answers", hidden: true, id: "compare-answers" }, ...columns));
}

async function run(prompt) {
  const label = (i) => state.choices.find((one) => one.value === state.picked[i])?.label ?? "";
  const fault = (text) => (byId("compare-fault").textContent = text);
  fault("");
  ROLES.forEach((role, i) => {
    byId(`compare-name-${i}`).textContent = i ? label(i - 1) : role;
    byId(`compare-text-${i}`).textContent = "";
    byId(`compare-stats-${i}`).textContent = "";
  });
  state.asked = new AbortController();
  byId("compare-ask").hidden = true;
  byId("compare-stop").hidden = false;
  try {
    const answer = await fetch("page/training/compare", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ prompt, sides: state.picked.map(side) }), signal: state.asked.signal });
    if (!answer.ok) {
      const data = await answer.json().catch(() => ({}));
      fault(data.message ? `${data.message} ${data.remedy ?? ""}` : `The server answered ${answer.status}.`);
    } else {
      byId("compare-answers").hidden = false;
      byId("compare-answers").scrollIntoView({ block: "nearest" });
      await read(answer.body, fault);
    }
  } catch (error) {
    if (error.name !== "AbortError") fault("The server does not answer. Is Lantern still running in its terminal?");
  }
  byId("compare-ask").hidden = false;
  byId("compare-stop").hidden = true;
}

/** A checkpoint is "run@step", a LoRA is "lora:name". */
function side(value) {
  if (value.startsWith("lora:")) return { lora: value.slice(5) };
  const at = value.lastIndexOf("@");
  return { run: value.slice(0, at), step: Number(value.slice(at + 1)) };
}

async function read(body, fault) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const told = JSON.parse(line);
      if (told.fault) fault(told.fault);
      if (told.text) byId(`compare-text-${told.column}`).append(told.text);
      if (told.stats) byId(`compare-stats-${told.column}`).textContent = told.stats;
    }
  }
}

onCompare(({ run: id, step }) => {
  const value = `${id}@${step}`;
  if (state.picked[0] !== value) Object.assign(state, { picked: [value, state.picked[0]], mine: [true, state.mine[0]] });
  drawCompare(state.choices);
  byId("run-compare").scrollIntoView({ block: "start" });
  byId("compare-prompt").focus({ preventScroll: true });
});
present("run-compare").then((place) => (place.hidden = true));
