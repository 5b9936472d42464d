"""A map of the embeddings: records that are alike to the encoder lie together."""

import numpy as np
from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import TEXT, Chart, Entry, plain
from ecgssl_jax.evaluation.html_report.ink import LIGHT, SERIES
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import Picture
from ecgssl_jax.evaluation.probes.inputs import standardisation
from ecgssl_jax.evaluation.questions import Question

_RECORDS = 2500  # at most: they are drawn where there are more
_FEWEST = 12
_COMPONENTS = 50  # principal ones, of which a map is made
_PERPLEXITY = 30
_WIDTH = 680  # px
_AROUND = 30  # records that say where a class is at home
_LONG = 12  # letters of names that are written into the map
_APART = 0.08  # of the map's width, between names


def map_picture(material: Material) -> Picture | None:
    """None for features that do not differ, or too few of them."""
    if material.pooled is None:
        return None
    asked = coloured_task(material)
    rows = np.arange(len(asked.rows))
    if len(rows) > _RECORDS:
        rng = np.random.default_rng(material.seed)
        rows = np.sort(rng.choice(rows, _RECORDS, replace=False))
    places = two_dimensions(material.features(asked.rows[rows]), seed=material.seed)
    if places is None:
        return None
    kinds, names = single_classes(asked, rows)
    others, words = "several, or others", ""
    if (kinds >= 0).mean() < 0.5:
        kinds, names = rarest_classes(asked, rows)
        others = "others"
        words = " A record of several of these classes has the colour of the rarest."
    counts = [int((kinds == number).sum()) for number in range(len(names))]
    rest = int((kinds < 0).sum())
    legend = [
        Entry(colour=SERIES[number], mark="dot", text=f"{name} ({count:,})")
        for number, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
    if rest:
        text = f"{others} ({rest:,})"
        legend.append(Entry(colour="pale", mark="dot", text=text))
    drawn = (
        f", {len(rows):,} of them drawn at random"
        if len(rows) < len(asked.rows)
        else ""
    )
    learnt = "The encoder was shown none of these colours."
    if dict(material.method).get("name") == "supervised":
        learnt = "The encoder was trained on labels."
    return Picture(
        name="map",
        title=f"A map of the embeddings: {asked.name}",
        caption=(
            f"The reported records{drawn}, by t-SNE of their pooled features: those that "
            f"the encoder finds alike lie together. {learnt} Distances between islands, "
            f"and their sizes, mean nothing.{words}"
        ),
        charts=[_chart(places, kinds, names, material.encoder)],
        legend=legend,
        width=560,
        columns=1,
    )


def coloured_task(material: Material) -> Question:
    """The task of the fewest classes, of its reported records."""
    names = [each.name for each in material.asked]
    sizes = [len(each.classes) for each in material.asked]
    return material.reported(names[int(np.argmin(sizes))])


def single_classes(
    asked: Question, rows: np.ndarray, most: int = len(SERIES)
) -> tuple[np.ndarray, list[str]]:
    """-> [n] int, the class of the records that have just one, and the classes' names.

    Of the most frequent classes alone, by their number in the names; -1 for the others.

    Args:
      rows: [n] places among the question's records.
    """
    holds = asked.known[rows] & (asked.labels[rows] == 1)
    single = holds & (holds.sum(axis=1, keepdims=True) == 1)
    frequent = np.argsort(-single.sum(axis=0), kind="stable")[:most]
    frequent = [int(x) for x in frequent if single[:, x].any()]
    kinds = np.full(len(rows), -1)
    for number, column in enumerate(frequent):
        kinds[single[:, column]] = number
    return kinds, [asked.classes[column] for column in frequent]


def rarest_classes(
    asked: Question, rows: np.ndarray, most: int = len(SERIES)
) -> tuple[np.ndarray, list[str]]:
    """As `single_classes`, where most records have several: each counts for its rarest.

    Of the most frequent classes that no more than half of the records have.
    """
    holds = asked.known[rows] & (asked.labels[rows] == 1)
    counts = holds.sum(axis=0)
    frequent = [
        int(column)
        for column in np.argsort(-counts, kind="stable")
        if 0 < counts[column] <= len(rows) / 2
    ][:most]
    rarest = np.full(len(rows), -1)
    for column in frequent:
        rarest[holds[:, column]] = column
    # Some are in no record without a rarer one.
    shown = [column for column in frequent if (rarest == column).any()]
    kinds = np.full(len(rows), -1)
    for number, column in enumerate(shown):
        kinds[rarest == column] = number
    return kinds, [asked.classes[column] for column in shown]


def two_dimensions(features: np.ndarray, *, seed: int) -> np.ndarray | None:
    """[n, 2], by t-SNE of the standardised features' principal components.

    The same features and seed give the same map. None for fewer than twelve records,
    and for features that do not differ.

    Args:
      features: [n, D] float32, finite.
    """
    if len(features) < _FEWEST:
        return None
    # Half a second that those who only want tables need not wait.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    mean, scale = standardisation(features)
    features = (features - mean) * scale
    if len(np.unique(features, axis=0)) < _FEWEST:
        return None
    components = min(_COMPONENTS, *features.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(features)
    if components < 2:
        return None
    # Coordinates of the first component's size, as the PCA start of t-SNE has them.
    start = reduced[:, :2] / max(reduced[:, 0].std(), 1e-12) * 1e-4
    made = TSNE(
        perplexity=min(_PERPLEXITY, (len(features) - 1) / 3),
        init=start.astype(np.float32),
        learning_rate="auto",
        max_iter=750,
        random_state=seed,
    )
    # A map does not depend on the number of cores, and threads that wait for a busy
    # core take longer than one alone.
    with threadpool_limits(1):
        return made.fit_transform(reduced.astype(np.float32))


def _chart(
    places: np.ndarray, kinds: np.ndarray, names: list[str], encoder: str
) -> Chart:
    low, high = places.min(axis=0), places.max(axis=0)
    # As wide as it is: a map may be turned.
    if np.ptp(places[:, 1]) > np.ptp(places[:, 0]):
        places, low, high = places[:, ::-1], low[::-1], high[::-1]
    wide, tall = np.maximum(high - low, 1e-9)
    height = float(np.clip(_WIDTH * tall / wide, 280, 560))
    # Of equal scale along both axes.
    half = np.array([_WIDTH, height]) * max(wide / _WIDTH, tall / height) / 2
    middle = (low + high) / 2
    # Long names would hide the records.
    named = max(map(len, names), default=0) <= _LONG

    def draw(axes: Axes) -> None:
        axes.axis("off")
        limits = np.stack([middle - half, middle + half], axis=1)
        axes.set(xlim=limits[0], ylim=limits[1])
        size = 7 if len(places) < 150 else 4.4 if len(places) < 1000 else 3.1
        for kind in range(-1, len(names)):
            own = places[kinds == kind]
            color = LIGHT["pale"] if kind < 0 else LIGHT[SERIES[kind]]
            axes.plot(
                *own.T,
                ls="none",
                marker="o",
                ms=size * (0.8 if kind < 0 else 1),
                color=color,
                mew=0,
                alpha=0.5 if kind < 0 else 0.72,
                clip_on=False,
            )
        found = heartlands(places, kinds) if named else {}
        for kind, place in found.items():
            axes.text(
                place[0],
                place[1],
                plain(names[kind]),
                ha="center",
                va="center",
                fontsize=TEXT + 1,
                fontweight="bold",
                color=LIGHT["ink"],
                bbox={
                    "facecolor": LIGHT["card"],
                    "edgecolor": LIGHT[SERIES[kind]],
                    "boxstyle": "round,pad=0.25,rounding_size=0.5",
                    "alpha": 0.86,
                },
            )

    said = ", ".join(names) if names else "no class by itself"
    return Chart(
        draw=draw,
        label=f"{len(places)} records as dots, coloured by class: {said} ({encoder})",
        size=(_WIDTH + 20, height + 20),
        margins=(10, 10, 10, 10),
    )


def heartlands(places: np.ndarray, kinds: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> [2], where it is most among its own.

    The middle of the record with most of its kind around it, and of those. Without
    classes that would come to lie upon one of a more frequent one.
    """
    from sklearn.neighbors import NearestNeighbors

    around = min(_AROUND, len(places))
    near = NearestNeighbors(n_neighbors=around).fit(places).kneighbors(places)[1]
    room = _APART * np.ptp(places, axis=0).max()
    found: dict[int, np.ndarray] = {}
    for kind in range(kinds.max() + 1):
        same = (kinds[near] == kind) & (kinds == kind)[:, None]
        best = near[int(np.argmax(same.sum(axis=1)))]
        middle = np.median(places[best[kinds[best] == kind]], axis=0)
        if all(np.linalg.norm(middle - other) > room for other in found.values()):
            found[kind] = middle
    return found
