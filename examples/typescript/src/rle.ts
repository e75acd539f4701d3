/** Decoding of COCO's compressed run lengths. */
import type { Rle__Output } from "./generated/avesformer/v1/Rle.js";

/**
 * Return a mask of 0 and 1, row by row.
 *
 * Each run is a varint of 5 bits a byte plus 48, least bits first, with a sign; from the fourth run on it is the
 * difference to the run two before. Runs go down the columns and alternate between 0 and 1, starting with 0.
 */
export function decodeMask({ height, width, counts }: Rle__Output): Uint8Array {
  const pixels = new Uint8Array(height * width);
  const runs: number[] = [];
  let at = 0;
  let place = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let bits = 0;
    do {
      bits = (counts[at++] ?? 0) - 48;
      value += (bits & 0x1f) * 2 ** shift;
      shift += 5;
    } while (bits & 0x20);
    if (bits & 0x10) value -= 2 ** shift;
    const run = value + (runs.length > 2 ? (runs[runs.length - 2] ?? 0) : 0);
    if (runs.length % 2 === 1) {
      for (let i = place; i < place + run; i++) pixels[(i % height) * width + Math.floor(i / height)] = 1;
    }
    place += run;
    runs.push(run);
  }
  return pixels;
}
