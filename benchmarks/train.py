"""Training samples a second of the flow transformer, as a share of this machine's bf16 matrix-product peak, and where the rest goes.

The peak is the fastest of many large square products in the same process. The arithmetic of a step is what torch counts for
its matrix products and attention, forward and backward; a step also has an optimizer, casts and elementwise work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from measure import Row, duration, main
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from kalpana.models.dit import DiT
from kalpana.types import Cond, Tokens

ATTENTION = {  # torch counts its other attention kernels, but not the CPU's
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
}
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product",),
    "casts and copies": ("aten::copy_", "aten::cat", "aten::fill_"),
}


def peak(side: int, seconds: float) -> float:
    """The most bf16 operations a second seen in ``side`` x ``side`` matrix products that together fill ``seconds``."""
    a, b = torch.randn(2, side, side).bfloat16()
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def rows(quick: bool) -> Iterator[Row]:
    batch, side, seconds = (2, 256, 0) if quick else (64, 2048, 30)
    network = DiT()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    x_t, target, t = *torch.randn(2, batch, 16, 16, 16), torch.rand(batch)
    ids = torch.randint(4, network.config.vocabulary, (batch, network.config.length))
    cond = Cond(Tokens(ids, torch.ones_like(ids, dtype=torch.bool)), torch.rand(batch) < 0.1)

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(network(x_t, t, cond).float(), target)
        loss.backward()

    def step() -> None:
        learn()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        step()
    limit = peak(side, seconds / 6)
    taken = duration(step, seconds)
    learn()  # leaves gradients for the optimizer
    optimizing = duration(optimizer.step, seconds / 10)
    share = counter.get_total_flops() / taken / limit
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    how = f"{size:.1f} M parameters, batch {batch}, {len(ids[0])} caption tokens, cached latents, {torch.get_num_threads()} threads"
    yield Row("training: samples", f"{batch / taken:.0f} samples/s", "–", how)
    yield Row(
        "training: peak", f"{limit / 1e9:.0f} GFLOP/s", "–", f"bf16 product of {side} x {side} matrices, the best of many, same process"
    )
    yield Row("training: share of the peak", f"{share:.0%}", "≥ 50 %", f"{counter.get_total_flops() / batch / 1e9:.1f} GFLOP a sample")

    with profile(activities=[ProfilerActivity.CPU]) as record:
        learn()
    spent = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    learning, whole = 1 - optimizing / taken, sum(spent.values())
    parts = {kind: sum(v for key, v in spent.items() if key.startswith(names)) / whole * learning for kind, names in KINDS.items()}
    parts |= {"optimizer": 1 - learning, "elementwise and the rest": learning - sum(parts.values())}
    yield Row(
        "training: where a step goes", ", ".join(f"{kind} {part:.0%}" for kind, part in parts.items()), "–", "torch profiler, one step"
    )


if __name__ == "__main__":
    main(rows)
