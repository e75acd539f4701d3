// COCO compressed run lengths (column-major, zeros first), decoded for drawing.

/** Run lengths from the compressed string: 5 bits a character over 48, from the fourth run on a difference to two back. */
export function runs(counts) {
  const lengths = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let piece;
    do {
      piece = counts.charCodeAt(at++) - 48;
      value |= (piece & 31) << shift;
      shift += 5;
    } while (piece & 32);
    if (piece & 16 && shift < 32) value |= -1 << shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

/** The pixels of a mask: Uint8Array of width * height, column-major (index = x * height + y), 1 inside. */
export function inside(segmentation) {
  const [height, width] = segmentation.size;
  const pixels = new Uint8Array(width * height);
  let at = 0;
  let isOn = false;
  for (const length of runs(segmentation.counts)) {
    if (isOn) pixels.fill(1, at, at + length);
    at += length;
    isOn = !isOn;
  }
  return pixels;
}
