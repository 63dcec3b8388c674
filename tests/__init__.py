import pytest

# Before anything imports it: the checks of the contract suite are asserts.
pytest.register_assert_rewrite("forebay.testing.contract")
