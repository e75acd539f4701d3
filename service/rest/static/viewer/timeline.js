// Waveform, events and a curve on one time line, which seeks, zooms and is read by screen readers as a slider.

import { byLabel, css, keyOf } from "../masks/colours.js";
import { PEAKS_PER_S } from "./waveform.js";
import { seconds } from "../words.js";

const WAVE_PX = 48;
const CURVE_PX = 56;
const ROW_PX = 14;
const GAP_PX = 8;
const MAX_ZOOM = 200;

export class Timeline {
  /** `stage.time` is read and set; `isShown(mask)` says whether a label is drawn. */
  constructor(canvas, stage, isShown) {
    Object.assign(this, { canvas, stage, isShown, peaks: null, curve: "area", from: 0, zoom: 1, isDirty: true });
    canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) this.#seekTo(event.offsetX); });
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    new ResizeObserver(() => { this.isDirty = true; }).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.isDirty = true; });
  }

  get #span() { return (this.stage.duration || 1) / this.zoom; }

  reset(peaks = null) { Object.assign(this, { peaks, from: 0, zoom: 1, isDirty: true }); }

  /** Zoom by a factor around a time; 0 shows everything. */
  zoomBy(factor, around = this.stage.time) {
    const share = (around - this.from) / this.#span;
    this.zoom = factor ? Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor)) : 1;
    this.#moveTo(around - share * this.#span);
  }

  /** Draw if something changed: the data, the zoom, the size or the time. */
  draw() {
    const { stage } = this;
    const time = stage.time;
    if (!this.isDirty && time === this.drawnTime) return;
    const isPlaying = !stage.video.paused && !stage.isBlind;
    if (isPlaying && this.zoom > 1 && (time < this.from || time > this.from + this.#span)) this.#moveTo(time - 0.05 * this.#span);
    Object.assign(this, { isDirty: false, drawnTime: time });
    this.#paint();
    this.#tell(time);
  }

  #moveTo(from) {
    this.from = Math.max(0, Math.min(from, (this.stage.duration || 1) - this.#span));
    this.isDirty = true;
  }

  #x(time) { return ((time - this.from) / this.#span) * this.canvas.clientWidth; }
  #seekTo(x) { this.#seek(this.from + (x / this.canvas.clientWidth) * this.#span); }

  #seek(time) {
    this.stage.time = Math.max(0, Math.min(time, this.stage.duration - 0.001));
    const { zoom, from } = this;
    if (zoom > 1 && (this.stage.time < from || this.stage.time > from + this.#span)) this.#moveTo(this.stage.time - this.#span / 2);
    this.isDirty = true;
  }

  #drag(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#seekTo(event.offsetX);
  }

  #onWheel(event) {
    if (!event.ctrlKey && !event.deltaX && !event.shiftKey) return; // the page scrolls
    event.preventDefault();
    if (event.ctrlKey) this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8, this.from + (event.offsetX / this.canvas.clientWidth) * this.#span);
    else this.#moveTo(this.from + ((event.deltaX || event.deltaY) / this.canvas.clientWidth) * this.#span);
  }

  #onKey(event) {
    const { stage } = this;
    const step = (sign) => {
      const next = stage.result?.frames[stage.index + sign];
      this.#seek(event.shiftKey || !next ? stage.time + sign : next.sample_time_s);
    };
    const keys = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1),
      Home: () => this.#seek(0), End: () => this.#seek(stage.duration),
      "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1 / 1.5),
      " ": () => stage.toggle(),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  /** What a screen reader reads. */
  #tell(time) {
    const { canvas, stage } = this;
    canvas.setAttribute("aria-valuemax", stage.duration.toFixed(2));
    canvas.setAttribute("aria-valuenow", time.toFixed(2));
    const heard = (stage.frame?.masks ?? []).filter(this.isShown).map(keyOf).join(", ");
    canvas.setAttribute("aria-valuetext", `${seconds(time)}: ${heard || "nothing sounds"}`);
  }

  #paint() {
    const { canvas, stage } = this;
    const rows = this.#rows();
    const height = WAVE_PX + CURVE_PX + rows.size * ROW_PX + 3 * GAP_PX;
    const ratio = devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    Object.assign(canvas, { width: Math.round(canvas.clientWidth * ratio), height: Math.round(height * ratio) });
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const ink = style.getPropertyValue("--soft"), line = style.getPropertyValue("--line"), accent = style.getPropertyValue("--accent");
    this.#paintWave(context, ink);
    this.#paintEvents(context, rows);
    context.save();
    context.translate(0, WAVE_PX + rows.size * ROW_PX + 2 * GAP_PX);
    this.#paintCurve(context, line);
    context.restore();
    context.fillStyle = accent;
    context.fillRect(this.#x(stage.time) - 1, 0, 2, height);
  }

  /** The labels and tracks that have events, each with its row. */
  #rows() {
    const { events = [], labels = [] } = this.stage.result ?? {};
    const sorted = [...events].sort(byLabel(labels));
    return new Map([...new Set(sorted.map(keyOf))].map((key, row) => [key, row]));
  }

  #paintWave(context, ink) {
    if (!this.peaks) return;
    const width = this.canvas.clientWidth;
    context.fillStyle = ink;
    for (let x = 0; x < width; x++) {
      const first = Math.floor((this.from + (x / width) * this.#span) * PEAKS_PER_S);
      const last = Math.max(first + 1, Math.floor((this.from + ((x + 1) / width) * this.#span) * PEAKS_PER_S));
      let peak = 0;
      for (let at = first; at < last && at < this.peaks.length; at++) peak = Math.max(peak, this.peaks[at]);
      const high = Math.max(1, peak * (WAVE_PX - 4));
      context.fillRect(x, GAP_PX / 2 + (WAVE_PX - high) / 2, 1, high);
    }
  }

  #paintEvents(context, rows) {
    const { result } = this.stage;
    for (const event of result?.events ?? []) {
      const left = this.#x(event.start_s);
      context.globalAlpha = this.isShown(event) ? 1 : 0.25;
      context.fillStyle = css(event, result.labels);
      const top = WAVE_PX + GAP_PX + rows.get(keyOf(event)) * ROW_PX;
      context.beginPath();
      context.roundRect(left, top, Math.max(2, this.#x(event.end_s) - left), ROW_PX - 3, 3);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  #paintCurve(context, line) {
    const { result } = this.stage;
    context.strokeStyle = line;
    context.strokeRect(-1, 0.5, this.canvas.clientWidth + 2, CURVE_PX - 1);
    if (!result?.clip) return;
    const area = result.clip.width * result.clip.height;
    const value = this.curve === "area" ? (mask) => mask.area / area : (mask) => mask.score;
    const shown = result.frames.map((frame) => frame.masks.filter(this.isShown));
    const most = this.curve === "area" ? Math.max(0.01, ...shown.map((masks) => Math.max(0, ...masks.map(value)))) : 1;
    const points = new Map();
    shown.forEach((masks, at) => masks.forEach((mask) => {
      const key = keyOf(mask);
      if (!points.has(key)) points.set(key, { mask, values: new Array(shown.length).fill(0) });
      points.get(key).values[at] = value(mask) / most;
    }));
    context.lineWidth = 2;
    for (const { mask, values } of points.values()) {
      context.strokeStyle = css(mask, result.labels);
      context.beginPath();
      values.forEach((height, at) => {
        const isStill = !height && !(values[at - 1] ?? 0); // a line along zero would hide other lines
        const point = [this.#x(result.frames[at].sample_time_s), CURVE_PX - 3 - height * (CURVE_PX - 8)];
        isStill ? context.moveTo(...point) : context.lineTo(...point);
      });
      context.stroke();
    }
  }
}
