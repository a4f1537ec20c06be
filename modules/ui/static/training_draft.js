// The run that is being put together: one mapping, as its YAML file has it, kept across reloads.

const KEPT = "lantern-training-draft";
const WAIT_MS = 150;

const listeners = [];
export const draft = { config: read(), knobs: {}, defaults: {} };

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {};
  }
}

/** Have `listener` called, a moment after anything of the draft changed. */
export function onDraft(listener) {
  listeners.push(listener);
}

/** What a setting stands at. */
export const get = (name) => draft.config[name] ?? draft.defaults[name];

/** Whether a setting differs from its default. */
export const changed = (name) => JSON.stringify(get(name)) !== JSON.stringify(draft.defaults[name]);

/** Set one setting; its default is not kept, so that the file stays short. */
export function set(name, value) {
  draft.config[name] = value;
  if (!changed(name)) delete draft.config[name];
  touch();
}

/** Take a whole mapping in the place of what was there. */
export function replace(config) {
  draft.config = structuredClone(config);
  touch();
}

/** The sets of a role, "datasets" or "eval_datasets", each as an object. */
export const sources = (role = "datasets") => (draft.config[role] ?? []).map((one) => (typeof one === "string" ? { path: one } : one));

export function setSources(role, list) {
  if (list.length) draft.config[role] = list;
  else delete draft.config[role];
  touch();
}

let waiting = 0;
function touch() {
  localStorage.setItem(KEPT, JSON.stringify(draft.config));
  clearTimeout(waiting);
  waiting = setTimeout(() => listeners.forEach((listener) => listener()), WAIT_MS);
}
