"""Where the images of records are on this machine: with a store of images, the journal has their names alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.waiting import TaskReport
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.records import TaskRecord


def folder(home: Path, seam: Seam) -> ImageFolder:
    """Return the folder of images of a home, and the store behind it, whose mark the journal remembers."""
    journal = seam.journal
    return ImageFolder(home / "images", seam.store, lambda: journal.facts if journal.exists else None)


def of_records(records: Iterable[TaskRecord], images: ImageFolder) -> tuple[TaskRecord, ...]:
    """Return records with the paths that their images have on this machine, whether or not the files are there."""
    return tuple(replace(each, images=images.placed(each.images)) if each.images else each for each in records)


def of_reports(reports: Iterable[TaskReport], images: ImageFolder) -> tuple[TaskReport, ...]:
    """Return reports with such records."""
    return tuple(
        replace(each, record=of_records([each.record], images)[0], steps=of_reports(each.steps, images))
        for each in reports
    )
