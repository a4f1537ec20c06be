// A question that is asked again whenever something changes, while somebody sees the answer.

const all = new Set();

/** Whoever looks at a place sees the answer to the latest question, and no older one. */
export class Live {
  /**
   * `question` gives a body for the route `path`, or null where there is nothing to ask;
   * `context` gives what else the answer depends on. `show` is given the answer, null for no
   * question, or { fault } with the server's sentence.
   */
  constructor({ place, path, question, show, context = () => null, wait = 250 }) {
    Object.assign(this, { place, path, question, show, context, wait, seen: false, key: "", asked: null });
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen) this.touch();
    }).observe(place);
    all.add(this);
  }

  /** Something may have changed. */
  touch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), this.wait);
  }

  /** Whoever threw the answer away wants it anew, also where the question is the same. */
  again() {
    this.key = "";
    this.asked?.abort();
    this.touch();
  }

  async ask() {
    if (!this.seen || document.hidden) return;
    const body = this.question();
    const key = JSON.stringify([body, this.context()]);
    if (key === this.key) return;
    this.key = key;
    this.asked?.abort();
    this.asked = new AbortController();
    if (!body) return this.answer(null);
    this.place.ariaBusy = "true";
    try {
      const answer = await fetch(`page/${this.path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: this.asked.signal,
      });
      const data = await answer.json();
      if (key !== this.key) return;
      this.answer(answer.ok ? data : { fault: `${data.message} ${data.remedy}` });
    } catch {
      if (key !== this.key) return; // a newer question took its place
      this.key = "";
      this.answer({ fault: "The server does not answer." });
    }
  }

  answer(data) {
    this.place.ariaBusy = "false";
    this.show(data);
  }
}

document.addEventListener("visibilitychange", () => all.forEach((live) => live.touch()));
