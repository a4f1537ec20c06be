// The run that is looked at: what it does, its curves and numbers, and what can be done with it.

import { button } from "./dialogs.js";
import { gigabytes } from "./figures.js";
import { element, post, redraw, working } from "./net.js";
import { Chart, figure } from "./training_chart.js";
import { fileButtons, mergeDialog } from "./training_keep.js";
import { chatWith, drawSamples } from "./training_samples.js";

export const WORDS = { queued: "waits", running: "runs", done: "done", stopped: "stopped", failed: "failed", lost: "broke off" };
const view = { run: null, others: [], log: localStorage.getItem("lantern-training-log") === "1", parts: null, place: null };

/** Show a run with its curves, or that there is none; `others` are laid over it. */
export function drawRun(place, run, others) {
  Object.assign(view, { run, others, place });
  if (!run) {
    view.parts = null;
    return place.replaceChildren(element("p", { className: "soft view-none" }, "Nothing has been trained yet. Choose data, look at the settings, and start."));
  }
  if (view.parts?.id !== run.id) build();
  drawHead();
  // Of a run that broke down before its first step there is nothing to draw, and never will be.
  view.parts.columns.hidden = !run.progress.step && ["failed", "stopped", "lost"].includes(run.state) && !others.length;
  drawCurves();
  drawNumbers();
  drawSamples(view.parts.samples, run);
  return undefined;
}

function build() {
  const part = (className) => element("div", { className });
  const parts = { id: view.run.id, head: part("run-head"), status: part("run-status"), legend: part("chart-legend"), loss: part(), rate: part(), norm: part(), numbers: element("dl", { className: "run-numbers" }), samples: part("run-samples") };
  parts.status.setAttribute("role", "status");
  parts.columns = part("run-columns");
  const small = (label, place) => element("figure", {}, element("figcaption", { className: "soft" }, label), place);
  const charts = element("div", { className: "run-charts" }, parts.legend, parts.loss, element("div", { className: "run-small" }, small("Learning rate", parts.rate), small("Gradient norm", parts.norm)));
  parts.columns.append(charts, parts.numbers);
  view.place.replaceChildren(parts.head, parts.status, parts.columns, parts.samples);
  parts.charts = { loss: new Chart(parts.loss, { label: "Loss", height: 260 }), rate: new Chart(parts.rate, { label: "Learning rate", height: 110 }), norm: new Chart(parts.norm, { label: "Gradient norm", height: 110 }) };
  view.parts = parts;
}

// -- what it does, and its buttons --------------------------------------------------------

function drawHead() {
  const { run, parts } = view;
  const buttons = run.state === "running" ? acts(run) : run.adapter ? keep(run) : [];
  redraw(parts.head, [run.id, run.state, run.adapter], element("h3", {}, run.name), element("span", { className: `word ${run.state}` }, WORDS[run.state]), element("span", { className: "run-more" }, ...fileButtons(run)), ...buttons);
  drawStatus();
}

/** What can be done with the LoRA that a run made. */
function keep(run) {
  const chat = button("Chat with it", "", () => chatWith(chat, { lora: run.adapter, run: run.id }));
  const merge = button("Merge into a model…", "", () => mergeDialog(merge, { lora: run.adapter }));
  return [element("span", { className: "run-acts" }, chat, merge)];
}

function acts(run) {
  const tell = (path, word, body = {}) => async (event) => {
    const back = working(event.currentTarget, word);
    await post(`training/runs/${run.id}/${path}`, body, fault);
    setTimeout(back, 1500); // it looks at what it is told between two steps
  };
  const loss = element("input", { type: "number", id: "run-stop-loss", min: 0, max: 10, step: "any", value: run.stop_at_loss || "", placeholder: "never" });
  loss.onchange = async () => {
    const value = Number(loss.value) || 0;
    if (await post(`training/runs/${run.id}/stop-loss`, { loss: value }, fault)) fault(value ? `It stops when the smoothed loss is ${value} or less.` : "It stops at no loss.", "soft");
  };
  return [
    element("span", { className: "run-acts" }, element("label", { htmlFor: "run-stop-loss", className: "soft" }, "Stop at loss"), loss, button("Save now", "", tell("save", "Saving…")), button("Stop and save", "stop", tell("stop", "Stopping…"))),
  ];
}

/** A sentence under the head, where the buttons are. */
function fault(text, kind = "fault") {
  view.told = { text, kind, id: view.run.id };
  drawStatus();
  setTimeout(() => ((view.told = null), view.run && view.parts && drawStatus()), 12_000);
}

function drawStatus() {
  const { run, parts } = view;
  const { progress } = run;
  const lines = [];
  if (run.state === "running" && !progress.step) {
    const meanwhile = run.started ? "Computing the first step" : "Starting its process";
    lines.push(bar(progress.stage || meanwhile, progress.fraction, progress.stage ? `${Math.round(progress.fraction * 100)} %` : ""));
  } else if (run.state === "running") {
    const total = progress.total_steps;
    const busy = progress.stage && progress.fraction < 1 ? ` · ${progress.stage}` : "";
    lines.push(bar(`Step ${progress.step.toLocaleString()} of ${total.toLocaleString()}${busy}`, total ? progress.step / total : 0, left(progress.seconds_left)));
  } else if (run.state === "queued") lines.push(element("p", { className: "soft" }, run.place ? `It waits; ${run.place} ${run.place === 1 ? "is" : "are"} before it.` : "It is next."));
  if (run.error) lines.push(element("p", { className: "fault" }, `${run.error} ${run.remedy}`));
  if (run.adapter) lines.push(element("p", {}, `${ENDS[run.reason] ?? "It has ended."} The LoRA is loras/${run.adapter}.`));
  for (const score of run.scores.slice(-1)) lines.push(element("p", {}, scores(run.scores, score)));
  for (const text of run.warnings.slice(-3)) lines.push(element("p", { className: "warning" }, text));
  if (view.told?.id === run.id) lines.push(element("p", { className: view.told.kind }, view.told.text));
  parts.status.replaceChildren(...lines);
}

const ENDS = { done: "All steps are done.", stopped: "It was stopped, with everything saved.", "stop loss": "It reached the loss to stop at.", patience: "The evaluation loss fell no more." };

function scores(all, last) {
  const percent = (one) => `${Math.round((100 * one.right) / one.of)} %`;
  const first = all[0];
  return first === last ? `Held-out prompts: ${percent(last)} right ${last.step ? `at step ${last.step}` : "before the first step"}.` : `Held-out prompts: ${percent(first)} right before, ${percent(last)} after step ${last.step}.`;
}

function bar(text, fraction, end) {
  return element("div", { className: "run-bar" }, element("span", {}, text), element("progress", { max: 1, value: fraction, ariaLabel: text }), element("span", { className: "soft" }, end));
}

/** Seconds as people say them. */
export function left(seconds) {
  if (!seconds) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s left`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min left` : `${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

// -- curves and numbers -------------------------------------------------------------------

const pairs = (curves, column) => curves.steps.map((step, i) => [step, curves[column][i]]);

function drawCurves() {
  const { run, others, parts } = view;
  const { curves } = run;
  const series = [
    { name: "loss", kind: "raw", colour: "c0", points: pairs(curves, "loss") },
    { name: "smoothed", kind: "line", colour: "c0", points: pairs(curves, "smoothed") },
    { name: "evaluation", kind: "dots", colour: "eval", points: curves.evaluated },
    ...others.map((other, i) => ({ name: other.name, kind: "line", colour: `c${1 + (i % 5)}`, points: pairs(other.curves, "smoothed") })),
  ];
  parts.charts.loss.draw(series, { log: view.log });
  parts.charts.rate.draw([{ name: "learning rate", kind: "line", colour: "c0", points: pairs(curves, "learning_rate") }]);
  parts.charts.norm.draw([{ name: "gradient norm", kind: "line", colour: "c0", points: pairs(curves, "grad_norm") }]);
  const box = element("input", { type: "checkbox", id: "loss-log", checked: view.log });
  box.onchange = () => {
    view.log = box.checked;
    localStorage.setItem("lantern-training-log", view.log ? "1" : "");
    drawCurves();
  };
  const named = series.filter((one) => one.points.length).map((one) => element("span", { className: `swatch ${one.colour} ${one.kind}` }, one.name));
  redraw(parts.legend, [named.map((one) => one.textContent), view.log], element("span", { className: "chart-title" }, "Loss"), ...named, element("label", { className: "chart-log" }, box, "logarithmic"));
}

function drawNumbers() {
  const { run, parts } = view;
  const { progress, curves } = run;
  const best = curves.evaluated.length ? curves.evaluated.reduce((low, one) => (one[1] < low[1] ? one : low)) : null;
  const facts = [["Loss, smoothed", progress.step ? figure(progress.smoothed) : "–", progress.step ? `last step ${figure(progress.loss)}` : ""]];
  if (best) facts.push(["Evaluation", figure(curves.evaluated.at(-1)[1]), `best ${figure(best[1])} at step ${best[0]}`]);
  facts.push(["Epoch", progress.step ? progress.epoch.toFixed(2) : "–", progress.total_steps ? `step ${progress.step.toLocaleString()} of ${progress.total_steps.toLocaleString()}` : ""]);
  facts.push(["Speed", progress.tokens_per_second ? `${Math.round(progress.tokens_per_second).toLocaleString()} tokens/s` : "–", "real tokens, no padding"]);
  const predicted = progress.predicted_bytes ? `predicted ${gigabytes(progress.predicted_bytes)}` : "";
  facts.push(["Memory", progress.memory_bytes ? gigabytes(progress.memory_bytes) : "–", predicted]);
  if (run.started) facts.push(["Learns", `${(run.started.parameters / 1e6).toFixed(2)} M parameters`, run.started.how]);
  redraw(parts.numbers, facts, ...facts.map(([label, value, more]) => element("div", {}, element("dt", { className: "soft" }, label), element("dd", {}, value, more ? element("span", { className: "soft" }, more) : null))));
}
