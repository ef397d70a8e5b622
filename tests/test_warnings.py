"""A dependency that warns about a call of this package fails the test that makes the call: early notice of what will break."""

from __future__ import annotations

import warnings

import pytest


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_a_warning_about_a_call_of_this_package_is_an_error(kind: type[Warning]) -> None:
    with pytest.raises(kind):
        warnings.warn_explicit("use another function", kind, "load.py", 1, module="qlora_fast.model.load")


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_what_dependencies_warn_each_other_about_is_theirs(kind: type[Warning]) -> None:
    warnings.warn_explicit("use another function", kind, "modeling.py", 1, module="transformers.modeling_utils")
