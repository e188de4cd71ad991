# SPDX-License-Identifier: MIT
"""What can go wrong with images, besides what tools.debroot says. Exit codes and hints are those of its base."""

from __future__ import annotations

from tools.debroot.errors import DebrootError


class ImageBuildError(DebrootError):
    """An image cannot be built as described."""


class WheelError(ImageBuildError):
    """A Python wheel is not what the lock or the format says."""


class AuditError(DebrootError):
    """An audit cannot be done: a file to compare with is not an image, or a build failed."""

    exit_code = 2


class BootError(DebrootError):
    """A VM did not boot, or measured something else than predicted."""
