// Lines over steps, drawn as SVG: an axis with its unit, values on hover, linear or logarithmic.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 12, top: 10, bottom: 26 };

function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

/** A number as an axis or a label shows it. */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

/** Round values between two, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.9);
  const first = Math.ceil(low / step);
  const length = Math.min(4 * count, Math.max(0, Math.floor(high / step + 1e-6) - first + 1)) || 0;
  return Array.from({ length }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) for (const one of [1, 2, 5]) found.push(one * 10 ** power);
  const inside = found.filter((one) => one >= low * 0.999 && one <= high * 1.001);
  return inside.length > 1 ? inside : ticks(low, high, 4).filter((one) => one > 0);
}

/** A chart that fills the width of `place`. */
export class Chart {
  constructor(place, { label, unit = "", height = 240 }) {
    Object.assign(this, { place, label, unit, height, log: false, series: [], at: null });
    place.classList.add("chart");
    this.tip = document.createElement("div");
    this.tip.className = "chart-tip";
    this.tip.hidden = true;
    this.svg = shape("svg", { role: "img", height });
    place.replaceChildren(this.svg, this.tip);
    this.svg.addEventListener("pointermove", (event) => this.hover(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
    new ResizeObserver(() => this.render()).observe(place);
  }

  /**
   * `series` are { name, kind: "raw" | "line" | "dots", colour, points: [[step, value], …] };
   * `from` is the first step that counts for the height, so that a wild start hides nothing.
   */
  draw(series, { log = false } = {}) {
    this.series = series;
    this.log = log;
    this.render();
  }

  render() {
    const width = this.place.clientWidth;
    if (width < 60) return;
    const points = this.series.flatMap((one) => one.points).filter(([, y]) => Number.isFinite(y) && (!this.log || y > 0));
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.setAttribute("aria-label", this.words());
    if (!points.length) return this.svg.replaceChildren(shape("text", { x: width / 2, y: this.height / 2, "text-anchor": "middle", class: "chart-none" }, "Nothing to draw yet"));
    this.scale(points, width);
    const body = [...this.grid(width), ...this.series.flatMap((one) => this.line(one))];
    this.cross = shape("line", { class: "chart-cross", y1: MARGIN.top, y2: this.height - MARGIN.bottom, visibility: "hidden" });
    this.svg.replaceChildren(...body, this.cross);
    if (this.at !== null) this.hover(this.at);
    return undefined;
  }

  words() {
    const last = this.series.filter((one) => one.kind !== "raw" && one.points.length).map((one) => `${one.name} ${figure(one.points.at(-1)[1])} at step ${one.points.at(-1)[0]}`);
    return `${this.label}${last.length ? `: ${last.join(", ")}` : ""}`;
  }

  scale(points, width) {
    const steps = points.map(([x]) => x);
    const values = points.map(([, y]) => y).sort((a, b) => a - b);
    const [first, last] = [Math.min(...steps), Math.max(...steps, Math.min(...steps) + 1)];
    let [low, high] = [values[0], values.at(-1)];
    if (this.log) [low, high] = [low / 1.1, high * 1.1];
    else {
      const flat = high - low < 1e-6 * Math.abs(high); // what differs by rounding alone is a straight line
      const room = (flat ? Math.abs(high) : high - low || 1) * 0.06;
      [low, high] = [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
    }
    const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, this.height - MARGIN.bottom];
    const part = this.log ? (y) => Math.log(y / low) / Math.log(high / low) : (y) => (y - low) / (high - low);
    this.x = (step) => left + ((step - first) / (last - first)) * (right - left);
    this.y = (value) => bottom - part(value) * (bottom - top);
    Object.assign(this, { low, high, first, last });
  }

  grid(width) {
    const parts = [];
    const lines = this.log ? logTicks(this.low, this.high) : ticks(this.low, this.high, Math.max(3, Math.round(this.height / 55)));
    for (const value of lines) {
      const y = this.y(value);
      parts.push(shape("line", { class: "chart-grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      parts.push(shape("text", { class: "chart-tick", x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, figure(value)));
    }
    const bottom = this.height - MARGIN.bottom;
    for (const step of ticks(this.first, this.last, Math.max(3, Math.floor(width / 110))).filter(Number.isInteger)) {
      if (this.x(step) > width - 46) continue; // where the unit stands
      parts.push(shape("text", { class: "chart-tick", x: this.x(step), y: bottom + 17, "text-anchor": "middle" }, step.toLocaleString()));
    }
    parts.push(shape("text", { class: "chart-tick", x: width - MARGIN.right, y: bottom + 17, "text-anchor": "end" }, "steps"));
    return parts;
  }

  line({ kind, colour, points }) {
    const shown = points.filter(([, y]) => Number.isFinite(y) && (!this.log || y > 0));
    if (kind === "dots") {
      const path = shape("path", { class: `chart-line thin ${colour}`, d: this.path(shown) });
      return [path, ...shown.map(([x, y]) => shape("circle", { class: `chart-dot ${colour}`, cx: this.x(x), cy: this.y(y), r: 3.5 }))];
    }
    if (shown.length === 1) return [shape("circle", { class: `chart-dot ${colour} ${kind}`, cx: this.x(shown[0][0]), cy: this.y(shown[0][1]), r: 2.5 })];
    return [shape("path", { class: `chart-line ${kind} ${colour}`, d: this.path(shown) })];
  }

  path(points) {
    return points.map(([x, y], i) => `${i ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join("");
  }

  /** Show the values of the step at this place. */
  hover(at) {
    this.at = at;
    const steps = at === null || !this.x ? [] : this.series.flatMap((one) => one.points.map(([x]) => x));
    this.tip.hidden = !steps.length;
    this.cross?.setAttribute("visibility", steps.length ? "visible" : "hidden");
    if (!steps.length) return;
    const step = steps.reduce((near, x) => (Math.abs(this.x(x) - at) < Math.abs(this.x(near) - at) ? x : near));
    const found = this.series.map((one) => [one, nearest(one.points, step)]).filter(([one, point]) => point && (one.kind !== "dots" || point[0] === step));
    this.cross.setAttribute("x1", this.x(step));
    this.cross.setAttribute("x2", this.x(step));
    this.tip.replaceChildren(row("step", step.toLocaleString()), ...found.map(([one, point]) => row(one.name, `${figure(point[1])}${this.unit}`, one.colour)));
    const left = this.x(step) > this.place.clientWidth / 2;
    this.tip.style.left = left ? "" : `${this.x(step) + 12}px`;
    this.tip.style.right = left ? `${this.place.clientWidth - this.x(step) + 12}px` : "";
  }
}

function nearest(points, step) {
  const last = points.at(-1);
  if (!last || step > last[0] || step < points[0][0]) return null;
  return points.reduce((near, one) => (Math.abs(one[0] - step) < Math.abs(near[0] - step) ? one : near));
}

function row(name, value, colour = "") {
  const made = document.createElement("div");
  const label = document.createElement("span");
  label.className = colour ? `swatch ${colour}` : "";
  label.textContent = name;
  made.append(label, document.createTextNode(value));
  return made;
}

/** A loss curve the size of a word. */
export function sparkline(values) {
  const [width, height] = [84, 22];
  const svg = shape("svg", { width, height, class: "sparkline", "aria-hidden": "true" });
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (values.length < 2) return svg;
  const d = values.map((value, i) => `${i ? "L" : "M"}${(1 + (i / (values.length - 1)) * (width - 2)).toFixed(1)} ${(height - 2 - ((value - low) / (high - low || 1)) * (height - 4)).toFixed(1)}`).join("");
  svg.append(shape("path", { d, class: "chart-line line c0" }));
  return svg;
}
