// What a load will cost: a bar for each device, its figures in words, and ways out of a refusal.

import { gigabytes } from "./figures.js";
import { element } from "./net.js";

/** `choose` is given the option fields that a pressed way out sets. */
export function drawPlan(place, plan, choose) {
  if (plan.problem) {
    place.replaceChildren(element("p", { className: "plan-refusal", role: "status" }, `${plan.problem} ${plan.remedy}`));
    return;
  }
  const parts = plan.devices.map(device);
  if (plan.cache) parts.push(element("p", { className: "soft" }, plan.cache));
  if (plan.message) {
    const ways = plan.choices.map((choice) => {
      const button = element("button", { type: "button" }, choice.label);
      button.onclick = () => choose(choice.changes);
      return button;
    });
    parts.push(element("div", { className: "plan-refusal", role: "status" }, element("p", {}, plan.message), ...(ways.length ? [element("div", { className: "ways" }, ...ways)] : [])));
  }
  for (const note of plan.notes) parts.push(element("p", { className: "soft" }, note));
  place.replaceChildren(...parts);
}

function device(one) {
  const over = one.used - one.capacity;
  const whole = Math.max(one.used, one.capacity, 1);
  const sum = `${gigabytes(one.used)} of ${gigabytes(one.capacity)}`;
  const bar = element("div", {
    className: `plan-bar${over > 0 ? " over" : ""}`,
    role: "meter",
    "aria-label": one.name,
    "aria-valuemin": 0,
    "aria-valuemax": one.capacity,
    "aria-valuenow": Math.min(one.used, one.capacity),
    "aria-valuetext": over > 0 ? `${sum}, ${gigabytes(over)} too much` : sum,
  });
  const legend = element("ul", { className: "plan-legend" });
  for (const part of one.parts.filter((part) => part.bytes)) {
    const segment = element("span", { className: part.key });
    segment.style.width = `${(100 * part.bytes) / whole}%`;
    bar.append(segment);
    legend.append(element("li", { className: part.key }, element("span", { className: "soft" }, part.label), gigabytes(part.bytes)));
  }
  if (over > 0) {
    const edge = element("span", { className: "edge" });
    edge.style.left = `${(100 * one.capacity) / whole}%`;
    bar.append(edge);
    legend.append(element("li", { className: "too-much" }, element("span", {}, "Too much by"), gigabytes(over)));
  } else {
    legend.append(element("li", { className: "free" }, element("span", { className: "soft" }, "Free"), gigabytes(-over)));
  }
  const name = element("span", {}, one.name, element("span", { className: "soft" }, one.device.startsWith("cuda") ? ` ${one.device}` : ""));
  return element("div", { className: "plan-device" }, element("div", { className: "plan-head" }, name, element("span", {}, sum)), bar, legend);
}
