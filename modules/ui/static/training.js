// The Training tab: three steps on one page, and the state of the runs as the server tells it.

import { element, get as fetchJson, post, present, redraw, working } from "./net.js";
import { drawCompare } from "./training_compare.js";
import { setFault, takeSets } from "./training_data.js";
import { draft, get, onDraft, set, sources } from "./training_draft.js";
import { checked, examples } from "./training_file.js";
import { buildForm, fault, note } from "./training_form.js";
import { drawMerges } from "./training_keep.js";
import { drawLists } from "./training_lists.js";
import { dataFault, dataWord } from "./training_rows.js";
import { drawRun } from "./training_run.js";

const PACE_MS = 700;
const tab = { update: null, training: null, shown: false, ready: false, runs: [], loras: [], selected: "", chosen: false, overlaid: new Set(), details: new Map(), asking: false, again: false };
const byId = (id) => document.getElementById(id);

/** What the server says of the engine and of the runs. */
export function drawTrainingTab(update) {
  tab.update = update.engine ? update : tab.update;
  if (update.training) tab.training = update.training;
  if (!byId("training-owner") || !tab.update) return;
  if (update.merges) drawMerges(byId("run-merges"), update.merges, again);
  const { admin } = tab.update.engine;
  byId("training-guest").hidden = admin;
  byId("training-owner").hidden = !admin;
  if (admin && tab.shown && update.training) follow();
}

// -- the beginning ------------------------------------------------------------------------

async function setUp() {
  const setup = await fetchJson("training/setup");
  if (!setup) return;
  draft.knobs = Object.fromEntries(setup.fields.map((one) => [one.name, one]));
  draft.defaults = Object.fromEntries(setup.fields.map((one) => [one.name, one.default]));
  tab.loras = setup.adapters;
  if (!draft.config.base) {
    const loaded = setup.models.find((one) => one.name === tab.update.engine.loaded && !one.problem);
    const first = loaded ?? setup.models.find((one) => !one.problem);
    if (first) set("base", first.name);
  }
  buildForm(setup);
  takeSets(setup);
  examples(setup.examples);
  tab.ready = true;
  drawSteps();
}

/** There are models or LoRAs that the form has not heard of. */
function again() {
  if (tab.ready && !byId("training-settings").contains(document.activeElement)) setUp();
}

// -- the runs -----------------------------------------------------------------------------

/** Ask for what is new, once at a time and not more often than one can read. */
async function follow() {
  if (tab.asking) return (tab.again = true);
  tab.asking = true;
  do {
    tab.again = false;
    await look();
    await new Promise((resolve) => setTimeout(resolve, PACE_MS));
  } while (tab.again && tab.shown);
  tab.asking = false;
  return undefined;
}

async function look() {
  const found = await fetchJson("training/runs");
  if (!found) return;
  tab.runs = found.runs;
  const known = (id) => tab.runs.some((one) => one.id === id);
  const running = tab.runs.find((one) => one.state === "running");
  // One follows what runs until one looks at something else.
  if (!known(tab.selected)) tab.chosen = false;
  if (!tab.chosen) tab.selected = running?.id ?? (known(tab.selected) ? tab.selected : (tab.runs[0]?.id ?? ""));
  for (const id of [...tab.overlaid]) if (!known(id) || id === tab.selected) tab.overlaid.delete(id);
  await Promise.all([tab.selected, ...tab.overlaid].filter(Boolean).map(detail));
  draw();
}

async function detail(id) {
  const run = tab.runs.find((one) => one.id === id);
  const old = tab.details.get(id);
  // What has ended does not change any more.
  if (old && old.mark === run?.mark) return;
  const found = await fetchJson(`training/runs/${encodeURIComponent(id)}`);
  if (found) tab.details.set(id, found);
}

function draw() {
  const run = tab.details.get(tab.selected) ?? null;
  const others = [...tab.overlaid].map((id) => tab.details.get(id)).filter(Boolean);
  drawRun(byId("run-view"), run, others);
  drawLists(byId("run-lists"), { runs: tab.runs, selected: tab.selected, overlaid: tab.overlaid, select, overlay, again: look });
  drawCompare(choices(run));
  drawSteps();
  drawStart();
}

function select(id) {
  tab.selected = id;
  tab.chosen = !tab.runs.some((one) => one.id === id && one.state === "running");
  tab.overlaid.delete(id);
  look();
}

function overlay(id, on) {
  if (on) tab.overlaid.add(id);
  else tab.overlaid.delete(id);
  look();
}

/** The checkpoints of the run that is shown and of those that were, and what lies in loras/. */
function choices(run) {
  const others = [...tab.details.values()].filter((one) => one.id !== run?.id && tab.runs.some(({ id }) => id === one.id));
  const points = [run, ...others].filter(Boolean).flatMap((one) => one.checkpoints.toReversed().map(({ step }) => ({ value: `${one.id}@${step}`, label: `${one.name}@${step}` })));
  const made = tab.runs.map((one) => one.adapter).filter(Boolean);
  return [...points, ...[...new Set([...made, ...tab.loras])].map((name) => ({ value: `lora:${name}`, label: name }))];
}

// -- start --------------------------------------------------------------------------------

function drawStart() {
  const { problem, runs, plan, refused } = checked();
  const busy = tab.runs.some((one) => ["running", "queued"].includes(one.state));
  const missing = !sources().length ? "Choose data first." : !get("base") ? "Choose a base model first." : "";
  const word = `${busy ? "Add to queue" : "Start"}${runs > 1 ? ` (${runs} runs)` : ""}`;
  const wrong = missing ? "" : problem ? `${problem.message} ${problem.remedy}` : refused || setFault() || dataFault();
  const told = missing || wrong || plan?.message || tab.training?.note || "";
  const start = element("button", { type: "button", id: "run-go", className: "primary", disabled: Boolean(missing || wrong) }, word);
  start.onclick = () => begin(start);
  redraw(byId("run-start"), [word, told, Boolean(missing || wrong), tab.fault], element("span", { className: tab.fault || wrong ? "fault" : "soft", role: "status" }, tab.fault || told), start);
  note("name", taken());
}

/** What a LoRA will be called whose name another has. */
function taken() {
  const names = new Set([...tab.loras, ...tab.runs.map((one) => one.adapter)]);
  const name = get("name");
  if (!name || !names.has(name)) return "";
  let number = 2;
  while (names.has(`${name}-${number}`)) number++;
  return `There is a loras/${name} already; this one becomes ${name}-${number}.`;
}

async function begin(button) {
  const back = working(button, "Starting…");
  tab.fault = "";
  const found = await post("training/start", { config: draft.config }, (text) => (tab.fault = text));
  back();
  if (found) {
    tab.chosen = false;
    fault();
    await look();
    byId("run-view").scrollIntoView({ block: "nearest" });
  }
  drawStart();
}

function drawSteps() {
  const running = tab.runs.find((one) => one.state === "running");
  const waiting = tab.runs.filter((one) => one.state === "queued").length;
  const share = running?.total ? ` · ${Math.round((100 * running.step) / running.total)} %` : "";
  const words = {
    data: dataWord(),
    settings: [get("base") || "no base", get("name")].filter(Boolean).join(" · "),
    run: running ? `${running.name}${share}${waiting ? ` · ${waiting} waiting` : ""}` : "nothing runs",
  };
  for (const [step, word] of Object.entries(words)) {
    const place = document.querySelector(`[data-step=${step}] .soft`);
    if (place) place.textContent = word;
  }
}

async function open() {
  byId("training-page").querySelectorAll("section").forEach((one) => watchSection.observe(one));
  if (!tab.ready) await setUp();
  follow();
}

/** The step at the top that one is reading. */
const watchSection = new IntersectionObserver(
  () => {
    const top = byId("training-page").getBoundingClientRect().top + 80;
    const all = [...byId("training-page").querySelectorAll(".training-step")];
    const now = all.findLast((one) => one.getBoundingClientRect().top <= top) ?? all[0];
    for (const button of document.querySelectorAll("[data-step]")) {
      if (now.id === `training-${button.dataset.step}`) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
  },
  { threshold: [0, 0.1, 0.25, 0.5, 0.75, 1] },
);

async function begins() {
  const frame = await present("training-tab");
  for (const button of frame.querySelectorAll("[data-step]"))
    button.onclick = () => {
      byId(`training-${button.dataset.step}`).scrollIntoView({ block: "start" });
      byId(`training-${button.dataset.step}-title`).focus({ preventScroll: true });
    };
  new IntersectionObserver(([entry]) => {
    tab.shown = entry.isIntersecting;
    if (!tab.shown || !tab.update) return;
    drawTrainingTab({});
    if (tab.update.engine.admin) open();
  }).observe(frame);
}

onDraft(() => tab.ready && (drawSteps(), drawStart()));
for (const name of ["training-checked", "training-lint"]) document.addEventListener(name, () => tab.ready && (drawSteps(), drawStart()));
begins();
