// The report to paste into an issue.

import { byId } from "./chat_state.js";
import { copy, get, working } from "./net.js";

export async function drawReport() {
  const [text, again] = [byId("report-text"), byId("report-refresh")];
  again.onclick = drawReport;
  byId("report-copy").onclick = () => copy(text.textContent);
  text.ariaBusy = "true";
  text.textContent ||= "Looking at the machine…";
  const back = working(again, "Looking…");
  const found = await get("session/report");
  back();
  text.ariaBusy = "false";
  if (found) text.textContent = found.text;
}
