// How the command line speaks: results on stdout, progress and notes on stderr, colours and tables for people.

import { stderr, stdout } from "node:process";
import { stripVTControlCharacters } from "node:util";

/** A mistake of the person at the keyboard or in their files: printed without a stack, exit code 2. */
export class UsageError extends Error {}

const formats = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const;

/** The text in a colour, when the stream is a terminal that wants colours. */
export function paint(format: keyof typeof formats, text: string, stream: NodeJS.WriteStream = stdout): string {
  if (process.env.NO_COLOR || process.env.TERM === "dumb" || !stream.isTTY) return text;
  const [on, off] = formats[format];
  return `\x1b[${on}m${text}\x1b[${off}m`;
}

/** Writes a line to stdout. */
export function print(line = ""): void {
  stdout.write(`${line}\n`);
}

/** Writes a note to stderr, over a progress line if there is one. */
export function note(line: string): void {
  clearProgress();
  stderr.write(`${paint("dim", line, stderr)}\n`);
}

let progressShown = false;

/** Shows what is going on in one line of stderr; nothing when stderr is not a terminal. */
export function progress(line: string): void {
  if (!stderr.isTTY) return;
  progressShown = true;
  stderr.write(`\r\x1b[K${paint("dim", line.slice(0, (stderr.columns ?? 80) - 1), stderr)}`);
}

/** Removes the progress line. */
export function clearProgress(): void {
  if (!progressShown) return;
  progressShown = false;
  stderr.write("\r\x1b[K");
}

/** Prints rows in columns; columns whose cells are all numbers stand right. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  clearProgress();
  const widths = head.map((title, column) =>
    Math.max(visible(title), ...rows.map((row) => visible(row[column] ?? ""))),
  );
  const numeric = head.map((_, column) =>
    rows.every((row) => /^[-–\d.,]*( ?[a-zA-Z%×]{1,2})?$/.test(stripVTControlCharacters(row[column] ?? ""))),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => {
        const pad = " ".repeat((widths[column] ?? 0) - visible(cell));
        return numeric[column] && column > 0 ? pad + cell : cell + pad;
      })
      .join("  ")
      .trimEnd();
  print(paint("bold", line(head)));
  for (const row of rows) print(line(row));
}

/** A number of bytes for people. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1 << 20) return `${(bytes / 1024).toFixed(1)} kB`;
  return bytes < 1 << 30 ? `${(bytes / (1 << 20)).toFixed(1)} MB` : `${(bytes / (1 << 30)).toFixed(2)} GB`;
}

/** Milliseconds for people. */
export function formatMs(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0);
}

function visible(text: string): number {
  return stripVTControlCharacters(text).length;
}
