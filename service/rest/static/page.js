import { paint } from "./rle.js";

const byId = (id) => document.getElementById(id);
const COLOURS = [[255, 96, 48], [64, 170, 255], [110, 220, 90], [255, 200, 40], [200, 110, 255], [60, 220, 210]];
const state = { file: null, clip: null, labels: [], frames: [], lines: [], abort: null, drawn: -1 };

const form = byId("form"), drop = byId("drop"), fileInput = byId("file"), video = byId("video");
const overlay = byId("overlay"), timeline = byId("timeline"), progress = byId("progress");

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

function choose(file) {
  if (!file) return;
  state.abort?.abort();
  Object.assign(state, { file, clip: null, frames: [], lines: [], drawn: -1, seek: null });
  byId("drop-text").textContent = `${file.name} (${(file.size / 1e6).toFixed(1)} MB)`;
  byId("go").disabled = false;
  byId("stage").hidden = false;
  timeline.hidden = byId("links").hidden = true;
  showBlind(false);
  if (video.src) URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(file);
  overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
  say("");
}

/** Without a picture (a codec that this browser lacks, often HEVC) masks are drawn over grey and a slider sets the time. */
function showBlind(isBlind) {
  byId("stage").classList.toggle("blind", isBlind);
  byId("blind").hidden = byId("seek").hidden = !isBlind;
  if (!isBlind) overlay.style.aspectRatio = "";
}
video.addEventListener("error", () => { if (state.file) showBlind(true); });
video.addEventListener("loadedmetadata", () => { if (!video.videoWidth) showBlind(true); });
byId("seek").addEventListener("input", (event) => { state.seek = Number(event.target.value); });

fileInput.addEventListener("change", () => choose(fileInput.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
byId("stop").addEventListener("click", () => state.abort?.abort());

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams();
  if (byId("fps").value) query.set("fps", byId("fps").value);
  if (byId("threshold").value) query.set("threshold", byId("threshold").value);
  Object.assign(state, { clip: null, frames: [], lines: [], drawn: -1, abort: new AbortController() });
  byId("go").disabled = true;
  byId("stop").hidden = progress.hidden = false;
  progress.removeAttribute("value");
  say("Uploading …");
  try {
    const answer = await fetch(new URL(`../v1/segment?${query}`, import.meta.url), {
      method: "POST",
      body: state.file,
      headers: requestHeaders(),
      signal: state.abort.signal,
    });
    if (!answer.ok) throw await answer.json();
    await readLines(answer.body, take);
  } catch (problem) {
    if (problem.name === "AbortError") say("Stopped.");
    else say(problem.detail ? `${problem.title}: ${problem.detail}` : String(problem.message ?? problem), true);
  } finally {
    byId("go").disabled = false;
    byId("stop").hidden = progress.hidden = true;
  }
});

/** The API key is kept for this tab only. */
const keyInput = byId("key");
keyInput.value = sessionStorage.getItem("key") ?? "";
keyInput.addEventListener("change", () => sessionStorage.setItem("key", keyInput.value));

function requestHeaders() {
  const headers = { "Content-Type": "video/mp4", Accept: "application/x-ndjson" };
  if (keyInput.value.trim()) headers.Authorization = `Bearer ${keyInput.value.trim()}`;
  return headers;
}

async function readLines(stream, onLine) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line) onLine(JSON.parse(line), line);
  }
  if (!state.lines.length || !state.ended) throw new Error("The answer was cut off; try again.");
}

function take(event, line) {
  if (event.type === "heartbeat") return;
  if (event.type === "error") throw event.problem;
  state.lines.push(line);
  state.ended = event.type === "end";
  if (event.type === "clip") {
    state.clip = event.clip;
    state.labels = event.model.labels;
    overlay.style.aspectRatio = `${event.clip.width} / ${event.clip.height}`;
    timeline.hidden = false;
  } else if (event.type === "frame") {
    state.frames.push(event);
    byId("seek").max = event.sample_time_s;
    const total = state.clip.num_samples;
    if (total) progress.value = state.frames.length / total;
    say(`${state.frames.length}${total ? ` of ${total}` : ""} samples`);
    drawTimeline();
  } else if (event.type === "end") {
    say(`${event.num_samples} samples in ${event.timings_s.total.toFixed(2)} s. ${byId("blind").hidden ? "Play the clip." : "Move the slider."}`);
    const link = byId("download");
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([state.lines.join("\n") + "\n"], { type: "application/x-ndjson" }));
    byId("links").hidden = false;
    video.play().catch(() => {});
  }
  state.drawn = -1;
}

/** The sample shown at a time: the nearest one, by sample time. */
function sampleAt(time) {
  const { frames } = state;
  let low = 0, high = frames.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((frames[middle].sample_time_s + frames[middle + 1].sample_time_s) / 2 < time) low = middle + 1;
    else high = middle;
  }
  return frames.length ? low : -1;
}

function draw() {
  const at = sampleAt(state.seek ?? video.currentTime);
  if (at >= 0 && at !== state.drawn) {
    state.drawn = at;
    const { masks } = state.frames[at];
    const context = overlay.getContext("2d");
    if (masks.length) {
      const [height, width] = masks[0].segmentation.size;
      overlay.width = width;
      overlay.height = height;
      const picture = context.createImageData(width, height);
      for (const mask of masks) {
        paint(picture.data, mask.segmentation, COLOURS[state.labels.indexOf(mask.label) % COLOURS.length]);
      }
      context.putImageData(picture, 0, 0);
    } else {
      context.clearRect(0, 0, overlay.width, overlay.height);
    }
  }
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);

function drawTimeline() {
  const { frames, clip } = state;
  const duration = clip.duration_s ?? video.duration;
  if (!duration) return;
  timeline.width = timeline.clientWidth;
  const context = timeline.getContext("2d");
  const area = clip.width * clip.height;
  const shares = frames.map((frame) => frame.masks.reduce((sum, mask) => sum + mask.area, 0) / area);
  const most = Math.max(0.01, ...shares);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  frames.forEach((frame, at) => {
    const from = at ? frames[at - 1].sample_time_s : 0;
    const left = (from / duration) * timeline.width;
    const width = Math.max(1, ((frame.sample_time_s - from) / duration) * timeline.width - 1);
    const height = (shares[at] / most) * timeline.height;
    context.fillRect(left, timeline.height - height, width, height);
  });
}
timeline.addEventListener("click", (event) => {
  const duration = video.duration || state.clip?.duration_s;
  if (!duration) return;
  const time = (event.offsetX / timeline.clientWidth) * duration;
  if (byId("blind").hidden) video.currentTime = time;
  else byId("seek").value = state.seek = time;
});
