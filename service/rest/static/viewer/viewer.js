// Shows one answer, or two side by side: pictures, legend, time line, events, downloads.

import { css, keyOf } from "../masks/colours.js";
import { FORMATS, download } from "../clips/download.js";
import { Legend } from "../masks/legend.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { peaksOf } from "./waveform.js";
import { plainWords, seconds } from "../words.js";

const byId = (id) => document.getElementById(id);

export class Viewer {
  /** `say(text, isError)` shows a message; `headers()` returns the headers of requests; `onBlind()` is called if a clip cannot be shown. */
  constructor({ say, headers, onBlind }) {
    Object.assign(this, { say, headers, view: "fill" });
    this.stage = new Stage(byId("stage"), onBlind);
    this.other = new Stage(byId("stage-b"));
    this.legend = new Legend(byId("legend"), () => this.refresh());
    this.timeline = new Timeline(byId("timeline"), this.stage, this.legend.isShown);
    this.peaks = new WeakMap(); // by file
    byId("format").append(...FORMATS.map(([name, title]) => new Option(title, name)));
    byId("download").addEventListener("click", () => this.#download());
    byId("views").addEventListener("change", (event) => { this.view = event.target.value; this.refresh(); });
    byId("curves").addEventListener("change", (event) => { this.timeline.curve = event.target.value; this.refresh(); });
    byId("play").addEventListener("click", () => this.stage.toggle());
    for (const kind of ["play", "pause"]) {
      this.stage.video.addEventListener(kind, () => { byId("play").textContent = this.stage.video.paused ? "Play" : "Pause"; });
    }
    byId("sound").addEventListener("click", () => {
      this.stage.video.muted = !this.stage.video.muted;
      byId("sound").setAttribute("aria-pressed", String(!this.stage.video.muted));
    });
    byId("zoom-in").addEventListener("click", () => this.timeline.zoomBy(2));
    byId("zoom-out").addEventListener("click", () => this.timeline.zoomBy(0.5));
    byId("zoom-all").addEventListener("click", () => this.timeline.zoomBy(0));
    const tick = () => { this.#tick(); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
  }

  get result() { return this.stage.result; }

  /** Show an answer; null closes the viewer. */
  show(result) {
    byId("viewer").hidden = !result;
    if (result !== this.result) {
      this.legend.clear();
      this.stage.show(result);
      this.compare(null);
      this.timeline.reset();
      if (result) this.#loadPeaks(result);
    }
    this.refresh();
  }

  /** Show another answer beside; null for none. */
  compare(other) {
    this.other.show(other);
    this.refresh();
  }

  /** Something about the shown answers changed. */
  refresh() {
    for (const { result } of [this.stage, this.other]) {
      for (const frame of result?.frames ?? []) this.legend.add(frame.masks, result.labels);
    }
    this.stage.redraw();
    this.other.redraw();
    this.timeline.isDirty = true;
    this.#name();
    this.#listEvents();
    byId("links").hidden = this.result?.state !== "done";
  }

  #tick() {
    if (byId("viewer").hidden) return;
    this.other.follow(this.stage);
    if (this.stage.draw(this.view, this.legend.isShown)) this.legend.mark(this.stage.frame);
    this.other.draw(this.view, this.legend.isShown);
    this.timeline.draw();
    byId("play").disabled = this.stage.isBlind;
    const clock = `${seconds(this.stage.time)} of ${seconds(this.stage.duration)}`;
    if (byId("clock").textContent !== clock) byId("clock").textContent = clock;
  }

  #name() {
    for (const stage of [this.stage, this.other]) {
      const name = this.other.result && stage.result ? `${stage.result.name}: ${stage.result.settings}` : "";
      stage.figure.querySelector(".name").textContent = name;
    }
  }

  async #loadPeaks(result) {
    const { file } = result;
    if (!this.peaks.has(file)) this.peaks.set(file, peaksOf(file));
    const peaks = await this.peaks.get(file);
    if (this.result === result) Object.assign(this.timeline, { peaks, isDirty: true });
  }

  #listEvents() {
    const { result } = this;
    const list = byId("events");
    if (list.result === result && list.childElementCount === (result?.events.length ?? 0)) return;
    list.result = result;
    byId("num-events").textContent = `(${result?.events.length ?? 0})`;
    list.replaceChildren(...(result?.events ?? []).map((event) => {
      const entry = document.createElement("li");
      const text = `${keyOf(event)}, ${seconds(event.start_s)} to ${seconds(event.end_s)}`;
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.style.borderLeft = `.4rem solid ${css(event, result.labels)}`;
      button.addEventListener("click", () => { this.stage.time = event.start_s; });
      entry.append(button);
      return entry;
    }));
  }

  async #download() {
    const button = byId("download");
    button.disabled = true;
    this.say("Preparing the file …");
    try {
      this.say(`Saved ${await download(this.result, byId("format").value, this.headers())}.`);
    } catch (problem) {
      this.say(plainWords(problem), true);
    } finally {
      button.disabled = false;
    }
  }
}
