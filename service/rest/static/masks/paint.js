// Draws the masks of one frame on a canvas: filled, outlined, or as a spotlight that dims everything else.

import { inside } from "./rle.js";
import { rgb, css } from "./colours.js";

const DIM = 185; // opacity of the dimmed part, of 255
const TINT = 110; // opacity of a filled mask, of 255
const MIN_LABEL_PX = 11;
const SHARP_PX = 800; // canvases of small clips are enlarged to about this width, for sharp texts
const unscaled = document.createElement("canvas");

/**
 * Draw a frame. The canvas gets a multiple of the size of the masks, or of `size` ({width, height} in pixels).
 * `view` is fill, outline or spotlight; `isShown(mask)` says which masks count; `labels` are the model's, for colours.
 */
export function drawFrame(canvas, frame, { labels, view, isShown, size }) {
  const masks = frame ? frame.masks.filter(isShown) : [];
  const [height, width] = frame?.masks[0]?.segmentation.size ?? [size.height, size.width];
  const scale = Math.max(1, Math.round(SHARP_PX / width));
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    Object.assign(canvas, { width: width * scale, height: height * scale });
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!frame) return;
  const picture = context.createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  if (view === "spotlight") pixels.fill(DIM << 24);
  for (const mask of masks) paintMask(pixels, mask, rgb(mask, labels), view);
  Object.assign(unscaled, { width, height });
  unscaled.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(unscaled, 0, 0, canvas.width, canvas.height);
  for (const mask of masks) writeLabel(context, mask, css(mask, labels), scale);
}

/** Row-major pixels, each 0xAABBGGRR (the canvas's bytes on a little-endian machine, which all browsers' are). */
function paintMask(pixels, mask, [red, green, blue], view) {
  const [height, width] = mask.segmentation.size;
  const on = inside(mask.segmentation);
  const reach = Math.max(1, Math.round(height / 240));
  const colour = (blue << 16) | (green << 8) | red;
  const solid = (colour | 0xff000000) >>> 0;
  const within = view === "fill" ? (colour | (TINT << 24)) >>> 0 : 0;
  const [left, top, wide, high] = mask.bbox;
  for (let x = left; x < left + wide; x++) {
    for (let y = top; y < top + high; y++) {
      const here = x * height + y;
      if (!on[here]) continue;
      const isBorder =
        x < reach || y < reach || x >= width - reach || y >= height - reach ||
        !on[here - reach] || !on[here + reach] || !on[here - reach * height] || !on[here + reach * height];
      pixels[y * width + x] = isBorder ? solid : within;
    }
  }
}

function writeLabel(context, mask, colour, scale) {
  const { width, height } = context.canvas;
  const size = Math.max(MIN_LABEL_PX, Math.round(height / 26));
  const text = mask.track_id == null ? mask.label : `${mask.label} ${mask.track_id}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const wide = context.measureText(text).width + size * 0.7;
  const high = size * 1.35;
  const [x, y] = mask.bbox.map((value) => value * scale);
  const left = Math.max(0, Math.min(x, width - wide));
  const top = y >= high ? y - high : Math.min(y, height - high);
  context.fillStyle = colour;
  context.fillRect(left, top, wide, high);
  context.fillStyle = "#000";
  context.fillText(text, left + size * 0.35, top + size * 0.2);
}
