// Downloads: look first, then fetch; every tab shows how far they are.

import { gigabytes } from "./figures.js";
import { element, post, working } from "./net.js";

const byId = (id) => document.getElementById(id);
const SHOWN_FILES = 8;

export function beginDownloads() {
  byId("download-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const model = byId("download-name").value.trim();
    if (model) look(model);
    else byId("download-name").focus();
  });
}

async function look(model) {
  const button = byId("download-look");
  const place = byId("download-listing");
  const back = working(button, "Looking…");
  const fault = (text) => place.replaceChildren(element("p", { className: "fault" }, text));
  const found = await post("downloads/look", { model }, fault);
  back();
  if (found) place.replaceChildren(listing(found));
  return found;
}

function listing(found) {
  const files = found.files.map(([path, size]) => element("li", {}, element("span", {}, path), element("span", { className: "soft" }, gigabytes(size))));
  const left = found.left_out.map(([path, why]) => element("li", {}, element("span", {}, path), element("span", { className: "soft" }, why)));
  const there = found.present ? `, ${gigabytes(found.present)} of it there already` : "";
  const start = element("button", { type: "button", className: "primary", disabled: !found.enough }, "Download");
  start.onclick = async () => {
    const back = working(start, "Starting…");
    const fault = (text) => byId("download-listing").append(element("p", { className: "fault" }, text));
    if (await post("downloads", { model: found.model, revision: found.revision }, fault)) byId("download-listing").replaceChildren();
    else back();
  };
  const free = found.enough ? `${gigabytes(found.free)} free on the disk` : `Only ${gigabytes(found.free)} free on the disk: make room first`;
  return element(
    "div",
    { className: "listing" },
    element("p", {}, element("strong", {}, `${gigabytes(found.total)} in ${files.length} ${files.length === 1 ? "file" : "files"}`), `, a ${found.kind}${there}. It goes to ${found.folder}.`),
    folded(files, "more files"),
    left.length ? element("details", {}, element("summary", {}, `${left.length} left out`), element("ul", { className: "file-list" }, ...left)) : null,
    element("div", { className: "listing-end" }, start, element("span", { className: found.enough ? "soft" : "fault" }, free)),
  );
}

function folded(rows, more) {
  const list = element("ul", { className: "file-list" }, ...rows.slice(0, SHOWN_FILES));
  if (rows.length <= SHOWN_FILES) return list;
  const rest = element("ul", { className: "file-list" }, ...rows.slice(SHOWN_FILES));
  return element("div", {}, list, element("details", {}, element("summary", {}, `${rows.length - SHOWN_FILES} ${more}`), rest));
}

// -- what runs, and what ended ----------------------------------------------------------

const drawn = new Map();

export function drawDownloads(downloads) {
  const place = byId("download-jobs");
  for (const [id, node] of drawn) if (!downloads.some((one) => one.id === id)) (node.remove(), drawn.delete(id));
  for (const one of downloads) {
    const old = drawn.get(one.id);
    if (old?.dataset.state === one.state && old.querySelector("progress")) follow(old, one);
    else {
      const fresh = build(one);
      if (old) old.replaceWith(fresh);
      else place.prepend(fresh);
      drawn.set(one.id, fresh);
    }
  }
}

function build(one) {
  const node = element("div", { className: "download", "data-state": one.state });
  node.append(element("strong", {}, one.model));
  if (["queued", "running", "paused"].includes(one.state)) {
    const paused = one.state === "paused";
    const rest = act(paused ? "Resume" : "Pause", paused ? "Resuming…" : "Pausing…", () => post(`jobs/${one.id}/pause`, { paused: !paused }));
    const cancel = act("Cancel", "Cancelling…", () => post(`jobs/${one.id}/cancel`));
    node.append(element("progress", { max: 1000, ariaLabel: `Download of ${one.model}` }), element("span", { className: "soft figures" }), element("span", { className: "download-acts" }, rest, cancel));
    follow(node, one);
    return node;
  }
  const dismiss = act("Dismiss", "…", () => post(`jobs/${one.id}/forget`));
  if (one.state === "done") {
    node.append(element("span", { className: "soft figures" }, "Done, and verified. It is in the list."), element("span", { className: "download-acts" }, dismiss));
    return node;
  }
  const again = act("Look again, and go on", "Looking…", async () => {
    byId("download-name").value = one.model;
    return (await look(one.model)) && post(`jobs/${one.id}/forget`);
  });
  node.append(
    element("span", { className: "fault figures" }, one.error),
    element("span", { className: "download-acts" }, again, dismiss),
    one.missing.length ? element("ul", { className: "file-list" }, ...one.missing.map(([path, why]) => element("li", {}, element("span", {}, path), element("span", { className: "soft" }, why)))) : "",
  );
  return node;
}

function follow(node, one) {
  const percent = Math.floor(one.fraction * 100);
  node.querySelector("progress").value = one.fraction * 1000;
  node.querySelector(".figures").textContent = [one.state === "paused" ? "Paused" : one.stage, `${percent} %`, one.details].filter(Boolean).join(" · ");
}

function act(word, meanwhile, what) {
  const button = element("button", { type: "button", className: "quiet" }, word);
  button.onclick = async () => {
    const back = working(button, meanwhile);
    if (!(await what())) back();
  };
  return button;
}
