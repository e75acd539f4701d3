// Stable colours: a hue for each label of the model, a lightness for each track of it.

const GOLDEN_ANGLE = 137.508; // neighbouring labels get hues far apart
const FIRST_HUE = 18;

/** The name under which a mask or an event is coloured, muted and listed. */
export function keyOf({ label, track_id }) {
  return track_id == null ? label : `${label} ${track_id}`;
}

/** Order of masks or events: by the model's labels, then by track. */
export function byLabel(labels) {
  return (one, other) => labels.indexOf(one.label) - labels.indexOf(other.label) || (one.track_id ?? 0) - (other.track_id ?? 0);
}

/** Hue in degrees, saturation and lightness in percent. All are light enough for black text. */
function hsl({ label, track_id }, labels) {
  const hue = (FIRST_HUE + GOLDEN_ANGLE * Math.max(0, labels.indexOf(label))) % 360;
  const lightness = 66 + (track_id == null ? 0 : ((track_id * 11) % 30) - 12);
  return [hue, 92, lightness];
}

export function css(mask, labels) {
  const [hue, saturation, lightness] = hsl(mask, labels);
  return `hsl(${hue.toFixed(1)} ${saturation}% ${lightness}%)`;
}

/** [red, green, blue], 0 to 255. */
export function rgb(mask, labels) {
  const [hue, saturation, lightness] = hsl(mask, labels);
  const amplitude = (saturation / 100) * Math.min(lightness / 100, 1 - lightness / 100);
  const channel = (offset) => {
    const k = (offset + hue / 30) % 12;
    return Math.round(255 * (lightness / 100 - amplitude * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}
