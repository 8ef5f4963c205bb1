"""Lets the checks that oracle tests share explain their failures. Test side."""

import pytest

pytest.register_assert_rewrite("tests.oracle.agreement", "tests.oracle.verdicts")
