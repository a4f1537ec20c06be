// The open chat: which it is, what is told when it changes, and what buttons do in it.

import { post } from "./net.js";

const WINDOW = 60;
const FIRST_INCOGNITO = 2 ** 40;

/** `fresh` is what a chat that is not made yet will be made with; `at` a message to
 *  scroll to; `beginning` is what replies start with; `reading` counts the files that
 *  are on their way. */
export const state = { chat: 0, chats: [], head: null, window: WINDOW, stick: true, fresh: {}, at: 0, beginning: "", reading: 0 };
export const byId = (id) => document.getElementById(id);

/** What [data-act] buttons do: called with the button and the { chat, message } it stands in. */
export const acts = {};

const opened = [];
const heads = [];

/** Have `listener` called each time another chat is opened; its id is 0 before it is made. */
export const onOpen = (listener) => opened.push(listener);

/** Have `listener` called with the head of the open chat each time that changes. */
export const onHead = (listener) => heads.push(listener);

/** Open a chat; with `at`, at this message, which is among the last `window`. */
export function openChat(id, { at = 0, window = WINDOW, fresh = {} } = {}) {
  Object.assign(state, { chat: id, head: null, window: Math.max(window, WINDOW), stick: !at, fresh, at });
  const url = new URL(location);
  if (id) url.searchParams.set("chat", id);
  else url.searchParams.delete("chat");
  history.replaceState(null, "", url);
  opened.forEach((listener) => listener(id));
  if (!id) tellHead({ title: "", system: "", adapters: null, mode: "instruct", character: "", busy: false, order: [], ...fresh });
}

export function tellHead(head) {
  state.head = head;
  heads.forEach((listener) => listener(head));
}

/** Make the chat if it is not made yet; what stands in the composer stays there. */
export async function ensureChat() {
  if (state.chat) return state.chat;
  const made = await post("chats", state.fresh);
  if (!made) return 0;
  const text = byId("composer-text").value;
  draft.drop();
  openChat(made.id);
  byId("composer-text").value = text;
  return made.id;
}

/** Whether the open chat, made or not, is one that reaches no disk. */
const incognito = () => state.chat >= FIRST_INCOGNITO || Boolean(state.fresh.incognito);

const inMemory = new Map();
const draftKey = () => `lantern-draft-${state.chat}`;

/** What is typed and not sent yet. */
export const draft = {
  get: () => (incognito() ? inMemory.get(state.chat) : localStorage.getItem(draftKey())) ?? "",
  keep: (text) => (incognito() ? inMemory.set(state.chat, text) : localStorage.setItem(draftKey(), text)),
  drop: () => (incognito() ? inMemory.delete(state.chat) : localStorage.removeItem(draftKey())),
};

export const withValues = () => ({ values: window.lanternParams.values, beginning: state.beginning });
export const actOn = (message, what, body = {}) => post(`chats/${state.chat}/messages/${message}/${what}`, body);
