// Tokenizers of models that write: text to ids and back, the ids of krpe_tf's ByteTokenizer and PieceTokenizer.

import { read } from "./litert_web.mjs";

const SPACE = "\u2581"; // SentencePiece's sign for a space.
const UNKNOWN_PENALTY = 10; // SentencePiece's own.

/** Load the tokenizer that lies beside this file; `settings` are those of web.json. */
export async function loadTokenizer({ tokenizer }) {
  return tokenizer === "bytes" ? new ByteTokenizer() : new PieceTokenizer(await read("./model.pieces.json", "json"));
}

/** The UTF-8 bytes of a text; byte b is id b + 3. */
export class ByteTokenizer {
  constructor() {
    [this.pad, this.start, this.end] = [0, 1, 2];
    this.size = 259;
  }

  /** The ids of a text behind the start token: a prompt. */
  encode(text) {
    return [this.start, ...new TextEncoder().encode(text)].map((byte, place) => (place ? byte + 3 : byte));
  }

  /** The bytes of text that an id stands for, none for the reserved ones. */
  bytes(id) {
    return id < 3 ? new Uint8Array() : Uint8Array.of(id - 3);
  }

  decoder() {
    return new Decoder(this);
  }
}

/** SentencePiece's unigram model, with bytes for what has no piece, from model.pieces.json. */
export class PieceTokenizer {
  /** @param {{pieces: string[], scores: number[], bytes: number[], pad: number, start: number, end: number}} model `pieces` by id, null for what is no text. */
  constructor({ pieces, scores, bytes, pad, start, end }) {
    Object.assign(this, { scores, pad, start, end, byteIds: bytes, size: pieces.length });
    this.ids = new Map(pieces.map((piece, id) => [piece, id]).filter(([piece]) => piece !== null));
    this.longest = Math.max(...[...this.ids.keys()].map((piece) => piece.length));
    let least = Infinity;
    for (const id of this.ids.values()) least = Math.min(least, scores[id]);
    this.unknownScore = Math.fround(least - UNKNOWN_PENALTY);
    const encoder = new TextEncoder();
    this.texts = pieces.map((piece) => encoder.encode((piece ?? "").replaceAll(SPACE, " ")));
    bytes.forEach((id, byte) => (this.texts[id] = Uint8Array.of(byte)));
  }

  encode(text) {
    const ids = [this.start];
    text.split(SPACE).forEach((part, place) => {
      if (place) this.#spell(SPACE, ids); // The sign itself, which the model would read as a space.
      this.#encode(part.replaceAll(" ", SPACE), ids);
    });
    return ids;
  }

  bytes(id) {
    return this.texts[id];
  }

  decoder() {
    return new Decoder(this);
  }

  /** Add the ids of the most probable pieces. Sums are rounded as SentencePiece rounds them: it decides between equals. */
  #encode(text, ids) {
    const size = text.length;
    const scores = new Float32Array(size + 1);
    const from = new Int32Array(size + 1).fill(-1);
    const found = new Int32Array(size + 1);
    const better = (end, start, score, id) => {
      if (from[end] >= 0 && !(score > scores[end])) return;
      [scores[end], from[end], found[end]] = [score, start, id];
    };
    for (let start = 0; start < size; ) {
      const next = start + (text.codePointAt(start) > 0xffff ? 2 : 1);
      let single = false;
      for (let end = next; end <= size && end - start <= this.longest; end++) {
        const id = this.ids.get(text.slice(start, end));
        if (id === undefined) continue;
        single ||= end === next;
        better(end, start, Math.fround(this.scores[id] + scores[start]), id);
      }
      if (!single) better(next, start, Math.fround(this.unknownScore + scores[start]), -1);
      start = next;
    }
    const path = [];
    for (let end = size; end > 0; end = from[end]) path.push(end);
    for (const end of path.reverse()) {
      if (found[end] >= 0) ids.push(found[end]);
      else this.#spell(text.slice(from[end], end), ids);
    }
  }

  #spell(text, ids) {
    for (const byte of new TextEncoder().encode(text)) ids.push(this.byteIds[byte]);
  }
}

/** Text of ids as they come, and never half a character. */
class Decoder {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  push(id) {
    return this.utf8.decode(this.tokenizer.bytes(id), { stream: true });
  }

  finish() {
    return this.utf8.decode();
  }
}
