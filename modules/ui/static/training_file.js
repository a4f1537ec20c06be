// The run as a file: checked as it is put together, shown as YAML, copied, downloaded, loaded; and
// the memory that it will take.

import { Live } from "./live.js";
import { copy, element, post, present, say } from "./net.js";
import { draft, get, onDraft, replace } from "./training_draft.js";
import { fault } from "./training_form.js";
import { drawPlan } from "./plan.js";
import { workload } from "./training_rows.js";

const state = { yaml: "", runs: 0, problem: null, plan: null, refused: "" };
const byId = (id) => document.getElementById(id);
let checking = null;
let planning = null;

/** How many runs the draft is, and what is wrong with it; `plan` may warn, `refused` has no plan. */
export const checked = () => state;

function show(data) {
  if (!data || data.fault) return;
  Object.assign(state, data);
  fault(data.problem?.field, data.problem ? `${data.problem.message} ${data.problem.remedy}` : "");
  byId("yaml-text").textContent = state.yaml;
  planning.touch();
  document.dispatchEvent(new Event("training-checked"));
}

function drawMemory(data) {
  state.plan = data?.fault ? null : data;
  state.refused = data?.fault ?? "";
  const place = byId("training-plan");
  if (!data) place.replaceChildren(element("p", { className: "soft" }, state.problem ? "The settings contradict each other." : "Choose a base model to see what a run takes."));
  else if (data.fault) place.replaceChildren(element("p", { className: "soft" }, data.fault));
  else drawPlan(place, data, () => {});
  document.dispatchEvent(new Event("training-checked"));
}

/** Take a YAML text in the place of the draft; `tell` says what is wrong with it. */
export async function load(text, tell = (words) => (byId("yaml-fault").textContent = words)) {
  tell("");
  const found = await post("training/read", { yaml: text }, tell);
  if (!found) return false;
  take(found.config, "The settings of the file are taken.");
  return true;
}

function take(config, told) {
  const before = structuredClone(draft.config);
  replace(config);
  say(told, "", () => replace(before));
}

function build(place) {
  const save = element("button", { type: "button" }, "Download");
  save.onclick = () => {
    const link = element("a", { href: URL.createObjectURL(new Blob([state.yaml], { type: "application/yaml" })), download: `${get("name") || "training"}.yaml` });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const again = element("button", { type: "button" }, "Copy");
  again.onclick = () => copy(state.yaml);
  const file = element("input", { type: "file", id: "yaml-file", accept: ".yaml,.yml", hidden: true });
  file.onchange = async () => {
    await load(await file.files[0].text());
    file.value = "";
  };
  const open = element("button", { type: "button" }, "Load a file…");
  open.onclick = () => file.click();
  const box = element("textarea", { id: "yaml-paste", rows: 4, placeholder: "Paste a YAML file here", ariaLabel: "A YAML file to take the settings from", spellcheck: false });
  const paste = element("button", { type: "button" }, "Take these settings");
  paste.onclick = async () => box.value.trim() && (await load(box.value)) && (box.value = "");
  place.replaceChildren(
    element("pre", { id: "yaml-text", tabIndex: 0, role: "region", ariaLabel: "The settings as YAML" }),
    element("div", { className: "yaml-acts" }, again, save, open, file),
    element("details", {}, element("summary", {}, "Paste"), box, paste),
    element("p", { className: "fault", id: "yaml-fault", role: "status" }),
    element("p", { className: "soft" }, "The same run from a terminal: ", element("code", {}, "python -m modules.training.run FILE.yaml")),
  );
}

/** An example that comes with Lantern, taken as a whole. */
export function examples(list) {
  const place = byId("training-examples");
  if (!place) return;
  place.replaceChildren(...list.map((one) => {
    const made = element("button", { type: "button", className: "quiet" }, `Try the example ${one.name}`);
    made.onclick = () => take(one.config, `The example ${one.name} is taken.`);
    return made;
  }));
}

present("training-yaml").then((place) => {
  build(place);
  // Start depends on both answers, whichever step one looks at: they are asked while the tab is open.
  const open = document.querySelector(".training-steps");
  checking = new Live({ place: open, path: "training/check", question: () => ({ config: draft.config }), show });
  planning = new Live({ place: open, path: "training/plan", question: () => (get("base") && !state.problem ? { config: draft.config, ...workload() } : null), show: drawMemory, wait: 400 });
});
onDraft(() => {
  checking?.touch();
  planning?.touch();
});
document.addEventListener("training-lint", () => planning?.touch());
