// Camera and microphone over the WebSocket /live; masks are drawn over the camera's picture.

import { Legend } from "../masks/legend.js";
import { drawFrame } from "../masks/paint.js";
import { cameraWords, plainWords } from "../words.js";

const byId = (id) => document.getElementById(id);
const MAX_SIDE_PX = 640;
const PICTURES_PER_S = 10;
const MAX_OUTSTANDING = 3; // pictures that were sent and not answered
const MAX_BUFFERED_BYTES = 512 * 1024;
const JPEG_QUALITY = 0.8;
const JPEG = 1, SOUND = 2;
const HEADER_BYTES = 16;

/** A binary message: the header (see docs/contract.md, Live) and the data. */
function message(kind, value, timestamp, data) {
  const whole = new Uint8Array(HEADER_BYTES + data.byteLength);
  const header = new DataView(whole.buffer);
  header.setUint8(0, kind);
  header.setUint32(4, value, true);
  header.setFloat64(8, timestamp, true);
  whole.set(new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength), HEADER_BYTES);
  return whole;
}

export class Live {
  /** `apiKey()` is the key to send, or empty. */
  constructor({ apiKey }) {
    Object.assign(this, { apiKey, view: "fill", labels: [], camera: byId("camera"), overlay: byId("live-overlay") });
    this.legend = new Legend(byId("live-legend"), () => this.#draw());
    this.scaled = document.createElement("canvas");
    byId("live-start").addEventListener("click", () => this.start());
    byId("live-stop").addEventListener("click", () => this.stop("Stopped."));
    byId("tab-clips").addEventListener("click", () => { if (this.media) this.stop("Stopped."); });
    byId("live-instances").addEventListener("change", () => this.#reconnect());
    byId("live-views").addEventListener("change", (event) => { this.view = event.target.value; this.#draw(); });
  }

  async start() {
    byId("live-start").disabled = true;
    this.#say("Opening the camera …");
    try {
      if (!navigator.mediaDevices) throw new Error("no devices");
      const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      this.media = await navigator.mediaDevices.getUserMedia({ video: { width: MAX_SIDE_PX }, audio: sound });
      this.camera.srcObject = this.media;
      await this.camera.play();
      byId("live-stage").style.setProperty("--ratio", this.camera.videoWidth / this.camera.videoHeight);
      this.#connect();
      await this.#listen();
    } catch (error) {
      this.stop(cameraWords(error), true);
    }
  }

  stop(text, isError = false) {
    this.socket?.close();
    for (const track of this.media?.getTracks() ?? []) track.stop();
    this.sound?.close();
    clearInterval(this.timer);
    Object.assign(this, { socket: null, media: null, sound: null, frame: null });
    byId("live-start").disabled = false;
    byId("live-start").hidden = false;
    byId("live-stop").hidden = byId("live-stage").hidden = true;
    byId("live-figures").textContent = "";
    this.#say(text, isError);
  }

  #say(text, isError = false) {
    byId("live-status").textContent = text;
    byId("live-status").classList.toggle("error", isError);
  }

  /** Start a new stream with the options as they are now; camera and microphone stay open. */
  #reconnect() {
    if (!this.socket) return;
    const old = this.socket;
    clearInterval(this.timer);
    this.frame = null;
    this.#connect();
    old.close();
  }

  #connect() {
    const url = new URL("../../v1/live", import.meta.url);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = Object.assign(new WebSocket(url), { binaryType: "arraybuffer" });
    Object.assign(this, { socket, startedMs: performance.now(), numSent: 0, numAnswered: 0, numDropped: 0, answers: [] });
    this.legend.clear();
    socket.addEventListener("open", () => {
      const key = this.apiKey();
      const instances = byId("live-instances").checked;
      const options = { type: "options", max_audio_wait_s: 0.2, max_waiting_frames: 2, instances, ...(key && { api_key: key }) };
      socket.send(JSON.stringify(options));
    });
    socket.addEventListener("message", (event) => { if (socket === this.socket) this.#take(JSON.parse(event.data)); });
    socket.addEventListener("close", () => { if (socket === this.socket) this.stop("The service ended the stream. Start again.", true); });
    this.timer = setInterval(() => this.#sendPicture(), 1000 / PICTURES_PER_S);
  }

  #take(message) {
    if (message.type === "error") this.stop(plainWords(message.problem), true);
    if (message.type === "model") {
      this.labels = message.labels;
      byId("live-start").hidden = true;
      byId("live-stop").hidden = byId("live-stage").hidden = false;
      this.#say("Listening and looking.");
    }
    if (message.type === "frame_error") this.numAnswered += 1;
    if (message.type !== "frame") return;
    this.frame = message;
    this.numAnswered += 1;
    this.numDropped = message.num_dropped_frames;
    this.legend.add(message.masks, this.labels);
    this.legend.mark(message);
    this.#draw();
    this.#figures(message);
  }

  #figures(frame) {
    const now = performance.now();
    this.answers = [...this.answers.filter((at) => now - at < 2000), now];
    const rate = (this.answers.length / Math.min(2, Math.max(0.5, (now - this.startedMs) / 1000))).toFixed(0);
    const delay = Math.round(now - this.startedMs - 1000 * frame.timestamp_s);
    byId("live-figures").textContent = `${rate} pictures a second, ${delay} ms behind, ${frame.num_dropped_frames} dropped`;
  }

  #draw() {
    if (!this.camera.videoWidth) return;
    const size = { width: this.camera.videoWidth, height: this.camera.videoHeight };
    drawFrame(this.overlay, this.frame, { labels: this.labels, view: this.view, isShown: this.legend.isShown, size });
  }

  /** Send what the camera sees now, unless the service or the network is behind. */
  #sendPicture() {
    const { socket, camera, scaled } = this;
    const isBehind = this.numSent - this.numAnswered - this.numDropped >= MAX_OUTSTANDING;
    if (socket?.readyState !== WebSocket.OPEN || !camera.videoWidth || isBehind || socket.bufferedAmount > MAX_BUFFERED_BYTES) return;
    const scale = Math.min(1, MAX_SIDE_PX / Math.max(camera.videoWidth, camera.videoHeight));
    Object.assign(scaled, { width: Math.round(camera.videoWidth * scale), height: Math.round(camera.videoHeight * scale) });
    scaled.getContext("2d").drawImage(camera, 0, 0, scaled.width, scaled.height);
    const timestamp = this.#now();
    this.numSent += 1;
    scaled.toBlob(async (blob) => {
      const data = await blob.arrayBuffer();
      if (socket.readyState === WebSocket.OPEN) socket.send(message(JPEG, 0, timestamp, new Uint8Array(data)));
    }, "image/jpeg", JPEG_QUALITY);
  }

  /** Send the microphone's sound. Pieces follow each other without gaps, on the clock of the pictures. */
  async #listen() {
    const context = new AudioContext();
    this.sound = context;
    await context.audioWorklet.addModule(new URL("live_sound.js", import.meta.url));
    const node = new AudioWorkletNode(context, "live-sound", { numberOfOutputs: 0 });
    context.createMediaStreamSource(this.media).connect(node);
    let end = null;
    node.port.onmessage = ({ data }) => {
      const duration = data.length / context.sampleRate;
      const start = this.#now() - duration;
      end = end === null || Math.abs(end - start) > 0.2 ? start : end;
      if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(message(SOUND, context.sampleRate, end, data));
      end += duration;
    };
  }

  #now() { return (performance.now() - this.startedMs) / 1000; }
}
