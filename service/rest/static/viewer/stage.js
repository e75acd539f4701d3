// One clip with the masks of its answer drawn over it.

import { drawFrame } from "../masks/paint.js";

export class Stage {
  /** `figure` holds a video, a canvas, a caption and the note for clips that the browser cannot show (`onBlind`). */
  constructor(figure, onBlind = () => {}) {
    Object.assign(this, { figure, onBlind });
    this.video = figure.querySelector("video");
    this.canvas = figure.querySelector("canvas");
    this.note = figure.querySelector(".blind");
    this.result = null;
    this.drawn = null;
    this.manualTime = 0; // where there is no picture to play
    this.video.addEventListener("click", () => this.toggle());
    this.video.addEventListener("error", () => this.result && this.#setBlind(true));
    this.video.addEventListener("loadedmetadata", () => {
      const { videoWidth, videoHeight } = this.video;
      if (!videoWidth) this.#setBlind(true);
      else this.#shape(videoWidth, videoHeight);
    });
  }

  get isBlind() { return !this.note.hidden; }
  get time() { return this.isBlind ? this.manualTime : this.video.currentTime; }
  set time(seconds) {
    this.manualTime = seconds;
    if (!this.isBlind) this.video.currentTime = seconds;
  }

  get duration() { return this.video.duration || this.result?.duration || 0; }
  get index() { return this.result ? this.result.sampleAt(this.time) : -1; }
  get frame() { return this.result?.frames[this.index] ?? null; }

  /** Play or pause. */
  toggle() {
    if (this.isBlind) return;
    this.video.paused ? this.video.play().catch(() => {}) : this.video.pause();
  }

  show(result) {
    if (result === this.result) return;
    const isOtherFile = result?.file !== this.result?.file;
    this.result = result;
    this.redraw();
    this.figure.hidden = !result;
    if (!result || !isOtherFile) return;
    this.#setBlind(false);
    this.manualTime = 0;
    this.video.src = result.url;
  }

  /** Draw again at the next `draw`, also if the frame is the same. */
  redraw() { this.drawn = null; }

  /** Draw the frame of now, if it is not drawn yet; returns whether something changed. */
  draw(view, isShown) {
    const { result, frame } = this;
    const state = `${this.index} ${view} ${this.isBlind}`;
    if (!result?.clip || this.drawn === state) return false;
    this.drawn = state;
    const { width, height } = result.clip;
    if (this.isBlind) this.#shape(width, height);
    drawFrame(this.canvas, frame, { labels: result.labels, view, isShown, size: { width, height } });
    return true;
  }

  /** Play what `leader` plays, at its time. */
  follow(leader) {
    if (this.figure.hidden) return;
    if (this.isBlind || leader.isBlind) {
      this.time = leader.time;
      return;
    }
    const { video } = this;
    if (Math.abs(video.currentTime - leader.video.currentTime) > (leader.video.paused ? 0.01 : 0.15) && !video.seeking) {
      video.currentTime = leader.video.currentTime;
    }
    if (leader.video.paused !== video.paused) leader.video.paused ? video.pause() : video.play().catch(() => {});
  }

  #shape(width, height) { this.figure.style.setProperty("--ratio", width / height); }

  #setBlind(isBlind) {
    this.note.hidden = !isBlind;
    this.figure.classList.toggle("blind-picture", isBlind);
    this.redraw();
    this.onBlind();
  }
}
