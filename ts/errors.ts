// The one error type of the package. Errors of the core arrive as plain objects and errors of this side are made here;
// both end as a ModeletError with a stable code.

/** Every code a {@link ModeletError} can have. Codes are stable: they are added, never renamed. */
export type ErrorCode =
  /** The bytes are not a model in a known format, or are damaged. */
  | "invalid-model"
  /** The bytes are well-formed but not a valid graph (a cycle, an undefined value, a missing attribute). */
  | "invalid-graph"
  /** The model uses operators, operator versions or element types that are not supported; `details` lists all. */
  | "unsupported-operator"
  /** The model uses a feature of its format that is not supported. */
  | "unsupported-model"
  /** External data of a model is missing, too short, or wrong. */
  | "external-data"
  /** An input that the model needs was not fed. */
  | "missing-input"
  /** A feed or fetch names a value that the model does not have. */
  | "unknown-name"
  /** A feed has another element type than the model's input. */
  | "wrong-type"
  /** A feed has another number of dimensions than the model's input. */
  | "wrong-rank"
  /** A feed has another size in a fixed dimension than the model's input. */
  | "wrong-dimension"
  /** Two feeds disagree about the size of one symbolic dimension. */
  | "inconsistent-dimension"
  /** A tensor's data does not fit its type and shape. */
  | "invalid-tensor"
  /** Shapes, types or values do not fit an operator's rules. */
  | "shape-mismatch"
  /** An operator failed on the data of this run. */
  | "run-failed"
  /** A limit on memory, time or iterations was exceeded. */
  | "limit-exceeded"
  /** Memory could not be had. */
  | "out-of-memory"
  /** No device of the wanted kind is available, or it failed. */
  | "device"
  /** The GPU device was lost while in use. */
  | "device-lost"
  /** The session was used after its release. */
  | "released"
  /** An argument of the API is outside what it accepts. */
  | "invalid-argument"
  /** The model could not be fetched or read: no network, an HTTP error status, a missing file. */
  | "fetch-failed"
  /** The URL answered with a web page instead of a model. */
  | "html-response"
  /** The caller's AbortSignal fired. */
  | "aborted"
  /** modelet's own WebAssembly file is missing, blocked or damaged. */
  | "wasm-unavailable"
  /** This engine lacks something modelet cannot do without (WebAssembly SIMD). */
  | "unsupported-environment"
  /** A defect of modelet itself. */
  | "internal";

/** Where an error applies. Every field that applies is filled. */
export interface ErrorPlace {
  /** Name of the node, or its position when it has no name. */
  node?: string;
  /** Operator type, with its domain when that is not ONNX's default. */
  operator?: string;
  /** Name of the input, output or value. */
  input?: string;
  /** What was expected there. */
  expected?: string;
  /** What was found there. */
  actual?: string;
  /** Further lines, such as every unsupported operator of a model. */
  details?: readonly string[];
}

/** Everything that modelet throws: a stable {@link code}, a sentence, and the place in the model it is about. */
export class ModeletError extends Error {
  override readonly name = "ModeletError";
  readonly code: ErrorCode;
  readonly node: string | undefined;
  readonly operator: string | undefined;
  readonly input: string | undefined;
  readonly expected: string | undefined;
  readonly actual: string | undefined;
  readonly details: readonly string[];

  constructor(code: ErrorCode, message: string, place: ErrorPlace = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.node = place.node;
    this.operator = place.operator;
    this.input = place.input;
    this.expected = place.expected;
    this.actual = place.actual;
    this.details = place.details ?? [];
  }

  /** The message with its place and details, as a person wants to read it. */
  describe(): string {
    const place = (["node", "operator", "input", "expected", "actual"] as const)
      .filter((key) => this[key] !== undefined && !this.message.includes(String(this[key])))
      .map((key) => `${key}: ${this[key]}`);
    const head = place.length > 0 ? `${this.message} (${place.join(", ")})` : this.message;
    return [head, ...this.details.map((line) => `  ${line}`)].join("\n");
  }
}

/** The plain object that the core throws. */
interface CoreFailure extends ErrorPlace {
  code: ErrorCode;
  message: string;
}

/** Whether a thrown value is an error that the core reported on purpose, as opposed to a trap or a defect. */
export function isCoreFailure(thrown: unknown): thrown is CoreFailure {
  return (
    typeof thrown === "object" &&
    thrown !== null &&
    !(thrown instanceof Error) &&
    typeof (thrown as CoreFailure).code === "string" &&
    typeof (thrown as CoreFailure).message === "string"
  );
}

/** Turns the core's plain object into a ModeletError. */
export function fromCore(failure: CoreFailure): ModeletError {
  return new ModeletError(failure.code, failure.message, failure);
}

/** The text of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
