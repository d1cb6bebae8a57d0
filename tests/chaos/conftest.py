"""A storm may take as long as it was asked to, and then some."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.timeout(2 * float(item.config.getoption("--chaos-seconds")) + 240))
