// The size of a download.

import { spawnSync } from "node:child_process";
import { gzipSync } from "node:zlib";

/**
 * The length of `bytes` gzipped at the best level, as gzip(1) makes it, which is what package registries and servers with
 * files gzipped beforehand send. Node.js's zlib is made for speed and gives a hundredth more; it stands in where there is no
 * gzip(1).
 */
export function gzippedLength(bytes) {
  const { status, stdout } = spawnSync("gzip", ["-9", "-n", "-c"], { input: bytes, maxBuffer: 1 << 26 });
  return (status === 0 ? stdout : gzipSync(bytes, { level: 9 })).length;
}
