"""Versions of installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version"]


def package_version(package: str) -> str:
    """Version of an installed package; "unknown" for one that is not (a source checkout)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
