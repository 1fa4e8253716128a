"""What the parts of the image model cost (`trainers.accounting` says what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, blocks, dense, loss, norm, tensor, total
from trainers.vim.config import Model


def parts(
    model: Model, *, tokens: int, codebook_size: int, classes: int, recompute: bool = False
) -> dict[str, Cost]:
    """Costs of `embeddings` (tokens, classes and the start without one, positions), `blocks` and `logits`.

    `classes` is 0 for a model without classes. What the softmax over K codes keeps, N K numbers, stands
    with `logits`.
    """
    size = model.transformer
    # In random orders, places as they come and places as they are wanted have a table each.
    tables = (codebook_size, classes + 1, *[tokens] * (2 if model.random_order else 1))
    head = [norm(size.width, rows=tokens), dense(size.width, codebook_size, rows=tokens, float32=True)]
    return {
        "embeddings": total(tensor(rows, size.width) for rows in tables),
        "blocks": blocks(
            size, tokens=tokens, dropout=model.dropout > 0, qk_norm=model.qk_norm, recompute=recompute
        ),
        "logits": total([*head, loss(tokens * codebook_size)]),
    }


def step_flops(model: Model, *, tokens: int, codebook_size: int, recompute: bool = False) -> dict[str, int]:
    """FLOPs of a training step for each of its rows: `image model`, 3 forward passes, and `recompute`."""
    costs = parts(model, tokens=tokens, codebook_size=codebook_size, classes=0)
    flops = {"image model": 3 * total(costs.values()).flops}
    return {**flops, "recompute": costs["blocks"].flops} if recompute else flops
