"""A registry for each test, and candidates for it."""

from tests.support.push_fixtures import bench, loadable, real_bench, shared

__all__ = ["bench", "loadable", "real_bench", "shared"]
