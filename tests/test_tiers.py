"""Tier policies: pure functions of what is known of a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.codecs.modes import MODES, Mode
from palimpsest.config import ConfigError, JobConfig, parse
from palimpsest.flow.recipe import fingerprint
from palimpsest.lab.bench.fit import MIN_PAGES, climbing_modes, fading_modes, fit_layout
from palimpsest.operations.resolving import identify
from palimpsest.pages.layouts.grid import Grid
from palimpsest.tiers.clock import age_of, parse_as_of, parse_duration
from palimpsest.tiers.ladder import FORGOTTEN, TEXT, Ladder, ladder_of
from palimpsest.tiers.operating_points.measured import FEATURES, SHIPPED, points_file, read_entries, shipped
from palimpsest.tiers.policies.protocol import RANKS, PageFacts, Policy, Reading, find_policy, policy_names, policy_of
from palimpsest.tiers.predictor import Predictor, log_error, page_features, read_predictor

ALL = Ladder.of(MODES.values())
GUNDAM = Ladder.of([*MODES.values(), Mode("gundam", 1280, 0, 656, 693)])
DAY = timedelta(days=1)
STEPS = [timedelta(minutes=1), timedelta(hours=1), DAY, 7 * DAY, 30 * DAY, 365 * DAY, 3650 * DAY]


def settings(**tiers: Any) -> Any:
    return parse({"tiers": {"as_of": "2026-01-01", **tiers}}).tiers


def policy(ladder: Ladder = ALL, predictor: Predictor | None = None, one_way: bool = False, **tiers: Any) -> Policy:
    return find_policy(settings(**tiers), ladder, predictor, one_way=one_way)


@pytest.mark.parametrize("name", sorted(RANKS))
@given(
    age=st.none() | st.timedeltas(timedelta(0), 10_000 * DAY),
    importance=st.none() | st.floats(allow_nan=True, allow_infinity=True),
    tokens=st.none() | st.integers(0, 2000),
)
def test_every_policy_answers_every_page_with_a_tier_and_always_the_same(
    name: str, age: timedelta | None, importance: float | None, tokens: int | None
) -> None:
    page = PageFacts(age=age, importance=importance, text_tokens=tokens)
    tier = policy(policy=name).tier(page)
    assert tier in (*ALL.tiers, FORGOTTEN) and tier == policy(policy=name).tier(page)
    assert (tier == FORGOTTEN) <= (name == "forget")


@pytest.mark.parametrize(
    ("ladder", "tiers"),
    [
        (GUNDAM, ["text", "gundam", "large", "base", "small", "tiny", "tiny"]),
        (ALL, ["text", "text", "large", "base", "small", "tiny", "tiny"]),
        (Ladder.of([MODES["base"], MODES["tiny"]]), ["text", "text", "text", "base", "base", "tiny", "tiny"]),
        (Ladder.of([MODES["large"]]), ["text", "text", "large", "large", "large", "large", "large"]),
        (Ladder.of([MODES["tiny"]]), ["text", "text", "text", "text", "text", "tiny", "tiny"]),
    ],
)
def test_the_figure_on_codecs_with_more_and_fewer_modes(ladder: Ladder, tiers: list[str]) -> None:
    """A mode that is not there becomes the nearest sharper one."""
    assert [policy(ladder, policy="age").tier(PageFacts(age=age)) for age in STEPS] == tiers


def test_thresholds_are_settings_and_a_mode_that_they_name_must_be_there() -> None:
    own = policy(policy="age", ages=["2h large", "1.5d tiny"])
    assert [own.tier(PageFacts(age=age)) for age in STEPS[:4]] == ["text", "text", "large", "tiny"]
    for ages, message in (
        (["1d gundam"], "tiers.ages = 'gundam': .* choose one of tiny, small, base, large"),
        (["1 fortnight tiny"], "tiers.ages = '1': expected a number and one of s, min, h"),
        (["1d tiny", "2d large"], "memory only fades"),
        (["1d tiny", "1d tiny"], "at one age once"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy(policy="age", ages=ages)
    with pytest.raises(ConfigError, match="tiers.undated = 'huge'"):
        policy(policy="age", undated="huge")
    with pytest.raises(ConfigError, match="tiers.as_of = '': policy 'age' needs to know"):
        policy(policy="age", as_of="")


def test_pages_without_a_date_and_from_the_future() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age_of(None, now) is None and age_of(now + DAY, now) == timedelta(0) == age_of(now, now)
    assert age_of(datetime(2025, 12, 31), now) == DAY
    assert policy(policy="age").tier(PageFacts()) == TEXT
    assert policy(policy="age", undated="base").tier(PageFacts()) == "base"


def test_clocks_and_durations() -> None:
    assert parse_as_of("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_as_of("2026-01-31T12:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert parse({"tiers": {}}, ["tiers.as_of=2026-01-31"]).tiers.as_of == "2026-01-31"  # a date in TOML
    assert [parse_duration(text, "x") for text in ("90min", "1d", "1mo", "1.5y")] == [DAY / 16, DAY, 30 * DAY, 547.5 * DAY]
    for text in ("", "d", "-1d", "1e3d", "9" * 30 + "y"):
        with pytest.raises(ConfigError, match="x = "):
            parse_duration(text, "x")


def test_importance_holds_back_and_pins_and_a_pin_is_never_forgotten() -> None:
    both = policy(policy="forget+importance+age", forget_after="5y", hold_steps=2)
    assert both.names == ("age", "forget", "importance")
    ages = [DAY, 365 * DAY, 3650 * DAY]
    assert [both.tier(PageFacts(age=age)) for age in ages] == ["large", "tiny", FORGOTTEN]
    assert [both.tier(PageFacts(age=age, importance=0.5)) for age in ages] == ["text", "base", "small"]
    assert [both.tier(PageFacts(age=age, importance=0.9)) for age in ages] == ["text"] * 3
    with pytest.raises(ConfigError, match=r"tiers.hold_importance = 0.95: at most tiers.pin_importance = 0.9"):
        policy(policy="importance", hold_importance=0.95)


def test_names_are_checked_and_chained_in_one_order() -> None:
    assert policy_names("fidelity + age") == ("age", "fidelity") and policy_names("fidelity") == ("fidelity",)
    assert policy_names("importance") == ("fixed", "importance")
    for name, message in (
        ("old", "'old' is no policy; join some of fixed, age"),
        ("age+fixed", "age and fixed both"),
        ("", "no policy"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy_names(name)


def test_a_published_page_only_fades() -> None:
    held = policy(policy="age", one_way=True)
    assert held.tier(PageFacts(age=DAY, tier="tiny")) == "tiny" and held.tier(PageFacts(age=30 * DAY, tier="base")) == "small"
    assert policy(policy="age").tier(PageFacts(age=DAY, tier="tiny")) == "large"


def climb(climber: Policy, precisions: dict[str, float], target: float = 0.9, **facts: Any) -> tuple[str, list[str]]:
    """Where a page with these precisions comes to rest, and the modes that were tried on the way."""
    readings: dict[str, Reading] = {}
    while True:
        tier = climber.tier(PageFacts(readings=readings, **facts))
        if tier == TEXT or tier in readings:
            return tier, list(readings)
        readings[tier] = Reading(precisions[tier], precisions[tier] >= target)


READ = {"tiny": 0.5, "small": 0.8, "base": 0.95, "large": 0.99}


def test_fidelity_climbs_to_the_first_mode_that_meets_the_target() -> None:
    climber = policy(policy="fidelity")
    assert climb(climber, READ) == ("base", ["tiny", "small", "base"])
    assert climb(climber, READ, 0.3) == ("tiny", ["tiny"])
    assert climb(climber, READ, 1.0) == (TEXT, ["tiny", "small", "base", "large"])
    assert climb(policy(policy="fixed+fidelity", mode="small"), READ) == ("base", ["small", "base"])
    assert climb(policy(policy="age+fidelity"), READ, age=365 * DAY) == ("base", ["tiny", "small", "base"])
    assert climb(policy(policy="age+fidelity"), READ, age=timedelta(0)) == (TEXT, [])


def test_a_text_that_costs_no_more_than_its_tokens_stays_text() -> None:
    assert climb(policy(policy="fidelity"), READ, text_tokens=73) == (TEXT, [])
    assert climb(policy(policy="fidelity"), READ, text_tokens=120) == (TEXT, ["tiny", "small"])
    assert climb(policy(policy="fidelity", cheap_text=False), READ, text_tokens=10)[0] == "base"
    why = policy(policy="fidelity").why_text
    assert why(PageFacts(text_tokens=73)) == "text_is_cheaper"
    assert why(PageFacts(text_tokens=500, readings={"tiny": Reading(0.1, False)})) == "below_every_rung"
    assert policy(policy="age+fidelity").why_text(PageFacts(age=DAY / 100, text_tokens=500)) == "policy"


@pytest.mark.parametrize("name", ["fixed", "age", "importance", "forget+age"])
def test_no_policy_gives_a_page_tokens_that_cost_more_than_its_text(name: str) -> None:
    year = {"age": 365 * DAY}
    own = policy(policy=name)
    assert [own.tier(PageFacts(text_tokens=tokens, **year)) for tokens in (33, 73, 74)] == [TEXT, TEXT, "tiny"]
    assert own.why_text(PageFacts(text_tokens=33, **year)) == "text_is_cheaper"
    assert own.tier(PageFacts(**year)) == "tiny"
    old = policy(policy=name, cheap_text=False)
    assert old.tier(PageFacts(text_tokens=33, **year)) == "tiny"
    assert policy(policy=name, one_way=True).tier(PageFacts(text_tokens=33, tier="tiny", **year)) == "tiny"
    assert policy(policy="importance").why_text(PageFacts(text_tokens=33, importance=0.95)) == "policy"
    assert policy(policy="forget").tier(PageFacts(text_tokens=33, age=4000 * DAY)) == FORGOTTEN


# the predictor


def pages(count: int, seed: int = 0) -> tuple[list[tuple[float, ...]], list[list[float]]]:
    """Features and precisions that follow them: the more digits, the worse; small reads a tenth of tiny's errors."""
    draw = np.random.default_rng(seed)
    features, precisions = [], []
    for _ in range(count):
        digits = draw.uniform(0, 1)
        error = 10 ** (-3 + 2.5 * digits + draw.normal(0, 0.1))
        features.append((1.0, 1.0, float(digits), *[0.1] * (len(FEATURES) - 3)))
        precisions.append([1 - min(error, 1), 1 - min(error / 10, 1)])
    return features, precisions


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    text = json.dumps(points_file([fit_layout("r1", "grid 80x40", ["tiny", "small"], *pages(300))]))
    grid = Grid.parse("80x40", "latin")
    found = read_predictor(text, "r1", grid, 0.97)
    assert found is not None and read_predictor(text, "r2", grid, 0.97) is None
    return found


def test_a_predictor_starts_pages_where_they_come_to_rest(predictor: Predictor) -> None:
    climber = policy(Ladder.of([MODES["tiny"], MODES["small"]]), predictor, policy="fidelity")
    blind = policy(Ladder.of([MODES["tiny"], MODES["small"]]), policy="fidelity")
    tries = {"predicted": 0, "blind": 0, "hits": 0, "same": 0}
    features, precisions = pages(200, seed=1)
    for known, (tiny, small) in zip(features, precisions, strict=True):
        read = {"tiny": tiny, "small": small}
        end, tried = climb(climber, read, 0.97, features=known)
        truth, steps = climb(blind, read, 0.97, features=known)
        tries["predicted"] += len(tried)
        tries["blind"] += len(steps)
        tries["hits"] += len(tried) == 1
        tries["same"] += end == truth
    assert tries["predicted"] < 0.85 * tries["blind"] and tries["hits"] > 180 and tries["same"] > 190


def test_no_page_becomes_text_on_a_prediction(predictor: Predictor) -> None:
    """A page of a kind that the predictor was not fitted to looks hopeless and reads well."""
    climber = policy(Ladder.of([MODES["tiny"], MODES["small"]]), predictor, policy="fidelity")
    hopeless = (1.0, 1.0, 3.0, *[0.1] * (len(FEATURES) - 3))
    assert predictor.chance("small", hopeless) < 0.01
    assert climb(climber, {"tiny": 0.5, "small": 0.99}, 0.97, features=hopeless) == ("small", ["small"])
    assert climb(climber, {"tiny": 0.5, "small": 0.5}, 0.97, features=hopeless) == (TEXT, ["small"])
    assert climb(climber, {"tiny": 1.0, "small": 1.0}, 0.97, features=hopeless) == ("tiny", ["small", "tiny"])


def test_a_verdict_corrects_the_expectation_of_the_other_modes(predictor: Predictor) -> None:
    features, _ = pages(1)
    before = predictor.chance("small", features[0])
    assert predictor.chance("small", features[0], {"tiny": 0.2}) < before
    assert predictor.chance("tiny", features[0], {"small": 1.0}) >= predictor.chance("tiny", features[0], {"small": 0.8})
    assert predictor.chance("huge", features[0]) == 0.5


def test_features_are_cheap_numbers_of_any_text() -> None:
    for text in ("", "\n", "Plain prose, as it is.", "0x3f 12", "船" * 50):
        found = page_features(text, 2048)
        assert len(found) == len(FEATURES) and all(np.isfinite(found)) and found[0] == 1.0
    assert log_error(1.0) == pytest.approx(-3) and log_error(0.0) == pytest.approx(0.0, abs=1e-3)
    with pytest.raises(ValueError, match="too few"):
        fit_layout("r", "grid 64x32", ["tiny"], [[0.0] * len(FEATURES)] * (MIN_PAGES - 1), [[1.0]] * (MIN_PAGES - 1))


def test_a_file_that_is_no_predictor_is_named(tmp_path: Any) -> None:
    (tmp_path / "bad.json").write_text('{"format": 99, "features": [], "grids": []}')
    for setting, message in (
        (str(tmp_path / "bad.json"), "no file of operating points of format 3"),
        (str(tmp_path / "none.json"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy_of(parse({"tiers": {"policy": "fidelity", "predictor": setting}}), Grid.parse("64x32", "latin"), "r")


# rungs that were measured

COST_ORDER = ["tiny", "small", "base", "large"]


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_rung_is_read_better_than_every_cheaper_one(precision: list[float]) -> None:
    fading = [precision[COST_ORDER.index(mode)] for mode in fading_modes(COST_ORDER, precision)]
    assert fading and all(blurred < sharp for blurred, sharp in zip(fading, fading[1:], strict=False))
    assert max(precision) < 0.5 or max(precision) - fading[-1] <= 0.2 * (1 - fading[-1]) + 1e-9  # what is lost is noise


@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=30))
def test_a_rung_to_climb_brings_pages_that_no_cheaper_one_does(met: list[tuple[bool, ...]]) -> None:
    found = climbing_modes(COST_ORDER, np.array(met), [0.6, 0.7, 0.8, 0.9])
    left = met
    for mode in found:
        place = COST_ORDER.index(mode)
        brought = [page for page in left if page[place]]
        assert not left or len(brought) >= 0.2 * len(left) or not any(any(page) for page in met)
        left = [page for page in left if not page[place]]
    lost = [page for page in left if any(page)]
    assert len(lost) <= 4 * 0.2 * len(met)  # by leaving out modes that bring less than a fifth of what is left


def measured_on(precision: dict[str, float], revision: str = "r", layout: str = "grid 64x32") -> str:
    """A file of operating points of a codec that reads so much of every page in each mode."""
    features = [(1.0, *np.random.default_rng(page).uniform(0, 1, len(FEATURES) - 1)) for page in range(MIN_PAGES)]
    return json.dumps(
        points_file([fit_layout(revision, layout, list(precision), features, [list(precision.values())] * MIN_PAGES)])
    )


@pytest.mark.parametrize(
    ("precision", "steps", "climbing"),
    [
        ((0.89, 0.62, 1.0, 0.975), "text text base base tiny tiny", "base large"),  # small is read worse than tiny
        ((1.0, 0.975, 0.999, 0.88), "text text tiny tiny tiny tiny", "tiny small base"),
        ((0.2, 0.3, 0.9, 0.99), "text text large base base base", "large"),  # nobody reads tiny
        ((0.92, 0.95, 0.99, 0.999), "text text large base small tiny", "base large"),
    ],
)
def test_the_figure_and_the_climb_go_by_what_was_measured(precision: Any, steps: str, climbing: str) -> None:
    """A mode that is read no better than a cheaper one becomes the cheaper one: tokens fall, and precision with them."""
    text = measured_on(dict(zip(COST_ORDER, precision, strict=True)))
    grid, made = Grid.parse("64x32", "latin"), {"as_of": "2026-01-01", "predictor": text}
    config, aged = policy_of(parse({"tiers": {"policy": "age", **made}}), grid, "r")
    assert [aged.tier(PageFacts(age=age)) for age in STEPS[:6]] == steps.split()
    assert set(config.tiers.modes) == {mode.name for mode in aged.ladder.modes} == set(steps.split()) - {TEXT}
    demanded = {"verification": {"target_precision": 0.97}, "tiers": {"policy": "fidelity", **made}}
    config, measures = policy_of(parse(demanded), grid, "r")
    assert [mode.name for mode in reversed(measures.ladder.modes)] == climbing.split() and measures.predictor
    again, same = policy_of(config, grid, "r")
    assert (again, same.ladder) == (config, measures.ladder)


def test_settings_stand_above_what_was_measured() -> None:
    grid, text = Grid.parse("64x32", "latin"), measured_on(dict(zip(COST_ORDER, (0.89, 0.62, 1.0, 0.97), strict=True)))

    def of(**tiers: Any) -> Policy:
        return policy_of(parse({"tiers": {"policy": "age", "as_of": "2026-01-01", "predictor": text, **tiers}}), grid, "r")[1]

    assert of(modes=["small", "large"]).ladder.tiers == ("text", "large", "small")
    assert of(ages=["1d small"]).tier(PageFacts(age=DAY)) == "small"
    assert of(undated="small").tier(PageFacts()) == "small"
    assert of(policy="importance", mode="small").tier(PageFacts()) == "small"
    assert of(policy="fixed", mode="small").ladder == ALL == of(predictor="none").ladder
    for other in (measured_on({"tiny": 1.0}, "s"), measured_on({"tiny": 1.0}, layout="grid 80x40")):
        with pytest.raises(ConfigError, match="tiers.predictor: measured on .*, not on grid 64x32 of codec r"):
            of(predictor=other)
    with pytest.raises(ConfigError, match="no file of operating points of format 3"):
        of(predictor='{"format": 3, "features": [], "entries": []}')


def test_the_codec_that_ships_has_rungs_and_they_are_those_of_its_weights() -> None:
    """Else: palimpsest fit embedded (docs/running.md), whenever the weights change."""
    revision = identify(parse({})).revision
    assert [path.name for path in SHIPPED.glob("sha256-*.json")] == [shipped(revision).name]
    entries = read_entries(shipped(revision).read_text())
    assert {entry["codec_revision"] for entry in entries} == {revision} and {"grid 64x32", "grid 80x40"} <= {
        entry["layout"] for entry in entries
    }
    for entry in entries:
        assert entry["fading"] == fading_modes(entry["modes"], entry["precision"])
        for target in entry["climbing"]:
            verification = {"target_precision": float(target)}
            settings = {
                "layout": {"grid": entry["layout"].removeprefix("grid ")},
                "tiers": {"policy": "fidelity"},
                "verification": verification,
            }
            assert set(identify(parse(settings)).config.tiers.modes) == set(entry["climbing"][target])


# the job's settings


def test_the_clock_is_part_of_what_is_made_only_where_it_decides() -> None:
    def print_of(**tiers: Any) -> str:
        return fingerprint(parse({"tiers": tiers}), "layout", "codec", "revision")

    assert print_of(as_of="2026-01-01") == print_of(as_of="2027-01-01") == print_of(undated="base")
    assert print_of(policy="age", as_of="2026-01-01") != print_of(policy="age", as_of="2027-01-01")
    assert print_of(policy="fidelity", as_of="2026-01-01") == print_of(policy="fidelity", as_of="2027-01-01")
    assert print_of(policy="fidelity") != print_of(policy="fixed") != print_of(mode="small")
    assert print_of(policy="age+fidelity", as_of="x") == print_of(policy="fidelity+age", as_of="x")


def test_a_job_is_refused_what_its_policy_cannot_do() -> None:
    grid = Grid.parse("64x32", "latin")
    for tiers, message in (
        ({"policy": "fidelity"}, "verification.share = 0.5: policy 'fidelity' decodes every page"),
        ({"policy": "age+forget", "as_of": "2026-01-01"}, "'forget' drops texts of a published corpus"),
        (
            {"mode": "gundam"},
            "tiers.mode = 'gundam': the codec has no such mode for this grid; choose one of tiny, small, base, large",
        ),
        ({"modes": ["tiny", "huge"]}, "tiers.modes = 'huge'"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy_of(parse({"tiers": tiers, "verification": {"share": 0.5}}), grid, "r")
    config: JobConfig = parse({"codec": {"name": "unlimited-ocr"}, "tiers": {"policy": "age", "as_of": "2026-01-01"}})
    assert [mode.name for mode in ladder_of(config, Grid.parse("70x35")).modes] == ["base"]
