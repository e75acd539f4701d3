// The sound of a clip as peaks, decoded by the browser.

const RATE_HZ = 8000; // enough for a picture of the sound
export const PEAKS_PER_S = 100;
const MAX_BYTES = 256 * 1024 ** 2; // the whole file is read into memory

/** Peaks (0 to 1, Float32Array, PEAKS_PER_S a second), or null where the browser cannot decode the sound. */
export async function peaksOf(file) {
  if (file.size > MAX_BYTES) return null;
  try {
    const context = new OfflineAudioContext(1, 1, RATE_HZ);
    const sound = await context.decodeAudioData(await file.arrayBuffer());
    const step = RATE_HZ / PEAKS_PER_S;
    const peaks = new Float32Array(Math.ceil(sound.length / step));
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      const values = sound.getChannelData(channel);
      for (let at = 0; at < values.length; at++) {
        const to = Math.floor(at / step);
        peaks[to] = Math.max(peaks[to], Math.abs(values[at]));
      }
    }
    const most = peaks.reduce((one, other) => Math.max(one, other), 1e-4);
    return peaks.map((peak) => peak / most);
  } catch {
    return null;
  }
}
