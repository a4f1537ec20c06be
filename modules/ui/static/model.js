// The Model tab: the list of models at the left, the chosen one at the right.

import { drawAdapters, refreshAdapters } from "./adapters.js";
import { beginDownloads, drawDownloads } from "./downloads.js";
import { ModelCard } from "./model_card.js";
import { element, get, post, present, redraw, working } from "./net.js";

const tab = { update: null, job: null, models: null, starter: "", server: "", selected: "", shown: false, seen: "" };
let card = null;
const byId = (id) => document.getElementById(id);

/** What the server says of the engine, the jobs and the downloads. */
export function drawModelTab(update) {
  tab.update = update;
  if (card) draw();
}

function draw() {
  const { engine, jobs, downloads } = tab.update;
  byId("model-guest").hidden = engine.admin;
  byId("model-owner").hidden = !engine.admin;
  if (!engine.admin || !tab.shown) return;
  tab.job = jobs.find((job) => job.kind !== "download" && ["queued", "running"].includes(job.state)) ?? null;
  // A model that was loaded or fetched may be new in the list, and what is free has changed.
  const seen = JSON.stringify([engine.phase, engine.loaded, downloads.filter((one) => one.state === "done").map((one) => one.id)]);
  if (seen !== tab.seen) refresh();
  tab.seen = seen;
  drawRows();
  card.follow(engine, tab.job);
  drawAdapters(engine);
  drawDownloads(downloads);
}

async function refresh() {
  const found = await get("models");
  if (!found) return;
  tab.models = found.models.toSorted((a, b) => Boolean(a.problem) - Boolean(b.problem));
  tab.starter = found.starter;
  tab.server = found.server ?? "";
  if (!tab.models.some((one) => one.name === tab.selected)) {
    const loaded = tab.models.find((one) => one.name === tab.update.engine.loaded);
    const first = loaded ?? tab.models.find((one) => !one.problem) ?? tab.models[0];
    tab.selected = first?.name ?? "";
  }
  drawRows();
  showSelected();
  await card.show(tab.selected);
}

function drawRows() {
  if (!tab.models) return;
  const { loaded } = tab.update.engine;
  redraw(byId("model-rows"), [tab.models, tab.selected, loaded], ...tab.models.map(row));
  const fetching = tab.job?.title.startsWith("Fetching") ?? false;
  const fetch = element("button", { type: "button", disabled: fetching }, fetching ? "Fetching the starter…" : "Fetch the starter");
  fetch.onclick = async () => {
    const back = working(fetch, "Fetching the starter…");
    if (!(await post("models/starter"))) back();
  };
  redraw(
    byId("model-list-end"),
    [tab.models.length, tab.starter, tab.server, fetching],
    ...(tab.server || !tab.models.length ? [element("p", { className: "soft" }, tab.server || "models/ is empty.")] : []),
    ...(tab.starter ? [fetch, element("p", { className: "soft" }, tab.starter)] : []),
  );
}

/** The list scrolls by itself; the page does not. */
function showSelected() {
  const rows = byId("model-rows");
  const chosen = rows.querySelector("[aria-current=true]");
  if (!chosen) return;
  const [list, it] = [rows.getBoundingClientRect(), chosen.getBoundingClientRect()];
  if (it.top < list.top || it.bottom > list.bottom) rows.scrollTop += it.top - list.top;
}

function row(model) {
  const loaded = model.name === tab.update.engine.loaded;
  const word = loaded ? "loaded" : model.problem ? model.problem : { true: "fits", false: "does not fit" }[model.fits] ?? "";
  const state = loaded ? "loaded" : model.problem ? "broken" : { true: "fits", false: "large" }[model.fits];
  const button = element(
    "button",
    { type: "button", className: "model-row", "aria-current": String(model.name === tab.selected) },
    element("span", { className: "model-row-name" }, model.name),
    element(
      "span",
      { className: "model-row-about" },
      element("span", {}, [model.kind, model.size].filter(Boolean).join(" · ")),
      word ? element("span", { className: `word ${state}` }, word) : null,
    ),
  );
  button.onclick = () => {
    tab.selected = model.name;
    drawRows();
    card.show(model.name);
  };
  return element("li", { "data-name": model.name }, button);
}

async function begin() {
  await present("model-card");
  card = new ModelCard(byId("model-card"));
  for (const [id, look] of [["model-refresh", refresh], ["adapters-refresh", refreshAdapters]])
    byId(id).onclick = async () => {
      const back = working(byId(id), "Looking…");
      await look();
      back();
    };
  beginDownloads();
  // Nothing is asked for before somebody looks; each opening looks anew.
  new IntersectionObserver(([entry]) => {
    tab.shown = entry.isIntersecting;
    if (!tab.shown || !tab.update) return;
    tab.seen = "";
    draw();
  }).observe(byId("model-tab"));
}

begin();
