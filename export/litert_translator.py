"""Translates with a .tflite file from krpe_tf's `export_translator`, with numpy and ai-edge-litert alone.

This one file imports nothing else: an app may copy it. Texts are read and written with the tokenizer that lies beside
the .tflite; where its tokens are pieces of words, that takes the package sentencepiece too.

    translator = LiteRTTranslator("model.tflite")
    translator(["The sea is calm."])
    translator.translate_ids([2, 17, 9, 3], sampler="greedy")

Memory and the time of a token depend neither on the length of the source nor on that of its translation.
"""

import functools
import json
import os
import re
import threading
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

SAMPLERS = ("beam", "greedy")
# What reads a longer source is opened for it alone: its memory grows with the length, and is given back.
LONGEST_KEPT = 512


class LiteRTTranslator:
    """An exported model of translation: texts to texts, or ids to ids. Threads may share it.

    Attributes: `lengths`, how many tokens a source may have in each signature, ascending; `rows`, how many translations
    of a source a signature reads at a time; `vocabulary_size`, of the target; `state_bytes`, what a translation carries
    from token to token, and `source_bytes`, what is kept of its source.

    Args:
        path: The .tflite file.
        num_threads: Threads that one call may use.

    Raises:
        ValueError: If `path` is not a file that `export_translator` wrote, or another argument is out of range.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options

        _check_integer(1, num_threads=num_threads)
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"`path` must be the path of a .tflite file. Received: path={path!r}")
        self._path, self._num_threads = os.fspath(path), num_threads
        try:
            interpreter = self._open()  # Knows the shapes, and never runs.
        except ValueError as error:
            raise ValueError(f"`path` must be a .tflite file ({error}). Received: path={path!r}") from error
        names = list(interpreter.get_signature_list())
        self.lengths = sorted(int(name[7:]) for name in names if re.fullmatch(r"encode_\d+", name))
        self._decode = {int(name[7:] or 1): name for name in names if re.fullmatch(r"decode(_\d+)?", name)}
        self.rows = sorted(self._decode)
        if not self.lengths or not self.rows:
            raise ValueError(
                "`path` must be a file that `export_translator` wrote, with signatures encode_N and decode. "
                f"Received: path={path!r}, signatures {', '.join(names)}"
            )
        runner = interpreter.get_signature_runner(self._decode[self.rows[0]])
        self.vocabulary_size = int(runner.get_output_details()["logits"]["shape"][-1])
        shapes = {name: tuple(map(int, each["shape"][1:])) for name, each in runner.get_input_details().items()}
        self._state = {name: shape for name, shape in shapes.items() if name.startswith("kv_cache_")}
        self._cross = {name: shape for name, shape in shapes.items() if name.startswith("cross_")}
        self.state_bytes, self.source_bytes = (
            sum(4 * int(np.prod(shape)) for shape in each.values()) for each in (self._state, self._cross)
        )
        self._model = CompiledModel.from_file(self._path, options=Options(cpu_options=CpuOptions(num_threads)))
        self._lock = threading.Lock()

    def __call__(
        self,
        texts: Iterable[str],
        *,
        sampler: str = "beam",
        num_beams: int = 5,
        length_penalty: float = 1.2,
        patience: float | None = 1.0,
        max_tokens: int | None = None,
    ) -> list[str]:
        """Translate texts.

        Args:
            texts: Sources. One that shows nothing has an empty translation.
            sampler: "beam", or "greedy" for the likeliest token each time.
            num_beams, length_penalty, patience: Of "beam", see `krpe_tf.models.samplers.Beam`: by default the search of
                arXiv 2106.12566, ended as fairseq ends it.
            max_tokens: The most tokens of a translation; None for about twice as many as its source has.

        Returns:
            A translation for each text.

        Raises:
            ValueError: For texts that are none, or longer than the largest signature, arguments out of range, or
                without a tokenizer beside the file; before anything runs.
        """
        options = _search_options(sampler, num_beams, length_penalty, patience, max_tokens)
        texts, tokenizer = _check_texts(texts), self.tokenizer
        sources = [tokenizer.encode(text) if _is_visible(text) else [] for text in texts]
        for index, ids in enumerate(sources):
            self._check_source(ids or [0], f"texts[{index}]")
        return [
            tokenizer.decode(self._translate(ids, options, tokenizer.start_id, (tokenizer.end_id,))) if ids else ""
            for ids in sources
        ]

    def translate_ids(
        self,
        source_ids: Sequence[int],
        *,
        sampler: str = "beam",
        num_beams: int = 5,
        length_penalty: float = 1.2,
        patience: float | None = 1.0,
        max_tokens: int | None = None,
        start_token_id: int = 2,
        stop_token_ids: Iterable[int] = (3,),
    ) -> list[int]:
        """Write the target of one source.

        Args:
            source_ids: Its tokens, as the tokenizer makes them.
            sampler, num_beams, length_penalty, patience, max_tokens: As for a call.
            start_token_id: What the decoder reads first.
            stop_token_ids: Ids that end a target.

        Returns:
            The ids of the target, without the start, the stop token among them if it was reached.

        Raises:
            ValueError: For a source longer than the largest signature, ids that are none, or arguments out of range.
        """
        options = _search_options(sampler, num_beams, length_penalty, patience, max_tokens)
        ids = self._check_source(source_ids)
        stops = _check_ids("stop_token_ids", list(stop_token_ids), self.vocabulary_size).tolist()
        _check_ids("start_token_id", [start_token_id], self.vocabulary_size)
        return self._translate(ids, options, start_token_id, tuple(sorted(set(stops))))

    def session(self, source_ids: Sequence[int], num_rows: int = 1) -> "Session":
        """Read a source, and begin `num_rows` translations of it.

        Raises:
            ValueError: As `translate_ids`.
        """
        _check_integer(1, num_rows=num_rows)
        return Session(self, self._check_source(source_ids), num_rows)

    @functools.cached_property
    def tokenizer(self) -> "Tokenizer":
        """What lies beside the file and makes its ids; a ValueError where nothing does."""
        return Tokenizer(self._path)

    def _translate(self, ids, options: dict, start: int, stops: tuple[int, ...]) -> list[int]:
        # Without a limit about twice the tokens of the source, as `krpe_tf.tasks.translate` counts them.
        most = options["max_tokens"] or 16 + 2 * (16 << ((len(ids) - 1) // 16).bit_length())
        if options["sampler"] == "beam":
            session = Session(self, ids, options["num_beams"])
            return search(session, start, stops, most, options["length_penalty"], options["patience"])
        session, target = Session(self, ids, 1), [start]
        while len(target) <= most and (len(target) == 1 or target[-1] not in stops):
            target.append(int(np.argmax(session.decode(target[-1:])[0])))
        return target[1:]

    def _open(self):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=self._path, num_threads=self._num_threads)

    def _check_source(self, ids: Sequence[int], name: str = "source_ids") -> np.ndarray:
        ids = _check_ids(name, ids)
        if not 1 <= len(ids) <= self.lengths[-1]:
            raise ValueError(
                f"`{name}` must have from 1 to {self.lengths[-1]} tokens, what the file's largest signature reads: "
                f"export it with a longer one among `lengths`. Received: {len(ids)} tokens"
            )
        return ids


class Session:
    """Translations of one source, read a token at a time in memory that does not grow; `LiteRTTranslator` makes it."""

    def __init__(self, translator: LiteRTTranslator, source_ids: Sequence[int], num_rows: int):
        self._translator, self.num_rows = translator, num_rows
        # The smallest signature that holds all rows, or the largest several times.
        self._size = next((r for r in translator.rows if r >= num_rows), translator.rows[-1])
        self._name = translator._decode[self._size]
        self._source = self._read(np.asarray(source_ids, np.int32))
        # Of each group what goes in, and what comes out.
        self._groups = [
            [{name: self._input(name) for name in translator._state} for _ in range(2)]
            for _ in range(-(-num_rows // self._size))
        ]
        for before, _ in self._groups:
            for name, buffer in before.items():
                buffer.write(np.zeros((self._size, *translator._state[name]), np.float32))
        self._tokens = self._input("tokens")
        self._logits = translator._model.create_output_buffer_by_name(self._name, "logits")

    def decode(self, token_ids: Sequence[int]) -> np.ndarray:
        """Read the next token of every translation; return logits of what follows, `(num_rows, vocabulary_size)`."""
        translator, size = self._translator, self._size
        ids = np.zeros(len(self._groups) * size, np.int32)
        ids[: self.num_rows] = _check_ids("token_ids", token_ids, translator.vocabulary_size)
        logits = []
        for index, (before, after) in enumerate(self._groups):
            self._tokens.write(ids[index * size : (index + 1) * size].reshape(size, 1))
            inputs = {"tokens": self._tokens, **self._source, **before}
            self._run(self._name, inputs, {"logits": self._logits, **after})
            self._groups[index].reverse()
            logits.append(self._logits.read(size * translator.vocabulary_size, np.float32).reshape(size, -1))
        return (logits[0] if len(logits) == 1 else np.concatenate(logits))[: self.num_rows]

    def follow(self, rows: Sequence[int]) -> None:
        """Let each translation continue the one of a row: the first that of `rows[0]`, and so on."""
        size, places = self._size, np.arange(len(self._groups) * self._size)
        if np.array_equal(rows, places[: self.num_rows]):
            return
        places[: self.num_rows] = rows
        for name, shape in self._translator._state.items():
            read = [before[name].read(size * int(np.prod(shape)), np.float32) for before, _ in self._groups]
            arrays = np.concatenate([each.reshape(size, *shape) for each in read])[places]
            for index, (before, _) in enumerate(self._groups):
                before[name].write(np.ascontiguousarray(arrays[index * size : (index + 1) * size]))

    def _read(self, ids: np.ndarray) -> dict:
        translator, source = self._translator, {name: self._input(name) for name in self._translator._cross}
        length = next(n for n in translator.lengths if n >= len(ids))
        pairs = (("source_ids", ids), ("source_mask", np.ones_like(ids)))
        arrays = {name: np.pad(x, (0, length - len(ids)))[np.newaxis] for name, x in pairs}
        try:
            if length > LONGEST_KEPT:
                for name, x in translator._open().get_signature_runner(f"encode_{length}")(**arrays).items():
                    source[name].write(x)
                return source
            inputs = {name: self._input(name, f"encode_{length}") for name in arrays}
            for name, buffer in inputs.items():
                buffer.write(arrays[name])
            self._run(f"encode_{length}", inputs, source)
        except RuntimeError as error:
            raise ValueError(
                f"`source_ids` must lie in the vocabulary that the model was built for ({error}). "
                f"Received: ids from {ids.min()} to {ids.max()}"
            ) from error
        return source

    def _input(self, name: str, signature: str | None = None):
        return self._translator._model.create_input_buffer_by_name(signature or self._name, name)

    def _run(self, name: str, inputs: dict, outputs: dict):
        with self._translator._lock:
            self._translator._model.run_by_name(name, inputs, outputs)


def search(session: Session, start: int, stops: tuple[int, ...], most: int, penalty: float, patience: float | None):
    """Return the ids that a beam search finds, by the rules of `krpe_tf.models.samplers.Beam`, a beam in each row."""
    beams, penalty = session.num_rows, np.float32(penalty)
    texts, best, best_score, finished = [[] for _ in range(beams)], None, -np.inf, 0
    wanted = np.inf if patience is None else patience * beams
    # All beams begin alike, so only the first counts.
    log_p, tokens = np.where(np.arange(beams), -np.inf, 0).astype(np.float32), [start] * beams
    for length in range(1, most + 1):
        # log p only falls, and is divided by a length of at most `most`.
        if best_score >= log_p[0] / np.float32(most) ** penalty or finished >= wanted:
            break
        logits = session.decode(tokens)
        logits = logits - logits.max(axis=-1, keepdims=True)
        totals = log_p[:, np.newaxis] + (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
        ends = totals[:, list(stops)]
        if stops:
            if patience is not None:
                ends = np.where(ends >= _largest(totals, beams)[0][-1], ends, -np.inf)
            finished += np.count_nonzero(ends > -np.inf)
            row, stop = divmod(int(np.argmax(ends)), len(stops))
            score = ends[row, stop] / np.float32(length) ** penalty
            if score > best_score:
                best, best_score = [*texts[row], stops[stop]], score
            totals[:, list(stops)] = -np.inf
        log_p, places = _largest(totals, beams)
        parents, tokens = np.divmod(places, totals.shape[1])
        texts = [[*texts[row], token] for row, token in zip(parents, tokens.tolist(), strict=True)]
        session.follow(parents)
    return texts[0] if best is None else best


def _largest(totals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest numbers of all rows and their places, of equal ones the first first."""
    totals = totals.ravel()
    places = np.flatnonzero(totals >= np.partition(totals, -count)[-count])
    places = places[np.argsort(-totals[places], kind="stable")][:count]
    return totals[places], places


class Tokenizer:
    """The tokenizer of the files `model.tokenizer_config.json` and `model.spiece.model` beside `model.tflite`.

    Attributes: `start_id` and `end_id`; `pieces`, the bytes of text that each id stands for.
    """

    def __init__(self, path: str):
        beside = os.path.splitext(path)[0]
        try:
            with open(f"{beside}.tokenizer_config.json", encoding="utf-8") as file:
                config = json.load(file)
        except FileNotFoundError as error:
            raise ValueError(
                "`texts` need the tokenizer that `export_translator` writes beside the file; `translate_ids` needs "
                f"none. Received: no {error.filename}"
            ) from error
        self.start_id, self.end_id = config["start_id"], config["end_id"]
        self._processor = None
        if config["tokenizer_class"] == "ByteTokenizer":
            self._offset = config["byte_offset"]
            self.pieces = [b""] * self._offset + [bytes([byte]) for byte in range(256)]
            return
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=f"{beside}.spiece.model")
        self.pieces = [self._bytes_of(index) for index in range(self._processor.get_piece_size())]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, between those of start and end."""
        if self._processor is None:
            ids = [self._offset + byte for byte in text.encode()]
        else:
            # SentencePiece writes a space as this sign; the sign itself is written in bytes.
            first, *others = text.split("\u2581")
            sign = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in "\u2581".encode()]
            ids = sum((sign + self._processor.encode(part) for part in others), self._processor.encode(first))
        return [self.start_id, *ids, self.end_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; of bytes that no UTF-8 has, U+FFFD."""
        return b"".join(self.pieces[each] for each in ids).decode(errors="replace")

    def _bytes_of(self, index: int) -> bytes:
        processor, piece = self._processor, self._processor.id_to_piece(index)
        if processor.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        if processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index):
            return b""
        return piece.replace("\u2581", " ").encode()


def _search_options(sampler, num_beams, length_penalty, patience, max_tokens) -> dict:
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(map(repr, SAMPLERS))}. Received: sampler={sampler!r}")
    _check_integer(1, num_beams=num_beams)
    if max_tokens is not None:
        _check_integer(1, max_tokens=max_tokens)
    if not (_is_number(length_penalty) and 0 <= length_penalty < np.inf):
        raise ValueError(
            f"`length_penalty` must be a number of at least 0. Received: length_penalty={length_penalty!r}"
        )
    if not (patience is None or (_is_number(patience) and patience > 0)):
        raise ValueError(f"`patience` must be None or a number above 0. Received: patience={patience!r}")
    search = {"length_penalty": length_penalty, "patience": patience, "num_beams": num_beams}
    return {"sampler": sampler, "max_tokens": max_tokens, **search}


def _is_number(x) -> bool:
    return isinstance(x, (int, float, np.number)) and not isinstance(x, bool)


def _check_integer(least: int, **arguments):
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}")


def _check_ids(name: str, values, size: int | None = None) -> np.ndarray:
    try:
        ids = np.asarray(values)
    except ValueError as error:  # Lists of different lengths.
        raise ValueError(f"`{name}` must be a list of integers. Received: {name}={values!r:.80}") from error
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"`{name}` must be a list of integers. Received: {name}={values!r:.80}")
    # LiteRT counts negative ids from the vocabulary's end, without an error.
    last = np.iinfo(np.int32).max if size is None else size - 1
    if ids.size and (ids.min() < 0 or ids.max() > last):
        raise ValueError(
            f"`{name}` must lie in the vocabulary{'' if size is None else f', from 0 to {last}'}. "
            f"Received: ids from {ids.min()} to {ids.max()}"
        )
    return ids.astype(np.int32)


def _check_texts(texts) -> list[str]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise ValueError(f"`texts` must be a list of texts: wrap one text in []. Received: texts={texts!r:.80}")
    for index, text in enumerate(texts := list(texts)):
        if not isinstance(text, str) or re.search("[\ud800-\udfff]", text):
            raise ValueError(f"`texts` must hold str of valid Unicode. Received: texts[{index}]={text!r:.80}")
    return texts


def _is_visible(text: str) -> bool:
    return any(not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") for char in text)
