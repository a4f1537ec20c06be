// The head of the open chat: its character, its mode, and what should be known of them.

import { acts, byId, onHead, onOpen, state, tellHead } from "./chat_state.js";
import { openMenu } from "./menu.js";
import { element, get, post, present } from "./net.js";
import { portrait } from "./picture_field.js";
import { preview } from "./composer.js";

const MODES = {
  instruct: ["Instruct", "Questions and answers, in the format that the model was trained on."],
  "chat-instruct": ["Chat-instruct", "An instruction model is shown the dialogue and asked for the next line: more in character."],
  chat: ["Chat", "A plain transcript that any model continues, also a base model without a chat template."],
};

let suggestion = { suggested: "", why: "" };

const modeOf = (head) => state.fresh.mode ?? head.mode;

onHead((head) => {
  const mode = modeOf(head);
  byId("mode-button").textContent = `${MODES[mode][0]} ▾`;
  drawCharacter(head);
  drawNote(head, mode);
});

function drawCharacter(head) {
  const button = byId("character-button");
  const key = state.chat ? "" : (state.fresh.character ?? "");
  const character = head.character?.name ? head.character : key ? { name: key, picture: "" } : null;
  button.hidden = Boolean(state.chat) && !character;
  button.title = character ? "Begin a chat with another character" : "Begin with a character";
  button.replaceChildren(...(character ? [portrait(character.picture, character.name, "avatar"), element("span", {}, character.name)] : ["Character ▾"]));
  button.setAttribute("aria-label", character ? `Character: ${character.name}` : "Choose a character");
}

function drawNote(head, mode) {
  const place = byId("chat-note");
  const fitting = !suggestion.suggested || mode === suggestion.suggested || head.order.length > 1;
  place.hidden = !head.character?.problem && fitting;
  if (head.character?.problem) return place.replaceChildren(head.character.problem);
  const use = element("button", { type: "button" }, `Use the mode ${MODES.chat[0]}`);
  use.onclick = () => setMode(suggestion.suggested);
  place.replaceChildren(suggestion.why, " ", use);
}

async function setMode(mode) {
  if (state.chat) return (await post(`chats/${state.chat}/mode`, { mode })) && preview();
  state.fresh.mode = mode;
  tellHead(state.head);
  preview();
}

acts.mode = (button) => {
  const chosen = modeOf(state.head);
  const items = Object.entries(MODES).map(([mode, [text, about]]) => ({
    text: mode === chosen ? `${text} ✓` : text,
    help: about,
    run: () => setMode(mode),
  }));
  openMenu(button, "How the model reads this chat", items);
};

async function ask() {
  if (document.body.dataset.engine !== "ready") return;
  suggestion = (await get("modes")) ?? suggestion;
  if (state.head) tellHead(state.head);
}

await present("mode-button");
const usual = (await present("usual-character")).textContent;
onOpen((id) => {
  if (!id && usual && state.fresh.character === undefined) state.fresh.character = usual;
});
new MutationObserver(ask).observe(document.body, { attributeFilter: ["data-engine"] });
ask();
