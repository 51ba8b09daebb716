// Where a model's bytes come from: a URL, a Response, a file, or memory. Each source becomes a stream of pieces with a
// name and, where it is known, a total; a source that plainly holds no model ends here in a clear error.

import { ModeletError, messageOf } from "./errors.js";
import { isNode, openFile } from "./platform.js";

/** What {@link Session.load} takes: a URL or path, or the bytes themselves. */
export type ModelSource = string | URL | Request | Response | Blob | ArrayBuffer | ArrayBufferView;

/** A model's bytes on their way. */
export interface ByteStream {
  /** What to call the model in messages. */
  readonly name: string | undefined;
  /** The number of bytes to come, or 0 when it is not known. */
  readonly total: number;
  chunks(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

/** Where a source's bytes are. */
export type Place =
  | { readonly kind: "file"; readonly path: string | URL }
  | { readonly kind: "url"; readonly url: string; readonly request: string | URL | Request }
  | { readonly kind: "response"; readonly response: Response }
  | { readonly kind: "blob"; readonly blob: Blob }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array };

/** Tells the kinds of sources apart; undefined for what is none. */
export function placeOf(source: unknown): Place | undefined {
  if (typeof source === "string" && isNode && !/^(https?|data|blob|file):/i.test(source)) {
    return { kind: "file", path: source };
  }
  if (typeof source === "string" || source instanceof URL || isA(source, "Request")) {
    const request = source as string | URL | Request;
    const url = typeof request === "string" || request instanceof URL ? String(request) : request.url;
    return isNode && /^file:/i.test(url) ? { kind: "file", path: new URL(url) } : { kind: "url", url, request };
  }
  if (isA(source, "Response")) return { kind: "response", response: source as Response };
  if (isA(source, "Blob") || isA(source, "File")) return { kind: "blob", blob: source as Blob };
  const bytes = viewBytes(source);
  return bytes && { kind: "bytes", bytes };
}

/** Opens a source; for a URL this waits for the response's head only. */
export async function openSource(source: ModelSource, signal?: AbortSignal): Promise<ByteStream> {
  const place = placeOf(source);
  switch (place?.kind) {
    case "file":
      return { name: String(place.path), ...(await openFile(place.path)) };
    case "url":
      return fromResponse(await request(place.request, place.url, signal), place.url);
    case "response":
      return fromResponse(place.response, place.response.url || "the response");
    case "blob": {
      const { blob } = place;
      return { name: (blob as File).name, total: blob.size, chunks: () => streamChunks(blob.stream()) };
    }
    case "bytes":
      return { name: undefined, total: place.bytes.length, chunks: () => [place.bytes] };
  }
  throw new ModeletError(
    "invalid-argument",
    "a model is loaded from a URL, Response, Blob, ArrayBuffer or Uint8Array",
    { actual: Object.prototype.toString.call(source).slice(8, -1) },
  );
}

/** The bytes of a buffer or view without a copy, or undefined for anything else. */
export function viewBytes(value: unknown): Uint8Array | undefined {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (isA(value, "ArrayBuffer") || isA(value, "SharedArrayBuffer")) return new Uint8Array(value as ArrayBuffer);
  return undefined;
}

/**
 * Refuses first bytes that belong to a web page or to a Git LFS pointer, which servers and checkouts hand out in the
 * place of a model.
 */
export function checkStart(start: Uint8Array, name: string | undefined): void {
  const text = String.fromCharCode(...start.subarray(0, 64)).trimStart();
  const where = name ?? "the source";
  if (/^<(!doctype|html|head|body)\b/i.test(text)) throw html(where);
  if (text.startsWith("version https://git-lfs")) {
    throw new ModeletError("invalid-model", `${where} is a Git LFS pointer, not the model it points to`);
  }
}

/** Sends a request and waits for the response's head. */
export async function request(
  source: string | URL | Request,
  url: string,
  signal?: AbortSignal,
  headers?: Record<string, string>,
): Promise<Response> {
  try {
    return await fetch(source, { ...(signal && { signal }), ...(headers && { headers }) });
  } catch (error) {
    throw asFetchError(error, url);
  }
}

/** The body of a successful response. */
export function fromResponse(response: Response, url: string): ByteStream {
  if (!response.ok) {
    const status = `${response.status} ${response.statusText}`.trim();
    throw new ModeletError("fetch-failed", `${url} answered ${status}`, { expected: "200 OK", actual: status });
  }
  if (/^text\/html\b/i.test(response.headers.get("content-type") ?? "")) throw html(url);
  if (response.bodyUsed) {
    throw new ModeletError("invalid-argument", "the body of the response was already read");
  }
  // With a content encoding, content-length counts the compressed bytes.
  const total = response.headers.has("content-encoding") ? 0 : Number(response.headers.get("content-length") ?? 0);
  const body = response.body;
  return { name: url, total: total || 0, chunks: () => (body ? streamChunks(body, url) : []) };
}

/** The pieces of a stream. */
export async function* streamChunks(stream: ReadableStream<Uint8Array>, url?: string): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let finished = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      finished = done;
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw asFetchError(error, url ?? "the blob");
  } finally {
    if (!finished) await reader.cancel().catch(() => {});
  }
}

function asFetchError(error: unknown, url: string): ModeletError {
  if (error instanceof ModeletError) return error;
  if ((error as { name?: string })?.name === "AbortError") {
    return new ModeletError("aborted", `loading ${url} was aborted`, {}, { cause: error });
  }
  return new ModeletError("fetch-failed", `cannot fetch ${url}: ${messageOf(error)}`, {}, { cause: error });
}

function html(url: string): ModeletError {
  return new ModeletError("html-response", `${url} answered with a web page (HTML), not with a model`, {
    expected: "a model",
    actual: "text/html",
  });
}

/** `instanceof` by name, which also holds for objects of another realm and where the class does not exist. */
function isA(value: unknown, name: string): boolean {
  return Object.prototype.toString.call(value) === `[object ${name}]`;
}
