"""Options: one declaration each, read alike from text, protobuf and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import ServiceError
from service.domain.option_table import check_values, option, options_of, parse_fields, to_fields, to_markdown
from service.domain.option_types import Flag, WholeNumber
from service.domain.options import OPTION_NAMES, OPTIONS, AppliedOptions, SegmentOptions, parse_options
from service.domain.result import SOUNDING, ModelInfo

BINARY = ModelInfo("tiny", "sha256:ab", (SOUNDING,), None, 224, 224)
SEMANTIC = ModelInfo("tiny", "sha256:ab", ("dog", "drum"), None, 224, 224)


@given(
    st.builds(
        SegmentOptions,
        fps=st.just("native") | st.floats(0.001, 60),
        start_s=st.floats(0, 10),
        end_s=st.none() | st.floats(11, 20),
        threshold=st.none() | st.floats(0, 1),
        size=st.sampled_from(["source", "model"]),
        labels=st.none() | st.just(("dog", "drum")),
        min_area=st.integers(0, 2**31 - 1),
        audio_track=st.none() | st.integers(0, 255),
    )
)
def test_options_survive_as_text(asked: SegmentOptions) -> None:
    assert parse_options(to_fields(asked)) == asked


def test_a_blank_field_counts_as_not_given() -> None:
    assert parse_options(dict.fromkeys(OPTION_NAMES, "")) == SegmentOptions()
    assert parse_options(dict.fromkeys(OPTION_NAMES, " \t")) == SegmentOptions()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fps", "0"), ("fps", "61"), ("fps", "nan"), ("fps", "Native"), ("start_s", "-1"), ("start_s", "inf"),
        ("end_s", "x"), ("threshold", "1.5"), ("size", "large"), ("min_area", "-1"), ("min_area", "1.5"),
        ("min_area", "9" * 40), ("audio_track", "-1"), ("audio_track", "256"), ("audio_track", "first"),
    ],
)  # fmt: skip
def test_a_bad_value_names_the_option_and_what_to_give(name: str, text: str) -> None:
    with pytest.raises(ServiceError) as refused:
        parse_options({name: text})
    assert refused.value.code == "bad_option"
    wanted = next(declared.type.wanted for declared in OPTIONS if declared.name == name)
    assert refused.value.detail.startswith(f"{name}: ")
    assert wanted in refused.value.detail


def test_an_unknown_name_lists_the_options() -> None:
    with pytest.raises(ServiceError, match="'speed' is not an option") as refused:
        parse_options({"speed": "1"})
    assert all(name in refused.value.detail for name in OPTION_NAMES)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ServiceError, match="end_s"):
        parse_options({"start_s": "2", "end_s": "2"})


@pytest.mark.parametrize("bad", [{"fps": math.nan}, {"threshold": -0.1}, {"size": "large"}, {"audio_track": -1}])
def test_values_are_checked_however_they_come(bad: dict[str, object]) -> None:
    with pytest.raises(ServiceError, match=next(iter(bad))):
        SegmentOptions(**bad)  # type: ignore[arg-type]


def test_defaults_follow_the_model() -> None:
    assert SegmentOptions().resolve(BINARY) == AppliedOptions(threshold=0.5, labels=(SOUNDING,))
    assert SegmentOptions().resolve(SEMANTIC) == AppliedOptions(threshold=0.0, labels=("dog", "drum"))
    asked = SegmentOptions(threshold=0.25, labels=("drum", "dog"), audio_track=2)
    assert asked.resolve(SEMANTIC) == AppliedOptions(threshold=0.25, labels=("dog", "drum"), audio_track=2)
    with pytest.raises(ServiceError, match="'cat'"):
        SegmentOptions(labels=("cat",)).resolve(SEMANTIC)


@dataclass(frozen=True, slots=True)
class Declared:
    """Options of a test: what a declaration alone brings."""

    loud: bool = option(Flag(), default=False, help="Whether it is loud.")
    many: int = option(WholeNumber(least=1, most=9), default=2, help="How many.")

    def __post_init__(self) -> None:
        check_values(self)


def test_a_declaration_is_all_that_an_option_needs() -> None:
    assert parse_fields(Declared, {"loud": "TRUE", "many": "3"}) == Declared(loud=True, many=3)
    assert to_fields(Declared(loud=True)) == {"loud": "true"}
    assert [declared.json_schema() for declared in options_of(Declared)] == [
        {"type": "boolean", "default": False, "description": "Whether it is loud. Default: false."},
        {"type": "integer", "minimum": 1, "maximum": 9, "default": 2, "description": "How many. Default: 2."},
    ]
    assert "| `many` | a whole number from 1 to 9 | 2 | How many. |" in to_markdown(Declared)
    with pytest.raises(ServiceError, match="loud: 'maybe' is not true or false"):
        parse_fields(Declared, {"loud": "maybe"})
