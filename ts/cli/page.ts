// What runs inside the browser for `--browser`: loads models with the package as a page would, and takes and gives
// values over the local server. The command line calls it through `modeletPage.call`.

import {
  type Device,
  type InspectStage,
  ModeletError,
  type Optimization,
  type Profile,
  type Report,
  Session,
  type ValueInfo,
} from "../index.js";
import { type BenchPlan, type Measurement, measure } from "./measure.js";
import { packValues, unpackValues } from "./pack.js";

let session: Session | undefined;
let answers = 0;

const api = {
  async open(
    url: string,
    options: { device: Device; optimization?: Optimization; threads?: number },
  ): Promise<{ inputs: readonly ValueInfo[]; outputs: readonly ValueInfo[] }> {
    session = await Session.load(url, options);
    return { inputs: session.inputs, outputs: session.outputs };
  },
  /** Runs on the feeds at a URL and answers with the URL of the outputs. */
  async run(url: string): Promise<string> {
    const outputs = await opened().run(unpackValues(await getBytes(url)));
    const answer = `/block/out${answers++}-${Math.random().toString(36).slice(2)}`;
    // The browser's debugger is told the text of every request, but not that of a blob.
    await fetch(answer, { method: "POST", body: new Blob([packValues(outputs)]) });
    return answer;
  },
  async report(): Promise<Report> {
    return opened().report();
  },
  async inspect(stage: InspectStage, json: boolean): Promise<string> {
    return opened().inspect(stage, { json });
  },
  async profile(url: string, runs: number): Promise<Profile> {
    return opened().profile(unpackValues(await getBytes(url)), { runs });
  },
  async bench(plan: BenchPlan, model: string, feeds: string): Promise<Measurement[]> {
    return measure(plan, new Uint8Array(await getBytes(model)), unpackValues(await getBytes(feeds)));
  },
};

/** What the command line can call. */
export type PageApi = typeof api;

/** A result or an error, as plain data. */
export type PageResult = { value: unknown } | { error: { code?: string; message: string; [field: string]: unknown } };

async function call(name: keyof PageApi, args: unknown[]): Promise<PageResult> {
  try {
    return { value: await (api[name] as (...values: unknown[]) => Promise<unknown>)(...args) };
  } catch (error) {
    if (!(error instanceof ModeletError)) return { error: { message: String((error as Error)?.stack ?? error) } };
    const { code, message, node, operator, input, expected, actual, details } = error;
    return { error: { code, message, node, operator, input, expected, actual, details } };
  }
}

function opened(): Session {
  if (!session) throw new Error("no model is open");
  return session;
}

async function getBytes(url: string): Promise<ArrayBuffer> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.arrayBuffer();
}

Object.assign(globalThis, { modeletPage: { call } });
