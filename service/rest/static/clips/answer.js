// One clip and its answer: sends the upload, reads masks as they arrive. Fires "change" after every update.

import { plainWords } from "../words.js";

let numMade = 0;

export class Result extends EventTarget {
  /** `fields` are request options by name, as texts. */
  constructor(file, fields) {
    super();
    Object.assign(this, { id: ++numMade, file, fields, name: file.name });
    Object.assign(this, { state: "waiting", message: "Waiting", clip: null, labels: [], frames: [], events: [] });
    this.abort = new AbortController();
    this.url = URL.createObjectURL(file);
  }

  get isOver() { return ["done", "failed", "stopped"].includes(this.state); }

  /** 0 to 1, null while it is not known. */
  get progress() {
    const total = this.clip?.num_samples;
    return this.state === "done" ? 1 : total && this.frames.length ? this.frames.length / total : null;
  }

  get duration() {
    return this.clip?.duration_s ?? this.frames.at(-1)?.sample_time_s ?? 0;
  }

  /** What distinguishes this answer from others to the same clip. */
  get settings() {
    const { fps, threshold, labels, min_area, instances } = this.fields;
    const parts = [`${fps ?? 1} a second`];
    if (threshold) parts.push(`threshold ${threshold}`);
    if (labels) parts.push(labels);
    if (instances) parts.push("separate objects");
    if (min_area) parts.push(`${min_area} px or more`);
    return parts.join(", ");
  }

  query(more = {}) { return new URLSearchParams({ ...this.fields, ...more }); }

  async run(headers) {
    this.#is("running", "Uploading …");
    try {
      const answer = await fetch(segmentUrl(this.query()), {
        method: "POST",
        body: this.file,
        headers: { ...headers, "Content-Type": "video/mp4", Accept: "application/x-ndjson" },
        signal: this.abort.signal,
      });
      if (!answer.ok) throw await problemOf(answer);
      await this.#read(answer.body);
    } catch (problem) {
      if (problem?.name === "AbortError") this.#is("stopped", "Stopped");
      else {
        this.problem = problem;
        this.#is("failed", plainWords(problem));
      }
    }
  }

  stop() { this.abort.abort(); }

  forget() {
    this.stop();
    URL.revokeObjectURL(this.url);
  }

  async #read(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) this.#take(JSON.parse(line));
    }
    if (this.state !== "done") throw new Error("The answer was cut off. Try again.");
  }

  #take(line) {
    if (line.type === "error") throw line.problem;
    if (line.type === "clip") Object.assign(this, { clip: line.clip, labels: line.model.labels });
    if (line.type === "frame") this.frames.push(line);
    if (line.type === "event") this.events.push(line);
    if (line.type === "end") {
      this.events.sort((one, other) => one.start_s - other.start_s);
      this.#is("done", `${line.num_samples} samples in ${line.timings_s.total.toFixed(2)} s`);
    } else {
      const total = this.clip?.num_samples;
      this.#is("running", total ? `${this.frames.length} of ${total} samples` : `${this.frames.length} samples`);
    }
  }

  #is(state, message) {
    Object.assign(this, { state, message });
    this.dispatchEvent(new Event("change"));
  }

  /** Index of the sample shown at a time: the nearest one by sample time, -1 where there is none. */
  sampleAt(time) {
    const { frames } = this;
    let low = 0;
    let high = frames.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((frames[middle].sample_time_s + frames[middle + 1].sample_time_s) / 2 < time) low = middle + 1;
      else high = middle;
    }
    return frames.length ? low : -1;
  }
}

export function segmentUrl(query) { return new URL(`../../v1/segment?${query}`, import.meta.url); }

/** The problem document of a failed answer; a proxy's page becomes one too. */
export async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return new Error(`The service answered ${answer.status}.`);
  }
}
