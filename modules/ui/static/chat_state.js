// The open chat: which it is, what is told when it changes, and what buttons do in it.

import { post } from "./net.js";

/** `fresh` is what a chat that is not made yet will be made with. */
export const state = { chat: 0, chats: [], head: null, window: 60, stick: true, fresh: {} };
export const byId = (id) => document.getElementById(id);

/** What [data-act] buttons do: called with the button and the { chat, message } it stands in. */
export const acts = {};

const opened = [];
const heads = [];

/** Have `listener` called each time another chat is opened; its id is 0 before it is made. */
export const onOpen = (listener) => opened.push(listener);

/** Have `listener` called with the head of the open chat each time that changes. */
export const onHead = (listener) => heads.push(listener);

export function openChat(id) {
  Object.assign(state, { chat: id, head: null, window: 60, stick: true, fresh: {} });
  const url = new URL(location);
  if (id) url.searchParams.set("chat", id);
  else url.searchParams.delete("chat");
  history.replaceState(null, "", url);
  opened.forEach((listener) => listener(id));
  if (!id) tellHead({ title: "", system: "", adapters: null, mode: "instruct", character: "", busy: false, order: [] });
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
  localStorage.removeItem(draftKey());
  openChat(made.id);
  byId("composer-text").value = text;
  return made.id;
}

export const draftKey = () => `lantern-draft-${state.chat}`;
export const withValues = () => ({ values: window.lanternParams.values });
export const actOn = (message, what, body = {}) => post(`chats/${state.chat}/messages/${message}/${what}`, body);
