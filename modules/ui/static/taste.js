// How somebody likes the page: kept in their browser, and in effect at once.

const KEY = "lantern-taste";
const THEME = "lantern-theme";
const USUAL = { enter: "sends", figures: true, wide: false, size: "normal", sound: false };
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

function read() {
  try {
    return { ...USUAL, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return { ...USUAL }; // not of ours
  }
}

/** What is chosen now; change it by `choose`. */
export const taste = read();

/** Have `listener` called now, and whenever something is chosen. */
export function onTaste(listener) {
  listeners.push(listener);
  listener(taste);
}

export function choose(name, value) {
  taste[name] = value;
  localStorage.setItem(KEY, JSON.stringify(taste));
  listeners.forEach((listener) => listener(taste));
}

/** "light", "dark", or "system", which is what the system has. */
export const theme = () => localStorage.getItem(THEME) ?? "system";

export function chooseTheme(name) {
  if (name === "system") localStorage.removeItem(THEME);
  else localStorage.setItem(THEME, name);
  useTheme();
  listeners.forEach((listener) => listener(taste));
}

/** Ours is set before the first paint (modules/ui/app.py); gradio's own follows it. */
export function useTheme() {
  const name = theme() === "system" ? (dark.matches ? "dark" : "light") : theme();
  document.documentElement.dataset.theme = name;
  document.body.classList.toggle("dark", name === "dark");
}

/** Whether this press of Enter sends what is written; else it breaks the line. */
export function sends(event) {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return false;
  return event.shiftKey === (taste.enter === "breaks");
}

/** Two soft notes, for who looks elsewhere. */
export function chime() {
  try {
    const audio = new AudioContext();
    [[659, 0], [880, 0.14]].forEach(([pitch, at]) => {
      const [tone, volume] = [audio.createOscillator(), audio.createGain()];
      tone.frequency.value = pitch;
      const begin = audio.currentTime + at;
      volume.gain.setValueAtTime(0, begin);
      volume.gain.linearRampToValueAtTime(0.12, begin + 0.02);
      volume.gain.exponentialRampToValueAtTime(0.001, begin + 0.4);
      tone.connect(volume).connect(audio.destination);
      tone.start(begin);
      tone.stop(begin + 0.42);
    });
    setTimeout(() => audio.close(), 1200);
  } catch {
    // a browser without sound, or one that wants a click first
  }
}

dark.addEventListener("change", useTheme);
addEventListener("storage", (event) => {
  if (event.key === THEME) useTheme(); // chosen in another tab
  if (event.key !== KEY) return;
  Object.assign(taste, read());
  listeners.forEach((listener) => listener(taste));
});
onTaste(({ figures, wide, size }) => {
  Object.assign(document.documentElement.dataset, { figures: figures ? "on" : "off", wide: wide ? "on" : "off", size });
});
