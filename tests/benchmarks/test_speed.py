from benchmarks.figure import Figure
from benchmarks.speed import MARGIN, limited


def test_limit_is_wider_than_its_target() -> None:
    time, ratio = limited([Figure("read", 9.0, "ns"), Figure("  in echoes", 2.0, "times", most=1.1)])
    assert time.most is None
    assert not ratio.missed
    assert ratio.most == MARGIN * 1.1


def test_what_is_slower_than_its_limit_fails() -> None:
    (ratio,) = limited([Figure("  in echoes", 1.01 * MARGIN * 1.1, "times", most=1.1)])
    assert ratio.missed
