// The exported files in a browser: LiteRT.js runs them, on the CPU, inside the page. No text leaves it.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

let runtime;

/** Load LiteRT.js, once a page. */
export function loadRuntime(folder = "./litertjs/core/wasm/") {
  runtime ??= loadLiteRt(new URL(folder, import.meta.url).href);
  return runtime;
}

/** Fetch a file beside this one, as "text", "json" or "bytes". */
export async function read(name, kind) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} cannot be read: ${response.status} ${response.statusText}`);
  return kind === "bytes" ? new Uint8Array(await response.arrayBuffer()) : response[kind]();
}

/** Compile a .tflite file for the CPU. */
export async function compile(name) {
  await loadRuntime();
  return loadAndCompile(await read(name, "bytes"), { accelerator: "wasm" });
}

/** Tensors of zeros for some inputs of a signature, by name. */
export function zeros(details) {
  const tensor = (shape) => new Tensor(new Float32Array(shape.reduce((a, b) => a * b)), [...shape]);
  return Object.fromEntries(details.map(({ name, shape }) => [name, tensor(shape)]));
}

const FRAME_MS = 16; // As often the page may be painted.
const turn = new MessageChannel();

/** Let the page be painted if that was last done, at `painted`, a frame ago; returns when it was done last. */
export async function paint(painted) {
  if (performance.now() - painted < FRAME_MS) return painted;
  // In line with all else that waits: `scheduler.yield` would go first, and a click on Stop never come.
  await new Promise((resolve) => {
    turn.port1.onmessage = resolve;
    turn.port2.postMessage(null);
  });
  return performance.now();
}

/** The numbers of the signatures `kind_n` of a model, ascending. */
export function lengthsOf(model, kind) {
  return Object.keys(model.signatures)
    .map((name) => Number(new RegExp(`^${kind}_(\\d+)$`).exec(name)?.[1]))
    .filter((length) => length)
    .sort((a, b) => a - b);
}

/** The signatures `ids_n` of model.web.tflite: one document at a time, on the smallest that holds it. */
export class IdsModel {
  constructor(model) {
    this.model = model;
    this.lengths = lengthsOf(model, "ids");
    this.last = Promise.resolve();
  }

  static async load(name = "./model.web.tflite") {
    const model = new IdsModel(await compile(name));
    await model.run([0]); // The first run of a signature prepares it.
    return model;
  }

  /** Run the model on a document's ids; returns its output, a Float32Array, its shape, and the signature's name. */
  run(ids) {
    // LiteRT keeps inputs and outputs in the model: one run at a time.
    const result = this.last.then(() => this.#run(ids));
    this.last = result.catch(() => {});
    return result;
  }

  async #run(ids) {
    const length = this.lengths.find((each) => each >= ids.length);
    if (length === undefined) {
      const count = ids.length.toLocaleString("en");
      throw new RangeError(`The text has ${count} tokens, and this model takes ${this.lengths.at(-1).toLocaleString("en")} at most.`);
    }
    const tokens = new Int32Array(length);
    tokens.set(ids);
    const mask = new Int32Array(length).fill(1, 0, ids.length);
    const signature = `ids_${length}`;
    const inputs = { token_ids: new Tensor(tokens, [1, length]), padding_mask: new Tensor(mask, [1, length]) };
    let outputs = {};
    try {
      outputs = await this.model.run(signature, inputs);
      // A copy: what is deleted may no longer be looked at.
      return { output: Float32Array.from(outputs.output.toTypedArray()), shape: [...outputs.output.type.layout.dimensions], signature };
    } finally {
      for (const tensor of [...Object.values(inputs), ...Object.values(outputs)]) tensor.delete();
    }
  }
}
