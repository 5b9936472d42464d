"""What electrodes, muscles, mains and amplifiers add to an ECG.

Every `deviation` is in millivolts, uniform between the two for each record: of noise
of the electrodes, the root mean square over the twelve leads and over time (mean
over the draws; one record's is larger or smaller).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.signals import base, draws, electrodes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """White noise of each lead by itself, as an amplifier's.

    Attributes:
      deviation: millivolts, drawn for each lead.
    """

    deviation: base.Range = (0.005, 0.05)

    def __post_init__(self) -> None:
        base.check_range("deviation", self.deviation)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        for_size, for_noise = jax.random.split(rng)
        size = base.uniform(for_size, self.deviation, (ecg.shape[0], 1, ecg.shape[2]))
        return ecg + size * draws.normal(for_noise, ecg.shape), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineWander:
    """Slow movement of the baseline: breathing, sweat, the patient.

    A sum of cosines close enough to each other that the record is shorter than half
    of its period.

    Attributes:
      deviation: millivolts.
      band: Hz.
    """

    deviation: base.Range = (0.03, 0.3)
    band: base.Range = (0.05, 0.5)

    def __post_init__(self) -> None:
        base.check_range("deviation", self.deviation)
        base.check_range("band", self.band)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("baseline_wander", ecg)
        check_below_nyquist("baseline_wander", self.band[1], rate)
        low, high = self.band
        count = max(4, math.ceil((high - low) * 2.0 * ecg.shape[1] / rate))
        frequency = low + (np.arange(count) + 0.5) * (high - low) / count
        basis = electrodes.cosines_and_sines(frequency, ecg.shape[1], rate)
        for_size, for_weight = jax.random.split(rng)
        size = base.uniform(for_size, self.deviation, (ecg.shape[0], 1, 1))
        shape = (ecg.shape[0], 2 * count, electrodes.ELECTRODES)
        weight = size * draws.normal(for_weight, shape) / math.sqrt(count)
        return ecg + electrodes.waves(basis, weight), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineShift:
    """Abrupt steps of the baseline: electrodes that move.

    Attributes:
      deviation: millivolts, of the height of a step.
      interval: seconds, of a full record to one step of it; at least one step.
    """

    deviation: base.Range = (0.05, 0.5)
    interval: float = 5.0

    def __post_init__(self) -> None:
        base.check_range("deviation", self.deviation)
        base.check_positive("interval", self.interval)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("baseline_shift", ecg)
        steps = max(1, round(ecg.shape[1] / rate / self.interval))
        for_size, for_place, for_height = jax.random.split(rng, 3)
        size = base.uniform(for_size, self.deviation, (ecg.shape[0], 1, 1))
        shape = (ecg.shape[0], steps, electrodes.ELECTRODES)
        height = electrodes.to_leads(size * draws.normal(for_height, shape))
        full = base.lengths(ecg, length)[:, None]
        place = jax.random.uniform(for_place, (ecg.shape[0], steps)) * full
        time = base.samples(ecg)[None, :, None]
        for k in range(steps):
            after = time >= place[:, k, None, None]
            ecg = ecg + jnp.where(after, height[:, k, None, :], 0.0)
        return ecg, length


# Hz, from a filter's full to its zero gain.
_TRANSITION = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmgNoise:
    """The electromyogram: noise of the muscles under the electrodes.

    Attributes:
      deviation: millivolts; with bursts, in their middle.
      band: Hz; its upper end may be above half the sampling rate.
      burst: seconds, the deviation of a bell-shaped burst, uniform between the two;
        None: noise of the same size throughout.
    """

    deviation: base.Range = (0.01, 0.1)
    band: base.Range = (20.0, 150.0)
    burst: base.Range | None = (0.5, 5.0)

    def __post_init__(self) -> None:
        base.check_range("deviation", self.deviation)
        base.check_range("band", self.band)
        if self.band[1] - self.band[0] < 2.0 * _TRANSITION:
            raise ValueError(
                f"band is {self.band} Hz; make it at least {2.0 * _TRANSITION:g} Hz wide"
            )
        if self.burst is not None:
            base.check_range("burst", self.burst)
            base.check_positive("burst[0]", self.burst[0])

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("emg_noise", ecg)
        check_below_nyquist("emg_noise", self.band[0] + _TRANSITION, rate)
        for_size, for_noise, for_width, for_middle = jax.random.split(rng, 4)
        batch, samples = (ecg.shape[0], 1, 1), ecg.shape[1]
        size = base.uniform(for_size, self.deviation, batch)
        if self.burst is not None:
            full = base.lengths(ecg, length)[:, None, None]
            width = rate * base.uniform(for_width, self.burst, batch)
            middle = full * base.uniform(for_middle, (0.0, 1.0), batch)
            distance = (base.samples(ecg)[:, None] - middle) / width
            size = size * jnp.exp(-0.5 * jnp.square(distance))
        kernel = band_pass(self.band, rate)
        shape = (ecg.shape[0], samples + len(kernel) - 1, electrodes.ELECTRODES)
        white = draws.normal(for_noise, shape)
        # The kernel is symmetric: each tap but the middle one serves two samples.
        reach = len(kernel) // 2
        noise = float(kernel[reach]) * white[:, reach : reach + samples]
        for k in range(reach):
            last = len(kernel) - 1 - k
            pair = white[:, k : k + samples] + white[:, last : last + samples]
            noise += float(kernel[k]) * pair
        return ecg + electrodes.to_leads(size * noise), length


def band_pass(band: base.Range, rate: float) -> np.ndarray:
    """[K], K odd and symmetric: makes white noise band-limited, of unchanged power.

    The difference of two sinc functions under Kaiser's window for 30 dB; full gain
    begins and ends 10 Hz within the band, whose upper end may be above half the rate.
    """
    # J. F. Kaiser's formulas for 30 dB of attenuation, 1974.
    reach = math.ceil(22.0 / (2.285 * 2.0 * math.pi * _TRANSITION / rate) / 2.0)
    shape = 0.5842 * 9.0**0.4 + 0.07886 * 9.0
    time = np.arange(-reach, reach + 1)
    low, high = band[0] + _TRANSITION / 2, band[1] - _TRANSITION / 2
    low, high = 2.0 * low / rate, min(2.0 * high / rate, 1.0)
    kernel = high * np.sinc(high * time) - low * np.sinc(low * time)
    kernel = kernel * np.kaiser(len(time), shape)
    return kernel / np.sqrt(np.square(kernel).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerlineNoise:
    """The mains' hum and its harmonics.

    Attributes:
      deviation: millivolts, of the first harmonic.
      frequencies: Hz, one of them for each record.
      harmonics: sizes relative to the first one's, 1 for itself; those that are not
        below half the sampling rate are left out.
    """

    deviation: base.Range = (0.01, 0.1)
    frequencies: tuple[float, ...] = (50.0, 60.0)
    harmonics: tuple[float, ...] = (1.0, 0.1, 0.2)

    def __post_init__(self) -> None:
        base.check_range("deviation", self.deviation)
        if not self.frequencies or not self.harmonics:
            raise ValueError("frequencies and harmonics need at least one value each")
        for frequency in self.frequencies:
            base.check_positive("frequencies", frequency)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("powerline_noise", ecg)
        check_below_nyquist("powerline_noise", max(self.frequencies), rate)
        for_size, for_choice, for_weight = jax.random.split(rng, 3)
        batch, choices = ecg.shape[0], len(self.frequencies)
        order = np.arange(1, len(self.harmonics) + 1)
        frequency = np.outer(self.frequencies, order)
        # [choices, harmonics]; the waves are the cosines of all, then their sines.
        size = np.where(frequency < rate / 2, self.harmonics, 0.0)
        basis = electrodes.cosines_and_sines(frequency.ravel(), ecg.shape[1], rate)
        chosen = jax.nn.one_hot(
            jax.random.randint(for_choice, (batch,), 0, choices), choices
        )
        gain = jnp.tile((chosen[:, :, None] * size).reshape(batch, -1), 2)
        gain *= base.uniform(for_size, self.deviation, (batch, 1))
        shape = (batch, gain.shape[1], electrodes.ELECTRODES)
        weight = gain[:, :, None] * draws.normal(for_weight, shape)
        return ecg + electrodes.waves(basis, weight), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomWander:
    """A sinusoid at the electrodes, with white noise of each lead.

    Attributes:
      deviation: millivolts, of the sinusoid.
      band: Hz, its frequency is uniform between the two.
      noise: millivolts, deviation of the white noise.
    """

    deviation: base.Range = (0.03, 0.3)
    band: base.Range = (0.1, 0.5)
    noise: base.Range = (0.005, 0.02)

    def __post_init__(self) -> None:
        for name in ("deviation", "band", "noise"):
            base.check_range(name, getattr(self, name))

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        base.check_leads("random_wander", ecg)
        check_below_nyquist("random_wander", self.band[1], rate)
        for_wave, for_frequency, for_weight, for_noise = jax.random.split(rng, 4)
        batch = ecg.shape[0]
        frequency = base.uniform(for_frequency, self.band, (batch, 1))
        angle = 2.0 * math.pi * frequency * (base.samples(ecg) / rate)
        basis = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        size = base.uniform(for_wave, self.deviation, (batch, 1, 1))
        shape = (batch, 2, electrodes.ELECTRODES)
        weight = electrodes.to_leads(size * draws.normal(for_weight, shape))
        for k in range(2):
            ecg = ecg + basis[:, :, k, None] * weight[:, k, None, :]
        return GaussianNoise(deviation=self.noise)(for_noise, ecg, length, rate=rate)


def check_below_nyquist(name: str, frequency: float, rate: float) -> None:
    """Raises ValueError for a frequency that the sampling rate cannot hold."""
    if frequency >= rate / 2:
        raise ValueError(
            f"{name}: {frequency:g} Hz is not below half the sampling rate, "
            f"{rate / 2:g} Hz; give lower frequencies, or leave {name} out"
        )
