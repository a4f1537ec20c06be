// About a reply: what it was made of, its prompt, and the same made once more.

import { acts, onHead, state } from "./chat_state.js";
import { copy, element, get, post, say } from "./net.js";
import { button, openSheet } from "./dialogs.js";

let replay = null; // { chat, message, told, again }: the replay that is being written

acts.about = async (_, row) => {
  const chat = state.chat;
  const origin = await get(`chats/${chat}/messages/${row.message}/about`);
  if (!origin) return;
  if (origin.problem) return say(origin.problem);
  const told = element("div", { role: "status" });
  const again = button("Replay", "quiet", () => replayOf(row.message, told, again));
  again.title = "Another version, with the same parameters, seed and LoRAs";
  openSheet(
    "About this reply",
    [
      told,
      compared(origin.comparison),
      ...origin.differences.map((text) => element("p", { className: "composer-note" }, text)),
      element("dl", { className: "facts" }, ...facts(origin).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
      element("h3", {}, "Parameters"),
      parameters(origin.parameters),
      promptOf(row.message),
    ].filter(Boolean),
    [
      button("Copy as JSON", "quiet", () => copy(JSON.stringify(origin.about, null, 2))),
      button("Use these parameters", "quiet", () => use(origin.values)),
      again,
    ],
  );
};

function facts({ about, at, state: ending }) {
  const checkpoint = about.checkpoint ?? {};
  const built = [checkpoint.quantization !== "none" && checkpoint.quantization, checkpoint.dtype, checkpoint.device].filter(Boolean).join(", ");
  const endings = { stop: "by itself", length: "at the token limit", cancelled: "stopped by you" };
  const mode = { "chat-instruct": "Chat-instruct", chat: "Chat" }[about.mode];
  return [
    ["Model", `${about.model ?? "unknown"}${built ? ` (${built})` : ""}`],
    ["LoRAs", (about.adapters ?? []).map(([name, weight]) => `${name} at ${weight}`).join(", ")],
    ["Seed", about.seed === undefined ? "" : String(about.seed)],
    ["Template", about.template],
    ["Mode", mode],
    ["Character", about.character],
    ["System", about.system],
    ["Left out", about.dropped ? `${about.dropped} of the oldest turns` : ""],
    ["Tokens", about.prompt_tokens === undefined ? "" : `${about.prompt_tokens.toLocaleString()} in the prompt, ${about.completion_tokens.toLocaleString()} in the reply, of ${about.context.toLocaleString()}`],
    ["Ended", endings[about.finish_reason] ?? ending],
    ["Edited", about.edited ? "This text was changed by hand afterwards." : ""],
    ["Written", `${new Date(at * 1000).toLocaleString()}${about.lantern ? ` by Lantern ${about.lantern}` : ""}`],
  ].filter(([, value]) => value);
}

function parameters(altered) {
  const shown = (value) => (typeof value === "boolean" ? (value ? "on" : "off") : String(value) || "none");
  const rows = altered.flatMap(({ label, value, neutral }) => [
    element("dt", {}, label),
    element("dd", {}, shown(value), element("span", { className: "soft" }, ` neutral is ${shown(neutral)}`)),
  ]);
  const rest = altered.length ? "All others are neutral." : "All are neutral.";
  return element("div", {}, element("dl", { className: "facts" }, ...rows), element("p", { className: "soft" }, rest));
}

// -- the prompt -----------------------------------------------------------------------------

function promptOf(message) {
  const place = element("div", {});
  const details = element("details", {}, element("summary", {}, "The exact prompt"), place);
  details.ontoggle = async () => {
    if (!details.open || place.children.length) return;
    place.replaceChildren(element("p", { className: "soft" }, "Making it anew…"));
    const answer = await fetch(`page/chats/${state.chat}/messages/${message}/prompt`).catch(() => null);
    const data = (await answer?.json().catch(() => null)) ?? { message: "The server does not answer.", remedy: "" };
    if (!answer?.ok) return place.replaceChildren(element("p", { className: "composer-note" }, `${data.message} ${data.remedy}`));
    const verdict = {
      true: "This is what was sent, letter for letter.",
      false: "This is what would be sent now. It is not what was sent then: the messages before it, the model, its template or the character have changed.",
      null: "This is what would be sent now; what was sent then was not recorded.",
    }[data.same];
    place.replaceChildren(element("p", { className: data.same ? "soft" : "composer-note" }, `${verdict} ${data.tokens.toLocaleString()} tokens.`), element("pre", { className: "sheet-text" }, data.text));
  };
  return details;
}

// -- again ----------------------------------------------------------------------------------

function use(values) {
  const before = Object.fromEntries(window.lanternParams.facts.map((fact, i) => [fact.name, window.lanternParams.values[i]]));
  window.lanternParams.set(values);
  say("The parameters are those of the reply, its seed included.", "", () => window.lanternParams.set(before));
}

async function replayOf(message, told, again) {
  again.disabled = true;
  told.replaceChildren(element("p", { className: "composer-note" }, "Replaying…"));
  const chat = state.chat;
  const answer = await post(`chats/${chat}/messages/${message}/replay`, {}, (text) => told.replaceChildren(element("p", { className: "composer-note" }, text)));
  if (!answer) return void (again.disabled = false);
  replay = { chat, message: answer.message, told, again };
  finish();
}

/** Tell how the replay compares once it is written. */
async function finish() {
  const mine = replay;
  if (!mine || state.head?.busy || state.chat !== mine.chat) return;
  const origin = await get(`chats/${mine.chat}/messages/${mine.message}/about`);
  if (!origin?.comparison || replay !== mine) return; // it is still being written
  replay = null;
  mine.again.disabled = false;
  const failed = origin.state === "failed" && "The replay failed; the chat says why.";
  if (!mine.told.isConnected) say(failed || sentence(origin.comparison));
  else mine.told.replaceChildren(failed ? element("p", { className: "composer-note" }, failed) : compared(origin.comparison));
}

onHead(finish);

const sentence = ({ identical, at }) =>
  identical ? "The replay is identical to the original, letter for letter." : `The replay differs from the original from character ${(at + 1).toLocaleString()} on.`;

function compared(comparison) {
  if (!comparison) return null;
  const text = element("p", { className: comparison.identical ? "composer-note identical" : "composer-note" }, sentence(comparison));
  if (comparison.identical) return text;
  const side = (name, rest) => [element("dt", {}, name), element("dd", { className: "excerpt" }, comparison.before, element("mark", {}, rest || "(ends here)"))];
  return element("div", {}, text, element("dl", { className: "facts" }, ...side("Original", comparison.original), ...side("Replay", comparison.replay)));
}
