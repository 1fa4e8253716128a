"""Costs of the image model's parts (`trainers.accounting` defines what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, blocks, dense, loss, memory_flops, norm, tensor, total
from trainers.training.config import Memory
from trainers.vim.config import Model


def parts(
    model: Model, *, tokens: int, codebook_size: int, classes: int, memory: Memory = Memory()
) -> dict[str, Cost]:
    """Costs of `embeddings` (tokens, classes and the start without a class, positions), `blocks`, `logits`.

    `classes` is 0 for a model without classes. `logits` includes the N K numbers that the softmax keeps.
    """
    size = model.transformer
    # In random orders, a token's own position and the predicted position have a table each.
    tables = (codebook_size, classes + 1, *[tokens] * (2 if model.random_order else 1))
    head = [norm(size.width, rows=tokens), dense(size.width, codebook_size, rows=tokens, float32=True)]
    return {
        "embeddings": total(tensor(rows, size.width) for rows in tables),
        "blocks": blocks(
            size,
            tokens=tokens,
            dropout=model.dropout > 0,
            qk_norm=model.qk_norm,
            memory=memory,
        ),
        "logits": total([*head, loss(tokens * codebook_size)]),
    }


def step_flops(model: Model, *, tokens: int, codebook_size: int, memory: Memory = Memory()) -> dict[str, int]:
    """FLOPs of a training step for each of its rows: 3 forward passes, and those that save memory."""
    costs = parts(model, tokens=tokens, codebook_size=codebook_size, classes=0)
    flops = {"image model": 3 * total(costs.values()).flops}
    return flops | memory_flops(model.transformer, tokens=tokens, memory=memory)
