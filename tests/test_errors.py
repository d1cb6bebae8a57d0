"""The tree of errors: complete, and each message names its subject and what to do next."""

from __future__ import annotations

import inspect
import re

import pytest

from mlxhub_core import errors
from mlxhub_core.errors import (
    EXIT_FAILED,
    EXIT_NOT_RUNNING,
    EXIT_USAGE,
    ConfigError,
    GroupFullError,
    HubError,
    HubNotRunningError,
    HubStateError,
    IllegalMoveError,
    LaunchError,
    MemoryShortError,
    ModelError,
    Problem,
    UnknownModelError,
    did_you_mean,
    in_gigabytes,
    listed,
)

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
}


def drawn() -> dict[str, str]:
    """Each class in the drawing of the docstring, with the one it hangs from; the root from nothing."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"[ │├└─]*(?=(\w+Error)\b)", line):
            column, name = match.end(), match[1]
            above = [(other, each) for other, each in above if other < column]
            parents[name] = above[-1][1] if above else ""
            above.append((column, name))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn() == {name: "" if error is HubError else error.__mro__[1].__name__ for name, error in CLASSES.items()}
    assert set(drawn()) >= {"HubError", "ConfigError", "LaunchError"}, "nothing was read"


@pytest.mark.parametrize("error", CLASSES.values(), ids=CLASSES)
def test_every_error_is_a_hub_error_with_a_docstring(error: type[BaseException]) -> None:
    assert issubclass(error, HubError)
    assert "__doc__" in vars(error)
    assert error.__doc__


@pytest.mark.parametrize("error", CLASSES.values(), ids=CLASSES)
def test_only_a_wrong_file_and_a_hub_that_does_not_run_leave_with_exit_codes_of_their_own(
    error: type[HubError],
) -> None:
    own = {ConfigError: EXIT_USAGE, HubNotRunningError: EXIT_NOT_RUNNING}
    assert error.exit_code == own.get(error, EXIT_FAILED)


def test_the_exit_codes_are_those_that_scripts_and_click_know() -> None:
    assert (EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING) == (1, 2, 3)


# Problems.


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("hub.yaml:9:17", "models[0].port", "is wrong"), "hub.yaml:9:17: models[0].port: is wrong"),
        (Problem("hub.yaml:1:1", "", "is empty"), "hub.yaml:1:1: is empty"),
        (Problem("", "", "is wrong"), "is wrong"),
    ],
    ids=["place-and-key", "the-file-as-a-whole", "message-alone"],
)
def test_a_problem_reads_as_place_key_message(problem: Problem, line: str) -> None:
    assert str(problem) == line


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a\nhub.yaml:1:1: all is well", r"a\nhub.yaml:1:1: all is well"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\0b", r"a\x00b"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ("größe 模型", "größe 模型"),
        ("it's", "it's"),
        ("a\\b", r"a\b"),
    ],
    ids=["line-break", "escape-sequence", "nul", "right-to-left", "half-a-character", "letters", "quote", "backslash"],
)
def test_a_problem_is_one_line_that_can_be_printed_whatever_the_key_holds(key: str, shown: str) -> None:
    line = str(Problem("hub.yaml:1:1", key, "unknown key"))
    assert line == f"hub.yaml:1:1: {shown}: unknown key"
    assert line.isprintable()
    line.encode()


def test_a_config_error_says_every_problem_on_a_line_of_its_own_and_keeps_them() -> None:
    problems = [Problem("hub.yaml:1:1", "a", "one"), Problem("hub.yaml:2:1", "b", "two")]
    error = ConfigError(problems)
    assert str(error).splitlines() == ["hub.yaml:1:1: a: one", "hub.yaml:2:1: b: two"]
    problems.clear()
    assert [problem.path for problem in error.problems] == ["a", "b"]


# Errors about one model.


def test_an_unknown_model_comes_with_the_nearest_name_and_all_the_others_in_order() -> None:
    error = UnknownModelError("qwen3-4", ["qwen3-4b", "alpha"])
    assert error.name == "qwen3-4"
    assert str(error) == "qwen3-4: no such model in hub.yaml; it has alpha, qwen3-4b; did you mean 'qwen3-4b'?"


def test_an_unknown_model_that_resembles_none_is_compared_with_none() -> None:
    assert str(UnknownModelError("zzz", ["alpha"])) == "zzz: no such model in hub.yaml; it has alpha"


def test_an_unknown_model_of_an_empty_hub_is_told_that_there_are_none() -> None:
    assert str(UnknownModelError("a", [])) == "a: no such model in hub.yaml; it has nothing"


def test_the_known_models_may_come_from_an_iterator() -> None:
    assert str(UnknownModelError("alph", iter(["beta", "alpha"]))).endswith(
        "; it has alpha, beta; did you mean 'alpha'?"
    )


def test_a_full_group_names_itself_its_limit_its_models_and_the_way_out() -> None:
    error = GroupFullError("c", "big", 2, ["a", "b"])
    assert (error.name, error.group, error.running) == ("c", "big", ("a", "b"))
    assert str(error) == "c: group 'big' is full (max_loaded: 2); running: a, b; stop one of them first"


def test_a_lack_of_memory_says_what_is_needed_what_there_is_the_key_and_the_way_out() -> None:
    error = MemoryShortError("big", 8_000_000_000, 3_640_000_000)
    assert (error.name, error.required, error.available) == ("big", 8_000_000_000, 3_640_000_000)
    assert str(error) == (
        "big: needs 8.0 GB of memory (memory.required) and only 3.6 GB are available;"
        " stop another model or program first, or lower it"
    )


@pytest.mark.parametrize(
    ("required", "available", "words"),
    [
        (8_000_000_000, 7_990_000_000, "needs 8000000000 bytes of memory (memory.required) and only 7990000000 bytes"),
        (1000, 0, "needs 1000 bytes of memory (memory.required) and only 0 bytes are available"),
        (8_000_000_000, 7_900_000_000, "needs 8.0 GB of memory (memory.required) and only 7.9 GB are available"),
        (8_000_000_000, 0, "and only 0.0 GB are available"),
    ],
    ids=["hardly-too-little", "hardly-anything", "a-little-too-little", "nothing-left"],
)
def test_a_lack_of_memory_never_says_that_as_much_is_there_as_is_needed(
    required: int, available: int, words: str
) -> None:
    assert words in str(MemoryShortError("a", required, available))


def test_who_catches_a_failed_launch_catches_a_lack_of_memory() -> None:
    with pytest.raises(LaunchError, match=r"^a: needs 2\.0 GB"):
        raise MemoryShortError("a", 2 * 10**9, 10**9)


@pytest.mark.parametrize("error", [ModelError, LaunchError], ids=lambda error: error.__name__)
def test_an_error_about_a_model_begins_with_its_name(error: type[ModelError]) -> None:
    raised = error("qwen3-4b", "cannot be started")
    assert raised.name == "qwen3-4b"
    assert str(raised) == "qwen3-4b: cannot be started"


@pytest.mark.parametrize("error", [HubError, HubStateError, IllegalMoveError], ids=lambda error: error.__name__)
def test_an_error_about_the_hub_says_what_it_was_told(error: type[HubError]) -> None:
    assert str(error("the hub was shut down")) == "the hub was shut down"


# Words.


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("prot", ["host", "port"], "; did you mean 'port'?"),
        ("prot", [], ""),
        ("zzz", ["host", "port"], ""),
        ("", ["host"], ""),
        ("LOG_PATH", ["log_path"], "; did you mean 'log_path'?"),
        ("qwen", ["QWEN"], "; did you mean 'QWEN'?"),
        ("log-path", ["log_path", "log_level"], "; did you mean 'log_path'?"),
    ],
    ids=["swapped", "none-known", "none-near", "empty", "in-capitals", "known-in-capitals", "hyphen"],
)
def test_the_nearest_known_word_is_offered_without_regard_to_case(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint
    assert did_you_mean(word, iter(known)) == hint


@pytest.mark.parametrize(("words", "text"), [([], "nothing"), (["a"], "a"), (["b", "a"], "b, a")], ids=str)
def test_words_are_listed_in_their_order_and_none_are_nothing(words: list[str], text: str) -> None:
    assert listed(words) == text
    assert listed(iter(words)) == text


@pytest.mark.parametrize(
    ("size", "text"), [(7_540_000_000, "7.5 GB"), (0, "0.0 GB"), (2**30, "1.1 GB"), (10**15, "1000000.0 GB")], ids=str
)
def test_memory_is_told_in_gigabytes(size: int, text: str) -> None:
    assert in_gigabytes(size) == text
