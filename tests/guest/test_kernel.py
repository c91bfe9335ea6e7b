"""The kernel build's own arithmetic, and what is said when it cannot start. Nothing is built here."""

from pathlib import Path

import pytest

from tests.guest.test_obtain import program
from vfuserver.guest.errors import ObtainError
from vfuserver.guest.kernel import build_vfio_kernel, declared_options, missing_options


def test_missing_options_are_those_that_did_not_stick() -> None:
    fragment = '# comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=y\nCONFIG_NAME="x"\n'
    assert missing_options(fragment, "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_D is not set\n") == ["CONFIG_B", "CONFIG_D"]


def test_declared_options_are_those_of_all_kconfig_files(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "Kconfig").write_text("config A\n\tbool\nmenuconfig B\n# config C of a comment\n")
    (tmp_path / "drivers/Kconfig.debug").write_text("config D\n\tdepends on E\n")
    assert declared_options(tmp_path) == {"CONFIG_A", "CONFIG_B", "CONFIG_D"}


def test_build_without_its_tools_names_the_packages(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin/make", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ObtainError, match=r"without gcc, ld, flex, .*libelf-dev.*VFUSERVER_VFIO_KERNEL"):
        build_vfio_kernel()
