// A bar at each reply: keep it as a row to train on, edited or not, or rate it down.

if (!lantern.owner) return;

const { element } = lantern;
const bars = new Map(); // by the id of a message
let told = { rated: {}, rows: 0, pairs: 0, file: "" };
let asked = "";

const ratingOf = (id) => told.rated[id]?.rating ?? "";

lantern.onMessage((message, node) => {
  if (message.role !== "assistant" || ["streaming", "failed"].includes(message.state)) return;
  const bar = element("div", { className: "rate-bar", role: "group", "aria-label": "Rate this reply" });
  bars.set(message.id, { bar, message });
  node.querySelector("footer").before(bar);
  draw(message.id);
  look();
});
lantern.onOff(() => bars.clear());

/** Ask once for whatever is drawn at one time. */
function look() {
  if (asked) return;
  asked = "now";
  queueMicrotask(async () => {
    asked = "";
    if (lantern.chat) take(await lantern.call("look", { chat: String(lantern.chat) }));
  });
}

function take(found) {
  if (!found) return false;
  told = found;
  for (const [id, { bar }] of bars) {
    if (!bar.isConnected) bars.delete(id);
    else draw(id);
  }
  return true;
}

function draw(id) {
  const { bar } = bars.get(id);
  if (bar.querySelector(".rate-editor")) return;
  const rating = ratingOf(id);
  const edited = told.rated[id]?.edited;
  const button = (text, title, pressed, run, kind = "") => {
    const made = element("button", { type: "button", className: kind, title }, text);
    if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
    made.onclick = run;
    return made;
  };
  const up = rating === "up";
  const down = rating === "down";
  const words = up && edited ? "✓ Kept, edited" : up ? "✓ Kept" : "Keep";
  const key = JSON.stringify([rating, edited, told.rows, told.pairs, told.file]);
  if (bar.dataset.drawn === key) return;
  bar.dataset.drawn = key;
  const place = [...bar.querySelectorAll("button")].indexOf(document.activeElement);
  bar.replaceChildren(
    button(words, up ? "Take the row out again" : `Keep it as a row of ${told.file}`, up, () => rate(id, up ? "forget" : "keep"), "up"),
    button("Not", down ? "Rate it no longer" : "Rate it down: the other half of a pair", down, () => rate(id, down ? "forget" : "reject"), "down"),
    button("Edit and keep…", "Write what it should have said", null, () => edit(id)),
    count(button),
  );
  if (place >= 0) bar.querySelectorAll("button")[place]?.focus();
}

function count(button) {
  const plural = (number, word) => `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
  return element(
    "span",
    { className: "rate-count" },
    told.rows ? `${plural(told.rows, "row")} in ${told.file}` : "",
    told.pairs ? button(`Export ${plural(told.pairs, "pair")}`, "Write kept and rejected versions of the same messages as pairs", null, exportPairs) : null,
  );
}

async function rate(id, action, body = {}) {
  const before = told.rated[id];
  if (!take(await lantern.call(action, body, id))) return false;
  const words = { keep: `Kept: ${told.file} has ${told.rows.toLocaleString()} ${told.rows === 1 ? "row" : "rows"}.`, reject: "Rated down.", forget: "Taken out." };
  lantern.say(words[action], "", () => undo(id, before));
  return true;
}

async function undo(id, before) {
  const action = { up: "keep", down: "reject" }[before?.rating] ?? "forget";
  take(await lantern.call(action, before ? { row: before.row } : {}, id));
}

async function exportPairs() {
  const found = await lantern.call("export");
  if (found) lantern.say(`${found.pairs.toLocaleString()} ${found.pairs === 1 ? "pair" : "pairs"} in ${found.file}.`);
}

async function edit(id) {
  const { bar } = bars.get(id);
  const row = told.rated[id];
  const source = row?.rating === "up" ? row.row.messages.at(-1).content : (await lantern.text(id));
  if (source === null || bar.querySelector(".rate-editor")) return;
  const box = element("textarea", { value: source, ariaLabel: "What the row says" });
  const close = () => (editor.remove(), (bar.dataset.drawn = ""), draw(id));
  const save = async () => (await rate(id, "keep", { text: box.value })) && close();
  const button = (text, kind, run) => {
    const made = element("button", { type: "button", className: kind }, text);
    made.onclick = run;
    return made;
  };
  const editor = element("div", { className: "rate-editor" }, box, element("div", { className: "row-end" }, button("Cancel", "quiet", close), button("Keep", "primary", save)));
  box.onkeydown = (event) => {
    event.stopPropagation(); // Esc closes this, and stops no reply
    if (event.key === "Escape") close();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
  };
  bar.append(editor);
  box.style.height = `${Math.min(box.scrollHeight + 4, 480)}px`;
  box.focus();
}
