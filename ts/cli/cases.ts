// Models with inputs and reference outputs on disk: ONNX-style case folders (`test_data_set_*/` with .pb files) and
// folders with one `io.npz` (arrays `in/<input>` and `native/<output>`).

import { existsSync, readdirSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, relative, resolve } from "node:path";
import type { ValueInfo } from "../core.js";
import { readValue } from "../session.js";
import type { RunValue, Values } from "../value.js";
import { readNpy, readNpz } from "./npz.js";
import { UsageError } from "./terminal.js";

/** One model and the sets of test data that go with it. */
export interface Case {
  /** The folder's name, relative to the folder that was asked for. */
  readonly id: string;
  readonly model: string;
  readonly sets: readonly TestSet[];
}

/** One set of inputs with their reference outputs. */
export interface TestSet {
  readonly name: string;
  /** Reads the set; names and positions are matched to the model's own. */
  read(inputs: readonly ValueInfo[], outputs: readonly ValueInfo[]): Promise<TestData>;
}

export interface TestData {
  readonly feeds: Values;
  readonly expected: Values;
}

interface NamedValue {
  readonly name: string;
  readonly value: RunValue;
}

/** What the model of a case may be called. */
const models = ["model.onnx", "model.ort"];

/** Finds every case below the folders, in the order of their names. */
export function findCases(folders: readonly string[]): Case[] {
  const cases: Case[] = [];
  for (const folder of folders) {
    if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new UsageError(`${folder} is not a folder`);
    const found = walk(resolve(folder)).map((path) => readCase(path, relative(folder, path) || basename(path)));
    if (found.length === 0) {
      throw new UsageError(
        `${folder} has no model.onnx or model.ort with test_data_set_*/ or io.npz in it or below it`,
      );
    }
    cases.push(...found);
  }
  return cases;
}

/** The values of a folder of `input_<i>.pb` (or `.npy`, or `.pb` by any name) files, or of an .npz file. */
export async function readFeeds(path: string, inputs: readonly ValueInfo[]): Promise<Values> {
  if (!existsSync(path)) throw new UsageError(`there is no ${path}`);
  if (!statSync(path).isDirectory()) {
    const arrays = Array.from(readNpz(await readFile(path)), ([name, value]) => ({ name, value }));
    const fed = arrays.filter(({ name }) => name.startsWith("in/"));
    if (fed.length > 0) return byName(withoutPrefix(fed, "in/"), inputs);
    // Here the person chose the names: a wrong one is for the core to refuse, not to be taken by its position.
    return Object.fromEntries(arrays.map(({ name, value }) => [name, value]));
  }
  const files = sorted(readdirSync(path));
  const chosen = files.filter((file) => /^input_\d+\.pb$/.test(file));
  const arrays = chosen.length > 0 ? chosen : files.filter((file) => /\.(pb|npy)$/.test(file));
  if (arrays.length === 0) throw new UsageError(`${path} has no .pb or .npy files`);
  return byName(await readFiles(path, arrays, inputs), inputs);
}

/**
 * Assigns values to those of a model: by name where the name is one of the model's, the others by position among those
 * that are left.
 */
export function byName(values: readonly NamedValue[], infos: readonly ValueInfo[]): Values {
  const names = new Set(infos.map(({ name }) => name));
  const taken = new Set(values.map(({ name }) => name).filter((name) => names.has(name)));
  const free = infos.map(({ name }) => name).filter((name) => !taken.has(name));
  let next = 0;
  return Object.fromEntries(
    values.map(({ name, value }, i) => [names.has(name) ? name : (free[next++] ?? (name || `#${i}`)), value]),
  );
}

/**
 * Reads .pb and .npy files. A .pb file does not say what kind of value is in it: that is known from the model's value
 * of the file's own name, or of its number.
 */
function readFiles(folder: string, files: readonly string[], infos: readonly ValueInfo[]): Promise<NamedValue[]> {
  // A file with a default may be left out, and then the numbers count the others.
  const required = infos.filter(({ optional }) => !optional);
  const numbered = files.length > required.length ? infos : required;
  return Promise.all(
    files.map(async (file, position) => {
      const bytes = await readFile(join(folder, file));
      if (file.endsWith(".npy")) return { name: basename(file, ".npy"), value: readNpy(bytes, join(folder, file)) };
      const ownName = basename(file, ".pb");
      const number = /^(?:in|out)put_(\d+)$/.exec(ownName)?.[1] ?? position;
      const info = infos.find((one) => one.name === ownName) ?? numbered[Number(number)];
      const { name, value } = await readValue(bytes, info?.type ?? "?");
      return { name: name || ownName, value };
    }),
  );
}

function walk(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  const here =
    entries.some((entry) => models.includes(entry.name)) &&
    entries.some((entry) => entry.name === "io.npz" || entry.name.startsWith("test_data_set_"));
  if (here) return [folder];
  return sorted(entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)).flatMap((name) =>
    walk(join(folder, name)),
  );
}

function readCase(folder: string, id: string): Case {
  const names = sorted(readdirSync(folder).filter((name) => name.startsWith("test_data_set_")));
  const sets = names.map((name) => pbSet(join(folder, name), name));
  if (sets.length === 0) sets.push(npzSet(join(folder, "io.npz")));
  const model = models.map((name) => join(folder, name)).find((path) => existsSync(path));
  return { id, model: model ?? join(folder, "model.onnx"), sets };
}

function pbSet(folder: string, name: string): TestSet {
  return {
    name,
    async read(inputs, outputs) {
      const files = sorted(readdirSync(folder));
      const read = async (kind: RegExp, infos: readonly ValueInfo[]) =>
        byName(
          await readFiles(
            folder,
            files.filter((file) => kind.test(file)),
            infos,
          ),
          infos,
        );
      return {
        feeds: await read(/^input_\d+\.pb$/, inputs),
        expected: await read(/^output_\d+\.pb$/, outputs),
      };
    },
  };
}

function npzSet(path: string): TestSet {
  return {
    name: "io.npz",
    async read(inputs, outputs) {
      const arrays = Array.from(readNpz(await readFile(path)), ([name, value]) => ({ name, value }));
      // A framework may predict in several ways; the first ones are those that the model's outputs stand for.
      const native = withoutPrefix(arrays, "native/");
      const named = native.filter(({ name }) => outputs.some((output) => output.name === name));
      return {
        feeds: byName(withoutPrefix(arrays, "in/"), inputs),
        expected: byName(named.length > 0 ? named : native.slice(0, outputs.length), outputs),
      };
    },
  };
}

function withoutPrefix(values: readonly NamedValue[], prefix: string): NamedValue[] {
  return values
    .filter(({ name }) => name.startsWith(prefix))
    .map(({ name, value }) => ({ name: name.slice(prefix.length), value }));
}

/** By name, with numbers by value: `input_2` stands before `input_10`. */
function sorted(names: readonly string[]): string[] {
  return [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}
