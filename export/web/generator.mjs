// A model that writes, in a browser: its file has signatures that read a prompt in pieces, and one that adds a token.

import { Tensor } from "@litertjs/core";
import { compile, lengthsOf, paint, zeros } from "./litert_web.mjs";
import { loadTokenizer } from "./reversible.mjs";
import { draw, greedy } from "./sampling.mjs";

/** The file of a run of causal_lm, with its tokenizer. One text at a time. */
export class Generator {
  constructor(model, tokenizer) {
    Object.assign(this, { model, tokenizer });
    this.pieces = lengthsOf(model, "prefill");
    this.states = model.signatures.decode.getInputDetails().filter(({ name }) => name.startsWith("kv_cache_"));
    this.busy = false;
  }

  /** Load what lies beside this file; `settings` are those of web.json. */
  static async load(settings) {
    const [tokenizer, model] = await Promise.all([loadTokenizer(settings), compile("./model.web.tflite")]);
    const generator = new Generator(model, tokenizer);
    for await (const _ of generator.write("", { maxTokens: 1 })); // The first run of a signature prepares it.
    return generator;
  }

  /**
   * Write on behind a prompt; yields `{ id, text, position }` for each token, where `text` is what is certain by now, and
   * last `{ text, promptTokens, promptMs, tokens, ms }`.
   * @param {string} prompt
   * @param {{maxTokens?: number, temperature?: number, topK?: ?number, topP?: ?number, uniform?: function, signal?: AbortSignal}} options
   *   `temperature` 0 takes the most probable token; `uniform(position)` gives a number in [0, 1) for the token there;
   *   `signal` stops.
   */
  async *write(prompt, { maxTokens = 200, temperature = 0, uniform = Math.random, signal, ...kept } = {}) {
    if (this.busy) throw new Error("The model is writing already.");
    this.busy = true;
    // The same tensors come out of one step and go into the next: they never leave WebAssembly.
    let state = {};
    const started = performance.now();
    let promptMs = 0;
    let tokens = 0;
    try {
      const ids = this.tokenizer.encode(prompt);
      const decoder = this.tokenizer.decoder();
      state = zeros(this.states);
      let position = 0;
      let painted = started;
      const last = ids.length - 1;
      while (position < last && !signal?.aborted) {
        const count = Math.min(last - position, this.pieces.at(-1));
        ({ state } = await this.#step(ids.slice(position, position + count), position, state));
        position += count;
        painted = await paint(painted);
      }
      for (let id = ids[last]; tokens < maxTokens && !signal?.aborted; ) {
        const result = await this.#step([id], position, state, "decode");
        state = result.state;
        promptMs ||= performance.now() - started;
        position++;
        id = temperature > 0 ? draw(result.logits, uniform(position), { temperature, ...kept }) : greedy(result.logits);
        tokens++;
        yield { id, text: decoder.push(id), position };
        if (id === this.tokenizer.end) break;
        painted = await paint(painted);
      }
      const ms = performance.now() - started;
      yield { text: decoder.finish(), promptTokens: ids.length, promptMs, tokens, ms };
    } finally {
      for (const tensor of Object.values(state)) tensor.delete();
      this.busy = false;
    }
  }

  /** Read ids, the first at `position`; returns the new state, and the logits where the signature has some. */
  async #step(ids, position, state, signature = `prefill_${this.pieces.find((each) => each >= ids.length)}`) {
    const length = signature === "decode" ? 1 : Number(signature.slice("prefill_".length));
    // What follows the piece is padding: token 0 at position 0.
    const tokens = new Int32Array(length);
    const positions = new Int32Array(length);
    for (let place = 0; place < ids.length; place++) {
      tokens[place] = ids[place];
      positions[place] = Math.min(position + place, 2 ** 31 - 1); // Only whether it is 0 counts.
    }
    const inputs = { tokens: new Tensor(tokens, [1, length]), input_pos: new Tensor(positions, [length]) };
    let outputs;
    try {
      outputs = await this.model.run(signature, { ...inputs, ...state });
    } finally {
      for (const tensor of Object.values(inputs)) tensor.delete();
    }
    for (const tensor of Object.values(state)) tensor.delete();
    const { logits, ...next } = outputs;
    if (!logits) return { state: next };
    const values = Float32Array.from(logits.toTypedArray());
    logits.delete();
    return { state: next, logits: values };
  }
}
