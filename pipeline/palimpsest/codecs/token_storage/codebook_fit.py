"""Fits a codebook to tokens: which directions matter, how many bits each gets, and its levels.

With R = metric^(1/2), the error that a reader sees is the plain distance of R x. So: rotate R (x - mean) onto its principal axes,
give the bits one by one to the axis whose error falls most (reverse water-filling with a Gaussian's distortions), and place the
levels of each axis where Lloyd's rule has them for the sample. Directions that the reader hardly looks at vary little in R x and
get no bits.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

import numpy as np

from palimpsest.codecs.token_storage.codebook import INPUT, LEVEL, MAX_BITS, Codebook
from palimpsest.codecs.token_storage.pq import bytes_for
from palimpsest.errors import UsageError

ROUNDS = 20  # of Lloyd's rule
FLOOR = 3e-3  # of the metric's mean eigenvalue, added to all: what no reader of the sample saw still counts a little
HEADROOM = 4.0  # largest channel that is not cut, over the largest of the sample


def fit_codebook(tokens: np.ndarray, bits: float, metric: np.ndarray | None = None) -> Codebook:
    """A codebook for tokens like these.

    The same tokens give the same codebook on one machine with one library of linear algebra; another may differ in last digits.
    It is fitted once for a corpus and then read.

    Args:
        tokens: float32 `[n, dim]`.
        bits: per channel on average, up to 6.
        metric: `[dim, dim]`, symmetric and positive: what an error costs. None counts all channels alike.

    Raises:
        UsageError: no tokens, or all alike, or a number of bits that cannot be.
    """
    if tokens.ndim != 2 or len(tokens) < 2 or not np.isfinite(tokens).all():
        raise UsageError("a codebook needs at least two finite tokens to be fitted on")
    count, dim = tokens.shape
    total = 8 * bytes_for(dim, bits)
    if not 0 < total <= MAX_BITS * dim:
        raise UsageError(f"storage.pq_bits = {bits}: a token of {dim} channels takes at most {MAX_BITS} bits each")
    mean = tokens.mean(0, dtype=np.float64).astype("<f4")
    centred = tokens.astype(np.float64) - mean
    largest = float(np.abs(centred).max())
    if largest == 0:
        raise UsageError("a codebook cannot be fitted on tokens that are all alike")
    scale = np.array([INPUT / (HEADROOM * largest)], "<f4")
    to_axes, from_axes, variances = _axes(centred.T @ centred / count, metric)
    shares = _allocate(variances, total)
    order = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
    widths = shares[order].astype("|u1")
    forward = to_axes[:, order]
    forward = np.ascontiguousarray(np.rint(forward * (0x7FFF / np.abs(forward).max(0))), "<i2")
    z = np.rint(centred * float(scale[0])).clip(-INPUT, INPUT) @ forward.astype(np.float64)
    spread = z.std(0).astype("<f4")
    levels = [_levels(z[:, axis] / spread[axis], int(width)) for axis, width in enumerate(widths)]
    # an axis's row, for a code of one spread: what least squares would say of the rotation, in units of the token
    deviations = np.sqrt(variances[order])
    rows = from_axes[order] * deviations[:, None]
    step = float(np.abs(rows).max() / 0x7FFF)
    backward = np.rint(rows / step).astype("<i2")
    return Codebook(mean, scale, forward, backward, np.array([step], "<f4"), widths, spread, np.concatenate(levels))


def _axes(covariance: np.ndarray, metric: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[dim, dim]` onto the axes, `[dim, dim]` back, and the variance on each, falling."""
    dim = len(covariance)
    if metric is None:
        root = inverse = np.eye(dim)
    else:
        weights, vectors = np.linalg.eigh(metric / (np.trace(metric) / dim) + FLOOR * np.eye(dim))
        root, inverse = (vectors * np.sqrt(weights)) @ vectors.T, (vectors / np.sqrt(weights)) @ vectors.T
    variances, axes = np.linalg.eigh(root @ covariance @ root)
    variances, axes = variances[::-1].clip(0.0), axes[:, ::-1]
    return root @ axes, axes.T @ inverse, np.where(variances > 1e-12 * variances[0], variances, 0.0)


def _allocate(variances: np.ndarray, total: int) -> np.ndarray:
    """Bits of each axis, `total` together: each bit where it saves most; axes without variance get what nobody else can use."""
    distortions = np.array([1.0, *(_gaussian(bits)[1] for bits in range(1, MAX_BITS + 1))])
    saved = distortions[:-1] - distortions[1:]
    bits = np.zeros(len(variances), np.int64)
    queue = [(-variance * saved[0], axis) for axis, variance in enumerate(variances)]
    heapq.heapify(queue)
    for _ in range(total):
        _, axis = heapq.heappop(queue)
        bits[axis] += 1
        if bits[axis] < MAX_BITS:
            heapq.heappush(queue, (-variances[axis] * saved[bits[axis]], axis))
    return bits


@lru_cache(maxsize=MAX_BITS)
def _gaussian(bits: int) -> tuple[np.ndarray, float]:
    """The levels of a unit Gaussian by Lloyd's rule on its quantiles, and the error that they leave."""
    from statistics import NormalDist

    sample = np.array([NormalDist().inv_cdf((i + 0.5) / 8192) for i in range(8192)])
    sample /= sample.std()
    levels = np.quantile(sample, (np.arange(1 << bits) + 0.5) / (1 << bits))
    levels = _lloyd(sample, levels, 200)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, sample)
    return levels, float(np.square(sample - levels[codes]).mean())


def _lloyd(ascending: np.ndarray, levels: np.ndarray, rounds: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(ascending)])
    for _ in range(rounds):
        edges = np.searchsorted(ascending, (levels[1:] + levels[:-1]) / 2)
        first, last = np.concatenate([[0], edges]), np.concatenate([edges, [len(ascending)]])
        counts = last - first
        levels = np.where(counts > 0, (sums[last] - sums[first]) / np.maximum(counts, 1), levels)
    return levels


def _levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Levels for values of spread 1, rising, in units of 1 / LEVEL."""
    found = _lloyd(np.sort(values), _gaussian(bits)[0], ROUNDS)
    return np.maximum.accumulate(np.rint(found * LEVEL).clip(-0x8000, 0x7FFF)).astype("<i2")
