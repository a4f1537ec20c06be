// Keeping what a run made: its files, to read and to download, and whole models merged from it.

import { ask, button, openSheet } from "./dialogs.js";
import { gigabytes } from "./figures.js";
import { copy, element, get as fetchJson, post, redraw, say, working } from "./net.js";
import { load as takeYaml } from "./training_file.js";

const FILES = { config: ["Settings", "yaml"], card: ["Model card", "md"], manifest: ["Manifest", "json"], log: ["Log", "txt"] };

/** A file of the user's own, from a text. */
export function download(text, name) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Buttons that open the files of a run; the model card comes with its LoRA. */
export function fileButtons(run) {
  const there = Object.keys(FILES).filter((name) => name !== "card" || run.adapter);
  return there.map((name) => button(FILES[name][0], "quiet", () => open(run, name)));
}

async function open(run, name) {
  const found = await fetchJson(`training/runs/${encodeURIComponent(run.id)}/files/${name}`);
  if (!found) return;
  const [title, kind] = FILES[name];
  const acts = found.text ? [button("Copy", "quiet", () => copy(found.text)), button("Download", "quiet", () => download(found.text, `${name === "card" ? run.adapter : run.name}${name === "config" ? "" : `-${name}`}.${kind}`))] : [];
  if (name === "config") {
    const take = button("Use these settings", "quiet", async () => {
      const told = sheet.querySelector(".fault");
      if (await takeYaml(found.text, (text) => (told.textContent = text))) sheet.close();
    });
    acts.unshift(take);
  }
  const sheet = openSheet(`${title} of ${run.name}`, [element("pre", { className: "run-file" }, found.text || "There is nothing in it yet."), element("p", { className: "fault", role: "status" })], acts);
}

// -- whole models -------------------------------------------------------------------------

/** Ask for the name of a merged model and have it made; `about` is { run, step } or { lora }. */
export async function mergeDialog(pressed, about) {
  const back = working(pressed, "Looking…");
  const found = await post("training/merge/look", about);
  back();
  if (!found) return;
  const room = found.size > found.free ? `Only ${gigabytes(found.free)} are free: make room first.` : "";
  const cost = found.quantized ? " The base is quantized: it is turned into 16 bits, and the perplexity of both is measured and told." : "";
  const look = (text) => {
    if (found.taken.includes(text)) return { save: "Merge", told: `There is a models/${text} already; choose another name.` };
    return { save: "Merge", told: room || `A model of ${gigabytes(found.size)} from ${found.base} and the LoRA, which loads without either.${cost}` };
  };
  ask(`Merge ${found.title} into a model`, {
    label: "Name in models/",
    value: found.name,
    look,
    done: async (name, tell) => Boolean(await post("training/merge", { ...about, name }, tell)),
  });
}

const seen = new Map();

/** What is being merged and what came of it; tells in any tab when one has ended. */
export function drawMerges(place, merges, ended) {
  for (const one of merges) {
    const was = seen.get(one.id);
    seen.set(one.id, one.state);
    if (!was || was === one.state) continue;
    if (one.state === "done") {
      say(`models/${one.name} is there.`);
      ended();
    }
    if (one.state === "failed") say(one.error, "fault");
  }
  place.hidden = !merges.length;
  redraw(place, merges.map((one) => [one.id, one.state]), element("h3", {}, "Merged models"), ...merges.map(row));
  for (const one of merges.filter(({ state }) => state === "running")) follow(place.querySelector(`[data-merge="${one.id}"]`), one);
}

function row(one) {
  const node = element("div", { className: "merge", "data-merge": one.id }, element("strong", {}, one.title));
  if (["queued", "running"].includes(one.state)) {
    const cancel = button("Cancel", "quiet", () => (working(cancel, "Cancelling…"), post(`jobs/${one.id}/cancel`)));
    node.append(element("progress", { max: 1, value: 0, ariaLabel: one.title }), element("span", { className: "soft" }), cancel);
    return node;
  }
  const dismiss = button("Dismiss", "quiet", () => post(`jobs/${one.id}/forget`));
  if (one.state === "failed") {
    node.append(element("span", { className: "fault" }, one.error), dismiss);
    return node;
  }
  const load = button("Load it", "", async () => {
    const back = working(load, "Loading…");
    await post("models/load", { name: one.name });
    setTimeout(back, 1500); // the strip tells how far it is
  });
  load.ariaLabel = `Load ${one.name}`;
  node.append(element("span", { className: "soft" }, one.outcome), load, dismiss);
  return node;
}

function follow(node, one) {
  node.querySelector("progress").value = one.fraction;
  node.querySelector("span").textContent = [`${Math.floor(one.fraction * 100)} %`, one.stage].filter(Boolean).join(" · ");
}
