from benchmarks.rooms import rooms


def test_rooms_are_found_by_walking_the_folder() -> None:
    assert {"engine", "memory", "migration", "startup", "wire"} <= set(rooms())
    assert "figure" not in rooms(), "it measures nothing"
