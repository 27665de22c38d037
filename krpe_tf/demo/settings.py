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
    pretrain_steps: int = 160
    pretrain_length: int = 512
    pretrain_batch_size: int = 16
    epochs: int = 3
    max_length: int = 8192
    batch_tokens: int = 16_384
    # The softmax twin sees the same documents, truncated to what its quadratic cost allows, two a batch as the model
    # sees the longest: so both take about as many steps (75 and 71 an epoch).
    twin_max_length: int = 1024
    twin_batch_tokens: int = 2048
    checkpoint_every: int = 20
    export_lengths: tuple[int, ...] = (512, 2048, 8192, 16_384)
    timed_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
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
    pretrain_steps=5,
    pretrain_length=128,
    pretrain_batch_size=4,
    epochs=1,
    max_length=512,
    batch_tokens=8192,
    twin_max_length=128,
    twin_batch_tokens=2048,
    export_lengths=(128, 512),
    timed_lengths=(128, 256),
    words=200,
)
