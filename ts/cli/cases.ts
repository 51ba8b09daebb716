// Models with inputs and reference outputs on disk: ONNX-style case folders (`test_data_set_*/` with .pb files) and
// folders with one `io.npz` (arrays `in/<input>` and `native/<output>`).

import { existsSync, readdirSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, relative, resolve } from "node:path";
import type { ValueInfo } from "../core.js";
import { readTensor, type Tensors } from "../session.js";
import type { Tensor } from "../tensor.js";
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
  readonly feeds: Tensors;
  readonly expected: Tensors;
}

interface NamedTensor {
  readonly name: string;
  readonly tensor: Tensor;
}

/** Finds every case below the folders, in the order of their names. */
export function findCases(folders: readonly string[]): Case[] {
  const cases: Case[] = [];
  for (const folder of folders) {
    if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new UsageError(`${folder} is not a folder`);
    const found = walk(resolve(folder)).map((path) => readCase(path, relative(folder, path) || basename(path)));
    if (found.length === 0) {
      throw new UsageError(`${folder} has no model.onnx with test_data_set_*/ or io.npz in it or below it`);
    }
    cases.push(...found);
  }
  return cases;
}

/** The tensors of a folder of `input_<i>.pb` (or `.npy`, or `.pb` by any name) files, or of an .npz file. */
export async function readFeeds(path: string, inputs: readonly ValueInfo[]): Promise<Tensors> {
  if (!existsSync(path)) throw new UsageError(`there is no ${path}`);
  if (!statSync(path).isDirectory()) {
    const arrays = Array.from(readNpz(await readFile(path)), ([name, tensor]) => ({ name, tensor }));
    const fed = arrays.filter(({ name }) => name.startsWith("in/"));
    if (fed.length > 0) return byName(withoutPrefix(fed, "in/"), inputs);
    // Here the person chose the names: a wrong one is for the core to refuse, not to be taken by its position.
    return Object.fromEntries(arrays.map(({ name, tensor }) => [name, tensor]));
  }
  const files = sorted(readdirSync(path));
  const chosen = files.filter((file) => /^input_\d+\.pb$/.test(file));
  const arrays = chosen.length > 0 ? chosen : files.filter((file) => /\.(pb|npy)$/.test(file));
  if (arrays.length === 0) throw new UsageError(`${path} has no .pb or .npy files`);
  return byName(await Promise.all(arrays.map((file) => readTensorFile(join(path, file)))), inputs);
}

/**
 * Assigns tensors to a model's values: by name where the name is one of the model's, the others by position among the
 * values that are left.
 */
export function byName(tensors: readonly NamedTensor[], values: readonly ValueInfo[]): Tensors {
  const names = new Set(values.map(({ name }) => name));
  const taken = new Set(tensors.map(({ name }) => name).filter((name) => names.has(name)));
  const free = values.map(({ name }) => name).filter((name) => !taken.has(name));
  let next = 0;
  return Object.fromEntries(
    tensors.map(({ name, tensor }, i) => [names.has(name) ? name : (free[next++] ?? (name || `#${i}`)), tensor]),
  );
}

async function readTensorFile(path: string): Promise<NamedTensor> {
  const bytes = await readFile(path);
  if (path.endsWith(".npy")) return { name: basename(path, ".npy"), tensor: readNpy(bytes, path) };
  const { name, tensor } = await readTensor(bytes);
  return { name: name || basename(path, ".pb"), tensor };
}

function walk(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  const here =
    entries.some((entry) => entry.name === "model.onnx") &&
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
  return { id, model: join(folder, "model.onnx"), sets };
}

function pbSet(folder: string, name: string): TestSet {
  return {
    name,
    async read(inputs, outputs) {
      const files = sorted(readdirSync(folder));
      const read = (kind: RegExp) =>
        Promise.all(files.filter((file) => kind.test(file)).map((file) => readTensorFile(join(folder, file))));
      return {
        feeds: byName(await read(/^input_\d+\.pb$/), inputs),
        expected: byName(await read(/^output_\d+\.pb$/), outputs),
      };
    },
  };
}

function npzSet(path: string): TestSet {
  return {
    name: "io.npz",
    async read(inputs, outputs) {
      const arrays = Array.from(readNpz(await readFile(path)), ([name, tensor]) => ({ name, tensor }));
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

function withoutPrefix(tensors: readonly NamedTensor[], prefix: string): NamedTensor[] {
  return tensors
    .filter(({ name }) => name.startsWith(prefix))
    .map(({ name, tensor }) => ({ name: name.slice(prefix.length), tensor }));
}

/** By name, with numbers by value: `input_2` stands before `input_10`. */
function sorted(names: readonly string[]): string[] {
  return [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}
