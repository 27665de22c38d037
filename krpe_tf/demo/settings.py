"""Sizes of the demo."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo. The defaults suit two cores."""

    vocabulary_size: int = 8192
    num_layers: int = 3
    num_heads: int = 4
    hidden_dim: int = 128
    intermediate_dim: int = 512
    num_features: int = 16
    epochs: int = 2
    # Both models train on pieces of messages that the twin's quadratic cost allows; the model then reads `max_length`.
    train_length: int = 512
    batch_tokens: int = 4096
    learning_rate: float = 3e-3
    max_length: int = 8192
    checkpoint_every: int = 100
    export_lengths: tuple[int, ...] = (512, 2048, 8192, 16_384)
    timed_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    # How many words of a held-out message the report shows.
    passage_words: int = 120
    # How many first words of a message are read, None for all.
    words: int | None = None
    seed: int = 0

    def encoder(self, feature_map: str) -> dict:
        """Return the arguments of the demo's `Encoder`, as the setting `encoder` of `train_run` takes them."""
        sizes = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim", "num_features")
        return {**{name: getattr(self, name) for name in sizes}, "feature_map": feature_map}


QUICK = replace(
    DemoSettings(),
    vocabulary_size=1024,
    num_layers=1,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    epochs=1,
    train_length=128,
    max_length=512,
    export_lengths=(128, 512),
    timed_lengths=(128, 256),
    passage_words=40,
    words=200,
)
