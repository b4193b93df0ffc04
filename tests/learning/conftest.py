"""The slow multi-seed tests run only where they are asked for: `pytest -m learning`."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("learning")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)
