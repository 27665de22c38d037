// krpe_tf's WordPiece tokenizer: the same ids, from the files that an export writes. Needs nothing else.

const HANGUL_FIRST = 0xac00;
const HANGUL_LAST = 0xd7a3;
// What the table says of a code point: the first three before it is changed, the others of what comes out.
const DROPPED = 1;
const CHANGED = 2;
const SYLLABLE = 4;
const SPACE = 8;
const ALONE = 16;

/** Text to token ids between [CLS] and [SEP]. */
export class WordPiece {
  /**
   * @param {string} vocabulary model.vocab.txt: one token a line, its id is the line's number from 0.
   * @param {object} table model.normalizer.json: what becomes of each character.
   * @param {?number} maxWordBytes `max_word_bytes` of model.tokenizer_config.json: a longer word is [UNK]; null: none is.
   */
  constructor(vocabulary, table, maxWordBytes = null) {
    const tokens = vocabulary.split("\n").slice(0, -1);
    this.size = tokens.length;
    this.maxWordBytes = maxWordBytes ?? Infinity;
    this.starts = new Map();
    this.continuations = new Map();
    this.longest = 0;
    tokens.forEach((token, id) => {
      this.starts.set(token, id);
      if (token.startsWith("##")) this.continuations.set(token.slice(2), id);
      this.longest = Math.max(this.longest, token.length);
    });
    [this.pad, this.unknown, this.start, this.end] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map((t) => this.starts.get(t));
    this.kinds = new Uint8Array(0x110000);
    this.changed = new Map();
    const mark = (runs, kind) => {
      for (const [first, last] of runs) for (let code = first; code <= last; code++) this.kinds[code] |= kind;
    };
    mark(table.dropped, DROPPED);
    mark(table.spaces, SPACE);
    mark(table.alone, ALONE);
    mark(table.hangul ? [[HANGUL_FIRST, HANGUL_LAST]] : [], SYLLABLE);
    const [from, to] = table.changed;
    let place = 0;
    for (const character of from) {
      this.kinds[character.codePointAt(0)] |= CHANGED;
      this.changed.set(character, to[place++]);
    }
  }

  /** The ids of a text: [CLS], the text's own, [SEP]. */
  encode(text) {
    const ids = [this.start];
    for (const word of this.words(text)) this.pieces(word, ids);
    ids.push(this.end);
    return ids;
  }

  /** The words of a text, as the vocabulary spells them. */
  words(text) {
    const words = [];
    let word = "";
    const endWord = () => {
      if (word) words.push(word);
      word = "";
    };
    for (const character of text) {
      for (const each of this.becomes(character)) {
        const kind = this.kinds[each.codePointAt(0)];
        if (kind & SPACE) endWord();
        else if (kind & ALONE) {
          endWord();
          words.push(each);
        } else word += each;
      }
    }
    endWord();
    return words;
  }

  becomes(character) {
    const code = character.codePointAt(0);
    const kind = this.kinds[code];
    if (kind & DROPPED) return "";
    if (kind & CHANGED) return this.changed.get(character);
    if (kind & SYLLABLE) {
      const index = code - HANGUL_FIRST;
      const tail = index % 28;
      const letters = [0x1100 + Math.floor(index / 588), 0x1161 + Math.floor((index % 588) / 28)];
      return String.fromCodePoint(...letters, ...(tail ? [0x11a7 + tail] : []));
    }
    // Half of a surrogate pair is no character: where texts are UTF-8 it is this one.
    return code >= 0xd800 && code <= 0xdfff ? "\ufffd" : character;
  }

  /** Add the ids of a word's pieces to `ids`: the longest token that fits, again and again; [UNK] where none does. */
  pieces(word, ids) {
    const before = ids.length;
    const unknown = () => {
      ids.length = before;
      ids.push(this.unknown);
    };
    if (bytes(word) > this.maxWordBytes) return unknown();
    for (let start = 0; start < word.length; ) {
      const tokens = start ? this.continuations : this.starts;
      let end = Math.min(word.length, start + this.longest);
      while (end > start && !tokens.has(word.slice(start, end))) end--;
      if (end === start) return unknown();
      ids.push(tokens.get(word.slice(start, end)));
      start = end;
    }
  }
}

function bytes(text) {
  return new TextEncoder().encode(text).length;
}
