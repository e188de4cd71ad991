# SPDX-License-Identifier: MIT
"""What can go wrong with images, besides what tools.debroot says. Exit codes and hints are those of its base."""

from __future__ import annotations

from tools.debroot.errors import DebrootError


class ImageBuildError(DebrootError):
    """An image cannot be built as described."""


class WheelError(ImageBuildError):
    """A Python wheel is not what the lock or the format says."""


class PinError(ImageBuildError):
    """An image differs from its pinned values."""
