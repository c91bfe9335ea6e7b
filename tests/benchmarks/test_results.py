"""The file of a run, the comparison of two, the plot: on made-up figures, nothing is timed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import plot
from benchmarks.compare import main, rows
from benchmarks.figure import Figure, over, with_full_names
from benchmarks.result import Result


def _result(*figures: Figure, room: str = "wire") -> Result:
    return Result.of({room: figures}, rounds=9)


def _read(value: float, spread: float = 0.0) -> Figure:
    return Figure("read", value, "times", most=1.1, low=value - spread, high=value + spread)


def test_rounds_become_medians_and_quartiles() -> None:
    (figure,) = over([[Figure("read", value, "ns", most=5)] for value in (9.0, 1.0, 2.0, 3.0, 4.0)])
    assert (figure.value, figure.spread, figure.most) == (3.0, (2.0, 4.0), 5)


def test_rounds_of_another_order_are_refused() -> None:
    reads, writes = (Figure(name, 1.0, "ns") for name in ("read", "write"))
    with pytest.raises(ValueError, match="the same order"):
        over([[reads, writes], [writes, reads]])


def test_one_round_has_no_spread() -> None:
    (figure,) = over([[Figure("read", 2.0, "ns")]])
    assert figure.spread == (2.0, 2.0)


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("read", 1.2, "times", most=1.1), True),
        (Figure("read", 1.1, "times", most=1.1), False),
        (Figure("throughput", 0.8, "times", least=0.9), True),
        (Figure("throughput", 9.0, "times", least=0.9), False),
        (Figure("read", 99.0, "ns"), False),
    ],
)
def test_target_on_the_wrong_side_is_missed(figure: Figure, missed: bool) -> None:
    assert figure.missed is missed


def test_continued_name_is_stored_whole() -> None:
    named = with_full_names(Figure(name, 1.0, "ns") for name in ("read", "  in echoes", "write", "  in echoes"))
    assert [figure.name for figure in named] == ["read", "read: in echoes", "write", "write: in echoes"]


def test_one_name_for_two_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="two figures are named 'read'"):
        with_full_names([Figure("read", 1.0, "ns"), Figure("read", 2.0, "ns")])


def test_result_is_read_back_as_it_was(tmp_path: Path) -> None:
    result = _result(_read(1.0, 0.1), Figure("write", 70.0, "ns"))
    path = result.save(tmp_path / "results")
    assert Result.load(path) == result
    assert path.name.endswith(f"-{result.commit}.json")
    assert {"processor", "processors", "kernel", "python", "load"} <= set(result.machine)


def test_change_within_the_spread_is_not_marked() -> None:
    (row,) = rows(_result(_read(1.0, 0.1)), _result(_read(1.15, 0.1)))
    assert row.change == ""
    assert row.ratio == pytest.approx(1.15)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (_read(1.0), _read(1.3), "worse"),
        (_read(1.3), _read(1.0), "better"),
        (Figure("read", 1.0, "times", least=0.9), Figure("read", 2.0, "times", least=0.9), "better"),
        (Figure("read", 1.0, "ns"), Figure("read", 2.0, "ns"), "more"),
        (Figure("read", 2.0, "ns"), Figure("read", 1.0, "ns"), "less"),
    ],
)
def test_change_beyond_the_spread_is_marked(before: Figure, after: Figure, change: str) -> None:
    (row,) = rows(_result(before), _result(after))
    assert row.change == change


def test_figure_of_one_run_is_shown_as_such() -> None:
    found = {row.room: row for row in rows(_result(_read(1.0), room="wire"), _result(_read(2.0), room="guest"))}
    assert (found["wire"].change, found["wire"].after) == ("only before", None)
    assert (found["guest"].change, found["guest"].before) == ("only after", None)


def test_compare_prints_a_table_or_json(tmp_path: Path) -> None:
    paths = [str(_result(_read(value)).save(tmp_path / str(value))) for value in (1.0, 2.0)]
    shown = CliRunner().invoke(main, paths)
    assert shown.exit_code == 0
    assert "2.00  worse" in shown.output
    (row,) = json.loads(CliRunner().invoke(main, [*paths, "--json"]).output)
    assert (row["before"], row["after"], row["change"]) == (1.0, 2.0, "worse")


@pytest.mark.parametrize("content", ["no JSON", "{}", "[]", '{"rooms": {"wire": [{"what": 1}]}}'])
def test_compare_of_another_file_says_which(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    shown = CliRunner().invoke(main, [str(path), str(path)])
    assert shown.exit_code == 2
    assert f"{path} is no result" in shown.output


def test_plot_is_an_svg_of_the_figures_with_targets(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    idle = Figure("wake-ups", 0.0, "", most=0)
    result = _result(_read(1.0, 0.1), Figure("throughput", 0.5, "times", least=0.9), idle).save(tmp_path)
    path = tmp_path / "plot.svg"
    subprocess.run([sys.executable, "-m", "benchmarks.plot", result, path], check=True)  # it keeps fonts' files open
    assert path.read_text().startswith("<?xml")


def test_plot_without_matplotlib_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "plot.svg"
    shown = CliRunner().invoke(plot.main, [str(_result(_read(1.0)).save(tmp_path)), str(path)])
    assert shown.exit_code == 1
    assert "pip install 'vfuserver[bench]'" in shown.output
    assert not path.exists()
