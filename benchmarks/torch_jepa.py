"""A plain PyTorch training step of ECG-JEPA, the counterpart of ours in benchmarks.

The model and recipe are those of Weimann & Conrad, "Self-supervised pre-training with
joint-embedding predictive architecture boosts ECG classification performance",
arXiv 2410.13867: a 1-D ViT without biases whose encoder sees only the kept patches, an
EMA copy of it that sees all of them, and a narrow predictor of the masked ones.

It is meant to be as fast as PyTorch code gets without special kernels: the fused
attention, q, k and v as one matrix product, patches gathered before they are embedded,
the fused AdamW. `check_golden` shows that it is the published method:

    python -m benchmarks.torch_jepa --preset=xs --batch=32 --threads=2
    python -m benchmarks.torch_jepa --check=PATH/weimann_jepa_training.npz
"""

import argparse
import ast
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of encoder and predictor; samples are in time steps of one lead."""

    dim: int
    depth: int
    num_heads: int
    predictor_dim: int
    predictor_depth: int
    predictor_num_heads: int
    leads: int = 12
    samples: int = 5000
    patch_size: int = 25
    mlp_ratio: int = 4
    registers: int = 1
    norm_eps: float = 1e-6
    gelu: str = "none"  # as F.gelu names its approximations: the exact form, or "tanh"

    @property
    def num_patches(self) -> int:
        return self.samples // self.patch_size


# The predictor is half as wide with as many heads, as in the published settings.
PRESETS = {
    "xs": Config(
        dim=192,
        depth=8,
        num_heads=4,
        predictor_dim=96,
        predictor_depth=8,
        predictor_num_heads=4,
    ),
    "s": Config(
        dim=384,
        depth=8,
        num_heads=6,
        predictor_dim=192,
        predictor_depth=8,
        predictor_num_heads=6,
    ),
}


def sincos_positions(num_patches: int, dim: int) -> Tensor:
    """Returns the fixed table [num_patches, dim], sine and cosine interleaved."""
    frequencies = 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    angles = np.arange(num_patches)[:, None] * frequencies
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return torch.from_numpy(table.reshape(num_patches, dim)).float()


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Returns tokens[b, index[b]]: [B, N, D] at [B, L] -> [B, L, D]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, gelu: str):
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, config: Config):
        super().__init__()
        eps = config.norm_eps
        self.norm1 = nn.LayerNorm(dim, eps=eps, bias=False)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps, bias=False)
        self.mlp = Mlp(dim, config.mlp_ratio * dim, config.gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """A convolution over all leads whose stride is its width, as a matrix product."""

    def __init__(self, leads: int, patch_size: int, dim: int):
        super().__init__()
        # Only the weight is used: the name and shape are those of the published model.
        self.proj = nn.Conv1d(leads, dim, patch_size, patch_size, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1))


class Encoder(nn.Module):
    positions: Tensor

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.patch_embed = PatchEmbedding(c.leads, c.patch_size, c.dim)
        self.registers = nn.Parameter(0.02 * torch.randn(1, c.registers, c.dim))
        self.blocks = nn.ModuleList(
            Block(c.dim, c.num_heads, c) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.dim, eps=c.norm_eps, bias=False)
        positions = sincos_positions(c.num_patches, c.dim)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, patches: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps patches [B, N, C * P], or those at context [B, K], to tokens."""
        if context is None:
            x = self.patch_embed(patches) + self.positions
        else:
            x = self.patch_embed(take(patches, context)) + self.positions[context]
        registers = self.registers.expand(len(x), -1, -1)
        # Under autocast the products are bfloat16 and the sums with positions float32.
        x = torch.cat([registers, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, registers.shape[1] :])


class Predictor(nn.Module):
    positions: Tensor

    def __init__(self, config: Config):
        super().__init__()
        c, dim = config, config.predictor_dim
        self.embed = nn.Linear(c.dim, dim, bias=False)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, c.predictor_num_heads, c) for _ in range(c.predictor_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=c.norm_eps, bias=False)
        self.proj = nn.Linear(dim, c.dim, bias=False)
        positions = sincos_positions(c.num_patches, dim)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, tokens: Tensor, context: Tensor, target: Tensor) -> Tensor:
        """Predicts the tokens at target [B, L] from those [B, K, D] at context."""
        seen = self.embed(tokens) + self.positions[context]
        x = torch.cat([seen, self.mask_token + self.positions[target]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, context.shape[1] :]))


class Jepa(nn.Module):
    """Encoder, predictor, and the target encoder that follows the encoder."""

    def __init__(self, config: Config):
        super().__init__()
        self.patch_size = config.patch_size
        self.encoder = Encoder(config)
        self.predictor = Predictor(config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
        self.target_encoder = Encoder(config).requires_grad_(False)
        self.target_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, x: Tensor, context: Tensor, target: Tensor) -> Tensor:
        """Returns the L1 loss of the masked tokens of x [B, C, T]; see `make_step`."""
        B, C, T = x.shape
        patches = x.view(B, C, T // self.patch_size, self.patch_size)
        patches = patches.transpose(1, 2).flatten(2)
        with torch.no_grad():
            goal = take(self.target_encoder(patches), target)
        prediction = self.predictor(self.encoder(patches, context), context, target)
        return F.l1_loss(prediction.float(), goal.float())


def make_optimizer(model: Jepa, *, implementation: str) -> torch.optim.AdamW:
    """AdamW as published; decays all but one-axis parameters.

    `implementation` is 'fused', 'foreach' or 'loop'.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=1e-3,
        betas=(0.9, 0.99),
        eps=1e-6,
        fused=implementation == "fused",
        foreach=implementation == "foreach",
    )


def make_train(
    model: Jepa,
    *,
    implementation: str = "fused",
    dtype: torch.dtype = torch.float32,
    compile_mode: str | None = None,
) -> Callable[..., Tensor]:
    """Returns train(x, context, target, *, learning_rate, weight_decay, momentum).

    The EMA comes before the forward pass, as published. bfloat16 means autocast: the
    parameters, the optimiser, norms and the loss stay float32.
    """
    optimizer = make_optimizer(model, implementation=implementation)
    online = [p.detach() for p in model.encoder.parameters()]
    following = [p.detach() for p in model.target_encoder.parameters()]
    device = online[0].device.type

    def loss_of(x: Tensor, context: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return model(x, context, target)

    if compile_mode is not None:
        loss_of = torch.compile(loss_of, mode=compile_mode, dynamic=False)

    def train(
        x: Tensor,
        context: Tensor,
        target: Tensor,
        *,
        learning_rate: float,
        weight_decay: float,
        momentum: float,
    ) -> Tensor:
        for old, new in zip(following, online, strict=True):
            # Two rounded products: an interpolation or a fused multiply-add drifts from
            # the golden values by an ulp a step, torch._foreach_mul is five times slower.
            old.mul_(momentum).add_((1.0 - momentum) * new)
        optimizer.param_groups[0]["weight_decay"] = weight_decay
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss = loss_of(x, context, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return train


def make_step(
    preset: str,
    batch: int,
    threads: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    implementation: str = "fused",
    dtype: torch.dtype = torch.float32,
    compile_mode: str | None = None,
    gelu: str = "none",
) -> Step:
    """Returns step(x, context, target) -> loss, which also updates the model.

    Args:
        preset: 'xs' (192 wide, 4 heads) or 's' (384 wide, 6 heads), both 8 deep.
        batch: B; a step refuses other batches, as a compiled one would slow down.
        threads: threads of the whole process's PyTorch operations.
        seed: of the initial weights.
        device: 'cpu' or 'cuda'.
        implementation: of AdamW, see `make_optimizer`.
        dtype: float32, or bfloat16 for autocast.
        compile_mode: None for eager execution, or torch.compile's mode.
        gelu: 'none' for the exact form, as published, or 'tanh'.

    The step takes x [B, 12, 5000] float32, normalised, and context [B, K] and target
    [B, L] int64 patch indices, the same counts for the whole batch.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = Jepa(dataclasses.replace(PRESETS[preset], gelu=gelu)).to(device)
    train = make_train(
        model, implementation=implementation, dtype=dtype, compile_mode=compile_mode
    )

    def step(x: Tensor, context: Tensor, target: Tensor) -> Tensor:
        if len(x) != batch:
            raise ValueError(f"the step was made for {batch} records, x has {len(x)}")
        return train(
            x, context, target, learning_rate=1e-3, weight_decay=0.01, momentum=0.998
        )

    return step


def make_batch(
    preset: str, batch: int, *, kept: float = 0.2, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise x [B, 12, 5000] with context [B, K] and target [B, N - K], each sorted."""
    config = PRESETS[preset]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, config.leads, config.samples), dtype=np.float32)
    order = rng.permuted(np.tile(np.arange(config.num_patches), (batch, 1)), axis=1)
    count = round(kept * config.num_patches)
    context, target = np.sort(order[:, :count]), np.sort(order[:, count:])
    arrays = (torch.from_numpy(a).to(device) for a in (x, context, target))
    x, context, target = arrays
    return x, context, target


def step_seconds(
    step: Step, arrays: tuple[Tensor, Tensor, Tensor], *, steps: int, warmup: int
) -> list[float]:
    """Wall time of each of `steps` steps that follow `warmup` unmeasured ones."""
    seconds = []
    for index in range(warmup + steps):
        start = time.perf_counter()
        step(*arrays).item()  # reading the loss waits for the device
        if index >= warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def golden_config(settings: dict) -> Config:
    return Config(
        dim=settings["dim"],
        depth=settings["depth"],
        num_heads=settings["num_heads"],
        predictor_dim=settings["pred_dim"],
        predictor_depth=settings["pred_depth"],
        predictor_num_heads=settings["pred_num_heads"],
        leads=len(settings["channels"]),
        samples=settings["channel_size"],
        patch_size=settings["patch_size"],
        mlp_ratio=int(settings["mlp_ratio"]),
        registers=settings["num_registers"],
        norm_eps=settings["norm_eps"],
    )


def check_golden(path: str, *, implementation: str = "fused") -> dict[str, float]:
    """Trains for the ten recorded steps and compares losses and weights.

    Args:
        path: an .npz file with the initial weights `state/*`, the batches `step*/*`,
            `losses`, and the weights `final/*` of the published implementation.
        implementation: of AdamW, see `make_optimizer`.

    Returns:
        The largest absolute differences, by kind.

    Raises:
        AssertionError: a difference exceeds its tolerance: 2e-6 for the losses, 1e-6
            for weights, 5e-8 for the target encoder.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    settings = ast.literal_eval(str(arrays["config"]))
    model = Jepa(golden_config(settings))
    state = {
        name.removeprefix("state/"): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("state/")
    }
    model.load_state_dict(state, strict=True)
    train = make_train(model, implementation=implementation)
    first, last = settings["encoder_momentum"], settings["final_encoder_momentum"]
    worst = {"losses": 0.0, "weights": 0.0, "target_encoder": 0.0}
    for index, expected in enumerate(arrays["losses"]):
        x, context, target = (
            torch.from_numpy(arrays[f"step{index}/{name}"])
            for name in ("x", "context", "target")
        )
        rate, decay = arrays[f"step{index}/lr_wd"].tolist()
        momentum = first + (last - first) * index / settings["steps"]
        loss = train(
            x,
            context,
            target,
            learning_rate=rate,
            weight_decay=decay,
            momentum=momentum,
        )
        worst["losses"] = max(worst["losses"], abs(loss.item() - expected))
    for name, tensor in model.state_dict().items():
        if f"final/{name}" in arrays:
            kind = "target_encoder" if name.startswith("target") else "weights"
            difference = np.abs(tensor.numpy() - arrays[f"final/{name}"]).max()
            worst[kind] = max(worst[kind], float(difference))
    tolerance = {"losses": 2e-6, "weights": 1e-6, "target_encoder": 5e-8}
    for kind, difference in worst.items():
        if not difference <= tolerance[kind]:
            raise AssertionError(
                f"{kind} differ from {path} by {difference:.2g}, "
                f"more than {tolerance[kind]:.0e}"
            )
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the PyTorch training step.")
    parser.add_argument("--check", help="golden file to compare with, then stop")
    parser.add_argument("--preset", default="xs", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", help="torch.compile's mode, such as 'default'")
    parser.add_argument(
        "--optimizer", default="fused", choices=["fused", "foreach", "loop"]
    )
    args = parser.parse_args()
    if args.check:
        for kind, worst in check_golden(
            args.check, implementation=args.optimizer
        ).items():
            print(f"{kind}: largest difference {worst:.2g}")
        return
    step = make_step(
        args.preset,
        args.batch,
        args.threads,
        device=args.device,
        implementation=args.optimizer,
        dtype=getattr(torch, args.dtype),
        compile_mode=args.compile,
    )
    arrays = make_batch(args.preset, args.batch, device=args.device)
    seconds = step_seconds(step, arrays, steps=args.steps, warmup=args.warmup)
    median = statistics.median(seconds)
    print(
        f"{args.preset} batch {args.batch}, {args.threads} threads, {args.dtype}: "
        f"{args.batch / median:.1f} samples/s (median step {median:.3f} s, "
        f"fastest {args.batch / min(seconds):.1f})"
    )


if __name__ == "__main__":
    main()
