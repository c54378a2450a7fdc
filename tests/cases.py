"""Which cases of a test run always, and which only where everything runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick_first(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Mark all cases but some as exhaustive: they are slow tests, and CI runs them on one transformers line.

    Args:
        cases: Arguments for ``pytest.mark.parametrize``.
        quick: The ones that run always; all of them are among the cases.
    """
    cases = list(cases)
    assert quick, "no case is quick"
    assert all(case in cases for case in quick), (quick, cases)
    marks = (pytest.mark.slow, pytest.mark.exhaustive)
    return [case if case in quick else pytest.param(*_as_tuple(case), marks=marks) for case in cases]


def _as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
