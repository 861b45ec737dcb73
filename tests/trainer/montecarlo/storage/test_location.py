from __future__ import annotations

from pathlib import Path

import pytest

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.location import Location


def test_a_file_url_is_the_folder_with_its_lock(tmp_path: Path) -> None:
    place = Location.of((tmp_path / "a b.zarr").as_uri())
    assert place == Location.of(tmp_path / "a b.zarr") and place.local
    lock = place.lock("train")
    lock.acquire()
    with pytest.raises(TrainerError, match="another process"):
        Location.of(tmp_path / "a b.zarr").lock("train").acquire()
    lock.release()


def test_a_file_url_of_another_machine_is_refused() -> None:
    with pytest.raises(TrainerError, match="expected a folder of this machine"):
        Location.of("file://server/data/targets.zarr")


def test_a_store_without_its_driver_names_what_to_install() -> None:
    with pytest.raises(TrainerError, match="cannot be opened"):
        Location.of("nosuch://bucket/targets.zarr").store()
