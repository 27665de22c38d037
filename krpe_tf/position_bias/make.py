"""The bias that an argument `position_bias` stands for."""

from .bucketed import BucketedBias
from .decay import DecayBias


def make_position_bias(position_bias, num_heads: int):
    """Return the bias layer (or None) that an argument `position_bias` of a layer or model stands for.

    Args:
        position_bias: None, "decay", "bucketed", or a bias layer with `num_heads` heads.
        num_heads: number of attention heads.

    Raises:
        ValueError: For anything else, or a bias with another number of heads.
    """
    if position_bias is None:
        return None
    if isinstance(position_bias, str):
        named = {"decay": DecayBias, "bucketed": BucketedBias}
        if position_bias in named:
            return named[position_bias](num_heads, name=f"{position_bias}_bias")
    elif hasattr(position_bias, "log_weights") and not isinstance(position_bias, type):
        if position_bias.num_heads != num_heads:
            raise ValueError(
                f"`position_bias` must have as many heads as the attention, {num_heads}. "
                f"Received: position_bias with num_heads={position_bias.num_heads}"
            )
        return position_bias
    raise ValueError(
        f'`position_bias` must be None, "decay", "bucketed" or a bias layer. Received: position_bias={position_bias!r}'
    )
