/** Segment a clip and print a line of JSON for each frame and each event: `node dist/main.js CLIP [TARGET] [FPS]`. */
import { status, type ServiceError } from "@grpc/grpc-js";

import { decodeMask } from "./rle.js";
import { Segmenter } from "./segmenter.js";

const [path, target = "127.0.0.1:50051", fps = "1"] = process.argv.slice(2);
if (path === undefined) {
  console.error("usage: node dist/main.js CLIP [HOST:PORT] [SAMPLES_PER_SECOND]");
  process.exit(2);
}
const segmenter = new Segmenter(target);
try {
  console.error(`model: ${(await segmenter.model()).variant}`);
  for await (const message of segmenter.segment(path, { fps: Number(fps) })) {
    if (message.frame) {
      const masks = message.frame.masks.map(({ label, score, area, segmentation }) => ({
        label,
        score,
        area,
        numPixels: segmentation === null ? 0 : decodeMask(segmentation).reduce((sum, pixel) => sum + pixel, 0),
      }));
      console.log(JSON.stringify({ timeS: message.frame.sampleTimeS, masks }));
    } else if (message.event) {
      const { label, startS, endS } = message.event;
      console.log(JSON.stringify({ event: label, startS, endS }));
    }
  }
} catch (error) {
  const { code, details, message } = error as Partial<ServiceError>; // of gRPC, else of Node
  console.error(code === undefined || details === undefined ? message : `${status[code]}: ${details}`);
  process.exitCode = 1;
} finally {
  segmenter.close();
}
