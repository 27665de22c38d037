"""WordPiece: a vocabulary learned from texts, and its tokenizer, on tensorflow-text's own tools."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..checks import check_at_least
from .checks import check_texts
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text as tf_text

RESERVED_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = True) -> list[str]:
    """Train a WordPiece vocabulary with tensorflow-text's `bert_vocab_from_dataset`.

    The same texts give the same vocabulary. 12 MB of English and 8,192 tokens take about 15 seconds on one core; more
    text adds the counting of its words and no more, since only the 4 * `vocabulary_size` commonest are learned from.

    Args:
        texts: Texts to learn from, `str` or UTF-8 `bytes`.
        vocabulary_size: The most tokens to return, `RESERVED_TOKENS` included. Few texts give fewer.
        lowercase: Learn from lowercase text without accents, as a tokenizer with `lowercase=True` sees it.

    Returns:
        The tokens, most frequent first after the reserved ones (`[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`: ids 0
        to 4) and the single characters.

    Raises:
        ValueError: For bad texts (see `check_texts`) or a `vocabulary_size` that is not an integer of 32 or more.
    """
    check_at_least(32, vocabulary_size=vocabulary_size)
    # The trainer splits at ASCII white space only, FastBertTokenizer at all of it: no word may hold a no-break space.
    texts = [" ".join(text.split()) for text in check_texts(texts)]

    import tensorflow as tf
    from tensorflow_text.tools.wordpiece_vocab import bert_vocab_from_dataset

    learned = bert_vocab_from_dataset.bert_vocab_from_dataset(
        tf.data.Dataset.from_tensor_slices(texts).batch(16),
        vocab_size=vocabulary_size,
        reserved_tokens=list(RESERVED_TOKENS),
        bert_tokenizer_params={"lower_case": lowercase},
        learn_params={
            # The tool bisects for a count threshold, seconds a step, from the commonest word's count down. The answer
            # was 36 to 97 times below characters / vocabulary_size (English, 1k and 8k tokens): start at an eighth of
            # that. Two rounds of re-segmenting instead of four cost 0.2 % more tokens there.
            "upper_thresh": max(2, sum(map(len, texts)) // (8 * vocabulary_size)),
            "lower_thresh": 2,
            "num_iterations": 2,
            "max_input_tokens": 4 * vocabulary_size,
            "max_unique_chars": min(1000, (vocabulary_size - len(RESERVED_TOKENS)) // 2),
        },
    )
    # The bisection may end a step above the size: drop the rarest pieces, but no character, or words turn unknown.
    essential = {token for token in learned if token in RESERVED_TOKENS or len(token.removeprefix("##")) == 1}
    longer = [token for token in learned if token not in essential]
    kept = essential.union(longer[: vocabulary_size - len(essential)])
    return [token for token in learned if token in kept]


class WordPieceTokenizer(Tokenizer):
    """WordPiece tokens between [CLS] and [SEP], by tensorflow-text's `FastBertTokenizer`.

    Reserved tokens written in a text ("[MASK]") are plain characters: text cannot produce their ids, save [UNK].

    Attributes: `vocabulary` (list of tokens), `vocabulary_size`, `lowercase`, the ids `pad_id`, `unknown_id`,
    `start_id` ([CLS]), `end_id` ([SEP]) and `mask_id`, and `wordpieces`, the `FastBertTokenizer` itself.

    Args:
        vocabulary: Distinct tokens, each one's place is its id; continuing pieces start with "##". It must hold
            `RESERVED_TOKENS`, anywhere. BERT's own vocabularies fit.
        lowercase: Lowercase the text and strip accents first.

    Raises:
        ValueError: For reserved tokens that are missing, tokens twice, or tokens that are not non-empty strings.
    """

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True):
        vocabulary = list(vocabulary)
        wrong = [token for token in vocabulary if not isinstance(token, str) or not token]
        if wrong:
            raise ValueError(f"`vocabulary` must hold non-empty strings only. Received: {wrong[0]!r}")
        ids = {token: index for index, token in enumerate(vocabulary)}
        missing = [token for token in RESERVED_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"`vocabulary` must hold {RESERVED_TOKENS}. Received: vocabulary without {missing}")
        if len(ids) < len(vocabulary):
            twice = next(token for index, token in enumerate(vocabulary) if ids[token] != index)
            raise ValueError(f"`vocabulary` must hold each token once. Received: {twice!r} more than once")
        self.vocabulary = vocabulary
        self.lowercase = bool(lowercase)
        self.pad_id, self.unknown_id, self.start_id, self.end_id, self.mask_id = (ids[t] for t in RESERVED_TOKENS)

    @cached_property
    def wordpieces(self) -> "tf_text.FastBertTokenizer":
        """The `FastBertTokenizer`, made when first used: the ids alone need no TensorFlow."""
        import tensorflow as tf
        import tensorflow_text as tf_text

        with tf.init_scope():  # Its tables must not belong to a graph that happens to be traced.
            return tf_text.FastBertTokenizer(
                self.vocabulary,
                token_out_type=tf.int32,
                unknown_token="[UNK]",
                lower_case_nfd_strip_accents=self.lowercase,
            )

    def _pieces(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        return self.wordpieces.tokenize(texts)

    def get_config(self) -> dict:
        """Return what `save` writes."""
        return {"lowercase": self.lowercase, "vocabulary": self.vocabulary}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        return {name: config[name] for name in ("vocabulary", "lowercase")}
