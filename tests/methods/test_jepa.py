"""The method's own laws: what sees what, what padding does, where gradients go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.data import masks
from ecgssl_jax.methods import jepa
from ecgssl_jax.models import vit

B, N, P, C = 4, 10, 4, 3
ENCODER = vit.ViT(width=8, depth=1, num_heads=2, patch_size=P, num_registers=1)
SIZES = dict(predictor_width=8, predictor_depth=1, predictor_num_heads=2)
ALL_TERMS = dict(variance_weight=0.5, normalise_targets=True)
FORMS = {"together": False, "separately": True}


def _method(encoder=ENCODER, **settings):
    return jepa.build(
        jepa.Settings(**SIZES, **settings), encoder, steps=10, masks={"kind": "random"}
    )


def _trees(method, batch):
    """Random parameters, unlike in encoder and target encoder, drawn by NumPy."""
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)


def _batch(kind="random", *, seed=0, **settings):
    rng = np.random.default_rng(seed)
    settings = settings or dict(keep=(0.2, 0.6))
    mask = masks.build(kind, N, **settings)
    uniforms = rng.random((B, mask.num_uniforms(N)), dtype=np.float32)
    ecg = rng.normal(size=(B, N * P, C)).astype(np.float32)
    return dict(ecg=ecg, **mask.sample(uniforms, N, np))


def _blocks_batch():
    return _batch(
        "multiblock",
        num_targets=2,
        target_scale=(0.2, 0.3),
        context_scale=(0.8, 1.0),
        min_keep=2,
    )


def _batch_for(form):
    return _batch() if form == "together" else _blocks_batch()


# Compiled once for all tests that run the same method on batches of one shape.
@functools.partial(jax.jit, static_argnums=0)
def _run(method, params, extra, batch):
    return method.loss(params, extra, batch, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def _gradients(method, params, extra, batch):
    """Loss, metrics; gradients of parameters, target encoder and signal."""

    def loss(params, extra, ecg):
        inputs = dict(batch, ecg=ecg)
        return method.loss(params, extra, inputs, jax.random.key(0))

    (value, (_, metrics)), gradients = jax.value_and_grad(
        loss, argnums=(0, 1, 2), has_aux=True
    )(params, extra, batch["ecg"])
    return {**metrics, "loss": value}, gradients


def _loss(method, params, extra, batch):
    loss, (_, metrics) = _run(method, params, extra, batch)
    return float(loss), {name: float(value) for name, value in metrics.items()}


# ---- The loss ----


def _error(seed=0):
    rng = np.random.default_rng(seed)
    predictions, targets = (rng.normal(size=(2, 3, 5, 4)) * 2 for _ in range(2))
    return predictions, targets, rng.random((2, 3, 5)) < 0.6


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        (dict(), lambda e: np.abs(e)),
        (dict(exponent=1.5), lambda e: np.abs(e) ** 1.5 / 1.5),
        (dict(exponent=2.0), lambda e: e**2 / 2),
        (
            dict(kind="smooth_l1"),
            lambda e: np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5),
        ),
    ],
    ids=["l1", "power_1.5", "l2", "smooth_l1"],
)
def test_loss_is_the_mean_over_valid_tokens(settings, formula):
    predictions, targets, valid = _error()
    errors = formula(predictions - targets)
    with jax.enable_x64(True):
        everywhere = jepa.jepa_loss(predictions, targets, **settings)
        some = jepa.jepa_loss(
            predictions, targets, valid=jnp.asarray(valid), **settings
        )
    np.testing.assert_allclose(everywhere, errors.mean(), rtol=1e-12)
    np.testing.assert_allclose(some, errors[valid].mean(), rtol=1e-12)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_gradient_of_the_loss_is_its_closed_form(exponent):
    predictions, targets, _ = _error()
    with jax.enable_x64(True):
        found = jax.grad(lambda x: jepa.jepa_loss(x, targets, exponent=exponent))(
            jnp.asarray(predictions)
        )
    error = predictions - targets
    expected = np.sign(error) * np.abs(error) ** (exponent - 1) / error.size
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_loss_of_half_precision_tokens_is_computed_in_float32():
    predictions, targets, _ = (x.astype(np.float16) for x in _error())
    found = jepa.jepa_loss(predictions, targets)
    assert found.dtype == jnp.float32
    error = predictions.astype(np.float64) - targets.astype(np.float64)
    np.testing.assert_allclose(found, np.abs(error).mean(), rtol=1e-6)


def test_loss_without_any_valid_token_is_zero():
    predictions, targets, valid = _error()
    assert jepa.jepa_loss(predictions, targets, valid=jnp.zeros_like(valid)) == 0


def test_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="unknown JEPA loss 'huber'"):
        jepa.jepa_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), kind="huber")  # type: ignore


def test_variance_regulariser_takes_the_deviation_of_valid_tokens_only():
    tokens, _, valid = _error()
    tokens /= 4
    valid[..., :2] = True
    found = jepa.variance_regulariser(jnp.asarray(tokens), valid=jnp.asarray(valid))
    deviations = [
        [np.sqrt(t[v].var(axis=0, ddof=1) + 1e-4) for t, v in zip(*row, strict=True)]
        for row in zip(tokens, valid, strict=True)
    ]
    expected = np.maximum(1 - np.mean(deviations, axis=1), 0).mean()
    assert expected > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_variance_regulariser_leaves_out_blocks_without_a_deviation():
    tokens, _, _ = _error()
    valid = np.ones((2, 3, 5), bool)
    valid[0, 1, 1:] = False  # one token
    valid[1] = False  # a record without any
    found = jepa.variance_regulariser(jnp.asarray(tokens / 4), valid=jnp.asarray(valid))
    expected = jepa.variance_regulariser(jnp.asarray(tokens[:1, [0, 2]] / 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ---- The two forms ----


def _complement(batch):
    """Row by row: its context and all other patches."""
    for row in range(len(batch["ecg"])):
        context = batch["context"][row][batch["context_valid"][row]]
        yield row, context, np.setdiff1d(np.arange(N), context)


def test_all_at_once_equals_one_block_of_all_masked_patches():
    batch = _batch()
    assert len(set(batch["context_valid"].sum(axis=1))) > 1
    together, separately = (_method(separate=s) for s in (False, True))
    params, extra = _trees(together, batch)
    first, metrics = _loss(together, params, extra, batch)
    second, other = _loss(separately, params, extra, batch)
    assert first == pytest.approx(second, rel=1e-5)
    assert metrics == pytest.approx(other, rel=1e-5)


def test_loss_of_a_padded_batch_is_that_of_its_rows_without_padding():
    batch = {name: value[[0, 2]] for name, value in _batch().items()}
    assert len(set(batch["context_valid"].sum(axis=1))) == 2
    method = _method()
    params, extra = _trees(method, batch)

    @jax.jit
    def row_error(ecg, context, targets):
        """The modules called one by one, on arrays of the row's own size."""
        seen = method.encoder.network.apply(params["encoder"], ecg, context)
        predictions = method.predictor.apply(
            params["predictor"],
            seen,
            np.ones(context.shape, bool),
            jnp.concatenate([context, targets], axis=1),
            num_patches=N,
            num_targets=targets.shape[1],
        )
        wanted = method.encoder.network.apply(extra["target_encoder"], ecg)
        return jnp.abs(predictions - vit.take_tokens(wanted, targets)).mean()

    total = tokens = 0
    for row, context, targets in _complement(batch):
        ecg = batch["ecg"][row : row + 1]
        total += float(row_error(ecg, context[None], targets[None])) * len(targets)
        tokens += len(targets)
    loss, _ = _loss(method, params, extra, batch)
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_several_blocks_at_once_are_an_error():
    batch = _blocks_batch()
    method = _method(separate=False)
    params, extra = _trees(method, batch)
    with pytest.raises(ValueError, match="2 target blocks .* config.method.separate"):
        jax.eval_shape(method.loss, params, extra, batch, jax.random.key(0))


@pytest.mark.parametrize("form", FORMS)
def test_order_of_the_batch_does_not_matter(form):
    batch = _batch_for(form)
    method = _method(separate=FORMS[form], **ALL_TERMS)
    params, extra = _trees(method, batch)
    loss, metrics = _loss(method, params, extra, batch)
    permuted = {name: value[[2, 0, 3, 1]] for name, value in batch.items()}
    other, other_metrics = _loss(method, params, extra, permuted)
    assert other == pytest.approx(loss, rel=1e-5)
    assert other_metrics == pytest.approx(metrics, rel=1e-5)


# ---- What sees what ----


def _seen(valid_indices):
    """[B, T, 1] bool from (row, patches) pairs."""
    chosen = np.zeros((B, N), bool)
    for row, patches in valid_indices:
        chosen[row, patches] = True
    return np.repeat(chosen, P, axis=1)[..., None]


@pytest.mark.parametrize("form", FORMS)
def test_predictions_see_the_context_only(form):
    """With the targets held fixed, no other sample has a gradient."""
    batch = _batch_for(form)
    method = _method(separate=FORMS[form], variance_weight=0.1)
    params, extra = _trees(method, batch)
    # An encoder without weights makes the same targets of any signal.
    constant = jax.tree.map(np.zeros_like, extra)
    _, (_, _, gradient) = _gradients(method, params, constant, batch)
    gradient = np.asarray(gradient)
    context = _seen(
        (row, batch["context"][row][batch["context_valid"][row]]) for row in range(B)
    )
    assert np.all(np.where(context, 0, gradient) == 0)
    assert np.all(np.any(gradient != 0, axis=-1, keepdims=True) == context)


def test_targets_see_the_whole_crop():
    batch = _batch()
    method = _method()
    _, extra = _trees(method, batch)

    def total(ecg):
        targets = method._targets(extra, dict(batch, ecg=ecg), batch["targets"])
        return (targets * jnp.arange(targets.shape[-1])).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(batch["ecg"]))
    assert np.all(np.any(gradient != 0, axis=-1))


@pytest.mark.parametrize("form", FORMS)
def test_every_trainable_parameter_has_a_gradient_and_the_target_none(form):
    batch = _batch_for(form)
    method = _method(separate=FORMS[form], variance_weight=0.1)
    params, extra = _trees(method, batch)
    _, (ours, target, _) = _gradients(method, params, extra, batch)
    for path, gradient in jax.tree_util.tree_leaves_with_path(ours):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(gradient)), name
        assert np.any(gradient != 0), name
    assert all(np.all(x == 0) for x in jax.tree.leaves(target))


# ---- Records shorter than the crop ----


@pytest.mark.parametrize(
    ("form", "registers"), [("together", 1), ("together", 0), ("separately", 0)]
)
def test_nothing_beyond_the_length_matters(form, registers):
    batch = _batch_for(form)
    # Whole, ending within a patch, at the end of one, and within the first.
    batch["length"] = np.array([N * P, 5 * P + 1, 6 * P, 1], np.int32)
    encoder = ENCODER.clone(num_registers=registers)
    method = _method(encoder, separate=FORMS[form], variance_weight=0.1)
    params, extra = _trees(method, batch)
    metrics, (gradient, _, _) = _gradients(method, params, extra, batch)
    first_beyond = -(-batch["length"] // P) * P  # of the last patch that is begun
    beyond = np.arange(N * P) >= first_beyond[:, None]
    noise = 3 * np.random.default_rng(9).normal(size=batch["ecg"].shape)
    batch["ecg"] = np.where(beyond[..., None], noise, batch["ecg"]).astype(np.float32)
    others, (other_gradient, _, _) = _gradients(method, params, extra, batch)
    for name, value in metrics.items():
        assert np.isfinite(value), name
        assert float(others[name]) == pytest.approx(float(value), rel=1e-6), name
    for a, b in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True
    ):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, atol=1e-6 * max(1, np.abs(b).max()))


def test_full_length_changes_nothing():
    batch = _batch()
    method = _method()
    params, extra = _trees(method, batch)
    expected, _ = _loss(method, params, extra, batch)
    batch["length"] = np.full(B, N * P, np.int32)
    found, _ = _loss(method, params, extra, batch)
    assert found == pytest.approx(expected, rel=1e-5)


def test_features_leave_out_what_is_beyond_the_length():
    batch = _batch()
    method = _method()
    params, extra = _trees(method, batch)
    features = jax.jit(method.features)
    whole = features(params, extra, batch)["tokens"]
    batch["length"] = np.array([N * P, 5 * P + 1, 6 * P, 1], np.int32)
    found = features(params, extra, batch)
    np.testing.assert_array_equal(found["tokens_valid"].sum(axis=1), [N, 6, 6, 1])
    cut = dict(ecg=batch["ecg"][1:3, : 6 * P])
    expected = features(params, extra, cut)
    assert "tokens_valid" not in expected
    np.testing.assert_allclose(found["tokens"][1:3, :6], expected["tokens"], atol=1e-5)
    np.testing.assert_allclose(found["pooled"][1:3], expected["pooled"], atol=1e-5)
    np.testing.assert_allclose(found["pooled"][0], whole[0].mean(axis=0), atol=1e-5)


# ---- Metrics, state, settings ----


def test_constant_encoder_shows_in_the_metrics():
    batch = _batch()
    method = _method()
    params, extra = _trees(method, batch)
    constant = jax.tree.map(np.zeros_like, extra)
    _, metrics = _loss(method, params, constant, batch)
    assert metrics["mean_prediction_loss"] == 0
    assert metrics["target_std"] == 0


def test_metrics_of_the_targets_are_numpys():
    batch = _batch()
    method = _method(**ALL_TERMS)
    params, extra = _trees(method, batch)
    _, metrics = _loss(method, params, extra, batch)
    tokens = jax.jit(method.encoder.network.apply)(
        extra["target_encoder"], batch["ecg"]
    )
    tokens = np.asarray(tokens, np.float64)
    tokens -= tokens.mean(axis=-1, keepdims=True)
    tokens /= np.sqrt(tokens.var(axis=-1, keepdims=True) + 1e-5)
    targets = np.concatenate([tokens[row, rest] for row, _, rest in _complement(batch)])
    mean = targets.mean(axis=0)
    expected = np.abs(targets - mean).mean()
    assert metrics["mean_prediction_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["target_std"] == pytest.approx(targets.std(axis=0).mean(), rel=1e-4)


def test_regulariser_is_added_with_its_weight():
    batch = _batch()
    method = _method(**ALL_TERMS)
    params, extra = _trees(method, batch)
    loss, metrics = _loss(method, params, extra, batch)
    assert metrics["variance_regulariser"] > 0.01
    expected = metrics["prediction_loss"] + 0.5 * metrics["variance_regulariser"]
    assert loss == pytest.approx(expected, rel=1e-6)


def test_target_encoder_starts_as_a_copy_and_follows_by_the_schedule():
    batch = _batch()
    method = _method(ema=(0.9, 1.0))
    params, extra = jax.jit(method.init)(jax.random.key(0), batch)
    for ours, target in zip(
        jax.tree.leaves(params["encoder"]), jax.tree.leaves(extra), strict=True
    ):
        np.testing.assert_array_equal(ours, target)
    params, extra = _trees(method, batch)
    after = jax.jit(method.after_update)(params, extra, jnp.int32(3))
    momentum = 0.9 + 0.1 * 3 / 10
    for new, old, ours in zip(
        *map(jax.tree.leaves, (after, extra, params["encoder"])), strict=True
    ):
        expected = momentum * old + (1 - momentum) * ours
        np.testing.assert_allclose(new, expected, atol=1e-6)


def test_drop_path_draws_by_the_rng_in_training_only():
    batch = _batch()
    method = _method(ENCODER.clone(drop_path=0.5, depth=2))
    params, extra = _trees(method, batch)
    loss = jax.jit(lambda key: method.loss(params, extra, batch, key)[0])
    losses = [float(loss(jax.random.key(i))) for i in (0, 0, 1, 2)]
    assert losses[0] == losses[1]
    assert len(set(losses)) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(predictor_num_heads=3), "predictor_width of 8 cannot be split"),
        (dict(predictor_depth=0), "predictor_depth.* at least 1"),
        (dict(exponent=0.5), "exponent must be at least 1, found 0.5"),
        (dict(ema=(0.9, 1.1)), r"ema takes momenta from 0 to 1, found \(0.9, 1.1\)"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        jepa.Settings(**{**SIZES, **settings})


def test_encoder_without_patches_is_an_error():
    with pytest.raises(ValueError, match="needs model.name='vit', found Mlp"):
        encoder = vit.Mlp(ratio=1, use_bias=True, exact_gelu=True, dtype=jnp.float32)
        jepa.build(jepa.Settings(), encoder, steps=1, masks={"kind": "random"})


def test_no_masks_are_an_error():
    with pytest.raises(ValueError, match=r"set config\.masks"):
        jepa.build(jepa.Settings(), ENCODER, steps=1, masks=None)


def test_multiblock_masks_need_separate_prediction():
    with pytest.raises(ValueError, match=r"separate to True"):
        masks = {"kind": "multiblock", "num_targets": 1}
        jepa.build(jepa.Settings(), ENCODER, steps=1, masks=masks)
