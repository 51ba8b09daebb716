// `modelet bench --profile`: where the time of a run goes, node by node and kernel by kernel.

import type { Profile, ProfileRow } from "../core.js";
import { formatBytes, formatMs, paint, print, printTable } from "./terminal.js";

/** Rows that are shown; `--json` has all. */
const shown = 30;

/** Prints a profile as two tables, the slowest rows first. */
export function printProfile(id: string, profile: Profile): void {
  const sum = profile.nodes.reduce((total, { ms }) => total + ms, 0);
  const between = profile.runMs - sum;
  print(
    paint("bold", `${id}: ${formatMs(profile.runMs)} ms`) +
      `, the fastest of ${profile.runs} runs; ${formatMs(sum)} ms in ${profile.nodes.length} steps, ` +
      `${formatMs(Math.max(between, 0))} ms between them`,
  );
  print();
  const numbers = (row: ProfileRow) => [
    `${((100 * row.ms) / sum).toFixed(1)} %`,
    row.ms < 1 ? row.ms.toFixed(3) : formatMs(row.ms),
    String(row.calls),
    row.operations > 0 && row.ms > 0 ? (row.operations / row.ms / 1e6).toFixed(1) : "–",
    row.bytes > 0 ? formatBytes(row.bytes) : "–",
    row.bytes > 0 && row.ms > 0 ? (row.bytes / row.ms / 1e6).toFixed(1) : "–",
  ];
  const head = ["share", "ms", "calls", "GFLOP/s", "bytes", "GB/s"];
  printTable(
    ["kernel", ...head],
    profile.kernels.slice(0, shown).map((row) => [kernel(row), ...numbers(row)]),
  );
  print();
  printTable(
    ["kernel", ...head, "operator", "shapes", "node"],
    profile.nodes
      .slice(0, shown)
      .map((row) => [kernel(row), ...numbers(row), row.operator, shorten(row.shapes), shorten(row.node)]),
  );
  const left = profile.nodes.length - shown;
  if (left > 0) print(paint("dim", `and ${left} more nodes; --json shows all`));
  print();
}

function kernel({ kernel, device }: ProfileRow): string {
  return device === "gpu" ? `${kernel} (gpu)` : kernel;
}

function shorten(name: string): string {
  return name.length > 60 ? `…${name.slice(-59)}` : name;
}
