"""The stores of tests/support/stores.py."""

from tests.support.stores import location, servers

__all__ = ["location", "servers"]
