// What waits and what has ended: order, cancel, resume, repeat, delete, and whose curves are shown.

import { button, openDialog } from "./dialogs.js";
import { element, post, redraw, working } from "./net.js";
import { figure, sparkline } from "./training_chart.js";
import { WORDS } from "./training_run.js";

const faults = new Map();
let state = null;

/** `state` has runs, selected, overlaid (a Set) and select(id), overlay(id, on). */
export function drawLists(place, next) {
  state = next;
  const waiting = state.runs.filter((run) => run.state === "queued").sort((a, b) => a.place - b.place);
  const others = state.runs.filter((run) => run.state !== "queued");
  // What does not change with every step is not drawn with every step.
  const key = [others.map(({ id, state: word, loss, step }) => [id, word, word === "running" ? 0 : [loss, step]]), waiting.map((run) => run.id), state.selected, [...state.overlaid], [...faults]];
  const parts = [];
  if (waiting.length) parts.push(element("h3", {}, "Queue"), element("ol", { className: "run-rows" }, ...waiting.map((run, i) => queued(run, i, waiting))));
  if (others.length) parts.push(element("h3", {}, "Runs"), element("p", { className: "soft" }, "A tick lays a run's curve over the one that is shown."), element("ul", { className: "run-rows" }, ...others.map(ended)));
  redraw(place, key, ...parts);
  return undefined;
}

function name(run) {
  const open = element("button", { type: "button", className: "quiet run-name", "aria-current": String(run.id === state.selected) }, run.name);
  open.onclick = () => state.select(run.id);
  return open;
}

const when = (time) => new Date(time * 1000).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

function row(run, ...parts) {
  const told = faults.get(run.id);
  return element("li", { className: run.id === state.selected ? "selected" : "", "data-run": run.id }, ...parts, told ? element("p", { className: "fault", role: "status" }, told) : null);
}

/** A button of one run, whose fault is told in its row. */
function act(run, word, meanwhile, path, body = {}) {
  const made = element("button", { type: "button", className: "quiet", ariaLabel: `${word} ${run.name}` }, word);
  made.onclick = async () => {
    faults.delete(run.id);
    const back = working(made, meanwhile);
    const done = await post(`training/runs/${run.id}/${path}`, body, (text) => faults.set(run.id, text));
    back();
    if (done?.run) state.select(done.run);
    state.again();
  };
  return made;
}

function queued(run, at, all) {
  const move = (by, word, label) => {
    const made = element("button", { type: "button", className: "quiet", ariaLabel: `${label} ${run.name}`, disabled: at + by < 0 || at + by >= all.length }, word);
    made.onclick = async () => {
      const ids = all.map((one) => one.id);
      [ids[at], ids[at + by]] = [ids[at + by], ids[at]];
      await post("training/queue", { runs: ids }, (text) => faults.set(run.id, text));
      state.again();
    };
    return made;
  };
  return row(run, name(run), element("span", { className: "soft run-about" }, `${run.base}${run.resuming ? " · goes on where it was" : ""}`), element("span", { className: "run-row-acts" }, move(-1, "↑", "Earlier:"), move(1, "↓", "Later:"), act(run, "Cancel", "Cancelling…", "cancel")));
}

function ended(run) {
  const tick = element("input", { type: "checkbox", checked: state.overlaid.has(run.id), disabled: run.id === state.selected, ariaLabel: `Lay the curve of ${run.name} over the one shown` });
  tick.onchange = () => state.overlay(run.id, tick.checked);
  const loss = run.step ? `loss ${figure(run.loss)}` : "";
  const about = [run.base, when(run.created), run.total ? `${run.step.toLocaleString()} of ${run.total.toLocaleString()} steps` : "", loss].filter(Boolean).join(" · ");
  const acts = [];
  if (run.state !== "running") {
    if (["stopped", "failed", "lost"].includes(run.state)) {
      const go = act(run, "Resume", "Resuming…", "resume");
      go.disabled = Boolean(run.blocked);
      go.title = run.blocked || "Goes on from the last checkpoint";
      acts.push(go);
    }
    acts.push(act(run, "Repeat", "Repeating…", "repeat"), remover(run));
  }
  const blocked = run.blocked ? element("p", { className: "soft" }, run.blocked) : null;
  const curve = run.spark.length > 1 ? sparkline(run.spark) : element("span", { className: "sparkline" });
  return row(run, tick, name(run), element("span", { className: `word ${run.state}` }, WORDS[run.state]), curve, element("span", { className: "soft run-about" }, about), element("span", { className: "run-row-acts" }, ...acts), blocked);
}

function remover(run) {
  const made = element("button", { type: "button", className: "quiet", ariaLabel: `Delete ${run.name}` }, "Delete");
  made.onclick = () => {
    const told = element("p", { className: "fault", role: "status" });
    const gone = button("Delete", "primary", async () => {
      const back = working(gone, "Deleting…");
      if (!(await post(`training/runs/${run.id}/delete`, {}, (text) => (told.textContent = text)))) return back();
      dialog.close();
      return state.again();
    });
    const stays = run.adapter ? ` Its LoRA, loras/${run.adapter}, stays.` : "";
    const dialog = openDialog(`Delete ${run.name}?`, "ask-dialog", element("p", {}, `Its curves, log and checkpoints are deleted.${stays}`), told, element("div", { className: "row-end" }, button("Keep it", "quiet", () => dialog.close()), gone));
  };
  return made;
}
