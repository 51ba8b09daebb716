// The external data of a model: files that hold its weights. The core says which ranges of them it needs; a source that
// can be read by range (memory, a Blob, a file on disk, a server that answers Range requests) gives only those, any
// other is streamed and what is not needed is dropped on the way.

import type { CoreFileRanges } from "./core.js";
import { ModeletError } from "./errors.js";
import { besideFile, openRangeFile } from "./platform.js";
import { checkStart, fromResponse, type ModelSource, type Place, placeOf, request, streamChunks } from "./source.js";

/** What a file of external data comes from: a URL (in Node.js also a path), a response, or the bytes. */
export type ExternalSource = string | URL | Request | Response | Blob | ArrayBuffer | ArrayBufferView;

/** A file whose ranges are read in ascending order. */
export interface ExternalFile {
  /** The bytes from `start` to `end` or, if that comes first, to the end of the file. */
  read(start: number, end: number): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  /** The number of bytes in the file, as far as that is known by now. */
  size(): number;
  close(): Promise<void>;
}

/** Bytes that may be downloaded without need before ranges are asked for instead. */
const tolerated = 4 << 20;

/** Refuses external data that is no source, before anything is downloaded. */
export function checkExternalData(files: Readonly<Record<string, unknown>> | undefined): void {
  for (const [name, source] of Object.entries(files ?? {})) {
    if (placeOf(source)) continue;
    const message = `externalData.${name} is not a URL, Response, Blob, ArrayBuffer or Uint8Array`;
    throw new ModeletError("invalid-argument", message);
  }
}

/**
 * Opens a file that a model names: what was given under its name or, for a model that comes from a URL or file, what
 * lies next to that. Returns undefined when there is neither.
 */
export async function openExternal(
  { location, ranges }: CoreFileRanges,
  given: Readonly<Record<string, ExternalSource>> | undefined,
  model: ModelSource,
  signal?: AbortSignal,
): Promise<ExternalFile | undefined> {
  if (given && Object.hasOwn(given, location)) {
    const place = placeOf(given[location]);
    return place && openPlace(place, location, ranges, signal);
  }
  const place = await beside(model, location);
  if (!place) return undefined;
  try {
    return await openPlace(place, location, ranges, signal);
  } catch (error) {
    if (!(error instanceof ModeletError) || error.code === "aborted") throw error;
    const message = `the model keeps weights in another file, ${location}, which was not given: ${error.message}`;
    throw new ModeletError("external-data", message, { expected: location }, { cause: error });
  }
}

/** Where a file lies that a model names, next to the model. */
async function beside(model: ModelSource, location: string): Promise<Place | undefined> {
  const place = placeOf(model);
  if (place?.kind === "file") return { kind: "file", path: await besideFile(place.path, location) };
  // Where a redirect led to, the other files need not be.
  const { response } = place?.kind === "response" ? place : {};
  const modelUrl = place?.kind === "url" ? place.url : response?.redirected ? undefined : response?.url;
  if (!modelUrl) return undefined;
  const { document, location: page } = globalThis as { document?: Document; location?: Location };
  const parts = location.split(/[\\/]/).map(encodeURIComponent);
  let url: URL;
  try {
    url = new URL(parts.join("/"), new URL(modelUrl, document?.baseURI ?? page?.href));
  } catch {
    // A `data:` or `blob:` URL has nothing next to it.
    return undefined;
  }
  return { kind: "url", url: url.href, request: url };
}

async function openPlace(
  place: Place,
  location: string,
  ranges: readonly (readonly [number, number])[],
  signal?: AbortSignal,
): Promise<ExternalFile> {
  const nothing = async () => {};
  switch (place.kind) {
    case "bytes": {
      const { bytes } = place;
      return { read: (start, end) => [bytes.subarray(start, end)], size: () => bytes.length, close: nothing };
    }
    case "blob": {
      const { blob } = place;
      const read = (start: number, end: number) => streamChunks(blob.slice(start, Math.min(end, blob.size)).stream());
      return { read, size: () => blob.size, close: nothing };
    }
    case "file": {
      const file = await openRangeFile(place.path);
      const read = (start: number, end: number) => file.read(start, Math.min(end, file.size));
      return { read, size: () => file.size, close: () => file.close() };
    }
    case "response":
      return new StreamedFile(place.response, place.response.url || location);
    case "url": {
      const skipped = ranges.reduce((sum, [start], at) => sum + start - (ranges[at - 1]?.[1] ?? 0), 0);
      if (skipped > tolerated) return new RemoteFile(place, signal);
      return new StreamedFile(await request(place.request, place.url, signal), place.url);
    }
  }
}

/** A response that is read from its start to the last byte that is needed. */
class StreamedFile implements ExternalFile {
  readonly #total: number;
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  readonly #name: string;
  #rest: Uint8Array = new Uint8Array(0);
  /** Where in the file the rest begins. */
  #position = 0;

  constructor(response: Response, name: string) {
    const stream = fromResponse(response, name);
    const chunks = stream.chunks();
    this.#total = stream.total;
    this.#name = name;
    this.#chunks = Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]();
  }

  async *read(start: number, end: number): AsyncGenerator<Uint8Array> {
    while (this.#position < end) {
      if (this.#rest.length === 0) {
        const { done, value } = await this.#chunks.next();
        if (done) return;
        if (this.#position === 0) checkStart(value, this.#name);
        this.#rest = value;
      }
      const from = Math.max(0, start - this.#position);
      const to = Math.min(this.#rest.length, end - this.#position);
      const piece = this.#rest.subarray(from, to);
      this.#position += to;
      this.#rest = this.#rest.subarray(to);
      if (piece.length > 0) yield piece;
    }
  }

  size(): number {
    return Math.max(this.#total, this.#position);
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}

/** A file on a server, read by range; as a whole where the server does not answer ranges. */
class RemoteFile implements ExternalFile {
  readonly #place: Extract<Place, { kind: "url" }>;
  readonly #signal: AbortSignal | undefined;
  #whole: StreamedFile | undefined;
  #size = 0;

  constructor(place: Extract<Place, { kind: "url" }>, signal: AbortSignal | undefined) {
    this.#place = place;
    this.#signal = signal;
  }

  async *read(start: number, end: number): AsyncGenerator<Uint8Array> {
    const { url } = this.#place;
    if (!this.#whole) {
      const range = `bytes=${start}-${Number.isSafeInteger(end) ? end - 1 : ""}`;
      const response = await request(this.#place.request, url, this.#signal, { range });
      // The range begins behind the file's end.
      if (response.status === 416) return;
      if (response.status === 206) {
        const [, first, total] = /^bytes (\d+)-\d+\/(\d+)/.exec(response.headers.get("content-range") ?? "") ?? [];
        if (first !== undefined && Number(first) !== start) {
          throw new ModeletError("fetch-failed", `${url} answered with another range than was asked for`);
        }
        this.#size = Math.max(this.#size, Number(total ?? 0));
        let at = start;
        for await (const chunk of fromResponse(response, url).chunks()) {
          const piece = chunk.subarray(0, end - at);
          at += piece.length;
          this.#size = Math.max(this.#size, at);
          yield piece;
        }
        return;
      }
      this.#whole = new StreamedFile(response, url);
    }
    yield* this.#whole.read(start, end);
  }

  size(): number {
    return this.#whole?.size() ?? this.#size;
  }

  async close(): Promise<void> {
    await this.#whole?.close();
  }
}
