"""The tiers of a codec: plain text on top, then its modes from the sharpest to the blurriest, and oblivion below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palimpsest.codecs.modes import Mode
from palimpsest.config import ConfigError, JobConfig
from palimpsest.errors import UsageError
from palimpsest.pages.layouts.protocol import Layout

if TYPE_CHECKING:
    from palimpsest.codecs.target import TargetFormat

TEXT = "text"
FORGOTTEN = "forgotten"
FIGURE = ("1h gundam", "1d large", "1w base", "1mo small", "1y tiny")
NOMINAL = {"gundam": 656, "large": 400, "base": 256, "small": 100, "tiny": 64}
"""Visual tokens of DeepSeek-OCR's modes, to rank a mode that a codec lacks; gundam has four tiles of 100 and a view of 256."""


@dataclass(frozen=True)
class Ladder:
    """The tiers that a page can have.

    Args:
        modes: the modes that a page may get, sharpest first.
        known: all modes of the codec; stored pages may have one that pages no longer get.
    """

    modes: tuple[Mode, ...]
    known: tuple[Mode, ...]

    @classmethod
    def of(cls, known: Iterable[Mode], only: Iterable[str] = ()) -> Ladder:
        """The ladder of a codec with the modes `known`; pages get those in `only`, or all if it is empty.

        Raises:
            ConfigError: a mode in `only` is unknown (the message lists the choices), or the codec has no mode.
        """
        sorted_known = tuple(sorted(known, key=lambda mode: (-mode.num_context_tokens, mode.name)))
        if not sorted_known:
            raise ConfigError("layout.grid: the codec has no mode in which its cells can be drawn and read; choose another grid")
        whole = cls(sorted_known, sorted_known)
        chosen = {whole.mode(name, "tiers.modes").name for name in only}
        return cls(tuple(mode for mode in sorted_known if not chosen or mode.name in chosen), sorted_known)

    @property
    def tiers(self) -> tuple[str, ...]:
        """The names of the tiers, sharpest first."""
        return (TEXT, *(mode.name for mode in self.modes))

    @property
    def blurriest(self) -> Mode:
        return self.modes[-1]

    def mode(self, name: str, setting: str) -> Mode:
        """The mode that `setting` names.

        Raises:
            ConfigError: naming the setting, the value and the choices.
        """
        for mode in self.modes:
            if mode.name == name:
                return mode
        raise ConfigError(f"{setting} = {name!r}: the codec has no such mode for this grid; choose one of {self._choices()}")

    def tier(self, name: str, setting: str) -> str:
        """As `mode`, but "text" is allowed too."""
        return TEXT if name == TEXT else self.mode(name, setting).name

    def at_least(self, name: str) -> str:
        """The tier of that name, or else the blurriest sharper one: a page may keep more than it needs, never less."""
        if name in self.tiers:
            return name
        sharper = [mode for mode in self.modes if mode.num_vision_tokens >= NOMINAL[name]]
        return sharper[-1].name if sharper else TEXT

    def sharper(self, tier: str, steps: int) -> str:
        """The tier `steps` above; text stays text."""
        names = (*self.tiers, FORGOTTEN)
        return names[max(0, names.index(tier) - steps)]

    def sharpness(self, tier: str) -> float:
        """A rank that grows with the kept share of a page: context tokens, infinite for text.

        Raises:
            ValueError: the codec does not have this tier.
        """
        if tier in (TEXT, FORGOTTEN):
            return float("inf") if tier == TEXT else 0.0
        for mode in self.known:
            if mode.name == tier:
                return float(mode.num_context_tokens)
        raise UsageError(f"tier {tier!r} is none of {TEXT}, {', '.join(mode.name for mode in self.known)}")

    def _choices(self) -> str:
        return ", ".join(mode.name for mode in reversed(self.modes))


def ladder_of(config: JobConfig, layout: Layout) -> Ladder:
    """The ladder of a job: the modes in which its codec reads its grid, and in which the grid's cells can be drawn.

    No model is loaded, unless the codec is one whose modes only its checkpoint knows.

    Raises:
        ConfigError: for a grid that the codec does not read, or a mode in `tiers.modes` that it lacks.
    """
    from palimpsest.codecs.presets import find_preset
    from palimpsest.codecs.target import named_target

    preset = find_preset(config.codec.name)
    modes = preset.modes or _loaded_modes(config)
    if preset.target:
        target = named_target(preset.target)
        readable = tuple(mode for mode in modes if _reads(target, layout, mode))
        if not readable:
            for size in layout.sizes or ((0, 0),):
                target.prompt(*size, modes[0])  # its error lists the grids that it reads
        modes = readable
    return Ladder.of([mode for mode in modes if layout.is_drawable(mode.px)], config.tiers.modes)


def _reads(target: TargetFormat, layout: Layout, mode: Mode) -> bool:
    try:
        for size in layout.sizes or ((0, 0),):
            target.prompt(*size, mode)
    except ValueError:
        return False
    return True


def _loaded_modes(config: JobConfig) -> tuple[Mode, ...]:
    from palimpsest.codecs.adapter import load_codec

    codec = config.codec
    options = {"revision": codec.revision, "content_hash": codec.content_hash, "trust_remote_code": codec.trust_remote_code}
    return load_codec(codec.name, codec.path, **options, parts="encoder").modes  # type: ignore[arg-type]
