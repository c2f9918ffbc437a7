"""requirements.lock is what the other lists of requirements admit, all of it, from the public index."""

from __future__ import annotations

import re
from pathlib import Path

from packaging import requirements, utils
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def lines(name: str) -> list[str]:
    """The requirements of a file, and of those that it names by -r."""
    found: list[str] = []
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("-r "):
            found += lines(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            found.append(line)
    return found


def locked() -> dict[str, str]:
    return {utils.canonicalize_name(name): version for name, version in (line.split("==") for line in lines("requirements.lock"))}


def test_the_lock_has_exact_versions_of_the_index_alone() -> None:
    """No hashes, addresses and local versions (torch==2.13.0+cpu), which another computer could not install."""
    wrong = [line for line in lines("requirements.lock") if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert wrong == [] and len(locked()) == len(lines("requirements.lock"))


def test_the_lock_satisfies_the_requirements() -> None:
    """A new line of requirements.txt needs one in requirements.lock (make lock); tools of developers may follow later."""
    versions, needed = locked(), set(lines("requirements.txt"))
    for requirement in map(requirements.Requirement, lines("requirements-dev.txt")):
        version = versions.get(utils.canonicalize_name(requirement.name))
        if version is not None or str(requirement) in needed:
            assert version and requirement.specifier.contains(version), f"{requirement}: {version} is locked"


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    oldest = {item.name: item.specifier for item in map(requirements.Requirement, lines("requirements-oldest.txt"))}
    for requirement in map(requirements.Requirement, lines("requirements.txt")):
        (bound,) = requirement.specifier
        (exact,) = oldest[requirement.name]
        assert (bound.operator, exact.operator) == (">=", "==")
        assert Version(bound.version) == Version(exact.version), requirement
