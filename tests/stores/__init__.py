import pytest

pytest.register_assert_rewrite("forebay.testing.contract")
