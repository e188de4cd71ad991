# SPDX-License-Identifier: MIT
"""TDX quotes, measurements, appraisal, task records and evidence."""
