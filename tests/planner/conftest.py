"""Lets the checks that planner tests share explain their failures. Test side."""

import pytest

pytest.register_assert_rewrite("tests.planner.support", "tests.planner.checks")
