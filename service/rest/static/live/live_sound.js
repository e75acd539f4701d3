// Runs on the audio thread: the microphone as pieces of mono int16 for live.js.

const PIECE = 2048; // values, 43 ms at 48 kHz

class LiveSound extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE);
    this.num = 0;
  }

  process([channels]) {
    const length = channels[0]?.length ?? 0;
    for (let at = 0; at < length; at++) {
      const mean = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
      this.piece[this.num++] = Math.max(-1, Math.min(1, mean)) * 32767;
      if (this.num === PIECE) {
        this.port.postMessage(this.piece, [this.piece.buffer]);
        this.piece = new Int16Array(PIECE);
        this.num = 0;
      }
    }
    return true;
  }
}

registerProcessor("live-sound", LiveSound);
