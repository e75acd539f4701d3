// Downloads of an answer in every format of the API. The service answers the same clip again, from its cache.

import { problemOf, segmentUrl } from "./answer.js";

/** Name of the `format` option, what to call it, and the end of the file's name. */
export const FORMATS = [
  ["json", "JSON", "json"],
  ["ndjson", "NDJSON (lines)", "ndjson"],
  ["coco", "COCO video", "coco.json"],
  ["polygons", "Polygons", "polygons.json"],
  ["png", "PNG masks (zip)", "zip"],
  ["csv", "CSV table", "csv"],
  ["vtt", "WebVTT subtitles", "vtt"],
  ["srt", "SubRip subtitles", "srt"],
  ["overlay", "Video with masks (mp4)", "mp4"],
];

/** Fetch the answer in a format and hand it to the browser as a file. Throws what `plainWords` explains. */
export async function download(result, format, headers) {
  const suffix = FORMATS.find(([name]) => name === format)[2];
  const answer = await fetch(segmentUrl(result.query({ format })), {
    method: "POST",
    body: result.file,
    headers: { ...headers, "Content-Type": "video/mp4" },
  });
  if (!answer.ok) throw await problemOf(answer);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  const stem = result.name.replace(/\.[^.]*$/, "");
  link.download = `${stem}${format === "overlay" ? " masks" : ""}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}
