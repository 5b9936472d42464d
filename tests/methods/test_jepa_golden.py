"""JEPA against figures of the published implementations (tests/golden)."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecgssl_jax import optim
from ecgssl_jax.interop import torch
from ecgssl_jax.methods import jepa
from ecgssl_jax.methods.ema import ema_weights
from ecgssl_jax.models.encoders import Encoder

GOLDEN = Path(__file__).parents[1] / "golden"
PRECISIONS = {"float64": 1e-9, "float32": 1e-5}


def _load(name):
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return dict(file)


# ---- Losses and schedules ----


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_loss(exponent, dtype):
    golden = _load("losses_and_schedules.npz")
    with jax.enable_x64(dtype == "float64"):
        predictions = jnp.asarray(golden["jepa/pred"], dtype)
        targets = jnp.asarray(golden["jepa/target"], dtype)
        found = jepa.jepa_loss(predictions, targets, exponent=exponent)
        assert found.dtype == dtype
    expected = golden[f"jepa/loss_p{exponent}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=PRECISIONS[dtype])


@pytest.mark.parametrize("masked", [False, True], ids=["full", "all_valid"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_variance_regulariser(dtype, masked):
    golden = _load("losses_and_schedules.npz")
    with jax.enable_x64(dtype == "float64"):
        # [M, B, L, D] -> [B, M, L, D]
        tokens = jnp.asarray(golden["jepa/pred"], dtype).swapaxes(0, 1)
        valid = jnp.ones(tokens.shape[:-1], bool) if masked else None
        found = jepa.variance_regulariser(tokens, valid=valid)
    tolerance = PRECISIONS[dtype]
    np.testing.assert_allclose(found, golden["jepa/reg"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_schedules_step_by_step(dtype):
    """These count before they are used: their first value is ours of step 1."""
    golden = _load("losses_and_schedules.npz")
    total, warmup = (int(x) for x in golden["schedule/total_warmup"])
    with jax.enable_x64(dtype == "float64"):
        steps = jnp.arange(1, total + 1)
        rate = optim.warmup_cosine(
            steps, first=2e-4, peak=1e-3, last=1e-6, warmup=warmup, total=total
        )
        decay = optim.cosine(steps, first=0.04, last=0.4, total=total)
        momentum, _ = ema_weights(
            jnp.arange(total + 1), start=0.996, end=1.0, total=total
        )
    tolerance = PRECISIONS[dtype]
    for found, name in ((rate, "lr"), (decay, "wd"), (momentum, "ema")):
        expected = golden[f"schedule/{name}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# ---- I-JEPA in one dimension ----


def test_ijepa_encoder_context_and_blocks():
    golden = _load("ijepa_ecg_transformer.npz")
    state = {
        k: v for k, v in golden.items() if k.startswith(("encoder/", "predictor/"))
    }
    modules = torch.load(
        state,
        "ijepa1d",
        num_heads=int(golden["num_heads"]),
        predictor_num_heads=int(golden["predictor_num_heads"]),
    )
    ecg = golden["x"].transpose(0, 2, 1)
    encoder, predictor = modules["encoder"], modules["predictor"]
    assert encoder.module.module.patch_size == golden["patch_size"]
    found = encoder.module.apply(encoder.params, ecg)
    np.testing.assert_allclose(found, golden["encoder_out"], rtol=0, atol=1e-4)
    context = golden["context"]
    tokens = encoder.module.apply(encoder.params, ecg, jnp.asarray(context))
    np.testing.assert_allclose(tokens, golden["context_out"], rtol=0, atol=1e-4)
    for targets, expected in zip(
        golden["targets"], golden["predictor_out"], strict=True
    ):
        found = predictor.module.apply(
            predictor.params,
            tokens,
            np.ones(context.shape, bool),
            np.concatenate([context, targets], axis=1),
            num_patches=ecg.shape[1] // 25,
            num_targets=targets.shape[1],
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_ijepa_blocks_are_predicted_by_the_method_itself():
    golden = _load("ijepa_ecg_transformer.npz")
    state = {
        k: v for k, v in golden.items() if k.startswith(("encoder/", "predictor/"))
    }
    modules = torch.load(state, "ijepa1d", num_heads=4, predictor_num_heads=4)
    method = jepa.Jepa(
        settings=jepa.Settings(separate=True, normalise_targets=True, exponent=1.0),
        encoder=Encoder(modules["encoder"].module.module),
        predictor=modules["predictor"].module,
        steps=1,
    )
    context, targets = golden["context"], golden["targets"].swapaxes(0, 1)
    batch = dict(
        ecg=golden["x"].transpose(0, 2, 1),
        context=jnp.asarray(context, jnp.int32),
        context_valid=np.ones(context.shape, bool),
        targets=jnp.asarray(targets, jnp.int32),
        targets_valid=np.ones(targets.shape, bool),
    )
    params = {name: loaded.params for name, loaded in modules.items()}
    extra = {"target_encoder": params["encoder"]}
    loss, _ = jax.jit(method.loss)(params, extra, batch, jax.random.key(0))
    tokens = golden["encoder_out"].astype(np.float64)
    tokens -= tokens.mean(axis=-1, keepdims=True)
    tokens /= np.sqrt((tokens**2).mean(axis=-1, keepdims=True) + 1e-5)
    wanted = np.stack([tokens[b, targets[b]] for b in range(len(tokens))], axis=1)
    expected = np.abs(golden["predictor_out"] - wanted).mean()
    np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-4)


# ---- Ten steps of Weimann & Conrad's training ----


def _weimann_method(golden, *, separate):
    config = ast.literal_eval(str(golden["config"]))
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state/")}
    modules = torch.load(
        state,
        "weimann",
        num_heads=config["num_heads"],
        predictor_num_heads=config["pred_num_heads"],
    )
    method = jepa.Jepa(
        settings=jepa.Settings(
            separate=separate,
            ema=(config["encoder_momentum"], config["final_encoder_momentum"]),
        ),
        encoder=Encoder(modules["encoder"].module.module),
        predictor=modules["predictor"].module,
        steps=config["steps"],
    )
    settings = optim.Settings(
        learning_rate=(1e-6, config["learning_rate"], config["final_learning_rate"]),
        warmup=config["learning_rate_warmup_steps"] / config["steps"],
        weight_decay=(config["weight_decay"], config["final_weight_decay"]),
        b1=config["opt_betas"][0],
        b2=config["opt_betas"][1],
        epsilon=config["opt_eps"],
    )
    trees = jax.tree.map(jnp.asarray, {k: v.params for k, v in modules.items()})
    extra = {"target_encoder": trees.pop("target_encoder")}
    return method, settings, config["steps"], trees, extra


def _weimann_batch(golden, step):
    """Contexts of 4 or 5 patches and targets of 16 or 15, padded to one shape."""
    context, targets = golden[f"step{step}/context"], golden[f"step{step}/target"]
    rows = len(context)

    def padded(indices, size):
        out = np.zeros((rows, size), np.int32)
        out[:, : indices.shape[1]] = indices
        return out, np.tile(np.arange(size) < indices.shape[1], (rows, 1))

    context, context_valid = padded(context, 5)
    targets, targets_valid = padded(targets, 16)
    return dict(
        ecg=golden[f"step{step}/x"].transpose(0, 2, 1),
        context=context,
        context_valid=context_valid,
        targets=targets[:, None],
        targets_valid=targets_valid[:, None],
    )


def _ours(golden, params):
    """The file's final weights in our layout, where it has them, and ours of them."""
    names = [name for name in golden if name.startswith("final/")]
    final = {k[6:]: v for k, v in golden.items() if k.startswith("state/")}
    # The names that are not in the file carry NaN, so that they are told apart.
    final = {name: np.full_like(value, np.nan) for name, value in final.items()}
    final |= {name[6:]: golden[name] for name in names}
    loaded = torch.load(final, "weimann", num_heads=4, predictor_num_heads=2)
    pairs = [
        (module, ours, wanted)
        for module, tree in params.items()
        for ours, wanted in zip(
            jax.tree.leaves(tree), jax.tree.leaves(loaded[module].params), strict=True
        )
        if not np.isnan(wanted).all()
    ]
    assert len(pairs) == len(names)
    return pairs


@pytest.mark.parametrize("separate", [False, True], ids=["together", "separately"])
def test_ten_steps_of_weimann_training(separate):
    golden = _load("weimann_jepa_training.npz")
    method, settings, steps, params, extra = _weimann_method(golden, separate=separate)
    optimiser = optim.make_optimiser(settings, steps)
    state = optimiser.init(params)
    schedules = optim.schedules(settings, steps)
    rates = jax.jit(lambda s: jnp.stack([f(s) for f in schedules], 1))(jnp.arange(10))
    expected = np.stack([golden[f"step{i}/lr_wd"] for i in range(10)])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)

    @jax.jit
    def update(params, extra, state, batch, number):
        (loss, (extra, _)), gradient = jax.value_and_grad(method.loss, has_aux=True)(
            params, extra, batch, jax.random.key(0)
        )
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, method.after_update(params, extra, number), state, loss

    losses, used = [], extra
    for step in range(10):
        # The file's target encoder is the one that the last forward pass used.
        used = extra
        params, extra, state, loss = update(
            params, extra, state, _weimann_batch(golden, step), step + 1
        )
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden["losses"], rtol=0, atol=2e-6)
    for module, found, wanted in _ours(golden, {**params, **used}):
        tolerance = 5e-8 if module == "target_encoder" else 1e-6
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
