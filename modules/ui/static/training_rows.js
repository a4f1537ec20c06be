// One row as the trainer will see it, what of it is learnt in colour, and what is wrong with the set.

import { Live } from "./live.js";
import { element, present } from "./net.js";
import { get, onDraft, set, sources } from "./training_draft.js";

const LEARN = [["replies", "all replies"], ["last reply", "the last reply"], ["everything", "everything"]];
const KINDS = {
  duplicate: "the same as another row", "two answers": "one question, two answers", leaked: "evaluated on, and learnt as well",
  truncated: "too long, and cut", overlap: "overlap of raw text", columns: "with columns that tell nothing", column: "without a column that is asked for", characters: "with half a character", fields: "with more fields than columns", "no object": "not an object", "nothing learnt": "in which nothing is learnt", template: "refused by the chat template", "too long": "too long, and left out", "empty reply": "empty reply", "empty prompt": "empty prompt", empty: "empty", "no JSON": "no JSON",
};
const shown = { index: 0, tokens: false, rows: null, lint: null, key: "" };
let rows = null;
let lint = null;
const byId = (id) => document.getElementById(id);
const config = () => ({ ...pick(["datasets", "eval_datasets", "base", "template", "learn", "add_eos", "eval_split", "seed", "cutoff_len", "overlong", "overlap_len", "newline_favor_len", "hard_cut_string", "min_chars", "batching", "micro_batch_size"]) });

/** Settings that change what a row looks like; a sweep is looked at by its first value. */
function pick(names) {
  const found = {};
  for (const name of names) {
    const value = get(name);
    if (value === undefined) continue;
    found[name] = Array.isArray(value) && !name.endsWith("datasets") ? value[0] : value;
  }
  return found;
}

const ready = () => sources().length > 0 && Boolean(get("base"));

// -- one row ------------------------------------------------------------------------------

function drawRow() {
  const place = byId("row-view");
  const data = shown.rows;
  if (!sources().length) return place.replaceChildren(element("p", { className: "soft view-none" }, "Choose a set, and its rows are shown here as the model will read them."));
  if (!get("base")) return place.replaceChildren(element("p", { className: "soft view-none" }, "Choose a base model below: its chat template decides how a row is read."));
  if (!data) return place.replaceChildren(element("p", { className: "soft view-none" }, "Reading the rows…"));
  const children = [head(data)]; // also where the row cannot be shown, so that one can go on
  if (data.fault) children.push(element("p", { className: "fault row-fault", role: "status" }, data.fault));
  else if (!data.tokens.length) children.push(element("p", { className: "warning row-fault", role: "status" }, data.note || "The row is empty."));
  else children.push(element("div", { className: `row-text${shown.tokens ? " as-tokens" : ""}`, tabIndex: 0, role: "region", ariaLabel: `Row ${data.index + 1}` }, ...text(data)), legend(data));
  const focused = document.activeElement?.id;
  place.replaceChildren(...children);
  if (focused?.startsWith("row-")) byId(focused)?.focus();
  return undefined;
}

function head(data) {
  const step = (id, word, label, by) => {
    const made = element("button", { type: "button", className: "quiet", id, ariaLabel: label, disabled: !data.total || shown.index + by < 0 || shown.index + by >= data.total }, word);
    made.onclick = () => go(shown.index + by);
    return made;
  };
  const number = element("input", { type: "number", id: "row-number", min: 1, max: data.total || 1, value: shown.index + 1, ariaLabel: "Row" });
  number.onchange = () => go(Number(number.value) - 1);
  const learn = element("select", { id: "row-learn", ariaLabel: "Learn from" }, ...LEARN.map(([value, label]) => element("option", { value }, label)));
  learn.value = get("learn");
  learn.onchange = () => set("learn", learn.value);
  const box = element("input", { type: "checkbox", id: "row-tokens", checked: shown.tokens });
  box.onchange = () => ((shown.tokens = box.checked), drawRow());
  return element(
    "div",
    { className: "row-head" },
    element("span", { className: "row-steps" }, step("row-before", "‹", "The row before", -1), number, element("span", { className: "soft" }, data.total ? `of ${data.more ? "more than " : ""}${data.total.toLocaleString()}` : ""), step("row-next", "›", "The next row", 1)),
    element("span", { className: "soft row-place" }, data.place ?? ""),
    element("label", { className: "row-switch" }, element("span", { className: "soft" }, "Learn from"), learn),
    element("label", { className: "row-switch" }, box, "Tokens"),
  );
}

function go(index) {
  const total = shown.rows?.total ?? 0;
  shown.index = Math.max(0, Math.min(Math.round(index) || 0, Math.max(0, total - 1)));
  rows.touch();
}

/** Tokens in runs of learnt and unlearnt; each shows where it ends on hover, or always. */
function text(data) {
  const runs = [];
  data.tokens.forEach(([piece, learnt], i) => {
    const token = element("span", { className: "piece", title: `token ${i + 1}${learnt ? ", learnt" : ", read only"}` }, shown.tokens ? piece.replaceAll("\n", "⏎\n") : piece);
    const last = runs.at(-1);
    if (last && last.learnt === learnt) last.node.append(token);
    else runs.push({ learnt, node: element(learnt ? "mark" : "span", { className: learnt ? "learnt" : "unlearnt" }, token) });
  });
  return runs.map((run) => run.node);
}

function legend(data) {
  const learnt = data.tokens.filter(([, one]) => one).length;
  return element(
    "p",
    { className: "row-legend soft" },
    element("span", {}, element("mark", { className: "learnt" }, "learnt"), ` ${learnt.toLocaleString()} tokens`),
    element("span", {}, `read only ${(data.tokens.length - learnt).toLocaleString()}`),
    data.template ? element("span", { className: "row-template" }, templateWord(data.template)) : null,
    data.note ? element("span", { className: "warning" }, data.note) : null,
  );
}

/** "own: The model brings its own." as a reader has it. */
function templateWord(template) {
  const [key, reason] = [template.split(":")[0], template.slice(template.indexOf(":") + 1).trim()];
  return key === "own" ? "Chat template: the model's own" : `Chat template: ${key}. ${reason}`;
}

// -- the set as a whole -------------------------------------------------------------------

function drawLint() {
  const place = byId("lint-view");
  const data = shown.lint;
  place.classList.toggle("asked", ready());
  if (!ready()) return place.replaceChildren();
  if (!data) return place.replaceChildren(element("p", { className: "soft" }, "Counting its tokens…"));
  if (data.fault) {
    // The row says it already where both stumble over the same thing.
    return place.replaceChildren(...(shown.rows?.fault === data.fault ? [] : [element("p", { className: "fault", role: "status" }, data.fault)]));
  }
  const facts = [`${data.examples.toLocaleString()} rows`, `${data.tokens.toLocaleString()} tokens`, `longest ${data.longest.toLocaleString()}`, `${percent(data.truncated)} cut at ${[get("cutoff_len")].flat()[0].toLocaleString()}`];
  if (data.evaluation) facts.push(`${data.evaluation.toLocaleString()} rows to evaluate on`);
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.kind));
  return place.replaceChildren(
    element("p", { className: "lint-facts" }, ...facts.map((fact) => element("span", {}, fact))),
    data.sampled ? element("p", { className: "soft" }, data.sampled) : "",
    data.tokens ? shares(data) : "",
    element("h3", {}, "Found in the rows"),
    data.findings.length ? element("div", { className: "findings" }, ...data.findings.map((one) => finding(one, open))) : element("p", { className: "soft" }, "Nothing is wrong with them."),
  );
}

/** The share of computed tokens that are real, by how rows are put into batches. */
function shares(data) {
  const lines = Object.entries(data.shares).flatMap(([mode, share]) => {
    const id = `share-${mode}`;
    const pick = element("input", { type: "radio", name: "batching", id, value: mode, checked: [get("batching")].flat()[0] === mode });
    pick.onchange = () => set("batching", mode);
    const meter = element("div", { className: "share", role: "meter", "aria-label": `Real tokens, ${mode}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100) }, element("span"));
    meter.firstChild.style.width = `${share * 100}%`;
    return [element("span", { className: "share-name" }, pick, element("label", { htmlFor: id }, mode)), meter, element("span", { className: "share-figure" }, percent(share))];
  });
  return element("fieldset", { className: "shares" }, element("legend", {}, "Real tokens in a batch; the rest is padding"), ...lines);
}

function percent(share) {
  const value = share * 100;
  return `${value && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

function finding(one, open) {
  const name = KINDS[one.kind] ?? one.kind;
  const more = one.count - one.rows.length;
  const lines = one.rows.map((text) => element("li", {}, text));
  if (more > 0) lines.push(element("li", { className: "soft" }, `and ${more.toLocaleString()} more`));
  return element("details", { "data-kind": one.kind, open: open.has(one.kind) }, element("summary", {}, element("b", {}, one.count.toLocaleString()), ` ${name}`), element("ul", {}, ...lines));
}

// -- the questions ------------------------------------------------------------------------

/** What is computed at once: a pack or the longest row, and how many of them an epoch has. */
export function workload() {
  if (!shown.lint?.tokens) return {};
  const [length, batching] = [get("cutoff_len"), get("batching")].map((one) => [one].flat()[0]);
  if (batching === "packed") return { tokens: length, units: Math.ceil(shown.lint.tokens / length) };
  return { tokens: Math.min(length, shown.lint.longest), units: shown.lint.examples };
}

/** Why nothing can be learnt from the data as it is; empty where something can. */
export function dataFault() {
  if (!ready() || !shown.lint) return "";
  return shown.lint.fault ?? (shown.lint.examples ? "" : "No row of the data can be learnt; what is found in the rows says why.");
}

/** What the steps at the top say of the data. */
export function dataWord() {
  const count = sources().length;
  if (!count) return "none chosen";
  const sets = `${count} ${count === 1 ? "set" : "sets"}`;
  return shown.lint?.examples ? `${sets} · ${shown.lint.examples.toLocaleString()} rows` : sets;
}

present("row-view").then((place) => {
  rows = new Live({
    place,
    path: "training/preview",
    question: () => (ready() ? { config: config(), index: shown.index } : null),
    show: (data) => {
      shown.rows = data?.fault ? { ...data, total: shown.rows?.total ?? 0, index: shown.index } : data;
      if (data && !data.fault) shown.index = data.index;
      drawRow();
    },
  });
  lint = new Live({
    // The plan and the start need the answer, whichever step one looks at.
    place: document.querySelector(".training-steps"),
    path: "training/lint",
    question: () => (ready() ? { config: config() } : null),
    show: (data) => ((shown.lint = data), drawLint(), document.dispatchEvent(new Event("training-lint"))),
    wait: 500,
  });
  drawRow();
});
onDraft(() => {
  if (!rows) return;
  const key = JSON.stringify([sources(), sources("eval_datasets")]);
  const others = key !== shown.key;
  if (others) Object.assign(shown, { lint: null, index: shown.key ? 0 : shown.index });
  shown.key = key;
  if (!ready()) shown.rows = null;
  drawRow();
  drawLint();
  // A question that somebody asked before this was heard of may have been answered already.
  if (ready()) rows.touch();
  else rows.again();
  if (others) lint.again();
  else lint.touch();
});
