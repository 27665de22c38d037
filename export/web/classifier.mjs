// A text classifier in a browser: text in, probabilities out.

import { IdsModel, read } from "./litert_web.mjs";
import { WordPiece } from "./wordpiece.mjs";

/** A run of text classification. */
export class Classifier {
  constructor(tokenizer, model, labels) {
    Object.assign(this, { tokenizer, model, labels });
  }

  /** Load what lies beside this file; `settings` are those of web.json. */
  static async load(settings) {
    const [vocabulary, table, model] = await Promise.all([
      read("./model.vocab.txt", "text"),
      read("./model.normalizer.json", "json"),
      IdsModel.load(),
    ]);
    return new Classifier(new WordPiece(vocabulary, table, settings.max_word_bytes), model, settings.labels);
  }

  /** Classify a text; returns the probability of every label, how many tokens the text has, and milliseconds. */
  async classify(text) {
    const started = performance.now();
    const ids = this.tokenizer.encode(text);
    if (ids.length === 2) throw new RangeError("The text is empty, or has only white space and invisible characters.");
    const tokenized = performance.now();
    const { output, signature } = await this.model.run(ids);
    const ended = performance.now();
    const probabilities = softmax(output);
    const answers = this.labels.map((label, index) => ({ label, probability: probabilities[index] }));
    return {
      answers,
      logits: output,
      tokens: ids.length,
      signature,
      tokenizerMs: tokenized - started,
      modelMs: ended - tokenized,
    };
  }
}

/** Softmax, in double precision. */
export function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const odds = Array.from(logits, (each) => Math.exp(each - largest));
  const sum = odds.reduce((a, b) => a + b);
  return odds.map((each) => each / sum);
}
