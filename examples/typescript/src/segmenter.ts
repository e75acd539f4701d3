/** Client of `avesformer.v1.Segmentation`: a clip goes out in chunks while its answer comes in. */
import { createReadStream } from "node:fs";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { credentials, loadPackageDefinition, Metadata, type ClientDuplexStream } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/segmentation.js";
import type { ModelInfo__Output } from "./generated/avesformer/v1/ModelInfo.js";
import type { SegmentOptions } from "./generated/avesformer/v1/SegmentOptions.js";
import type { SegmentRequest } from "./generated/avesformer/v1/SegmentRequest.js";
import type { SegmentResponse__Output } from "./generated/avesformer/v1/SegmentResponse.js";
import type { SegmentationClient } from "./generated/avesformer/v1/Segmentation.js";

/** Bytes of the file in one message. A message may hold 4 MiB at most. */
const CHUNK_BYTES = 256 * 1024;
const PROTO_FOLDER = fileURLToPath(new URL("../../../proto", import.meta.url));

export interface SegmenterOptions {
  /** Key of the service, where it asks for one. */
  apiKey?: string;
  /** TLS, for an address that is not in a private network. */
  secure?: boolean;
}

export class Segmenter {
  readonly #client: SegmentationClient;
  readonly #metadata = new Metadata();

  /** @param target host and port, such as `127.0.0.1:50051`. */
  constructor(target: string, options: SegmenterOptions = {}) {
    // The same choices as in the script `types` of package.json, which generates the types.
    const definition = loadSync("avesformer/v1/segmentation.proto", {
      includeDirs: [PROTO_FOLDER],
      longs: Number,
      enums: String,
      defaults: true,
      oneofs: true,
    });
    const { avesformer } = loadPackageDefinition(definition) as unknown as ProtoGrpcType;
    const channel = options.secure ? credentials.createSsl() : credentials.createInsecure();
    this.#client = new avesformer.v1.Segmentation(target, channel);
    if (options.apiKey !== undefined) this.#metadata.set("authorization", `Bearer ${options.apiKey}`);
  }

  close(): void {
    this.#client.close();
  }

  /** Return the model that answers. */
  model(): Promise<ModelInfo__Output> {
    return new Promise((resolve, reject) => {
      this.#client.getModel({}, this.#metadata, (error, model) => (model ? resolve(model) : reject(error)));
    });
  }

  /**
   * Yield the messages of the answer to a clip as they arrive, without heartbeats: one `clip`, then `frame`s with
   * `event`s between them, then one `summary`. Throws the ServiceError of @grpc/grpc-js; an answer that ends
   * without a summary was cut and throws, too.
   *
   * @param path an MP4 or MOV file.
   */
  async *segment(path: string, options: SegmentOptions = {}): AsyncGenerator<SegmentResponse__Output> {
    const call = this.#client.segment(this.#metadata);
    const sending = send(call, path, options).catch((error: Error) => call.destroy(error));
    let isWhole = false;
    try {
      for await (const message of call as AsyncIterable<SegmentResponse__Output>) {
        isWhole = message.payload === "summary";
        if (message.payload !== "heartbeat") yield message;
      }
      if (!isWhole) throw new Error("the connection broke before the answer was complete; send the clip again");
    } finally {
      call.cancel(); // does nothing after the end; drops the work of a reader that stopped early
      await sending;
    }
  }
}

/** Send options and file. Waits while the service does not take more, and stops when the call has ended. */
async function send(
  call: ClientDuplexStream<SegmentRequest, SegmentResponse__Output>,
  path: string,
  options: SegmentOptions,
): Promise<void> {
  const ended = new AbortController();
  call.once("close", () => ended.abort());
  call.write({ options });
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) {
    if (ended.signal.aborted) return;
    if (call.write({ chunk })) continue;
    try {
      await once(call, "drain", { signal: ended.signal });
    } catch {
      return; // the call ended; its reader gets the reason
    }
  }
  call.end();
}
