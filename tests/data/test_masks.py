import itertools
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from ecgssl_jax.data import masks
from ecgssl_jax.settings import ConfigError

# Settings with every branch: ranges, one block only, overlap, one draw and many.
CASES = [
    ("random", 50, {}),
    ("random", 7, {"keep": (0.5, 0.5)}),
    ("blocks", 50, {}),
    ("blocks", 200, {"min_block": 7, "num_blocks": (3, 9)}),
    ("blocks", 30, {"num_blocks": (1, 1)}),
    ("blocks", 11, {"keep": (0.1, 0.8), "min_block": 1}),
    ("multiblock", 40, {}),
    ("multiblock", 200, {"min_keep": 10}),
    ("multiblock", 50, {"context_scale": (0.3, 0.5)}),
    ("multiblock", 50, {"allow_overlap": True}),
    ("multiblock", 20, {"num_targets": 1, "target_scale": (0.1, 0.3)}),
]
every_case = pytest.mark.parametrize(("kind", "num_patches", "settings"), CASES)


def draw(kind, num_patches, rows, seed=0, **settings):
    """The sampler, its uniforms and its masks of `rows` rows, made by NumPy."""
    sampler = masks.build(kind, num_patches, **settings)
    shape = (rows, sampler.num_uniforms(num_patches))
    uniforms = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return sampler, uniforms, sampler.sample(uniforms, num_patches, np)


def membership(indices, valid, num_patches):
    """[..., N] how often each patch is among the valid indices [..., K]."""
    one_hot = (indices[..., None] == np.arange(num_patches)) & valid[..., None]
    return one_hot.sum(-2)


def context_and_blocks(sample, num_patches):
    context = membership(sample["context"], sample["context_valid"], num_patches)
    blocks = membership(sample["targets"], sample["targets_valid"], num_patches)
    return context, blocks


def assert_close_to(frequencies, probabilities, rows):
    """Within 4.5 standard errors of a binomial share: a false alarm in 1e5."""
    probabilities = np.clip(probabilities, 0, 1)  # sums of shares may round past 1
    error = np.sqrt(probabilities * (1 - probabilities) / rows)
    np.testing.assert_array_less(
        np.abs(frequencies - probabilities), 4.5 * error + 1e-9
    )


def assert_masks_follow(context, probability_of_mask):
    """Chi-square of whole masks [B, N] against {context as a tuple: probability}."""
    assert sum(probability_of_mask.values()) == pytest.approx(1)
    weights = 1 << np.arange(context.shape[1])
    codes, counts = np.unique(context @ weights, return_counts=True)
    expected = {sum(1 << p for p in k): v for k, v in probability_of_mask.items()}
    assert set(codes) <= set(expected)
    seen = dict(zip(codes, counts))
    observed = np.array([seen.get(code, 0) for code in expected])
    wanted = np.array(list(expected.values())) * len(context)
    assert wanted.min() > 5
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


# --- Distributions against enumerations ---------------------------------------------


def test_random_contexts_are_uniform_subsets():
    kept = (3, 4)  # ceil(0.3 * 7), floor(0.6 * 7)
    subsets = {k: list(itertools.combinations(range(7), k)) for k in kept}
    expected = {s: 0.5 / len(subsets[k]) for k in kept for s in subsets[k]}

    _, _, sample = draw("random", 7, 40_000, keep=(0.3, 0.6))

    context, _ = context_and_blocks(sample, 7)
    assert_masks_follow(context, expected)
    assert_close_to(context.mean(0), [0.5 * 3 / 7 + 0.5 * 4 / 7] * 7, 40_000)


def compositions(total, parts, least):
    """All tuples of `parts` integers >= `least` that add up to `total`."""
    if parts == 1:
        return [(total,)] if total >= least else []
    return [
        (first, *rest)
        for first in range(least, total + 1)
        for rest in compositions(total - first, parts - 1, least)
    ]


def enumerate_blocks(num_patches, kept_counts, min_block, fewest, most):
    """Context -> probability, over all kept counts, block counts and placements."""
    probabilities = defaultdict(float)
    for kept in kept_counts:
        masked = num_patches - kept
        counts = range(fewest, min(masked // min_block, most) + 1)
        for count in counts:
            lengths = compositions(masked, count, min_block)
            gaps = compositions(kept, count + 1, 0)
            chance = 1 / (len(kept_counts) * len(counts) * len(lengths) * len(gaps))
            for length, gap in itertools.product(lengths, gaps):
                context, position = [], 0
                for i, width in enumerate(gap):
                    context += range(position, position + width)
                    position += width + (length[i] if i < count else 0)
                probabilities[tuple(context)] += chance
    return probabilities


@pytest.mark.parametrize("num_blocks", [None, (1, 2), (2, 3), (1, 1)])
def test_blocks_follow_the_enumeration_of_all_placements(num_blocks):
    kept = (2, 3, 4)  # ceil(0.2 * 10), floor(0.45 * 10)
    expected = enumerate_blocks(10, kept, 2, *(num_blocks or (1, 10)))

    _, _, sample = draw(
        "blocks", 10, 60_000, keep=(0.2, 0.45), min_block=2, num_blocks=num_blocks
    )

    context, _ = context_and_blocks(sample, 10)
    assert_masks_follow(context, expected)
    inclusion = [sum(p for c, p in expected.items() if i in c) for i in range(10)]
    assert_close_to(context.mean(0), inclusion, 60_000)


def enumerate_multiblock(num_patches, lengths, widths, num_targets, min_keep, overlap):
    """Inclusion in context and in a target, and the probability of each count."""
    context_weight = np.zeros(num_patches)
    target_weight = np.zeros(num_patches)
    count_weight = np.zeros(num_patches + 1)
    patches = np.arange(num_patches)

    def block(start, length):
        return (patches >= start) & (patches < start + length)

    for length, width in itertools.product(lengths, widths):
        places = num_patches - length + 1
        starts = list(itertools.product(range(places), repeat=num_targets))
        chance = 1 / (len(starts) * (num_patches - width + 1))
        for targets in starts:
            blocks = np.array([block(s, length) for s in targets])
            for start in range(num_patches - width + 1):
                context = block(start, width) & (overlap | ~blocks.any(0))
                if context.sum() >= min_keep:
                    context_weight += chance * context
                    target_weight += chance * blocks.mean(0)
                    count_weight[context.sum()] += chance
    total = count_weight.sum()
    return context_weight / total, target_weight / total, count_weight / total


@pytest.mark.parametrize("num_targets", [1, 2, 3])
@pytest.mark.parametrize("overlap", [False, True])
def test_multiblock_follows_the_enumeration_of_all_draws(num_targets, overlap):
    context, target, counts = enumerate_multiblock(
        9, (2,), (5, 6, 7), num_targets, min_keep=3, overlap=overlap
    )
    _, _, sample = draw(
        "multiblock",
        9,
        60_000,
        num_targets=num_targets,
        target_scale=(0.2, 0.25),
        context_scale=(0.5, 0.8),
        min_keep=3,
        allow_overlap=overlap,
    )
    in_context, in_blocks = context_and_blocks(sample, 9)
    assert_close_to(in_context.mean(0), context, 60_000)
    for block in range(num_targets):
        assert_close_to(in_blocks[:, block].mean(0), target, 60_000)
    kept = np.bincount(in_context.sum(1), minlength=10)
    assert_close_to(kept / 60_000, counts, 60_000)


def test_multiblock_draws_both_lengths_and_weighs_them_by_acceptance():
    context, target, counts = enumerate_multiblock(
        8, (2, 3), (6, 7, 8), 2, min_keep=2, overlap=False
    )
    _, _, sample = draw(
        "multiblock",
        8,
        60_000,
        num_targets=2,
        target_scale=(0.25, 0.375),
        context_scale=(0.75, 1),
        min_keep=2,
    )
    in_context, in_blocks = context_and_blocks(sample, 8)
    assert_close_to(in_context.mean(0), context, 60_000)
    assert_close_to(in_blocks[:, 1].mean(0), target, 60_000)
    kept = np.bincount(in_context.sum(1), minlength=9)
    assert_close_to(kept / 60_000, counts, 60_000)


# --- What every mask keeps to -------------------------------------------------------


@every_case
def test_shapes_are_the_static_sizes(kind, num_patches, settings):
    sampler, _, sample = draw(kind, num_patches, 3, **settings)
    _, context, blocks, target = sampler.sizes(num_patches)
    assert sample["context"].shape == sample["context_valid"].shape == (3, context)
    assert sample["targets"].shape == sample["targets_valid"].shape
    assert sample["targets"].shape == (3, blocks, target)
    assert sample["context"].dtype == sample["targets"].dtype == np.int32
    assert sample["context_valid"].dtype == sample["targets_valid"].dtype == bool


@every_case
def test_valid_patches_come_first_in_ascending_order(kind, num_patches, settings):
    _, _, sample = draw(kind, num_patches, 2_000, **settings)
    for name in ("context", "targets"):
        indices, valid = sample[name], sample[f"{name}_valid"]
        both = valid[..., 1:]
        assert (valid[..., :-1] >= both).all()
        assert (np.diff(indices, axis=-1)[both] > 0).all()
        assert (indices[~valid] == 0).all()
        assert valid[..., 0].all()
        assert indices.max() < num_patches


@every_case
def test_context_and_targets_are_disjoint_unless_overlap(kind, num_patches, settings):
    _, _, sample = draw(kind, num_patches, 2_000, **settings)
    context, blocks = context_and_blocks(sample, num_patches)
    shared = ((context > 0) & blocks.any(1)).any()
    assert shared == settings.get("allow_overlap", False)


@pytest.mark.parametrize(
    ("kind", "num_patches", "settings"), [c for c in CASES if c[0] != "multiblock"]
)
def test_context_and_the_target_make_up_all_patches(kind, num_patches, settings):
    _, _, sample = draw(kind, num_patches, 2_000, **settings)
    context, blocks = context_and_blocks(sample, num_patches)
    np.testing.assert_array_equal(context + blocks[:, 0], 1)


@pytest.mark.parametrize(
    ("kind", "num_patches", "keep", "counts"),
    [
        ("random", 50, (0.3, 0.4), range(15, 21)),
        ("random", 40, (0.15, 0.3), range(6, 13)),
        ("random", 7, (0.5, 0.5), [4]),  # 3.5, between integers: the upper one
        # In floating point 0.07 * 100 > 7 and 0.29 * 100 < 29.
        ("random", 100, (0.07, 0.29), range(7, 30)),
        ("random", 50, (0.331, 0.339), [17]),  # 16.55 to 16.95
        ("blocks", 50, (0.15, 0.25), range(8, 13)),
        ("blocks", 200, (0.15, 0.25), range(30, 51)),
    ],
)
def test_kept_counts_are_uniform_on_the_integers_of_the_share(
    kind, num_patches, keep, counts
):
    _, _, sample = draw(kind, num_patches, 20_000, keep=keep)
    kept = sample["context_valid"].sum(1)
    assert set(kept) == set(counts)
    if len(counts) > 1:
        assert stats.chisquare(np.unique(kept, return_counts=True)[1]).pvalue > 1e-3


@every_case
def test_first_and_last_patch_are_context_and_target_somewhere(
    kind, num_patches, settings
):
    _, _, sample = draw(kind, num_patches, 4_000, **settings)
    context, blocks = context_and_blocks(sample, num_patches)
    for patch in (0, -1):
        assert context[:, patch].any()
        assert blocks[:, :, patch].any(0).all()


def test_masked_runs_are_at_least_min_block_long_and_as_many_as_asked():
    _, _, sample = draw("blocks", 200, 2_000, min_block=7, num_blocks=(3, 9))
    context, _ = context_and_blocks(sample, 200)
    edges = np.diff(1 - context, axis=1, prepend=0, append=0)
    starts, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)
    assert (ends[1] - starts[1]).min() >= 7
    # Blocks that touch are one run, so that there may be fewer runs, never more.
    runs = np.bincount(starts[0], minlength=len(context))
    assert runs.max() == 9


@pytest.mark.parametrize("scale", [(0.15, 0.2), (0.1, 0.1)])
def test_multiblock_targets_are_blocks_of_one_length_per_row(scale):
    _, _, sample = draw("multiblock", 50, 4_000, target_scale=scale)
    indices, valid = sample["targets"], sample["targets_valid"]
    lengths = valid.sum(-1)
    assert (lengths == lengths[:, :1]).all()
    assert set(lengths[:, 0]) == ({8, 9, 10} if scale[1] == 0.2 else {5})
    assert (np.diff(indices, axis=-1)[valid[..., 1:]] == 1).all()
    assert not (indices == indices[:, :1]).all()


def test_multiblock_context_is_its_block_without_the_targets():
    _, _, sample = draw("multiblock", 50, 2_000, min_keep=10)
    context, blocks = context_and_blocks(sample, 50)
    first = context.argmax(1)
    last = 49 - context[:, ::-1].argmax(1)
    patches = np.arange(50)
    inside = (patches >= first[:, None]) & (patches <= last[:, None])
    np.testing.assert_array_equal(context > 0, inside & ~blocks.any(1))
    assert (last - first).max() == 49


@pytest.mark.parametrize("min_keep", [1, 4, 8])
def test_min_keep_is_kept(min_keep):
    _, _, sample = draw("multiblock", 40, 50_000, min_keep=min_keep)
    kept = sample["context_valid"].sum(1)
    assert kept.min() >= min_keep
    # The widest spread of 4 blocks of 8 leaves 8 patches, in a block of 34 only 2.
    assert kept.min() <= max(min_keep, 5)


def sample_equal_draws(sampler, num_patches, length, width, start, targets):
    """One row whose draws all come from the same uniforms."""
    each = np.array([length, width, start, *targets])
    draws = sampler.num_uniforms(num_patches) // len(each)
    row = np.tile(each, draws).astype(np.float32)
    return sampler.sample(row[None], num_patches, np)


def test_where_no_draw_suits_all_patches_outside_the_targets_are_context():
    sampler = masks.build("multiblock", 40, min_keep=8)
    # The longest targets side by side from patch 3 on, the shortest context.
    targets = (np.array([3, 11, 19, 27]) + 0.5) / 33
    sample = sample_equal_draws(sampler, 40, 0.999, 0, 0, targets)
    context = sample["context"][sample["context_valid"]]
    np.testing.assert_array_equal(context, [0, 1, 2, 35, 36, 37, 38, 39])
    np.testing.assert_array_equal(sample["targets"][0, 0], range(3, 11))


def test_context_size_is_the_largest_that_occurs():
    sampler = masks.build("multiblock", 50)
    # The shortest targets on top of each other, the widest context.
    sample = sample_equal_draws(sampler, 50, 0, 0.999, 0, [0, 0, 0, 0])
    assert sample["context_valid"].sum() == sampler.sizes(50).context == 50 - 8


def test_context_size_has_room_for_rows_where_no_draw_suits():
    sampler = masks.build("multiblock", 50, context_scale=(0.3, 0.5))
    # Of the context 0 .. 14 targets at 0 and 4 leave 3 patches, fewer than min_keep.
    sample = sample_equal_draws(sampler, 50, 0, 0, 0, [0, 0, 0, 4.5 / 43])
    assert sample["context_valid"].sum() == sampler.sizes(50).context == 3 + 35


def test_equal_uniforms_still_give_the_exact_count():
    sampler = masks.build("random", 50)
    sample = sampler.sample(np.full((1, 51), 0.5, np.float32), 50, np)
    kept = sample["context_valid"].sum()
    np.testing.assert_array_equal(sample["context"][0, :kept], np.arange(18))


# --- Namespaces and rows ------------------------------------------------------------


@every_case
def test_tensorflow_graph_and_numpy_give_the_same_masks(kind, num_patches, settings):
    tf = pytest.importorskip("tensorflow")
    import tensorflow.experimental.numpy as tnp

    sampler, uniforms, expected = draw(kind, num_patches, 64, **settings)
    dataset = tf.data.Dataset.from_tensor_slices(uniforms).batch(32)
    dataset = dataset.map(lambda u: sampler.sample(u, num_patches, tnp))
    parts = list(dataset.as_numpy_iterator())
    for name, array in expected.items():
        found = np.concatenate([part[name] for part in parts])
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@every_case
def test_static_shapes_are_known_to_the_graph(kind, num_patches, settings):
    tf = pytest.importorskip("tensorflow")
    import tensorflow.experimental.numpy as tnp

    sampler = masks.build(kind, num_patches, **settings)
    sizes = sampler.sizes(num_patches)
    dataset = tf.data.Dataset.from_tensors(tf.zeros([8, sizes.uniforms]))
    spec = dataset.map(lambda u: sampler.sample(u, num_patches, tnp)).element_spec
    shapes = {name: tuple(tensor.shape) for name, tensor in spec.items()}
    assert shapes["context"] == shapes["context_valid"] == (8, sizes.context)
    assert shapes["targets"] == (8, sizes.blocks, sizes.target)
    assert shapes["targets_valid"] == shapes["targets"]


@every_case
def test_a_row_depends_on_its_own_uniforms_only(kind, num_patches, settings):
    sampler, uniforms, together = draw(kind, num_patches, 16, **settings)
    for row in (0, 7, 15):
        alone = sampler.sample(uniforms[row : row + 1], num_patches, np)
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][row])


# --- Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("multblock", {}, "did you mean 'multiblock'"),
        ("random", {"kepp": (0.3, 0.4)}, "did you mean 'keep'"),
        ("random", {"keep": (0.4, 0.3)}, "low <= high"),
        (
            "random",
            {"keep": 0.3},
            r"masks\.keep: expected a sequence, such as .*, found 0\.3",
        ),
        ("random", {"keep": (0.3, 0.4, 0.5)}, r"masks\.keep: expected 2 values"),
        (
            "random",
            {"keep": ("0.3", "0.4")},
            r"keep\[0\]: expected float, found '0\.3'",
        ),
        ("blocks", {"num_blocks": (1.0, 2.0)}, r"num_blocks\[0\]: expected int"),
        ("blocks", {"min_block": True}, r"masks\.min_block: expected int, found True"),
        ("random", {"keep": (0.0, 0.3)}, "above 0 and at most 1"),
        ("random", {"keep": (0.3, 1.4)}, "above 0 and at most 1"),
        ("random", {"keep": (0.5, 1.0)}, "leaves no target"),
        ("random", {"keep": (0.001, 0.002)}, "of 50 patches is none"),
        ("blocks", {"min_block": 0}, "at least 1"),
        ("blocks", {"min_block": 39}, "as few as 38 of 50 patches"),
        ("blocks", {"num_blocks": (4, 5)}, "4 block.s. of at least min_block=10"),
        ("blocks", {"num_blocks": (3, 2)}, "low <= high"),
        ("blocks", {"num_blocks": (0, 2)}, "at least 1"),
        ("multiblock", {"num_targets": 2.5}, r"num_targets: expected int, found 2\.5"),
        ("multiblock", {"min_keep": 11}, "only 10 of 50 patches"),
        ("multiblock", {"target_scale": (0.3, 0.6)}, "only 0 of 50 patches"),
        (
            "multiblock",
            {"min_keep": 43, "context_scale": (0.5, 1), "allow_overlap": True},
            "only 25 of 50 patches",
        ),
        (
            "multiblock",
            {"min_keep": 10, "context_scale": (0.3, 0.4)},
            "of the draws over 50 patches leave min_keep=10",
        ),
    ],
)
def test_settings_that_cannot_work_say_what_to_change(kind, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        masks.build(kind, 50, **settings)
    assert str(error.value).startswith("config.masks")


@pytest.mark.parametrize(
    ("uniforms", "message"),
    [
        (np.zeros((4, 50), np.float32), r"expected \[B, 51\]"),
        (np.zeros(51, np.float32), r"expected \[B, 51\]"),
        (np.zeros((4, 51), np.float64), "expected float32"),
    ],
)
def test_uniforms_of_another_shape_or_type_are_refused(uniforms, message):
    with pytest.raises(ValueError, match=message):
        masks.build("random", 50).sample(uniforms, 50, np)


def test_lists_as_configs_read_them_are_taken_as_ranges():
    sampler = masks.build("blocks", 50, keep=[0.15, 0.25], num_blocks=[1, 2])
    assert sampler == masks.Blocks(keep=(0.15, 0.25), num_blocks=(1, 2))
    assert hash(sampler) == hash(masks.Blocks(num_blocks=(1, 2)))
