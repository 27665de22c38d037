// A model that translates, in a browser: its file has signatures that read a source, and one that adds a token of its target.

import { Tensor } from "@litertjs/core";
import { compile, lengthsOf, paint, zeros } from "./litert_web.mjs";
import { loadTokenizer } from "./reversible.mjs";
import { greedy } from "./sampling.mjs";

/** The file of a run of translation, with its tokenizer. One text at a time. */
export class Translator {
  constructor(model, tokenizer) {
    Object.assign(this, { model, tokenizer });
    this.lengths = lengthsOf(model, "encode");
    this.states = model.signatures.decode.getInputDetails().filter(({ name }) => name.startsWith("kv_cache_"));
    this.busy = false;
  }

  /** Load what lies beside this file; `settings` are those of web.json. */
  static async load(settings) {
    const [tokenizer, model] = await Promise.all([loadTokenizer(settings), compile("./model.web.tflite")]);
    const translator = new Translator(model, tokenizer);
    for await (const _ of translator.translate("a", { maxTokens: 1 })); // The first run of a signature prepares it.
    return translator;
  }

  /**
   * Translate a text, greedily; yields `{ id, text }` for each token, where `text` is what is certain by now, and last
   * `{ text, sourceTokens, sourceMs, tokens, ms }`.
   * @param {string} source
   * @param {{maxTokens?: number, signal?: AbortSignal}} options `maxTokens` is by default about twice the tokens of the
   *   source; `signal` stops.
   */
  async *translate(source, { maxTokens, signal } = {}) {
    if (this.busy) throw new Error("The model is translating already.");
    this.busy = true;
    // The same tensors come out of one step and go into the next: they never leave WebAssembly.
    let state = {};
    let cross = {};
    const started = performance.now();
    try {
      const ids = [...this.tokenizer.encode(source), this.tokenizer.end];
      const decoder = this.tokenizer.decoder();
      cross = await this.#read(ids);
      const sourceMs = performance.now() - started;
      state = zeros(this.states);
      const most = maxTokens ?? 16 + 2 * 16 * 2 ** Math.ceil(Math.log2(Math.ceil(ids.length / 16)));
      let tokens = 0;
      let painted = started;
      for (let id = this.tokenizer.start; tokens < most && !signal?.aborted; ) {
        const { logits, ...next } = await this.#run("decode", { tokens: new Tensor(Int32Array.of(id), [1, 1]) }, { ...cross, ...state });
        for (const tensor of Object.values(state)) tensor.delete();
        state = next;
        id = greedy(Float32Array.from(logits.toTypedArray()));
        logits.delete();
        tokens++;
        yield { id, text: decoder.push(id) };
        if (id === this.tokenizer.end) break;
        painted = await paint(painted);
      }
      yield { text: decoder.finish(), sourceTokens: ids.length, sourceMs, tokens, ms: performance.now() - started };
    } finally {
      for (const tensor of [...Object.values(state), ...Object.values(cross)]) tensor.delete();
      this.busy = false;
    }
  }

  /** Return what the decoder needs of a source. */
  async #read(ids) {
    const length = this.lengths.find((each) => each >= ids.length);
    if (length === undefined) {
      const [count, most] = [ids.length, this.lengths.at(-1)].map((each) => each.toLocaleString("en"));
      throw new RangeError(`The text has ${count} tokens, and this model reads ${most} at most.`);
    }
    const tokens = new Int32Array(length);
    tokens.set(ids);
    const mask = new Int32Array(length).fill(1, 0, ids.length);
    const inputs = { source_ids: new Tensor(tokens, [1, length]), source_mask: new Tensor(mask, [1, length]) };
    return this.#run(`encode_${length}`, inputs, {});
  }

  /** Run a signature; `inputs` are deleted, `kept` are not. */
  async #run(signature, inputs, kept) {
    try {
      return await this.model.run(signature, { ...inputs, ...kept });
    } finally {
      for (const tensor of Object.values(inputs)) tensor.delete();
    }
  }
}
