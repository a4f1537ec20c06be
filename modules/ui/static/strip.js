// The strip over all tabs: model, jobs, and the notice when something needs a decision.

import { element, get, post } from "./net.js";

let latest = { engine: null, jobs: [], training: null };
let menu = null;
const listeners = [];

/** Have `listener` called with the engine's state, now if it is known, and at each change. */
export function onEngine(listener) {
  listeners.push(listener);
  if (latest.engine) listener(latest.engine);
}

/** What changed of the engine with its jobs, or of the trainings. */
export function drawStrip(update) {
  if (update.training) latest.training = update.training;
  if (update.engine) Object.assign(latest, { engine: update.engine, jobs: update.jobs ?? [] });
  const { engine, jobs } = latest;
  const place = document.getElementById("strip-model");
  const bar = document.getElementById("strip-job");
  if (!place || !bar || !engine) return;
  drawModel(place, engine);
  drawJob(bar, engine, jobs);
  drawNotice(engine, jobs);
  document.body.dataset.engine = engine.phase;
  listeners.forEach((listener) => listener(engine));
}

function drawModel(place, engine) {
  const label =
    engine.phase === "ready" ? engine.model : engine.phase === "loading" ? `Loading ${engine.model}` : "No model";
  const parts = [];
  if (engine.admin) {
    const button = element(
      "button",
      { type: "button", className: "model-name", "aria-haspopup": "menu", title: "Choose a model" },
      `${label} ▾`,
    );
    button.onclick = (event) => (event.stopPropagation(), toggleMenu(button));
    parts.push(button);
  } else {
    parts.push(element("span", { className: "model-name" }, label));
  }
  for (const detail of engine.details) parts.push(element("span", { className: "detail" }, detail));
  place.replaceChildren(...parts);
}

function drawJob(bar, engine, jobs) {
  const active = jobs.filter((one) => one.state === "running" || one.state === "queued");
  const job = active.find((one) => one.kind !== "download") ?? active[0];
  if (!job) return drawTraining(bar);
  const percent = Math.round(job.fraction * 100);
  const cancel = element("button", { type: "button", className: "quiet", title: "Cancel", ariaLabel: "Cancel" }, "×");
  cancel.onclick = () => post(`jobs/${job.id}/cancel`);
  bar.replaceChildren(
    element("span", { className: "job-title", title: job.title }, job.title),
    element("progress", { max: 100, value: percent, ariaLabel: job.title }),
    element("span", { className: "job-stage" }, `${percent} % ${job.stage}`),
    ...(engine.admin ? [cancel] : []),
  );
}

/** A run in progress; a press opens its tab. */
function drawTraining(bar) {
  const run = latest.training?.running;
  if (!run) return bar.replaceChildren();
  const title = run.name ? `Training ${run.name}` : "A training runs";
  const percent = Math.floor(run.fraction * 100);
  const open = run.id ? element("button", { type: "button", className: "quiet job-title", title: "Open the Training tab" }, title) : element("span", { className: "job-title" }, title);
  open.onclick = () => [...document.querySelectorAll("[role=tab]")].find((one) => one.textContent.trim() === "Training")?.click();
  const stage = element("span", { className: "job-stage" }, [`${percent} %`, run.stage].filter(Boolean).join(" · "));
  return bar.replaceChildren(open, element("progress", { max: 1, value: run.fraction, ariaLabel: title }), stage);
}

function drawNotice(engine, all) {
  const notice = document.getElementById("notice");
  const jobs = all.filter((one) => one.kind === "load"); // their tabs tell of the others
  const running = jobs.some((one) => one.state === "running" || one.state === "queued");
  const failed = jobs.find((one) => one.state === "failed");
  const error = engine.error ?? failed?.error ?? null;
  const told = failed ? `${failed.error.message} ${failed.error.remedy}` : jobs.find((one) => one.told)?.told;
  if (engine.phase === "ready" && told && !running && engine.admin) {
    const dismiss = element("button", { type: "button", className: "quiet" }, "Dismiss");
    dismiss.onclick = () => post(`jobs/${jobs.at(-1).id}/forget`);
    notice.replaceChildren(element("span", {}, told), dismiss);
    notice.className = failed ? "notice aside fault" : "notice aside";
    notice.hidden = false;
    return;
  }
  notice.classList.remove("aside");
  if (running || engine.phase === "ready" || engine.phase === "loading" || !engine.admin) {
    notice.hidden = engine.phase === "ready" || running || engine.phase === "loading";
    if (!notice.hidden) notice.replaceChildren(element("span", {}, "No model is loaded. Its owner can load one."));
    return;
  }
  const again = engine.model; // what crashed, or what was loaded before a load that was cancelled
  const label = engine.phase === "crashed" ? "Load again" : `Load ${engine.model} again`;
  const load = element("button", { type: "button", className: "primary" }, again ? label : "Choose a model");
  load.onclick = (event) => {
    event.stopPropagation();
    if (again) post("models/again");
    else toggleMenu(document.querySelector("#strip-model button"));
  };
  const text = error ? `${error.message} ${error.remedy}` : "No model is loaded.";
  notice.replaceChildren(element("span", {}, text), load);
  notice.classList.toggle("fault", Boolean(error));
  notice.hidden = false;
}

async function toggleMenu(button) {
  if (menu) return closeMenu();
  menu = element("div", { className: "menu", role: "menu" }, element("p", { className: "soft" }, "Looking…"));
  const at = button.getBoundingClientRect();
  menu.style.left = `${at.left}px`;
  menu.style.top = `${at.bottom + 6}px`;
  document.body.append(menu);
  const found = await get("models");
  if (!menu || !found) return closeMenu();
  const rows = found.models.map((model) => {
    const row = element(
      "button",
      { type: "button", role: "menuitem", disabled: Boolean(model.problem), title: model.problem },
      element("span", {}, model.name),
      element("span", { className: "soft" }, model.problem || model.size || model.kind),
    );
    row.onclick = () => (closeMenu(), post("models/load", { name: model.name }));
    return row;
  });
  if (found.server || !rows.length) rows.push(element("p", { className: "soft" }, found.server || "models/ is empty."));
  if (found.starter) {
    const fetch = element("button", { type: "button", role: "menuitem" }, element("span", {}, "Fetch the starter"), element("span", { className: "soft" }, found.starter));
    fetch.onclick = () => (closeMenu(), post("models/starter"));
    rows.push(element("hr"), fetch);
  }
  if (latest.engine?.phase === "ready") {
    const unload = element("button", { type: "button", role: "menuitem" }, found.server ? "Disconnect" : "Unload, and free its memory");
    unload.onclick = () => (closeMenu(), post("models/unload"));
    rows.push(element("hr"), unload);
  }
  menu.replaceChildren(...rows);
  menu.querySelector("button:not(:disabled)")?.focus();
}

function closeMenu() {
  menu?.remove();
  menu = null;
}

document.addEventListener("click", (event) => menu && !menu.contains(event.target) && closeMenu());
document.addEventListener("keydown", (event) => event.key === "Escape" && closeMenu());
