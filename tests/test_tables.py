from __future__ import annotations

from spikesearch.tables import markdown_table


def test_a_table_has_its_header_a_rule_and_a_line_per_row() -> None:
    assert markdown_table(("a", ""), [(1, "x"), [2.5, None]]) == [
        "| a |  |",
        "| --- | --- |",
        "| 1 | x |",
        "| 2.5 | None |",
    ]
    assert markdown_table(("a",), []) == ["| a |", "| --- |"]
