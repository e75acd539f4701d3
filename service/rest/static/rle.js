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

/** Paint a mask into RGBA pixels (row-major, width * height * 4): a tint inside, a solid line along the border. */
export function paint(pixels, segmentation, [red, green, blue]) {
  const [height, width] = segmentation.size;
  const inside = new Uint8Array(width * height);
  let at = 0;
  let isOn = false;
  for (const length of runs(segmentation.counts)) {
    if (isOn) inside.fill(1, at, at + length); // still column-major: index = x * height + y
    at += length;
    isOn = !isOn;
  }
  const reach = Math.max(1, Math.round(height / 240));
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const here = x * height + y;
      if (!inside[here]) continue;
      const isBorder =
        x < reach || y < reach || x >= width - reach || y >= height - reach ||
        !inside[here - reach] || !inside[here + reach] || !inside[here - reach * height] || !inside[here + reach * height];
      const to = (y * width + x) * 4;
      pixels[to] = red;
      pixels[to + 1] = green;
      pixels[to + 2] = blue;
      pixels[to + 3] = isBorder ? 255 : 115;
    }
  }
}
